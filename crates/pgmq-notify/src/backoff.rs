//! Pauses between attempts to reach a database that is away.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(50);
/// A database that is back is noticed within this time.
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses that double, each cut to a random length between its half and its whole: processes that lost the same
/// database must not all come back at the same moment.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Whether this is the first failure since the last reset: an outage is worth one line.
    pub(crate) fn is_first(&self) -> bool {
        self.failures == 0
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = SHORTEST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures += 1;
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_never_exceed_it() {
        let mut backoff = Backoff::default();
        for doubled in [1, 2, 4, 8, 16, 32, 64] {
            let pause = backoff.next();
            assert!(pause >= SHORTEST * doubled / 2 && pause <= SHORTEST * doubled, "{pause:?}");
        }
        for _ in 0..100 {
            let pause = backoff.next();
            assert!(pause >= LONGEST / 2 && pause <= LONGEST, "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= SHORTEST);
    }
}
