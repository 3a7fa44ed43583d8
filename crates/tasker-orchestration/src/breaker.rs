//! The circuit breaker of the database, and so of the queues, which are in it: while nothing is answered, requests are
//! refused at once instead of waiting for a connection each. The actors try on; the first one that is answered closes it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tasker_shared::telemetry::Metrics;

/// A restart or one lost connection is over before that.
const OPENS_AFTER: Duration = Duration::from_secs(1);

/// Whether the database answers, as far as this process has seen.
#[derive(Debug, Default)]
pub(crate) struct DatabaseBreaker {
    failing_since: Mutex<Option<Instant>>,
}

impl DatabaseBreaker {
    /// A transaction failed in a way that may pass.
    pub(crate) fn failed(&self, now: Instant) {
        self.failing_since.lock().expect("no panic while held").get_or_insert(now);
    }

    /// A transaction was committed.
    pub(crate) fn answered(&self) {
        *self.failing_since.lock().expect("no panic while held") = None;
    }

    /// Whether nothing was answered for so long that asking is in vain.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        let failing_since = *self.failing_since.lock().expect("no panic while held");
        failing_since.is_some_and(|since| now.saturating_duration_since(since) >= OPENS_AFTER)
    }

    /// Shows the state at the moment of the reading.
    pub(crate) fn show(&self, metrics: &Metrics) {
        metrics.database_breaker_open.set(i64::from(self.is_open(Instant::now())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_a_second_without_an_answer_and_closes_with_the_first() {
        let (breaker, start) = (DatabaseBreaker::default(), Instant::now());
        let ms = Duration::from_millis;
        assert!(!breaker.is_open(start + ms(5_000)));
        breaker.failed(start);
        breaker.failed(start + ms(900));
        assert_eq!([ms(0), ms(999), ms(1_000)].map(|after| breaker.is_open(start + after)), [false, false, true]);
        breaker.answered();
        assert!(!breaker.is_open(start + ms(5_000)));
    }
}
