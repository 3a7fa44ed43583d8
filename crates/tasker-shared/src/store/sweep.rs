//! What the slow sweep looks for: attempts that nobody decided on, and partitions to come.

use sqlx::PgConnection;
use tasker_lifecycle::{Event, StepIndex, TaskId};
use uuid::Uuid;

use super::StoreError;
use super::tasks::{reported, task_id};
use super::writes::step_column;

/// Accepted attempts of live tasks that the task row does not know yet and that are older than `age_ms`:
/// their result message got lost. One that ended in the future did so before the clock jumped back. Looks at `limit` live tasks after `after`; answers with the last one
/// looked at, or `None` at the end.
///
/// # Errors
/// Where the database is away.
pub async fn undecided(
    conn: &mut PgConnection,
    after: Option<TaskId>,
    limit: i64,
    age_ms: f64,
) -> Result<(Vec<(TaskId, Event)>, Option<TaskId>), StoreError> {
    let after = after.map_or(Uuid::nil(), TaskId::uuid);
    let rows = sqlx::query!(
        r#"WITH live AS MATERIALIZED (
               SELECT t.task_uuid, t.sparse, t.updated_at FROM tasker.tasks t
               WHERE t.ended_at IS NULL AND t.task_uuid > $1 ORDER BY t.task_uuid LIMIT $2
           )
           SELECT l.task_uuid AS "task_uuid!", a.step AS "step?", a.attempt AS "attempt?", a.nonce AS "nonce?",
                  a.outcome AS "outcome?", a.retryable, a.retry_after_ms,
                  a.follows::text AS follows
           FROM live l
           LEFT JOIN LATERAL (
               SELECT a.* FROM jsonb_each(l.sparse) AS s (step, entry)
               JOIN tasker.attempts a ON a.task_uuid = l.task_uuid AND a.step = s.step::integer
                                     AND a.nonce = (s.entry ->> 'n')::uuid AND a.outcome <> 'lost'
               WHERE abs(extract(epoch FROM clock_timestamp() - l.updated_at)) * 1000 > $3::double precision
                 AND abs(extract(epoch FROM clock_timestamp() - a.ended_at)) * 1000 > $3::double precision
           ) a ON true
           ORDER BY l.task_uuid, a.ended_at, a.step"#,
        after,
        limit,
        age_ms
    )
    .fetch_all(conn)
    .await?;
    let last = rows.last().map(|row| task_id(row.task_uuid)).transpose()?;
    let mut found = Vec::new();
    for row in rows {
        if let (Some(step), Some(attempt), Some(nonce), Some(outcome)) =
            (row.step, row.attempt, row.nonce, &row.outcome)
            && let Some(event) =
                reported(step, attempt, nonce, outcome, (row.retryable, row.retry_after_ms), row.follows.as_deref())
        {
            found.push((task_id(row.task_uuid)?, event));
        }
    }
    Ok((found, last))
}

/// The undecided attempts of these tasks, which must be locked.
///
/// # Errors
/// Where the database is away.
pub async fn undecided_of(conn: &mut PgConnection, tasks: &[TaskId]) -> Result<Vec<(TaskId, Event)>, StoreError> {
    let uuids: Vec<Uuid> = tasks.iter().map(|task| task.uuid()).collect();
    let rows = sqlx::query!(
        r#"SELECT a.task_uuid AS "task_uuid!", a.step AS "step!", a.attempt AS "attempt!", a.nonce AS "nonce!",
                  a.outcome AS "outcome!", a.retryable, a.retry_after_ms,
                  a.follows::text AS follows
           FROM unnest($1::uuid[]) AS u (id)
           JOIN tasker.tasks t ON t.task_uuid = u.id
           CROSS JOIN LATERAL jsonb_each(t.sparse) AS s (step, entry)
           JOIN tasker.attempts a ON a.task_uuid = u.id AND a.step = s.step::integer
                                 AND a.nonce = (s.entry ->> 'n')::uuid AND a.outcome <> 'lost'
           ORDER BY a.task_uuid, a.ended_at, a.step"#,
        &uuids
    )
    .fetch_all(conn)
    .await?;
    let mut found = Vec::new();
    for row in rows {
        let event = reported(
            row.step,
            row.attempt,
            row.nonce,
            &row.outcome,
            (row.retryable, row.retry_after_ms),
            row.follows.as_deref(),
        );
        if let Some(event) = event {
            found.push((task_id(row.task_uuid)?, event));
        }
    }
    Ok(found)
}

/// The number of the last attempt that is stored of each of these steps, 0 where there is none. Their tasks must be
/// locked.
///
/// # Errors
/// Where the database is away.
pub async fn attempts_of(conn: &mut PgConnection, steps: &[(TaskId, StepIndex)]) -> Result<Vec<u32>, StoreError> {
    let tasks: Vec<Uuid> = steps.iter().map(|(task, _)| task.uuid()).collect();
    let indexes: Vec<i32> = steps.iter().map(|(_, step)| step_column(*step)).collect();
    let last = sqlx::query_scalar!(
        r#"SELECT coalesce((SELECT max(a.attempt) FROM tasker.attempts a WHERE a.task_uuid = u.task AND a.step = u.step), 0)
               AS "last!"
           FROM unnest($1::uuid[], $2::integer[]) WITH ORDINALITY AS u (task, step, ord) ORDER BY u.ord"#,
        &tasks,
        &indexes
    )
    .fetch_all(conn)
    .await?;
    Ok(last.into_iter().map(|last| u32::try_from(last).unwrap_or(0)).collect())
}

/// Makes the partitions of the months to come; answers with how many were missing.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn ensure_partitions(conn: &mut PgConnection) -> Result<i32, StoreError> {
    let made = sqlx::query_scalar!(r#"SELECT tasker.ensure_partitions() AS "made!""#).fetch_one(conn).await?;
    Ok(made)
}
