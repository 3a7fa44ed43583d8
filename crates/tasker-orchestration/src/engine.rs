//! The server as a value: its parts, its actors, and the handle that HTTP and embedding programs hold.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pgmq_notify::{Channel, IdBlocks, Notifier, PollTimer, QueueName, Wakeups};
use sqlx::PgPool;
use tasker_lifecycle::template::Template;
use tasker_lifecycle::{Event, TaskId, TaskState, Timestamp};
use tasker_shared::config::Config;
use tasker_shared::local::{LocalServer, LocalWorker};
use tasker_shared::messages::{NEW_QUEUES, STEP_RESULTS, TASK_REQUESTS};
use tasker_shared::store::cache::Snapshots;
use tasker_shared::store::templates::{self, Registered, Templates};
use tasker_shared::store::{self, StoreError, queues, resources};
use tasker_shared::telemetry::Metrics;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::actor::{self, QueueSignal, Timer};
use crate::breaker::DatabaseBreaker;
use crate::enqueuer::{Command, Ordered, StepEnqueuer, Sweep};
use crate::errors::{CommandError, CreateError, StartError};
use crate::finalizer::{EntriesFiled, TaskFinalizer};
use crate::requests::{Request, Submission, TaskRequests};
use crate::results::ResultProcessor;
use crate::submit::Catalog;
use crate::uses::Doorbell;
use crate::watch::Watch;

/// When somebody whom we turned away for lack of room may come back.
const RETRY_AFTER_MS: u64 = 1_000;
/// How often the difference between our clock and the database's is measured.
const CLOCK_EVERY: Duration = Duration::from_mins(1);

/// What the actors share.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) pool: PgPool,
    /// This server, in the history.
    pub(crate) name: String,
    pub(crate) templates: Arc<Templates>,
    pub(crate) catalog: Catalog,
    pub(crate) snapshots: Snapshots,
    pub(crate) ids: IdBlocks,
    pub(crate) local: Option<LocalWorker>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) doorbell: Doorbell,
    pub(crate) database: DatabaseBreaker,
    notifier: Notifier,
    wakeups: Wakeups,
    queues: RwLock<BTreeSet<QueueName>>,
    filed: mpsc::Sender<EntriesFiled>,
    /// The database's clock minus ours, in microseconds.
    clock_offset: AtomicI64,
    /// How many actors the database refuses again and again.
    pub(crate) refused: AtomicUsize,
    stop: CancellationToken,
    /// Milliseconds after `started` at which draining ends; `u64::MAX` while running.
    drain_until: AtomicU64,
    started: Instant,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Parts {
    /// Now, on the database's clock as far as we know it.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(chrono::Utc::now().timestamp_micros() + self.clock_offset.load(Ordering::Relaxed))
    }

    pub(crate) fn new_task_id(&self) -> TaskId {
        TaskId::new(u64::try_from(self.now().0 / 1000).unwrap_or(0), rand::random())
    }

    /// Wakes whoever claims from `queue`, in this process and in others.
    pub(crate) fn wake(&self, queue: &QueueName) {
        let channel = Channel::for_queue(queue);
        self.wakeups.local(&channel);
        self.notifier.notify(&channel);
    }

    pub(crate) fn finalize(&self, ended: Vec<(TaskId, TaskState)>, dead_letters: bool) {
        for (task, state) in ended {
            self.metrics.tasks_ended.with_label_values(&[state.as_str()]).inc();
            if let Some(local) = &self.local {
                local.payloads().forget(task);
            }
        }
        if dead_letters {
            // A full inbox already holds a hint, and the timer looks anyway.
            let _full = self.filed.try_send(EntriesFiled);
        }
    }

    /// Every ticket queue that this server knows of.
    pub(crate) fn queues(&self) -> Vec<QueueName> {
        self.queues.read().expect("no panic while held").iter().cloned().collect()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Whether draining has lasted for as long as it may.
    pub(crate) fn must_give_up(&self) -> bool {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        elapsed >= self.drain_until.load(Ordering::Relaxed)
    }
}

/// A handle on a running server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) parts: Arc<Parts>,
    requests: mpsc::Sender<Request>,
    commands: mpsc::Sender<Command>,
}

/// The running server's tasks; [`Running::stop`] ends them.
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<()>,
    parts: Arc<Parts>,
}

/// How the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether the database answered just now.
    pub database: bool,
    /// Whether it has refused to store something for a while, as it does when its disk is full.
    pub refuses: bool,
    /// Requests that wait to become tasks.
    pub requests_waiting: usize,
    /// Commands that wait.
    pub commands_waiting: usize,
    /// Resources whose circuit breaker is not closed: `namespace/name`.
    pub failed_resources: Vec<String>,
}

