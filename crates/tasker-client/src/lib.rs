//! The HTTP contract of Tasker: request and response types, the client (for other languages [`calls`]), and the drawing
//! of task graphs.
//!
//! The server answers with these types and the client reads them, so the two cannot drift apart. Deliberately absent: SQL,
//! state that outlives a call (but the connection pool), and any decision about tasks.

pub mod calls;
pub mod client;
pub mod graph;
pub mod types;

pub use client::{Client, ClientError, Waited};
pub use graph::{Graph, GraphFormat};
