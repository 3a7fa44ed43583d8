//! Which database a command works on: the one that was named, or a private PostgreSQL.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgPool};
use tasker_shared::config::Config;
use tasker_shared::embedded::{Embedded, Options};
use tasker_shared::store::{self, StoreError};

use crate::failure::Failure;

/// An open database whose schema is up to date, and what keeps it running.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) pool: PgPool,
    pub(crate) url: String,
    /// How to say which database it is.
    pub(crate) what: String,
    embedded: Option<Embedded>,
}

impl Database {
    /// `DATABASE_URL` where it is set, else a private server in `data_dir` or the usual folder.
    pub(crate) async fn open(config: &Config, data_dir: Option<PathBuf>) -> Result<Self, Failure> {
        let (url, what, embedded) = match &config.database.url {
            Some(url) => (url.expose().to_owned(), "the database of DATABASE_URL".to_owned(), None),
            None => {
                let options = data_dir.map_or_else(Options::at_default, Options::new);
                let embedded = start(options).await?;
                let what = format!("a private PostgreSQL in {}", embedded.data_dir().display());
                (embedded.url(), what, Some(embedded))
            }
        };
        Self::migrated(config, url, what, embedded).await
    }

    /// A new database on a private server, for measuring. Those of processes that are gone are dropped.
    pub(crate) async fn scratch(config: &Config, options: Options) -> Result<Self, Failure> {
        let embedded = start(options).await?;
        let what = format!("a private PostgreSQL in {}", embedded.data_dir().display());
        let name = new_database(&embedded.url()).await.map_err(|error| Failure::Failed(format!("{what}: {error}")))?;
        Self::migrated(config, embedded.url_of(&name), what, Some(embedded)).await
    }

    /// The database that must be named: a server or a worker of its own has no business with a private one.
    pub(crate) async fn named(config: &Config) -> Result<Self, Failure> {
        if config.database.url.is_none() {
            let remedy = "set DATABASE_URL, or try `tasker dev`, which brings a PostgreSQL of its own";
            return Err(Failure::Usage(format!("no database is named; {remedy}")));
        }
        Self::open(config, None).await
    }

    async fn migrated(config: &Config, url: String, what: String, embedded: Option<Embedded>) -> Result<Self, Failure> {
        let database = &config.database;
        let acquire = Duration::from_millis(database.acquire_timeout_ms);
        let pool = store::connect(&url, database.max_connections, acquire, database.statement_timeout_ms)
            .await
            .map_err(|error| Failure::Failed(format!("{what} does not answer: {error}")))?;
        store::migrate(&pool)
            .await
            .map_err(|error| Failure::Failed(format!("{what} can't be brought to this version's schema: {error}")))?;
        Ok(Self { pool, url, what, embedded })
    }

    /// A few connections for handlers that write into this database too, opened when they are first needed.
    pub(crate) fn for_handlers(&self) -> Result<PgPool, Failure> {
        const CONNECTIONS: u32 = 4;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect_lazy(&self.url);
        pool.map_err(|error| Failure::Failed(format!("{}: {error}", self.what)))
    }

    /// Ends the connections and, where this was its last user, the private server.
    pub(crate) async fn close(self) {
        self.pool.close().await;
        if let Some(embedded) = self.embedded {
            let stopped = tokio::task::spawn_blocking(|| embedded.stop()).await;
            if let Ok(Err(error)) = stopped {
                tracing::warn!(%error, "the private PostgreSQL did not stop in time");
            }
        }
    }
}

/// Makes the database `bench_PID`.
async fn new_database(url: &str) -> Result<String, StoreError> {
    let mut admin = sqlx::PgConnection::connect(url).await?;
    let own = std::process::id().to_string();
    for process in store::measure::scratch_databases(&mut admin).await? {
        if process == own || !Path::new("/proc").join(&process).exists() {
            sqlx::raw_sql(&format!("DROP DATABASE IF EXISTS bench_{process}")).execute(&mut admin).await?;
        }
    }
    sqlx::raw_sql(&format!("CREATE DATABASE bench_{own}")).execute(&mut admin).await?;
    admin.close().await?;
    Ok(format!("bench_{own}"))
}

async fn start(options: Options) -> Result<Embedded, Failure> {
    tokio::task::spawn_blocking(|| Embedded::start(options))
        .await
        .map_err(|error| Failure::Failed(error.to_string()))?
        .map_err(|error| Failure::Failed(error.to_string()))
}
