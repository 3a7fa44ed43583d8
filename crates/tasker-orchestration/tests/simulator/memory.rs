//! The actors' transactions in memory. Each statement is a turn: the scheduler may let others go first, a fault may
//! befall it, or the process that asked for it dies and the transaction is rolled back.
//!
//! A statement sees what is committed when it runs. It waits for the locks of others, as on PostgreSQL, and looks again
//! once it has them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use pgmq_notify::{IdBlocks, Popped, QueueName, Token};
use semver::Version;
use tasker_lifecycle::resource::Breaker;
use tasker_lifecycle::template::{Template, TemplateHash};
use tasker_lifecycle::{Event, StepIndex, TaskId, Timestamp};
use tasker_shared::crash_point::Injected;
use tasker_shared::messages::{Report, Verdict};
use tasker_shared::store::idempotency::{Held, Key};
use tasker_shared::store::ledger::Filed;
use tasker_shared::store::refusals::Refusal;
use tasker_shared::store::resources::{Gate, HeldStep, Permit, ResourceKey};
use tasker_shared::store::staleness::Stale;
use tasker_shared::store::tasks::{Locked, NewTask, Snapshot, StoredResult};
use tasker_shared::store::templates::{Resolved, Templates};
use tasker_shared::store::writes::{Expected, Writes};
use tasker_shared::store::{StoreError, to_sql};
use uuid::Uuid;

use super::Mutant;
use super::queues::{Hint, Message};
use super::rows;
use super::world::{AttemptKey, Change, Lock, World, results};
use crate::session::{Database, Session};

/// The database as one process sees it.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    world: Arc<Mutex<World>>,
    /// Which process.
    who: usize,
}

/// An open transaction. Dropped, it is rolled back.
#[derive(Debug)]
pub(super) struct Open {
    memory: Memory,
    id: u64,
    changes: Vec<Change>,
}

