//! Requests that became no task although their sender has an id in hand.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tasker_lifecycle::TaskId;
use uuid::Uuid;

use super::StoreError;
use super::tasks::{range, task_id};

/// One of them.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The id that the task would have had.
    pub task: TaskId,
    /// As asked for.
    pub namespace: String,
    /// As asked for.
    pub name: String,
    /// As asked for.
    pub version: Option<String>,
    /// The code that the same request would have been refused with over HTTP.
    pub code: String,
    /// Why, for people.
    pub message: String,
    /// What belongs to the code, JSON.
    pub details: serde_json::Value,
    /// The request as it was sent, JSON text.
    pub request: Box<RawValue>,
}

/// Keeps refusals. Keeping the same again changes nothing.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn insert(conn: &mut PgConnection, refusals: &[Refusal]) -> Result<(), StoreError> {
    if refusals.is_empty() {
        return Ok(());
    }
    let tasks: Vec<Uuid> = refusals.iter().map(|refusal| refusal.task.uuid()).collect();
    let text = |of: fn(&Refusal) -> &str| refusals.iter().map(of).collect::<Vec<_>>();
    let versions: Vec<Option<&str>> = refusals.iter().map(|refusal| refusal.version.as_deref()).collect();
    let details: Vec<String> = refusals.iter().map(|refusal| refusal.details.to_string()).collect();
    sqlx::query!(
        "INSERT INTO tasker.refused_requests (task_uuid, namespace, name, version, code, message, details, request)
         SELECT u.task, u.namespace, u.name, u.version, u.code, u.message, u.details::json, u.request::json
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
             AS u (task, namespace, name, version, code, message, details, request)
         ON CONFLICT DO NOTHING",
        &tasks,
        &text(|refusal| &refusal.namespace) as &[&str],
        &text(|refusal| &refusal.name) as &[&str],
        &versions as &[Option<&str>],
        &text(|refusal| &refusal.code) as &[&str],
        &text(|refusal| &refusal.message) as &[&str],
        &details,
        &text(|refusal| refusal.request.get()) as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Which of these requests were judged already: there is a task of that id, or a refusal.
///
/// # Errors
/// Where the database is away.
pub async fn judged(conn: &mut PgConnection, tasks: &[TaskId]) -> Result<Vec<TaskId>, StoreError> {
    let uuids: Vec<Uuid> = tasks.iter().map(|task| task.uuid()).collect();
    let (least, last) = range(&uuids);
    let there = sqlx::query_scalar!(
        r#"SELECT task_uuid AS "task_uuid!" FROM tasker.tasks
           WHERE task_uuid = ANY ($1) AND task_uuid BETWEEN $2 AND $3
           UNION ALL SELECT task_uuid FROM tasker.refused_requests WHERE task_uuid = ANY ($1)"#,
        &uuids,
        least,
        last
    )
    .fetch_all(conn)
    .await?;
    there.into_iter().map(task_id).collect()
}

/// The refusal of a request, and when it was refused.
///
/// # Errors
/// Where the database is away.
pub async fn get(conn: &mut PgConnection, task: TaskId) -> Result<Option<(Refusal, DateTime<Utc>)>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT namespace, name, version, code, message, details::jsonb AS "details!", request::text AS "request!",
                  refused_at
           FROM tasker.refused_requests WHERE task_uuid = $1"#,
        task.uuid()
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let request = RawValue::from_string(row.request).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    let (namespace, name, version) = (row.namespace, row.name, row.version);
    let (code, message, details) = (row.code, row.message, row.details);
    Ok(Some((Refusal { task, namespace, name, version, code, message, details, request }, row.refused_at)))
}
