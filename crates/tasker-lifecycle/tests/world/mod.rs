//! One task in a world of memory: its tickets and due-time rows, its attempts, and the laws that hold after each event.
//!
//! The world does what the shell around the core does: a report is heard only with the step's present ticket, and an
//! effect becomes a ticket, a row or an entry. Nonces are counted per step, so that worlds which saw the same events
//! of a step in different orders are equal.

pub(crate) mod plans;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use tasker_lifecycle::template::{self, StepKind, Template};
use tasker_lifecycle::{
    DeadLetterReason, Decision, Effect, Event, Follows, Holder, Nonce, Outcome, Refused, StepIndex, StepState, Task,
    TaskId, TaskState, TicketRef, Timestamp, decide,
};
use uuid::Uuid;

/// A hint of the handler that leads to a row in the due-time table.
pub(crate) const LATER_MS: u64 = 100_000;
const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

/// How one step of a template is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) retryable: bool,
    pub(crate) max_attempts: u32,
    /// Whether it uses a resource.
    pub(crate) uses: bool,
}

/// A template whose steps wait for the given ones before them.
pub(crate) fn template(steps: &[(Vec<usize>, Policy)]) -> Arc<Template> {
    let steps: Vec<_> = steps
        .iter()
        .enumerate()
        .map(|(at, (parents, policy))| {
            let parents: Vec<String> = parents.iter().map(|parent| format!("s{parent}")).collect();
            let Policy { retryable, max_attempts, uses } = policy;
            let uses: &[&str] = if *uses { &["shop"] } else { &[] };
            json!({"name": format!("s{at}"), "handler": "h", "dependencies": parents, "uses": uses, "retry": {
                "retryable": retryable, "max_attempts": max_attempts, "backoff": "none", "max_backoff_ms": LATER_MS * 2}})
        })
        .collect();
    template_of(&json!(steps))
}

/// A template with these steps.
pub(crate) fn template_of(steps: &serde_json::Value) -> Arc<Template> {
    let document = json!({"name": "laws", "namespace_name": "test", "version": "1.0.0", "steps": steps});
    let read = template::from_json(&document, None);
    Arc::new(read.unwrap_or_else(|problems| panic!("{document:#}: {problems:?}")).0)
}

/// A ticket or due-time row as it lies in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) holder: Holder,
    /// Attempts before it was sent.
    pub(crate) base: u32,
    /// Claims whose worker died.
    pub(crate) lost: u32,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) task: Task,
    held: BTreeMap<StepIndex, Held>,
    /// Tickets and rows so far, by step: the last nonce.
    nonces: Vec<u32>,
    /// Finished attempts by step, the lost ones among them.
    attempts: Vec<Vec<u32>>,
    /// The last attempt of each step that anybody allowed.
    budgets: Vec<u32>,
    dead: Vec<(StepIndex, u32, DeadLetterReason)>,
    folded: Vec<StepState>,
    terminal: Option<TaskState>,
}

impl World {
    /// A task that has not started.
    pub(crate) fn new(template: &Arc<Template>) -> Self {
        let steps = template.steps.len();
        Self {
            task: Task::new(TaskId::new(1, 7), Arc::clone(template)),
            held: BTreeMap::new(),
            nonces: vec![0; steps],
            attempts: vec![Vec::new(); steps],
            budgets: template.steps.iter().map(|step| step.retry.max_attempts).collect(),
            dead: Vec::new(),
            folded: template.initial_states().to_vec(),
            terminal: None,
        }
    }

