//! What the HTTP API reads. Nothing here locks, and nothing decides on what it reads.
//!
//! Lists walk the task ids from the newest on, a bounded number at a time: a filter that few tasks match costs a page
//! that may be empty and a cursor, never a scan of the table.

mod explain;
mod templates;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use pgmq_notify::QueueName;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tasker_lifecycle::{Holder, StepIndex, StoredTask, Task, TaskId, TaskState};
use uuid::Uuid;

use super::StoreError;
use super::tasks::{hash, range, task_id};
use super::templates::Templates;
use super::writes::step_column;
use crate::messages::ticket_queue;

pub use explain::{Failed, TicketFact, failures, ticket_facts};
pub use templates::{TemplateRecord, template, templates};

/// A task with what its requester said.
#[derive(Debug, Clone)]
pub struct TaskRecord {
    /// The task.
    pub task: Task,
    /// −100 … 100.
    pub priority: i16,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Its input.
    pub context: Box<RawValue>,
    /// Its correlation id.
    pub correlation_id: Uuid,
    /// That of the task that asked for it.
    pub parent_correlation_id: Option<Uuid>,
    /// Who asked.
    pub initiator: Option<String>,
    /// Which system asked.
    pub source_system: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// For filtering.
    pub tags: Vec<String>,
}

/// Reads tasks; those that are not there are left out.
///
/// # Errors
/// Where the database is away or a stored task contradicts itself.
pub async fn tasks(
    conn: &mut PgConnection,
    ids: &[TaskId],
    templates: &Templates,
) -> Result<Vec<TaskRecord>, StoreError> {
    let uuids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let (least, last) = range(&uuids);
    let rows = sqlx::query!(
        r#"SELECT t.task_uuid, t.template_hash, t.priority, t.state, t.steps, t.sparse::text AS "sparse!", t.expansions,
                  t.updated_at, t.ended_at, d.context::text AS "context!", d.correlation_id, d.parent_correlation_id,
                  d.initiator, d.source_system, d.reason, d.tags
           FROM unnest($1::uuid[]) AS u (id)
           JOIN tasker.tasks t ON t.task_uuid = u.id AND t.task_uuid >= $2 AND t.task_uuid <= ANY (ARRAY[$3::uuid])
           JOIN tasker.task_details d ON d.task_uuid = u.id AND d.task_uuid >= $2 AND d.task_uuid <= ANY (ARRAY[$3::uuid])"#,
        &uuids,
        least,
        last
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        let template = templates.by_hash(conn, &hash(&row.template_hash)?).await?;
        let stored =
            StoredTask { state: state(&row.state)?, steps: row.steps, sparse: row.sparse, expansions: row.expansions };
        records.push(TaskRecord {
            task: Task::from_stored(task_id(row.task_uuid)?, template, &stored)?,
            priority: row.priority,
            updated_at: row.updated_at,
            ended_at: row.ended_at,
            context: json(row.context)?,
            correlation_id: row.correlation_id,
            parent_correlation_id: row.parent_correlation_id,
            initiator: row.initiator,
            source_system: row.source_system,
            reason: row.reason,
            tags: row.tags,
        });
    }
    Ok(records)
}

/// Reads a task.
///
/// # Errors
/// Where the database is away or the stored task contradicts itself.
pub async fn task(
    conn: &mut PgConnection,
    id: TaskId,
    templates: &Templates,
) -> Result<Option<TaskRecord>, StoreError> {
    Ok(tasks(conn, &[id], templates).await?.pop())
}

/// What the ticket of a live step says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticket {
    /// A worker holds it.
    Claimed {
        /// The attempt that is being made.
        attempt: u32,
    },
    /// Nobody holds it, or its lease has ended.
    Waiting {
        /// Attempts begun so far.
        attempts: u32,
    },
    /// It was reported on; the decision is to come.
    Reported,
}

