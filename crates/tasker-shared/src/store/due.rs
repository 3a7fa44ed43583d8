//! The due-time table: steps whose ticket is still to be sent. A retry time further away than a delayed ticket may be,
//! or a resource that holds a step.

use sqlx::PgConnection;
use tasker_lifecycle::{Event, Nonce, StepIndex, TaskId, Timestamp};
use uuid::Uuid;

use super::tasks::task_id;
use super::writes::step_column;
use super::{StoreError, to_sql};

/// One row.
#[derive(Debug, Clone)]
pub struct DueTime {
    /// The task.
    pub task: TaskId,
    /// The step.
    pub step: StepIndex,
    /// The nonce that the task row names.
    pub nonce: Nonce,
    /// What holds it, where it does not wait for a time.
    pub resource: Option<ResourceKey>,
    /// Whether this replaces what a row says that is there already.
    pub replaces: bool,
    /// When its ticket is to be sent, or since when it is held.
    pub due: Timestamp,
}

/// A resource of a namespace: what holds a step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceKey {
    /// Whose resource it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Inserts rows. One that is there already may be held by another resource now.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn insert<'a>(
    conn: &mut PgConnection,
    rows: impl Iterator<Item = &'a DueTime> + Clone,
) -> Result<(), StoreError> {
    let tasks: Vec<Uuid> = rows.clone().map(|row| row.task.uuid()).collect();
    let steps: Vec<i32> = rows.clone().map(|row| step_column(row.step)).collect();
    let nonces: Vec<Uuid> = rows.clone().map(|row| row.nonce.0).collect();
    let dues: Vec<_> = rows.clone().map(|row| to_sql(row.due)).collect();
    let held = rows.map(|row| row.resource.as_ref());
    let (namespaces, names): (Vec<_>, Vec<_>) =
        held.map(|key| (key.map(|key| key.namespace.as_str()), key.map(|key| key.name.as_str()))).unzip();
    sqlx::query!(
        "INSERT INTO tasker.due_times (task_uuid, step, nonce, due_at, namespace, resource)
         SELECT * FROM unnest($1::uuid[], $2::integer[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[])
         ON CONFLICT (task_uuid, step) DO UPDATE SET resource = excluded.resource",
        &tasks,
        &steps,
        &nonces,
        &dues,
        &namespaces as &[Option<&str>],
        &names as &[Option<&str>]
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
           FROM tasker.due_times WHERE resource IS NULL ORDER BY due_at LIMIT $1"#,
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
