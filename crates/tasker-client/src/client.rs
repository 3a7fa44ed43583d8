//! The client of the HTTP API: one method for each route, a connection pool, and errors sorted by what a caller can do.
//!
//! Only what is safe to repeat is repeated: a task with an idempotency key after a lost connection, and the reading of an
//! event stream. Everything else is reported and left to the caller.

mod analytics;
mod dead_letters;
mod error;
mod resources;
mod sse;

use std::time::Duration;

use futures::Stream;
use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use error::ClientError;

use crate::graph::{GraphFormat, GraphQuery};
use crate::types::{
    BulkRepair, BulkRepairReport, BulkRequest, BulkResponse, BulkResult, DeprecateRequest, DetailedHealth, Explanation,
    HandlerList, Health, History, HistoryEntry, HistoryQuery, ListQuery, RegisterRequest, RegisterResponse, StepAction,
    StepAudit, StepResponse, TaskEvent, TaskList, TaskRequest, TaskResponse, TemplateDetail, TemplateList,
    TemplateListQuery, TemplateSummary, WaitQuery,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the longest wait, so that a long poll is never mistaken for a dead server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);
/// Below the server's own request timeout.
const LONGEST_WAIT: Duration = Duration::from_secs(25);
/// How often a request with an idempotency key is sent before its failure is reported.
const CREATE_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Enough for 64 tasks in flight without opening connections anew.
const IDLE_CONNECTIONS: usize = 64;

/// A client of one server. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    base: Url,
    http: reqwest::Client,
}

/// What [`Client::wait`] saw last.
#[derive(Clone, Debug)]
pub enum Waited {
    /// The task is terminal, or blocked by failures.
    Settled(Box<TaskResponse>),
    /// The time ran out first; this is the present state.
    TimedOut(Box<TaskResponse>),
}

/// An answer's status and text, before it is read as a type.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
    path: String,
}

impl Client {
    /// A client of the server at `base_url`, such as `http://127.0.0.1:8080`. No connection is made yet.
    ///
    /// # Errors
    /// [`ClientError::Address`] where the URL is not one of a server that can be reached.
    pub fn new(base_url: &str) -> Result<Self, ClientError> {
        let refuse = |reason: String| ClientError::Address { address: base_url.to_owned(), reason };
        let base = Url::parse(base_url).map_err(|error| refuse(error.to_string()))?;
        if base.scheme() != "http" {
            return Err(refuse(format!("`{}://` is not supported, use `http://`", base.scheme())));
        }
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .user_agent(concat!("tasker-client/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Self { base, http })
    }

    /// The address of the server.
    #[must_use]
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Creates a task. With an idempotency key it is sent again where the connection was lost or the server could not
    /// tell how it ended; without one it is sent once.
    ///
    /// # Errors
    /// Every [`ClientError`]. After [`ClientError::Unreachable`] or [`ClientError::Timeout`] without a key the task may
    /// exist.
    pub async fn create_task(&self, request: &TaskRequest) -> Result<TaskResponse, ClientError> {
        self.post_patiently(&["v1", "tasks"], request, request.idempotency_key.is_some()).await
    }

    /// Creates up to 1,000 tasks; each is created or refused on its own, and the answers stand in the order of the
    /// requests. Where all of them have idempotency keys they are sent again as [`Self::create_task`] does it.
    ///
    /// # Errors
    /// Every [`ClientError`], where nothing can be said of single requests.
    pub async fn create_tasks(&self, requests: Vec<TaskRequest>) -> Result<Vec<BulkResult>, ClientError> {
        let repeatable = requests.iter().all(|request| request.idempotency_key.is_some());
        let body = BulkRequest { tasks: requests };
        let answer: BulkResponse = self.post_patiently(&["v1", "tasks", "bulk"], &body, repeatable).await?;
        Ok(answer.results)
    }

    async fn post_patiently<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &B,
        repeatable: bool,
    ) -> Result<T, ClientError> {
        let tries = if repeatable { CREATE_TRIES } else { 1 };
        let mut pause = FIRST_PAUSE;
        for _ in 1..tries {
            match self.send(self.post(path, body)).await {
                Err(error) if error.outcome_unknown() => tokio::time::sleep(pause).await,
                answered => return answered,
            }
            pause *= 2;
        }
        self.send(self.post(path, body)).await
    }

    /// The task with its steps.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn get_task(&self, task: Uuid) -> Result<TaskResponse, ClientError> {
        self.send(self.get(&["v1", "tasks", &task.to_string()])).await
    }

