//! One database with a server and a worker on it, and what a test asks of them.

use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::{Mode, Notifier, Wakeups};
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::PgPool;
use tasker_client::Client;
use tasker_client::types::TaskRequest;
use tasker_lifecycle::{TaskId, TaskState, template};
use tasker_orchestration::{Engine, Running};
use tasker_shared::config::Config;
use tasker_shared::telemetry::Metrics;
use tasker_shared::testing::TestDatabase;
use tasker_worker::{HandlerRegistry, RunningWorker, Server, Worker};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longer than any task here takes, also on a machine that is busy with something else.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// Which way reports and tickets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// By channel, between a server and a worker in one process.
    Local,
    /// Through the queues, as between processes.
    Queue,
}

/// See the module.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) pool: PgPool,
    server: Running,
    worker: RunningWorker,
    stop: CancellationToken,
    signals: JoinSet<()>,
    _database: TestDatabase,
}

impl Bench {
    /// Runs a test on both paths, each with a database of its own and this template registered.
    pub(crate) async fn on_both(
        template: &str,
        handlers: impl Fn(&mut HandlerRegistry),
        mut test: impl AsyncFnMut(&mut Bench),
    ) {
        for path in [Path::Local, Path::Queue] {
            let mut bench = Self::start(path, template, &handlers).await;
            test(&mut bench).await;
            bench.end().await;
        }
    }

    async fn start(path: Path, template: &str, handlers: impl Fn(&mut HandlerRegistry)) -> Self {
        let database = TestDatabase::create().await;
        let mut config = Config::default();
        config.queue.lease_ms = 2_000;
        config.worker.heartbeat_ms = 500;
        config.worker.unregistered_delay_ms = 50;
        config.sweep.interval_ms = 100;
        let config = Arc::new(config);
        let (wakeups, notifier) = (Wakeups::new(Mode::Hybrid), Notifier::new(Mode::Hybrid));
        let (stop, mut signals) = (CancellationToken::new(), JoinSet::new());
        let options = database.pool.connect_options();
        let (listen, listen_options, listen_stop) = (wakeups.clone(), Arc::clone(&options), stop.clone());
        signals.spawn(async move { listen.run(&listen_options, listen_stop).await });
        let (send, send_stop) = (notifier.clone(), stop.clone());
        signals.spawn(async move { send.run(&options, send_stop).await });
        let worker = build(&database.pool, &config, &wakeups, &notifier, &handlers);
        let local = (path == Path::Local).then(|| worker.local());
        let (metrics, pool) = (Arc::new(Metrics::new()), database.pool.clone());
        let (engine, server, reports) =
            Engine::start(Arc::clone(&config), pool, metrics, wakeups.clone(), notifier.clone(), local).await.unwrap();
        let (read, _) = template::parse(template, None).unwrap_or_else(|problems| panic!("{problems:?}"));
        engine.register(read, false).await.unwrap();
        let side = if path == Path::Local { Server::Here(reports) } else { Server::Elsewhere };
        let worker = worker.start(side).await.unwrap();
        let pool = database.pool.clone();
        Self { engine, pool, server, worker, stop, signals, _database: database }
    }

    /// A client of this server over HTTP.
    pub(crate) async fn client(&mut self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (engine, stop) = (self.engine.clone(), self.stop.clone());
        self.signals.spawn(async move { tasker_orchestration::http::serve(engine, listener, stop).await.unwrap() });
        Client::new(&format!("http://{address}")).unwrap()
    }

    /// Creates a task of the template, which is called `test/t` in all tests.
    pub(crate) async fn create(&self, context: Value) -> TaskId {
        self.create_of("t", context).await
    }

    /// Creates a task of another template.
    pub(crate) async fn create_of(&self, name: &str, context: Value) -> TaskId {
        let mut request = TaskRequest::new("test", name);
        request.context = serde_json::value::to_raw_value(&context).unwrap();
        self.engine.create(request).await.unwrap().task
    }

