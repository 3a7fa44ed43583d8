//! What many steps share (`uses`): how many of them may have a ticket at once, and a circuit breaker that keeps steps
//! from failing one after the other while the resource does.
//!
//! Closed, it lets through what its limit allows. After so many failures in a row it opens, and nothing is let through
//! for a while that doubles with every time. Then one step is let through as a probe. If that succeeds, each further
//! success lets one more through, until the resource has all its room again; a failure opens it once more.
//! (The circuit breaker is M. Nygard's, *Release It!*; the way back is the slow start of TCP, RFC 5681.)

use crate::event::Outcome;
use crate::ids::Timestamp;

/// A half-open resource that bears this many at once is well, where it has no limit.
const WELL: u32 = 64;
/// Doublings beyond this make no difference.
const MAX_DOUBLINGS: u32 = 16;

/// A resource as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The most steps that may have a ticket at once; any number where there is none.
    pub max_in_flight: Option<u32>,
    /// So many failures in a row open the breaker; 0 leaves it closed for ever.
    pub failures_to_open: u32,
    /// How long it stays open at first, in milliseconds.
    pub open_ms: u32,
    /// The longest that it stays open, in milliseconds.
    pub max_open_ms: u32,
    /// An operator lets nothing through.
    pub paused: bool,
    /// Whether it works.
    pub breaker: Breaker,
}

/// The state of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// It works.
    Closed {
        /// Failures since the last success.
        failures: u32,
    },
    /// It does not, and nothing is let through.
    Open {
        /// When a probe may be let through.
        until: Timestamp,
        /// How many times in a row it has opened, from 1.
        times: u32,
    },
    /// It is being tried.
    HalfOpen {
        /// How many may have a ticket at once.
        allowed: u32,
        /// How many times in a row it has opened.
        times: u32,
    },
}

/// What an attempt of a step says of a resource that it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It did its part.
    Success,
    /// The attempt failed in a way that may pass.
    Failure,
    /// The attempt failed for good, or was never made: that is the step's own trouble.
    Neither,
}

impl Seen {
    /// What an outcome says.
    #[must_use]
    pub const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Success(_) => Self::Success,
            Outcome::Failure { retryable: true, .. } => Self::Failure,
            Outcome::Failure { retryable: false, .. } | Outcome::LeaseLost => Self::Neither,
        }
    }
}

impl Breaker {
    /// What it is called in SQL and HTTP.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }
}

impl Resource {
    /// How many more steps may have a ticket at `now`, where `in_flight` of them have one.
    #[must_use]
    pub fn room(&self, in_flight: u32, now: Timestamp) -> u32 {
        let allowed = match self.breaker {
            _ if self.paused => 0,
            Breaker::Closed { .. } => u32::MAX,
            Breaker::Open { until, .. } => u32::from(until <= now),
            Breaker::HalfOpen { allowed, .. } => allowed,
        };
        allowed.min(self.max_in_flight.unwrap_or(u32::MAX)).saturating_sub(in_flight)
    }

    /// In how many milliseconds a probe may be let through; none where it does not wait for that.
    #[must_use]
    pub fn opens_in(&self, now: Timestamp) -> Option<u64> {
        match self.breaker {
            // Rounded up: a look before its time would find nothing.
            Breaker::Open { until, .. } if until > now && !self.paused => {
                u64::try_from(until.0 - now.0).ok().map(|us| us.div_ceil(1000))
            }
            Breaker::Open { .. } | Breaker::Closed { .. } | Breaker::HalfOpen { .. } => None,
        }
    }

    /// A step was let through: the first one after the breaker was open is its probe.
    pub fn let_through(&mut self) {
        if let Breaker::Open { times, .. } = self.breaker {
            self.breaker = Breaker::HalfOpen { allowed: 1, times };
        }
    }

    /// An attempt that used it has ended. Answers whether the breaker opened.
    pub fn observe(&mut self, seen: Seen, now: Timestamp) -> bool {
        match (self.breaker, seen) {
            (Breaker::Closed { .. }, Seen::Success) => self.breaker = Breaker::Closed { failures: 0 },
            (Breaker::Closed { failures }, Seen::Failure) => {
                let failures = failures.saturating_add(1);
                self.breaker = Breaker::Closed { failures };
                if self.failures_to_open > 0 && failures >= self.failures_to_open {
                    return self.open(1, now);
                }
            }
            (Breaker::HalfOpen { times, .. }, Seen::Failure) => return self.open(times.saturating_add(1), now),
            // What fails for good was answered: the resource is there.
            (Breaker::HalfOpen { allowed, times }, Seen::Success | Seen::Neither) => {
                let allowed = allowed.saturating_add(1);
                let well = allowed >= self.max_in_flight.unwrap_or(WELL).min(WELL);
                self.breaker =
                    if well { Breaker::Closed { failures: 0 } } else { Breaker::HalfOpen { allowed, times } };
            }
            // What ends while it is open began before: that says nothing new.
            (Breaker::Open { .. }, _) | (Breaker::Closed { .. }, Seen::Neither) => {}
        }
        false
    }

