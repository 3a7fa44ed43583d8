//! pgmq-notify on a real server. Its tests are here because it knows nothing of ours, and so not of the test databases.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fence;
mod install;
mod parts;
mod queue;
mod support;
mod wakeups;