/// Lets others go first.
async fn turn() {
    let mut was_polled = false;
    poll_fn(|_| if std::mem::replace(&mut was_polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl Memory {
    pub(super) fn new(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), who: 0 }
    }

    pub(super) fn of(&self, who: usize) -> Self {
        Self { world: Arc::clone(&self.world), who }
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        f(&mut self.world.lock().unwrap())
    }
}

impl Database for Memory {
    type Session = Open;
    type Open = Box<Open>;

    async fn begin(&self) -> Result<Box<Open>, StoreError> {
        turn().await;
        let id = self.with(World::next_transaction);
        Ok(Box::new(Open { memory: self.clone(), id, changes: Vec::new() }))
    }

    async fn begin_one(&self) -> Result<Box<Open>, StoreError> {
        self.begin().await
    }

    async fn commit(mut open: Box<Open>) -> Result<(), StoreError> {
        turn().await;
        let changes = std::mem::take(&mut open.changes);
        let is_known = open.memory.with(|world| {
            world.tell(|| format!("transaction {}: commit of {changes:?}", open.id));
            let chance = world.chances.outcome_unknown;
            if world.chance(chance / 2.0, "a commit that failed was not known to") {
                return false;
            }
            world.commit(changes);
            !world.chance(chance / 2.0, "a commit that succeeded was not known to")
        });
        drop(open);
        // Who dies here has committed and never learns of it.
        turn().await;
        if is_known { Ok(()) } else { Err(Injected("simulator").into()) }
    }

    async fn pause(&self, _time: Duration) {
        turn().await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let id = self.id;
        self.memory.with(|world| {
            world.locks.retain(|_, holder| *holder != id);
            world.waits.remove(&id);
            world.tell(|| format!("transaction {id}: ends"));
            if world.mutant == Some(Mutant::MessagesGoBeforeTheCommit) {
                world.commit(changes.into_iter().filter(|change| matches!(change, Change::Send(..))).collect());
            }
        });
    }
}

impl Open {
    fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        self.memory.with(f)
    }

    async fn statement(&self, name: &str) -> Result<(), StoreError> {
        turn().await;
        let fails = self.with(|world| {
            world.tell(|| format!("transaction {}: {name}", self.id));
            world.chance(world.chances.statement_fails, "a statement failed")
        });
        if fails { Err(Injected("simulator").into()) } else { Ok(()) }
    }

    fn try_lock(&self, lock: &Lock) -> bool {
        self.with(|world| match world.locks.get(lock) {
            Some(holder) if *holder != self.id => {
                world.waits.insert(self.id, *holder);
                let mut at = *holder;
                while let Some(next) = world.waits.get(&at) {
                    at = *next;
                    if at == self.id {
                        world.breaks("lock order", format!("transactions wait for each other at {lock:?}"));
                        break;
                    }
                }
                false
            }
            _ => {
                world.waits.remove(&self.id);
                world.locks.insert(lock.clone(), self.id);
                true
            }
        })
    }

    async fn lock(&self, lock: Lock) {
        while !self.try_lock(&lock) {
            turn().await;
        }
    }

    async fn lock_tasks(&self, tasks: impl IntoIterator<Item = TaskId>) {
        for task in tasks {
            if self.with(|world| world.mutant != Some(Mutant::TasksAreNotLocked) && world.tasks.contains_key(&task)) {
                self.lock(Lock::Task(task)).await;
            }
        }
    }

    /// Deletes the tickets of tokens in the order of their numbers; answers which were there.
    async fn delete(&mut self, tokens: &[&Token], is_there: fn(&World, &Token) -> bool) -> Vec<usize> {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|at| (&tokens[*at].queue, tokens[*at].msg_id));
        let mut taken = Vec::new();
        for at in order {
            let token = tokens[at];
            if self.with(|world| is_there(world, token)) {
                self.lock(Lock::Message(token.queue.clone(), token.msg_id)).await;
                let is_mine = |change: &Change| matches!(change, Change::Delete(queue, id) if *queue == token.queue && *id == token.msg_id);
                if self.with(|world| is_there(world, token)) && !self.changes.iter().any(is_mine) {
                    self.changes.push(Change::Delete(token.queue.clone(), token.msg_id));
                    taken.push(at);
                }
            }
        }
        taken.sort_unstable();
        taken
    }

    /// A worker's reports, as `tasker.report` takes them.
    pub(super) async fn report(&mut self, reports: &[Report]) -> Result<Vec<Verdict>, StoreError> {
        self.statement("report").await?;
        let tokens: Vec<&Token> = reports.iter().map(|report| &report.claim.token).collect();
        let taken = self.delete(&tokens, World::is_current).await;
        let mut verdicts = vec![Verdict::Refused; reports.len()];
        for at in &taken {
            let report = &reports[*at];
            let (accepted, mut lost) = rows::attempts_of(report);
            self.lock(Lock::Attempt(accepted.0)).await;
            if self.with(|world| world.attempts.contains_key(&accepted.0)) {
                continue;
            }
            verdicts[*at] = Verdict::Accepted;
            lost.retain(|(key, _)| self.with(|world| !world.attempts.contains_key(key)));
            self.changes.push(Change::Accepted(report.claim.token.clone()));
            self.changes.extend([accepted].into_iter().chain(lost).map(|(key, attempt)| Change::Attempt(key, attempt)));
            let (hint, events) = self.with(|world| rows::told_by(world, report));
            self.changes.push(hint);
            self.changes.extend(events);
        }
        for (at, verdict) in self.with(|world| rows::verdicts(world, reports, &taken)) {
            verdicts[at] = verdict;
        }
        Ok(verdicts)
    }

    /// As `tasker.take_expected`.
    async fn take_expected(&mut self, Expected { tasks, tokens }: &Expected) -> Result<(), StoreError> {
        self.lock_tasks(tasks.keys().copied()).await;
        let is_as_expected = |world: &World, id: &TaskId, version: i64| {
            world.mutant == Some(Mutant::AnyVersionWillDo)
                || world.tasks.get(id).is_some_and(|row| row.version == version)
        };
        if !self.with(|world| tasks.iter().all(|(id, version)| is_as_expected(world, id, *version))) {
            self.with(|world| world.saw("a task was not as it was expected"));
            return Err(StoreError::Overtaken);
        }
        let wanted: Vec<&Token> = tokens.iter().collect();
        if self.delete(&wanted, World::is_current).await.len() < tokens.len() {
            self.with(|world| world.saw("a ticket was not as it was expected"));
            return Err(StoreError::Overtaken);
        }
        self.changes.extend(tokens.iter().cloned().map(Change::Accepted));
        Ok(())
    }

    async fn write_attempts(&mut self, attempts: Vec<(AttemptKey, super::world::Attempt)>) -> Result<(), StoreError> {
        for (key, attempt) in attempts {
            self.lock(Lock::Attempt(key)).await;
            if self.with(|world| world.attempts.contains_key(&key)) {
                return Err(StoreError::Template(format!("attempt {key:?} is stored already")));
            }
            self.changes.push(Change::Attempt(key, attempt));
        }
        Ok(())
    }
}

