//! Building a worker, running it, stopping it.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use pgmq_notify::{Notifier, QueueName, Wakeups};
use sqlx::PgPool;
use tasker_lifecycle::template::HandlerRef;
use tasker_shared::config::Config;
use tasker_shared::local::{LocalClaim, LocalServer, LocalWorker};
use tasker_shared::payloads::Payloads;
use tasker_shared::store::kept::Kept;
use tasker_shared::store::{StoreError, claims};
use tasker_shared::telemetry::Metrics;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::batches::KnownBatches;
use crate::completion::{self, Reporter};
use crate::events::{self, Listener, Publishing};
use crate::held::Held;
use crate::outage::Outage;
use crate::plans::Plans;
use crate::registry::HandlerRegistry;
use crate::{announce, dispatch, heartbeat};

/// Bytes of contexts and results that a worker keeps to spare it reading them again.
const PAYLOAD_CACHE_BYTES: usize = 64 << 20;

/// How long what was left at the end of the grace may take to be written once.
const LAST_TRY: Duration = Duration::from_secs(2);

/// What the worker's loops and attempts share.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) pool: PgPool,
    /// The connection of those who claim.
    pub(crate) kept: Kept,
    pub(crate) registry: HandlerRegistry,
    pub(crate) id: Arc<str>,
    pub(crate) slots: Arc<Semaphore>,
    /// The queues that the worker claims from, each with its band of priority.
    pub(crate) queues: watch::Sender<Arc<Vec<(QueueName, i16)>>>,
    /// What the worker can run, in the words of templates: its own handlers, and what its resolvers find of that which
    /// templates call for.
    pub(crate) handlers: watch::Sender<BTreeSet<String>>,
    pub(crate) payloads: Arc<Payloads>,
    pub(crate) plans: Plans,
    pub(crate) batches: KnownBatches,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) publishing: Arc<Publishing>,
    pub(crate) wakeups: Wakeups,
    pub(crate) notifier: Notifier,
    pub(crate) held: Held,
    pub(crate) outage: Outage,
    pub(crate) stop: Stop,
    /// Handlers and publishers that were called for and are not registered here, to tell of each once.
    pub(crate) missing: Mutex<HashSet<String>>,
    /// The same queues for the server in this process; empty once the worker stops.
    handed_over: Arc<RwLock<HashSet<QueueName>>>,
}

/// The steps of stopping, in their order.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    /// Nothing is claimed any more; claims that come in are given back.
    pub(crate) claims: CancellationToken,
    /// Handlers that still run are dropped.
    pub(crate) attempts: CancellationToken,
    /// No slot is taken and none will be: nobody hands over claims any more.
    pub(crate) handed_over: CancellationToken,
    /// What is still to be written is written, and no more is taken in.
    pub(crate) reports: CancellationToken,
    /// What can't be written at once is left.
    pub(crate) retries: CancellationToken,
    /// No lease is extended any more.
    pub(crate) beats: CancellationToken,
    /// Subscribers hear what they have, and no more comes.
    pub(crate) events: CancellationToken,
}

impl Shared {
    /// The lease of every claim.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.config.queue.lease_ms)
    }

    /// Looks what templates call for and we can run, and which queues there are for that.
    pub(crate) async fn find_queues(&self) -> Result<(), StoreError> {
        let (worker, registry) = (&self.config.worker, &self.registry);
        let mut conn = self.pool.acquire().await?;
        let called = claims::handlers(&mut conn, worker.namespaces.as_deref(), registry.callables().as_deref()).await?;
        let (mut names, mut namespaces) = (registry.names(), BTreeSet::new());
        for (namespace, handler) in called {
            if registry.resolve(&handler).is_ok() {
                names.insert(handler.to_string());
                namespaces.insert(namespace);
            }
        }
        let namespaces = worker.namespaces.clone().unwrap_or_else(|| namespaces.into_iter().collect());
        let found = claims::queues(&mut conn, &namespaces, &worker.pools).await?;
        drop(conn);
        self.handlers.send_if_modified(|known| {
            let changed = *known != names;
            if changed {
                *known = names;
            }
            changed
        });
        if self.stop.claims.is_cancelled() {
            return Ok(());
        }
        *self.handed_over.write().expect("no panic while held") =
            found.iter().map(|(queue, _)| queue.clone()).collect();
        self.queues.send_if_modified(|queues| {
            let changed = **queues != found;
            if changed {
                *queues = Arc::new(found);
            }
            changed
        });
        Ok(())
    }
}

/// A worker in the making.
#[derive(Debug)]
pub struct WorkerBuilder {
    config: Arc<Config>,
    pool: PgPool,
    registry: HandlerRegistry,
    metrics: Arc<Metrics>,
    wakeups: Wakeups,
    notifier: Notifier,
}

