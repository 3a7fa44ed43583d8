//! The task row: lock, load, insert.

use std::collections::HashMap;
use std::sync::Arc;

use pgmq_notify::Token;
use sqlx::PgConnection;
use tasker_lifecycle::template::TemplateHash;
use tasker_lifecycle::{CorruptTask, StoredTask, Task, TaskId, Timestamp};
use uuid::Uuid;

use super::templates::Templates;
use super::{StoreError, from_sql};
use crate::follows;

/// A task as it was at `version`, with what its tickets carry.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The task.
    pub task: Task,
    /// Random, new with every commit.
    pub version: i64,
    /// History rows so far.
    pub seq: i32,
    /// −100 … 100.
    pub priority: i16,
    /// Goes into every ticket.
    pub correlation_id: Uuid,
}

/// What is known once tasks are locked and tickets taken.
#[derive(Debug)]
pub struct Locked {
    /// The version of each task that exists.
    pub versions: HashMap<TaskId, i64>,
    /// Positions of the tokens whose ticket was deleted.
    pub taken: Vec<usize>,
    /// The batch's one clock reading.
    pub now: Timestamp,
}

/// Locks `tasks` and deletes the tickets of `tokens` where every part still matches. Tasks are locked by id.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn lock_and_take(conn: &mut PgConnection, tasks: &[TaskId], tokens: &[&Token]) -> Result<Locked, StoreError> {
    let uuids: Vec<Uuid> = tasks.iter().map(|task| task.uuid()).collect();
    let queues: Vec<String> = tokens.iter().map(|token| token.queue.to_string()).collect();
    let msg_ids: Vec<i64> = tokens.iter().map(|token| token.msg_id).collect();
    let read_cts: Vec<i32> = tokens.iter().map(|token| token.read_ct).collect();
    let nonces: Vec<Uuid> = tokens.iter().map(|token| token.nonce).collect();
    let rows = sqlx::query!(
        "SELECT task_uuid, version, taken, at FROM tasker.lock_and_take($1, $2, $3, $4, $5)",
        &uuids,
        &queues,
        &msg_ids,
        &read_cts,
        &nonces
    )
    .fetch_all(conn)
    .await?;
    let mut locked = Locked { versions: HashMap::new(), taken: Vec::new(), now: Timestamp::default() };
    for row in rows {
        if let Some(ord) = row.taken {
            locked.taken.push(usize::try_from(ord).expect("ordinals count from 1") - 1);
        } else if let (Some(uuid), Some(version), Some(at)) = (row.task_uuid, row.version, row.at) {
            locked.versions.insert(task_id(uuid)?, version);
            locked.now = from_sql(at);
        }
    }
    Ok(locked)
}

/// An attempt that a worker stored and told of by a result message, with its task locked.
#[derive(Debug, Clone)]
pub struct StoredResult {
    /// The message.
    pub msg_id: i64,
    /// Its body, where it is not ours and is to be filed.
    pub body: Option<String>,
    /// The task and its version, where it exists.
    pub task: Option<(TaskId, i64)>,
    /// The event, where the attempt exists.
    pub event: Option<tasker_lifecycle::Event>,
    /// The batch's one clock reading.
    pub now: Timestamp,
}

/// Takes result messages until they name `qty` attempts, and locks their tasks. A message, which names up to eight, is
/// taken whole, so up to seven more may come; fewer come where the queue is empty then.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn take_results(conn: &mut PgConnection, qty: i32) -> Result<Vec<StoredResult>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT msg_id AS "msg_id!", body, task_uuid, version, step, attempt, nonce, outcome,
                  retryable, retry_after_ms, follows, at AS "at!"
           FROM tasker.take_results($1)"#,
        qty
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let task = match (row.task_uuid, row.version) {
                (Some(uuid), Some(version)) => Some((task_id(uuid)?, version)),
                _ => None,
            };
            let event = match (row.step, row.attempt, row.nonce, &row.outcome) {
                (Some(step), Some(attempt), Some(nonce), Some(outcome)) => {
                    let failure = (row.retryable, row.retry_after_ms);
                    reported(step, attempt, nonce, outcome, failure, row.follows.as_deref())
                }
                _ => None,
            };
            Ok(StoredResult { msg_id: row.msg_id, body: row.body, task, event, now: from_sql(row.at) })
        })
        .collect()
}

/// The lifecycle's view of a stored attempt; `None` for one that only fills a gap.
#[must_use]
pub fn reported(
    step: i32,
    attempt: i32,
    nonce: Uuid,
    outcome: &str,
    (retryable, retry_after_ms): (Option<bool>, Option<i64>),
    follows: Option<&str>,
) -> Option<tasker_lifecycle::Event> {
    use tasker_lifecycle::{Event, Nonce, Outcome, StepIndex};
    let outcome = match outcome {
        "success" => Outcome::Success(follows::from_json(follows)),
        "failure" => Outcome::Failure {
            retryable: retryable.unwrap_or(false),
            retry_after_ms: retry_after_ms.and_then(|ms| u64::try_from(ms).ok()),
        },
        "lease_lost" => Outcome::LeaseLost,
        _ => return None,
    };
    Some(Event::Reported {
        step: StepIndex(u32::try_from(step).ok()?),
        attempt: u32::try_from(attempt).ok()?,
        nonce: Nonce(nonce),
        outcome,
    })
}