    /// Everything that later events depend on, in numbers: what is stored, and the claims on it.
    pub(crate) fn key(&self) -> Vec<u32> {
        // A cancelled task may have the same steps as a complete one, and one that has not started as another.
        let mut key = vec![self.task.state() as u32, u32::from(self.task.is_started())];
        for (at, state) in self.task.steps().iter().enumerate() {
            let live = self.task.live(StepIndex::from(at));
            let held = self.held.get(&StepIndex::from(at));
            let (holder, nonce) = match live.holder {
                Holder::None => (0, 0),
                Holder::Ticket(_) => (1, self.nonces[at]),
                Holder::Due { .. } => (2, self.nonces[at]),
            };
            let retry = u32::from(live.retry_at.is_some());
            let lost = held.map_or(0, |held| held.lost);
            key.extend([*state as u32, live.attempts, live.limit.unwrap_or(0), retry, holder, nonce, lost]);
        }
        key
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = (StepIndex, Held)> + '_ {
        self.held.iter().map(|(step, held)| (*step, *held))
    }

    /// The number of the attempt that a claim of this ticket makes, and whether the handler may run.
    pub(crate) fn claim(&self, step: StepIndex) -> Option<(u32, bool)> {
        let held = self.held.get(&step).filter(|held| matches!(held.holder, Holder::Ticket(_)))?;
        let attempt = held.base + held.lost + 1;
        Some((attempt, attempt <= self.task.limit(step)))
    }

    /// A worker claims the ticket and dies.
    pub(crate) fn lose(&mut self, step: StepIndex) {
        self.held.get_mut(&step).expect("a ticket that was claimed").lost += 1;
    }

    /// The report on a claim of the present ticket. Where the attempts are used up, it is that of a lost lease.
    pub(crate) fn report(&self, step: StepIndex, outcome: Outcome) -> Option<Event> {
        let (attempt, may_run) = self.claim(step)?;
        let outcome = if may_run { outcome } else { Outcome::LeaseLost };
        Some(Event::Reported { step, attempt, nonce: nonce(self.held[&step].holder)?, outcome })
    }

    /// The due-time row of a step comes due, or there is room for a step that is held.
    pub(crate) fn come_due(&self, step: StepIndex) -> Option<Event> {
        match self.held.get(&step)?.holder {
            Holder::Due { nonce } if self.task.step(step) == Some(StepState::Held) => {
                Some(Event::Admitted { step, nonce })
            }
            Holder::Due { nonce } => Some(Event::Due { step, nonce }),
            Holder::Ticket(_) | Holder::None => None,
        }
    }

    /// The ticket of a step that uses a resource is taken back, where nobody has claimed it.
    pub(crate) fn park(&self, step: StepIndex) -> Option<Event> {
        let held = self.held.get(&step).filter(|held| held.lost == 0)?;
        let Holder::Ticket(TicketRef { nonce, .. }) = held.holder else { return None };
        Some(Event::Parked { step, nonce }).filter(|_| self.uses_resources(step))
    }

    fn uses_resources(&self, step: StepIndex) -> bool {
        !self.task.template().step(self.task.pattern(step)).uses.is_empty()
    }

    /// An event happens and is held against every law.
    pub(crate) fn apply(&mut self, event: Event) -> Result<Decision, Refused> {
        let before = self.key();
        let decision = self.happen(&event)?;
        assert_eq!(decision.is_empty(), before == self.key(), "{event:?}: {decision:?}");
        self.changes_nothing(&event);
        self.laws();
        Ok(decision)
    }

    /// An event happens: decided and carried out, and held against the laws of the way, not of the place.
    pub(crate) fn happen(&mut self, event: &Event) -> Result<Decision, Refused> {
        let from = self.task.state();
        let decision = decide(&self.task, event, NOW)?;
        self.make_room(&decision);
        self.moves_are_sound(&decision);
        self.accept(event, &decision);
        decision.evolve(&mut self.task);
        for effect in &decision.effects {
            self.carry_out(*effect);
        }
        self.grant(event, &decision);
        self.task_moves_are_sound(from, &decision);
        Ok(decision)
    }

    /// The same event, or one of the past, is decided on and nothing follows.
    pub(crate) fn changes_nothing(&self, event: &Event) {
        if let Ok(decision) = decide(&self.task, event, NOW) {
            assert!(decision.is_empty(), "{event:?} once more: {decision:?}");
        }
    }

