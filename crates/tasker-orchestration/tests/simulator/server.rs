//! A server: the real actors over the database in memory, with a cache of its own, and a worker in its process.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use pgmq_notify::{Mode, Notifier, QueueName, Wakeups};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tasker_lifecycle::template::HandlerRef;
use tasker_shared::config::{Config, Environment};
use tasker_shared::events::Subscribers;
use tasker_shared::local::{LocalClaim, LocalWorker};
use tasker_shared::messages::Report;
use tasker_shared::payloads::Payloads;
use tasker_shared::telemetry::Metrics;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc};

use super::LEASE_MS;
use super::memory::Memory;
use crate::actor::{Body, Signal};
use crate::engine::Parts;
use crate::enqueuer::{Command, StepEnqueuer, Sweep};
use crate::finalizer::TaskFinalizer;
use crate::requests::{Request, TaskRequests};
use crate::results::ResultProcessor;

/// Something that runs, one turn at a time.
pub(super) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What servers share that have nothing to do with each other.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) runtime: Runtime,
    pool: PgPool,
    metrics: Arc<Metrics>,
    with_cache: Arc<Config>,
    without_cache: Arc<Config>,
}

impl Outside {
    /// A pool with which nobody connects, since the actors have their database in memory, and a runtime in which nothing
    /// runs, since the scheduler has the turns.
    pub(super) fn new() -> Self {
        let config = |snapshot_bytes| {
            let mut config = Config::default();
            config.environment = Environment::Test;
            config.cache.snapshot_bytes = snapshot_bytes;
            Arc::new(config)
        };
        let runtime = Builder::new_current_thread().build().unwrap();
        let entered = runtime.enter();
        let pool = PgPoolOptions::new().connect_lazy_with(PgConnectOptions::new());
        let (with_cache, without_cache) = (config(usize::MAX), config(0));
        drop(entered);
        Self { runtime, pool, metrics: Arc::new(Metrics::new()), with_cache, without_cache }
    }
}

/// See the module.
pub(super) struct Server {
    requests: Arc<Body<TaskRequests, Memory>>,
    results: Arc<Body<ResultProcessor, Memory>>,
    enqueuer: Arc<Body<StepEnqueuer, Memory>>,
    finalizer: Arc<Body<TaskFinalizer, Memory>>,
    pub(super) request_inbox: Vec<Request>,
    pub(super) report_inbox: Vec<Report>,
    pub(super) command_inbox: Vec<Command>,
    /// Claims that were handed over.
    pub(super) handed: Option<mpsc::Receiver<LocalClaim>>,
    /// One at a time for each actor.
    pub(super) running: [Option<Running>; 4],
}

impl Server {
    /// A server that begins, with `slots` for a worker in its process, or without one.
    pub(super) fn start(outside: &Outside, memory: Memory, queue: &QueueName, slots: usize, is_caching: bool) -> Self {
        let config = Arc::clone(if is_caching { &outside.with_cache } else { &outside.without_cache });
        let signals = (Wakeups::new(Mode::PollingOnly), Notifier::new(Mode::PollingOnly));
        let (local, handed) = if slots > 0 {
            let (claims, handed) = mpsc::channel(slots);
            let queues = Arc::new(RwLock::new(HashSet::from([queue.clone()])));
            let payloads = Arc::new(Payloads::new(0));
            let handlers = Arc::new(|handler: &HandlerRef| handler.callable == "h");
            let subscribers = Subscribers::new(Vec::new(), &outside.metrics);
            let slots = Arc::new(Semaphore::new(slots));
            let local = LocalWorker::new(slots, queues, handlers, claims, payloads, subscribers, LEASE_MS);
            (Some(local), Some(handed))
        } else {
            (None, None)
        };
        let (pool, metrics) = (outside.pool.clone(), Arc::clone(&outside.metrics));
        let queues = [queue.clone()].into();
        let (parts, _filed) = Parts::new(config, pool, metrics, signals, local, queues);
        let of = || Arc::clone(&parts);
        let enqueuer = StepEnqueuer { parts: of(), sweep: Sweep::default().into() };
        Self {
            requests: body(TaskRequests { parts: of() }, &memory, of()),
            results: body(ResultProcessor { parts: of(), reads_queue: true }, &memory, of()),
            enqueuer: body(enqueuer, &memory, of()),
            finalizer: body(TaskFinalizer { parts: of() }, &memory, of()),
            request_inbox: Vec::new(),
            report_inbox: Vec::new(),
            command_inbox: Vec::new(),
            handed,
            running: [None, None, None, None],
        }
    }

    /// Lets an actor that does nothing handle what is in its inbox, or else look at its source.
    pub(super) fn wake(&mut self, actor: usize) {
        if self.running[actor].is_some() {
            return;
        }
        self.running[actor] = Some(match actor {
            0 => woken(&self.requests, &mut self.request_inbox),
            1 => woken(&self.results, &mut self.report_inbox),
            2 => woken(&self.enqueuer, &mut self.command_inbox),
            _ => woken(&self.finalizer, &mut Vec::new()),
        });
    }
}

fn body<A>(actor: A, memory: &Memory, parts: Arc<Parts>) -> Arc<Body<A, Memory>> {
    Arc::new(Body { actor, database: memory.clone(), parts })
}

fn woken<A: crate::actor::Actor>(body: &Arc<Body<A, Memory>>, inbox: &mut Vec<A::Event>) -> Running {
    let (body, events) = (Arc::clone(body), std::mem::take(inbox));
    Box::pin(async move {
        if events.is_empty() {
            body.drain_source(&mut Nobody).await;
        } else {
            body.inbox(events).await;
        }
    })
}

/// The scheduler wakes actors; every wake-up may be lost.
struct Nobody;

impl Signal for Nobody {
    async fn wait(&mut self) {}

    fn looked(&mut self, _found: bool, _next: Option<Duration>) {}
}