    /// Registers another template.
    pub(crate) async fn register(&self, template: &str) {
        let (read, _) = template::parse(template, None).unwrap_or_else(|problems| panic!("{problems:?}"));
        self.engine.register(read, false).await.unwrap();
    }

    /// Waits until the task is in this state, woken by each of its commits.
    pub(crate) async fn reaches(&self, task: TaskId, state: TaskState) {
        let mut watcher = self.engine.watch().subscribe(task);
        let there = "SELECT state FROM tasker.tasks WHERE task_uuid = $1";
        let reached = async {
            while sqlx::query_scalar::<_, String>(there).bind(task.uuid()).fetch_one(&self.pool).await.unwrap()
                != state.as_str()
            {
                watcher.changed().await;
            }
        };
        assert!(tokio::time::timeout(BOUND, reached).await.is_ok(), "task {task} never is {state}");
    }

    /// Waits until the task rests.
    pub(crate) async fn rests(&self, task: TaskId) -> TaskState {
        let state = self.engine.wait(task, BOUND).await;
        state.unwrap_or_else(|| panic!("task {task} is still under way"))
    }

    /// Creates a task and waits until it is complete.
    pub(crate) async fn completes(&self, context: Value) -> TaskId {
        let task = self.create(context).await;
        assert_eq!(self.rests(task).await, TaskState::Complete, "{:#?}", self.attempts(task).await);
        task
    }

    /// The stored letters of the task's steps.
    pub(crate) async fn letters(&self, task: TaskId) -> String {
        let letters = sqlx::query_scalar("SELECT steps FROM tasker.tasks WHERE task_uuid = $1").bind(task.uuid());
        letters.fetch_one(&self.pool).await.unwrap()
    }

    /// The result of a step by its position.
    pub(crate) async fn result(&self, task: TaskId, step: i32) -> Value {
        let json: String = sqlx::query_scalar(
            "SELECT result::text FROM tasker.attempts
             WHERE task_uuid = $1 AND step = $2 AND outcome IN ('success', 'by_hand') ORDER BY attempt DESC LIMIT 1",
        )
        .bind(task.uuid())
        .bind(step)
        .fetch_one(&self.pool)
        .await
        .unwrap();
        serde_json::from_str(&json).unwrap()
    }

    /// Every stored attempt, by step.
    pub(crate) async fn attempts(&self, task: TaskId) -> Vec<String> {
        let rows = sqlx::query_scalar(
            "SELECT format('%s@%s %s %s %s', step, attempt, outcome, result, error) FROM tasker.attempts
             WHERE task_uuid = $1 ORDER BY step, attempt",
        );
        rows.bind(task.uuid()).fetch_all(&self.pool).await.unwrap()
    }

    /// Counts.
    pub(crate) async fn count(&self, query: &str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    async fn end(mut self) {
        self.worker.stop().await;
        self.server.stop().await;
        self.stop.cancel();
        while self.signals.join_next().await.is_some() {}
        let wrong: Vec<String> = sqlx::query_scalar("SELECT v::text FROM tasker.live_step_violations() v")
            .fetch_all(&self.pool)
            .await
            .unwrap();
        assert_eq!(wrong, Vec::<String>::new(), "I10");
        let wrong: Vec<String> =
            sqlx::query_scalar("SELECT v::text FROM tasker.permit_violations() v").fetch_all(&self.pool).await.unwrap();
        assert_eq!(wrong, Vec::<String>::new(), "permits are those of the steps that have a ticket");
    }
}

fn build(
    pool: &PgPool,
    config: &Arc<Config>,
    wakeups: &Wakeups,
    notifier: &Notifier,
    handlers: &impl Fn(&mut HandlerRegistry),
) -> Worker {
    let mut registry = HandlerRegistry::new();
    handlers(&mut registry);
    let metrics = Arc::new(Metrics::new());
    Worker::builder(pool.clone(), Arc::clone(config), metrics, wakeups.clone(), notifier.clone())
        .registry(registry)
        .build()
}

/// JSON text as a value.
pub(crate) fn value(json: &RawValue) -> Value {
    serde_json::from_str(json.get()).unwrap()
}
