//! Dead letter entries as people look into them: lists, what is most urgent, resolutions, and entries by hand. How the
//! engine files them is in `dead_letters`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tasker_lifecycle::TaskId;
use uuid::Uuid;

use super::StoreError;

/// Entries that the figures are made of: the newest.
pub const STATS_MAX: i64 = 100_000;
/// Pending entries that are looked at for the most urgent ones: the oldest.
const URGENT_OF: i64 = 5_000;
/// Attempts in the snapshot of an entry by hand: the newest.
const SNAPSHOT_ATTEMPTS: i64 = 1_000;

/// An entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The entry.
    pub entry: Uuid,
    /// The task; none for a message that nobody could read.
    pub task: Option<Uuid>,
    /// The step's position; none where the whole task was filed by hand.
    pub step: Option<i32>,
    /// The step's name.
    pub step_name: Option<String>,
    /// The attempt after which the step was given up.
    pub attempt: Option<i32>,
    /// The task's namespace.
    pub namespace: Option<String>,
    /// The task's template.
    pub task_name: Option<String>,
    /// The task's state now.
    pub task_state: Option<String>,
    /// Why it was filed.
    pub reason: String,
    /// Who filed it, where somebody did.
    pub filed_by: Option<String>,
    /// What was known when it was filed: JSON; none for a moment after that.
    pub snapshot: Option<String>,
    /// `pending`, `manually_resolved`, `permanently_failed` or `cancelled`.
    pub resolution_status: String,
    /// What was found.
    pub resolution_notes: Option<String>,
    /// By whom.
    pub resolved_by: Option<String>,
    /// When.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Every resolution so far: JSON.
    pub resolutions: String,
    /// When it was filed.
    pub created_at: DateTime<Utc>,
}

/// Where a page of the ledger begins.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// Filed before this, or at the same moment
    pub created_at: DateTime<Utc>,
    /// with a lower id than this.
    pub entry: Uuid,
}

/// Up to `limit` entries before `before`, newest first, without their snapshots.
///
/// # Errors
/// Where the database is away.
pub async fn list(
    conn: &mut PgConnection,
    status: Option<&str>,
    before: Before,
    limit: i64,
) -> Result<Vec<Entry>, StoreError> {
    // Two statements, so that each has the plan of its index.
    let ids = match status {
        Some(status) => {
            sqlx::query_scalar!(
                "SELECT entry_uuid FROM tasker.dead_letters
                 WHERE resolution_status = $1 AND (created_at, entry_uuid) < ($2, $3)
                 ORDER BY created_at DESC, entry_uuid DESC LIMIT $4",
                status,
                before.created_at,
                before.entry,
                limit
            )
            .fetch_all(&mut *conn)
            .await?
        }
        None => {
            sqlx::query_scalar!(
                "SELECT entry_uuid FROM tasker.dead_letters WHERE (created_at, entry_uuid) < ($1, $2)
                 ORDER BY created_at DESC, entry_uuid DESC LIMIT $3",
                before.created_at,
                before.entry,
                limit
            )
            .fetch_all(&mut *conn)
            .await?
        }
    };
    entries(conn, &ids, false).await
}

/// The entries of a task, newest first: at most `limit`.
///
/// # Errors
/// Where the database is away.
pub async fn of_task(conn: &mut PgConnection, task: TaskId, limit: i64) -> Result<Vec<Entry>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT entry_uuid FROM tasker.dead_letters WHERE task_uuid = $1
         ORDER BY created_at DESC, entry_uuid DESC LIMIT $2",
        task.uuid(),
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    entries(conn, &ids, true).await
}

/// One entry.
///
/// # Errors
/// Where the database is away.
pub async fn entry(conn: &mut PgConnection, entry: Uuid) -> Result<Option<Entry>, StoreError> {
    Ok(entries(conn, &[entry], true).await?.pop())
}

