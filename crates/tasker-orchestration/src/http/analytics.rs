//! `/v1/analytics`: figures on the tasks of the last hours.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use tasker_client::types::{
    Bottlenecks, BottlenecksQuery, ExecutionTimes, Performance, PerformanceQuery, SlowStep, SlowTask,
};
use tasker_shared::store::{analytics, to_sql};

use super::error::ApiError;
use super::input::Params;
use super::tasks::id_at;
use super::{Api, Refusals};
use crate::errors::Violation;

const HOURS: u32 = 24;
const HOURS_MAX: u32 = 720;
const LIMIT: u32 = 10;
const LIMIT_MAX: u32 = 100;
const MIN_EXECUTIONS: u32 = 5;
const MIN_EXECUTIONS_MAX: u32 = 1_000_000;

#[utoipa::path(get, path = "/v1/analytics/performance", tag = "analytics", params(PerformanceQuery),
    responses((status = 200, description = "Figures on the tasks that were created in the last hours.", body = Performance), Refusals))]
/// How many tasks end how, and how long handlers run.
pub(super) async fn performance(
    State(api): State<Api>,
    Params(query): Params<PerformanceQuery>,
) -> Result<Json<Performance>, ApiError> {
    let hours = within("/hours", query.hours, HOURS, HOURS_MAX)?;
    let (now, start) = period(&api, hours);
    let mut conn = api.engine.pool().acquire().await?;
    let found = analytics::performance(&mut conn, id_at(start.timestamp_millis())).await?;
    drop(conn);
    Ok(Json(told(&found, start, now)))
}

fn told(found: &analytics::Performance, start: DateTime<Utc>, now: DateTime<Utc>) -> Performance {
    let truncated = found.is_cut_off();
    let period_start = if truncated { found.oldest.map_or(start, |oldest| oldest.max(start)) } else { start };
    let hours = (now - period_start).as_seconds_f64().max(1.0) / 3_600.0;
    let ended = found.completed + found.failed;
    let times = (found.p50_ms, found.p95_ms, found.p99_ms, found.max_ms);
    let step_execution_ms = match times {
        (Some(p50), Some(p95), Some(p99), Some(max)) => Some(ExecutionTimes { p50, p95, p99, max }),
        _ => None,
    };
    Performance {
        period_start,
        calculated_at: now,
        truncated,
        total_tasks: found.tasks,
        active_tasks: found.active,
        completed_tasks: found.completed,
        failed_tasks: found.failed,
        cancelled_tasks: found.cancelled,
        completion_rate: rate(found.completed, ended),
        error_rate: rate(found.failed, ended),
        average_task_duration_seconds: found.task_seconds,
        average_step_duration_seconds: found.mean_ms.map(|ms| ms / 1_000.0),
        step_execution_ms,
        attempts: found.attempts,
        completed_steps: found.steps_completed,
        failed_attempts: found.attempts_failed,
        lost_attempts: found.attempts_lost,
        tasks_per_hour: float(found.tasks) / hours,
        steps_per_hour: float(found.steps_completed) / hours,
    }
}

#[utoipa::path(get, path = "/v1/analytics/bottlenecks", tag = "analytics", params(BottlenecksQuery),
    responses((status = 200, description = "Where handlers spend the most time.", body = Bottlenecks), Refusals))]
/// The steps and templates whose handlers run longest.
pub(super) async fn bottlenecks(
    State(api): State<Api>,
    Params(query): Params<BottlenecksQuery>,
) -> Result<Json<Bottlenecks>, ApiError> {
    let hours = within("/hours", query.hours, HOURS, HOURS_MAX)?;
    let limit = i64::from(within("/limit", query.limit, LIMIT, LIMIT_MAX)?);
    let least = within("/min_executions", query.min_executions, MIN_EXECUTIONS, MIN_EXECUTIONS_MAX)?;
    let (now, start) = period(&api, hours);
    let floor = id_at(start.timestamp_millis());
    let mut conn = api.engine.pool().acquire().await?;
    let steps = analytics::slow_steps(&mut conn, floor, i64::from(least), limit).await?;
    let tasks = analytics::slow_tasks(&mut conn, floor, i64::from(least), limit).await?;
    drop(conn);
    let slow_steps = steps.into_iter().map(slow_step).collect();
    let slow_tasks = tasks.into_iter().map(slow_task).collect();
    Ok(Json(Bottlenecks { period_start: start, calculated_at: now, slow_steps, slow_tasks }))
}

fn slow_step(row: analytics::SlowStep) -> SlowStep {
    SlowStep {
        namespace: row.namespace,
        task_name: row.task_name,
        version: row.version,
        step_name: row.step_name,
        handler: row.handler,
        error_rate: rate(row.failures, row.executions),
        retry_rate: rate(row.retries, row.executions),
        executions: row.executions,
        average_ms: row.mean_ms,
        p95_ms: row.p95_ms,
        max_ms: row.max_ms,
        total_ms: row.total_ms,
    }
}

fn slow_task(row: analytics::SlowTask) -> SlowTask {
    SlowTask {
        namespace: row.namespace,
        task_name: row.task_name,
        version: row.version,
        executions: row.executions,
        average_execution_ms: row.mean_ms,
        max_execution_ms: row.max_ms,
        average_duration_ms: row.mean_duration_ms,
    }
}

/// Now and the beginning of so many hours, on the database's clock.
fn period(api: &Api, hours: u32) -> (DateTime<Utc>, DateTime<Utc>) {
    let now = to_sql(api.engine.parts.now());
    (now, now - TimeDelta::hours(i64::from(hours)))
}

fn within(path: &str, given: Option<u32>, absent: u32, max: u32) -> Result<u32, ApiError> {
    let number = given.unwrap_or(absent);
    if (1..=max).contains(&number) {
        return Ok(number);
    }
    let message = format!("must be between 1 and {max}");
    Err(ApiError::invalid(&[Violation { path: path.to_owned(), message }]))
}

fn rate(part: i64, whole: i64) -> f64 {
    if whole == 0 { 0.0 } else { float(part) / float(whole) }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn float(count: i64) -> f64 {
    count as f64
}
