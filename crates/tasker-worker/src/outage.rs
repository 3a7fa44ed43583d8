//! What a worker does about a database that is away: wait with jitter, and let holders keep their claims.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tasker_shared::store::StoreError;

/// Whether the database is away, as far as this worker has noticed.
///
/// After an outage that outlasted a heartbeat, leases may have ended whose holders are alive. They report and
/// extend at once; nobody claims for the time of one heartbeat, so that work is not begun twice for nothing.
#[derive(Debug)]
pub(crate) struct Outage {
    heartbeat: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    since: Option<Instant>,
    claim_from: Option<Instant>,
}

impl Outage {
    pub(crate) fn new(heartbeat: Duration) -> Self {
        Self { heartbeat, seen: Mutex::default() }
    }

    /// The database did not answer.
    pub(crate) fn failed(&self, now: Instant) {
        self.seen.lock().expect("no panic while held").since.get_or_insert(now);
    }

    /// The database answered.
    pub(crate) fn answered(&self, now: Instant) {
        let mut seen = self.seen.lock().expect("no panic while held");
        if seen.since.take().is_some_and(|since| now - since > self.heartbeat) {
            seen.claim_from = Some(now + self.heartbeat);
        }
    }

    /// How long no ticket is to be claimed yet.
    pub(crate) fn claims_wait(&self, now: Instant) -> Option<Duration> {
        let from = self.seen.lock().expect("no panic while held").claim_from?;
        from.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Whether a first sign of life is awaited.
    pub(crate) fn lasts(&self) -> bool {
        self.seen.lock().expect("no panic while held").since.is_some()
    }
}

/// Growing, jittered waits between tries.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    tries: u32,
}

impl Pause {
    const FIRST_MS: u64 = 5;
    const LONGEST_MS: u64 = 1000;
    /// A deadlock or one lost connection is normal; what lasts is worth a line, once.
    const TELLING: u32 = 4;

    /// How long to wait after this error.
    pub(crate) fn next(&mut self, error: &StoreError, doing: &'static str) -> Duration {
        let longest = (Self::FIRST_MS << self.tries.min(8)).min(Self::LONGEST_MS);
        self.tries += 1;
        if self.tries == Self::TELLING {
            tracing::warn!(doing, %error, "the database refuses again and again; trying on");
        }
        Duration::from_millis(longest / 2 + rand::random::<u64>() % (longest / 2 + 1))
    }

    /// It worked.
    pub(crate) fn reset(&mut self, doing: &'static str) {
        if std::mem::take(&mut self.tries) >= Self::TELLING {
            tracing::info!(doing, "the database answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_outage_longer_than_a_heartbeat_holds_claims_back() {
        let second = Duration::from_secs(1);
        let outage = Outage::new(5 * second);
        let start = Instant::now();
        outage.failed(start);
        outage.failed(start + 4 * second);
        assert!(outage.lasts());
        outage.answered(start + 5 * second);
        assert_eq!((outage.lasts(), outage.claims_wait(start + 5 * second)), (false, None));
        outage.failed(start + 10 * second);
        outage.answered(start + 16 * second);
        assert_eq!(outage.claims_wait(start + 17 * second), Some(4 * second));
        assert_eq!(outage.claims_wait(start + 21 * second), None);
    }
}