async fn entries(conn: &mut PgConnection, ids: &[Uuid], snapshots: bool) -> Result<Vec<Entry>, StoreError> {
    let found = sqlx::query_as!(
        Entry,
        r#"SELECT d.entry_uuid AS "entry!", d.task_uuid AS task, d.step, d.attempt, d.reason AS "reason!", d.filed_by,
                  tasker.step_name(c.content, t.expansions, t.task_uuid, d.step) AS step_name, t.namespace AS "namespace?",
                  t.name AS "task_name?", t.state AS "task_state?", CASE WHEN $2 THEN d.snapshot::text END AS snapshot,
                  d.resolution_status AS "resolution_status!", d.resolution_notes, d.resolved_by, d.resolved_at,
                  d.resolutions::text AS "resolutions!", d.created_at AS "created_at!"
           FROM unnest($1::uuid[]) WITH ORDINALITY AS u (id, ord)
           JOIN tasker.dead_letters d ON d.entry_uuid = u.id
           LEFT JOIN tasker.tasks t ON t.task_uuid = d.task_uuid
           LEFT JOIN tasker.templates c ON c.hash = t.template_hash
           ORDER BY u.ord"#,
        ids,
        snapshots
    )
    .fetch_all(conn)
    .await?;
    Ok(found)
}

/// A pending entry and how urgent it is.
#[derive(Debug, Clone)]
pub struct Urgent {
    /// The entry.
    pub entry: Entry,
    /// The task's priority.
    pub priority: i16,
    /// The greater the sooner.
    pub score: f64,
}

/// The most urgent of the oldest pending entries of tasks that are there. The score is the age in hours (at most 168),
/// five for each attempt (of at most 20), and the task's priority.
///
/// # Errors
/// Where the database is away.
pub async fn urgent(conn: &mut PgConnection, limit: i64) -> Result<Vec<Urgent>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT p.entry_uuid AS "entry!", t.priority AS "priority!",
                  (least(extract(epoch FROM clock_timestamp() - p.created_at) / 3600, 168)
                   + 5 * least(coalesce(p.attempt, 0), 20) + t.priority)::float8 AS "score!"
           FROM (SELECT d.entry_uuid, d.task_uuid, d.attempt, d.created_at FROM tasker.dead_letters d
                 WHERE d.resolution_status = 'pending' ORDER BY d.created_at, d.entry_uuid LIMIT $2) p
           JOIN tasker.tasks t ON t.task_uuid = p.task_uuid
           ORDER BY 3 DESC, p.created_at, p.entry_uuid LIMIT $1"#,
        limit,
        URGENT_OF
    )
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.entry).collect();
    let found = entries(conn, &ids, false).await?;
    let scored = found.into_iter().filter_map(|entry| {
        let row = rows.iter().find(|row| row.entry == entry.entry)?;
        Some(Urgent { entry, priority: row.priority, score: row.score })
    });
    Ok(scored.collect())
}

/// What is said of the entries of one reason.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Why they were filed.
    pub reason: String,
    /// All of them.
    pub total: i64,
    /// Nobody has resolved them.
    pub pending: i64,
    /// Resolved by hand.
    pub manually_resolved: i64,
    /// Given up.
    pub permanently_failed: i64,
    /// Not to be looked into.
    pub cancelled: i64,
    /// When the oldest was filed.
    pub oldest: DateTime<Utc>,
    /// When the newest was filed.
    pub newest: DateTime<Utc>,
    /// From filing to resolution, on average.
    pub average_resolution_minutes: Option<f64>,
}

/// Figures of the newest [`STATS_MAX`] entries, by reason.
///
/// # Errors
/// Where the database is away.
pub async fn figures(conn: &mut PgConnection) -> Result<Vec<Figures>, StoreError> {
    let found = sqlx::query_as!(
        Figures,
        r#"SELECT d.reason AS "reason!", count(*) AS "total!",
                  count(*) FILTER (WHERE d.resolution_status = 'pending') AS "pending!",
                  count(*) FILTER (WHERE d.resolution_status = 'manually_resolved') AS "manually_resolved!",
                  count(*) FILTER (WHERE d.resolution_status = 'permanently_failed') AS "permanently_failed!",
                  count(*) FILTER (WHERE d.resolution_status = 'cancelled') AS "cancelled!",
                  min(d.created_at) AS "oldest!", max(d.created_at) AS "newest!",
                  (avg(extract(epoch FROM d.resolved_at - d.created_at)) / 60)::float8 AS average_resolution_minutes
           FROM (SELECT e.reason, e.resolution_status, e.created_at, e.resolved_at FROM tasker.dead_letters e
                 ORDER BY e.created_at DESC, e.entry_uuid DESC LIMIT $1) d
           GROUP BY d.reason ORDER BY count(*) DESC, d.reason LIMIT 1000"#,
        STATS_MAX
    )
    .fetch_all(conn)
    .await?;
    Ok(found)
}