impl Session for Open {
    async fn lock_and_take(&mut self, tasks: &[TaskId], tokens: &[&Token]) -> Result<Locked, StoreError> {
        self.statement("lock_and_take").await?;
        self.lock_tasks(tasks.iter().copied()).await;
        let who = self.memory.who;
        let (versions, now) = self.with(|world| {
            let version = |id: &TaskId| {
                let stored = world.tasks.get(id)?.version;
                let believed =
                    world.believed.get(&(who, *id)).filter(|_| world.mutant == Some(Mutant::AnyVersionWillDo));
                Some((*id, believed.copied().unwrap_or(stored)))
            };
            let versions: HashMap<TaskId, i64> = tasks.iter().filter_map(version).collect();
            let now = if versions.is_empty() { Timestamp::default() } else { world.now };
            (versions, now)
        });
        let taken = self.delete(tokens, World::is_current).await;
        for at in &taken {
            self.changes.push(Change::Accepted(tokens[*at].clone()));
        }
        Ok(Locked { versions, taken, now })
    }

    async fn take_results(&mut self, qty: i32) -> Result<Vec<StoredResult>, StoreError> {
        let popped = self.pop(&results(), u32::try_from(qty).unwrap()).await?;
        let hints: Vec<Option<Hint>> = popped.iter().map(|m| serde_json::from_str(&m.body).ok()).collect();
        let mut tasks: Vec<TaskId> = hints.iter().flatten().map(|hint| hint.task_uuid).collect();
        tasks.sort_unstable();
        self.lock_tasks(tasks).await;
        let who = self.memory.who;
        Ok(self.with(|world| rows::stored_results(world, who, popped, &hints)))
    }

    async fn load(&mut self, tasks: &[TaskId], _templates: &Templates) -> Result<Vec<Snapshot>, StoreError> {
        self.statement("load").await?;
        let who = self.memory.who;
        Ok(self.with(|world| {
            let found: Vec<Snapshot> = tasks.iter().filter_map(|id| world.snapshot(*id)).collect();
            world.believed.extend(found.iter().map(|snapshot| ((who, snapshot.task.id()), snapshot.version)));
            found
        }))
    }

    async fn existing(&mut self, tasks: &[TaskId]) -> Result<Vec<TaskId>, StoreError> {
        self.statement("existing").await?;
        Ok(self.with(|world| tasks.iter().copied().filter(|id| world.tasks.contains_key(id)).collect()))
    }

    async fn undecided_of(&mut self, tasks: &[TaskId]) -> Result<Vec<(TaskId, Event)>, StoreError> {
        self.statement("undecided_of").await?;
        let of = |world: &World, id: TaskId| world.undecided(id).into_iter().map(move |(_, event)| (id, event));
        Ok(self.with(|world| tasks.iter().flat_map(|id| of(world, *id)).collect()))
    }