impl Engine {
    /// Starts a server on a database whose schema is up to date. `local` is the worker in this process, to
    /// which newly ready steps are handed without a detour; the answered [`LocalServer`] takes its reports.
    ///
    /// # Errors
    /// Where the database is away.
    pub async fn start(
        config: Arc<Config>,
        pool: PgPool,
        metrics: Arc<Metrics>,
        wakeups: Wakeups,
        notifier: Notifier,
        local: Option<LocalWorker>,
    ) -> Result<(Self, Running, LocalServer), StartError> {
        let mut conn = pool.acquire().await?;
        store::sweep::ensure_partitions(&mut conn).await?;
        let clock_offset = store::clock_offset(&mut conn).await?;
        let queues = queues::all(&mut conn).await?.into_iter().collect();
        drop(conn);
        let (parts, filed) = Parts::new(config, pool, metrics, (wakeups, notifier), local, queues);
        parts.clock_offset.store(clock_offset, Ordering::Relaxed);
        Ok(Self::spawn(parts, filed))
    }

    fn spawn(parts: Arc<Parts>, filed: mpsc::Receiver<EntriesFiled>) -> (Self, Running, LocalServer) {
        let mut tasks = JoinSet::new();
        let config = Arc::clone(&parts.config);
        let stop = parts.stop.clone();
        let (requests, inbox) = mpsc::channel(config.actor.request_inbox);
        let actor = TaskRequests { parts: Arc::clone(&parts) };
        let signal = parts.queue_signal(TASK_REQUESTS);
        tasks.spawn(actor::run(actor, inbox, signal, Arc::clone(&parts), stop.clone()));

        let (commands, inbox) = mpsc::channel(config.actor.request_inbox);
        let actor = StepEnqueuer { parts: Arc::clone(&parts), sweep: Sweep::default().into() };
        let longest = Duration::from_millis(config.sweep.interval_ms);
        let timer = Timer::new(longest).rung_by(Arc::clone(&parts.doorbell.bell));
        tasks.spawn(actor::run(actor, inbox, timer, Arc::clone(&parts), stop.clone()));

        let actor = TaskFinalizer { parts: Arc::clone(&parts) };
        let timer = Timer::new(Duration::from_millis(config.sweep.interval_ms) * 12);
        tasks.spawn(actor::run(actor, filed, timer, Arc::clone(&parts), stop.clone()));

        let lanes = (0..config.actor.lanes)
            .map(|lane| {
                let (sender, inbox) = mpsc::channel(config.actor.inbox);
                let reads_queue = lane == 0;
                let actor = ResultProcessor { parts: Arc::clone(&parts), reads_queue };
                let signal = reads_queue.then(|| parts.queue_signal(STEP_RESULTS));
                tasks.spawn(actor::run(actor, inbox, signal, Arc::clone(&parts), stop.clone()));
                sender
            })
            .collect();
        tasks.spawn(Arc::clone(&parts.watch).look(parts.pool.clone(), stop));
        tasks.spawn(keep_clock(Arc::clone(&parts)));
        (Self { parts: Arc::clone(&parts), requests, commands }, Running { tasks, parts }, LocalServer::new(lanes))
    }

