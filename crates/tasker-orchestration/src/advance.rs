//! One batch: snapshots in, decisions made, everything that follows written in the caller's transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgmq_notify::{Outgoing, QueueName, Token};
use tasker_lifecycle::{
    Effect, Event, Holder, Nonce, Refused, StepIndex, TaskId, TaskState, TicketRef, Timestamp, decide,
};
use tasker_shared::events::Published;
use tasker_shared::local::{LocalClaim, LocalWorker};
use tasker_shared::messages::{Claim, TicketBody, ticket_queue};
use tasker_shared::store::due::DueTime;
use tasker_shared::store::resources::HeldStep;
use tasker_shared::store::tasks::Snapshot;
use tasker_shared::store::writes::Writes;
use tasker_shared::store::{StoreError, dead_letters, tasks};
use uuid::Uuid;

use crate::engine::Parts;
use crate::session::Session;
use crate::uses::{Answer, Nudge, Uses};

/// The tasks of a batch, what was decided on them, and what follows.
#[derive(Debug)]
pub(crate) struct Advance {
    pub(crate) writes: Writes,
    now: Timestamp,
    /// `now` on this process's monotonic clock, later by at most the answer's way.
    began: Instant,
    tasks: Vec<Touched>,
    by_id: HashMap<TaskId, usize>,
    wanted: Vec<Wanted>,
    uses: Uses,
    after: After,
}

#[derive(Debug)]
struct Touched {
    snapshot: Snapshot,
    changed: bool,
}

/// A ticket that is to be sent.
#[derive(Debug)]
struct Wanted {
    at: usize,
    step: StepIndex,
    base_attempt: u32,
    delay_ms: u64,
}

/// What is done once the commit is known, and forgotten where it failed.
#[derive(Debug, Default)]
pub(crate) struct After {
    snapshots: Vec<Snapshot>,
    claims: Vec<LocalClaim>,
    queues: Vec<QueueName>,
    touched: Vec<(TaskId, i32, TaskState)>,
    dead_letters: usize,
    nudge: Nudge,
}

impl Advance {
    /// A batch at the moment `now`, over tasks that are locked.
    pub(crate) fn new(now: Timestamp, snapshots: Vec<Snapshot>) -> Self {
        let by_id = snapshots.iter().enumerate().map(|(at, s)| (s.task.id(), at)).collect();
        let tasks = snapshots.into_iter().map(|snapshot| Touched { snapshot, changed: false }).collect();
        let (writes, wanted, after) = (Writes::default(), Vec::new(), After::default());
        Self { writes, now, began: Instant::now(), tasks, by_id, wanted, uses: Uses::default(), after }
    }

    /// The batch's one clock reading.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether one statement writes what was decided so far.
    pub(crate) fn is_one_statement(&self) -> bool {
        self.writes.are_one_statement() && self.uses.is_empty()
    }

    /// The snapshot of a task in this batch, as far as it was decided.
    pub(crate) fn snapshot(&self, task: TaskId) -> Option<&Snapshot> {
        self.by_id.get(&task).map(|at| &self.tasks[*at].snapshot)
    }

    /// Decides on one event and gathers what follows. Answers whether anything did.
    pub(crate) fn event(&mut self, task: TaskId, event: &Event) -> Result<bool, Refused> {
        let Some(&at) = self.by_id.get(&task) else { return Ok(false) };
        let snapshot = &mut self.tasks[at].snapshot;
        let decision = decide(&snapshot.task, event, self.now)?;
        if decision.is_empty() {
            return Ok(false);
        }
        decision.evolve(&mut snapshot.task);
        self.uses.note(&snapshot.task, event, &decision);
        let state = snapshot.task.state();
        self.writes.history(task, &mut snapshot.seq, event.cause(), &decision, state);
        self.tasks[at].changed = true;
        for effect in decision.effects {
            self.effect(at, effect);
        }
        Ok(true)
    }

