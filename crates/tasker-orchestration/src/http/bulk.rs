//! `POST /v1/tasks/bulk`: many tasks in one request, each created or refused on its own.
//!
//! They go the way of single requests, side by side, so that the actor takes them in batches and they share commits.

use std::collections::HashMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use futures::{StreamExt, stream};
use serde::Deserialize;
use tasker_client::types::{BulkRequest, BulkResponse, BulkResult, RawJson, TaskRequest, TaskSummary};

use super::error::ApiError;
use super::guard::RequestId;
use super::{Api, Refusals, input, tasks};
use crate::errors::Violation;

/// More belong into several requests: one should not hold its place for long.
const TASKS_MAX: usize = 1_000;

/// The body, its tasks unread: one that can't be read must not spoil the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    tasks: Vec<RawJson>,
}

#[utoipa::path(post, path = "/v1/tasks/bulk", tag = "tasks", request_body = BulkRequest, responses(
    (status = 207, description = "One entry for each request, in their order.", body = BulkResponse), Refusals))]
/// Creates up to 1,000 tasks, each on its own.
pub(super) async fn create(
    State(api): State<Api>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<BulkResponse>), ApiError> {
    let Body { tasks } = input::json(&headers, &body)?;
    if tasks.len() > TASKS_MAX {
        let message = format!("has {} entries, at most {TASKS_MAX} are taken at once", tasks.len());
        return Err(ApiError::invalid(&[Violation { path: "/tasks".to_owned(), message }]));
    }
    // No more at once than one transaction takes: the inbox is there for others too.
    let at_once = api.engine.config().actor.request_batch_max;
    let chains = stream::iter(chains(&tasks)).map(|chain| in_turn(&api, chain)).buffer_unordered(at_once);
    let mut answers: Vec<_> = chains.flat_map(stream::iter).collect().await;
    answers.sort_unstable_by_key(|(index, _)| *index);
    let results = answers.into_iter().map(|(index, answer)| result(index, answer, &id)).collect();
    Ok((StatusCode::MULTI_STATUS, Json(BulkResponse { results })))
}

/// A request with its position, or why it can't be read.
type Entry = (usize, Result<TaskRequest, ApiError>);
type Answer = (usize, Result<Created, ApiError>);
/// A task with what its requester should know.
type Created = (StatusCode, TaskSummary, Vec<String>);

/// Requests with the same idempotency key form a chain, so that the first of them is the one that creates the task.
fn chains(tasks: &[RawJson]) -> Vec<Vec<Entry>> {
    let mut chains: Vec<Vec<Entry>> = Vec::with_capacity(tasks.len());
    let mut by_key = HashMap::new();
    for (index, task) in tasks.iter().enumerate() {
        let request: Result<TaskRequest, ApiError> = input::value(task.get());
        let key = request.as_ref().ok().and_then(|r| Some((r.namespace.clone(), r.idempotency_key.clone()?)));
        let at = key.map_or(chains.len(), |key| *by_key.entry(key).or_insert(chains.len()));
        if at == chains.len() {
            chains.push(Vec::new());
        }
        chains[at].push((index, request));
    }
    chains
}

async fn in_turn(api: &Api, chain: Vec<Entry>) -> Vec<Answer> {
    let mut answers = Vec::with_capacity(chain.len());
    for (index, request) in chain {
        let answer = match request {
            Ok(request) => one(api, request).await,
            Err(error) => Err(error),
        };
        answers.push((index, answer));
    }
    answers
}

async fn one(api: &Api, request: TaskRequest) -> Result<Created, ApiError> {
    let (status, view, warnings) = tasks::accepted(api, request).await?;
    Ok((status, view.summary(), warnings))
}

fn result(index: usize, answer: Result<Created, ApiError>, request_id: &str) -> BulkResult {
    let index = u32::try_from(index).expect("at most a thousand");
    let (status, task, warnings, error) = match answer {
        Ok((status, task, warnings)) => (status, Some(task), warnings, None),
        Err(error) => (error.status(), None, Vec::new(), Some(error.detail(request_id))),
    };
    BulkResult { index, status: status.as_u16(), task, warnings, error }
}