/// The tickets of a task's live steps.
///
/// # Errors
/// Where the database is away.
pub async fn tickets(conn: &mut PgConnection, record: &TaskRecord) -> Result<Vec<(StepIndex, Ticket)>, StoreError> {
    let template = record.task.template();
    let (mut steps, mut queues, mut msg_ids) = (Vec::new(), Vec::new(), Vec::new());
    for (step, live) in record.task.held() {
        if let Holder::Ticket(ticket) = live.holder {
            let pool = template.step(record.task.pattern(step)).pool.as_str();
            let queue: QueueName = ticket_queue(template.namespace.as_str(), pool, record.priority)?;
            queues.push(queue.to_string());
            msg_ids.push(ticket.msg_id);
            steps.push((step, Ticket::Reported));
        }
    }
    if steps.is_empty() {
        return Ok(steps);
    }
    let rows = sqlx::query!(
        r#"SELECT ord AS "ord!", claimed AS "claimed!", attempt AS "attempt!" FROM tasker.tickets($1, $2)"#,
        &queues,
        &msg_ids
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let attempts = u32::try_from(row.attempt).unwrap_or(0);
        let seen = if row.claimed { Ticket::Claimed { attempt: attempts } } else { Ticket::Waiting { attempts } };
        if let Some((_, ticket)) = usize::try_from(row.ord - 1).ok().and_then(|at| steps.get_mut(at)) {
            *ticket = seen;
        }
    }
    Ok(steps)
}

/// The ids of the batches that each batchable step was split into, in the order of its workers.
///
/// # Errors
/// Where the database is away.
pub async fn batch_ids(conn: &mut PgConnection, task: &Task) -> Result<HashMap<StepIndex, Vec<String>>, StoreError> {
    if task.expansions().is_empty() {
        return Ok(HashMap::new());
    }
    let steps: Vec<i32> = task.expansions().iter().map(|expansion| step_column(expansion.batchable)).collect();
    let rows = sqlx::query!(
        r#"SELECT DISTINCT ON (a.step) a.step,
                  ARRAY(SELECT c ->> 'batch_id'
                        FROM json_array_elements(a.result -> 'batch_processing_outcome' -> 'cursor_configs') c) AS "ids!"
           FROM tasker.attempts a
           WHERE a.task_uuid = $1 AND a.step = ANY ($2) AND a.outcome IN ('success', 'by_hand')
           ORDER BY a.step, a.attempt DESC"#,
        task.id().uuid(),
        &steps
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (step_index(row.step), row.ids)).collect())
}

/// The last attempt of a step.
#[derive(Debug, Clone)]
pub struct LastAttempt {
    /// The task.
    pub task: TaskId,
    /// The step.
    pub step: StepIndex,
    /// Whether it said that trying again may help; `None` where it was no failure.
    pub retryable: Option<bool>,
    /// When it began; unknown where it was lost.
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was stored.
    pub ended_at: DateTime<Utc>,
    /// What the handler returned.
    pub result: Option<Box<RawValue>>,
    /// When any attempt of the step failed last.
    pub last_failure_at: Option<DateTime<Utc>>,
}

/// The last attempt of each step of these tasks, or of one step.
///
/// # Errors
/// Where the database is away.
pub async fn last_attempts(
    conn: &mut PgConnection,
    tasks: &[TaskId],
    step: Option<StepIndex>,
) -> Result<Vec<LastAttempt>, StoreError> {
    let uuids: Vec<Uuid> = tasks.iter().map(|id| id.uuid()).collect();
    let (least, last) = range(&uuids);
    let rows = sqlx::query!(
        r#"SELECT DISTINCT ON (a.task_uuid, a.step) a.task_uuid, a.step, a.retryable,
                  coalesce(a.started_at, a.claimed_at) AS started_at, a.ended_at, a.result::text AS result,
                  max(a.ended_at) FILTER (WHERE a.outcome IN ('failure', 'lost', 'lease_lost'))
                      OVER (PARTITION BY a.task_uuid, a.step) AS last_failure_at
           FROM unnest($1::uuid[]) AS u (id)
           JOIN tasker.attempts a ON a.task_uuid = u.id AND a.task_uuid >= $3 AND a.task_uuid <= ANY (ARRAY[$4::uuid])
                                 AND ($2::integer IS NULL OR a.step = $2)
           ORDER BY a.task_uuid, a.step, a.attempt DESC"#,
        &uuids,
        step.map(step_column),
        least,
        last
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(LastAttempt {
                task: task_id(row.task_uuid)?,
                step: step_index(row.step),
                retryable: row.retryable,
                started_at: row.started_at,
                ended_at: row.ended_at,
                result: row.result.map(json).transpose()?,
                last_failure_at: row.last_failure_at,
            })
        })
        .collect()
}

/// One attempt, as it was reported.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Counted from 1.
    pub attempt: i32,
    /// The word in the table.
    pub outcome: String,
    /// Whether trying again may help.
    pub retryable: Option<bool>,
    /// Who reported it.
    pub worker: String,
    /// When the claim was made.
    pub claimed_at: Option<DateTime<Utc>>,
    /// When the handler began.
    pub started_at: Option<DateTime<Utc>>,
    /// When the handler ended.
    pub ended_at: DateTime<Utc>,
    /// What the handler returned.
    pub result: Option<Box<RawValue>>,
    /// Why it failed: a `StepFailure`.
    pub error: Option<String>,
    /// What the handler said beside it.
    pub metadata: Option<Box<RawValue>>,
}

