//! Figures on tasks and attempts of the last hours. Every scan goes from the newest task id down to that of a time, and
//! over a bounded number of rows: who runs millions of tasks an hour gets figures of the newest ones.
//!
//! Execution time is from the start of a handler to its end. What a step waited for is not in it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// Tasks that are looked at: the newest.
const TASKS_MAX: i64 = 20_000;
/// Attempts of these that are looked at.
const ATTEMPTS_MAX: i64 = 200_000;

/// Figures of the tasks that were created since a time.
#[derive(Debug, Clone)]
pub struct Performance {
    /// Tasks looked at.
    pub tasks: i64,
    /// When the oldest of them was created; none where there is none.
    pub oldest: Option<DateTime<Utc>>,
    /// Those that have not ended and are not blocked.
    pub active: i64,
    /// Those that are complete or were resolved.
    pub completed: i64,
    /// Those that are blocked by failures or ended in error.
    pub failed: i64,
    /// Those that were cancelled.
    pub cancelled: i64,
    /// From creation to completion, on average.
    pub task_seconds: Option<f64>,
    /// Attempts looked at.
    pub attempts: i64,
    /// Steps that an attempt completed.
    pub steps_completed: i64,
    /// Attempts that failed.
    pub attempts_failed: i64,
    /// Attempts whose worker was lost.
    pub attempts_lost: i64,
    /// Execution times in milliseconds: mean, median, 95th and 99th percentile, the longest.
    pub mean_ms: Option<f64>,
    /// The median.
    pub p50_ms: Option<f64>,
    /// The 95th percentile.
    pub p95_ms: Option<f64>,
    /// The 99th percentile.
    pub p99_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

impl Performance {
    /// Whether there were more tasks or attempts than were looked at.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.tasks >= TASKS_MAX || self.attempts >= ATTEMPTS_MAX
    }
}

/// Figures of the tasks whose id is not below `floor`.
///
/// # Errors
/// Where the database is away.
pub async fn performance(conn: &mut PgConnection, floor: Uuid) -> Result<Performance, StoreError> {
    let found = sqlx::query_file_as!(Performance, "src/store/performance.sql", floor, TASKS_MAX, ATTEMPTS_MAX);
    Ok(found.fetch_one(conn).await?)
}

/// The execution times of one step of a template.
#[derive(Debug, Clone)]
pub struct SlowStep {
    /// The template's namespace.
    pub namespace: String,
    /// The template's name.
    pub task_name: String,
    /// The template's version.
    pub version: String,
    /// The step's name.
    pub step_name: Option<String>,
    /// The step's handler.
    pub handler: Option<String>,
    /// Attempts that a handler ran.
    pub executions: i64,
    /// Those that failed.
    pub failures: i64,
    /// Those that were not the first of their step.
    pub retries: i64,
    /// The mean execution time in milliseconds.
    pub mean_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// All together.
    pub total_ms: f64,
}

/// The `limit` steps with the longest mean execution time, of those with at least `min_executions`.
///
/// # Errors
/// Where the database is away.
pub async fn slow_steps(
    conn: &mut PgConnection,
    floor: Uuid,
    min_executions: i64,
    limit: i64,
) -> Result<Vec<SlowStep>, StoreError> {
    let found = sqlx::query_as!(
        SlowStep,
        r#"WITH newest AS MATERIALIZED (
               SELECT t.task_uuid, t.template_hash, t.expansions FROM tasker.tasks t WHERE t.task_uuid >= $1
               ORDER BY t.task_uuid DESC LIMIT $4
           ), tried AS MATERIALIZED (
               SELECT n.template_hash, a.attempt,
                      CASE WHEN n.expansions IS NULL THEN a.step ELSE (
                          SELECT tasker.pattern(c.content, n.expansions, a.step)
                          FROM tasker.templates c WHERE c.hash = n.template_hash) END AS step, a.outcome,
                      (extract(epoch FROM a.ended_at - a.started_at) * 1000)::float8 AS ms
               FROM newest n JOIN tasker.attempts a ON a.task_uuid = n.task_uuid AND a.task_uuid >= $1
               WHERE a.started_at IS NOT NULL LIMIT $5
           ), steps AS (
               SELECT template_hash, step, count(*) AS executions, count(*) FILTER (WHERE outcome = 'failure') AS failures,
                      count(*) FILTER (WHERE attempt > 1) AS retries, avg(ms) AS mean_ms,
                      percentile_cont(0.95) WITHIN GROUP (ORDER BY ms) AS p95_ms, max(ms) AS max_ms, sum(ms) AS total_ms
               FROM tried GROUP BY template_hash, step HAVING count(*) >= $2 ORDER BY avg(ms) DESC LIMIT $3
           )
           SELECT c.namespace AS "namespace!", c.name AS "task_name!", c.version AS "version!",
                  c.content -> 'steps' -> s.step ->> 'name' AS step_name,
                  c.content -> 'steps' -> s.step -> 'handler' ->> 'callable' AS handler,
                  s.executions AS "executions!", s.failures AS "failures!", s.retries AS "retries!",
                  s.mean_ms AS "mean_ms!", s.p95_ms AS "p95_ms!", s.max_ms AS "max_ms!", s.total_ms AS "total_ms!"
           FROM steps s JOIN tasker.templates c ON c.hash = s.template_hash
           ORDER BY s.mean_ms DESC, c.namespace, c.name, s.step"#,
        floor,
        min_executions,
        limit,
        TASKS_MAX,
        ATTEMPTS_MAX
    )
    .fetch_all(conn)
    .await?;
    Ok(found)
}

