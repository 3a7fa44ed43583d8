//! `/v1/tasks`: create, look, list, cancel, wait.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tasker_client::types::{ListQuery, Pagination, TaskList, TaskRequest, TaskResponse, TaskState, WaitQuery};
use tasker_lifecycle::{Refused, TaskId};
use tasker_shared::store::queries::{self, Filter, Walk};
use uuid::Uuid;

use super::error::ApiError;
use super::input::{self, Params, task_id};
use super::view::{self, TaskView};
use super::{Api, Refusals};
use crate::errors::{CommandError, Violation};
use crate::submit::bad_key;

const LIMIT: u32 = 20;
const LIMIT_MAX: u32 = 100;
/// Tasks looked at for one page of a filtered list, so that a rare match can't make it a scan of everything.
const WALK_MAX: i64 = 2_000;
/// How deep numbered pages reach; cursors reach further.
const DEPTH_MAX: u32 = 10_000;
/// The longest wait, below what proxies usually allow.
const WAIT_MAX: Duration = Duration::from_secs(30);

#[utoipa::path(post, path = "/v1/tasks", tag = "tasks", request_body = TaskRequest, responses(
    (status = 201, description = "The task was created.", body = TaskResponse,
        headers(("Location" = String, description = "The path of the task."))),
    (status = 200, description = "The task that the same request with the same idempotency key created.", body = TaskResponse),
    Refusals))]
/// Creates a task.
pub(super) async fn create(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let (status, view, warnings) = accepted(&api, input::json(&headers, &body)?).await?;
    let location = format!("/v1/tasks/{}", view.record.task.id());
    let answer = TaskResponse { warnings, ..view.response() };
    let mut response = (status, Json(answer)).into_response();
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&location).expect("a uuid is printable"));
    Ok(response)
}

/// The task that the request made, or that it found, and what the requester should know.
pub(super) async fn accepted(api: &Api, request: TaskRequest) -> Result<(StatusCode, TaskView, Vec<String>), ApiError> {
    if let Some(offence) = request.idempotency_key.as_deref().and_then(bad_key) {
        return Err(ApiError::bad_request("INVALID_IDEMPOTENCY_KEY", format!("the idempotency key {offence}")));
    }
    let mut accepted = api.engine.accept(request).await?;
    let warnings = std::mem::take(&mut accepted.warnings);
    if accepted.created.existed {
        return Ok((StatusCode::OK, api.task(accepted.created.task).await?, warnings));
    }
    Ok((StatusCode::CREATED, TaskView::of_new(accepted), warnings))
}

#[utoipa::path(get, path = "/v1/tasks/{uuid}", tag = "tasks", params(("uuid" = Uuid, Path, description = "The task.")),
    responses((status = 200, description = "The task with its steps.", body = TaskResponse), Refusals))]
/// A task as it is now.
pub(super) async fn get(State(api): State<Api>, Path(uuid): Path<String>) -> Result<Json<TaskResponse>, ApiError> {
    Ok(Json(api.answer(task_id(&uuid)?).await?))
}

/// Query of `DELETE /v1/tasks/{uuid}`; stored in the task's history.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CancelQuery {
    /// Who cancels.
    cancelled_by: Option<String>,
    /// Why.
    reason: Option<String>,
}

#[utoipa::path(delete, path = "/v1/tasks/{uuid}", tag = "tasks",
    params(("uuid" = Uuid, Path, description = "The task."), CancelQuery),
    responses((status = 200, description = "The task is cancelled, now or before.", body = TaskResponse), Refusals))]
/// Cancels a task: no step of it is claimed any more.
pub(super) async fn cancel(
    State(api): State<Api>,
    Path(uuid): Path<String>,
    Params(query): Params<CancelQuery>,
) -> Result<Json<TaskResponse>, ApiError> {
    let task = task_id(&uuid)?;
    match api.engine.cancel(task, query.cancelled_by, query.reason).await {
        Ok(_changed) => Ok(Json(api.task(task).await?.response())),
        // What became no task has ended as one in error.
        Err(CommandError::NotFound) if api.refused(task).await?.is_some() => {
            Err(Refused::AlreadyEnded(TaskState::Error).into())
        }
        Err(error) => Err(error.into()),
    }
}

#[utoipa::path(get, path = "/v1/tasks/{uuid}/wait", tag = "tasks",
    params(("uuid" = Uuid, Path, description = "The task."), WaitQuery),
    responses((status = 200, description = "The task has ended or is blocked by failures.", body = TaskResponse),
        (status = 202, description = "The time is over; the task goes on.", body = TaskResponse), Refusals))]
/// Waits until the task has ended or is blocked.
pub(super) async fn wait(
    State(api): State<Api>,
    Path(uuid): Path<String>,
    Params(query): Params<WaitQuery>,
) -> Result<Response, ApiError> {
    let task = task_id(&uuid)?;
    // Some time is left for the answer itself.
    let longest = WAIT_MAX.min(Duration::from_millis(api.engine.config().web.request_timeout_ms) * 4 / 5);
    let limit = query.timeout_ms.map_or(longest, |ms| Duration::from_millis(ms).min(longest));
    let over = tokio::time::sleep(limit);
    tokio::pin!(over);
    let mut watcher = api.engine.watch().subscribe(task);
    watcher.ask();
    loop {
        let told = match watcher.ended() {
            Some(_) => Some(api.ended(task).await?.response()),
            None if watcher.is_missing() => Some(api.answer(task).await?),
            None => None,
        };
        // Otherwise another server has made it, or moved it on, since it was looked at; the watcher will be told.
        if let Some(answer) = told.filter(|answer| answer.status.rests()) {
            return Ok(Json(answer).into_response());
        }
        tokio::select! {
            () = watcher.changed() => {}
            () = &mut over => break,
            () = api.shutdown.cancelled() => break,
        }
    }
    let answer = api.answer(task).await?;
    let status = if answer.status.rests() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(answer)).into_response())
}

