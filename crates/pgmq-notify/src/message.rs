//! What travels: messages, the tokens of their claims, and what became of them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::QueueName;

/// The fence of a claim: a write that names it happens only while the claim is the message's latest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    /// The message's queue.
    pub queue: QueueName,
    /// The message's id, unique in its queue.
    pub msg_id: i64,
    /// How often the message had been claimed, this claim included.
    pub read_ct: i32,
    /// The field `nonce` of the message's body.
    pub nonce: Uuid,
}

/// A message that was claimed by [`read`](crate::read).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The queue it came from.
    pub queue: QueueName,
    /// Its id, unique in its queue.
    pub msg_id: i64,
    /// How often it was claimed, this claim included.
    pub read_ct: i32,
    /// When it was sent, by the database's clock.
    pub enqueued_at: DateTime<Utc>,
    /// When the lease ends, by the database's clock.
    pub vt: DateTime<Utc>,
    /// JSON.
    pub body: String,
}

impl Message {
    /// The token of this claim; the nonce is what the caller found in the body.
    #[must_use]
    pub fn token(&self, nonce: Uuid) -> Token {
        Token { queue: self.queue.clone(), msg_id: self.msg_id, read_ct: self.read_ct, nonce }
    }
}

/// A message that was taken out of its queue by [`pop`](crate::pop).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Popped {
    /// Its id, unique in its queue.
    pub msg_id: i64,
    /// How often it was claimed before.
    pub read_ct: i32,
    /// When it was sent, by the database's clock.
    pub enqueued_at: DateTime<Utc>,
    /// JSON.
    pub body: String,
}

/// A message to send. Its id comes from [`IdBlocks`](crate::IdBlocks) or [`reserve_ids`](crate::reserve_ids).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub queue: QueueName,
    /// A reserved id of that queue.
    pub msg_id: i64,
    /// JSON; with a field `nonce` (UUID) if the message is ever to be fenced, and a whole number `base_attempt` if it is
    /// ever to be released.
    pub body: String,
    /// How long it stays hidden.
    pub delay: Duration,
    /// 0, or 1 for a message that its sender claims by sending it.
    pub read_ct: i32,
}

impl Outgoing {
    /// A message that anyone may claim at once.
    #[must_use]
    pub fn new(queue: QueueName, msg_id: i64, body: String) -> Self {
        Self { queue, msg_id, body, delay: Duration::ZERO, read_ct: 0 }
    }

    /// The same message, visible only after a delay.
    #[must_use]
    pub fn delayed(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// The same message, claimed by its sender for the time of a lease.
    #[must_use]
    pub fn claimed(self, lease: Duration) -> Self {
        Self { delay: lease, read_ct: 1, ..self }
    }
}

/// What became of the lease of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extension {
    /// The lease was extended.
    Extended,
    /// The token is not the current one any more: stop working on the message.
    Lost,
    /// Someone had the message locked at this moment, the token being current: not extended, not lost, ask again.
    Skipped,
}

/// How much waits in a queue. Counts stop at 10,000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depth {
    /// The queue.
    pub queue: QueueName,
    /// Messages that could be claimed now.
    pub visible: u64,
    /// Messages under a lease or a delay.
    pub hidden: u64,
    /// Since when the first visible message could have been claimed; none if none is visible.
    pub oldest: Option<Duration>,
}
