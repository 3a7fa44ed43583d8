//! The database in memory: committed rows, locks, a clock, and the faults that befall it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgmq_notify::{QueueName, Token};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tasker_lifecycle::resource::{Breaker, Resource};
use tasker_lifecycle::template::Template;
use tasker_lifecycle::{DeadLetterReason, Event, Nonce, StepIndex, StoredTask, Task, TaskId, TaskState, Timestamp};
use tasker_shared::messages::{STEP_RESULTS, TASK_REQUESTS, ticket_queue};
use tasker_shared::store::resources::{Gate, Permit, ResourceKey};
use tasker_shared::store::tasks::{Snapshot, reported};
use uuid::Uuid;

use super::Mutant;
use super::checks;
use super::ledger::{Ledger, Moved};
use super::queues::Message;
use super::rows;

const BEGINNING: Timestamp = Timestamp(1_800_000_000_000_000);

/// A row of `tasker.tasks`.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) stored: StoredTask,
    /// What is read from `stored`.
    pub(super) task: Task,
    pub(super) version: i64,
    pub(super) seq: i32,
    pub(super) priority: i16,
    pub(super) correlation_id: Uuid,
    pub(super) updated_at: Timestamp,
}

/// A row of `tasker.attempts`.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) nonce: Uuid,
    pub(super) outcome: &'static str,
    pub(super) retryable: Option<bool>,
    pub(super) retry_after_ms: Option<i64>,
    pub(super) follows: Option<String>,
    pub(super) ended_at: Timestamp,
}

/// A row of `tasker.history`.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) seq: i32,
    pub(super) cause: &'static str,
    pub(super) from: TaskState,
    pub(super) to: TaskState,
    pub(super) moves: Vec<Moved>,
    pub(super) detail: Option<String>,
}

/// Task, step, number.
pub(super) type AttemptKey = (TaskId, StepIndex, u32);

/// What a transaction will do to the rows.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Task(TaskId, Row),
    Attempt(AttemptKey, Attempt),
    History(TaskId, Told),
    Send(QueueName, i64, Message),
    Delete(QueueName, i64),
    /// A report was accepted under this token.
    Accepted(Token),
    Due(TaskId, StepIndex, Nonce, Timestamp),
    /// A resource holds the step.
    Held(TaskId, StepIndex, ResourceKey),
    Undue(TaskId, StepIndex),
    Breaker(ResourceKey, Breaker),
    /// A permit is given or taken back.
    Permit(Permit, bool),
    Dead(AttemptKey, DeadLetterReason),
    /// A dead letter entry tells of this many attempts.
    Described(AttemptKey, usize),
    Key(String, [u8; 32], TaskId),
    Refused(TaskId),
    /// A message that nobody can read.
    Filed,
}

/// What a transaction may hold to its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lock {
    Task(TaskId),
    Message(QueueName, i64),
    Attempt(AttemptKey),
    Key(String),
    Resource(ResourceKey),
}

/// How likely the faults are that befall a statement or a commit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chances {
    pub(super) statement_fails: f64,
    pub(super) outcome_unknown: f64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) now: Timestamp,
    pub(super) template: Arc<Template>,
    pub(super) tasks: BTreeMap<TaskId, Row>,
    pub(super) attempts: BTreeMap<AttemptKey, Attempt>,
    pub(super) history: BTreeMap<TaskId, Vec<Told>>,
    pub(super) queues: BTreeMap<QueueName, BTreeMap<i64, Message>>,
    pub(super) due: BTreeMap<(TaskId, StepIndex), (Nonce, Timestamp)>,
    /// What holds the steps of `due` that wait for no time.
    pub(super) holders: BTreeMap<(TaskId, StepIndex), ResourceKey>,
    pub(super) resources: BTreeMap<ResourceKey, Resource>,
    pub(super) permits: BTreeSet<Permit>,
    pub(super) dead: BTreeMap<AttemptKey, (DeadLetterReason, Option<usize>)>,
    pub(super) keys: BTreeMap<String, ([u8; 32], TaskId)>,
    pub(super) refused: BTreeSet<TaskId>,
    pub(super) locks: BTreeMap<Lock, u64>,
    /// Who waits for whom.
    pub(super) waits: BTreeMap<u64, u64>,
    pub(super) chances: Chances,
    pub(super) ledger: Ledger,
    pub(super) mutant: Option<Mutant>,
    /// Whether everything that happens is printed.
    pub(super) is_told: bool,
    /// The version of a task that each server believes in, for the mutant that does not compare.
    pub(super) believed: BTreeMap<(usize, TaskId), i64>,
    /// How often what happened.
    pub(super) seen: BTreeMap<&'static str, usize>,
    /// The first invariant that did not hold, and why.
    pub(super) broken: Option<(&'static str, String)>,
    events: QueueName,
    last_id: i64,
    last_transaction: u64,
}

