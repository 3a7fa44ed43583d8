//! `/v1/dlq`: the ledger of what was given up, and what people found out about it. Nothing here moves a step.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use serde_json::json;
use serde_json::value::RawValue;
use tasker_client::types::{
    DlqEntry, DlqFigures, DlqFiling, DlqList, DlqQuery, DlqStats, DlqUpdate, Investigation, InvestigationQuery,
    InvestigationQueue, Pagination, ResolutionStatus, StaleTask, StalenessReport,
};
use tasker_lifecycle::{StepIndex, TaskId};
use tasker_shared::store::ledger::{self, Before, Entry, Filed, Urgent};
use tasker_shared::store::staleness::{self, Stale};
use uuid::Uuid;

use super::error::ApiError;
use super::input::{self, Params, task_id};
use super::{Api, Refusals};
use crate::errors::Violation;
use crate::repair::Wrong;
use crate::submit::{NAME_MAX, REASON_MAX};

const LIMIT: u32 = 20;
const LIMIT_MAX: u32 = 100;
/// Entries of one task: a step gets one for each time it was given up.
const OF_TASK_MAX: u32 = 1_000;

#[utoipa::path(get, path = "/v1/dlq", tag = "dlq", params(DlqQuery),
    responses((status = 200, description = "One page of entries, newest first, without their snapshots.", body = DlqList), Refusals))]
/// Lists dead letter entries.
pub(super) async fn list(State(api): State<Api>, Params(query): Params<DlqQuery>) -> Result<Json<DlqList>, ApiError> {
    let limit = limit_of(query.limit)?;
    let first = Before { created_at: DateTime::<Utc>::MAX_UTC, entry: Uuid::max() };
    let before = query.cursor.as_deref().map_or(Ok(first), read_cursor)?;
    let status = query.resolution_status.map(ResolutionStatus::as_str);
    let mut conn = api.engine.pool().acquire().await?;
    let mut found = ledger::list(&mut conn, status, before, i64::from(limit) + 1).await?;
    drop(conn);
    let has_next = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| has_next).map(cursor);
    answer(found, Pagination { limit, next_cursor, has_next, page: None })
}

#[utoipa::path(get, path = "/v1/dlq/task/{uuid}", tag = "dlq", params(("uuid" = Uuid, Path, description = "The task.")),
    responses((status = 200, description = "The entries of the task, newest first, with their snapshots.", body = DlqList), Refusals))]
/// The dead letter entries of a task.
pub(super) async fn of_task(State(api): State<Api>, Path(uuid): Path<String>) -> Result<Json<DlqList>, ApiError> {
    let task = task_id(&uuid)?;
    let mut conn = api.engine.pool().acquire().await?;
    let found = ledger::of_task(&mut conn, task, i64::from(OF_TASK_MAX)).await?;
    drop(conn);
    if found.is_empty() {
        return Err(ApiError::not_found("dead letter entry"));
    }
    answer(found, Pagination { limit: OF_TASK_MAX, next_cursor: None, has_next: false, page: None })
}

#[utoipa::path(post, path = "/v1/dlq/task/{uuid}", tag = "dlq", request_body = DlqFiling,
    params(("uuid" = Uuid, Path, description = "The task.")),
    responses((status = 201, description = "The task was filed with a snapshot of it and its attempts.", body = DlqEntry), Refusals))]
/// Files a task for investigation. The task goes on as it would.
pub(super) async fn file(
    State(api): State<Api>,
    Path(uuid): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<DlqEntry>), ApiError> {
    let task = task_id(&uuid)?;
    let filing: DlqFiling = input::json(&headers, &body)?;
    let mut wrong = Wrong::default();
    let reason = wrong.required("/reason", filing.reason, REASON_MAX);
    let filed_by = wrong.required("/filed_by", filing.filed_by, NAME_MAX);
    if !wrong.0.is_empty() {
        return Err(ApiError::invalid(&wrong.0));
    }
    let mut tx = api.engine.pool().begin().await?;
    let filed = ledger::file_task(&mut tx, task, &reason, &filed_by).await?;
    tx.commit().await.map_err(|error| {
        tracing::warn!(%error, "whether a task was filed is not known");
        ApiError::outcome_unknown()
    })?;
    match filed {
        Filed::New(entry) => Ok((StatusCode::CREATED, Json(one(&api, entry).await?))),
        Filed::Before(entry) => {
            let message = "the task has a pending entry that was filed by hand; details.dlq_entry_uuid is that";
            Err(ApiError::new(StatusCode::CONFLICT, "ALREADY_FILED", message).with(json!({ "dlq_entry_uuid": entry })))
        }
        Filed::NoTask => Err(ApiError::not_found("task")),
    }
}