/// Loads tasks as they are now. Those that do not exist are left out.
///
/// # Errors
/// Where the database is away or a stored task contradicts itself.
pub async fn load(
    conn: &mut PgConnection,
    tasks: &[TaskId],
    templates: &Templates,
) -> Result<Vec<Snapshot>, StoreError> {
    let uuids: Vec<Uuid> = tasks.iter().map(|task| task.uuid()).collect();
    let rows = sqlx::query!(
        r#"SELECT t.task_uuid AS "task_uuid!", t.template_hash AS "template_hash!", t.priority AS "priority!",
                  t.state AS "state!", t.version AS "version!", t.seq AS "seq!", t.steps AS "steps!",
                  t.sparse::text AS "sparse!", t.expansions, d.correlation_id AS "correlation_id!"
           FROM unnest($1::uuid[]) AS u (id)
           JOIN tasker.tasks t ON t.task_uuid = u.id
           JOIN tasker.task_details d ON d.task_uuid = u.id"#,
        &uuids
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut snapshots = Vec::with_capacity(rows.len());
    for row in rows {
        let id = task_id(row.task_uuid)?;
        let template = templates.by_hash(conn, &hash(&row.template_hash)?).await?;
        let state = row.state.parse().map_err(|e| CorruptTask { id, what: format!("{e}") })?;
        let stored = StoredTask { state, steps: row.steps, sparse: row.sparse, expansions: row.expansions };
        snapshots.push(Snapshot {
            task: Task::from_stored(id, template, &stored)?,
            version: row.version,
            seq: row.seq,
            priority: row.priority,
            correlation_id: row.correlation_id,
        });
    }
    Ok(snapshots)
}

/// A task to be inserted, with what its requester said.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// The task after it was started, with its tickets.
    pub snapshot: Snapshot,
    /// Its input, JSON text.
    pub context: Arc<serde_json::value::RawValue>,
    /// The rest of the request.
    pub details: Details,
}

/// What a requester says beside name and input.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// The correlation id of the task that asked for this one.
    pub parent_correlation_id: Option<Uuid>,
    /// Who asked.
    pub initiator: Option<String>,
    /// Which system asked.
    pub source_system: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// For filtering.
    pub tags: Vec<String>,
    /// The key under which asking again gives the same task.
    pub idempotency_key: Option<String>,
    /// When it was asked for.
    pub requested_at: Option<chrono::DateTime<chrono::Utc>>,
    /// Whatever else, JSON text.
    pub options: Option<String>,
}

/// The least and the last id of a batch: between them a look-up has to open partitions. Nil where there are none.
pub(super) fn range<'a>(ids: impl IntoIterator<Item = &'a Uuid> + Clone) -> (Uuid, Uuid) {
    let (least, last) = (ids.clone().into_iter().min(), ids.into_iter().max());
    (least.copied().unwrap_or_default(), last.copied().unwrap_or_default())
}

/// A uuid column as a task id.
pub(super) fn task_id(uuid: Uuid) -> Result<TaskId, StoreError> {
    TaskId::try_from(uuid).map_err(|e| StoreError::Database(sqlx::Error::Decode(Box::new(e))))
}

/// A bytea column as a template hash.
pub(super) fn hash(bytes: &[u8]) -> Result<TemplateHash, StoreError> {
    let bytes: [u8; 32] =
        bytes.try_into().map_err(|_| StoreError::Template("stored under a hash that is not 32 bytes".to_owned()))?;
    Ok(TemplateHash(bytes))
}

/// Which of these tasks exist.
///
/// # Errors
/// Where the database is away.
pub async fn existing(conn: &mut PgConnection, tasks: &[TaskId]) -> Result<Vec<TaskId>, StoreError> {
    let uuids: Vec<Uuid> = tasks.iter().map(|task| task.uuid()).collect();
    let there = sqlx::query_scalar!("SELECT task_uuid FROM tasker.tasks WHERE task_uuid = ANY ($1)", &uuids)
        .fetch_all(conn)
        .await?;
    there.into_iter().map(task_id).collect()
}

/// How far these tasks are: the length of their history and their state.
///
/// # Errors
/// Where the database is away.
pub async fn progress(
    conn: &mut PgConnection,
    tasks: &[TaskId],
) -> Result<Vec<(TaskId, i32, tasker_lifecycle::TaskState)>, StoreError> {
    let uuids: Vec<Uuid> = tasks.iter().map(|task| task.uuid()).collect();
    let rows = sqlx::query!("SELECT task_uuid, seq, state FROM tasker.tasks WHERE task_uuid = ANY ($1)", &uuids)
        .fetch_all(conn)
        .await?;
    rows.into_iter()
        .map(|row| {
            let id = task_id(row.task_uuid)?;
            let state = row.state.parse().map_err(|e| CorruptTask { id, what: format!("{e}") })?;
            Ok((id, row.seq, state))
        })
        .collect()
}
