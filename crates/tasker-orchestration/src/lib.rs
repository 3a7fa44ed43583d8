//! The Tasker server: four actors that decide, and the HTTP API.
//!
//! A result passes five rooms: report → inbox → actor → decide → apply. The actors share one body
//! ([`actor`]); everything that a batch changes goes through [`advance`].

mod actor;
mod advance;
mod breaker;
mod engine;
mod enqueuer;
mod errors;
mod explain;
mod finalizer;
pub mod http;
mod repair;
mod requests;
mod results;
mod session;
mod submit;
mod submitted;
mod uses;
mod watch;

pub use engine::{Engine, Health, Running};
pub use errors::{CommandError, CreateError, StartError, Violation};
pub use requests::Created;
pub use submit::schema_problems;
pub use watch::{Watch, Watcher};