    /// Reports and timers of every earlier ticket and row, and of earlier attempts on the present one.
    pub(crate) fn stale(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (at, last) in self.nonces.iter().enumerate() {
            let step = StepIndex::from(at);
            let held = self.held.get(&step).map(|held| held.holder);
            for number in 1..=*last + 1 {
                let nonce = nonce_of(step, number);
                let (ticket, due) = match held {
                    Some(Holder::Ticket(ticket)) => (ticket.nonce == nonce, false),
                    Some(Holder::Due { nonce: held }) => (false, held == nonce),
                    Some(Holder::None) | None => (false, false),
                };
                let attempts = self.task.attempts(step);
                let tried = if ticket { attempts } else { attempts + 2 };
                events.extend((1..=tried).map(|attempt| {
                    let retryable = Outcome::Failure { retryable: true, retry_after_ms: None };
                    let outcome = if attempt % 2 == 0 { retryable } else { Outcome::Success(Follows::Nothing) };
                    Event::Reported { step, attempt, nonce, outcome }
                }));
                if !due {
                    events.extend([Event::Due { step, nonce }, Event::Admitted { step, nonce }]);
                }
                if !ticket || !self.uses_resources(step) {
                    events.push(Event::Parked { step, nonce });
                }
            }
        }
        events
    }

