//! The pure core of Tasker: ids, DAG, templates, states, [`decide`] and [`evolve`].
//!
//! Plain values in, plain values out. There is deliberately no IO here, no clock, no randomness and no
//! logging: time is an argument, jitter is seeded, and what happened is told by the returned values.

mod batches;
mod branches;
pub mod dag;
mod decide;
mod event;
pub mod ids;
pub mod resource;
pub mod retry;
mod shape;
mod state;
mod task;
pub mod template;

pub use batches::{Batch, Expand, Expansion};
pub use decide::{MAX_TICKET_DELAY_MS, decide, evolve};
pub use event::{
    Cause, DeadLetterReason, Decision, Effect, Event, Follows, Outcome, Refused, Transition, passing_states,
};
pub use ids::{Nonce, StepId, StepIndex, TaskId, Timestamp};
pub use shape::Shape;
pub use state::{StepState, TaskState, UnknownState};
pub use task::{CorruptTask, Holder, Live, StoredTask, Task, TicketRef};
