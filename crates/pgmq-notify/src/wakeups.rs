//! The receiving side of wake-ups.
//!
//! A wake-up is lost if it is sent while nobody listens. So whoever waits must *register, then check, then sleep*: a
//! [`Wake`] is registered when it is made, keeps one wake-up that came between two waits, and is woken whenever the
//! LISTEN on its channels begins anew, because from that moment on nothing is missed and before it something may have
//! been.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{
    Executor,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Channel, Mode, backoff::Backoff};

/// How often the connection is asked for a sign of life: a peer that vanished without a word looks like silence.
const PROBE_EVERY: Duration = Duration::from_secs(15);

/// A server that takes longer than this to connect or to answer is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Receives wake-ups and hands them to whoever waits: one per process, its clones share everything.
/// [`run`](Self::run) must be running for those from other processes to arrive.
#[derive(Debug, Clone)]
pub struct Wakeups {
    mode: Mode,
    registry: Arc<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    subscribers: Mutex<HashMap<Channel, Vec<Arc<Notify>>>>,
    changed: Notify,
}

/// One subscriber's side: wakes when any of its channels was notified. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Wake {
    signal: Arc<Notify>,
    channels: Vec<Channel>,
    registry: Arc<Registry>,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// A wake-up came, or LISTEN began anew: there may be work.
    Signal,
    /// The time is over.
    Timeout,
}

impl Wake {
    /// Waits for a wake-up, at most this long. A wake-up since the last wait ends it at once; any number of them count
    /// as one. Dropping the future loses nothing.
    pub async fn wait(&mut self, max: Duration) -> Woken {
        match time::timeout(max, self.signal.notified()).await {
            Ok(()) => Woken::Signal,
            Err(_) => Woken::Timeout,
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.registry.remove(self);
    }
}

impl Wakeups {
    /// Wake-ups that come from within the process only if the mode is [`Mode::PollingOnly`].
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self { mode, registry: Arc::default() }
    }

    /// Registers for one channel. Check for work after this and before the first wait.
    #[must_use]
    pub fn subscribe(&self, channel: Channel) -> Wake {
        self.subscribe_all([channel])
    }

    /// Registers for several channels at once.
    #[must_use]
    pub fn subscribe_all(&self, channels: impl IntoIterator<Item = Channel>) -> Wake {
        let wake = Wake {
            signal: Arc::default(),
            channels: channels.into_iter().collect(),
            registry: Arc::clone(&self.registry),
        };
        self.registry.add(&wake);
        wake
    }

    /// Wakes this process's subscribers of a channel, without the database.
    pub fn local(&self, channel: &Channel) {
        self.registry.wake(channel.as_str());
    }

    /// Listens until shutdown, on one connection of its own, reconnecting as needed.
    pub async fn run(&self, options: &PgConnectOptions, shutdown: CancellationToken) {
        if !self.mode.notifies() {
            return shutdown.cancelled().await;
        }
        let options = options.clone().application_name("pgmq_notify listen");
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                error = self.listen(&options, &mut backoff) => {
                    if backoff.is_first() {
                        warn!(error = &error as &dyn std::error::Error, "wake-ups can't be received; polling goes on");
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = time::sleep(backoff.next()) => {}
            }
        }
    }

    /// Listens on one connection until it breaks.
    async fn listen(&self, options: &PgConnectOptions, backoff: &mut Backoff) -> sqlx::Error {
        let mut listener = match connect(options).await {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        let mut listening = HashSet::new();
        let mut probe = time::interval_at(time::Instant::now() + PROBE_EVERY, PROBE_EVERY);
        loop {
            if let Err(error) = self.follow_registry(&mut listener, &mut listening).await {
                return error;
            }
            backoff.reset();
            let lost = tokio::select! {
                () = self.registry.changed.notified() => None,
                received = listener.try_recv() => match received {
                    Ok(Some(notification)) => {
                        self.registry.wake(notification.channel());
                        None
                    }
                    Ok(None) => Some(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())),
                    Err(error) => Some(error),
                },
                _ = probe.tick() => patiently(listener.execute("")).await.err(),
            };
            if let Some(error) = lost {
                return error;
            }
        }
    }

    /// Listens on the channels that have subscribers and on no other, then wakes those whose LISTEN is new.
    async fn follow_registry(
        &self,
        listener: &mut PgListener,
        listening: &mut HashSet<Channel>,
    ) -> Result<(), sqlx::Error> {
        let wanted = self.registry.channels();
        if wanted == *listening {
            return Ok(());
        }
        for channel in listening.difference(&wanted) {
            patiently(listener.unlisten(channel.as_str())).await?;
        }
        let new: Vec<&Channel> = wanted.difference(listening).collect();
        if !new.is_empty() {
            patiently(listener.listen_all(new.iter().map(|channel| channel.as_str()))).await?;
            if listening.is_empty() {
                info!(channels = new.len(), "listening for wake-ups");
            }
        }
        for channel in new {
            self.registry.wake(channel.as_str());
        }
        *listening = wanted;
        Ok(())
    }
}

impl Registry {
    fn add(&self, wake: &Wake) {
        let mut subscribers = self.lock();
        for channel in &wake.channels {
            subscribers.entry(channel.clone()).or_default().push(Arc::clone(&wake.signal));
        }
        drop(subscribers);
        self.changed.notify_one();
    }

    fn remove(&self, wake: &Wake) {
        let mut subscribers = self.lock();
        for channel in &wake.channels {
            if let Some(signals) = subscribers.get_mut(channel) {
                signals.retain(|signal| !Arc::ptr_eq(signal, &wake.signal));
                if signals.is_empty() {
                    subscribers.remove(channel);
                }
            }
        }
        drop(subscribers);
        self.changed.notify_one();
    }

    /// `notify_one` keeps the signal for a subscriber that is not waiting at this moment, once.
    fn wake(&self, channel: &str) {
        for signal in self.lock().get(channel).into_iter().flatten() {
            signal.notify_one();
        }
    }

    fn channels(&self) -> HashSet<Channel> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Channel, Vec<Arc<Notify>>>> {
        // Nothing in here panics half way through a change, so a poisoned map is still sound.
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener takes its connection from a pool; this pool has only that one, and never renews it behind our back.
async fn connect(options: &PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    // A connection that breaks must come to our notice: what was missed meanwhile needs a rescan.
    listener.eager_reconnect(false);
    Ok(listener)
}

async fn patiently<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}
