//! Tasks that have passed a bound which their template sets to their life.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tasker_lifecycle::{CorruptTask, TaskId, TaskState};

use super::StoreError;
use super::tasks::task_id;

/// A live task that has passed a bound.
#[derive(Debug, Clone)]
pub struct Stale {
    /// The task.
    pub task: TaskId,
    /// Its namespace.
    pub namespace: String,
    /// Its template's name.
    pub name: String,
    /// Its state.
    pub state: TaskState,
    /// Since when the bound counts: its creation, or the moment at which it came into this state.
    pub since: DateTime<Utc>,
    /// The key of the template's `lifecycle` that was passed.
    pub bound: String,
    /// What the template says under that key.
    pub minutes: i64,
    /// Whether the template wants a dead letter entry.
    pub files: bool,
    /// Whether the template wants the task to end in error.
    pub fails: bool,
    /// Whether there is or was such an entry.
    pub is_filed: bool,
}

/// Up to `limit` stale tasks after the given one, by id.
///
/// # Errors
/// Where the database is away.
pub async fn stale(conn: &mut PgConnection, after: Option<TaskId>, limit: i32) -> Result<Vec<Stale>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT task_uuid AS "task_uuid!", namespace AS "namespace!", name AS "name!", state AS "state!",
                  since AS "since!", bound AS "bound!", minutes AS "minutes!", files AS "files!", fails AS "fails!",
                  is_filed AS "is_filed!"
           FROM tasker.stale_tasks($1, $2)"#,
        after.map_or(uuid::Uuid::nil(), TaskId::uuid),
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let task = task_id(row.task_uuid)?;
            let state = row.state.parse().map_err(|e| CorruptTask { id: task, what: format!("{e}") })?;
            let (namespace, name, since, bound) = (row.namespace, row.name, row.since, row.bound);
            let (minutes, files, fails, is_filed) = (row.minutes, row.files, row.fails, row.is_filed);
            Ok(Stale { task, namespace, name, state, since, bound, minutes, files, fails, is_filed })
        })
        .collect()
}
