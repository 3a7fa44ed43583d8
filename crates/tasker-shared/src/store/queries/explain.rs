//! What is read to say why a step does not run.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tasker_lifecycle::{Holder, StepIndex, TaskId};

use super::super::StoreError;
use super::super::writes::step_column;
use super::{TaskRecord, step_index};
use crate::messages::ticket_queue;

/// What the ticket of a live step says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketFact {
    /// Whether somebody has ever read it.
    pub was_read: bool,
    /// The attempt that its last claim was or is.
    pub attempt: i64,
    /// When it was sent.
    pub sent_at: DateTime<Utc>,
    /// When it can be claimed, or could be from.
    pub visible_at: DateTime<Utc>,
}

/// The tickets that the live steps of a task have, as far as they are still in their queues.
///
/// # Errors
/// Where the database is away.
pub async fn ticket_facts(
    conn: &mut PgConnection,
    record: &TaskRecord,
) -> Result<Vec<(StepIndex, TicketFact)>, StoreError> {
    let template = record.task.template();
    let (mut steps, mut queues, mut msg_ids) = (Vec::new(), Vec::new(), Vec::new());
    for (step, live) in record.task.held() {
        if let Holder::Ticket(ticket) = live.holder {
            let pool = template.step(record.task.pattern(step)).pool.as_str();
            queues.push(ticket_queue(template.namespace.as_str(), pool, record.priority)?.to_string());
            msg_ids.push(ticket.msg_id);
            steps.push(step);
        }
    }
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"SELECT ord AS "ord!", read_ct AS "read_ct!", attempt AS "attempt!", enqueued_at AS "enqueued_at!",
                  visible_at AS "visible_at!"
           FROM tasker.ticket_facts($1, $2)"#,
        &queues,
        &msg_ids
    )
    .fetch_all(conn)
    .await?;
    let facts = rows.into_iter().filter_map(|row| {
        let step = steps.get(usize::try_from(row.ord - 1).ok()?)?;
        let (was_read, attempt) = (row.read_ct > 0, i64::from(row.attempt));
        Some((*step, TicketFact { was_read, attempt, sent_at: row.enqueued_at, visible_at: row.visible_at }))
    });
    Ok(facts.collect())
}

/// How a step failed last.
#[derive(Debug, Clone)]
pub struct Failed {
    /// The step.
    pub step: StepIndex,
    /// The word in the table: `failure`, `lost` or `lease_lost`.
    pub outcome: String,
    /// Whether it said that trying again may help.
    pub retryable: Option<bool>,
    /// A `StepFailure` as JSON; none where the worker was lost.
    pub error: Option<String>,
    /// When it was told.
    pub at: DateTime<Utc>,
}

/// The last failure of each of these steps.
///
/// # Errors
/// Where the database is away.
pub async fn failures(conn: &mut PgConnection, task: TaskId, steps: &[StepIndex]) -> Result<Vec<Failed>, StoreError> {
    let steps: Vec<i32> = steps.iter().map(|step| step_column(*step)).collect();
    let rows = sqlx::query!(
        "SELECT DISTINCT ON (a.step) a.step, a.outcome, a.retryable, a.error::text AS error, a.ended_at
         FROM tasker.attempts a
         WHERE a.task_uuid = $1 AND a.step = ANY ($2) AND a.outcome IN ('failure', 'lost', 'lease_lost')
         ORDER BY a.step, a.attempt DESC",
        task.uuid(),
        &steps
    )
    .fetch_all(conn)
    .await?;
    let failed = rows.into_iter().map(|row| Failed {
        step: step_index(row.step),
        outcome: row.outcome,
        retryable: row.retryable,
        error: row.error,
        at: row.ended_at,
    });
    Ok(failed.collect())
}
