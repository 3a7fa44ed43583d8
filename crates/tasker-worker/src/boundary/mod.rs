//! The way to handlers in other languages: a few functions and one form of messages, which docs/boundary.md describes.
//!
//! Everything that a Rust worker does is done here as well: leases, timeouts, heartbeats, reports, retries, events and
//! checkpoints. The other side only runs code: it polls for steps and completes them. Deliberately absent: threads of
//! the other side's, callbacks into it, and pointers; it owns its threads and is told of attempts by their ids.

mod desk;
mod message;
mod rehearsal;
mod resolvers;
mod simulation;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::json;
use sqlx::PgPool;
use tasker_shared::config::{Config, Errors};
use tasker_shared::signals::Signals;
use tasker_shared::store;
use tasker_shared::telemetry::{self, Metrics};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::handler::{StepContext, StepError, StepHandler, StepOutcome};
use crate::mapped::Kind;
use crate::registry::HandlerRegistry;
use crate::worker::{RunningWorker, Server, StatusHandle, Worker};
use desk::{Answer, Desk, Told};
use message::{Complete, Start};
use resolvers::Question;

pub use simulation::Simulation;

/// The version of the messages. Another one is refused at the start.
pub const VERSION: u32 = 1;

/// What the runtime's threads have to end what is left once the worker has stopped.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Numbers the boundaries of a process, so that an id of one is unknown to the others.
static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A running worker whose handlers are on the other side. Functions block the thread that calls them; each may be called
/// from any thread, several at once.
#[derive(Debug)]
pub struct Boundary {
    desk: Arc<Desk>,
    about: String,
    status: Option<StatusHandle>,
    /// The process that it was started in: its threads are in no other.
    process: u32,
    running: Mutex<Option<Running>>,
    rehearsal: Option<Runtime>,
}

#[derive(Debug)]
struct Running {
    runtime: Runtime,
    worker: RunningWorker,
    signals: Signals,
    pool: PgPool,
    /// How long the configuration lets handlers run on.
    grace: Duration,
}

/// Ends one poll early.
#[derive(Debug, Default)]
pub struct Interrupt(AtomicBool);

/// Why a function of the boundary refuses.
#[derive(Debug, thiserror::Error)]
pub enum BoundaryError {
    /// The two sides speak different versions.
    #[error(
        "the worker library speaks version {VERSION} of the boundary, the package speaks {theirs}; install both anew"
    )]
    Version {
        /// What the other side speaks.
        theirs: u32,
    },
    /// A message is not of the form that the documentation gives.
    #[error("the message is not understood: {0}")]
    Message(String),
    /// The configuration is wrong.
    #[error("the configuration is wrong:\n{0}")]
    Config(#[from] Errors),
    /// A template is refused.
    #[error("the template is refused: {0}")]
    Template(String),
    /// A task's input is refused.
    #[error("the input is refused: {0}")]
    Input(String),
    /// The worker can't be started; the message says why.
    #[error("{0}")]
    Start(String),
    /// The worker has stopped.
    #[error("the worker has stopped")]
    Stopped,
    /// The worker was started before this process was forked.
    #[error("the worker runs in the process that this one was forked from; start one after the fork")]
    Forked,
    /// A defect on our side, contained.
    #[error("the worker library panicked: {0}")]
    Panicked(String),
}

impl BoundaryError {
    /// For programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Version { .. } => "version_mismatch",
            Self::Message(_) => "bad_message",
            Self::Config(_) => "bad_config",
            Self::Template(_) => "bad_template",
            Self::Input(_) => "bad_input",
            Self::Start(_) => "not_started",
            Self::Stopped => "stopped",
            Self::Forked => "forked",
            Self::Panicked(_) => "panicked",
        }
    }
}

impl Boundary {
    /// The versions of the boundary and of this library.
    #[must_use]
    pub fn version() -> String {
        json!({"boundary": VERSION, "package": env!("CARGO_PKG_VERSION")}).to_string()
    }