    fn effect(&mut self, at: usize, effect: Effect) {
        let snapshot = &mut self.tasks[at].snapshot;
        let task = snapshot.task.id();
        match effect {
            Effect::Enqueue { step, base_attempt, delay_ms } => {
                self.wanted.push(Wanted { at, step, base_attempt, delay_ms });
            }
            Effect::Schedule { step, due, .. } => {
                let nonce = Nonce(Uuid::from_u128(rand::random()));
                snapshot.task.hold(step, Holder::Due { nonce });
                self.writes.schedule(DueTime { task, step, nonce, resource: None, replaces: false, due });
            }
            Effect::Hold { step } => {
                let nonce = Nonce(Uuid::from_u128(rand::random()));
                snapshot.task.hold(step, Holder::Due { nonce });
                let resource = self.uses.ask(&snapshot.task, step, nonce);
                self.writes.schedule(DueTime { task, step, nonce, resource, replaces: false, due: self.now });
            }
            Effect::Withdraw { step, holder: Holder::Ticket(ticket) } => {
                let queue = queue_of(snapshot, step);
                let TicketRef { msg_id, nonce } = ticket;
                self.writes.withdraw(Token { queue, msg_id, read_ct: 0, nonce: nonce.0 });
            }
            Effect::Withdraw { step, holder: Holder::Due { .. } } => self.writes.unschedule(task, step),
            // Its ticket was to be sent by this same batch.
            Effect::Withdraw { step, holder: Holder::None } => self.wanted.retain(|w| (w.at, w.step) != (at, step)),
            Effect::DeadLetter { step, reason } => {
                let attempt = snapshot.task.attempts(step);
                self.writes.dead_letter(dead_letters::Filing { task, step, attempt, reason });
                self.after.dead_letters += 1;
            }
            // The state is in `touched`: watchers and the finalizer learn of it after the commit.
            Effect::TaskEnded(_) => {}
        }
    }

    /// A step that a resource holds may have room now; the next settling tells.
    pub(crate) fn ask_again(&mut self, held: HeldStep) {
        if let Some(&at) = self.by_id.get(&held.task) {
            self.uses.ask_again(&self.tasks[at].snapshot.task, held);
        }
    }

    /// Takes back the tickets of steps that nobody has claimed yet; the steps are held again.
    pub(crate) async fn take_back(
        &mut self,
        conn: &mut impl Session,
        steps: &[(TaskId, StepIndex)],
    ) -> Result<(), StoreError> {
        let mut sent = Vec::new();
        for (task, step) in steps {
            let Some(snapshot) = self.snapshot(*task) else { continue };
            let Holder::Ticket(TicketRef { msg_id, nonce }) = snapshot.task.live(*step).holder else { continue };
            sent.push((*task, *step, Token { queue: queue_of(snapshot, *step), msg_id, read_ct: 0, nonce: nonce.0 }));
        }
        let tokens: Vec<Token> = sent.iter().map(|(_, _, token)| token.clone()).collect();
        for at in conn.delete_unclaimed(&tokens).await? {
            let (task, step, token) = &sent[at];
            let parked = self.event(*task, &Event::Parked { step: *step, nonce: Nonce(token.nonce) });
            debug_assert_eq!(parked, Ok(true), "only a step that is enqueued has permits");
        }
        Ok(())
    }

    /// Lets held steps through where there is room, and keeps the others.
    async fn admit(&mut self, conn: &mut impl Session) -> Result<(), StoreError> {
        let (tasks, by_id) = (&self.tasks, &self.by_id);
        self.uses.keep(|task, step, nonce| {
            by_id.get(&task).is_some_and(|at| tasks[*at].snapshot.task.live(step).holder == (Holder::Due { nonce }))
        });
        for answer in self.uses.answers(conn, self.now).await? {
            match answer {
                Answer::Admitted(asked) => {
                    let event = Event::Admitted { step: asked.step, nonce: asked.nonce };
                    let admitted = self.event(asked.task, &event);
                    debug_assert_eq!(admitted, Ok(true), "only a step that is held asks");
                }
                Answer::Held(asked, key) => {
                    let (task, step, nonce, due) = (asked.task, asked.step, asked.nonce, self.now);
                    let replaces = asked.holder.is_some();
                    self.writes.schedule(DueTime { task, step, nonce, resource: Some(key), replaces, due });
                }
            }
        }
        Ok(())
    }