#[utoipa::path(patch, path = "/v1/dlq/entry/{id}", tag = "dlq", request_body = DlqUpdate,
    params(("id" = Uuid, Path, description = "The entry.")),
    responses((status = 200, description = "The entry after that.", body = DlqEntry), Refusals))]
/// Writes down what was found out about an entry.
pub(super) async fn update(
    State(api): State<Api>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<DlqEntry>, ApiError> {
    let entry = input::uuid(&id)?;
    let update: DlqUpdate = input::json(&headers, &body)?;
    let mut wrong = Wrong::default();
    let notes = wrong.required("/resolution_notes", update.resolution_notes, REASON_MAX);
    let by = wrong.required("/resolved_by", update.resolved_by, NAME_MAX);
    if !wrong.0.is_empty() {
        return Err(ApiError::invalid(&wrong.0));
    }
    let mut conn = api.engine.pool().acquire().await?;
    let found = ledger::resolve(&mut conn, entry, update.resolution_status.as_str(), &notes, &by).await?;
    drop(conn);
    if found { Ok(Json(one(&api, entry).await?)) } else { Err(ApiError::not_found("dead letter entry")) }
}

#[utoipa::path(get, path = "/v1/dlq/staleness", tag = "dlq", params(InvestigationQuery),
    responses((status = 200, description = "Live tasks that have passed a bound of their template's `lifecycle`, and what follows.",
        body = StalenessReport), Refusals))]
/// What has waited or run for too long. Looking changes nothing.
pub(super) async fn stale(
    State(api): State<Api>,
    Params(query): Params<InvestigationQuery>,
) -> Result<Json<StalenessReport>, ApiError> {
    let limit = limit_of(query.limit)?;
    let now = tasker_shared::store::to_sql(api.engine.parts.now());
    let mut conn = api.engine.pool().acquire().await?;
    let found = staleness::stale(&mut conn, None, i32::try_from(limit).unwrap_or(i32::MAX)).await?;
    drop(conn);
    let told = |stale: Stale| StaleTask {
        task_uuid: stale.task.uuid(),
        namespace: stale.namespace,
        task_name: stale.name,
        current_state: stale.state,
        since: stale.since,
        minutes: (now - stale.since).num_minutes().max(0),
        bound: stale.bound,
        bound_minutes: stale.minutes,
        is_filed: stale.is_filed,
        will_be_filed: stale.files && !stale.is_filed,
        will_end_in_error: stale.fails,
    };
    Ok(Json(StalenessReport { tasks: found.into_iter().map(told).collect() }))
}

#[utoipa::path(get, path = "/v1/dlq/investigation-queue", tag = "dlq", params(InvestigationQuery),
    responses((status = 200, description = "Pending entries of tasks, the most urgent first.", body = InvestigationQueue), Refusals))]
/// What to look into next.
pub(super) async fn queue(
    State(api): State<Api>,
    Params(query): Params<InvestigationQuery>,
) -> Result<Json<InvestigationQueue>, ApiError> {
    let limit = limit_of(query.limit)?;
    let now = tasker_shared::store::to_sql(api.engine.parts.now());
    let mut conn = api.engine.pool().acquire().await?;
    let found = ledger::urgent(&mut conn, i64::from(limit)).await?;
    drop(conn);
    let investigation = |urgent: Urgent| {
        let age = (now - urgent.entry.created_at).num_seconds().max(0);
        Ok(Investigation {
            #[expect(clippy::cast_precision_loss, reason = "an age of millions of years would be rounded")]
            minutes_in_dlq: age as f64 / 60.0,
            task_priority: urgent.priority,
            priority_score: (urgent.score * 100.0).round() / 100.0,
            entry: shown(urgent.entry)?,
        })
    };
    let entries = found.into_iter().map(investigation).collect::<Result<_, ApiError>>()?;
    Ok(Json(InvestigationQueue { entries }))
}

