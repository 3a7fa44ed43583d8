//! The due-time table: retry times further away than a delayed ticket may be.

use sqlx::PgConnection;
use tasker_lifecycle::{Event, Nonce, StepIndex, TaskId, Timestamp};
use uuid::Uuid;

use super::tasks::task_id;
use super::writes::step_column;
use super::{StoreError, to_sql};

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct DueTime {
    /// The task.
    pub task: TaskId,
    /// The step.
    pub step: StepIndex,
    /// The nonce that the task row names.
    pub nonce: Nonce,
    /// When its ticket is to be sent.
    pub due: Timestamp,
}

/// Inserts rows.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn insert(conn: &mut PgConnection, rows: &[DueTime]) -> Result<(), StoreError> {
    let tasks: Vec<Uuid> = rows.iter().map(|row| row.task.uuid()).collect();
    let steps: Vec<i32> = rows.iter().map(|row| step_column(row.step)).collect();
    let nonces: Vec<Uuid> = rows.iter().map(|row| row.nonce.0).collect();
    let dues: Vec<_> = rows.iter().map(|row| to_sql(row.due)).collect();
    sqlx::query!(
        "INSERT INTO tasker.due_times (task_uuid, step, nonce, due_at)
         SELECT * FROM unnest($1::uuid[], $2::integer[], $3::uuid[], $4::timestamptz[])",
        &tasks,
        &steps,
        &nonces,
        &dues
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the rows of these steps.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn delete(conn: &mut PgConnection, rows: &[(TaskId, StepIndex)]) -> Result<(), StoreError> {
    let tasks: Vec<Uuid> = rows.iter().map(|(task, _)| task.uuid()).collect();
    let steps: Vec<i32> = rows.iter().map(|(_, step)| step_column(*step)).collect();
    sqlx::query!(
        "DELETE FROM tasker.due_times d USING unnest($1::uuid[], $2::integer[]) AS u (task, step)
         WHERE d.task_uuid = u.task AND d.step = u.step",
        &tasks,
        &steps
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The events of up to `limit` rows that have come due, oldest first, and how many milliseconds from now
/// the next one after them comes due.
///
/// # Errors
/// Where the database is away.
pub async fn come_due(conn: &mut PgConnection, limit: i64) -> Result<(Vec<(TaskId, Event)>, Option<u64>), StoreError> {
    let rows = sqlx::query!(
        r#"SELECT task_uuid, step, nonce,
                  (extract(epoch FROM due_at - clock_timestamp()) * 1000)::bigint AS "ms!"
           FROM tasker.due_times ORDER BY due_at LIMIT $1"#,
        limit
    )
    .fetch_all(conn)
    .await?;
    let next = rows.iter().map(|row| row.ms).find(|ms| *ms > 0);
    let due = rows.into_iter().filter(|row| row.ms <= 0).map(|row| {
        let step = StepIndex(u32::try_from(row.step).unwrap_or(u32::MAX));
        Ok((task_id(row.task_uuid)?, Event::Due { step, nonce: Nonce(row.nonce) }))
    });
    Ok((due.collect::<Result<_, StoreError>>()?, next.and_then(|ms| u64::try_from(ms).ok())))
}