    /// Lets through what there is room for, then gives every wanted ticket its number and nonce, and claims those that the local worker takes at
    /// once. Needed before a further event may touch the same steps.
    pub(crate) async fn settle(&mut self, conn: &mut impl Session, parts: &Parts) -> Result<(), StoreError> {
        self.admit(conn).await?;
        let wanted = std::mem::take(&mut self.wanted);
        let mut by_queue: BTreeMap<QueueName, Vec<Wanted>> = BTreeMap::new();
        for want in wanted {
            let queue = queue_of(&self.tasks[want.at].snapshot, want.step);
            by_queue.entry(queue).or_default().push(want);
        }
        for (queue, wanted) in by_queue {
            let count = u32::try_from(wanted.len()).expect("at most 100,000 per task of a bounded batch");
            let ids = conn.message_ids(&parts.ids, &queue, count).await?;
            let mut visible = false;
            for (want, msg_id) in wanted.iter().zip(ids) {
                visible |= !self.ticket(want, &queue, msg_id, parts.local.as_ref());
            }
            if visible {
                self.after.queues.push(queue);
            }
        }
        Ok(())
    }

    /// Adds one ticket; answers whether the local worker has it.
    fn ticket(&mut self, want: &Wanted, queue: &QueueName, msg_id: i64, local: Option<&LocalWorker>) -> bool {
        let snapshot = &mut self.tasks[want.at].snapshot;
        let nonce = Nonce(Uuid::from_u128(rand::random()));
        snapshot.task.hold(want.step, Holder::Ticket(TicketRef { msg_id, nonce }));
        let task = snapshot.task.id();
        let base_attempt = i32::try_from(want.base_attempt).unwrap_or(i32::MAX);
        let correlation_id = snapshot.correlation_id;
        let body = TicketBody { task_uuid: task, step_uuid: task.step(want.step), correlation_id, base_attempt, nonce };
        let body = serde_json::to_string(&body).expect("uuids and numbers always encode");
        let ticket = Outgoing::new(queue.clone(), msg_id, body);
        let template = snapshot.task.template();
        let handler = &template.step(snapshot.task.pattern(want.step)).handler;
        let slot = local.filter(|_| want.delay_ms == 0).and_then(|local| local.reserve(queue, handler));
        let (Some(slot), Some(local)) = (slot, local) else {
            self.writes.ticket(ticket.delayed(Duration::from_millis(want.delay_ms)));
            return false;
        };
        self.writes.ticket(ticket.claimed(Duration::from_millis(local.lease_ms())));
        let claim = Claim {
            token: Token { queue: queue.clone(), msg_id, read_ct: 1, nonce: nonce.0 },
            task,
            step: want.step,
            correlation_id,
            base_attempt,
            attempt: want.base_attempt + 1,
            claimed_at: self.now,
        };
        let (template, shape) = (Arc::clone(template), snapshot.task.shape());
        self.after.claims.push(LocalClaim { claim, template, shape, slot, claimed: self.began });
        true
    }

    /// Adds the durable ones of these events.
    pub(crate) async fn publish(
        &mut self,
        conn: &mut impl Session,
        parts: &Parts,
        events: impl Iterator<Item = &Published>,
    ) -> Result<(), StoreError> {
        let mut by_queue: BTreeMap<QueueName, Vec<String>> = BTreeMap::new();
        for Published { event, .. } in events.filter(|published| published.is_durable()) {
            by_queue.entry(event.queue()).or_default().push(event.to_json());
        }
        for (queue, bodies) in by_queue {
            let count = u32::try_from(bodies.len()).expect("a few per report of a bounded batch");
            let ids = conn.message_ids(&parts.ids, &queue, count).await?;
            for (body, msg_id) in bodies.into_iter().zip(ids) {
                self.writes.event(Outgoing::new(queue.clone(), msg_id, body));
            }
            self.after.queues.push(queue);
        }
        Ok(())
    }

