//! Brings PGMQ and the schema `pgmq_notify` into a database, once, whoever comes first.

use sqlx::{Connection, PgConnection, PgPool};

use crate::Error;

const FUNCTIONS: &str = include_str!("sql/functions.sql");

/// Raise this with every change to functions.sql. While two versions of a program run side by side, the older one must
/// not put its functions back, so an installation goes only upwards.
const FUNCTIONS_VERSION: i32 = 6;

/// The key of the advisory lock under which installations run, one at a time in a database.
const LOCK_KEY: i64 = 0x7067_6d71_6e74_6679;

/// What [`install`] found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Where PGMQ comes from.
    pub pgmq: Pgmq,
    /// Whether this call wrote the functions of the schema `pgmq_notify`.
    pub functions_written: bool,
}

/// Where a database's PGMQ comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pgmq {
    /// An extension that the database's owner created; it is used as it is.
    Extension {
        /// Its version, as `pg_extension` names it.
        version: String,
    },
    /// Plain SQL objects that were there before.
    Objects,
    /// Plain SQL objects that this call created.
    ObjectsCreated,
}

/// Makes sure that PGMQ and our functions are there. Costs one query when they are; any number of processes may call
/// it at once. Uses a connection of its own for the lock, so that the pool may be as small as one connection.
///
/// # Errors
/// [`Error::PgmqTooOld`] when the PGMQ that is there lacks message headers (before 1.5), else what the database says.
pub async fn install(pool: &PgPool) -> Result<Installed, Error> {
    let found = Found::look(&mut *pool.acquire().await?).await?;
    if let Some(installed) = found.complete()? {
        return Ok(installed);
    }
    let mut lock = PgConnection::connect_with(&pool.connect_options()).await?;
    // Released with the connection, at the latest when this process dies.
    sqlx::query!("SELECT pg_advisory_lock($1)", LOCK_KEY).execute(&mut lock).await?;
    let installed = install_locked(pool, &mut lock).await;
    // A failed goodbye changes nothing: the server ends the session when the socket closes.
    drop(lock.close().await);
    installed
}

async fn install_locked(pool: &PgPool, conn: &mut PgConnection) -> Result<Installed, Error> {
    let mut found = Found::look(conn).await?;
    let created = !found.pgmq_exists;
    if created {
        pgmq::PGMQueueExt::new_with_pool(pool.clone()).await.install_sql_from_embedded().await?;
        found = Found::look(conn).await?;
    }
    let functions_written = found.complete()?.is_none();
    if functions_written {
        write_functions(conn, &found.functions()).await?;
    }
    let pgmq = if created { Pgmq::ObjectsCreated } else { found.pgmq() };
    Ok(Installed { pgmq, functions_written })
}

async fn write_functions(conn: &mut PgConnection, functions: &str) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
    sqlx::raw_sql(functions).execute(&mut *tx).await?;
    // COMMENT takes no parameters; DO has none either, so the text goes through a setting of this transaction.
    sqlx::query_scalar!(
        "SELECT set_config('pgmq_notify.functions', $1::int || ':' || md5($2), true)",
        FUNCTIONS_VERSION,
        functions
    )
    .fetch_one(&mut *tx)
    .await?;
    sqlx::raw_sql(
        "DO $$ BEGIN EXECUTE format('COMMENT ON SCHEMA pgmq_notify IS %L', current_setting('pgmq_notify.functions')); END $$",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// What a database holds of PGMQ and of our functions.
#[derive(Debug)]
struct Found {
    extension_version: Option<String>,
    pgmq_exists: bool,
    has_headers: bool,
    has_last_read_at: bool,
    functions_version: Option<i32>,
    /// MD5 of the functions with and without the lines for `last_read_at`: the same as the stored one?
    same_with: bool,
    same_without: bool,
}

impl Found {
    async fn look(conn: &mut PgConnection) -> Result<Self, Error> {
        let found = sqlx::query_as!(
            Self,
            r#"
            WITH stored AS (
                SELECT obj_description(to_regnamespace('pgmq_notify'), 'pg_namespace') AS mark
            ), fields AS (
                SELECT attname FROM pg_attribute
                WHERE attrelid = to_regclass('pgmq.message_record') AND NOT attisdropped
            )
            SELECT (SELECT extversion FROM pg_extension WHERE extname = 'pgmq') AS extension_version,
                to_regclass('pgmq.meta') IS NOT NULL AS "pgmq_exists!",
                EXISTS (SELECT FROM fields WHERE attname = 'headers') AS "has_headers!",
                EXISTS (SELECT FROM fields WHERE attname = 'last_read_at') AS "has_last_read_at!",
                substring(mark FROM '^([0-9]{1,9}):')::int AS functions_version,
                coalesce(mark LIKE '%:' || md5($1), false) AS "same_with!",
                coalesce(mark LIKE '%:' || md5($2), false) AS "same_without!"
            FROM stored
            "#,
            functions_for(true),
            functions_for(false),
        )
        .fetch_one(conn)
        .await?;
        Ok(found)
    }

    /// What a caller is told if nothing is left to do.
    fn complete(&self) -> Result<Option<Installed>, Error> {
        if !self.pgmq_exists {
            return Ok(None);
        }
        if !self.has_headers {
            let found = self.extension_version.clone().unwrap_or_else(|| "without message headers".to_owned());
            return Err(Error::PgmqTooOld { found });
        }
        let same = if self.has_last_read_at { self.same_with } else { self.same_without };
        let newer = self.functions_version.is_some_and(|version| version > FUNCTIONS_VERSION);
        let installed = Installed { pgmq: self.pgmq(), functions_written: false };
        Ok((same || newer).then_some(installed))
    }

    fn functions(&self) -> String {
        functions_for(self.has_last_read_at)
    }

    fn pgmq(&self) -> Pgmq {
        match &self.extension_version {
            Some(version) => Pgmq::Extension { version: version.clone() },
            None => Pgmq::Objects,
        }
    }
}

/// The functions for a PGMQ whose messages have `last_read_at` (1.10 and later) or not.
fn functions_for(has_last_read_at: bool) -> String {
    FUNCTIONS
        .lines()
        .filter(|line| has_last_read_at || !line.ends_with(", -- last_read_at"))
        .flat_map(|line| [line, "\n"])
        .collect()
}
