//! Requests that SQL users sent with `tasker.submit_task`, out of their queue: the source of `TaskRequestActor`.
//!
//! Nobody waits for an answer here. What is refused is kept under the id that the sender has, in the transaction that
//! takes its message; a message that is delivered again finds its id judged.

use std::collections::HashSet;

use pgmq_notify::QueueName;
use serde::Deserialize;
use serde_json::value::RawValue;
use tasker_client::types::TaskRequest;
use tasker_lifecycle::TaskId;
use tasker_shared::json_schema::Violation;
use tasker_shared::messages::{SubmittedBody, TASK_REQUESTS};
use tasker_shared::store::StoreError;
use tasker_shared::store::refusals::Refusal;

use crate::actor::Handled;
use crate::errors::CreateError;
use crate::requests::{Created, Inserted, Request, Submission, TaskRequests};
use crate::session::Session;
use crate::submit::bad_key;

impl TaskRequests {
    /// Takes up to `max` messages: each becomes a task, a refusal, or a dead letter where it names no id.
    pub(crate) async fn take_submitted(
        &self,
        conn: &mut impl Session,
        max: usize,
    ) -> Result<Handled<Inserted>, StoreError> {
        let (taken, bodies) = take(conn, max).await?;
        let (mut requests, mut refused) = (Vec::new(), Vec::new());
        for SubmittedBody { task_uuid, request } in &bodies {
            match self.judge(conn, request).await? {
                Ok(submission) => requests.push(Request { id: *task_uuid, submission }),
                Err(error) => refused.push(refusal(*task_uuid, request, &error)),
            }
        }
        let mut inserted = self.insert(conn, &requests, false).await?;
        for (request, answer) in requests.iter().zip(&inserted.answers) {
            let error = match answer {
                Ok(Created { existed: false, .. }) => continue,
                // The sender has another id in hand: under it he learns which task it is.
                Ok(Created { task, .. }) => &CreateError::Duplicate { task: *task },
                Err(error) => error,
            };
            let body = bodies.iter().find(|body| body.task_uuid == request.id).expect("every request has its message");
            refused.push(refusal(request.id, &body.request, error));
        }
        conn.refuse(&refused).await?;
        for refusal in &refused {
            tracing::info!(task = %refusal.task, code = refusal.code, "a submitted request is refused");
        }
        inserted.submitted = requests;
        Ok(Handled { after: inserted, taken, next: None })
    }

    /// The next message alone makes its transaction fail for good: it is refused unread.
    pub(crate) async fn refuse_next(&self, conn: &mut impl Session, error: &StoreError) -> Result<(), StoreError> {
        let (_, bodies) = take(conn, 1).await?;
        for SubmittedBody { task_uuid, request } in &bodies {
            tracing::error!(task = %task_uuid, %error, "a submitted request can't be stored");
            let refusal = refusal(*task_uuid, request, &CreateError::NotStorable);
            conn.refuse(&[refusal]).await?;
        }
        Ok(())
    }

    /// What the request asks for, checked as one over HTTP is.
    async fn judge(
        &self,
        conn: &mut impl Session,
        request: &RawValue,
    ) -> Result<Result<Submission, CreateError>, StoreError> {
        let invalid = |path: &str, message: String| {
            Ok(Err(CreateError::Invalid(vec![Violation { path: path.to_owned(), message }])))
        };
        let request: TaskRequest = match serde_json::from_str(request.get()) {
            Ok(request) => request,
            Err(error) => return invalid("", error.to_string()),
        };
        if let Some(offence) = request.idempotency_key.as_deref().and_then(bad_key) {
            return invalid("/idempotency_key", offence.to_owned());
        }
        if let Err(error) = self.parts.check(&request) {
            return Ok(Err(error));
        }
        let template = match self.parts.template(conn, &request).await? {
            Ok(named) => named.template,
            Err(error) => return Ok(Err(error)),
        };
        Ok(self.parts.submission(&template, request).map(|(submission, _nobody_waits)| submission))
    }
}

/// Takes messages out of the queue; answers how many there were, and the bodies of those that are still to be judged.
async fn take(conn: &mut impl Session, max: usize) -> Result<(usize, Vec<SubmittedBody>), StoreError> {
    let queue = QueueName::new(TASK_REQUESTS).expect("a valid queue name");
    let messages = conn.pop(&queue, u32::try_from(max).unwrap_or(u32::MAX)).await?;
    let mut bodies = Vec::with_capacity(messages.len());
    let mut seen = HashSet::with_capacity(messages.len());
    for message in &messages {
        match serde_json::from_str::<SubmittedBody>(&message.body) {
            Ok(body) if seen.insert(body.task_uuid) => bodies.push(body),
            Ok(_delivered_twice) => {}
            Err(error) => {
                tracing::warn!(msg_id = message.msg_id, %error, "a message is no request for a task and is filed away");
                let reason = format!("no request for a task: {error}");
                conn.file_message(TASK_REQUESTS, message.msg_id, &message.body, &reason).await?;
            }
        }
    }
    if !bodies.is_empty() {
        let ids: Vec<TaskId> = bodies.iter().map(|body| body.task_uuid).collect();
        let judged: HashSet<TaskId> = conn.judged(&ids).await?.into_iter().collect();
        bodies.retain(|body| !judged.contains(&body.task_uuid));
    }
    Ok((messages.len(), bodies))
}

/// The template that is asked for, of whatever type the answers are.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    namespace: serde_json::Value,
    name: serde_json::Value,
    version: serde_json::Value,
}

/// A refusal of what may not even be a request.
fn refusal(task: TaskId, request: &RawValue, error: &CreateError) -> Refusal {
    let asked: Asked = serde_json::from_str(request.get()).unwrap_or_default();
    let text = |value: serde_json::Value| value.as_str().map(str::to_owned);
    Refusal {
        task,
        namespace: text(asked.namespace).unwrap_or_default(),
        name: text(asked.name).unwrap_or_default(),
        version: text(asked.version),
        code: error.code().to_owned(),
        message: error.to_string(),
        details: error.details(),
        request: request.to_owned(),
    }
}
