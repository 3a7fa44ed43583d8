//! The life of a task: which transitions and effects follow from an event.
//!
//! What a decision leads to is in `branches`, what batch workers are in `batches`.
//!
//! [`decide`] reads a [`Task`] and says what follows; [`evolve`] makes one transition. Both are total: an
//! event that no longer applies gives an empty decision (duplicates are normal), one that never could is
//! [`Refused`]. Dependency resolution happens here, by counting unsatisfied parents, never in SQL.

use std::collections::HashMap;

use crate::batches::{Batch, Expand};
use crate::branches::{self, Fate};
use crate::event::{DeadLetterReason, Decision, Effect, Event, Follows, Outcome, Refused, Transition};
use crate::ids::{MAX_STEPS, Nonce, StepIndex, Timestamp};
use crate::retry;
use crate::state::{StepState, TaskState};
use crate::task::{Holder, Live, Task};
use crate::template::{FailureStrategy, StepKind};

/// Waits up to this long are a ticket sent with a delay; longer ones go to the due-time table, so that the
/// queues hold only what runs soon and a clock that jumped can be told from a long wait.
pub const MAX_TICKET_DELAY_MS: u64 = 60_000;

/// Says what follows from `event` at the moment `now` (database clock).
///
/// # Errors
/// [`Refused`] for an event that never could apply.
pub fn decide(task: &Task, event: &Event, now: Timestamp) -> Result<Decision, Refused> {
    let mut next = Next { task, now, decision: Decision::default(), ends: None };
    match *event {
        Event::Started => next.started(),
        Event::Reported { step, attempt, nonce, ref outcome } => {
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
        Event::Admitted { step, nonce } => {
            next.state_of(step)?;
            next.admitted(step, nonce);
        }
        Event::Parked { step, nonce } => {
            next.state_of(step)?;
            next.parked(step, nonce);
        }
        Event::Counted { step, attempts } => {
            next.state_of(step)?;
            next.counted(step, attempts);
        }
        Event::Cancelled => next.cancelled()?,
        Event::Expired if task.state().is_terminal() => {}
        Event::Expired => next.end(TaskState::Error),
        Event::StepReset { step } => match next.state_of(step)? {
            StepState::Error if !next.is_told(step) => next.reset(step),
            state => return Err(Refused::NotRepairable(step, state)),
        },
        Event::StepResolved { step } => match next.state_of(step)? {
            StepState::Error => next.close_by_hand(step, StepState::ResolvedManually, &Follows::Nothing)?,
            state => return Err(Refused::NotRepairable(step, state)),
        },
        Event::StepCompleted { step, ref follows } => match next.state_of(step)? {
            // Before the start a completion would make the task look started, and its roots would never run.
            StepState::Error | StepState::Pending | StepState::Held | StepState::WaitingForRetry
                if task.is_started() =>
            {
                next.close_by_hand(step, StepState::Complete, follows)?;
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
        if let Some(expand) = self.expand {
            task.expand(expand);
        }
        for transition in &self.transitions {
            evolve(task, transition);
        }
        if let Some((_, to @ (TaskState::Cancelled | TaskState::Error))) = self.task {
            task.end(to);
        }
        task.start();
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transitions.is_empty() && self.effects.is_empty() && self.task.is_none()
    }
}

/// A decision in the making.
struct Next<'a> {
    task: &'a Task,
    now: Timestamp,
    decision: Decision,
    /// The state that the task is put into, whatever its steps are like.
    ends: Option<TaskState>,
}

impl Next<'_> {
    fn state_of(&self, step: StepIndex) -> Result<StepState, Refused> {
        self.task.step(step).filter(|state| state.exists()).ok_or(Refused::UnknownStep(step))
    }

    /// Roots are enqueued; a second start changes nothing.
    fn started(&mut self) {
        if self.task.is_started() {
            return;
        }
        for root in self.task.template().dag.roots() {
            self.enqueue(root, 0);
        }
    }

    /// Only the holder of the step's present ticket is heard.
    fn reported(&mut self, step: StepIndex, attempt: u32, nonce: Nonce, outcome: &Outcome) {
        let live = self.task.live(step);
        let Holder::Ticket(ticket) = live.holder else { return };
        if ticket.nonce != nonce || attempt <= live.attempts {
            return;
        }
        match outcome {
            Outcome::Success(follows) => {
                if self.complete(step, StepState::Complete, attempt, follows).is_err() {
                    self.fail(step, attempt, DeadLetterReason::BadOutcome);
                }
            }
            Outcome::LeaseLost => self.fail(step, attempt, DeadLetterReason::LeaseLost),
            Outcome::Failure { retryable, retry_after_ms } => {
                let policy = &self.task.template().step(self.task.pattern(step)).retry;
                if !(*retryable && policy.retryable) {
                    self.fail(step, attempt, DeadLetterReason::PermanentFailure);
                } else if attempt >= self.task.limit(step) {
                    self.fail(step, attempt, DeadLetterReason::AttemptsExhausted);
                } else {
                    let id = self.task.id().step(step);
                    self.retry(step, attempt, retry::delay_ms(policy, id, attempt, *retry_after_ms));
                }
            }
        }
    }

    /// A wait that is over becomes a ticket; the attempts and the budget stay.
    fn due(&mut self, step: StepIndex, nonce: Nonce) {
        let live = self.task.live(step);
        if live.holder != (Holder::Due { nonce }) || self.state(step) == StepState::Held {
            return;
        }
        self.decision.effects.push(Effect::Withdraw { step, holder: live.holder });
        self.enqueue(step, live.attempts);
    }

    /// What held a step is over.
    fn admitted(&mut self, step: StepIndex, nonce: Nonce) {
        let live = self.task.live(step);
        if live.holder != (Holder::Due { nonce }) || self.state(step) != StepState::Held {
            return;
        }
        self.decision.effects.push(Effect::Withdraw { step, holder: live.holder });
        self.send(step, live.attempts, live.limit);
    }

    /// An enqueued step is held again. Nothing was tried, so its attempts stay.
    fn parked(&mut self, step: StepIndex, nonce: Nonce) {
        let live = self.task.live(step);
        let Holder::Ticket(ticket) = live.holder else { return };
        if ticket.nonce != nonce || self.state(step) != StepState::Enqueued || !self.uses_resources(step) {
            return;
        }
        self.decision.effects.push(Effect::Withdraw { step, holder: live.holder });
        self.hold(step, live.attempts, live.limit);
    }

    /// A cancelled batch worker stays what it is. Taken up again it has a whole budget from there.
    fn counted(&mut self, step: StepIndex, attempts: u32) {
        let is_open = self.state(step) == StepState::Cancelled && !self.task.state().is_terminal();
        if is_open && attempts > self.task.attempts(step) {
            let budget = self.task.template().step(self.task.pattern(step)).retry.max_attempts.max(1);
            let limit = Some(attempts.saturating_add(budget));
            self.transition(step, StepState::Cancelled, attempts, limit, None);
        }
    }

    fn cancelled(&mut self) -> Result<(), Refused> {
        match self.task.state() {
            TaskState::Cancelled => Ok(()),
            state if state.is_terminal() => Err(Refused::AlreadyEnded(state)),
            _ => {
                self.end(TaskState::Cancelled);
                Ok(())
            }
        }
    }

    /// Everything that has not ended is cancelled and what held it is withdrawn.
    fn end(&mut self, state: TaskState) {
        self.ends = Some(state);
        for at in 0..self.task.steps().len() {
            self.cancel_step(StepIndex::from(at));
        }
    }

    fn cancel_step(&mut self, step: StepIndex) {
        let live = self.task.live(step);
        match self.state(step) {
            StepState::Held | StepState::Enqueued | StepState::InProgress | StepState::WaitingForRetry => {
                self.decision.effects.push(Effect::Withdraw { step, holder: live.holder });
                self.transition(step, StepState::Cancelled, live.attempts, live.limit, None);
            }
            StepState::Pending => self.transition(step, StepState::Cancelled, live.attempts, live.limit, None),
            StepState::Complete
            | StepState::Error
            | StepState::Cancelled
            | StepState::ResolvedManually
            | StepState::NotCreated
            | StepState::Skipped => {}
        }
    }

    /// A new budget: as many attempts again as the template gives. In a cancelled task nothing moves.
    fn reset(&mut self, step: StepIndex) {
        if self.task.state().is_terminal() {
            return;
        }
        let attempts = self.task.attempts(step);
        let budget = self.task.template().step(self.task.pattern(step)).retry.max_attempts.max(1);
        let limit = Some(attempts.saturating_add(budget));
        match self.task.batch_of(step) {
            // Its turn may have to come again.
            Some(batch) if !self.has_room(&batch) => self.transition(step, StepState::Pending, attempts, limit, None),
            _ => self.enqueue_within(step, attempts, limit),
        }
        self.revive_siblings(step, 1);
    }

    /// Whether a batch worker's failure was passed on: its convergence runs or ran without it.
    fn is_told(&self, step: StepIndex) -> bool {
        let began = |child: &StepIndex| self.state(*child).exists() && self.state(*child) != StepState::Pending;
        self.task.tolerates(step) && self.task.children(step).iter().any(began)
    }

    /// A step closed by an operator frees its children like any other.
    fn close_by_hand(&mut self, step: StepIndex, to: StepState, follows: &Follows) -> Result<(), Refused> {
        if self.task.state().is_terminal() {
            return Ok(());
        }
        let live = self.task.live(step);
        if live.holder != Holder::None {
            self.decision.effects.push(Effect::Withdraw { step, holder: live.holder });
        }
        let by_hand = u32::from(to == StepState::Complete);
        let attempt = self.task.attempts(step) + by_hand;
        self.complete(step, to, attempt, follows).map_err(|branches::BadBranch| Refused::BadOutcome(step))?;
        self.revive_siblings(step, 0);
        Ok(())
    }

    /// A step is done: what follows from its kind and result happens, and its children are freed.
    fn complete(
        &mut self,
        step: StepIndex,
        to: StepState,
        attempt: u32,
        follows: &Follows,
    ) -> Result<(), branches::BadBranch> {
        let kind = self.task.template().step(self.task.pattern(step)).kind;
        match (kind, follows, to) {
            (StepKind::Decision, Follows::Branches(chosen), _) => self.branch(step, to, attempt, chosen),
            // Who resolves a decision takes no branch; who resolves a split has nothing to split.
            (StepKind::Decision, _, StepState::ResolvedManually) => self.branch(step, to, attempt, &[]),
            (StepKind::Batchable, Follows::Batches { worker, count }, _) => {
                self.split(step, to, attempt, Some((*worker, *count)))
            }
            (StepKind::Batchable, _, StepState::ResolvedManually) => self.split(step, to, attempt, None),
            (StepKind::Decision | StepKind::Batchable, _, _) => Err(branches::BadBranch),
            (StepKind::Standard | StepKind::DeferredConvergence | StepKind::BatchWorker, _, _) => {
                self.transition(step, to, attempt, None, None);
                self.enqueue_children(step);
                self.next_in_turn(step);
                Ok(())
            }
        }
    }

    /// What the decision chose is created, with what follows from it.
    fn branch(
        &mut self,
        step: StepIndex,
        to: StepState,
        attempt: u32,
        chosen: &[StepIndex],
    ) -> Result<(), branches::BadBranch> {
        let fates = branches::follow(self.task, step, chosen)?;
        self.transition(step, to, attempt, None, None);
        for (skipped, _) in fates.iter().filter(|(_, fate)| *fate == Fate::Skipped) {
            self.transition(*skipped, StepState::Skipped, 0, None, None);
        }
        let created: Vec<StepIndex> =
            fates.iter().filter(|(_, fate)| *fate == Fate::Created).map(|(step, _)| *step).collect();
        let overlay = self.overlay();
        for step in created {
            if self.is_ready(step, &overlay) {
                self.enqueue(step, 0);
            } else {
                self.transition(step, StepState::Pending, 0, None, None);
            }
        }
        // What was there before may have waited for this decision, or for a step that will never be.
        for at in 0..self.task.template().steps.len() {
            let step = StepIndex::from(at);
            if self.task.steps()[at] == StepState::Pending
                && self.task.waiting_parents(step) > 0
                && self.is_ready(step, &overlay)
            {
                self.enqueue(step, 0);
            }
        }
        Ok(())
    }

    /// A batchable step is split: its batch workers take the place of their pattern. The first of them are enqueued.
    fn split(
        &mut self,
        step: StepIndex,
        to: StepState,
        attempt: u32,
        batches: Option<(StepIndex, u32)>,
    ) -> Result<(), branches::BadBranch> {
        let template = self.task.template();
        if let Some((worker, count)) = batches {
            let room = MAX_STEPS.saturating_sub(self.task.steps().len());
            if !template.is_worker_of(worker, step) || count == 0 || count as usize > room {
                return Err(branches::BadBranch);
            }
            self.decision.expand = Some(Expand { batchable: step, worker, count });
        }
        self.transition(step, to, attempt, None, None);
        for pattern in template.dag.children(step).iter().filter(|child| template.is_worker_of(**child, step)) {
            self.transition(*pattern, StepState::Skipped, 0, None, None);
        }
        let overlay = self.overlay();
        if let Some((worker, count)) = batches {
            let first = StepIndex::from(self.task.steps().len());
            let at_once = if self.is_ready(worker, &overlay) { self.task.parallelism(step) } else { 0 };
            for position in 0..count {
                let batch = StepIndex(first.0 + position);
                if position < at_once {
                    self.enqueue(batch, 0);
                } else {
                    self.transition(batch, StepState::Pending, 0, None, None);
                }
            }
        }
        let made = batches.map(|(worker, _)| worker);
        for at in 0..template.steps.len() {
            let waiting = StepIndex::from(at);
            let waits_for_batches = made.is_some_and(|worker| template.dag.parents(waiting).contains(&worker));
            if self.task.steps()[at] == StepState::Pending
                && self.task.waiting_parents(waiting) > 0
                && !waits_for_batches
                && self.is_ready(waiting, &overlay)
            {
                self.enqueue(waiting, 0);
            }
        }
        Ok(())
    }

    /// The states that the transitions so far lead to.
    fn overlay(&self) -> HashMap<StepIndex, StepState> {
        self.decision.transitions.iter().map(|t| (t.step, t.to)).collect()
    }

    /// Whether nothing that a step waits for is open once the overlay holds.
    fn is_ready(&self, step: StepIndex, overlay: &HashMap<StepIndex, StepState>) -> bool {
        let settled = |parent: &StepIndex| {
            let state = overlay.get(parent).copied().unwrap_or_else(|| self.state(*parent));
            self.task.settles(*parent, state, step)
        };
        self.task.parents(step).iter().all(settled)
    }

    fn enqueue_children(&mut self, step: StepIndex) {
        if self.task.expansions().is_empty() {
            for child in self.task.template().dag.children(step) {
                self.enqueue_if_last(*child);
            }
            return;
        }
        let state = self.state(step);
        for child in self.task.children(step) {
            // A failure that is tolerated had freed it before.
            if self.task.settles(step, state, child) {
                continue;
            }
            match self.task.batch_of(child) {
                None => self.enqueue_if_last(child),
                Some(batch) if self.task.waiting_parents(child) == 1 && self.has_room(&batch) => {
                    self.enqueue_if_last(child);
                }
                Some(_) => {}
            }
        }
    }

    fn enqueue_if_last(&mut self, child: StepIndex) {
        if self.task.waiting_parents(child) == 1 && self.state(child) == StepState::Pending {
            self.enqueue(child, self.task.attempts(child));
        }
    }

    /// The place of a batch worker that is no longer live goes to the next of its batch.
    fn next_in_turn(&mut self, step: StepIndex) {
        let Some(batch) = self.task.batch_of(step) else { return };
        if self.state(step).is_live() && self.has_room(&batch) {
            self.enqueue_next(&batch);
        }
    }

    fn enqueue_next(&mut self, batch: &Batch) {
        let mut from = 0;
        while let Some(next) = self.task.next_pending(&batch.expansion, from) {
            from = next.0 - batch.expansion.first.0 + 1;
            let moved = self.decision.transitions.iter().any(|t| t.step == next);
            if !moved && self.task.waiting_parents(next) == 0 {
                let live = self.task.live(next);
                return self.enqueue_within(next, live.attempts, live.limit);
            }
        }
    }

    /// Whether another batch worker may be live, as far as this decision has gone.
    fn has_room(&self, batch: &Batch) -> bool {
        let of_batch = |step: StepIndex| {
            self.task.batch_of(step).is_some_and(|other| other.expansion.first == batch.expansion.first)
        };
        let (mut live, moves) = (batch.expansion.live, &self.decision.transitions);
        for moved in moves.iter().filter(|moved| of_batch(moved.step)) {
            live = live + u32::from(moved.to.is_live()) - u32::from(moved.from.is_live());
        }
        live < self.task.parallelism(batch.expansion.batchable)
    }

    /// The first failure of a batch that fails as a whole ends the others.
    fn cancel_siblings(&mut self, step: StepIndex, batch: &Batch) {
        for sibling in batch.expansion.steps().filter(|sibling| *sibling != step) {
            self.cancel_step(sibling);
        }
    }

    /// Where the failed worker of such a batch is repaired, the others are taken up again.
    fn revive_siblings(&mut self, step: StepIndex, held: u32) {
        if self.task.failure_strategy(step) != Some(FailureStrategy::FailFast) {
            return;
        }
        let Some(batch) = self.task.batch_of(step) else { return };
        let mut room = self.task.parallelism(batch.expansion.batchable).saturating_sub(batch.expansion.live + held);
        for sibling in batch.expansion.steps() {
            if self.state(sibling) != StepState::Cancelled {
                continue;
            }
            let live = self.task.live(sibling);
            if room > 0 && self.task.waiting_parents(sibling) == 0 {
                room -= 1;
                self.enqueue_within(sibling, live.attempts, live.limit);
            } else {
                self.transition(sibling, StepState::Pending, live.attempts, live.limit, None);
            }
        }
    }

    fn enqueue(&mut self, step: StepIndex, base_attempt: u32) {
        self.enqueue_within(step, base_attempt, self.task.live(step).limit);
    }

    /// A step that may run gets its ticket. One that uses resources is held first: whether they have room for it is not
    /// known here.
    fn enqueue_within(&mut self, step: StepIndex, base_attempt: u32, limit: Option<u32>) {
        if self.uses_resources(step) {
            self.hold(step, base_attempt, limit);
        } else {
            self.send(step, base_attempt, limit);
        }
    }

    fn uses_resources(&self, step: StepIndex) -> bool {
        let template = self.task.template();
        if !template.uses_resources {
            return false;
        }
        // A batch worker that only this decision makes is not in the task yet.
        let made = self.decision.expand.filter(|_| step.at() >= self.task.steps().len());
        let pattern = made.map_or_else(|| self.task.pattern(step), |expand| expand.worker);
        !template.step(pattern).uses.is_empty()
    }

    fn hold(&mut self, step: StepIndex, attempts: u32, limit: Option<u32>) {
        self.transition(step, StepState::Held, attempts, limit, None);
        self.decision.effects.push(Effect::Hold { step });
    }

    fn send(&mut self, step: StepIndex, base_attempt: u32, limit: Option<u32>) {
        self.transition(step, StepState::Enqueued, base_attempt, limit, None);
        self.decision.effects.push(Effect::Enqueue { step, base_attempt, delay_ms: 0 });
    }

    fn retry(&mut self, step: StepIndex, attempt: u32, delay_ms: u64) {
        let due = self.now.plus_ms(delay_ms);
        let limit = self.task.live(step).limit;
        self.transition(step, StepState::WaitingForRetry, attempt, limit, Some(due));
        // A ticket takes room in the resources that its step uses, so none is sent before its time.
        self.decision.effects.push(if delay_ms <= MAX_TICKET_DELAY_MS && !self.uses_resources(step) {
            Effect::Enqueue { step, base_attempt: attempt, delay_ms }
        } else {
            Effect::Schedule { step, base_attempt: attempt, due }
        });
    }

    fn fail(&mut self, step: StepIndex, attempt: u32, reason: DeadLetterReason) {
        let limit = self.task.live(step).limit;
        self.transition(step, StepState::Error, attempt, limit, None);
        self.decision.effects.push(Effect::DeadLetter { step, reason });
        match (self.task.batch_of(step), self.task.failure_strategy(step)) {
            (Some(batch), Some(FailureStrategy::FailFast)) => self.cancel_siblings(step, &batch),
            (Some(_), _) => {
                self.enqueue_children(step);
                self.next_in_turn(step);
            }
            (None, _) => {}
        }
    }

    /// The state of a step before this decision; not created, where only this decision makes it.
    fn state(&self, step: StepIndex) -> StepState {
        self.task.step(step).unwrap_or(StepState::NotCreated)
    }

    fn transition(
        &mut self,
        step: StepIndex,
        to: StepState,
        attempts: u32,
        limit: Option<u32>,
        retry_at: Option<Timestamp>,
    ) {
        let from = self.state(step);
        self.decision.transitions.push(Transition { step, from, to, attempts, limit, retry_at });
    }

    /// The task's own state is computed, and its end is an effect.
    fn finish(mut self) -> Decision {
        if self.decision.transitions.is_empty() && self.ends.is_none() {
            return self.decision;
        }
        let from = self.task.state();
        let made = self.decision.expand.map_or(0, |expand| expand.count);
        let moved = || self.task.state_after(made, &self.decision.transitions);
        let to = self.ends.unwrap_or_else(moved);
        if from != to {
            self.decision.task = Some((from, to));
            if to.is_terminal() || to == TaskState::BlockedByFailures {
                self.decision.effects.push(Effect::TaskEnded(to));
            }
        }
        self.decision
    }
}