    /// Starts a worker for the handlers that the message names.
    ///
    /// # Errors
    /// Where the message or the configuration is wrong, or the database is away.
    pub fn start(message: &str) -> Result<Self, BoundaryError> {
        contained(|| {
            let start: Start = message::read(message)?;
            if start.version != VERSION {
                return Err(BoundaryError::Version { theirs: start.version });
            }
            let config = Arc::new(configuration(&start.variables)?);
            telemetry::init(&config.telemetry);
            let desk = Arc::new(Desk::new(NUMBER.fetch_add(1, Ordering::Relaxed)));
            let process = std::process::id();
            let (rehearsal, handler) = (start.rehearsal, start.handlers.keys().next().cloned());
            let registry = registry(start, &desk)?;
            if let Some(rehearsal) = rehearsal {
                let named = || BoundaryError::Message("a rehearsal needs a handler that is named".to_owned());
                let runtime = rehearsal.start(&handler.ok_or_else(named)?, &desk, config.worker.concurrency)?;
                let (about, running) = (about(&config, "rehearsal"), Mutex::new(None));
                return Ok(Self { desk, about, status: None, process, running, rehearsal: Some(runtime) });
            }
            if config.worker.status_address.is_some() {
                tracing::warn!(
                    "worker.status_address is for workers of the tasker command; this one serves nothing there"
                );
            }
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            let runtime = runtime.map_err(|error| not_started("no threads can be started", error))?;
            let (worker, signals, pool) = runtime.block_on(started(Arc::clone(&config), registry))?;
            let about = about(&config, worker.id());
            let grace = Duration::from_millis(config.worker.stop_grace_ms);
            let status = Some(worker.status());
            let running = Running { runtime, worker, signals, pool, grace };
            Ok(Self { desk, about, status, process, running: Mutex::new(Some(running)), rehearsal: None })
        })
    }

    /// What the worker is: `worker_id`, `concurrency`, `environment` and `orchestration_url`.
    #[must_use]
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Waits for steps to run and for notices of attempts that were handed out, at most this long.
    ///
    /// # Errors
    /// Where the worker has stopped.
    pub fn poll(&self, wait: Duration) -> Result<String, BoundaryError> {
        self.poll_unless(wait, &Interrupt::default())
    }

    /// Waits as [`Self::poll`] does, and leaves what there is. An interpreter with one lock fetches when it has that lock
    /// again: until then more will have come, and what is fetched together is run without passing the lock around.
    ///
    /// # Errors
    /// In a process that was forked from the worker's.
    pub fn wait(&self, wait: Duration) -> Result<(), BoundaryError> {
        contained(|| {
            self.same_process()?;
            self.desk.wait(Instant::now() + wait);
            Ok(())
        })
    }

    /// As [`Self::poll`]; [`Self::interrupt`] ends the wait, before it has begun or while it lasts. For interpreters that
    /// want a thread back from a call that waits.
    ///
    /// # Errors
    /// Where the worker has stopped.
    pub fn poll_unless(&self, wait: Duration, interrupt: &Interrupt) -> Result<String, BoundaryError> {
        contained(|| {
            self.same_process()?;
            let is_wanted = || !interrupt.0.load(Ordering::Relaxed);
            let batch = self.desk.poll(Instant::now() + wait, is_wanted).ok_or(BoundaryError::Stopped)?;
            Ok(message::batch(&batch))
        })
    }

    /// Ends the poll that was given this; it answers what there is.
    pub fn interrupt(&self, interrupt: &Interrupt) {
        interrupt.0.store(true, Ordering::Relaxed);
        self.desk.wake();
    }

    /// Takes outcomes; answers for each whether its attempt still waited for it.
    ///
    /// # Errors
    /// Where the message as a whole is not understood, or the worker has stopped.
    pub fn complete(&self, message: &str) -> Result<String, BoundaryError> {
        contained(|| {
            self.same_process()?;
            let mut verdicts = Vec::new();
            let Complete { outcomes, answers } = message::read(message)?;
            if self.desk.known.answer(answers) {
                self.look_again();
            }
            for outcome in outcomes {
                let (id, answer) = message::outcome(&outcome)?;
                verdicts.push(self.desk.answer(id, answer).ok_or(BoundaryError::Stopped)?);
            }
            Ok(message::verdicts(&verdicts))
        })
    }

    /// How attempts and the worker are. Leases of attempts need nothing: they are extended for as long as the attempts run.
    ///
    /// # Errors
    /// Where the message is not understood, or the worker has stopped.
    pub fn heartbeat(&self, message: &str) -> Result<String, BoundaryError> {
        contained(|| {
            self.same_process()?;
            let ids = message::ids(message)?;
            let pulses = self.desk.pulses(&ids).ok_or(BoundaryError::Stopped)?;
            Ok(message::pulses(&pulses, self.desk.running(), self.status.as_ref().map(StatusHandle::status).as_ref()))
        })
    }

