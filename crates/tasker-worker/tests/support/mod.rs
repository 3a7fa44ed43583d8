//! A database with a template and tasks whose tickets are sent, as a server would have left them.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::{Mode, Notifier, Outgoing, QueueName, Token, Wakeups};
use serde_json::Value;
use serde_json::value::RawValue;
use tasker_lifecycle::template::{self, Template};
use tasker_lifecycle::{Effect, Event, Follows, Holder, Nonce, StepIndex, Task, TaskId, TicketRef, decide};
use tasker_shared::config::Config;
use tasker_shared::messages::{Claim, Report, ReportedOutcome, TicketBody, ticket_queue};
use tasker_shared::store::tasks::{Details, NewTask, Snapshot};
use tasker_shared::store::writes::Writes;
use tasker_shared::store::{claims, from_sql, queues, templates};
use tasker_shared::telemetry::Metrics;
use tasker_shared::testing::{TestDatabase, eventually};
use tasker_worker::{HandlerRegistry, RunningWorker, Server, Worker};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Setup {
    pub db: TestDatabase,
    pub template: Arc<Template>,
    pub queue: QueueName,
    pub config: Config,
    pub metrics: Arc<Metrics>,
    listening: CancellationToken,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.listening.cancel();
    }
}

impl Setup {
    /// Steps as YAML; each calls a handler.
    pub async fn new(steps: &str) -> Self {
        let db = TestDatabase::create().await;
        let template = register(&db, "here", steps).await;
        let mut config = Config::default();
        tasker_shared::telemetry::init(&config.telemetry);
        config.worker.id = "tested".to_owned();
        config.queue.poll_max_ms = 1_000;
        let queue = ticket_queue("here", "default", 0).unwrap();
        let (metrics, listening) = (Arc::new(Metrics::new()), CancellationToken::new());
        Self { db, template, queue, config, metrics, listening }
    }

    /// A task with its first tickets, visible after the delay.
    pub async fn task(&self, context: Value, delay: Duration) -> TaskId {
        self.task_of(&self.template, 0, context, delay).await
    }

