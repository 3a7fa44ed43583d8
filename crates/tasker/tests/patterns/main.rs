//! Every pattern end to end: a server and a worker beside each other on real PostgreSQL, and on separate paths.
#![allow(clippy::unwrap_used, reason = "tests")]

mod batches;
mod bench;
mod checkpoints;
mod decisions;
mod demo;
mod events;
mod handlers;
mod lifecycles;
mod resources;
