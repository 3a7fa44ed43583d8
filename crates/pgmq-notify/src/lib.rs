//! PGMQ and LISTEN/NOTIFY on PostgreSQL: install, fenced batches, wake-ups.
//!
//! Queues are PGMQ's tables. What this crate adds is the *fence*: each write to a claimed message names the claim's
//! whole token ([`Token`]) and says which tokens matched, so that a claimer that was paused past its lease can't touch
//! the next one's message. All operations work on many messages over many queues at once and on a connection of the
//! caller's, so that messages commit with the state they speak of.
//!
//! *Wake-ups* are hints without content: [`Notifier`] sends them after a commit, [`Wakeups`] receives them, and a
//! [`PollTimer`] backs them, because a notification may be lost.
//!
//! Deliberately absent: any idea of what a message means; triggers; a thread or task that this crate starts itself.

mod backoff;
mod error;
mod ids;
mod install;
mod message;
mod mode;
mod names;
mod notifier;
mod queue;
mod wakeups;

pub use error::Error;
pub use ids::IdBlocks;
pub use install::{Installed, Pgmq, install};
pub use message::{Depth, Extension, Message, Outgoing, Popped, Token};
pub use mode::{Mode, PollTimer};
pub use names::{Channel, QueueName};
pub use notifier::Notifier;
pub use queue::{
    archive, clamp_vt, create_queues, delete_any, delete_fenced, delete_unclaimed, depth, extend_fenced, next_vt_ms,
    pop, read, release_fenced, reserve_ids, send,
};
pub use wakeups::{Wake, Wakeups, Woken};