    /// One page of tasks, newest first.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn list_tasks(&self, query: &ListQuery) -> Result<TaskList, ClientError> {
        self.send(self.get(&["v1", "tasks"]).query(query)).await
    }

    /// Cancels the task; no step of it is claimed after this returned.
    ///
    /// # Errors
    /// Every [`ClientError`]; [`ClientError::Api`] with status 409 where the task had ended otherwise.
    pub async fn cancel_task(&self, task: Uuid) -> Result<TaskResponse, ClientError> {
        self.send(self.request(Method::DELETE, &["v1", "tasks", &task.to_string()])).await
    }

    /// Waits until the task is terminal or blocked, or until `timeout` has passed; without one, for ever.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn wait(&self, task: Uuid, timeout: Option<Duration>) -> Result<Waited, ClientError> {
        let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(tokio::time::Instant::now()));
            let poll = left.map_or(LONGEST_WAIT, |left| left.min(LONGEST_WAIT));
            let query = WaitQuery { timeout_ms: Some(u64::try_from(poll.as_millis()).unwrap_or(u64::MAX)) };
            let request = self.get(&["v1", "tasks", &task.to_string(), "wait"]).query(&query);
            let answer = self.answer(request).await?;
            let now = Box::new(answer.read()?);
            if answer.status != StatusCode::ACCEPTED {
                return Ok(Waited::Settled(now));
            }
            if left.is_some_and(|left| left <= poll) {
                return Ok(Waited::TimedOut(now));
            }
        }
    }

    /// The task's transitions as they happen, beginning after the entry `after` (0 for the whole history, absent for
    /// what happens from now on). The stream takes up a lost connection where it broke and ends after a terminal state.
    pub fn watch(&self, task: Uuid, after: Option<i64>) -> impl Stream<Item = Result<TaskEvent, ClientError>> + use<> {
        sse::watch(self.clone(), task, after)
    }

    /// Opens the event stream once.
    async fn open_events(&self, task: Uuid, after: Option<i64>) -> Result<Response, ClientError> {
        let mut request = self
            .request_without_timeout(Method::GET, &["v1", "tasks", &task.to_string(), "events"])
            .header("Accept", "text/event-stream");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let response = request.send().await.map_err(|error| self.failed(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let answer = self.collect(response).await?;
        Err(answer.refusal())
    }

    /// For each step that has not ended well, why.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn explain(&self, task: Uuid) -> Result<Explanation, ClientError> {
        self.send(self.get(&["v1", "tasks", &task.to_string(), "explain"])).await
    }

    /// What live workers have registered, in all namespaces or in one.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn handlers(&self, namespace: Option<&str>) -> Result<HandlerList, ClientError> {
        let path: Vec<&str> = ["v1", "handlers"].into_iter().chain(namespace).collect();
        self.send(self.get(&path)).await
    }

    /// The steps of the task.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn steps(&self, task: Uuid) -> Result<Vec<StepResponse>, ClientError> {
        self.send(self.get(&["v1", "tasks", &task.to_string(), "workflow_steps"])).await
    }

    /// One step of the task.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn step(&self, task: Uuid, step: Uuid) -> Result<StepResponse, ClientError> {
        self.send(self.get(&["v1", "tasks", &task.to_string(), "workflow_steps", &step.to_string()])).await
    }

    /// Resets, resolves or completes the step by hand; answers with the step after that.
    ///
    /// # Errors
    /// Every [`ClientError`]; [`ClientError::Api`] with status 409 where the step's state does not admit it, which is
    /// also what a repetition of an action that took effect meets.
    pub async fn act_on_step(&self, task: Uuid, step: Uuid, action: &StepAction) -> Result<StepResponse, ClientError> {
        let path = ["v1", "tasks", &task.to_string(), "workflow_steps", &step.to_string()];
        self.send(self.request(Method::PATCH, &path).json(action)).await
    }

    /// Resets or resolves many failed steps, or tells which: one page of them.
    ///
    /// # Errors
    /// Every [`ClientError`]. What was done before is done; the same request goes on with the rest.
    pub async fn repair(&self, request: &BulkRepair) -> Result<BulkRepairReport, ClientError> {
        self.send(self.post(&["v1", "tasks", "repair"], request)).await
    }

    /// Every finished attempt of the step.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn step_audit(&self, task: Uuid, step: Uuid) -> Result<Vec<StepAudit>, ClientError> {
        let path = ["v1", "tasks", &task.to_string(), "workflow_steps", &step.to_string(), "audit"];
        self.send(self.get(&path)).await
    }

    /// Every transition of the task so far, read page by page.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn history(&self, task: Uuid) -> Result<Vec<HistoryEntry>, ClientError> {
        let mut entries = Vec::new();
        let mut query = HistoryQuery::default();
        loop {
            let request = self.get(&["v1", "tasks", &task.to_string(), "history"]).query(&query);
            let page: History = self.send(request).await?;
            entries.extend(page.entries);
            match page.next_after {
                Some(after) => query.after = Some(after),
                None => return Ok(entries),
            }
        }
    }

    /// The task's graph as text in this format.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn graph(&self, task: Uuid, format: GraphFormat) -> Result<String, ClientError> {
        let request = self.get(&["v1", "tasks", &task.to_string(), "graph"]).query(&GraphQuery { format });
        let answer = self.answer(request).await?;
        String::from_utf8(answer.body)
            .map_err(|error| ClientError::Decode { what: answer.path, cause: error.to_string() })
    }

    /// One page of registered templates.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn list_templates(&self, query: &TemplateListQuery) -> Result<TemplateList, ClientError> {
        self.send(self.get(&["v1", "templates"]).query(query)).await
    }

    /// A registered template with its content.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn get_template(
        &self,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Result<TemplateDetail, ClientError> {
        self.send(self.get(&["v1", "templates", namespace, name, version])).await
    }

    /// Registers a template; doing so again with the same content changes nothing.
    ///
    /// # Errors
    /// Every [`ClientError`]; [`ClientError::Api`] with status 409 where the version exists with another content, and
    /// 422 with every problem of the document.
    pub async fn register_template(&self, request: &RegisterRequest) -> Result<RegisterResponse, ClientError> {
        self.send(self.post(&["v1", "templates"], request)).await
    }

    /// Says that a version should not be used any more: no new task takes it unless it names it.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn deprecate_template(
        &self,
        (namespace, name, version): (&str, &str, &str),
        request: &DeprecateRequest,
    ) -> Result<TemplateSummary, ClientError> {
        self.send(self.post(&["v1", "templates", namespace, name, version, "deprecate"], request)).await
    }

    /// Takes a deprecation back.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn undeprecate_template(
        &self,
        (namespace, name, version): (&str, &str, &str),
    ) -> Result<TemplateSummary, ClientError> {
        let path = ["v1", "templates", namespace, name, version, "deprecate"];
        self.send(self.request(Method::DELETE, &path)).await
    }

    /// How the server is; an unhealthy server's answer is an answer, not an error.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.health_at(&["health"]).await
    }

    /// How each part of the server is.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn detailed_health(&self) -> Result<DetailedHealth, ClientError> {
        self.health_at(&["health", "detailed"]).await
    }

    async fn health_at<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ClientError> {
        let response = self.get(path).send().await.map_err(|error| self.failed(error))?;
        let answer = self.collect(response).await?;
        let answered = answer.status.is_success() || answer.status == StatusCode::SERVICE_UNAVAILABLE;
        if answered { answer.read() } else { Err(answer.refusal()) }
    }

    fn get(&self, path: &[&str]) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    fn post<T: Serialize + ?Sized>(&self, path: &[&str], body: &T) -> RequestBuilder {
        self.request(Method::POST, path).json(body)
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request_without_timeout(method, path).timeout(REQUEST_TIMEOUT)
    }

    fn request_without_timeout(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(path);
        self.http.request(method, url)
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        self.answer(request).await?.read()
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Answer, ClientError> {
        let response = request.send().await.map_err(|error| self.failed(error))?;
        let answer = self.collect(response).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.refusal()) }
    }

    async fn collect(&self, response: Response) -> Result<Answer, ClientError> {
        let status = response.status();
        let path = response.url().path().to_owned();
        let seconds = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds).map(Duration::from_secs);
        let body = response.bytes().await.map_err(|error| self.failed(error))?.to_vec();
        Ok(Answer { status, retry_after, body, path })
    }

    fn failed(&self, error: reqwest::Error) -> ClientError {
        ClientError::transport(self.address(), error)
    }
}

impl Answer {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| ClientError::Decode { what: self.path.clone(), cause: error.to_string() })
    }

    fn refusal(&self) -> ClientError {
        ClientError::refusal(self.status.as_u16(), self.retry_after, &self.body)
    }
}
