//! What happened to a task: as a list, as a stream of events, and as a picture of where it stands.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use tasker_client::graph::{Graph, GraphQuery};
use tasker_client::types::{History, HistoryEntry, HistoryQuery, StepTransition, TaskEvent};
use tasker_lifecycle::{Cause, StepIndex, StepState, TaskId, passing_states};
use tasker_shared::store::queries::{self, HistoryRow};

use super::error::ApiError;
use super::guard::Place;
use super::input::{Params, task_id};
use super::names::StepNames;
use super::{Api, Refusals};
use crate::errors::Violation;
use crate::watch::Watcher;

const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;
/// Entries read at a time for a stream.
const STREAM_PAGE: i64 = 200;
/// Clients take a minute of silence for a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[utoipa::path(get, path = "/v1/tasks/{uuid}/history", tag = "tasks",
    params(("uuid" = Uuid, Path, description = "The task."), HistoryQuery),
    responses((status = 200, description = "What every commit changed, in order.", body = History), Refusals))]
/// Every transition of a task.
pub(super) async fn history(
    State(api): State<Api>,
    Path(uuid): Path<String>,
    Params(query): Params<HistoryQuery>,
) -> Result<Json<History>, ApiError> {
    let task = task_id(&uuid)?;
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let message = "must be between 1 and 1000".to_owned();
        return Err(ApiError::invalid(&[Violation { path: "/limit".to_owned(), message }]));
    }
    let after = i32::try_from(query.after.unwrap_or(0).max(0)).unwrap_or(i32::MAX);
    let names = api.names_of(task).await?;
    let mut conn = api.engine.pool().acquire().await?;
    let mut rows = queries::history(&mut conn, task, after, i64::from(limit) + 1).await?;
    drop(conn);
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next_after = rows.last().filter(|_| more).map(|row| i64::from(row.seq));
    let entries = rows.into_iter().map(|row| entry(&names, row)).collect();
    Ok(Json(History { task_uuid: task.uuid(), entries, next_after }))
}

/// A history row with names instead of positions and letters.
fn entry(names: &StepNames, row: HistoryRow) -> HistoryEntry {
    let moved = row.from != row.to;
    HistoryEntry {
        seq: i64::from(row.seq),
        at: row.at,
        processor: row.processor,
        task_from: moved.then_some(row.from),
        task_to: moved.then_some(row.to),
        passed: cause(&row.cause).map(|cause| passing_states(cause).to_vec()).unwrap_or_default(),
        detail: row.detail.and_then(|detail| serde_json::from_str(&detail).ok()),
        transitions: row.changes.split_ascii_whitespace().filter_map(|change| transition(names, change)).collect(),
        cause: row.cause,
    }
}

fn cause(word: &str) -> Option<Cause> {
    serde_json::from_value(serde_json::Value::from(word)).ok()
}

/// Reads `step:FROM TO@attempts`, written without the space.
fn transition(names: &StepNames, change: &str) -> Option<StepTransition> {
    let (step, rest) = change.split_once(':')?;
    let (letters, attempt) = rest.split_once('@')?;
    let mut states = letters.chars().map(StepState::from_letter);
    let (from, to) = (states.next()?.ok()?, states.next()?.ok()?);
    let name = names.of(StepIndex(step.parse().ok()?))?.to_owned();
    Some(StepTransition {
        step: name,
        from: Some(from).filter(|from| from.exists()),
        to,
        attempt: attempt.parse().ok()?,
    })
}

/// Whether a row speaks of batch workers that were made after the names were read.
fn is_newer(names: &StepNames, row: &HistoryRow) -> bool {
    let step = |change: &str| change.split_once(':')?.0.parse().ok().map(StepIndex);
    row.changes.split_ascii_whitespace().filter_map(step).any(|step| names.of(step).is_none())
}

