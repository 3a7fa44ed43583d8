//! The client for other languages: one function, JSON in and JSON out. docs/boundary.md has its operations.
//!
//! What the arguments and answers are is what the HTTP API takes and gives; arguments are read strictly. Deliberately
//! absent: defaults, which packages show in the signatures of their methods.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::types::{BulkRequest, TaskResponse};
use crate::{Client, ClientError, Waited};

/// A client of one server for callers that have no runtime. Each call blocks the thread that makes it; any thread may,
/// several at once. It works in a process that was forked from the one it was made in, too.
#[derive(Debug)]
pub struct Calls {
    url: String,
    connected: Mutex<Option<Arc<Connected>>>,
}

/// A client with the threads that drive its connections.
#[derive(Debug)]
struct Connected {
    client: Client,
    /// Always there, until it is dropped.
    runtime: Option<Runtime>,
    process: u32,
}

/// What is to be done. Without arguments they are an empty object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    operation: String,
    arguments: Option<Box<RawValue>>,
}

/// Why there is no answer.
#[derive(Debug, Serialize)]
struct Refusal {
    code: String,
    message: String,
    /// Of the HTTP answer, where there was one.
    status: Option<u16>,
    /// Seconds.
    retry_after: Option<u64>,
    details: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfTask {
    task_uuid: Uuid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfStep {
    task_uuid: Uuid,
    step_uuid: Uuid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    task_uuid: Uuid,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What `wait_task` answers.
#[derive(Serialize)]
struct Seen {
    /// The task is terminal, or blocked by failures; false where the time ran out first.
    settled: bool,
    task: Box<TaskResponse>,
}

impl Calls {
    /// Calls to the server at this address. Nothing is connected yet, and a wrong address is told by the first call.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), connected: Mutex::default() }
    }

    /// `{"operation": …, "arguments": {…}}` is answered with `{"answer": …}` or `{"error": {code, message, status,
    /// retry_after, details}}`. The codes are the server's own, and `USAGE`, `UNREACHABLE`, `TIMEOUT`, `DECODE`,
    /// `PANICKED`.
    #[must_use]
    pub fn call(&self, message: &str) -> String {
        let answered = catch_unwind(AssertUnwindSafe(|| self.answer(message)));
        match answered.unwrap_or_else(|_| Err(Refusal::own("PANICKED", "the client panicked".to_owned()))) {
            Ok(answer) => format!("{{\"answer\":{answer}}}"),
            Err(refusal) => json!({ "error": refusal }).to_string(),
        }
    }

    fn answer(&self, message: &str) -> Result<Box<RawValue>, Refusal> {
        let Call { operation, arguments } = read(message)?;
        let connected = self.connected()?;
        let runtime = connected.runtime.as_ref().expect("it is there until it is dropped");
        let arguments = arguments.as_ref().map_or("{}", |arguments| arguments.get());
        runtime.block_on(answer(&connected.client, &operation, arguments))
    }

    fn connected(&self) -> Result<Arc<Connected>, Refusal> {
        let mut connected = self.connected.lock().expect("no panic while held");
        match &*connected {
            Some(connected) if connected.process == std::process::id() => Ok(Arc::clone(connected)),
            _ => Ok(Arc::clone(connected.insert(Arc::new(Connected::new(&self.url)?)))),
        }
    }
}

impl Connected {
    fn new(url: &str) -> Result<Self, Refusal> {
        let client = Client::new(url)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Refusal::own("USAGE", format!("no thread can be started: {error}")))?;
        Ok(Self { client, runtime: Some(runtime), process: std::process::id() })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.process == std::process::id() {
            runtime.shutdown_background();
        } else {
            // Its threads are in the process that this one was forked from: joining them would never end.
            std::mem::forget(runtime);
        }
    }
}

async fn answer(client: &Client, operation: &str, arguments: &str) -> Result<Box<RawValue>, Refusal> {
    match operation {
        "create_task" => said(&client.create_task(&read(arguments)?).await?),
        "create_tasks" => said(&client.create_tasks(read::<BulkRequest>(arguments)?.tasks).await?),
        "get_task" => said(&client.get_task(read::<OfTask>(arguments)?.task_uuid).await?),
        "list_tasks" => said(&client.list_tasks(&read(arguments)?).await?),
        "cancel_task" => said(&client.cancel_task(read::<OfTask>(arguments)?.task_uuid).await?),
        "wait_task" => {
            let Wait { task_uuid, timeout_ms } = read(arguments)?;
            said(&match client.wait(task_uuid, timeout_ms.map(Duration::from_millis)).await? {
                Waited::Settled(task) => Seen { settled: true, task },
                Waited::TimedOut(task) => Seen { settled: false, task },
            })
        }
        "list_task_steps" => said(&client.steps(read::<OfTask>(arguments)?.task_uuid).await?),
        "get_step" => {
            let OfStep { task_uuid, step_uuid } = read(arguments)?;
            said(&client.step(task_uuid, step_uuid).await?)
        }
        "get_step_audit_history" => {
            let OfStep { task_uuid, step_uuid } = read(arguments)?;
            said(&client.step_audit(task_uuid, step_uuid).await?)
        }
        "get_task_history" => said(&client.history(read::<OfTask>(arguments)?.task_uuid).await?),
        "explain" => said(&client.explain(read::<OfTask>(arguments)?.task_uuid).await?),
        "list_templates" => said(&client.list_templates(&read(arguments)?).await?),
        "health_check" => {
            let Nothing {} = read(arguments)?;
            said(&client.health().await?)
        }
        _ => Err(Refusal::own("USAGE", format!("there is no operation `{operation}`"))),
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|error| Refusal::own("USAGE", error.to_string()))
}

fn said(answer: &impl Serialize) -> Result<Box<RawValue>, Refusal> {
    Ok(to_raw_value(answer).expect("what was read from JSON encodes as JSON"))
}

impl Refusal {
    fn own(code: &str, message: String) -> Self {
        Self { code: code.to_owned(), message, status: None, retry_after: None, details: json!({}) }
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api { status, body, retry_after } => {
                let (status, retry_after) = (Some(status), retry_after.map(|after| after.as_secs()));
                let detail = body.error;
                Self { code: detail.code, message: detail.message, status, retry_after, details: detail.details }
            }
            ClientError::Address { .. } => Self::own("USAGE", error.to_string()),
            ClientError::Unreachable { .. } => Self::own("UNREACHABLE", error.to_string()),
            ClientError::Timeout { .. } => Self::own("TIMEOUT", error.to_string()),
            ClientError::Decode { .. } => Self::own("DECODE", error.to_string()),
        }
    }
}