/// Every attempt of a step, oldest first.
///
/// # Errors
/// Where the database is away.
pub async fn attempts(conn: &mut PgConnection, task: TaskId, step: StepIndex) -> Result<Vec<Attempt>, StoreError> {
    let rows = sqlx::query!(
        "SELECT attempt, outcome, retryable, worker, claimed_at, started_at, ended_at, result::text AS result,
                error::text AS error, metadata::text AS metadata
         FROM tasker.attempts WHERE task_uuid = $1 AND step = $2 ORDER BY attempt",
        task.uuid(),
        step_column(step)
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Attempt {
                attempt: row.attempt,
                outcome: row.outcome,
                retryable: row.retryable,
                worker: row.worker,
                claimed_at: row.claimed_at,
                started_at: row.started_at,
                ended_at: row.ended_at,
                result: row.result.map(json).transpose()?,
                error: row.error,
                metadata: row.metadata.map(json).transpose()?,
            })
        })
        .collect()
}

/// One row of a task's history.
#[derive(Debug, Clone)]
pub struct HistoryRow {
    /// Rises by one.
    pub seq: i32,
    /// When it was decided.
    pub at: DateTime<Utc>,
    /// The event.
    pub cause: String,
    /// Who decided it.
    pub processor: String,
    /// The state before.
    pub from: TaskState,
    /// The state after.
    pub to: TaskState,
    /// `step:FROM TO@attempts` without the space, separated by spaces.
    pub changes: String,
    /// Who and why, where somebody asked for it: JSON.
    pub detail: Option<String>,
}

/// Up to `limit` history rows after `after`.
///
/// # Errors
/// Where the database is away.
pub async fn history(
    conn: &mut PgConnection,
    task: TaskId,
    after: i32,
    limit: i64,
) -> Result<Vec<HistoryRow>, StoreError> {
    let rows = sqlx::query!(
        "SELECT seq, at, cause, processor, from_state, to_state, changes, detail::text AS detail
         FROM tasker.history WHERE task_uuid = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        task.uuid(),
        after,
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(HistoryRow {
                seq: row.seq,
                at: row.at,
                cause: row.cause,
                processor: row.processor,
                from: state(&row.from_state)?,
                to: state(&row.to_state)?,
                changes: row.changes,
                detail: row.detail,
            })
        })
        .collect()
}

/// Which tasks a list walks over, newest first, and in which order of looking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walk {
    /// All tasks.
    All,
    /// Those that have not ended.
    Live,
    /// Those of one template's name.
    Named {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Those of one correlation.
    Correlated(Uuid),
}

/// The ids of up to `limit` tasks from below `before` down to `floor`, newest first.
///
/// # Errors
/// Where the database is away.
pub async fn walk(
    conn: &mut PgConnection,
    walk: &Walk,
    before: Uuid,
    floor: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, StoreError> {
    let found = match walk {
        Walk::All => {
            sqlx::query_scalar!(
                "SELECT task_uuid FROM tasker.tasks WHERE task_uuid < $1 AND task_uuid >= $2
                 ORDER BY task_uuid DESC LIMIT $3",
                before,
                floor,
                limit
            )
            .fetch_all(conn)
            .await?
        }
        Walk::Live => {
            sqlx::query_scalar!(
                "SELECT task_uuid FROM tasker.tasks WHERE ended_at IS NULL AND task_uuid < $1 AND task_uuid >= $2
                 ORDER BY task_uuid DESC LIMIT $3",
                before,
                floor,
                limit
            )
            .fetch_all(conn)
            .await?
        }
        Walk::Named { namespace, name } => {
            sqlx::query_scalar!(
                "SELECT task_uuid FROM tasker.tasks
                 WHERE namespace = $4 AND name = $5 AND task_uuid < $1 AND task_uuid >= $2
                 ORDER BY task_uuid DESC LIMIT $3",
                before,
                floor,
                limit,
                namespace,
                name
            )
            .fetch_all(conn)
            .await?
        }
        Walk::Correlated(id) => correlated(conn, *id, before, floor, limit).await?,
    };
    Ok(found)
}

/// A correlation id that nobody gave is the task's own id and stands in no index.
async fn correlated(
    conn: &mut PgConnection,
    id: Uuid,
    before: Uuid,
    floor: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, StoreError> {
    let found = sqlx::query_scalar!(
        r#"SELECT c.id AS "id!" FROM (
               (SELECT task_uuid AS id FROM tasker.task_details
                WHERE correlation_id = $4 AND correlation_id <> task_uuid AND task_uuid < $1 AND task_uuid >= $2
                ORDER BY task_uuid DESC LIMIT $3)
               UNION ALL
               (SELECT task_uuid FROM tasker.task_details
                WHERE task_uuid = $4 AND correlation_id = $4 AND task_uuid < $1 AND task_uuid >= $2)
           ) c ORDER BY c.id DESC LIMIT $3"#,
        before,
        floor,
        limit,
        id
    )
    .fetch_all(conn)
    .await?;
    Ok(found)
}

/// What every task of a list must be like; what is absent does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its template's name.
    pub name: Option<String>,
    /// Its state.
    pub state: Option<TaskState>,
    /// Who asked for it.
    pub initiator: Option<String>,
    /// Which system asked for it.
    pub source_system: Option<String>,
    /// One of its tags.
    pub tag: Option<String>,
    /// Its correlation.
    pub correlation_id: Option<Uuid>,
}

