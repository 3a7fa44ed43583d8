//! The Tasker worker runtime: claim tickets, run handlers, report.
//!
//! Two channels: claims come in bounded by the free slots, reports go out in batches. A handler is anything
//! that implements [`StepHandler`], closures included.

mod announce;
mod attempt;
mod batches;
pub mod boundary;
mod checkpoints;
mod complete_in;
mod completion;
mod dispatch;
mod encode;
mod events;
mod field;
mod handler;
mod heartbeat;
mod held;
mod inputs;
mod mapped;
mod outage;
mod plans;
mod registry;
pub mod testkit;
mod turns;
mod worker;

/// What an implementation of [`StepHandler`] is marked with.
pub use async_trait::async_trait;
pub use batches::{Batch, BatchFailure, Batches, Cursor};
pub use checkpoints::Checkpoint;
pub use handler::{StepContext, StepError, StepHandler, StepOutcome};
pub use registry::HandlerRegistry;
/// The database client whose connections and pools handlers complete their steps with.
pub use sqlx;
pub use tasker_shared::events::{DomainEvent, EventOutcome};
pub use worker::{RunningWorker, Server, Status, StatusHandle, Worker, WorkerBuilder};
