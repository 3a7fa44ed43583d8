//! The sending side of wake-ups.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Channel, Mode, backoff::Backoff};

/// Least time between two statements, so that a burst of commits costs one NOTIFY and not one each. Below what a
/// sleeping listener needs to wake up and read; the timer rounds it up to its next millisecond.
const GAP: Duration = Duration::from_micros(500);

/// A statement that takes longer than this has lost its server.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the last wake-ups may hold up a process that stops.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Sends wake-ups: one per process, its clones share everything. [`run`](Self::run) must be running for them to leave.
#[derive(Debug, Clone)]
pub struct Notifier {
    mode: Mode,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    dirty: Mutex<HashSet<Channel>>,
    any: Notify,
}

impl Notifier {
    /// A notifier that sends nothing if the mode is [`Mode::PollingOnly`].
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self { mode, shared: Arc::default() }
    }

    /// Asks for a wake-up on this channel. Never blocks, never fails: call it right after the commit. Many calls before
    /// the next statement are one wake-up.
    pub fn notify(&self, channel: &Channel) {
        if !self.mode.notifies() {
            return;
        }
        let mut dirty = self.dirty();
        if !dirty.contains(channel) {
            dirty.insert(channel.clone());
            drop(dirty);
            self.shared.any.notify_one();
        }
    }

    /// Sends until shutdown, on a connection of its own, reconnecting as needed; then sends what is still waiting. What
    /// can't be sent waits for the connection to come back.
    pub async fn run(&self, options: &PgConnectOptions, shutdown: CancellationToken) {
        let mut sender = Sender::new(options);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.shared.any.notified() => {}
            }
            let pause = self.send_dirty(&mut sender).await;
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = time::sleep(pause) => {}
            }
        }
        // A listener that this last attempt does not reach finds its work by polling.
        let _ = time::timeout(LAST_WORDS, self.send_dirty(&mut sender)).await;
        sender.close().await;
    }

    /// Sends all that is dirty; returns how long to wait before the next attempt.
    async fn send_dirty(&self, sender: &mut Sender) -> Duration {
        let channels = mem::take(&mut *self.dirty());
        if channels.is_empty() {
            return Duration::ZERO;
        }
        let Err(pause) = sender.send(&channels).await else { return GAP };
        self.dirty().extend(channels);
        self.shared.any.notify_one();
        pause
    }

    fn dirty(&self) -> MutexGuard<'_, HashSet<Channel>> {
        // A set that a panic left behind is still a set of channels to wake.
        self.shared.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection, and what is known of it.
#[derive(Debug)]
struct Sender {
    options: PgConnectOptions,
    conn: Option<PgConnection>,
    backoff: Backoff,
    failing: bool,
}

impl Sender {
    fn new(options: &PgConnectOptions) -> Self {
        let options = options.clone().application_name("pgmq_notify send");
        Self { options, conn: None, backoff: Backoff::default(), failing: false }
    }

    /// One statement for all channels, or how long to wait before the next attempt.
    async fn send(&mut self, channels: &HashSet<Channel>) -> Result<(), Duration> {
        let sent = time::timeout(PATIENCE, self.try_send(channels)).await;
        let failed: Box<dyn std::error::Error + Send + Sync> = match sent {
            Ok(Ok(())) => {
                if mem::take(&mut self.failing) {
                    info!("wake-ups are sent again");
                }
                self.backoff.reset();
                return Ok(());
            }
            Ok(Err(error)) => error.into(),
            Err(elapsed) => elapsed.into(),
        };
        self.conn = None;
        if !mem::replace(&mut self.failing, true) {
            warn!(error = failed, "wake-ups can't be sent; listeners fall back to polling until they can");
        }
        Err(self.backoff.next())
    }

    async fn try_send(&mut self, channels: &HashSet<Channel>) -> Result<(), sqlx::Error> {
        let conn = match &mut self.conn {
            Some(conn) => conn,
            None => self.conn.insert(PgConnection::connect_with(&self.options).await?),
        };
        let channels: Vec<&str> = channels.iter().map(Channel::as_str).collect();
        // NOTIFY takes a transaction id, so its commit would wait for the disk while it holds the lock that all
        // notifying transactions of the server share. A notification is gone after a crash anyway.
        sqlx::query!(
            "SELECT set_config('synchronous_commit', 'off', true), pg_notify(channel, '')
            FROM unnest($1::text[]) AS channel",
            channels as _
        )
        .fetch_all(conn)
        .await?;
        Ok(())
    }

    async fn close(self) {
        if let Some(conn) = self.conn {
            // The server ends the session when the socket closes, with or without a goodbye.
            let _ = time::timeout(LAST_WORDS, conn.close()).await;
        }
    }
}