    /// Stops claiming, lets attempts end for as long as the grace lasts, and leaves. Poll and complete go on meanwhile:
    /// attempts end through them. Called from within a handler it waits for that handler until the grace is over.
    ///
    /// # Errors
    /// Where it has stopped already, or another thread is at it.
    pub fn stop(&self, grace: Option<Duration>) -> Result<(), BoundaryError> {
        contained(|| {
            self.same_process()?;
            let running = self.running.lock().expect("no panic while held").take().ok_or(BoundaryError::Stopped)?;
            let Running { runtime, worker, signals, pool, grace: configured } = running;
            runtime.block_on(async {
                worker.stop_within(grace.unwrap_or(configured)).await;
                signals.stop().await;
                pool.close().await;
            });
            self.desk.close();
            runtime.shutdown_timeout(LAST_WORDS);
            Ok(())
        })
    }

    /// There may be queues more to claim from, and more to announce.
    fn look_again(&self) {
        let running = self.running.lock().expect("no panic while held");
        let Some(Running { runtime, worker, .. }) = &*running else { return };
        let look = worker.look_again();
        runtime.spawn(async move {
            if let Err(error) = look.await {
                tracing::warn!(%error, "the queues of handlers that were resolved can't be looked up; they will be later");
            }
        });
    }

    fn same_process(&self) -> Result<(), BoundaryError> {
        if self.process == std::process::id() { Ok(()) } else { Err(BoundaryError::Forked) }
    }
}

impl Drop for Boundary {
    fn drop(&mut self) {
        let running = self.running.get_mut().ok().and_then(Option::take);
        let rehearsal = self.rehearsal.take();
        if self.process != std::process::id() {
            // Its threads are not here: whatever they held stays locked, and joining them would never end.
            return std::mem::forget((running, rehearsal));
        }
        if let Some(runtime) = rehearsal {
            runtime.shutdown_background();
        }
        if let Some(running) = running {
            running.runtime.shutdown_background();
        }
        self.desk.close();
    }
}

/// Where the configuration of this process says that the server is. A client in another language asks this.
///
/// # Errors
/// Where the configuration is wrong.
pub fn orchestration_url() -> Result<String, BoundaryError> {
    contained(|| Ok(configuration(&BTreeMap::new())?.client.url))
}

/// The configuration of this process, with variables beside those of its environment.
fn configuration(more: &BTreeMap<String, String>) -> Result<Config, Errors> {
    let own = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let names: Vec<String> = own.chain(more.keys().cloned()).collect();
    let of_process = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    Config::load(&|name| more.get(name).cloned().or_else(|| of_process(name)), &names)
}

fn registry(start: Start, desk: &Arc<Desk>) -> Result<HandlerRegistry, BoundaryError> {
    let Start { handlers, resolvers, publishers, subscriptions, .. } = start;
    if handlers.is_empty() && resolvers.is_empty() {
        return Err(BoundaryError::Message("there is no handler, so there is nothing to claim".to_owned()));
    }
    let mut registry = HandlerRegistry::new();
    for (name, methods) in handlers {
        if name.is_empty() || methods.is_empty() || methods.iter().any(String::is_empty) {
            return Err(BoundaryError::Message(format!("the handler `{name}` has no name, no method or an empty one")));
        }
        registry.register(name, Beyond { desk: Arc::clone(desk), methods, resolver: None });
    }
    let mut named = BTreeSet::new();
    for name in resolvers {
        if name.is_empty() || !named.insert(name.clone()) {
            return Err(BoundaryError::Message(format!("the resolver `{name}` has no name, or another one has it")));
        }
        resolve(&mut registry, name, desk);
    }
    for name in publishers {
        registry.register_publisher_beyond(name);
    }
    for glob in subscriptions {
        subscribe(&mut registry, glob, desk);
    }
    Ok(registry)
}

