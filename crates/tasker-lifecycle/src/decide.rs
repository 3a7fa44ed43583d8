//! The life of a task: which transitions and effects follow from an event.
//!
//! [`decide`] reads a [`Task`] and says what follows; [`evolve`] makes one transition. Both are total: an
//! event that no longer applies gives an empty decision (duplicates are normal), one that never could is
//! [`Refused`]. Dependency resolution happens here, by counting unsatisfied parents, never in SQL.

use serde::{Deserialize, Serialize};

use crate::ids::{Nonce, StepIndex, Timestamp};
use crate::retry;
use crate::state::{StepState, TaskState};
use crate::task::{Holder, Live, Task};

/// Waits up to this long are a ticket sent with a delay; longer ones go to the due-time table, so that the
/// queues hold only what runs soon and a clock that jumped can be told from a long wait.
pub const MAX_TICKET_DELAY_MS: u64 = 60_000;

/// Something that happened to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Somebody cancelled the task.
    Cancelled,
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
    },
}

/// What came of an attempt, as far as the lifecycle cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The handler returned a result.
    Success,
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
    /// A cancel.
    Cancelled,
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
    /// A complete or resolved task can't be cancelled.
    #[error("the task is already {0}")]
    AlreadyEnded(TaskState),
}

/// Says what follows from `event` at the moment `now` (database clock).
///
/// # Errors
/// [`Refused`] for an event that never could apply.
pub fn decide(task: &Task, event: Event, now: Timestamp) -> Result<Decision, Refused> {
    let mut next = Next { task, now, decision: Decision::default(), cancelled: false };
    match event {
        Event::Started => next.started(),
        Event::Reported { step, attempt, nonce, outcome } => {
            next.state_of(step)?;
            if attempt == 0 {
                return Err(Refused::AttemptZero);
            }
            next.reported(step, attempt, nonce, outcome);
        }
        Event::Due { step, nonce } => {
            next.state_of(step)?;
            next.due(step, nonce);
        }
        Event::Cancelled => next.cancelled()?,
        Event::StepReset { step } => match next.state_of(step)? {
            StepState::Error => next.reset(step),
            state => return Err(Refused::NotRepairable(step, state)),
        },
        Event::StepResolved { step } => match next.state_of(step)? {
            StepState::Error => next.close_by_hand(step, StepState::ResolvedManually),
            state => return Err(Refused::NotRepairable(step, state)),
        },
        Event::StepCompleted { step } => match next.state_of(step)? {
            // Before the start a completion would make the task look started, and its roots would never run.
            StepState::Error | StepState::Pending | StepState::WaitingForRetry if task.is_started() => {
                next.close_by_hand(step, StepState::Complete);
            }
            state => return Err(Refused::NotRepairable(step, state)),
        },
    }
    Ok(next.finish())
}

/// Makes one transition of a decision.
pub fn evolve(task: &mut Task, transition: &Transition) {
    let Transition { step, to, attempts, limit, retry_at, .. } = *transition;
    task.start();
    task.set_step(step, to, Live { attempts, limit, retry_at, holder: Holder::None });
}

impl Decision {
    /// Makes every transition of this decision. An empty one changes nothing, not even whether the task has started.
    pub fn evolve(&self, task: &mut Task) {
        if self.is_empty() {
            return;
        }
        for transition in &self.transitions {
            evolve(task, transition);
        }
        if let Some((_, TaskState::Cancelled)) = self.task {
            task.cancel();
        }
        task.start();
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transitions.is_empty() && self.effects.is_empty() && self.task.is_none()
    }
}

impl Event {
    /// What the history calls this event.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Started => Cause::Started,
            Self::Reported { .. } => Cause::Reported,
            Self::Due { .. } => Cause::Due,
            Self::Cancelled => Cause::Cancelled,
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
        Cause::Due | Cause::StepReset => &[TaskState::EnqueuingSteps],
        Cause::Cancelled => &[],
    }
}

/// A decision in the making.
struct Next<'a> {
    task: &'a Task,
    now: Timestamp,
    decision: Decision,
    cancelled: bool,
}

