//! All that the actors ask of a transaction, in one table: on PostgreSQL by the store's functions, and in memory in
//! the simulator. Which of the two it is, is known when the program is compiled.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::{IdBlocks, Popped, QueueName, Token};
use semver::Version;
use sqlx::postgres::PgTransactionManager;
use sqlx::{PgConnection, TransactionManager};
use tasker_lifecycle::resource::Breaker;
use tasker_lifecycle::template::{Template, TemplateHash};
use tasker_lifecycle::{Event, StepIndex, TaskId, Timestamp};
use tasker_shared::messages::{Report, Verdict};
use tasker_shared::store::idempotency::{self, Held, Key};
use tasker_shared::store::kept::{InUse, Kept};
use tasker_shared::store::ledger::{self, Filed};
use tasker_shared::store::refusals::{self, Refusal};
use tasker_shared::store::resources::{self, Gate, HeldStep, Permit, ResourceKey};
use tasker_shared::store::staleness::{self, Stale};
use tasker_shared::store::tasks::{self, Locked, NewTask, Snapshot, StoredResult};
use tasker_shared::store::templates::{self, Resolved, Templates};
use tasker_shared::store::writes::Writes;
use tasker_shared::store::{StoreError, actions, checkpoints, dead_letters, discards, due, sweep};
use uuid::Uuid;

/// Where an actor's transactions are.
pub(crate) trait Database: Send + Sync {
    /// What is done in a transaction.
    type Session: Session;
    /// Rolled back where it is dropped.
    type Open: DerefMut<Target = Self::Session> + Send;

    /// Begins a transaction.
    fn begin(&self) -> impl Future<Output = Result<Self::Open, StoreError>> + Send;

    /// The same for one statement that writes, which may be committed as soon as it is done.
    fn begin_one(&self) -> impl Future<Output = Result<Self::Open, StoreError>> + Send;

    /// Commits it. Where this fails it may have been committed all the same.
    fn commit(open: Self::Open) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The wait between two tries.
    fn pause(&self, time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }
}

impl Database for Kept {
    type Session = PgConnection;
    type Open = Open;

    async fn begin(&self) -> Result<Self::Open, StoreError> {
        let mut open = self.begin_one().await?;
        PgTransactionManager::begin(&mut open, None).await?;
        open.is_begun = true;
        Ok(open)
    }

    /// A statement outside of a transaction is one.
    async fn begin_one(&self) -> Result<Self::Open, StoreError> {
        Ok(Open { conn: Some(self.acquire().await?), is_begun: false })
    }

    async fn commit(mut open: Self::Open) -> Result<(), StoreError> {
        if open.is_begun {
            PgTransactionManager::commit(&mut open).await?;
        }
        if let Some(conn) = open.conn.take() {
            conn.keep();
        }
        Ok(())
    }
}

/// A transaction on a connection that is kept where it is committed.
pub(crate) struct Open {
    conn: Option<InUse>,
    is_begun: bool,
}

impl Deref for Open {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("only a commit takes it out")
    }
}

impl DerefMut for Open {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect("only a commit takes it out")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.as_mut().filter(|_| self.is_begun) {
            PgTransactionManager::start_rollback(conn);
        }
    }
}

/// Makes the trait, and its form on PostgreSQL, which is the function behind the arrow.
macro_rules! session {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $of:ty),*) -> $answer:ty { |$conn:ident| $body:expr })+) => {
        /// What is done in one transaction. What the database answers is explained beside the functions of the store.
        pub(crate) trait Session: Send {
            $(
                $(#[$doc])*
                fn $name(&mut self, $($arg: $of),*) -> impl Future<Output = Result<$answer, StoreError>> + Send;
            )+
        }

        #[expect(clippy::needless_question_mark, reason = "the queue's functions fail with an error of their own")]
        impl Session for PgConnection {
            $(
                async fn $name(&mut self, $($arg: $of),*) -> Result<$answer, StoreError> {
                    let $conn = self;
                    Ok($body.await?)
                }
            )+
        }
    };
}