#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", params(ListQuery),
    responses((status = 200, description = "One page of tasks, newest first. With filters a page may hold fewer tasks than its limit and have a next one all the same.", body = TaskList), Refusals))]
/// Lists tasks.
pub(super) async fn list(State(api): State<Api>, Params(query): Params<ListQuery>) -> Result<Json<TaskList>, ApiError> {
    let page = Page::of(&query)?;
    let (walk, filter) = (walk_of(&query), filter_of(query));
    let (walk, narrow) = walk;
    let wanted = i64::from(page.skip + page.limit) + 1;
    let look_at = if narrow { wanted.max(WALK_MAX) } else { wanted };
    let mut conn = api.engine.pool().acquire().await?;
    let ids = queries::walk(&mut conn, &walk, page.before, page.floor, look_at).await?;
    let limit = i64::from(page.limit) + 1;
    let mut found = queries::summaries(&mut conn, &ids, &filter, i64::from(page.skip), limit).await?;
    drop(conn);
    let full = found.len() > page.limit as usize;
    found.truncate(page.limit as usize);
    let cut_off = i64::try_from(ids.len()).is_ok_and(|looked_at| looked_at >= look_at);
    // A page that is not full goes on below the last task that was looked at.
    let last = if full { found.last().map(|task| task.id.uuid()) } else { ids.last().copied().filter(|_| cut_off) };
    let has_next = last.is_some();
    let next_cursor = last.filter(|_| page.number.is_none()).map(|last| last.simple().to_string());
    let pagination = Pagination { limit: page.limit, next_cursor, has_next, page: page.number };
    Ok(Json(TaskList { tasks: found.into_iter().map(view::summary).collect(), pagination }))
}

/// Which part of the list is asked for.
#[derive(Debug)]
struct Page {
    before: Uuid,
    floor: Uuid,
    skip: u32,
    limit: u32,
    number: Option<u32>,
}

impl Page {
    fn of(query: &ListQuery) -> Result<Self, ApiError> {
        let mut wrong = Vec::new();
        let mut add = |path: &str, message: &str| {
            wrong.push(Violation { path: path.to_owned(), message: message.to_owned() });
        };
        for (path, size) in [("/limit", query.limit), ("/per_page", query.per_page)] {
            if size.is_some_and(|size| !(1..=LIMIT_MAX).contains(&size)) {
                add(path, "must be between 1 and 100");
            }
        }
        let numbered = query.page.is_some() || query.per_page.is_some();
        if numbered && (query.cursor.is_some() || query.limit.is_some()) {
            add("/page", "numbered pages take no `cursor` and no `limit`");
        }
        let limit = query.limit.or(query.per_page).unwrap_or(LIMIT);
        let number = numbered.then(|| query.page.unwrap_or(1));
        if number == Some(0) {
            add("/page", "pages are counted from 1");
        }
        let skip = number.unwrap_or(1).saturating_sub(1).saturating_mul(limit);
        if skip > DEPTH_MAX {
            add("/page", "numbered pages end after 10,000 tasks; use `cursor`");
        }
        if !wrong.is_empty() {
            return Err(ApiError::invalid(&wrong));
        }
        let mut before = query.created_before.map_or(Uuid::max(), |at| id_at(at.timestamp_millis()));
        if let Some(cursor) = &query.cursor {
            before = before.min(read_cursor(cursor)?);
        }
        let floor = query.created_after.map_or(Uuid::nil(), |at| id_at(at.timestamp_millis().saturating_add(1)));
        Ok(Self { before, floor, skip, limit, number })
    }
}

/// The lowest id of a task created at this millisecond.
pub(super) fn id_at(unix_ms: i64) -> Uuid {
    let ms = u128::try_from(unix_ms).unwrap_or(0).min((1 << 48) - 1);
    Uuid::from_u128(ms << 80)
}

fn read_cursor(cursor: &str) -> Result<Uuid, ApiError> {
    let id = Uuid::parse_str(cursor).ok().filter(|id| TaskId::try_from(*id).is_ok() && cursor.len() == 32);
    id.ok_or_else(|| ApiError::bad_request("INVALID_CURSOR", "the cursor is none that a list has given"))
}

/// The narrowest walk there is an index for, and whether the filter leaves anything out of it.
fn walk_of(query: &ListQuery) -> (Walk, bool) {
    let others = query.initiator.is_some() || query.source_system.is_some() || query.tag.is_some();
    if let Some(correlation) = query.correlation_id {
        let narrow = others || query.namespace.is_some() || query.name.is_some() || query.status.is_some();
        return (Walk::Correlated(correlation), narrow);
    }
    if let (Some(namespace), Some(name)) = (query.namespace.clone(), query.name.clone()) {
        return (Walk::Named { namespace, name }, others || query.status.is_some());
    }
    let narrow = others || query.namespace.is_some() || query.name.is_some() || query.status.is_some();
    let live = query.status.is_some_and(|status| !status.is_terminal());
    (if live { Walk::Live } else { Walk::All }, narrow)
}

fn filter_of(query: ListQuery) -> Filter {
    Filter {
        namespace: query.namespace,
        name: query.name,
        state: query.status,
        initiator: query.initiator,
        source_system: query.source_system,
        tag: query.tag,
        correlation_id: query.correlation_id,
    }
}
