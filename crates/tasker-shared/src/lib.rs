//! What server and worker share: configuration, the store, messages, telemetry, embedded PostgreSQL.

pub mod config;
pub mod crash_point;
pub mod embedded;
pub mod events;
pub mod follows;
pub mod json_schema;
pub mod local;
pub mod messages;
pub mod payloads;
pub mod portable;
pub mod signals;
pub mod store;
pub mod telemetry;
#[doc(hidden)]
pub mod testing;