#[utoipa::path(get, path = "/v1/dlq/stats", tag = "dlq",
    responses((status = 200, description = "Figures by reason, of the newest 100,000 entries.", body = DlqStats), Refusals))]
/// How many entries there are of which reason.
pub(super) async fn stats(State(api): State<Api>) -> Result<Json<DlqStats>, ApiError> {
    let mut conn = api.engine.pool().acquire().await?;
    let found = ledger::figures(&mut conn).await?;
    let figures = |row: ledger::Figures| DlqFigures {
        dlq_reason: row.reason,
        total_entries: row.total,
        pending: row.pending,
        manually_resolved: row.manually_resolved,
        permanently_failed: row.permanently_failed,
        cancelled: row.cancelled,
        oldest_entry: row.oldest,
        newest_entry: row.newest,
        avg_resolution_time_minutes: row.average_resolution_minutes,
    };
    let reasons: Vec<DlqFigures> = found.into_iter().map(figures).collect();
    let entries_counted = reasons.iter().map(|figures| figures.total_entries).sum();
    Ok(Json(DlqStats { entries_counted, reasons }))
}

async fn one(api: &Api, entry: Uuid) -> Result<DlqEntry, ApiError> {
    let mut conn = api.engine.pool().acquire().await?;
    let found = ledger::entry(&mut conn, entry).await?;
    shown(found.ok_or_else(|| ApiError::not_found("dead letter entry"))?)
}

fn answer(found: Vec<Entry>, pagination: Pagination) -> Result<Json<DlqList>, ApiError> {
    let entries = found.into_iter().map(shown).collect::<Result<_, _>>()?;
    Ok(Json(DlqList { entries, pagination }))
}

fn shown(entry: Entry) -> Result<DlqEntry, ApiError> {
    let task = entry.task.and_then(|task| TaskId::try_from(task).ok());
    let step = entry.step.and_then(|step| u32::try_from(step).ok()).map(StepIndex);
    let unreadable = |error: &serde_json::Error| {
        tracing::error!(entry = %entry.entry, %error, "a stored dead letter entry can't be read");
        ApiError::internal()
    };
    let word = format!("\"{}\"", entry.resolution_status);
    Ok(DlqEntry {
        dlq_entry_uuid: entry.entry,
        task_uuid: entry.task,
        step_uuid: task.zip(step).map(|(task, step)| task.step(step).uuid()),
        step_name: entry.step_name,
        attempt: entry.attempt.and_then(|attempt| u32::try_from(attempt).ok()),
        namespace: entry.namespace,
        task_name: entry.task_name,
        current_state: entry.task_state,
        dlq_reason: entry.reason,
        dlq_timestamp: entry.created_at,
        filed_by: entry.filed_by,
        resolution_status: serde_json::from_str(&word).map_err(|error| unreadable(&error))?,
        resolution_timestamp: entry.resolved_at,
        resolution_notes: entry.resolution_notes,
        resolved_by: entry.resolved_by,
        resolutions: serde_json::from_str(&entry.resolutions).map_err(|error| unreadable(&error))?,
        task_snapshot: entry.snapshot.map(RawValue::from_string).transpose().map_err(|error| unreadable(&error))?,
    })
}

fn limit_of(limit: Option<u32>) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(LIMIT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    let message = "must be between 1 and 100".to_owned();
    Err(ApiError::invalid(&[Violation { path: "/limit".to_owned(), message }]))
}

/// The microsecond at which the entry was filed, and its id, in hexadecimal.
fn cursor(entry: &Entry) -> String {
    format!("{:016x}{}", entry.created_at.timestamp_micros(), entry.entry.simple())
}

fn read_cursor(cursor: &str) -> Result<Before, ApiError> {
    let read = || {
        let (at, entry) = cursor.split_at_checked(16)?;
        let created_at = DateTime::from_timestamp_micros(i64::from_str_radix(at, 16).ok()?)?;
        let entry = Uuid::parse_str(entry).ok().filter(|_| cursor.len() == 48)?;
        Some(Before { created_at, entry })
    };
    read().ok_or_else(|| ApiError::bad_request("INVALID_CURSOR", "the cursor is none that a list has given"))
}
