//! The twelve states of a task and the nine states of a step. Two letters more stand for steps of the template that are
//! not steps of the task: those that a decision may still create, and those that none will.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A state's name or letter that is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a state")]
pub struct UnknownState(pub String);

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $letter:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every state, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name used in SQL, HTTP and the languages.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The one-letter form used in compact columns.
            #[must_use]
            pub const fn letter(self) -> char {
                match self { $(Self::$variant => $letter,)+ }
            }

            /// The state with this letter.
            ///
            /// # Errors
            /// Where no state has it.
            pub fn from_letter(letter: char) -> Result<Self, UnknownState> {
                match letter { $($letter => Ok(Self::$variant),)+ _ => Err(UnknownState(letter.to_string())) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownState;

            fn from_str(text: &str) -> Result<Self, UnknownState> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err(UnknownState(text.to_owned())) }
            }
        }
    };
}

states! {
    /// The state of a task; at rest it is computed from its steps (`Task::state`).
    TaskState {
        /// Requested, nothing done yet.
        Pending = 'P' "pending",
        /// Passing: its steps are being created.
        Initializing = 'I' "initializing",
        /// Passing: its ready steps are being enqueued.
        EnqueuingSteps = 'N' "enqueuing_steps",
        /// Some step is enqueued or in progress.
        StepsInProcess = 'S' "steps_in_process",
        /// Passing: a result is being decided on.
        EvaluatingResults = 'V' "evaluating_results",
        /// Waits for something outside the graph.
        WaitingForDependencies = 'D' "waiting_for_dependencies",
        /// Nothing runs, some step waits for its retry time.
        WaitingForRetry = 'W' "waiting_for_retry",
        /// A failed step holds back all that is left.
        BlockedByFailures = 'B' "blocked_by_failures",
        /// Every step ended well.
        Complete = 'C' "complete",
        /// Ended in failure by an operator or by its lifecycle rules.
        Error = 'E' "error",
        /// Cancelled.
        Cancelled = 'X' "cancelled",
        /// Declared done by an operator.
        ResolvedManually = 'R' "resolved_manually",
    }
}

states! {
    /// The state of a step. `in_progress` is never stored: it is read from the ticket.
    StepState {
        /// Waits for its parents.
        Pending = 'P' "pending",
        /// May run as far as its parents go; a resource that it uses has no room for it.
        Held = 'H' "held",
        /// Has a ticket that a worker may claim.
        Enqueued = 'Q' "enqueued",
        /// Its ticket is claimed.
        InProgress = 'I' "in_progress",
        /// Failed; its next attempt has a time.
        WaitingForRetry = 'W' "waiting_for_retry",
        /// Succeeded.
        Complete = 'C' "complete",
        /// Failed for good: permanent, or no attempts left.
        Error = 'E' "error",
        /// Cancelled with its task.
        Cancelled = 'X' "cancelled",
        /// Declared done by an operator.
        ResolvedManually = 'R' "resolved_manually",
        /// No step of the task yet: a decision may create it.
        NotCreated = '-' "not_created",
        /// No step of the task: every decision that could have created it went another way, or batches took its place.
        Skipped = '.' "skipped",
    }
}

impl TaskState {
    /// Whether nothing but an operator's repair changes this state.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Error | Self::Cancelled | Self::ResolvedManually)
    }

    /// Whether the task has ended, or is blocked until somebody repairs it.
    #[must_use]
    pub const fn rests(self) -> bool {
        self.is_terminal() || matches!(self, Self::BlockedByFailures)
    }
}

impl StepState {
    /// Whether the step satisfies those that depend on it.
    #[must_use]
    pub const fn satisfies(self) -> bool {
        matches!(self, Self::Complete | Self::ResolvedManually)
    }

    /// Whether this is a state of a step; the two others say that the task has no such step.
    #[must_use]
    pub const fn exists(self) -> bool {
        !matches!(self, Self::NotCreated | Self::Skipped)
    }

    /// Whether the step is held by a ticket, a due-time row or an undecided attempt.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Held | Self::Enqueued | Self::InProgress | Self::WaitingForRetry)
    }
}