/// Where reports go.
#[derive(Debug)]
pub enum Server {
    /// Through the database, to whichever server takes them.
    Elsewhere,
    /// By channel to the server in this process, which knows this worker as its [`LocalWorker`].
    Here(LocalServer),
}

/// A worker that is ready to start.
pub struct Worker {
    shared: Arc<Shared>,
    local: LocalWorker,
    claims: mpsc::Receiver<LocalClaim>,
    listeners: Vec<Listener>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl WorkerBuilder {
    /// The handlers that the worker has.
    #[must_use]
    pub fn registry(self, registry: HandlerRegistry) -> Self {
        Self { registry, ..self }
    }

    /// The worker.
    #[must_use]
    pub fn build(self) -> Worker {
        let Self { config, pool, registry, metrics, wakeups, notifier } = self;
        let slots = Arc::new(Semaphore::new(config.worker.concurrency));
        let (sender, claims) = mpsc::channel(config.worker.concurrency);
        let handed_over: Arc<RwLock<HashSet<QueueName>>> = Arc::default();
        let payloads = Arc::new(Payloads::new(PAYLOAD_CACHE_BYTES));
        let (subscribers, listeners) = events::open(registry.subscribers(), &metrics);
        let local = LocalWorker::new(
            Arc::clone(&slots),
            Arc::clone(&handed_over),
            Arc::new({
                let registry = registry.clone();
                move |handler: &HandlerRef| registry.resolve(handler).is_ok()
            }),
            sender,
            Arc::clone(&payloads),
            subscribers.clone(),
            config.queue.lease_ms,
        );
        let publishing = Publishing {
            publishers: registry.publishers().clone(),
            subscribers,
            config: Arc::clone(&config),
            metrics: Arc::clone(&metrics),
        };
        let shared = Arc::new(Shared {
            id: config.worker.id.as_str().into(),
            plans: Plans::default(),
            batches: KnownBatches::default(),
            held: Held::default(),
            outage: Outage::new(Duration::from_millis(config.worker.heartbeat_ms)),
            stop: Stop::default(),
            queues: watch::Sender::default(),
            handlers: watch::Sender::default(),
            missing: Mutex::default(),
            config,
            kept: Kept::new(pool.clone()),
            pool,
            registry,
            slots,
            payloads,
            metrics,
            publishing: Arc::new(publishing),
            wakeups,
            notifier,
            handed_over,
        });
        Worker { shared, local, claims, listeners }
    }
}

impl Worker {
    /// A worker on this database. `wakeups` and `notifier` are the process's one listener and one notifier.
    #[must_use]
    pub fn builder(
        pool: PgPool,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        wakeups: Wakeups,
        notifier: Notifier,
    ) -> WorkerBuilder {
        WorkerBuilder { config, pool, registry: HandlerRegistry::new(), metrics, wakeups, notifier }
    }

    /// This worker as a server in the same process sees it. Make the server with it, then start the worker.
    #[must_use]
    pub fn local(&self) -> LocalWorker {
        self.local.clone()
    }

    /// Starts claiming.
    ///
    /// # Errors
    /// Where the database is away, or no thread can be had for the heartbeats.
    pub async fn start(self, server: Server) -> Result<RunningWorker, StoreError> {
        // The server's side of the channel counts; ours must not keep it open.
        let Self { shared, claims, listeners, local: _ } = self;
        shared.find_queues().await?;
        let (outbox, inbox) = mpsc::channel(shared.config.worker.report_inbox);
        let server = match server {
            Server::Here(server) => Some(server),
            Server::Elsewhere => None,
        };
        let reporter = Reporter::new(server, outbox);
        // Nothing is claimed whose lease nobody would extend.
        let beating = heartbeat::start(Arc::clone(&shared), reporter.clone()).map_err(sqlx::Error::Io)?;
        let (mut claiming, mut handed_over) = (JoinSet::new(), JoinSet::new());
        let (mut reporting, mut announcing) = (JoinSet::new(), JoinSet::new());
        claiming.spawn(dispatch::run(Arc::clone(&shared), reporter.clone()));
        handed_over.spawn(dispatch::run_handed_over(Arc::clone(&shared), reporter, claims));
        reporting.spawn(completion::run(Arc::clone(&shared), inbox));
        announcing.spawn(announce::run(Arc::clone(&shared)));
        let stop = &shared.stop.events;
        let listening = listeners.into_iter().map(|listener| events::listen(listener, stop.clone())).collect();
        Ok(RunningWorker { shared, claiming, handed_over, reporting, beating, announcing, listening })
    }
}

/// A worker that claims and runs. Dropping it without [`Self::stop`] ends its loops where they are; what it
/// holds is tried again when the leases end.
pub struct RunningWorker {
    shared: Arc<Shared>,
    claiming: JoinSet<()>,
    handed_over: JoinSet<()>,
    reporting: JoinSet<()>,
    /// Cancelled once the heartbeat has ended.
    beating: CancellationToken,
    announcing: JoinSet<()>,
    listening: JoinSet<()>,
}

/// How a worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The worker's id in reports.
    pub id: Arc<str>,
    /// How many handlers may run at once.
    pub slots: usize,
    /// How many slots are taken: by handlers that run, and by outcomes that wait to be reported.
    pub busy: usize,
    /// Whether the database answered when it was asked last.
    pub database_answers: bool,
    /// Whether the worker takes no more steps.
    pub stopping: bool,
}