/// Writes a resolution into an entry; answers whether there is such an entry. The last hundred are kept.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn resolve(
    conn: &mut PgConnection,
    entry: Uuid,
    status: &str,
    notes: &str,
    by: &str,
) -> Result<bool, StoreError> {
    let written = sqlx::query!(
        "UPDATE tasker.dead_letters
         SET resolution_status = $2, resolution_notes = $3, resolved_by = $4,
             resolved_at = CASE WHEN $2 <> 'pending' THEN clock_timestamp() END,
             resolutions = CASE WHEN jsonb_array_length(resolutions) >= 100 THEN resolutions - 0 ELSE resolutions END
                 || jsonb_build_array(jsonb_build_object('status', $2::text, 'notes', $3::text, 'by', $4::text,
                                                         'at', clock_timestamp()))
         WHERE entry_uuid = $1",
        entry,
        status,
        notes,
        by
    )
    .execute(conn)
    .await?;
    Ok(written.rows_affected() > 0)
}

/// What came of filing a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filed {
    /// A new entry.
    New(Uuid),
    /// A pending entry that somebody filed before.
    Before(Uuid),
    /// There is no such task.
    NoTask,
}

/// Files a whole task with a snapshot of it and its newest attempts. The task is locked, so that of two who file it at
/// the same time one finds the entry of the other.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn file_task(
    conn: &mut PgConnection,
    task: TaskId,
    reason: &str,
    filed_by: &str,
) -> Result<Filed, StoreError> {
    let uuid = task.uuid();
    let locked = sqlx::query_scalar!("SELECT task_uuid FROM tasker.tasks WHERE task_uuid = $1 FOR NO KEY UPDATE", uuid);
    if locked.fetch_optional(&mut *conn).await?.is_none() {
        return Ok(Filed::NoTask);
    }
    let before = sqlx::query_scalar!(
        "SELECT entry_uuid FROM tasker.dead_letters
         WHERE task_uuid = $1 AND step IS NULL AND resolution_status = 'pending'",
        uuid
    );
    if let Some(entry) = before.fetch_optional(&mut *conn).await? {
        return Ok(Filed::Before(entry));
    }
    let entry = sqlx::query_scalar!(
        "INSERT INTO tasker.dead_letters (task_uuid, reason, filed_by, snapshot)
         SELECT t.task_uuid, $2, $3, jsonb_build_object(
             'namespace', t.namespace, 'name', t.name, 'state', t.state, 'steps', t.steps, 'priority', t.priority,
             'created_at', t.created_at, 'updated_at', t.updated_at, 'context', d.context, 'initiator', d.initiator,
             'correlation_id', d.correlation_id, 'tags', d.tags,
             'attempts', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                              'step', a.step, 'attempt', a.attempt, 'outcome', a.outcome, 'retryable', a.retryable,
                              'error', a.error, 'metadata', a.metadata, 'worker', a.worker,
                              'started_at', a.started_at, 'ended_at', a.ended_at) ORDER BY a.step, a.attempt), '[]')
                          FROM (SELECT * FROM tasker.attempts n WHERE n.task_uuid = t.task_uuid
                                ORDER BY n.ended_at DESC LIMIT $4) a))
         FROM tasker.tasks t JOIN tasker.task_details d ON d.task_uuid = t.task_uuid
         WHERE t.task_uuid = $1
         RETURNING entry_uuid",
        uuid,
        reason,
        filed_by,
        SNAPSHOT_ATTEMPTS
    )
    .fetch_one(conn)
    .await?;
    Ok(Filed::New(entry))
}
