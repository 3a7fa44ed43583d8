//! Which workers are there and what they can run. For people: nothing is decided on it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// How often a worker says that it is there.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(15);

/// What one worker says of itself.
#[derive(Debug, Clone)]
pub struct Announcement<'a> {
    /// One start of one process.
    pub instance: Uuid,
    /// The worker's id in reports.
    pub worker: &'a str,
    /// The queues that it claims from.
    pub queues: &'a [String],
    /// The handlers that it has.
    pub handlers: &'a [String],
}

/// Says that a worker is there, and forgets those that were not heard of for an hour.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn announce(conn: &mut PgConnection, said: &Announcement<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH gone AS (
             DELETE FROM tasker.workers WHERE instance IN (
                 SELECT w.instance FROM tasker.workers w
                 WHERE w.last_seen < clock_timestamp() - interval '1 hour' AND w.instance <> $1 FOR UPDATE SKIP LOCKED)
         )
         INSERT INTO tasker.workers (instance, worker, queues, handlers) VALUES ($1, $2, $3, $4)
         ON CONFLICT (instance) DO UPDATE
         SET queues = excluded.queues, handlers = excluded.handlers, last_seen = clock_timestamp()",
        said.instance,
        said.worker,
        said.queues,
        said.handlers
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Says that a worker claims no more.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn leave(conn: &mut PgConnection, instance: Uuid) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM tasker.workers WHERE instance = $1", instance).execute(conn).await?;
    Ok(())
}

/// A handler that live workers have registered.
#[derive(Debug, Clone)]
pub struct KnownHandler {
    /// A namespace that the workers claim from; none while they have found no queue.
    pub namespace: Option<String>,
    /// The handler's name.
    pub name: String,
    /// The ids of the workers.
    pub workers: Vec<String>,
    /// When one of them was heard of last.
    pub last_seen: DateTime<Utc>,
}

/// What live workers have registered, by namespace and name: at most `limit` handlers.
///
/// # Errors
/// Where the database is away.
pub async fn handlers(
    conn: &mut PgConnection,
    namespace: Option<&str>,
    name: Option<&str>,
    limit: i64,
) -> Result<Vec<KnownHandler>, StoreError> {
    let found = sqlx::query_as!(
        KnownHandler,
        r#"SELECT q.namespace AS "namespace?", h.name AS "name!", array_agg(DISTINCT w.worker ORDER BY w.worker) AS "workers!",
                  max(w.last_seen) AS "last_seen!"
           FROM tasker.workers w
           CROSS JOIN LATERAL unnest(w.handlers) AS h (name)
           LEFT JOIN LATERAL (
               SELECT DISTINCT k.namespace FROM unnest(w.queues) AS u (queue) JOIN tasker.queues k ON k.queue = u.queue
           ) q ON true
           WHERE w.last_seen > clock_timestamp() - interval '45 seconds'
             AND ($1::text IS NULL OR q.namespace = $1) AND ($2::text IS NULL OR h.name = $2)
           GROUP BY q.namespace, h.name ORDER BY q.namespace, h.name LIMIT $3"#,
        namespace,
        name,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(found)
}

/// How many live workers there are for one queue and handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Able {
    /// They claim from the queue and have the handler.
    pub both: i64,
    /// They have the handler.
    pub handler: i64,
    /// They claim from the queue.
    pub queue: i64,
}

/// The live workers for each pair of queue and handler, in the order of the pairs.
///
/// # Errors
/// Where the database is away.
pub async fn able(conn: &mut PgConnection, pairs: &[(String, String)]) -> Result<Vec<Able>, StoreError> {
    let (queues, handlers): (Vec<&str>, Vec<&str>) =
        pairs.iter().map(|(queue, handler)| (queue.as_str(), handler.as_str())).unzip();
    let found = sqlx::query_as!(
        Able,
        r#"SELECT count(*) FILTER (WHERE u.queue = ANY (w.queues) AND u.handler = ANY (w.handlers)) AS "both!",
                  count(*) FILTER (WHERE u.handler = ANY (w.handlers)) AS "handler!",
                  count(*) FILTER (WHERE u.queue = ANY (w.queues)) AS "queue!"
           FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (queue, handler, ord)
           LEFT JOIN tasker.workers w ON w.last_seen > clock_timestamp() - interval '45 seconds'
           GROUP BY u.ord ORDER BY u.ord"#,
        &queues as &[&str],
        &handlers as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(found)
}
