//! What the lifecycle speaks of: events, and the transitions and effects that are decided on.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batches::Expand;
use crate::ids::{Nonce, StepIndex, Timestamp};
use crate::state::{StepState, TaskState};
use crate::task::Holder;

/// Something that happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The task was created.
    Started,
    /// An attempt's report was accepted.
    Reported {
        /// The step that was tried.
        step: StepIndex,
        /// Which try it was, from 1.
        attempt: u32,
        /// The random part of the claim token that the report carried.
        nonce: Nonce,
        /// What came of it.
        outcome: Outcome,
    },
    /// The due-time row of a step came due.
    Due {
        /// The step that waited.
        step: StepIndex,
        /// The nonce in the due-time row.
        nonce: Nonce,
    },
    /// Every resource that a held step uses has room for it.
    Admitted {
        /// The step that was held.
        step: StepIndex,
        /// The nonce in the row that held it.
        nonce: Nonce,
    },
    /// The ticket of a step was taken back before anybody claimed it: a resource that it uses has failed.
    Parked {
        /// The step whose ticket it was.
        step: StepIndex,
        /// The random part of that ticket's token.
        nonce: Nonce,
    },
    /// So many attempts are stored of a step that was cancelled while its worker ran. Whoever takes it up again must
    /// not use their numbers.
    Counted {
        /// The cancelled step.
        step: StepIndex,
        /// The last one's number.
        attempts: u32,
    },
    /// Somebody cancelled the task.
    Cancelled,
    /// The task has passed a bound of its life, and its template says that it ends in error then.
    Expired,
    /// An operator grants a failed step a new budget of attempts.
    StepReset {
        /// The step to try again.
        step: StepIndex,
    },
    /// An operator declares a failed step done, without a result.
    StepResolved {
        /// The step to step over.
        step: StepIndex,
    },
    /// An operator supplies a step's result by hand; it is stored as the next attempt.
    StepCompleted {
        /// The step that is now complete.
        step: StepIndex,
        /// What the result leads to.
        follows: Follows,
    },
}

/// What the result of a step leads to beside its completion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Follows {
    /// Nothing: a standard step.
    #[default]
    Nothing,
    /// A decision's choice: the steps to create; none for no branch at all.
    Branches(Arc<[StepIndex]>),
    /// A batchable step's split.
    Batches {
        /// The batch worker of the template that each batch is run by.
        worker: StepIndex,
        /// How many there are, from 1.
        count: u32,
    },
}

/// What came of an attempt, as far as the lifecycle cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The handler returned a result.
    Success(Follows),
    /// The handler failed, or nothing usable came back.
    Failure {
        /// Whether trying again may help.
        retryable: bool,
        /// When the handler asked to be tried again.
        retry_after_ms: Option<u64>,
    },
    /// The claimer found the attempts used up by lost leases and did not run the handler.
    LeaseLost,
}

/// One state change of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The step that moved.
    pub step: StepIndex,
    /// Its state before.
    pub from: StepState,
    /// Its state after.
    pub to: StepState,
    /// Attempts decided on, after this transition.
    pub attempts: u32,
    /// The last attempt that it may have, where that is not its template's.
    pub limit: Option<u32>,
    /// When the next attempt may start.
    pub retry_at: Option<Timestamp>,
}

/// What must be written or sent because of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Send the step's ticket.
    Enqueue {
        /// The step.
        step: StepIndex,
        /// Attempts before this ticket.
        base_attempt: u32,
        /// How long the ticket stays hidden, in milliseconds.
        delay_ms: u64,
    },
    /// Put the step into the due-time table.
    Schedule {
        /// The step.
        step: StepIndex,
        /// Attempts before the ticket that will be sent.
        base_attempt: u32,
        /// When to send it.
        due: Timestamp,
    },
    /// Keep the step in the due-time table, without a time, until the resources that it uses have room.
    Hold {
        /// The step.
        step: StepIndex,
    },
    /// Delete the ticket or due-time row that held the step.
    Withdraw {
        /// The step.
        step: StepIndex,
        /// What held it.
        holder: Holder,
    },
    /// File the failed step with all its attempts.
    DeadLetter {
        /// The step.
        step: StepIndex,
        /// Why it is not tried again.
        reason: DeadLetterReason,
    },
    /// The task reached a terminal state, or is blocked.
    TaskEnded(TaskState),
}

/// Why a step is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterReason {
    /// All attempts were used.
    AttemptsExhausted,
    /// The failure was permanent.
    PermanentFailure,
    /// The attempts were used up by claims whose worker died.
    LeaseLost,
    /// Its result names branches or batches that can't be made.
    BadOutcome,
}

/// What an event was, for the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Creation.
    Started,
    /// A worker's report.
    Reported,
    /// A timer.
    Due,
    /// Room in the resources that a step uses.
    Admitted,
    /// A resource that failed.
    Parked,
    /// A cancel.
    Cancelled,
    /// A bound of the task's life.
    Expired,
    /// `reset_for_retry`.
    StepReset,
    /// `resolve_manually`.
    StepResolved,
    /// `complete_manually`.
    StepCompleted,
}

/// The transitions and effects that follow from one event; empty where it no longer applies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Batch workers to make before the transitions.
    pub expand: Option<Expand>,
    /// Step transitions, in the order in which they are to be made.
    pub transitions: Vec<Transition>,
    /// What must be written or sent in the same transaction.
    pub effects: Vec<Effect>,
    /// The task's state before and after, where it changed.
    pub task: Option<(TaskState, TaskState)>,
}

/// An event that never could apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The task has no such step.
    #[error("the task has no step {0}")]
    UnknownStep(StepIndex),
    /// Attempts count from 1.
    #[error("attempts count from 1")]
    AttemptZero,
    /// A step that is not failed (or, for a completion by hand, not open) can't be repaired.
    #[error("step {0} is {1}: this action does not apply to it")]
    NotRepairable(StepIndex, StepState),
    /// A result given by hand leads to branches or batches that can't be made.
    #[error("the result of step {0} does not say what follows from it")]
    BadOutcome(StepIndex),
    /// A complete or resolved task can't be cancelled.
    #[error("the task is already {0}")]
    AlreadyEnded(TaskState),
}

impl Event {
    /// What the history calls this event.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Started => Cause::Started,
            Self::Reported { .. } | Self::Counted { .. } => Cause::Reported,
            Self::Due { .. } => Cause::Due,
            Self::Admitted { .. } => Cause::Admitted,
            Self::Parked { .. } => Cause::Parked,
            Self::Cancelled => Cause::Cancelled,
            Self::Expired => Cause::Expired,
            Self::StepReset { .. } => Cause::StepReset,
            Self::StepResolved { .. } => Cause::StepResolved,
            Self::StepCompleted { .. } => Cause::StepCompleted,
        }
    }
}

/// The states that a task passes through inside one commit, between the states at rest.
#[must_use]
pub const fn passing_states(cause: Cause) -> &'static [TaskState] {
    match cause {
        Cause::Started => &[TaskState::Initializing, TaskState::EnqueuingSteps],
        Cause::Reported | Cause::StepCompleted | Cause::StepResolved => &[TaskState::EvaluatingResults],
        Cause::Due | Cause::Admitted | Cause::StepReset => &[TaskState::EnqueuingSteps],
        Cause::Parked | Cause::Cancelled | Cause::Expired => &[],
    }
}
