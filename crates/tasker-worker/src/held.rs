//! The claims that this worker holds, from the claim to the verdict on its report.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgmq_notify::Token;
use tasker_lifecycle::Timestamp;
use tasker_shared::events::Published;
use tasker_shared::messages::Claim;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::events::Publication;

/// Tells claims apart: a worker may lose a ticket and claim the same one again, as its next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(Uuid, i32);

impl Key {
    pub(crate) fn of(token: &Token) -> Self {
        Self(token.nonce, token.read_ct)
    }
}

/// All of them. Whoever ends an attempt reports it, and nobody else does.
#[derive(Debug, Default)]
pub(crate) struct Held {
    claims: Mutex<HashMap<Key, Holding>>,
}

#[derive(Debug)]
struct Holding {
    claim: Claim,
    clock: Clock,
    /// When the lease was last known to have its whole length.
    fresh: Instant,
    running: Option<Running>,
    ended: bool,
    /// Its outcome may have been stored by a transaction of its handler's, with these events.
    may_be_stored: Option<Vec<Published>>,
    /// What its outcome will publish.
    publication: Option<Arc<Publication>>,
    lost: bool,
    cancelled: CancellationToken,
}

/// When a running attempt began and must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    pub(crate) started: Instant,
    pub(crate) deadline: Instant,
}

/// The database's clock, told by this process's monotonic one from the moment of a claim on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) claimed_at: Timestamp,
    pub(crate) claimed: Instant,
}

impl Clock {
    /// The database's time at a moment of ours.
    pub(crate) fn at(&self, moment: Instant) -> Timestamp {
        let elapsed = moment.saturating_duration_since(self.claimed).as_micros();
        Timestamp(self.claimed_at.0.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX)))
    }
}

/// An attempt that did not end in time although its future is to be dropped: it blocks its thread.
#[derive(Debug)]
pub(crate) struct Overdue {
    pub(crate) claim: Claim,
    pub(crate) clock: Clock,
    pub(crate) running: Running,
    pub(crate) publication: Option<Arc<Publication>>,
}

impl Held {
    /// A claim was made; the answered token tells its handler to stop.
    pub(crate) fn take(&self, claim: &Claim, claimed: Instant) -> CancellationToken {
        let cancelled = CancellationToken::new();
        let holding = Holding {
            claim: claim.clone(),
            clock: Clock { claimed_at: claim.claimed_at, claimed },
            fresh: claimed,
            running: None,
            ended: false,
            may_be_stored: None,
            publication: None,
            lost: false,
            cancelled: cancelled.clone(),
        };
        self.lock().insert(Key::of(&claim.token), holding);
        cancelled
    }

    /// Its handler runs.
    pub(crate) fn run(&self, key: Key, running: Running) {
        if let Some(holding) = self.lock().get_mut(&key) {
            holding.running = Some(running);
        }
    }

    /// Its attempt is over; answers whether the caller is the one to report it.
    pub(crate) fn end(&self, key: Key) -> bool {
        self.lock().get_mut(&key).is_some_and(|holding| !std::mem::replace(&mut holding.ended, true))
    }

    /// Its outcome may have been stored by a transaction of its handler's, with these events.
    pub(crate) fn may_be_stored(&self, key: Key, events: Vec<Published>) {
        if let Some(holding) = self.lock().get_mut(&key) {
            holding.may_be_stored = Some(events);
        }
    }

    /// The events, if that was said of it.
    pub(crate) fn maybe_stored(&self, key: Key) -> Option<Vec<Published>> {
        self.lock().get_mut(&key)?.may_be_stored.take()
    }

    /// Its outcome publishes something.
    pub(crate) fn publishes(&self, key: Key, publication: Arc<Publication>) {
        if let Some(holding) = self.lock().get_mut(&key) {
            holding.publication = Some(publication);
        }
    }

    /// What its outcome publishes.
    pub(crate) fn publication(&self, key: Key) -> Option<Arc<Publication>> {
        self.lock().get(&key)?.publication.clone()
    }

    /// Nothing is to be done about it any more.
    pub(crate) fn forget(&self, key: Key) {
        self.lock().remove(&key);
    }