    async fn attempts_of(&mut self, steps: &[(TaskId, StepIndex)]) -> Result<Vec<u32>, StoreError> {
        self.statement("attempts_of").await?;
        let last =
            |world: &World, (task, step): (TaskId, StepIndex)| world.attempts_of(task, step).last().map(|(k, _)| k.2);
        Ok(self.with(|world| steps.iter().map(|step| last(world, *step).unwrap_or(0)).collect()))
    }

    async fn carried_out(&mut self, tasks: &[TaskId], actions: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        self.statement("carried_out").await?;
        Ok(self.with(|world| {
            let told = tasks.iter().filter_map(|id| world.history.get(id)).flatten();
            let details: Vec<&String> = told.filter_map(|told| told.detail.as_ref()).collect();
            let is_told = |action: &Uuid| details.iter().any(|detail| detail.contains(&action.to_string()));
            actions.iter().copied().filter(is_told).collect()
        }))
    }

    async fn discard(&mut self, reports: &[Report], taken: &[usize]) -> Result<Vec<(usize, Verdict)>, StoreError> {
        self.statement("discard").await?;
        Ok(self.with(|world| rows::verdicts(world, reports, taken)))
    }

    async fn claim_keys(&mut self, keys: &[Key]) -> Result<Vec<Held>, StoreError> {
        self.statement("claim_keys").await?;
        let name = |key: &Key| format!("{}/{}", key.namespace, key.key);
        let mut order: Vec<&Key> = keys.iter().collect();
        order.sort_by_key(|key| (name(key), key.task));
        let mut mine: BTreeMap<String, ([u8; 32], TaskId)> = BTreeMap::new();
        for key in order {
            self.lock(Lock::Key(name(key))).await;
            if self.with(|world| !world.keys.contains_key(&name(key))) && !mine.contains_key(&name(key)) {
                mine.insert(name(key), (key.body_hash, key.task));
                self.changes.push(Change::Key(name(key), key.body_hash, key.task));
            }
        }
        let held = |world: &World, key: &Key| {
            let (hash, task) = *world.keys.get(&name(key)).unwrap_or_else(|| &mine[&name(key)]);
            match (task == key.task, hash == key.body_hash) {
                (true, _) => Held::New,
                (false, true) => Held::Same(task),
                (false, false) => Held::Other(task),
            }
        };
        Ok(self.with(|world| keys.iter().map(|key| held(world, key)).collect()))
    }

    async fn message_ids(
        &mut self,
        _blocks: &IdBlocks,
        _queue: &QueueName,
        count: u32,
    ) -> Result<Vec<i64>, StoreError> {
        self.statement("message_ids").await?;
        Ok(self.with(|world| (0..count).map(|_| world.next_id()).collect()))
    }

    async fn apply(
        &mut self,
        writes: Writes,
        tasks: &[&Snapshot],
        _now: Timestamp,
        _processor: &str,
    ) -> Result<(), StoreError> {
        self.statement("apply").await?;
        let who = self.memory.who;
        self.take_expected(&writes.expected).await?;
        let rows = self.with(|world| {
            world.believed.extend(tasks.iter().map(|snapshot| ((who, snapshot.task.id()), snapshot.version)));
            tasks.iter().map(|snapshot| Change::Task(snapshot.task.id(), world.row(snapshot))).collect::<Vec<_>>()
        });
        self.changes.extend(rows);
        self.write_attempts(rows::attempts(&writes.attempts)).await?;
        let gathered = self.with(|world| rows::changes(world, &writes));
        self.changes.extend(gathered);
        let withdrawn: Vec<&Token> = writes.withdrawn.iter().collect();
        if !withdrawn.is_empty() {
            self.statement("apply").await?;
            self.delete_any(&withdrawn).await;
        }
        Ok(())
    }