/// The execution times of one template.
#[derive(Debug, Clone)]
pub struct SlowTask {
    /// The template's namespace.
    pub namespace: String,
    /// The template's name.
    pub task_name: String,
    /// The template's version.
    pub version: String,
    /// Tasks that are complete.
    pub executions: i64,
    /// Time in handlers of one task, all its attempts together, on average in milliseconds.
    pub mean_ms: f64,
    /// The greatest of these.
    pub max_ms: f64,
    /// From creation to completion, on average in milliseconds: what waited is in it.
    pub mean_duration_ms: f64,
}

/// The `limit` templates whose complete tasks spent the most time in handlers, of those with at least
/// `min_executions`.
///
/// # Errors
/// Where the database is away.
pub async fn slow_tasks(
    conn: &mut PgConnection,
    floor: Uuid,
    min_executions: i64,
    limit: i64,
) -> Result<Vec<SlowTask>, StoreError> {
    let found = sqlx::query_as!(
        SlowTask,
        r#"WITH newest AS MATERIALIZED (
               SELECT t.task_uuid, t.template_hash, t.state, t.created_at, t.ended_at FROM tasker.tasks t
               WHERE t.task_uuid >= $1 ORDER BY t.task_uuid DESC LIMIT $4
           ), tried AS MATERIALIZED (
               SELECT n.task_uuid, a.started_at, a.ended_at FROM newest n
               JOIN tasker.attempts a ON a.task_uuid = n.task_uuid AND a.task_uuid >= $1
               WHERE n.state = 'complete' AND a.started_at IS NOT NULL LIMIT $5
           ), spent AS MATERIALIZED (
               SELECT task_uuid, (sum(extract(epoch FROM ended_at - started_at)) * 1000)::float8 AS ms
               FROM tried GROUP BY task_uuid
           ), templates AS (
               SELECT n.template_hash, count(*) AS executions, avg(s.ms) AS mean_ms, max(s.ms) AS max_ms,
                      (avg(extract(epoch FROM n.ended_at - n.created_at)) * 1000)::float8 AS mean_duration_ms
               FROM spent s JOIN newest n ON n.task_uuid = s.task_uuid
               GROUP BY n.template_hash HAVING count(*) >= $2 ORDER BY avg(s.ms) DESC LIMIT $3
           )
           SELECT c.namespace AS "namespace!", c.name AS "task_name!", c.version AS "version!",
                  s.executions AS "executions!", s.mean_ms AS "mean_ms!", s.max_ms AS "max_ms!",
                  s.mean_duration_ms AS "mean_duration_ms!"
           FROM templates s JOIN tasker.templates c ON c.hash = s.template_hash
           ORDER BY s.mean_ms DESC, c.namespace, c.name"#,
        floor,
        min_executions,
        limit,
        TASKS_MAX,
        ATTEMPTS_MAX
    )
    .fetch_all(conn)
    .await?;
    Ok(found)
}