    fn open(&mut self, times: u32, now: Timestamp) -> bool {
        let ms = u64::from(self.open_ms) << (times - 1).min(MAX_DOUBLINGS);
        let ms = ms.min(u64::from(self.max_open_ms.max(self.open_ms)));
        self.breaker = Breaker::Open { until: now.plus_ms(ms), times };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_000_000);

    fn resource(max_in_flight: Option<u32>) -> Resource {
        let breaker = Breaker::Closed { failures: 0 };
        Resource { max_in_flight, failures_to_open: 3, open_ms: 100, max_open_ms: 350, paused: false, breaker }
    }

    fn open_until(resource: &Resource) -> Timestamp {
        let Breaker::Open { until, .. } = resource.breaker else { panic!("{resource:?} is not open") };
        until
    }

    fn fail(resource: &mut Resource, times: u32) {
        for _ in 0..times {
            resource.observe(Seen::Failure, T0);
        }
    }

    #[test]
    fn a_limit_leaves_room_for_what_is_missing_to_it() {
        assert_eq!([0, 3, 5, 9].map(|in_flight| resource(Some(5)).room(in_flight, T0)), [5, 2, 0, 0]);
        assert_eq!(resource(None).room(1_000, T0), u32::MAX - 1_000);
        let paused = Resource { paused: true, ..resource(Some(5)) };
        assert_eq!(paused.room(0, T0), 0);
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut it = resource(Some(5));
        for seen in [Seen::Failure, Seen::Failure, Seen::Success, Seen::Failure, Seen::Neither, Seen::Failure] {
            assert!(!it.observe(seen, T0), "{seen:?}");
        }
        assert!(it.observe(Seen::Failure, T0));
        assert_eq!(it.breaker, Breaker::Open { until: T0.plus_ms(100), times: 1 });
        assert_eq!([it.room(0, T0), it.room(0, T0.plus_ms(99)), it.room(0, T0.plus_ms(100))], [0, 0, 1]);
        assert_eq!(it.room(1, T0.plus_ms(100)), 0, "what is still on its way is the probe");
        let mut never = Resource { failures_to_open: 0, ..resource(None) };
        assert!((0..1_000).all(|_| !never.observe(Seen::Failure, T0)));
    }

    #[test]
    fn what_ends_while_it_is_open_says_nothing_new() {
        let mut it = resource(None);
        fail(&mut it, 3);
        for seen in [Seen::Success, Seen::Failure, Seen::Neither] {
            assert!(!it.observe(seen, T0.plus_ms(50)));
        }
        assert_eq!(open_until(&it), T0.plus_ms(100));
    }

    #[test]
    fn a_probe_that_fails_opens_it_for_twice_as_long_up_to_the_longest() {
        let mut it = resource(None);
        fail(&mut it, 3);
        let mut waits = Vec::new();
        for _ in 0..4 {
            let now = open_until(&it);
            it.let_through();
            assert_eq!([it.room(0, now), it.room(1, now)], [1, 0]);
            assert!(it.observe(Seen::Failure, now));
            waits.push(open_until(&it).0 - now.0);
        }
        assert_eq!(waits, [200_000, 350_000, 350_000, 350_000]);
    }

    #[test]
    fn after_a_probe_that_succeeds_each_success_lets_one_more_through() {
        for (limit, successes) in [(Some(5), 4), (Some(1), 1), (None, 63), (Some(1_000), 63)] {
            let mut it = resource(limit);
            fail(&mut it, 3);
            it.let_through();
            for success in 1..successes {
                assert!(!it.observe(if success % 2 == 0 { Seen::Neither } else { Seen::Success }, T0));
                assert_eq!(it.room(0, T0), success + 1);
            }
            it.observe(Seen::Success, T0);
            assert_eq!(it.breaker, Breaker::Closed { failures: 0 }, "{limit:?}");
        }
    }
}