    /// Hands a valid request to its actor. A full inbox refuses it before any database work.
    pub(crate) fn submit(&self, submission: Submission) -> Result<(), CreateError> {
        let id = self.parts.new_task_id();
        self.requests.try_send(Request { id, submission }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CreateError::Overloaded { retry_after_ms: RETRY_AFTER_MS },
            mpsc::error::TrySendError::Closed(_) => CreateError::Stopping,
        })
    }

    /// Cancels a task. Answers whether that changed anything: a second cancel does not.
    ///
    /// # Errors
    /// Where there is no such task, it has ended otherwise, or the command could not be carried out.
    pub async fn cancel(&self, task: TaskId, by: Option<String>, reason: Option<String>) -> Result<bool, CommandError> {
        let detail = serde_json::json!({ "by": by, "reason": reason }).to_string();
        self.command(task, Ordered { event: Event::Cancelled, detail, repair: None }).await
    }

    pub(crate) async fn command(&self, task: TaskId, ordered: Ordered) -> Result<bool, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(Command { task, ordered, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommandError::Overloaded { retry_after_ms: RETRY_AFTER_MS },
            mpsc::error::TrySendError::Closed(_) => CommandError::Stopping,
        })?;
        answer.await.unwrap_or(Err(CommandError::Stopping))
    }

    /// Registers a template and makes the queues of its namespace and pools.
    ///
    /// # Errors
    /// Where the database refuses or is away.
    pub async fn register(&self, template: Template, replace: bool) -> Result<Registered, StoreError> {
        let queues = queues::of_template(&template)?;
        let names: Vec<QueueName> = queues.iter().map(|(queue, _, _)| queue.clone()).collect();
        let mut tx = self.parts.pool.begin().await?;
        let made: Vec<QueueName> = names.iter().cloned().chain(queues::of_events(&template)).collect();
        pgmq_notify::create_queues(&mut tx, &made).await?;
        tx.commit().await?;
        let mut tx = self.parts.pool.begin().await?;
        let registered = templates::register(&mut tx, &template, replace).await?;
        if registered != Registered::Conflict {
            queues::register(&mut tx, template.namespace.as_str(), &queues).await?;
            resources::register(&mut tx, &template).await?;
        }
        tx.commit().await?;
        self.parts.queues.write().expect("no panic while held").extend(names);
        let new_queues = Channel::new(NEW_QUEUES).expect("a valid channel");
        self.parts.wakeups.local(&new_queues);
        self.parts.notifier.notify(&new_queues);
        if registered != Registered::Conflict {
            self.parts.templates.remember(template);
            self.parts.catalog.forget();
        }
        Ok(registered)
    }

    /// Deprecates a version of a template, with who and why, or takes that back; answers whether there is such a version.
    /// Other servers see it within a second.
    ///
    /// # Errors
    /// Where the database refuses or is away.
    pub async fn deprecate(
        &self,
        version: (&str, &str, &str),
        by_and_reason: Option<(&str, &str)>,
    ) -> Result<bool, StoreError> {
        let mut conn = self.parts.pool.acquire().await?;
        let found = templates::deprecate(&mut conn, version, by_and_reason).await?;
        self.parts.catalog.forget();
        Ok(found)
    }

    /// Asks the database and counts what waits.
    pub async fn health(&self) -> Health {
        let failed = match self.parts.pool.acquire().await {
            Ok(mut conn) => resources::failed(&mut conn).await.ok(),
            Err(_) => None,
        };
        let waiting = |capacity: usize, max: usize| max - capacity;
        Health {
            database: failed.is_some(),
            failed_resources: failed.unwrap_or_default(),
            refuses: self.parts.refused.load(Ordering::Relaxed) > 0,
            requests_waiting: waiting(self.requests.capacity(), self.requests.max_capacity()),
            commands_waiting: waiting(self.commands.capacity(), self.commands.max_capacity()),
        }
    }

    /// The pool, for reads.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.parts.pool
    }

    /// Templates by hash.
    #[must_use]
    pub fn templates(&self) -> &Templates {
        &self.parts.templates
    }

    /// The configuration that the server runs with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.parts.config
    }

    /// The process's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// Where to wait for a task.
    #[must_use]
    pub fn watch(&self) -> &Arc<Watch> {
        &self.parts.watch
    }
}

impl Parts {
    /// The parts of a server that knows these ticket queues, and the finalizer's inbox.
    pub(crate) fn new(
        config: Arc<Config>,
        pool: PgPool,
        metrics: Arc<Metrics>,
        (wakeups, notifier): (Wakeups, Notifier),
        local: Option<LocalWorker>,
        queues: BTreeSet<QueueName>,
    ) -> (Arc<Self>, mpsc::Receiver<EntriesFiled>) {
        let (filed, filed_inbox) = mpsc::channel(1);
        let parts = Self {
            name: format!("server-{:08x}", rand::random::<u32>()),
            templates: Arc::default(),
            catalog: Catalog::default(),
            snapshots: Snapshots::new(config.cache.snapshot_bytes),
            ids: IdBlocks::default(),
            watch: Arc::default(),
            doorbell: Doorbell::default(),
            database: DatabaseBreaker::default(),
            stop: CancellationToken::new(),
            refused: AtomicUsize::new(0),
            drain_until: AtomicU64::new(u64::MAX),
            started: Instant::now(),
            config,
            pool,
            local,
            metrics,
            notifier,
            wakeups,
            queues: RwLock::new(queues),
            filed,
            clock_offset: AtomicI64::new(0),
        };
        (Arc::new(parts), filed_inbox)
    }

    fn queue_signal(&self, queue: &str) -> QueueSignal {
        let queue = QueueName::new(queue).expect("a valid queue name");
        let wake = self.wakeups.subscribe(Channel::for_queue(&queue));
        let (min, max) = (self.config.queue.poll_min_ms, self.config.queue.poll_max_ms);
        let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
        QueueSignal::new(wake, PollTimer::for_mode(self.config.deployment_mode, min, max))
    }
}

impl Running {
    /// Stops taking in, drains what was taken for at most the configured time, and ends. Stop the worker in
    /// this process first: its last reports are drained here.
    pub async fn stop(mut self) {
        let elapsed = u64::try_from(self.parts.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let until = elapsed.saturating_add(self.parts.config.stop.drain_ms);
        self.parts.drain_until.store(until, Ordering::Relaxed);
        self.parts.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "an actor ended badly");
            }
        }
    }
}

/// Follows the database's clock.
async fn keep_clock(parts: Arc<Parts>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(CLOCK_EVERY) => {}
            () = parts.stop.cancelled() => return,
        }
        let Ok(mut conn) = parts.pool.acquire().await else { continue };
        if let Ok(offset) = store::clock_offset(&mut conn).await {
            parts.clock_offset.store(offset, Ordering::Relaxed);
        }
    }
}