#[utoipa::path(get, path = "/v1/tasks/{uuid}/events", tag = "tasks",
    params(("uuid" = Uuid, Path, description = "The task."),
        ("Last-Event-ID" = Option<i64>, Header, description = "Begin after this entry; 0 for the whole history. What happens from now on if absent.")),
    responses((status = 200, description = "Server-sent events: each has an entry's `seq` as id and a TaskEvent as data. The stream ends after a terminal state.",
        body = TaskEvent, content_type = "text/event-stream"), Refusals))]
/// The transitions of a task as they happen.
pub(super) async fn events(
    State(api): State<Api>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
    place: Option<Extension<Place>>,
) -> Result<Response, ApiError> {
    let task = task_id(&uuid)?;
    let watcher = api.engine.watch().subscribe(task);
    let names = api.names_of(task).await?;
    let after = match headers.get("last-event-id") {
        None => api.progress(task).await?.0,
        Some(id) => id
            .to_str()
            .ok()
            .and_then(|id| id.parse::<i32>().ok())
            .filter(|id| *id >= 0)
            .ok_or_else(|| ApiError::bad_request("INVALID_EVENT_ID", "Last-Event-ID is not the id of an event"))?,
    };
    let place = place.map(|Extension(place)| place);
    let tail = Tail { api, task, names, watcher, after, ready: VecDeque::new(), ended: false, _place: place };
    Ok(Sse::new(tail.stream()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// One who follows a task.
struct Tail {
    api: Api,
    task: TaskId,
    names: StepNames,
    watcher: Watcher,
    after: i32,
    ready: VecDeque<TaskEvent>,
    ended: bool,
    _place: Option<Place>,
}

impl Tail {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, |mut tail| async move {
            let event = tail.next().await?;
            let id = event.entry.seq.to_string();
            let event = Event::default().id(id).json_data(&event).expect("strings and numbers always encode");
            Some((Ok(event), tail))
        })
    }

    /// The next event; none after the last one, when the server stops, or where the database is away: the client
    /// comes back with the id that it saw last.
    async fn next(&mut self) -> Option<TaskEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.ended = event.status.is_terminal() && self.ready.is_empty();
                return Some(event);
            }
            if self.ended || self.api.shutdown.is_cancelled() {
                return None;
            }
            self.read().await.ok()?;
            if !self.ready.is_empty() {
                continue;
            }
            // Asked after the read: whatever led to this state was read, or wakes the watcher.
            let (seq, state) = self.api.progress(self.task).await.ok()?;
            if state.is_terminal() && seq <= self.after {
                return None;
            }
            if seq > self.after {
                continue;
            }
            tokio::select! {
                () = self.watcher.changed() => {}
                () = self.api.shutdown.cancelled() => return None,
            }
        }
    }

    async fn read(&mut self) -> Result<(), ApiError> {
        let mut conn = self.api.engine.pool().acquire().await?;
        let rows = queries::history(&mut conn, self.task, self.after, STREAM_PAGE).await?;
        drop(conn);
        if rows.iter().any(|row| is_newer(&self.names, row)) {
            self.names = self.api.names_of(self.task).await?;
        }
        for row in rows {
            self.after = row.seq;
            let status = row.to;
            let entry = entry(&self.names, row);
            self.ready.push_back(TaskEvent { task_uuid: self.task.uuid(), status, entry });
        }
        Ok(())
    }
}

#[utoipa::path(get, path = "/v1/tasks/{uuid}/graph", tag = "tasks",
    params(("uuid" = Uuid, Path, description = "The task."), GraphQuery),
    responses((status = 200, description = "The steps with their states and what depends on what.",
        content((Graph = "application/json"), (String = "text/vnd.mermaid"), (String = "text/vnd.graphviz"), (String = "image/svg+xml"))),
        Refusals))]
/// The graph of a task with the states of its steps.
pub(super) async fn graph(
    State(api): State<Api>,
    Path(uuid): Path<String>,
    Params(query): Params<GraphQuery>,
) -> Result<Response, ApiError> {
    let graph = api.task(task_id(&uuid)?).await?.graph();
    Ok(([(CONTENT_TYPE, query.format.media_type())], graph.render(query.format)).into_response())
}
