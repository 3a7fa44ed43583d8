//! One language: a server on a database of its own, and a worker in a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::{Mode, Notifier, Wakeups};
use serde_json::value::to_raw_value;
use tasker_client::types::{RegisterRequest, TaskRequest};
use tasker_client::{Client, Waited};
use tasker_orchestration::{Engine, Running};
use tasker_shared::config::Config;
use tasker_shared::telemetry::Metrics;
use tasker_shared::testing::{TestDatabase, eventually};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cases::{Case, During, Found};
use crate::generated;

/// Longer than any task here takes, also on a machine that is busy with something else.
const BOUND: Duration = Duration::from_secs(120);

/// What the log says at its end, where a case fails.
const LOG_LINES: usize = 40;

/// See the module.
pub(crate) struct Side {
    client: Client,
    server: Running,
    worker: Worker,
    command: String,
    folder: TempDir,
    stop: CancellationToken,
    signals: JoinSet<()>,
    database: TestDatabase,
}

/// Killed with the value.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Side {
    pub(crate) async fn start(language: &str, command: &str) -> Self {
        println!("{language}: {command}");
        let database = TestDatabase::create().await;
        let mut config = Config::default();
        config.queue.lease_ms = 2_000;
        config.sweep.interval_ms = 100;
        let (wakeups, notifier) = (Wakeups::new(Mode::Hybrid), Notifier::new(Mode::Hybrid));
        let (stop, mut signals) = (CancellationToken::new(), JoinSet::new());
        let options = database.pool.connect_options();
        let (listen, listen_options, listen_stop) = (wakeups.clone(), Arc::clone(&options), stop.clone());
        signals.spawn(async move { listen.run(&listen_options, listen_stop).await });
        let (send, send_stop) = (notifier.clone(), stop.clone());
        signals.spawn(async move { send.run(&options, send_stop).await });
        let (metrics, pool) = (Arc::new(Metrics::new()), database.pool.clone());
        let (engine, server, _) =
            Engine::start(Arc::new(config), pool, metrics, wakeups, notifier, None).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let serve_stop = stop.clone();
        signals.spawn(async move { tasker_orchestration::http::serve(engine, listener, serve_stop).await.unwrap() });
        let folder = TempDir::new().unwrap();
        let command = generated::with_handlers(language, command, &folder);
        let worker = spawn(&command, &database.url, &folder);
        Self { client, server, worker, command, folder, stop, signals, database }
    }

    /// Registers the case's template and creates its task.
    pub(crate) async fn create(&self, case: &Case) -> Uuid {
        let template = RegisterRequest::Yaml(case.template());
        let registered = self.client.register_template(&template).await;
        registered.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let mut request = TaskRequest::new("conformance", &case.name);
        let mut input = case.input.clone();
        if case.during == Some(During::Cancel) {
            input["file"] = self.file().to_str().unwrap().into();
        }
        request.context = to_raw_value(&input).unwrap();
        self.client.create_task(&request).await.unwrap().task_uuid
    }

    /// Creates a task of the template whose handlers were generated; answers whether it is complete.
    pub(crate) async fn completes_generated(&self) -> bool {
        let template = RegisterRequest::Yaml(generated::TEMPLATE.to_owned());
        self.client.register_template(&template).await.unwrap();
        let mut request = TaskRequest::new("insurance", "claim_settlement");
        request.context = to_raw_value(&serde_json::json!({"claim_id": "C-1", "amount": 1.5, "class": "car"})).unwrap();
        let task = self.client.create_task(&request).await.unwrap().task_uuid;
        let (Waited::Settled(rested) | Waited::TimedOut(rested)) = self.client.wait(task, Some(BOUND)).await.unwrap();
        rested.status.as_str() == "complete"
    }

    /// Cancels a task whose handler says in the file that it has started, and waits until it has seen that.
    pub(crate) async fn cancel_when_started(&self, task: Uuid) {
        let says = async |word: &str| std::fs::read_to_string(self.file()).is_ok_and(|text| text == word);
        eventually("the handler has started", async || says("started").await).await;
        self.client.cancel_task(task).await.unwrap();
        eventually("the handler sees that it is cancelled", async || says("seen").await).await;
    }

    /// Waits until the worker's process has ended by itself and starts another.
    pub(crate) async fn restart_when_it_has_ended(&mut self) {
        let worker = &mut self.worker;
        eventually("the worker's process ends", async || worker.0.try_wait().unwrap().is_some()).await;
        self.worker = spawn(&self.command, &self.database.url, &self.folder);
    }

    /// Waits until the task rests; answers what became of its steps, and where that is not what has to come.
    pub(crate) async fn rests(&self, case: &Case, task: Uuid) -> (BTreeMap<String, Found>, Vec<String>) {
        let (Waited::Settled(rested) | Waited::TimedOut(rested)) = self.client.wait(task, Some(BOUND)).await.unwrap();
        let found = self.steps(task).await;
        let mut wrong = case.differences(&found);
        if rested.status.as_str() != case.state {
            wrong.push(format!("{}: it is {} and not {}: {found:#?}", case.name, rested.status.as_str(), case.state));
        }
        if case.retry_after_ms.is_some() && self.retry_after_ms(task).await != case.retry_after_ms {
            wrong.push(format!("{}: it does not wait as it was told to", case.name));
        }
        (found, wrong)
    }

    /// What became of the task's steps, by name.
    async fn steps(&self, task: Uuid) -> BTreeMap<String, Found> {
        let mut steps = BTreeMap::new();
        for step in self.client.steps(task).await.unwrap() {
            let audit = self.client.step_audit(task, step.step_uuid).await.unwrap();
            let attempts = serde_json::from_value(serde_json::to_value(audit).unwrap()).unwrap();
            steps.insert(step.name, Found { state: step.current_state.as_str().to_owned(), attempts });
        }
        steps
    }

    /// How long the task's failed attempt asked to wait.
    async fn retry_after_ms(&self, task: Uuid) -> Option<i64> {
        let asked = "SELECT retry_after_ms FROM tasker.attempts WHERE task_uuid = $1 AND outcome = 'failure'";
        sqlx::query_scalar(asked).bind(task).fetch_one(&self.database.pool).await.unwrap()
    }

    /// Stops everything.
    pub(crate) async fn end(mut self) {
        terminate(&mut self.worker).await;
        self.server.stop().await;
        self.stop.cancel();
        while self.signals.join_next().await.is_some() {}
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    /// The end of what the worker said.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("worker.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// Starts a worker by a line of the shell, with the configuration in its environment.
fn spawn(command: &str, database: &str, folder: &TempDir) -> Worker {
    let log = File::options().create(true).append(true).open(folder.path().join("worker.log")).unwrap();
    let mut worker = Command::new("sh");
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("TASKER__") || name.ends_with("DATABASE_URL") {
            worker.env_remove(name.as_ref());
        }
    }
    worker.args(["-c", &format!("exec {command}")]).stdin(Stdio::null());
    worker.env("DATABASE_URL", database).env("TASKER_ENV", "test");
    worker.env("TASKER__QUEUE__LEASE_MS", "2000").env("TASKER__WORKER__HEARTBEAT_MS", "400");
    Worker(worker.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

/// Asks the worker to stop, and waits until it has.
async fn terminate(worker: &mut Worker) {
    let sent = Command::new("kill").args(["-TERM", &worker.0.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let mut status = None;
    eventually("the worker stops", async || {
        status = worker.0.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert!(status.is_some_and(|status| status.success()), "the worker's command ended with {status:?}");
}
