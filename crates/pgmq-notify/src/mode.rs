//! How a process learns that a queue has work.

use std::time::Duration;

/// How a process learns that a queue has work. It changes only latency and cost, never what is correct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    /// By asking. Opens no LISTEN connection and sends no NOTIFY; works behind any connection pooler.
    PollingOnly,
    /// By LISTEN/NOTIFY, and by asking once a minute: a notification that got lost costs up to that minute.
    EventDrivenOnly,
    /// By LISTEN/NOTIFY, and by asking at the poll interval.
    #[default]
    Hybrid,
}

impl Mode {
    /// How often a process asks that otherwise relies on notifications. Long enough to cost nothing, short enough that
    /// a lost notification is not a lost message.
    pub const SAFETY_POLL: Duration = Duration::from_secs(60);

    /// Whether this mode uses LISTEN and NOTIFY.
    #[must_use]
    pub fn notifies(self) -> bool {
        self != Self::PollingOnly
    }
}

/// How long to sleep between two looks at a queue: doubles from `min` to `max` while nothing is found. Holds no clock;
/// the caller sleeps, or better, waits for a wake-up that long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollTimer {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl PollTimer {
    /// # Panics
    /// If `min` is zero or longer than `max`.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        assert!(!min.is_zero() && min <= max, "a poll timer needs 0 < min <= max, not {min:?} and {max:?}");
        Self { min, max, next: min }
    }

    /// The timer of a mode: `min` and `max` hold where polling is a way to find work, and [`Mode::SAFETY_POLL`] where
    /// it is only the safety net.
    ///
    /// # Panics
    /// If `min` is zero or longer than `max`.
    #[must_use]
    pub fn for_mode(mode: Mode, min: Duration, max: Duration) -> Self {
        match mode {
            Mode::PollingOnly | Mode::Hybrid => Self::new(min, max),
            Mode::EventDrivenOnly => Self::new(Mode::SAFETY_POLL, Mode::SAFETY_POLL),
        }
    }

    /// Work was found: the next pause is the shortest again.
    pub fn found(&mut self) {
        self.next = self.min;
    }

    /// Nothing was found: how long to pause now. The next pause will be twice as long.
    pub fn idle(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_start_again_when_work_is_found() {
        let mut timer = PollTimer::new(ms(10), ms(50));
        assert_eq!(
            [timer.idle(), timer.idle(), timer.idle(), timer.idle(), timer.idle()].map(|p| p.as_millis()),
            [10, 20, 40, 50, 50]
        );
        timer.found();
        assert_eq!([timer.idle(), timer.idle()], [ms(10), ms(20)]);
    }

    #[test]
    fn without_polling_only_the_safety_poll_remains() {
        let mut timer = PollTimer::for_mode(Mode::EventDrivenOnly, ms(10), ms(50));
        assert_eq!([timer.idle(), timer.idle()], [Mode::SAFETY_POLL; 2]);
        for mode in [Mode::PollingOnly, Mode::Hybrid] {
            assert_eq!(PollTimer::for_mode(mode, ms(10), ms(50)), PollTimer::new(ms(10), ms(50)));
        }
    }

    #[test]
    #[should_panic(expected = "0 < min <= max")]
    fn a_pause_of_nothing_is_refused() {
        drop(PollTimer::new(Duration::ZERO, ms(1)));
    }

    #[test]
    fn modes_are_spelled_as_in_the_configuration() {
        for (mode, text) in [
            (Mode::PollingOnly, "\"PollingOnly\""),
            (Mode::EventDrivenOnly, "\"EventDrivenOnly\""),
            (Mode::Hybrid, "\"Hybrid\""),
        ] {
            assert_eq!(serde_json::to_string(&mode).ok().as_deref(), Some(text));
        }
    }
}