    async fn insert(
        &mut self,
        writes: Writes,
        tasks: &[NewTask],
        _now: Timestamp,
        _processor: &str,
    ) -> Result<(), StoreError> {
        self.statement("insert").await?;
        for NewTask { snapshot, .. } in tasks {
            let id = snapshot.task.id();
            self.lock(Lock::Task(id)).await;
            if self.with(|world| world.tasks.contains_key(&id)) {
                return Err(StoreError::Template(format!("task {id} is stored already")));
            }
            let row = self.with(|world| world.row(snapshot));
            self.changes.push(Change::Task(id, row));
        }
        let gathered = self.with(|world| rows::changes(world, &writes));
        self.changes.extend(gathered);
        Ok(())
    }

    async fn come_due(&mut self, limit: i64) -> Result<(Vec<(TaskId, Event)>, Option<u64>), StoreError> {
        self.statement("come_due").await?;
        Ok(self.with(|world| rows::come_due(world, usize::try_from(limit).unwrap())))
    }

    async fn lock_resources(&mut self, keys: &BTreeSet<ResourceKey>) -> Result<Vec<(ResourceKey, Gate)>, StoreError> {
        self.statement("lock_resources").await?;
        for key in keys {
            self.lock(Lock::Resource(key.clone())).await;
        }
        let gate = |world: &World, key: &ResourceKey| Some((key.clone(), world.gate(key)?));
        Ok(self.with(|world| keys.iter().filter_map(|key| gate(world, key)).collect()))
    }

    async fn move_breakers(&mut self, moved: &[(&ResourceKey, &Breaker)], _now: Timestamp) -> Result<(), StoreError> {
        self.statement("move_breakers").await?;
        self.changes.extend(moved.iter().map(|(key, breaker)| Change::Breaker((*key).clone(), **breaker)));
        Ok(())
    }

    async fn permit(&mut self, given: &[&Permit], taken_back: &[&Permit]) -> Result<(), StoreError> {
        self.statement("permit").await?;
        let given = given.iter().map(|permit| Change::Permit((*permit).clone(), true));
        let taken_back = taken_back.iter().map(|permit| Change::Permit((*permit).clone(), false));
        self.changes.extend(given.chain(taken_back));
        Ok(())
    }

    async fn holding(&mut self) -> Result<(Vec<(ResourceKey, Gate)>, Timestamp), StoreError> {
        self.statement("holding").await?;
        Ok(self.with(|world| {
            let gates = world.resources.keys().filter_map(|key| Some((key.clone(), world.gate(key)?)));
            (gates.filter(|(_, gate)| gate.waiting).collect(), world.now)
        }))
    }

    async fn held(&mut self, wanted: &[(ResourceKey, u32)]) -> Result<Vec<HeldStep>, StoreError> {
        self.statement("held").await?;
        Ok(self.with(|world| rows::held(world, wanted)))
    }

    async fn revocable(
        &mut self,
        after: Option<(TaskId, StepIndex)>,
        limit: i64,
    ) -> Result<Vec<(TaskId, StepIndex)>, StoreError> {
        self.statement("revocable").await?;
        Ok(self.with(|world| {
            let is_open = |key: &ResourceKey| matches!(world.resources[key].breaker, Breaker::Open { .. });
            let open = world.permits.iter().filter(|(key, _, _)| is_open(key)).map(|(_, task, step)| (*task, *step));
            let open: BTreeSet<_> = open.filter(|at| after.is_none_or(|after| *at > after)).collect();
            open.into_iter().take(usize::try_from(limit).unwrap()).collect()
        }))
    }

    async fn delete_unclaimed(&mut self, tokens: &[Token]) -> Result<Vec<usize>, StoreError> {
        self.statement("delete_unclaimed").await?;
        let tokens: Vec<&Token> = tokens.iter().collect();
        let taken = self.delete(&tokens, World::is_unclaimed).await;
        if !taken.is_empty() {
            self.with(|world| world.saw("a ticket was taken back"));
        }
        Ok(taken)
    }

