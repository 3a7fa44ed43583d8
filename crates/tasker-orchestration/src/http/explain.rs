//! Why steps do not run, and which handlers live workers have.

use std::collections::{BTreeSet, HashMap};

use axum::Json;
use axum::extract::{Path, State};
use sqlx::PgConnection;
use tasker_client::types::{Explanation, HandlerInfo, HandlerList};
use tasker_lifecycle::{Holder, StepIndex, StepState, Timestamp};
use tasker_shared::messages::ticket_queue;
use tasker_shared::store::queries::{self, TaskRecord};
use tasker_shared::store::{StoreError, resources, to_sql, workers};

use super::error::ApiError;
use super::input::task_id;
use super::names::StepNames;
use super::{Api, Refusals};
use crate::explain::{Facts, explain, parts};

/// Handlers in one answer.
const HANDLERS_MAX: i64 = 10_000;

#[utoipa::path(get, path = "/v1/tasks/{uuid}/explain", tag = "tasks",
    params(("uuid" = Uuid, Path, description = "The task.")),
    responses((status = 200, description = "For each step that has not ended well, why.", body = Explanation), Refusals))]
/// Why the steps of a task do not run.
pub(super) async fn task(State(api): State<Api>, Path(uuid): Path<String>) -> Result<Json<Explanation>, ApiError> {
    let id = task_id(&uuid)?;
    let mut conn = api.engine.pool().acquire().await?;
    let record = queries::task(&mut conn, id, api.engine.templates()).await?;
    let record = record.ok_or_else(|| ApiError::not_found("task"))?;
    let facts = facts(&mut conn, &record, api.engine.parts.now()).await?;
    Ok(Json(explain(&record.task, &facts)))
}

/// A number of queries that does not depend on the task.
async fn facts(conn: &mut PgConnection, record: &TaskRecord, now: Timestamp) -> Result<Facts, StoreError> {
    let (task, template) = (&record.task, record.task.template());
    let tickets = queries::ticket_facts(conn, record).await?.into_iter().collect();
    let mut queues = HashMap::new();
    for (step, live) in task.held() {
        if matches!(live.holder, Holder::Ticket(_)) {
            let pool = template.step(task.pattern(step)).pool.as_str();
            queues.insert(step, ticket_queue(template.namespace.as_str(), pool, record.priority)?.to_string());
        }
    }
    let pairs_of = |(step, queue): (&StepIndex, &String)| {
        let (handler, queue) = (&template.step(task.pattern(*step)).handler, queue.clone());
        parts(handler).chain([handler.to_string()]).map(move |name| (queue.clone(), name))
    };
    let pairs: BTreeSet<(String, String)> = queues.iter().flat_map(pairs_of).collect();
    let pairs: Vec<_> = pairs.into_iter().collect();
    let able = if pairs.is_empty() { Vec::new() } else { workers::able(conn, &pairs).await? };
    let states = task.steps().iter().enumerate();
    let failed = states.filter(|(_, state)| matches!(state, StepState::Error | StepState::WaitingForRetry));
    let failed: Vec<StepIndex> = failed.map(|(at, _)| StepIndex::from(at)).collect();
    let failures = if failed.is_empty() { Vec::new() } else { queries::failures(conn, task.id(), &failed).await? };
    let holds = task.count(StepState::Held) > 0;
    let gates = if holds { resources::list(conn, Some(template.namespace.as_str()), None).await? } else { Vec::new() };
    Ok(Facts {
        resources: gates.into_iter().map(|known| (known.key.name, known.gate)).collect(),
        now: to_sql(now),
        tickets,
        queues,
        able: pairs.into_iter().zip(able).collect(),
        failures: failures.into_iter().map(|failed| (failed.step, failed)).collect(),
        names: StepNames::new(task, &queries::batch_ids(conn, task).await?).made(),
    })
}

#[utoipa::path(get, path = "/v1/handlers", tag = "system",
    responses((status = 200, description = "What live workers have registered.", body = HandlerList), Refusals))]
/// Every handler that a live worker has.
pub(super) async fn handlers(State(api): State<Api>) -> Result<Json<HandlerList>, ApiError> {
    known(&api, None, None).await
}

#[utoipa::path(get, path = "/v1/handlers/{namespace}", tag = "system",
    params(("namespace" = String, Path, description = "The namespace.")),
    responses((status = 200, description = "What live workers of this namespace have registered.", body = HandlerList),
        Refusals))]
/// The handlers of live workers that claim from a namespace.
pub(super) async fn handlers_of(
    State(api): State<Api>,
    Path(namespace): Path<String>,
) -> Result<Json<HandlerList>, ApiError> {
    known(&api, Some(&namespace), None).await
}

#[utoipa::path(get, path = "/v1/handlers/{namespace}/{name}", tag = "system",
    params(("namespace" = String, Path, description = "The namespace."), ("name" = String, Path, description = "The handler.")),
    responses((status = 200, description = "The live workers of this namespace that have the handler; 404 where none has.",
        body = HandlerList), Refusals))]
/// One handler.
pub(super) async fn handler(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<HandlerList>, ApiError> {
    let found = known(&api, Some(&namespace), Some(&name)).await?;
    if found.handlers.is_empty() { Err(ApiError::not_found("handler among live workers")) } else { Ok(found) }
}

async fn known(api: &Api, namespace: Option<&str>, name: Option<&str>) -> Result<Json<HandlerList>, ApiError> {
    if [namespace, name].into_iter().flatten().any(|text| text.contains('\0')) {
        return Err(ApiError::not_found("handler"));
    }
    let mut conn = api.engine.pool().acquire().await?;
    let found = workers::handlers(&mut conn, namespace, name, HANDLERS_MAX).await?;
    let info = |handler: workers::KnownHandler| HandlerInfo {
        namespace: handler.namespace,
        name: handler.name,
        workers: handler.workers,
        last_seen: handler.last_seen,
    };
    Ok(Json(HandlerList { handlers: found.into_iter().map(info).collect() }))
}
