//! Where handlers got to: written under the fence of their claim, read by the next attempt.

use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::Extension;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tasker_lifecycle::{StepIndex, TaskId};
use uuid::Uuid;

use super::StoreError;
use super::tasks::task_id;
use super::writes::step_column;
use crate::messages::Claim;

/// Stores a checkpoint, JSON text, and extends the claim's lease. Nothing is stored where the claim is lost, or where
/// its ticket is locked at this moment.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn store(
    conn: &mut PgConnection,
    claim: &Claim,
    lease: Duration,
    checkpoint: &RawValue,
) -> Result<Extension, StoreError> {
    let state = sqlx::query_scalar!(
        r#"SELECT tasker.checkpoint($1, $2, $3, $4, $5, $6, $7, $8, $9) AS "state!""#,
        claim.token.queue.as_str(),
        claim.token.msg_id,
        claim.token.read_ct,
        claim.token.nonce,
        i64::try_from(lease.as_millis()).unwrap_or(i64::MAX),
        claim.task.uuid(),
        step_column(claim.step),
        i32::try_from(claim.attempt).unwrap_or(i32::MAX),
        checkpoint.get()
    )
    .fetch_one(conn)
    .await?;
    Ok(match state.as_str() {
        "extended" => Extension::Extended,
        "skipped" => Extension::Skipped,
        _ => Extension::Lost,
    })
}

/// The checkpoints of these steps; those that have none are left out.
///
/// # Errors
/// Where the database is away.
pub async fn load(
    conn: &mut PgConnection,
    steps: &[(TaskId, StepIndex)],
) -> Result<Vec<((TaskId, StepIndex), Arc<RawValue>)>, StoreError> {
    let tasks: Vec<Uuid> = steps.iter().map(|(task, _)| task.uuid()).collect();
    let indexes: Vec<i32> = steps.iter().map(|(_, step)| step_column(*step)).collect();
    let rows = sqlx::query!(
        r#"SELECT c.task_uuid, c.step, c.checkpoint::text AS "checkpoint!"
           FROM unnest($1::uuid[], $2::integer[]) AS u (task, step)
           JOIN tasker.checkpoints c ON c.task_uuid = u.task AND c.step = u.step"#,
        &tasks,
        &indexes
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let step = StepIndex(u32::try_from(row.step).expect("steps count from 0"));
            let json = RawValue::from_string(row.checkpoint).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
            Ok(((task_id(row.task_uuid)?, step), json.into()))
        })
        .collect()
}

/// Deletes the checkpoints of tasks that have ended, at most `limit`; answers how many there were.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn delete_ended(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM tasker.checkpoints c USING (
             SELECT d.task_uuid, d.step FROM tasker.checkpoints d
             WHERE NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_uuid = d.task_uuid AND t.ended_at IS NULL)
             LIMIT $1
         ) e WHERE c.task_uuid = e.task_uuid AND c.step = e.step",
        limit
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