/// Tells how a worker is.
#[derive(Clone)]
pub struct StatusHandle(Arc<Shared>);

impl fmt::Debug for StatusHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatusHandle").field(&self.0.id).finish()
    }
}

impl StatusHandle {
    /// How it is now.
    #[must_use]
    pub fn status(&self) -> Status {
        let Shared { config, slots, outage, stop, id, .. } = &*self.0;
        let all = config.worker.concurrency;
        Status {
            id: Arc::clone(id),
            slots: all,
            busy: all.saturating_sub(slots.available_permits()),
            database_answers: !outage.lasts(),
            stopping: stop.claims.is_cancelled(),
        }
    }
}

impl fmt::Debug for RunningWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningWorker").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        let Stop { claims, attempts, beats, .. } = &self.shared.stop;
        claims.cancel();
        attempts.cancel();
        beats.cancel();
        self.shared.kept.end();
    }
}

impl RunningWorker {
    /// The worker's id in reports.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Tells how the worker is, for as long as anybody asks.
    #[must_use]
    pub fn status(&self) -> StatusHandle {
        StatusHandle(Arc::clone(&self.shared))
    }

    /// Looks for new queues now.
    ///
    /// # Errors
    /// Where the database is away.
    pub async fn find_queues(&self) -> Result<(), StoreError> {
        self.shared.find_queues().await
    }

    /// The same, apart from this worker: another task may do it.
    pub(crate) fn look_again(&self) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let shared = Arc::clone(&self.shared);
        async move { shared.find_queues().await }
    }

    /// Stops claiming, lets running handlers end and reports go out for as long as the grace lasts, then
    /// leaves. Handlers that run on are dropped; their leases end and their steps are tried again.
    pub async fn stop(self) {
        let grace = Duration::from_millis(self.shared.config.worker.stop_grace_ms);
        self.stop_within(grace).await;
    }

    /// The same with another grace than the configuration's.
    pub async fn stop_within(mut self, grace: Duration) {
        let Shared { config, stop, held, slots, handed_over, .. } = &*self.shared;
        let grace_ends = Instant::now() + grace;
        stop.claims.cancel();
        handed_over.write().expect("no panic while held").clear();
        let all = u32::try_from(config.worker.concurrency).unwrap_or(u32::MAX);
        let idle = async {
            ended(&mut self.claiming).await;
            // Every slot is free once every handler has ended and handed in its report, and the server in this
            // process has handed over all that it had claimed. The slots stay taken, so it claims nothing more.
            slots.acquire_many(all).await
        };
        let idle = tokio::time::timeout_at(grace_ends.into(), idle).await;
        if idle.is_err() {
            let left = held.cancel_all();
            tracing::warn!(left, "handlers were left when the grace was over; their leases will end");
            stop.retries.cancel();
            self.claiming.shutdown().await;
        }
        stop.attempts.cancel();
        stop.handed_over.cancel();
        let mut written = std::pin::pin!(async {
            ended(&mut self.handed_over).await;
            stop.reports.cancel();
            ended(&mut self.reporting).await;
        });
        if tokio::time::timeout_at(grace_ends.into(), &mut written).await.is_err() {
            stop.retries.cancel();
            if tokio::time::timeout(LAST_TRY, written).await.is_err() {
                tracing::error!("the database does not answer; what is not reported is tried again elsewhere");
            }
        }
        drop(idle);
        stop.beats.cancel();
        self.beating.cancelled().await;
        stop.events.cancel();
        if tokio::time::timeout(LAST_TRY, ended(&mut self.listening)).await.is_err() {
            tracing::warn!("subscribers were left; what they have not heard is lost");
        }
        // It began to leave when claiming stopped; a database that is away is not waited for.
        let _row_stays = tokio::time::timeout(LAST_TRY, ended(&mut self.announcing)).await;
    }
}

/// Waits for a loop to end.
async fn ended(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a loop of the worker ended badly");
        }
    }
}
