//! `/v1/tasks/{uuid}/workflow_steps`: the steps of a task, and their attempts.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use tasker_client::types::{AttemptError, AttemptOutcome, StepAction, StepAudit, StepResponse};
use tasker_lifecycle::{Refused, StepIndex, StepState};
use tasker_shared::messages::StepFailure;
use tasker_shared::store::queries::{self, Attempt};

use super::error::ApiError;
use super::input::{self, step_of, task_id};
use super::view::TaskView;
use super::{Api, Refusals};
use crate::errors::CommandError;

#[utoipa::path(get, path = "/v1/tasks/{uuid}/workflow_steps", tag = "steps",
    params(("uuid" = Uuid, Path, description = "The task.")),
    responses((status = 200, description = "Every step, parents before children.", body = Vec<StepResponse>), Refusals))]
/// The steps of a task.
pub(super) async fn list(
    State(api): State<Api>,
    Path(uuid): Path<String>,
) -> Result<Json<Vec<StepResponse>>, ApiError> {
    Ok(Json(api.task(task_id(&uuid)?).await?.steps()))
}

#[utoipa::path(get, path = "/v1/tasks/{uuid}/workflow_steps/{step_uuid}", tag = "steps",
    params(("uuid" = Uuid, Path, description = "The task."), ("step_uuid" = Uuid, Path, description = "The step.")),
    responses((status = 200, description = "The step.", body = StepResponse), Refusals))]
/// One step of a task.
pub(super) async fn get(
    State(api): State<Api>,
    Path((uuid, step)): Path<(String, String)>,
) -> Result<Json<StepResponse>, ApiError> {
    let (view, step) = step_in(&api, &uuid, &step).await?;
    Ok(Json(view.step(step)))
}

#[utoipa::path(patch, path = "/v1/tasks/{uuid}/workflow_steps/{step_uuid}", tag = "steps", request_body = StepAction,
    params(("uuid" = Uuid, Path, description = "The task."), ("step_uuid" = Uuid, Path, description = "The step.")),
    responses((status = 200, description = "The step after the action; its task goes on by itself.", body = StepResponse),
        Refusals))]
/// Resets, resolves or completes a step by hand.
pub(super) async fn act(
    State(api): State<Api>,
    Path((uuid, step)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<StepResponse>, ApiError> {
    let task = task_id(&uuid)?;
    let step = step_of(task, &step)?;
    let action: StepAction = input::json(&headers, &body)?;
    let action_type = action.action_type;
    match api.engine.act_on_step(task, step, action).await {
        Ok(()) => Ok(Json(api.task_with(task, Some(step)).await?.step(step))),
        Err(CommandError::Refused(refused @ Refused::NotRepairable(_, state))) => {
            let names = api.names_of(task).await?;
            let name = names.of(step).unwrap_or_default();
            let message = format!("`{}` does not apply to step `{name}`: it is {state}", action_type.as_str());
            Err(ApiError::from(refused).saying(message))
        }
        Err(error) => Err(error.into()),
    }
}

#[utoipa::path(get, path = "/v1/tasks/{uuid}/workflow_steps/{step_uuid}/audit", tag = "steps",
    params(("uuid" = Uuid, Path, description = "The task."), ("step_uuid" = Uuid, Path, description = "The step.")),
    responses((status = 200, description = "Every finished attempt, oldest first.", body = Vec<StepAudit>), Refusals))]
/// The attempts of a step.
pub(super) async fn audit(
    State(api): State<Api>,
    Path((uuid, step)): Path<(String, String)>,
) -> Result<Json<Vec<StepAudit>>, ApiError> {
    let (view, step) = step_in(&api, &uuid, &step).await?;
    let mut conn = api.engine.pool().acquire().await?;
    let attempts = queries::attempts(&mut conn, view.record.task.id(), step).await?;
    drop(conn);
    attempts.into_iter().map(|attempt| entry(&view, step, attempt)).collect::<Result<_, _>>().map(Json)
}

async fn step_in(api: &Api, uuid: &str, step: &str) -> Result<(TaskView, StepIndex), ApiError> {
    let task = task_id(uuid)?;
    let step = step_of(task, step)?;
    let view = api.task_with(task, Some(step)).await?;
    if !view.record.task.step(step).is_some_and(StepState::exists) {
        return Err(ApiError::not_found("step"));
    }
    Ok((view, step))
}

fn entry(view: &TaskView, step: StepIndex, attempt: Attempt) -> Result<StepAudit, ApiError> {
    let task = &view.record.task;
    let ran_ms = |from: DateTime<Utc>| (attempt.ended_at - from).num_microseconds().unwrap_or(i64::MAX);
    #[expect(clippy::cast_precision_loss, reason = "a run of 285 years would be rounded")]
    let duration_ms = attempt.started_at.map(|from| ran_ms(from).max(0) as f64 / 1_000.0);
    let error: Option<StepFailure> =
        attempt.error.as_deref().map(serde_json::from_str).transpose().map_err(|error| {
            tracing::error!(task = %task.id(), %error, "a stored failure can't be read");
            ApiError::internal()
        })?;
    Ok(StepAudit {
        task_uuid: task.id().uuid(),
        step_uuid: task.id().step(step).uuid(),
        step_name: view.name(step).to_owned(),
        attempt: u32::try_from(attempt.attempt).unwrap_or(0),
        outcome: match attempt.outcome.as_str() {
            "success" => AttemptOutcome::Success,
            "failure" => AttemptOutcome::Failure,
            "by_hand" => AttemptOutcome::ByHand,
            // A claim that found the attempts used up by lost leases is the last of the lost ones.
            _ => AttemptOutcome::Lost,
        },
        started_at: attempt.claimed_at,
        finished_at: attempt.ended_at,
        duration_ms,
        worker: (!attempt.worker.is_empty()).then_some(attempt.worker),
        result: attempt.result,
        metadata: attempt.metadata,
        error: error.map(|error| AttemptError {
            error_type: error.error_type,
            message: error.message,
            retryable: attempt.retryable.unwrap_or(false),
            error_code: error.error_code,
        }),
    })
}