impl World {
    pub(super) fn new(seed: u64, template: Arc<Template>, mutant: Option<Mutant>) -> Self {
        let mut queues = BTreeMap::new();
        for queue in [results(), requests(), tickets(&template)] {
            queues.insert(queue, BTreeMap::new());
        }
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: BEGINNING,
            template,
            tasks: BTreeMap::new(),
            attempts: BTreeMap::new(),
            history: BTreeMap::new(),
            queues,
            due: BTreeMap::new(),
            holders: BTreeMap::new(),
            resources: [("shop", Some(2)), ("bank", None)].map(resource).into(),
            permits: BTreeSet::new(),
            dead: BTreeMap::new(),
            keys: BTreeMap::new(),
            refused: BTreeSet::new(),
            locks: BTreeMap::new(),
            waits: BTreeMap::new(),
            chances: Chances { statement_fails: 0.02, outcome_unknown: 0.06 },
            ledger: Ledger::default(),
            mutant,
            is_told: false,
            believed: BTreeMap::new(),
            seen: BTreeMap::new(),
            broken: None,
            events: tasker_shared::events::queue("test"),
            last_id: 0,
            last_transaction: 0,
        }
    }

    /// A resource with what depends on it.
    pub(super) fn gate(&self, key: &ResourceKey) -> Option<Gate> {
        let resource = self.resources.get(key)?.clone();
        let in_flight = self.permits.iter().filter(|(of, _, _)| of == key).count();
        let waiting = self.holders.values().any(|of| of == key);
        Some(Gate { resource, in_flight: u32::try_from(in_flight).unwrap(), waiting })
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{:.3} {}", (self.now.0 - BEGINNING.0) as f64 / 1e6, what());
        }
    }

    pub(super) fn saw(&mut self, what: &'static str) {
        self.tell(|| what.to_owned());
        *self.seen.entry(what).or_default() += 1;
    }

    /// An invariant does not hold. Only the first one counts: what follows from it may be anything.
    pub(super) fn breaks(&mut self, invariant: &'static str, why: String) {
        self.broken.get_or_insert((invariant, why));
    }

    /// Whether a fault of this chance happens now.
    pub(super) fn chance(&mut self, chance: f64, what: &'static str) -> bool {
        let happens = chance > 0.0 && self.rng.random_bool(chance);
        if happens {
            self.saw(what);
        }
        happens
    }

    pub(super) fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn next_transaction(&mut self) -> u64 {
        self.last_transaction += 1;
        self.last_transaction
    }

    pub(super) fn new_task_id(&mut self) -> TaskId {
        TaskId::new(u64::try_from(self.now.0 / 1000).unwrap(), self.rng.random())
    }

    /// The task as it is committed.
    pub(super) fn task(&self, id: TaskId) -> Option<Task> {
        Some(self.tasks.get(&id)?.task.clone())
    }

    pub(super) fn snapshot(&self, id: TaskId) -> Option<Snapshot> {
        let Row { task, version, seq, priority, correlation_id, .. } = self.tasks.get(&id)?.clone();
        Some(Snapshot { task, version, seq, priority, correlation_id })
    }

    pub(super) fn row(&self, snapshot: &Snapshot) -> Row {
        let Snapshot { task, version, seq, priority, correlation_id } = snapshot;
        let stored = task.to_stored();
        let task = Task::from_stored(task.id(), Arc::clone(&self.template), &stored).unwrap();
        let (version, seq, priority, correlation_id) = (*version, *seq, *priority, *correlation_id);
        Row { stored, task, version, seq, priority, correlation_id, updated_at: self.now }
    }

    /// Attempts that are stored and that their task does not know, by their end.
    pub(super) fn undecided(&self, id: TaskId) -> Vec<(Timestamp, Event)> {
        let Some(task) = self.task(id) else { return Vec::new() };
        let mut found = Vec::new();
        for (step, live) in task.held() {
            let nonce = rows::nonce(live.holder);
            for ((_, _, number), attempt) in self.attempts_of(id, step).filter(|(_, a)| nonce == Some(a.nonce)) {
                found.extend(attempt.event(step, *number).map(|event| (attempt.ended_at, event)));
            }
        }
        found.sort_by_key(|(ended_at, _)| *ended_at);
        found
    }

    pub(super) fn attempts_of(
        &self,
        id: TaskId,
        step: StepIndex,
    ) -> impl Iterator<Item = (&AttemptKey, &Attempt)> + '_ {
        self.attempts.range((id, step, 0)..=(id, step, u32::MAX))
    }

    /// What another life of the same seed must tell, too.
    pub(super) fn story(&self) -> String {
        let told =
            self.history.iter().flat_map(|(id, told)| told.iter().map(move |told| (id, told.cause, &told.moves)));
        format!("{} {} {:?}", self.now.0, self.last_transaction, told.collect::<Vec<_>>())
    }

    /// All or nothing, and then the invariants.
    pub(super) fn commit(&mut self, changes: Vec<Change>) {
        let mut touched = BTreeSet::new();
        for change in changes {
            touched.extend(self.apply(change));
        }
        for task in touched {
            if let Err((invariant, why)) = checks::after_commit(self, task) {
                self.breaks(invariant, format!("task {task}: {why}"));
            }
        }
    }

    /// Answers with the task that is touched.
    fn apply(&mut self, change: Change) -> Option<TaskId> {
        match change {
            Change::Task(id, row) => {
                if let Some(old) = self.tasks.get(&id).map(|row| row.stored.state).filter(|state| state.is_terminal()) {
                    self.breaks("I8", format!("task {id} was {old} and is written again as {}", row.stored.state));
                }
                self.tasks.insert(id, row);
                return Some(id);
            }
            Change::Attempt(key, attempt) => {
                if let Some(old) = self.attempts.insert(key, attempt) {
                    self.breaks("I4", format!("attempt {key:?} had an outcome already: {old:?}"));
                }
                return Some(key.0);
            }
            Change::History(id, told) => {
                self.ledger.told(id, &told);
                self.history.entry(id).or_default().push(told);
                return Some(id);
            }
            Change::Send(queue, msg_id, message) => return self.send(queue, msg_id, message),
            Change::Delete(queue, msg_id) => {
                let gone = self.queues.get_mut(&queue).unwrap().remove(&msg_id);
                return gone.and_then(|message| message.ticket).map(|ticket| ticket.task);
            }
            Change::Accepted(token) => {
                if let Err(why) = self.ledger.accepted(&token) {
                    self.breaks("I4", why);
                }
            }
            Change::Due(id, step, nonce, at) => {
                self.due.entry((id, step)).or_insert((nonce, at));
            }
            Change::Undue(id, step) => {
                self.due.remove(&(id, step));
                self.holders.remove(&(id, step));
            }
            Change::Dead(key, reason) => {
                self.dead.entry(key).or_insert((reason, None));
            }
            Change::Described(key, attempts) => {
                self.dead.get_mut(&key).unwrap().1 = Some(attempts);
            }
            Change::Key(key, hash, task) => {
                if let Some((_, other)) = self.keys.insert(key.clone(), (hash, task)) {
                    self.breaks("I2", format!("key {key} names {other} and {task}"));
                }
            }
            Change::Refused(task) => {
                self.refused.insert(task);
            }
            Change::Filed => self.saw("a message that nobody can read"),
            Change::Held(..) | Change::Breaker(..) | Change::Permit(..) => return self.apply_to_resource(change),
        }
        None
    }

    fn apply_to_resource(&mut self, change: Change) -> Option<TaskId> {
        match change {
            Change::Held(id, step, key) => {
                self.saw("a resource held a step");
                self.holders.insert((id, step), key);
            }
            Change::Breaker(key, breaker) => {
                if matches!(breaker, Breaker::Open { .. }) {
                    self.saw("a breaker opened");
                }
                self.resources.get_mut(&key).unwrap().breaker = breaker;
            }
            Change::Permit(permit, is_given) => {
                let id = permit.1;
                // One that came back and was given again in one batch is there already.
                let _same = if is_given { self.permits.insert(permit) } else { self.permits.remove(&permit) };
                return Some(id);
            }
            _ => {}
        }
        None
    }

    fn send(&mut self, queue: QueueName, msg_id: i64, message: Message) -> Option<TaskId> {
        let ticket = message.ticket;
        if let Some(ticket) = ticket {
            self.ledger.sent(&queue, msg_id, &ticket, message.read_ct);
        } else if queue == self.events {
            // Nobody reads it: the ledger knows.
            if let Err(why) = self.ledger.published(&message.body) {
                self.breaks("I6", why);
            }
            return None;
        }
        self.queues.get_mut(&queue).unwrap().insert(msg_id, message);
        ticket.map(|ticket| ticket.task)
    }
}

impl Attempt {
    pub(super) fn event(&self, step: StepIndex, number: u32) -> Option<Event> {
        let (step, number) = (i32::try_from(step.0).unwrap(), i32::try_from(number).unwrap());
        let failure = (self.retryable, self.retry_after_ms);
        reported(step, number, self.nonce, self.outcome, failure, self.follows.as_deref())
    }
}

pub(super) fn results() -> QueueName {
    QueueName::new(STEP_RESULTS).unwrap()
}

pub(super) fn requests() -> QueueName {
    QueueName::new(TASK_REQUESTS).unwrap()
}

pub(super) fn tickets(template: &Template) -> QueueName {
    ticket_queue(template.namespace.as_str(), "default", 0).unwrap()
}

/// Two failures in a row open it, for a second at first.
fn resource((name, max_in_flight): (&str, Option<u32>)) -> (ResourceKey, Resource) {
    let breaker = Breaker::Closed { failures: 0 };
    let key = ResourceKey { namespace: "test".to_owned(), name: name.to_owned() };
    (key, Resource { max_in_flight, failures_to_open: 2, open_ms: 1_000, max_open_ms: 60_000, paused: false, breaker })
}
