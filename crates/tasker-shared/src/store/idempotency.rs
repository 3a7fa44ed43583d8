//! One task per (namespace, key).

use sqlx::PgConnection;
use tasker_lifecycle::TaskId;
use uuid::Uuid;

use super::StoreError;
use super::tasks::task_id;

/// A key that a new task claims.
#[derive(Debug, Clone)]
pub struct Key {
    /// The namespace of the task.
    pub namespace: String,
    /// The key.
    pub key: String,
    /// SHA-256 of the canonical request.
    pub body_hash: [u8; 32],
    /// The task to be.
    pub task: TaskId,
}

/// Which request holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The new task.
    New,
    /// An earlier request with the same body.
    Same(TaskId),
    /// An earlier request with another body.
    Other(TaskId),
}

/// Claims keys for new tasks; answers in the same order. The keys are taken in sorted order, so that two
/// batches can't wait for each other; who comes second waits for the first one's commit.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn claim(conn: &mut PgConnection, keys: &[Key]) -> Result<Vec<Held>, StoreError> {
    let namespaces: Vec<&str> = keys.iter().map(|k| k.namespace.as_str()).collect();
    let names: Vec<&str> = keys.iter().map(|k| k.key.as_str()).collect();
    let hashes: Vec<&[u8]> = keys.iter().map(|k| &k.body_hash[..]).collect();
    let tasks: Vec<Uuid> = keys.iter().map(|k| k.task.uuid()).collect();
    sqlx::query!(
        "INSERT INTO tasker.idempotency_keys (namespace, key, body_hash, task_uuid)
         SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[]) AS u (namespace, key, hash, task)
         ORDER BY u.namespace, u.key, u.task
         ON CONFLICT DO NOTHING",
        &namespaces as &[&str],
        &names as &[&str],
        &hashes as &[&[u8]],
        &tasks
    )
    .execute(&mut *conn)
    .await?;
    // A new statement: it sees what was committed while the insert waited.
    let rows = sqlx::query!(
        r#"SELECT k.task_uuid, k.body_hash
           FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (namespace, key, ord)
           JOIN tasker.idempotency_keys k ON k.namespace = u.namespace AND k.key = u.key
           ORDER BY u.ord"#,
        &namespaces as &[&str],
        &names as &[&str]
    )
    .fetch_all(conn)
    .await?;
    rows.iter()
        .zip(keys)
        .map(|(row, key)| {
            let holder = task_id(row.task_uuid)?;
            Ok(match (holder == key.task, row.body_hash == key.body_hash) {
                (true, _) => Held::New,
                (false, true) => Held::Same(holder),
                (false, false) => Held::Other(holder),
            })
        })
        .collect()
}