session! {
    fn lock_and_take(tasks: &[TaskId], tokens: &[&Token]) -> Locked {
        |conn| tasks::lock_and_take(conn, tasks, tokens)
    }
    fn take_results(qty: i32) -> Vec<StoredResult> { |conn| tasks::take_results(conn, qty) }
    fn load(tasks: &[TaskId], templates: &Templates) -> Vec<Snapshot> { |conn| tasks::load(conn, tasks, templates) }
    fn existing(tasks: &[TaskId]) -> Vec<TaskId> { |conn| tasks::existing(conn, tasks) }
    fn undecided_of(tasks: &[TaskId]) -> Vec<(TaskId, Event)> { |conn| sweep::undecided_of(conn, tasks) }
    fn attempts_of(steps: &[(TaskId, StepIndex)]) -> Vec<u32> { |conn| sweep::attempts_of(conn, steps) }
    fn carried_out(tasks: &[TaskId], actions: &[Uuid]) -> Vec<Uuid> {
        |conn| actions::carried_out(conn, tasks, actions)
    }
    fn discard(reports: &[Report], taken: &[usize]) -> Vec<(usize, Verdict)> {
        |conn| discards::discard(conn, reports, taken)
    }
    fn claim_keys(keys: &[Key]) -> Vec<Held> { |conn| idempotency::claim(conn, keys) }

    fn message_ids(blocks: &IdBlocks, queue: &QueueName, count: u32) -> Vec<i64> {
        |conn| blocks.take(conn, queue, count)
    }
    fn apply(writes: Writes, tasks: &[&Snapshot], now: Timestamp, processor: &str) -> () {
        |conn| writes.apply(conn, tasks, now, processor)
    }
    fn insert(writes: Writes, tasks: &[NewTask], now: Timestamp, processor: &str) -> () {
        |conn| writes.insert(conn, tasks, now, processor)
    }

    fn come_due(limit: i64) -> (Vec<(TaskId, Event)>, Option<u64>) { |conn| due::come_due(conn, limit) }
    fn lock_resources(keys: &BTreeSet<ResourceKey>) -> Vec<(ResourceKey, Gate)> { |conn| resources::lock(conn, keys) }
    fn move_breakers(moved: &[(&ResourceKey, &Breaker)], now: Timestamp) -> () {
        |conn| resources::save(conn, moved, now)
    }
    fn permit(given: &[&Permit], taken_back: &[&Permit]) -> () { |conn| resources::permit(conn, given, taken_back) }
    fn holding() -> (Vec<(ResourceKey, Gate)>, Timestamp) { |conn| resources::holding(conn) }
    fn held(wanted: &[(ResourceKey, u32)]) -> Vec<HeldStep> { |conn| resources::held(conn, wanted) }
    fn revocable(after: Option<(TaskId, StepIndex)>, limit: i64) -> Vec<(TaskId, StepIndex)> {
        |conn| resources::revocable(conn, after, limit)
    }
    fn delete_unclaimed(tokens: &[Token]) -> Vec<usize> { |conn| pgmq_notify::delete_unclaimed(conn, tokens) }

    fn undecided(after: Option<TaskId>, limit: i64, age_ms: f64) -> (Vec<(TaskId, Event)>, Option<TaskId>) {
        |conn| sweep::undecided(conn, after, limit, age_ms)
    }
    fn clamp_vt(queues: &[QueueName], max_lease: Duration, max_delay: Duration) -> u64 {
        |conn| pgmq_notify::clamp_vt(conn, queues, max_lease, max_delay)
    }
    fn stale(after: Option<TaskId>, limit: i32) -> Vec<Stale> { |conn| staleness::stale(conn, after, limit) }
    fn file_task(task: TaskId, reason: &str, filed_by: &str) -> Filed {
        |conn| ledger::file_task(conn, task, reason, filed_by)
    }
    fn ensure_partitions() -> i32 { |conn| sweep::ensure_partitions(conn) }
    fn delete_checkpoints(limit: i64) -> u64 { |conn| checkpoints::delete_ended(conn, limit) }

    fn pop(queue: &QueueName, qty: u32) -> Vec<Popped> { |conn| pgmq_notify::pop(conn, queue, qty) }
    fn file_message(queue: &str, msg_id: i64, body: &str, reason: &str) -> () {
        |conn| dead_letters::file_message(conn, queue, msg_id, body, reason)
    }
    fn describe_dead_letters(limit: i64) -> u64 { |conn| dead_letters::describe(conn, limit) }
    fn give_up_describing(why: &str) -> () { |conn| dead_letters::give_up_describing(conn, why) }

    fn judged(tasks: &[TaskId]) -> Vec<TaskId> { |conn| refusals::judged(conn, tasks) }
    fn refuse(refusals: &[Refusal]) -> () { |conn| refusals::insert(conn, refusals) }
    fn resolve(namespace: &str, name: &str, version: Option<&Version>) -> Resolved {
        |conn| templates::resolve(conn, namespace, name, version)
    }
    fn template(templates: &Templates, hash: &TemplateHash) -> Arc<Template> { |conn| templates.by_hash(conn, hash) }
}

#[cfg(test)]
#[path = "../tests/simulator/mod.rs"]
mod simulator;