impl Next<'_> {
    fn state_of(&self, step: StepIndex) -> Result<StepState, Refused> {
        self.task.step(step).ok_or(Refused::UnknownStep(step))
    }

    /// Roots are enqueued; a second start changes nothing.
    fn started(&mut self) {
        if self.task.is_started() {
            return;
        }
        for root in self.task.template().dag.roots() {
            self.enqueue(root, 0, None, 0);
        }
    }

    /// Only the holder of the step's present ticket is heard.
    fn reported(&mut self, step: StepIndex, attempt: u32, nonce: Nonce, outcome: Outcome) {
        let live = self.task.live(step);
        let Holder::Ticket(ticket) = live.holder else { return };
        if ticket.nonce != nonce || attempt <= live.attempts {
            return;
        }
        match outcome {
            Outcome::Success => {
                self.transition(step, StepState::Complete, attempt, None, None);
                self.enqueue_children(step);
            }
            Outcome::LeaseLost => self.fail(step, attempt, DeadLetterReason::LeaseLost),
            Outcome::Failure { retryable, retry_after_ms } => {
                let policy = &self.task.template().steps[step.at()].retry;
                if !(retryable && policy.retryable) {
                    self.fail(step, attempt, DeadLetterReason::PermanentFailure);
                } else if attempt >= self.task.limit(step) {
                    self.fail(step, attempt, DeadLetterReason::AttemptsExhausted);
                } else {
                    let id = self.task.id().step(step);
                    self.retry(step, attempt, retry::delay_ms(policy, id, attempt, retry_after_ms));
                }
            }
        }
    }

    /// A wait that is over becomes a ticket; the attempts and the budget stay.
    fn due(&mut self, step: StepIndex, nonce: Nonce) {
        let live = self.task.live(step);
        if live.holder != (Holder::Due { nonce }) {
            return;
        }
        self.decision.effects.push(Effect::Withdraw { step, holder: live.holder });
        self.enqueue(step, live.attempts, live.limit, 0);
    }

    /// Everything that has not ended is cancelled and what held it is withdrawn.
    fn cancelled(&mut self) -> Result<(), Refused> {
        match self.task.state() {
            TaskState::Cancelled => return Ok(()),
            state if state.is_terminal() => return Err(Refused::AlreadyEnded(state)),
            _ => self.cancelled = true,
        }
        for at in 0..self.task.steps().len() {
            let step = StepIndex::from(at);
            let state = self.task.steps()[at];
            let live = self.task.live(step);
            match state {
                StepState::Enqueued | StepState::InProgress | StepState::WaitingForRetry => {
                    self.decision.effects.push(Effect::Withdraw { step, holder: live.holder });
                    self.transition(step, StepState::Cancelled, live.attempts, live.limit, None);
                }
                StepState::Pending => {
                    self.transition(step, StepState::Cancelled, live.attempts, live.limit, None);
                }
                StepState::Complete | StepState::Error | StepState::Cancelled | StepState::ResolvedManually => {}
            }
        }
        Ok(())
    }

    /// A new budget: as many attempts again as the template gives. In a cancelled task nothing moves.
    fn reset(&mut self, step: StepIndex) {
        if self.task.state().is_terminal() {
            return;
        }
        let attempts = self.task.attempts(step);
        let budget = self.task.template().steps[step.at()].retry.max_attempts.max(1);
        self.enqueue(step, attempts, Some(attempts.saturating_add(budget)), 0);
    }

    /// A step closed by an operator frees its children like any other.
    fn close_by_hand(&mut self, step: StepIndex, to: StepState) {
        if self.task.state().is_terminal() {
            return;
        }
        let live = self.task.live(step);
        if live.holder != Holder::None {
            self.decision.effects.push(Effect::Withdraw { step, holder: live.holder });
        }
        let by_hand = u32::from(to == StepState::Complete);
        self.transition(step, to, self.task.attempts(step) + by_hand, None, None);
        self.enqueue_children(step);
    }

    fn enqueue_children(&mut self, step: StepIndex) {
        for child in self.task.template().dag.children(step) {
            let ready = self.task.waiting_parents(*child) == 1;
            if ready && self.task.steps()[child.at()] == StepState::Pending {
                self.enqueue(*child, 0, None, 0);
            }
        }
    }

    fn enqueue(&mut self, step: StepIndex, base_attempt: u32, limit: Option<u32>, delay_ms: u64) {
        self.transition(step, StepState::Enqueued, base_attempt, limit, None);
        self.decision.effects.push(Effect::Enqueue { step, base_attempt, delay_ms });
    }

    fn retry(&mut self, step: StepIndex, attempt: u32, delay_ms: u64) {
        let due = self.now.plus_ms(delay_ms);
        let limit = self.task.live(step).limit;
        self.transition(step, StepState::WaitingForRetry, attempt, limit, Some(due));
        self.decision.effects.push(if delay_ms <= MAX_TICKET_DELAY_MS {
            Effect::Enqueue { step, base_attempt: attempt, delay_ms }
        } else {
            Effect::Schedule { step, base_attempt: attempt, due }
        });
    }

    fn fail(&mut self, step: StepIndex, attempt: u32, reason: DeadLetterReason) {
        let limit = self.task.live(step).limit;
        self.transition(step, StepState::Error, attempt, limit, None);
        self.decision.effects.push(Effect::DeadLetter { step, reason });
    }

    fn transition(
        &mut self,
        step: StepIndex,
        to: StepState,
        attempts: u32,
        limit: Option<u32>,
        retry_at: Option<Timestamp>,
    ) {
        let from = self.task.steps()[step.at()];
        self.decision.transitions.push(Transition { step, from, to, attempts, limit, retry_at });
    }

    /// The task's own state is computed, and its end is an effect.
    fn finish(mut self) -> Decision {
        if self.decision.transitions.is_empty() && !self.cancelled {
            return self.decision;
        }
        let from = self.task.state();
        let moves = self.decision.transitions.iter().map(|t| (t.from, t.to));
        let to = if self.cancelled { TaskState::Cancelled } else { self.task.state_after(moves) };
        if from != to {
            self.decision.task = Some((from, to));
            if to.is_terminal() || to == TaskState::BlockedByFailures {
                self.decision.effects.push(Effect::TaskEnded(to));
            }
        }
        self.decision
    }
}
