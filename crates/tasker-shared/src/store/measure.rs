//! What benchmarks read: counters of the database, and when each attempt ran.

use sqlx::PgConnection;
use tasker_lifecycle::{StepIndex, TaskId, Timestamp};

use super::tasks::task_id;
use super::{StoreError, from_sql};

/// Counters that only grow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Process id of the backend that was asked.
    pub backend: i32,
    /// Bytes of WAL since the cluster was made.
    pub wal_bytes: f64,
    /// Committed transactions of this database.
    pub commits: i64,
    /// Statements of this database, where `pg_stat_statements` counts them.
    pub statements: Option<i64>,
}

/// Reads the counters. Backends hand theirs in once a second at most: wait that long after the last work.
///
/// # Errors
/// Where the database is away.
pub async fn counters(conn: &mut PgConnection) -> Result<Counters, StoreError> {
    let row = sqlx::query!(
        r#"SELECT pg_backend_pid() AS "pid!", (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8 AS "wal!",
                  (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS "commits!",
                  to_regclass('pg_stat_statements') IS NOT NULL AS "counted!""#
    )
    .fetch_one(&mut *conn)
    .await?;
    let mut statements = None;
    if row.counted {
        // Only where the extension was loaded is there such a view to check a query against.
        let calls = sqlx::query_scalar(
            "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s
             JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database() AND s.toplevel",
        );
        statements = Some(calls.fetch_one(&mut *conn).await?);
    }
    Ok(Counters { backend: row.pid, wal_bytes: row.wal, commits: row.commits, statements })
}

/// Makes the server count statements, where it loaded the library for it. Answers whether it does.
pub async fn count_statements(conn: &mut PgConnection) -> bool {
    sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").execute(conn).await.is_ok()
}

/// The process ids in the names of the databases `bench_PID` of this server.
///
/// # Errors
/// Where the database is away.
pub async fn scratch_databases(conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let names =
        sqlx::query_scalar!(r#"SELECT substr(datname, 7) AS "pid!" FROM pg_database WHERE datname ~ '^bench_[0-9]+$'"#);
    Ok(names.fetch_all(conn).await?)
}

/// When one attempt ran.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// The task.
    pub task: TaskId,
    /// The step.
    pub step: StepIndex,
    /// When the handler started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
}

/// Every successful attempt of a namespace's tasks.
///
/// # Errors
/// Where the database is away.
pub async fn ran(conn: &mut PgConnection, namespace: &str) -> Result<Vec<Ran>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT a.task_uuid, a.step, a.started_at AS "started!", a.ended_at
           FROM tasker.tasks t JOIN tasker.attempts a USING (task_uuid)
           WHERE t.namespace = $1 AND a.outcome = 'success' AND a.started_at IS NOT NULL"#,
        namespace
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Ran {
                task: task_id(row.task_uuid)?,
                step: StepIndex(u32::try_from(row.step).unwrap_or(u32::MAX)),
                started: from_sql(row.started),
                ended: from_sql(row.ended_at),
            })
        })
        .collect()
}
