//! A process's one listener and one notifier.

use pgmq_notify::{Notifier, Wakeups};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Both, running. Dropping them ends them at once.
#[derive(Debug)]
pub struct Signals {
    /// What comes in.
    pub wakeups: Wakeups,
    /// What goes out.
    pub notifier: Notifier,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Why they can't be started. The message names the variable and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SignalsError {
    /// The direct URL is none.
    #[error("PGMQ_DATABASE_URL: {0}")]
    Url(#[source] sqlx::Error),
    /// One of the two databases does not answer.
    #[error("PGMQ_DATABASE_URL does not answer: {0}")]
    Away(#[from] sqlx::Error),
    /// The two URLs lead to different databases: messages and state would part.
    #[error(
        "PGMQ_DATABASE_URL reaches another database than DATABASE_URL; both must reach the same database, for example \
         the one through a pooler and directly"
    )]
    Elsewhere,
}

impl Signals {
    /// Starts both. They go to the direct URL where a pooler stands before `url`, which `pool` is connected to.
    ///
    /// # Errors
    /// Where the direct URL is wrong or leads elsewhere.
    pub async fn start(config: &Config, url: &str, pool: &PgPool) -> Result<Self, SignalsError> {
        let direct = config.database.pgmq_url.as_ref().map_or(url, |url| url.expose());
        if direct != url {
            same_database(pool, direct).await?;
        }
        let options: PgConnectOptions = direct.parse().map_err(SignalsError::Url)?;
        let (wakeups, notifier) = (Wakeups::new(config.deployment_mode), Notifier::new(config.deployment_mode));
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (listen, send) = (wakeups.clone(), notifier.clone());
        let (listen_options, listen_stop, send_stop) = (options.clone(), stop.clone(), stop.clone());
        tasks.spawn(async move { listen.run(&listen_options, listen_stop).await });
        tasks.spawn(async move { send.run(&options, send_stop).await });
        Ok(Self { wakeups, notifier, stop, tasks })
    }

    /// Ends both; what still had to be told is told.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn same_database(pool: &PgPool, direct: &str) -> Result<(), SignalsError> {
    let identity = "SELECT system_identifier::text || '/' || current_database() FROM pg_control_system()";
    let there = PgPool::connect(direct).await?;
    let theirs: String = sqlx::query_scalar(identity).fetch_one(&there).await?;
    there.close().await;
    let ours: String = sqlx::query_scalar(identity).fetch_one(pool).await?;
    if ours == theirs { Ok(()) } else { Err(SignalsError::Elsewhere) }
}