    /// Writes everything. What is answered is for after the commit.
    pub(crate) async fn write(mut self, conn: &mut impl Session, parts: &Parts) -> Result<After, StoreError> {
        self.settle(conn, parts).await?;
        for touched in self.tasks.iter_mut().filter(|touched| touched.changed) {
            touched.snapshot.version = rand::random();
        }
        let changed: Vec<&Snapshot> = self.tasks.iter().filter(|t| t.changed).map(|t| &t.snapshot).collect();
        if !changed.is_empty() || !self.writes.is_empty() {
            conn.apply(self.writes, &changed, self.now, &parts.name).await?;
        }
        let mut after = self.after;
        after.nudge = self.uses.write(conn, self.now).await?;
        let seen = |t: &Touched| (t.snapshot.task.id(), t.snapshot.seq, t.snapshot.task.state());
        after.touched = self.tasks.iter().filter(|t| t.changed).map(seen).collect();
        after.snapshots = self.tasks.into_iter().map(|t| t.snapshot).collect();
        Ok(after)
    }

    /// Inserts the batch's tasks, which are new.
    pub(crate) async fn insert(
        mut self,
        conn: &mut impl Session,
        parts: &Parts,
        mut details: Vec<(Arc<serde_json::value::RawValue>, tasks::Details)>,
    ) -> Result<After, StoreError> {
        self.settle(conn, parts).await?;
        let mut new = Vec::with_capacity(self.tasks.len());
        for (touched, (context, details)) in self.tasks.into_iter().zip(details.drain(..)) {
            let mut snapshot = touched.snapshot;
            snapshot.version = rand::random();
            new.push(tasks::NewTask { snapshot, context, details });
        }
        conn.insert(self.writes, &new, self.now, &parts.name).await?;
        let mut after = self.after;
        after.nudge = self.uses.write(conn, self.now).await?;
        after.snapshots = new.into_iter().map(|task| task.snapshot).collect();
        Ok(after)
    }
}

impl After {
    /// The commit is known: hand over claims, keep snapshots, wake whoever waits.
    pub(crate) fn committed(self, parts: &Parts) {
        for snapshot in self.snapshots {
            if !snapshot.task.state().is_terminal() {
                parts.snapshots.put(snapshot);
            }
        }
        for queue in &self.queues {
            parts.wake(queue);
        }
        parts.doorbell.nudge(&self.nudge, &parts.metrics);
        if let Some(local) = &parts.local {
            for claim in self.claims {
                local.hand_over(claim);
            }
        }
        for (task, seq, state) in &self.touched {
            parts.watch.committed(*task, *seq, *state);
        }
        let ended = self.touched.iter().filter(|(_, _, state)| state.is_terminal());
        let ended: Vec<(TaskId, TaskState)> = ended.map(|(task, _, state)| (*task, *state)).collect();
        if !ended.is_empty() || self.dead_letters > 0 {
            parts.finalize(ended, self.dead_letters > 0);
        }
    }
}

/// The queue of a step: its namespace, pool and the task's priority say which.
pub(crate) fn queue_of(snapshot: &Snapshot, step: StepIndex) -> QueueName {
    let template = snapshot.task.template();
    let pool = template.step(snapshot.task.pattern(step)).pool.as_str();
    ticket_queue(template.namespace.as_str(), pool, snapshot.priority)
        .expect("namespace and pool are bounded so that every queue name is valid")
}

/// Loads the snapshots of locked tasks: from the cache where the version is the locked one.
pub(crate) async fn snapshots(
    conn: &mut impl Session,
    parts: &Parts,
    versions: &HashMap<TaskId, i64>,
) -> Result<Vec<Snapshot>, StoreError> {
    let mut found = Vec::with_capacity(versions.len());
    let mut missing = Vec::new();
    for (task, version) in versions {
        match parts.snapshots.take(*task, *version) {
            Some(snapshot) => found.push(snapshot),
            None => missing.push(*task),
        }
    }
    parts.metrics.cache_hits.inc_by(found.len() as u64);
    parts.metrics.cache_misses.inc_by(missing.len() as u64);
    if !missing.is_empty() {
        found.extend(conn.load(&missing, &parts.templates).await?);
    }
    Ok(found)
}

#[cfg(test)]
#[path = "../tests/conformance/mod.rs"]
pub(crate) mod conformance;

#[cfg(test)]
#[path = "../tests/interleavings/mod.rs"]
mod interleavings;