    /// The claims whose lease is to be extended: not those that are younger than `age`. One whose report still waits
    /// to be written is among them.
    pub(crate) fn due(&self, now: Instant, age: Duration) -> Vec<Token> {
        let held = self.lock();
        let due = held.values().filter(|holding| !holding.lost && now.saturating_duration_since(holding.fresh) >= age);
        due.map(|holding| holding.claim.token.clone()).collect()
    }

    /// The lease was extended at a moment not before `at`.
    pub(crate) fn extended(&self, key: Key, at: Instant) {
        if let Some(holding) = self.lock().get_mut(&key) {
            holding.fresh = at;
        }
    }

    /// The claim is no longer current. Tells its handler; answers whether there was one that still ran, because a
    /// ticket that is gone after the report is only good news.
    pub(crate) fn lost(&self, key: Key) -> bool {
        let mut held = self.lock();
        let Some(holding) = held.get_mut(&key) else { return false };
        holding.lost = true;
        holding.cancelled.cancel();
        !holding.ended
    }

    /// Ends the attempts whose deadline lies more than `margin` back and answers them.
    pub(crate) fn overdue(&self, now: Instant, margin: Duration) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        for holding in self.lock().values_mut().filter(|holding| !holding.ended) {
            let Some(running) = holding.running.filter(|running| now > running.deadline + margin) else { continue };
            holding.ended = true;
            holding.cancelled.cancel();
            let (claim, publication) = (holding.claim.clone(), holding.publication.clone());
            overdue.push(Overdue { claim, clock: holding.clock, running, publication });
        }
        overdue
    }

    /// Tells every handler to stop; answers how many attempts had not ended.
    pub(crate) fn cancel_all(&self) -> usize {
        let held = self.lock();
        let running = held.values().filter(|holding| !holding.ended);
        running.map(|holding| holding.cancelled.cancel()).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Holding>> {
        self.claims.lock().expect("no panic while held")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use pgmq_notify::QueueName;
    use tasker_lifecycle::{StepIndex, TaskId};

    use super::*;

    fn claim(read_ct: i32) -> Claim {
        Claim {
            token: Token { queue: QueueName::new("q").unwrap(), msg_id: 1, read_ct, nonce: Uuid::nil() },
            task: TaskId::new(1, 1),
            step: StepIndex(0),
            correlation_id: Uuid::nil(),
            base_attempt: 0,
            attempt: read_ct.unsigned_abs(),
            claimed_at: Timestamp(1_000_000),
        }
    }

    #[test]
    fn the_same_ticket_claimed_again_is_another_claim() {
        let (held, now) = (Held::default(), Instant::now());
        let (first, second) = (claim(1), claim(2));
        let lost = held.take(&first, now);
        let current = held.take(&second, now);
        assert!(held.lost(Key::of(&first.token)));
        assert_eq!((lost.is_cancelled(), current.is_cancelled()), (true, false));
        assert_eq!(held.due(now, Duration::ZERO), [second.token]);
    }

    #[test]
    fn an_attempt_is_ended_by_one_only() {
        let (held, now) = (Held::default(), Instant::now());
        let key = Key::of(&claim(1).token);
        held.take(&claim(1), now);
        held.run(key, Running { started: now, deadline: now });
        let later = now + Duration::from_millis(10);
        assert!(held.overdue(later, Duration::from_millis(10)).is_empty());
        assert_eq!(held.overdue(later, Duration::from_millis(9)).len(), 1);
        assert!(held.overdue(later, Duration::ZERO).is_empty());
        assert!(!held.end(key));
        assert_eq!(held.due(later, Duration::ZERO).len(), 1, "until its report is written");
        assert!(!held.lost(key) && held.due(later, Duration::ZERO).is_empty());
    }

    #[test]
    fn a_young_lease_is_not_extended() {
        let (held, now) = (Held::default(), Instant::now());
        held.take(&claim(1), now);
        let age = Duration::from_secs(1);
        assert!(held.due(now, age).is_empty());
        assert_eq!(held.due(now + age, age).len(), 1);
        held.extended(Key::of(&claim(1).token), now + age);
        assert!(held.due(now + age, age).is_empty());
    }
}