    /// Nothing is left that could happen without an operator.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.held.is_empty()
    }

    /// The fence: the report that was heard took the ticket, and the claims before it that never reported are told.
    fn accept(&mut self, event: &Event, decision: &Decision) {
        let Event::Reported { step, attempt, nonce: reported, ref outcome } = *event else { return };
        let Some(held) = self.held.get(&step).copied().filter(|held| nonce(held.holder) == Some(reported)) else {
            return;
        };
        let current = matches!(held.holder, Holder::Ticket(_)) && attempt > held.base;
        assert_eq!(decision.is_empty(), !current, "exactly the present ticket is heard: {event:?}");
        if current {
            self.held.remove(&step);
            let budget = self.budgets[step.at()];
            assert!(attempt <= budget + u32::from(*outcome == Outcome::LeaseLost), "attempt {attempt} of {budget}");
            self.attempts[step.at()].extend(held.base + 1..=attempt);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Enqueue { step, base_attempt, .. } => {
                let nonce = self.next_nonce(step);
                let msg_id = i64::from(self.nonces[step.at()]);
                self.hold(step, Holder::Ticket(TicketRef { msg_id, nonce }), base_attempt);
            }
            Effect::Schedule { step, base_attempt, due } => {
                assert_eq!(self.task.live(step).retry_at, Some(due));
                let nonce = self.next_nonce(step);
                self.hold(step, Holder::Due { nonce }, base_attempt);
            }
            Effect::Hold { step } => {
                let nonce = self.next_nonce(step);
                self.hold(step, Holder::Due { nonce }, self.task.attempts(step));
            }
            Effect::Withdraw { step, holder } => {
                let held = self.held.remove(&step).expect("what is withdrawn was there");
                assert_eq!(held.holder, holder);
            }
            Effect::DeadLetter { step, reason } => {
                assert_eq!(self.task.step(step), Some(StepState::Error));
                let attempt = self.task.attempts(step);
                assert!(!self.dead.iter().any(|(s, a, _)| (*s, *a) == (step, attempt)), "filed twice");
                self.dead.push((step, attempt, reason));
            }
            Effect::TaskEnded(state) => assert_eq!(self.task.state(), state),
        }
    }

    fn hold(&mut self, step: StepIndex, holder: Holder, base: u32) {
        self.task.hold(step, holder);
        let before = self.held.insert(step, Held { holder, base, lost: 0 });
        assert_eq!(before, None, "step {step} is held twice");
    }

    fn next_nonce(&mut self, step: StepIndex) -> Nonce {
        self.nonces[step.at()] += 1;
        nonce_of(step, self.nonces[step.at()])
    }

    /// What an operator gave: a new budget, or an attempt made by hand.
    fn grant(&mut self, event: &Event, decision: &Decision) {
        match *event {
            Event::StepReset { step } if !decision.is_empty() => {
                let made = u32::try_from(self.attempts[step.at()].len()).expect("few");
                let pattern = self.task.pattern(step);
                self.budgets[step.at()] = made + self.task.template().step(pattern).retry.max_attempts;
            }
            Event::StepCompleted { step, .. } if !decision.is_empty() => {
                let next = u32::try_from(self.attempts[step.at()].len()).expect("few") + 1;
                self.attempts[step.at()].push(next);
            }
            _ => {}
        }
    }

    /// Batch workers that a decision makes begin with nothing.
    fn make_room(&mut self, decision: &Decision) {
        let Some(expand) = decision.expand else { return };
        let count = expand.count as usize;
        let budget = self.task.template().step(expand.worker).retry.max_attempts;
        self.nonces.extend(std::iter::repeat_n(0, count));
        self.attempts.extend(std::iter::repeat_n(Vec::new(), count));
        self.budgets.extend(std::iter::repeat_n(budget, count));
        self.folded.extend(std::iter::repeat_n(StepState::NotCreated, count));
    }

    /// Each transition starts where its step is, only goes where a step may go, and folds to the stored states.
    fn moves_are_sound(&mut self, decision: &Decision) {
        for t in &decision.transitions {
            use StepState::{
                Cancelled, Complete, Enqueued, Error, Held, NotCreated, Pending, ResolvedManually, Skipped,
                WaitingForRetry,
            };
            let in_batch = self.task.batch_of(t.step).is_some();
            assert_eq!(self.folded[t.step.at()], t.from, "{t:?}");
            let may = match t.from {
                Pending => matches!(t.to, Held | Enqueued | Complete | Cancelled),
                Held => matches!(t.to, Enqueued | Complete | Cancelled),
                Enqueued => matches!(t.to, Held | Complete | WaitingForRetry | Error | Cancelled),
                WaitingForRetry => {
                    matches!(t.to, Held | Enqueued | Complete | WaitingForRetry | Error | Cancelled)
                }
                // A batch worker that is repaired may have to wait for its turn; its siblings come back with it.
                Error => matches!(t.to, Held | Enqueued | Complete | ResolvedManually) || (in_batch && t.to == Pending),
                Cancelled => in_batch && matches!(t.to, Pending | Held | Enqueued),
                NotCreated => matches!(t.to, Pending | Held | Enqueued | Skipped),
                StepState::InProgress | Complete | ResolvedManually | Skipped => false,
            };
            assert!(may, "{t:?}");
            self.folded[t.step.at()] = t.to;
        }
    }

    fn task_moves_are_sound(&mut self, from: TaskState, decision: &Decision) {
        let to = self.task.state();
        assert_eq!(decision.task, (from != to).then_some((from, to)));
        let ended = decision.effects.iter().filter(|effect| matches!(effect, Effect::TaskEnded(_))).count();
        if from == to {
            assert_eq!(ended, 0);
            return;
        }
        assert_eq!(ended, usize::from(to.is_terminal() || to == TaskState::BlockedByFailures));
        assert_eq!(self.terminal, None, "a terminal state is never left");
        self.terminal = Some(to).filter(|state| state.is_terminal());
    }

    /// Whether a step waits no longer for this parent.
    fn is_settled(&self, parent: StepIndex, child: StepIndex) -> bool {
        let kind = |step| self.task.template().step(self.task.pattern(step)).kind;
        match self.task.steps()[parent.at()] {
            state if state.satisfies() => true,
            StepState::Error => self.task.tolerates(parent),
            StepState::Skipped => kind(parent) == StepKind::BatchWorker || kind(child) == StepKind::DeferredConvergence,
            _ => false,
        }
    }

    /// Whether as many batch workers are live as may be.
    fn waits_for_its_turn(&self, step: StepIndex) -> bool {
        let Some(batch) = self.task.batch_of(step) else { return false };
        let live = batch.expansion.steps().filter(|step| self.task.steps()[step.at()].is_live()).count();
        let most = self.task.parallelism(batch.expansion.batchable) as usize;
        assert!(live <= most, "{live} of {most} batch workers are live");
        live == most
    }

    /// What holds between any two events.
    pub(crate) fn laws(&self) {
        let task = &self.task;
        for (at, state) in task.steps().iter().enumerate() {
            let step = StepIndex::from(at);
            let unsatisfied = task.parents(step).iter().filter(|parent| !self.is_settled(**parent, step)).count();
            assert_eq!(task.waiting_parents(step) as usize, unsatisfied, "step {step} of {:?}", task.steps());
            let parked = *state == StepState::Held;
            assert!(!parked || self.uses_resources(step), "step {step} is held by nothing");
            let sent = matches!(held(self, step), Holder::Ticket(_));
            assert!(
                !sent || !self.uses_resources(step) || *state == StepState::Enqueued,
                "a ticket without its permit"
            );
            assert!(!state.is_live() || unsatisfied == 0, "step {step} is {state} before its parents");
            let ready = task.is_started() && unsatisfied == 0 && *state == StepState::Pending;
            assert!(!ready || self.waits_for_its_turn(step), "step {step} is ready and left pending");
            let held = held(self, step);
            assert_eq!(task.live(step).holder, held, "step {step}");
            assert_eq!(state.is_live(), held != Holder::None, "step {step} is {state}, held by {held:?}");
            let attempts = task.attempts(step);
            assert!(self.attempts[at].iter().copied().eq(1..=attempts), "{:?}", self.attempts[at]);
            if let Some(held) = self.held.get(&step) {
                assert_eq!((held.base, task.limit(step)), (attempts, self.budgets[at]));
                assert!(attempts < self.budgets[at], "a live step has an attempt left");
            }
            let filed = self.dead.iter().any(|(s, a, _)| (*s, *a) == (step, attempts));
            assert!(*state != StepState::Error || filed, "step {step} failed without a dead letter");
        }
        assert_eq!(task.steps(), self.folded);
        self.stored_equals_computed();
        let mut same = task.clone();
        Decision::default().evolve(&mut same);
        assert_eq!((same.to_stored(), same.is_started()), (task.to_stored(), task.is_started()));
    }

    fn stored_equals_computed(&self) {
        let stored = self.task.to_stored();
        let template = Arc::clone(self.task.template());
        let read = Task::from_stored(self.task.id(), template, &stored).expect("what was stored can be read");
        assert_eq!(read.to_stored(), stored);
        assert_eq!(read.is_started(), self.task.is_started());
        for state in StepState::ALL {
            let count = self.task.steps().iter().filter(|step| *step == state).count();
            assert_eq!((read.count(*state) as usize, self.task.count(*state) as usize), (count, count));
        }
        for step in (0..stored.steps.len()).map(StepIndex::from) {
            assert_eq!(read.waiting_parents(step), self.task.waiting_parents(step));
            assert_eq!(read.live(step), self.task.live(step));
            assert_eq!((read.attempts(step), read.limit(step)), (self.task.attempts(step), self.task.limit(step)));
        }
    }
}

fn held(world: &World, step: StepIndex) -> Holder {
    world.held.get(&step).map_or(Holder::None, |held| held.holder)
}

fn nonce(holder: Holder) -> Option<Nonce> {
    match holder {
        Holder::None => None,
        Holder::Ticket(ticket) => Some(ticket.nonce),
        Holder::Due { nonce } => Some(nonce),
    }
}

fn nonce_of(step: StepIndex, number: u32) -> Nonce {
    Nonce(Uuid::from_u128((u128::from(step.0) + 1) << 64 | u128::from(number)))
}
