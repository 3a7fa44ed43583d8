//! A server in this process, on a free port and a database of its own, and a worker that does as the test says.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::{Mode, Notifier, QueueName, Wakeups};
use reqwest::Response;
use serde_json::Value;
use serde_json::value::RawValue;
use tasker_client::types::{RegisterRequest, RegisterResponse, TaskRequest};
use tasker_client::{Client, ClientError};
use tasker_lifecycle::{Follows, Timestamp};
use tasker_orchestration::{Engine, Running, http};
use tasker_shared::config::{Config, Environment};
use tasker_shared::local::LocalServer;
use tasker_shared::messages::{Claim, Report, ReportedOutcome, StepFailure};
use tasker_shared::store;
use tasker_shared::telemetry::Metrics;
use tasker_shared::testing::TestDatabase;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const ORDER: &str = "
name: order
namespace_name: shop
version: 1.0.0
description: Takes an order.
input_schema:
  type: object
  required: [amount]
  properties: {amount: {type: number, minimum: 0}, mail: {type: string, format: email}}
steps:
  - {name: reserve, handler: {callable: reserve}}
  - {name: charge, handler: {callable: charge}, dependencies: [reserve], retry: {max_attempts: 2, backoff: none}}
  - {name: pack, handler: {callable: pack}, dependencies: [reserve]}
  - {name: ship, handler: {callable: ship}, dependencies: [charge, pack]}
";

pub struct Server {
    pub db: TestDatabase,
    pub base: String,
    pub client: Client,
    pub http: reqwest::Client,
    pub shutdown: CancellationToken,
    pub engine: Engine,
    local: LocalServer,
    running: Option<Running>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let db = TestDatabase::create().await;
        let url = db.url.clone();
        Self::on(db, &url, change).await
    }

    /// A server whose way to the database is `url`.
    pub async fn on(db: TestDatabase, url: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.environment = Environment::Test;
        config.stop.drain_ms = 2_000;
        change(&mut config);
        let pool = store::connect(url, 8, Duration::from_secs(2), 30_000).await.unwrap();
        let (wakeups, notifier) = (Wakeups::new(Mode::PollingOnly), Notifier::new(Mode::PollingOnly));
        let metrics = Arc::new(Metrics::new());
        let started = Engine::start(Arc::new(config), pool, metrics, wakeups, notifier, None).await;
        let (engine, running, local) = started.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let serving = Some(tokio::spawn(http::serve(engine.clone(), listener, shutdown.clone())));
        let client = Client::new(&base).unwrap();
        let running = Some(running);
        Self { db, base, client, http: reqwest::Client::new(), shutdown, engine, local, running, serving }
    }

    pub async fn register(&self, yaml: &str) -> Result<RegisterResponse, ClientError> {
        self.client.register_template(&RegisterRequest::Yaml(yaml.to_owned())).await
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.http.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        Answer::of(request.body(body).send().await.unwrap()).await
    }

    pub async fn patch(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.http.patch(format!("{}{path}", self.base)).header("content-type", "application/json");
        Answer::of(request.body(body).send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(format!("{}{path}", self.base)).send().await.unwrap()).await
    }

    /// Claims every ticket there is and reports what `handle` makes of the step's number and attempt.
    pub async fn work(&self, namespace: &str, handle: impl Fn(u32, u32) -> ReportedOutcome) -> usize {
        let claims = self.claim(namespace).await;
        for claim in &claims {
            self.report(claim, handle(claim.step.0, claim.attempt)).await;
        }
        claims.len()
    }

    pub async fn claim(&self, namespace: &str) -> Vec<Claim> {
        let queue = QueueName::new(format!("worker_{namespace}_queue")).unwrap();
        let mut conn = self.db.pool.acquire().await.unwrap();
        let read = pgmq_notify::read(&mut conn, &[queue], Duration::from_secs(30), 100).await.unwrap();
        read.iter().map(|message| Claim::from_message(message, now()).unwrap()).collect()
    }

    pub async fn report(&self, claim: &Claim, outcome: ReportedOutcome) {
        let (claim, worker) = (claim.clone(), Arc::from("test-worker"));
        let report = Report { claim, outcome, started_at: Some(now()), ended_at: now(), worker, events: Vec::new() };
        self.local.report(report).await.unwrap();
    }

    /// Works until nothing is left to claim and the task rests.
    pub async fn work_until_settled(&self, task: uuid::Uuid, handle: impl Fn(u32, u32) -> ReportedOutcome + Copy) {
        while self.get(&format!("/v1/tasks/{task}/wait?timeout_ms=50")).await.status == 202 {
            self.work("shop", handle).await;
        }
    }

    pub async fn stop(mut self) {
        self.shutdown.cancel();
        self.serving.take().unwrap().await.unwrap().unwrap();
        self.running.take().unwrap().stop().await;
    }
}

/// An answer whose headers were checked for what every answer has.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        assert!(headers.contains_key("x-request-id"), "{headers:?}");
        let answer = Self { status, headers, text: response.text().await.unwrap() };
        if status >= 400 && answer.json().get("error").is_some() {
            let id = answer.headers["x-request-id"].to_str().unwrap();
            assert_eq!(answer.json()["error"]["request_id"], id, "{answer:?}");
        }
        answer
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }
}

pub fn order() -> TaskRequest {
    let mut request = TaskRequest::new("shop", "order");
    request.context = RawValue::from_string(r#"{"amount": 12.50}"#.to_owned()).unwrap();
    request
}

pub fn success(json: &str) -> ReportedOutcome {
    ReportedOutcome::Success {
        result: Arc::from(RawValue::from_string(json.to_owned()).unwrap()),
        metadata: None,
        follows: Follows::Nothing,
    }
}

pub fn failure(retryable: bool) -> ReportedOutcome {
    let (message, error_type) = ("the card was declined".to_owned(), "payment".to_owned());
    let error = StepFailure { message, error_type, error_code: Some("E42".to_owned()) };
    ReportedOutcome::Failure { error, retryable, retry_after_ms: None, metadata: None }
}

fn now() -> Timestamp {
    Timestamp(chrono::Utc::now().timestamp_micros())
}