/// Finds handlers by what the other side's resolver says of them.
fn resolve(registry: &mut HandlerRegistry, name: String, desk: &Arc<Desk>) {
    let (desk, resolver) = (Arc::clone(desk), Arc::<str>::from(&*name));
    registry.register_resolver(name, move |callable, method| {
        let (callable, method) = (callable.to_owned(), method.to_owned());
        let found = desk.resolves(Question { resolver: Arc::clone(&resolver), callable, method: method.clone() });
        let beyond =
            || Beyond { desk: Arc::clone(&desk), methods: vec![method], resolver: Some(Arc::clone(&resolver)) };
        found.then(|| Arc::new(beyond()) as Arc<dyn StepHandler>)
    });
}

/// Puts a subscription's events on the desk. What the other side is slow to fetch waits in the subscriber's inbox.
fn subscribe(registry: &mut HandlerRegistry, glob: String, desk: &Arc<Desk>) {
    let (desk, places, named) = (Arc::clone(desk), Arc::new(Semaphore::new(desk::BATCH)), Arc::<str>::from(&*glob));
    registry.subscribe(glob, move |event| {
        let (desk, places, glob) = (Arc::clone(&desk), Arc::clone(&places), Arc::clone(&named));
        async move {
            let place = places.acquire_owned().await.expect("the semaphore is never closed");
            desk.tell(Told { glob, event, _place: place });
        }
    });
}

fn about(config: &Config, worker: &str) -> String {
    json!({"worker_id": worker, "concurrency": config.worker.concurrency, "environment": config.environment,
           "orchestration_url": config.client.url})
    .to_string()
}

async fn started(
    config: Arc<Config>,
    registry: HandlerRegistry,
) -> Result<(RunningWorker, Signals, PgPool), BoundaryError> {
    let Some(url) = &config.database.url else {
        return Err(BoundaryError::Start("no database is named; set DATABASE_URL".to_owned()));
    };
    let (url, database) = (url.expose(), &config.database);
    let acquire = Duration::from_millis(database.acquire_timeout_ms);
    let pool = store::connect(url, database.max_connections, acquire, database.statement_timeout_ms)
        .await
        .map_err(|error| not_started("the database of DATABASE_URL does not answer", error))?;
    let schema = store::migrate(&pool).await;
    schema.map_err(|error| not_started("the database can't be brought to this version's schema", error))?;
    let signals = Signals::start(&config, url, &pool).await;
    let signals = signals.map_err(|error| BoundaryError::Start(error.to_string()))?;
    let (wakeups, notifier) = (signals.wakeups.clone(), signals.notifier.clone());
    let builder = Worker::builder(pool.clone(), Arc::clone(&config), Arc::new(Metrics::new()), wakeups, notifier);
    let worker = builder.registry(registry).build().start(Server::Elsewhere).await;
    let worker = worker.map_err(|error| not_started("the database of DATABASE_URL does not answer", error))?;
    Ok((worker, signals, pool))
}

fn not_started(what: &str, error: impl std::fmt::Display) -> BoundaryError {
    BoundaryError::Start(format!("{what}: {error}"))
}

/// No panic crosses.
fn contained<T>(work: impl FnOnce() -> Result<T, BoundaryError>) -> Result<T, BoundaryError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(BoundaryError::Panicked(text.unwrap_or("it did not say why").to_owned()))
    })
}

/// A handler that runs on the other side: an attempt waits at the desk for its outcome.
struct Beyond {
    desk: Arc<Desk>,
    methods: Vec<String>,
    resolver: Option<Arc<str>>,
}

#[async_trait]
impl StepHandler for Beyond {
    fn methods(&self) -> Vec<&str> {
        self.methods.iter().map(String::as_str).collect()
    }

    /// The other side is told of the method with the step.
    async fn call_method(&self, _: &str, ctx: StepContext) -> Result<StepOutcome, StepError> {
        self.call(ctx).await
    }

    async fn call(&self, ctx: StepContext) -> Result<StepOutcome, StepError> {
        let (seat, mut answer) = Desk::take_seat(&self.desk, ctx.clone(), self.resolver.clone());
        let answer = tokio::select! {
            answer = &mut answer => answer,
            () = ctx.cancelled() => {
                seat.tell_cancelled();
                answer.await
            }
        };
        // The desk closes only after the last attempt has ended.
        let stopped = || Err(StepError::retryable("the worker has stopped").with_class("worker_stopped"));
        let Ok(Answer { returned, events }) = answer else { return stopped() };
        if let Some(publication) = ctx.publication() {
            publication.said.say(Kind::of_returned(&returned), events);
        }
        returned
    }
}
