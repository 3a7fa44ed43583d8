//! What operators did. Every action leaves one history row, and its number in there.

use sqlx::PgConnection;
use tasker_lifecycle::TaskId;
use uuid::Uuid;

use super::StoreError;

/// Those of `actions` that were carried out on `tasks`: a transaction whose outcome got lost is repeated, and what
/// it did must not be refused for having been done.
///
/// # Errors
/// Where the database is away.
pub async fn carried_out(conn: &mut PgConnection, tasks: &[TaskId], actions: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    let uuids: Vec<Uuid> = tasks.iter().map(|task| task.uuid()).collect();
    let found = sqlx::query_scalar!(
        r#"SELECT (h.detail ->> 'action_uuid')::uuid AS "action!" FROM tasker.history h
           WHERE h.task_uuid = ANY ($1) AND h.cause IN ('step_reset', 'step_resolved', 'step_completed')
             AND (h.detail ->> 'action_uuid')::uuid = ANY ($2)"#,
        &uuids,
        actions
    )
    .fetch_all(conn)
    .await?;
    Ok(found)
}