/// A task in a list.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The task.
    pub id: TaskId,
    /// Its namespace.
    pub namespace: String,
    /// Its template's name.
    pub name: String,
    /// Its template's version.
    pub version: String,
    /// Its state.
    pub state: TaskState,
    /// One letter per step.
    pub steps: String,
    /// −100 … 100.
    pub priority: i16,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Who asked.
    pub initiator: Option<String>,
    /// Which system asked.
    pub source_system: Option<String>,
    /// For filtering.
    pub tags: Vec<String>,
    /// Its correlation id.
    pub correlation_id: Uuid,
}

/// Those of `ids` that match, in the order of `ids`: `limit` of them after the first `skip`.
///
/// # Errors
/// Where the database is away.
pub async fn summaries(
    conn: &mut PgConnection,
    ids: &[Uuid],
    filter: &Filter,
    skip: i64,
    limit: i64,
) -> Result<Vec<Summary>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT t.task_uuid AS "task_uuid!", t.namespace AS "namespace!", t.name AS "name!", c.version AS "version!",
                  t.state AS "state!", t.steps AS "steps!", t.priority AS "priority!", t.updated_at AS "updated_at!",
                  t.ended_at, d.initiator, d.source_system, d.tags AS "tags!", d.correlation_id AS "correlation_id!"
           FROM unnest($1::uuid[]) WITH ORDINALITY AS u (id, ord)
           JOIN tasker.tasks t ON t.task_uuid = u.id
           JOIN tasker.task_details d ON d.task_uuid = u.id
           JOIN tasker.templates c ON c.hash = t.template_hash
           WHERE ($2::text IS NULL OR t.namespace = $2) AND ($3::text IS NULL OR t.name = $3)
             AND ($4::text IS NULL OR t.state = $4) AND ($5::text IS NULL OR d.initiator = $5)
             AND ($6::text IS NULL OR d.source_system = $6) AND ($7::text IS NULL OR $7 = ANY (d.tags))
             AND ($8::uuid IS NULL OR d.correlation_id = $8)
           ORDER BY u.ord OFFSET $9 LIMIT $10"#,
        ids,
        filter.namespace.as_deref(),
        filter.name.as_deref(),
        filter.state.map(TaskState::as_str),
        filter.initiator.as_deref(),
        filter.source_system.as_deref(),
        filter.tag.as_deref(),
        filter.correlation_id,
        skip,
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Summary {
                id: task_id(row.task_uuid)?,
                namespace: row.namespace,
                name: row.name,
                version: row.version,
                state: state(&row.state)?,
                steps: row.steps,
                priority: row.priority,
                updated_at: row.updated_at,
                ended_at: row.ended_at,
                initiator: row.initiator,
                source_system: row.source_system,
                tags: row.tags,
                correlation_id: row.correlation_id,
            })
        })
        .collect()
}

fn state(text: &str) -> Result<TaskState, StoreError> {
    text.parse().map_err(undecodable)
}

fn json(text: String) -> Result<Box<RawValue>, StoreError> {
    RawValue::from_string(text).map_err(undecodable)
}

fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Database(sqlx::Error::Decode(Box::new(error)))
}

fn step_index(column: i32) -> StepIndex {
    StepIndex(u32::try_from(column).unwrap_or(0))
}
