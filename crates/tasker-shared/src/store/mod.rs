//! All SQL on Tasker's tables. Functions take a connection: the caller sees where the commit is.
//!
//! One file per table or subject. Deliberately absent: dependency resolution (that is `decide`), a
//! transaction opened in here, and any state but the snapshot cache, which is only a cache.

use chrono::{DateTime, Utc};
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tasker_lifecycle::{CorruptTask, Timestamp};

pub mod actions;
pub mod analytics;
pub mod cache;
pub mod checkpoints;
pub mod claims;
pub mod dead_letters;
pub mod discards;
pub mod due;
pub mod failed;
pub mod idempotency;
pub mod kept;
pub mod ledger;
pub mod measure;
pub mod queries;
pub mod queues;
pub mod refusals;
pub mod reports;
pub mod resources;
pub mod schema;
pub mod staleness;
pub mod sweep;
pub mod tasks;
pub mod templates;
pub mod workers;
pub mod writes;

/// What can go wrong between us and the database, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused, or is away.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The queue layer failed.
    #[error(transparent)]
    Queue(#[from] pgmq_notify::Error),
    /// A stored task contradicts itself.
    #[error(transparent)]
    Corrupt(#[from] CorruptTask),
    /// A stored template can't be read, or is missing.
    #[error("template {0}")]
    Template(String),
    /// Fewer rows were written than there were changes: the transaction must not commit.
    #[error("{written} of {expected} tasks were written")]
    Incomplete {
        /// Rows that were to be written.
        expected: usize,
        /// Rows that were.
        written: i64,
    },
    /// A task or a ticket was not as it was expected: somebody else came first, and nothing was done.
    #[error("a task or a ticket was not as it was expected")]
    Overtaken,
    /// A test's injected failure.
    #[error(transparent)]
    Injected(#[from] crate::crash_point::Injected),
}

impl StoreError {
    /// Whether the same work may succeed when it is tried again: connection lost, deadlock,
    /// serialisation failure, shutdown, too many connections, disk full.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => is_transient(error),
            Self::Queue(error) => error.is_transient(),
            Self::Injected(_) | Self::Overtaken => true,
            Self::Corrupt(_) | Self::Template(_) | Self::Incomplete { .. } => false,
        }
    }
}

fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default().into_owned();
            matches!(&code[..code.len().min(2)], "08" | "40" | "53" | "57" | "58") || code == "55P03" || code == "25006"
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// A connection that was used so short a time ago is given away without being tried.
const TRUSTED: std::time::Duration = std::time::Duration::from_secs(1);

/// A pool whose plans are pinned: every hot statement joins a batch of known size to tables by their
/// keys, so hash joins and scans are always the wrong choice, and a generic plan is always the right one.
///
/// # Errors
/// Where no connection can be made within `acquire_timeout`.
pub async fn connect(
    url: &str,
    max_connections: u32,
    acquire_timeout: std::time::Duration,
    statement_timeout_ms: u64,
) -> Result<PgPool, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    let timeout = statement_timeout_ms.to_string();
    let options = options.application_name("tasker").options([
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        // A range that is read once and kept is looked through for each row of a batch.
        ("enable_material", "off"),
        // Ours are short look-ups of what was just written, so they find it in memory.
        ("random_page_cost", "1"),
        ("plan_cache_mode", "force_generic_plan"),
        ("jit", "off"),
        ("statement_timeout", timeout.as_str()),
        ("idle_in_transaction_session_timeout", "60000"),
    ]);
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(acquire_timeout)
        .test_before_acquire(false)
        // One that has lain there may be of a server that is gone: whoever gets it would be told that the database is away.
        .before_acquire(|conn, meta| Box::pin(async move { Ok(meta.idle_for < TRUSTED || conn.ping().await.is_ok()) }))
        .connect_with(options)
        .await
}

/// Brings the schema to this version, PGMQ included. Safe to call from several processes at once.
///
/// # Errors
/// Where a migration fails, or the database holds migrations that this version does not know.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    pgmq_notify::install(pool).await?;
    let mut conn = pool.acquire().await?;
    // The table of migrations lives in our schema, not in whatever `public` is to the user.
    let ours = "CREATE SCHEMA IF NOT EXISTS tasker; SET search_path = tasker, public";
    sqlx::raw_sql(ours).execute(&mut *conn).await?;
    let migrated = sqlx::migrate!().run(&mut *conn).await;
    sqlx::raw_sql("RESET search_path").execute(&mut *conn).await?;
    migrated?;
    let queues = [crate::messages::TASK_REQUESTS, crate::messages::STEP_RESULTS]
        .map(|name| pgmq_notify::QueueName::new(name).expect("a valid queue name"));
    pgmq_notify::create_queues(&mut conn, &queues).await?;
    Ok(())
}

/// Why the schema could not be brought to this version.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database refused, or is away.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// PGMQ could not be installed or adopted.
    #[error(transparent)]
    Queue(#[from] pgmq_notify::Error),
    /// A migration failed, or the database is newer than this version.
    #[error("migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

/// The database's clock minus ours, in microseconds: as the quickest of three answers says, since the first one may include
/// that the statement is prepared, and half of the way is what the error can be.
///
/// # Errors
/// Where the database is away.
pub async fn clock_offset(conn: &mut sqlx::PgConnection) -> Result<i64, StoreError> {
    let mut quickest = None;
    for _ in 0..3 {
        let before = Utc::now();
        let there = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "at!""#).fetch_one(&mut *conn).await?;
        let way = Utc::now() - before;
        let said = (way, there - (before + way / 2));
        quickest = Some(quickest.map_or(said, |known: (_, _)| known.min(said)));
    }
    Ok(quickest.and_then(|(_, offset)| offset.num_microseconds()).unwrap_or(0))
}

/// The SQL form of a moment.
#[must_use]
pub fn to_sql(at: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// A moment from its SQL form.
#[must_use]
pub fn from_sql(at: DateTime<Utc>) -> Timestamp {
    Timestamp(at.timestamp_micros())
}