    /// A task of another template, or of another priority.
    pub async fn task_of(&self, template: &Arc<Template>, priority: i16, context: Value, delay: Duration) -> TaskId {
        let mut conn = self.db.pool.acquire().await.unwrap();
        let now = from_sql(chrono::Utc::now());
        let id = TaskId::new(u64::try_from(now.0 / 1000).unwrap(), rand::random());
        let mut snapshot = Snapshot {
            task: Task::new(id, Arc::clone(template)),
            version: 1,
            seq: 0,
            priority,
            correlation_id: id.uuid(),
        };
        let decision = decide(&snapshot.task, &Event::Started, now).unwrap();
        decision.evolve(&mut snapshot.task);
        let mut writes = Writes::default();
        let state = snapshot.task.state();
        writes.history(id, &mut snapshot.seq, Event::Started.cause(), &decision, state);
        for effect in decision.effects {
            let Effect::Enqueue { step, .. } = effect else { continue };
            let pool = template.step(step).pool.as_str();
            let queue = ticket_queue(template.namespace.as_str(), pool, priority).unwrap();
            let msg_id = pgmq_notify::reserve_ids(&mut conn, &queue, 1).await.unwrap()[0];
            let nonce = Nonce(Uuid::from_u128(rand::random()));
            snapshot.task.hold(step, Holder::Ticket(TicketRef { msg_id, nonce }));
            let body = ticket(id, step, nonce);
            writes.ticket(Outgoing::new(queue, msg_id, body).delayed(delay));
        }
        let context: Arc<RawValue> = serde_json::value::to_raw_value(&context).unwrap().into();
        let new = NewTask { snapshot, context, details: Details::default() };
        let mut tx = self.db.pool.begin().await.unwrap();
        writes.insert(&mut tx, &[new], now, "test").await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub fn registry(&self) -> HandlerRegistry {
        HandlerRegistry::new()
    }

    /// A running worker with LISTEN and NOTIFY.
    pub async fn start(&self, registry: HandlerRegistry) -> RunningWorker {
        let (worker, _) = self.worker(registry);
        worker.start(Server::Elsewhere).await.unwrap()
    }

    /// A worker, and what wakes it.
    pub fn worker(&self, registry: HandlerRegistry) -> (Worker, Notifier) {
        let options: sqlx::postgres::PgConnectOptions = self.db.url.parse().unwrap();
        let (wakeups, notifier) = (Wakeups::new(Mode::Hybrid), Notifier::new(Mode::Hybrid));
        let (listen, send) = (wakeups.clone(), notifier.clone());
        let (stop, other) = (self.listening.clone(), options.clone());
        tokio::spawn(async move { listen.run(&options, stop).await });
        let stop = self.listening.clone();
        tokio::spawn(async move { send.run(&other, stop).await });
        let (pool, config) = (self.db.pool.clone(), Arc::new(self.config.clone()));
        let builder = Worker::builder(pool, config, Arc::clone(&self.metrics), wakeups, notifier.clone());
        (builder.registry(registry).build(), notifier)
    }

    /// Claims as another worker would.
    pub async fn claim(&self, lease: Duration) -> Vec<Claim> {
        let mut conn = self.db.pool.acquire().await.unwrap();
        let found = claims::claim(&mut conn, &[self.queue.clone().into()], lease, 100).await.unwrap();
        found
            .messages
            .iter()
            .map(|message| Claim::from_message(message, from_sql(message.enqueued_at)).unwrap())
            .collect()
    }

    /// Lets the lease of every ticket end now.
    pub async fn end_leases(&self) {
        self.run(&format!("UPDATE pgmq.q_{} SET vt = clock_timestamp()", self.queue)).await;
    }

    pub async fn run(&self, statement: &str) {
        sqlx::raw_sql(statement).execute(&self.db.pool).await.unwrap();
    }

    pub async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.db.pool).await.unwrap()
    }

    /// (attempt, outcome, `error_type`) of every attempt of a task's first step.
    pub async fn attempts(&self, task: TaskId) -> Vec<(i32, String, Option<String>)> {
        sqlx::query_as(
            "SELECT attempt, outcome, error ->> 'error_type' FROM tasker.attempts WHERE task_uuid = $1 AND step = 0
             ORDER BY attempt",
        )
        .bind(task.uuid())
        .fetch_all(&self.db.pool)
        .await
        .unwrap()
    }

    /// The text of the last error of a task's first step.
    pub async fn error(&self, task: TaskId) -> String {
        sqlx::query_scalar(
            "SELECT error ->> 'message' FROM tasker.attempts WHERE task_uuid = $1 AND error IS NOT NULL
             ORDER BY attempt DESC LIMIT 1",
        )
        .bind(task.uuid())
        .fetch_one(&self.db.pool)
        .await
        .unwrap()
    }

    /// Waits until the query says true.
    pub async fn until(&self, query: &str) {
        eventually(query, async || sqlx::query_scalar(query).fetch_one(&self.db.pool).await.unwrap()).await;
    }

    /// Waits until this many attempts were reported.
    pub async fn until_attempts(&self, count: usize) {
        self.until(&format!("SELECT count(*) >= {count} FROM tasker.attempts")).await;
    }

    pub fn ticket_table(&self) -> String {
        format!("pgmq.q_{}", self.queue)
    }
}

/// A template of one namespace, with its queues.
pub async fn register(db: &TestDatabase, namespace: &str, steps: &str) -> Arc<Template> {
    let text = format!("name: job\nnamespace_name: {namespace}\nversion: 1.0.0\nsteps:\n{steps}");
    let (template, _) = template::parse(&text, None).unwrap();
    let known = queues::of_template(&template).unwrap();
    let names = known.iter().map(|(queue, _, _)| queue.clone());
    let names: Vec<QueueName> = names.chain(queues::of_events(&template)).collect();
    let mut conn = db.pool.acquire().await.unwrap();
    pgmq_notify::create_queues(&mut conn, &names).await.unwrap();
    templates::register(&mut conn, &template, false).await.unwrap();
    queues::register(&mut conn, namespace, &known).await.unwrap();
    Arc::new(template)
}

/// The body of a ticket's message.
pub fn ticket(task: TaskId, step: StepIndex, nonce: Nonce) -> String {
    let (task_uuid, step_uuid) = (task, task.step(step));
    let body = TicketBody { task_uuid, step_uuid, correlation_id: task.uuid(), base_attempt: 0, nonce };
    serde_json::to_string(&body).unwrap()
}

/// A report of success on a claim.
pub fn success(claim: &Claim, worker: &str) -> Report {
    let result: Arc<RawValue> = RawValue::from_string("true".to_owned()).unwrap().into();
    let outcome = ReportedOutcome::Success { result, metadata: None, follows: Follows::Nothing };
    let at = claim.claimed_at;
    let (claim, worker, events) = (claim.clone(), worker.into(), Vec::new());
    Report { claim, outcome, started_at: Some(at), ended_at: at, worker, events }
}

pub fn tokens(claims: &[Claim]) -> Vec<Token> {
    claims.iter().map(|claim| claim.token.clone()).collect()
}