    async fn undecided(
        &mut self,
        after: Option<TaskId>,
        _limit: i64,
        age_ms: f64,
    ) -> Result<(Vec<(TaskId, Event)>, Option<TaskId>), StoreError> {
        self.statement("undecided").await?;
        Ok(self.with(|world| rows::undecided(world, after, age_ms)))
    }

    async fn clamp_vt(&mut self, _: &[QueueName], max_lease: Duration, max_delay: Duration) -> Result<u64, StoreError> {
        self.statement("clamp_vt").await?;
        Ok(self.with(|world| world.clamp(max_lease, max_delay)))
    }

    async fn stale(&mut self, _after: Option<TaskId>, _limit: i32) -> Result<Vec<Stale>, StoreError> {
        Ok(Vec::new())
    }

    async fn file_task(&mut self, _task: TaskId, _reason: &str, _filed_by: &str) -> Result<Filed, StoreError> {
        Ok(Filed::NoTask)
    }

    async fn ensure_partitions(&mut self) -> Result<i32, StoreError> {
        Ok(0)
    }

    async fn delete_checkpoints(&mut self, _limit: i64) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn pop(&mut self, queue: &QueueName, qty: u32) -> Result<Vec<Popped>, StoreError> {
        self.statement("pop").await?;
        let found = self.with(|world| world.visible(queue, usize::try_from(qty).unwrap()));
        let mut popped = Vec::with_capacity(found.len());
        for msg_id in found {
            // Nothing waits here: what is visible is free.
            assert!(self.try_lock(&Lock::Message(queue.clone(), msg_id)));
            self.changes.push(Change::Delete(queue.clone(), msg_id));
            popped.push(self.with(|world| {
                let Message { read_ct, body, .. } = world.queues[queue][&msg_id].clone();
                Popped { msg_id, read_ct, enqueued_at: to_sql(world.now), body }
            }));
        }
        Ok(popped)
    }

    async fn file_message(&mut self, _: &str, _: i64, _: &str, _: &str) -> Result<(), StoreError> {
        self.statement("file_message").await?;
        self.changes.push(Change::Filed);
        Ok(())
    }

    async fn describe_dead_letters(&mut self, limit: i64) -> Result<u64, StoreError> {
        self.statement("describe_dead_letters").await?;
        let described = self.with(|world| rows::describe(world, usize::try_from(limit).unwrap()));
        let count = described.len() as u64;
        self.changes.extend(described);
        Ok(count)
    }

    async fn give_up_describing(&mut self, _why: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn judged(&mut self, tasks: &[TaskId]) -> Result<Vec<TaskId>, StoreError> {
        self.statement("judged").await?;
        let is_judged = |world: &World, id: &TaskId| world.tasks.contains_key(id) || world.refused.contains(id);
        Ok(self.with(|world| tasks.iter().copied().filter(|id| is_judged(world, id)).collect()))
    }

    async fn refuse(&mut self, refusals: &[Refusal]) -> Result<(), StoreError> {
        self.changes.extend(refusals.iter().map(|refusal| Change::Refused(refusal.task)));
        Ok(())
    }

    async fn resolve(&mut self, _: &str, _: &str, _: Option<&Version>) -> Result<Resolved, StoreError> {
        Ok(self.with(|world| {
            let (hash, version) = (world.template.hash, world.template.version.clone());
            Resolved::Found { hash, version, deprecated: None }
        }))
    }

    async fn template(&mut self, _: &Templates, _: &TemplateHash) -> Result<Arc<Template>, StoreError> {
        Ok(self.with(|world| Arc::clone(&world.template)))
    }
}

impl Open {
    /// Deletes tickets whoever holds them, and those that this transaction is about to send.
    async fn delete_any(&mut self, tokens: &[&Token]) {
        self.delete(tokens, World::is_there).await;
        let is_withdrawn = |change: &Change| match change {
            Change::Send(queue, msg_id, _) => tokens.iter().any(|t| t.queue == *queue && t.msg_id == *msg_id),
            _ => false,
        };
        self.changes.retain(|change| !is_withdrawn(change));
    }
}
