//! `POST /v1/tasks/repair`: one action on many failed steps, each in a commit of its own with who and why, paced so that
//! what failed together does not come back all at once.

use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use tasker_client::types::{
    BulkRepair, BulkRepairReport, RepairFilter, RepairOutcome, RepairedStep, StepAction, StepActionType,
};
use tasker_lifecycle::TaskId;
use tasker_shared::store::failed::{self, FailedStep, Wanted};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::error::ApiError;
use super::input;
use super::{Api, Refusals};
use crate::errors::CommandError;
use crate::repair::Wrong;
use crate::submit::{NAME_MAX, REASON_MAX, bad_text};

const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 500;
const PER_SECOND: u32 = 20;
const PER_SECOND_MAX: u32 = 1_000;

#[utoipa::path(post, path = "/v1/tasks/repair", tag = "tasks", request_body = BulkRepair,
    responses((status = 200, description = "What was found and done, and where to go on.", body = BulkRepairReport), Refusals))]
/// Resets or resolves many failed steps.
pub(super) async fn many(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<BulkRepairReport>, ApiError> {
    let order = Order::of(input::json(&headers, &body)?)?;
    let mut conn = api.engine.pool().acquire().await?;
    let (found, next) = failed::failed_steps(&mut conn, &order.wanted, order.after, order.limit).await?;
    drop(conn);
    let mut report = BulkRepairReport {
        preview: order.action.is_none(),
        done: 0,
        refused: 0,
        steps: Vec::with_capacity(found.len()),
        next_cursor: next.map(cursor),
    };
    let Some(action) = &order.action else {
        report.steps = found.iter().map(|step| told(step, RepairOutcome::Matched)).collect();
        return Ok(Json(report));
    };
    // Half of the request's time, so that the answer comes before anybody gives up waiting for it.
    let until = Instant::now() + Duration::from_millis(api.engine.config().web.request_timeout_ms) / 2;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / order.per_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (at, step) in found.iter().enumerate() {
        pace.tick().await;
        // One step is always done, so that whoever goes on gets on.
        if at > 0 && (Instant::now() >= until || api.shutdown.is_cancelled()) {
            report.next_cursor = Some(cursor(place(&found[at - 1])));
            break;
        }
        let outcome = act(&api, step, action).await?;
        match outcome {
            RepairOutcome::Done => report.done += 1,
            RepairOutcome::Refused | RepairOutcome::Matched => report.refused += 1,
        }
        report.steps.push(told(step, outcome));
    }
    Ok(Json(report))
}

fn place(step: &FailedStep) -> (Uuid, i32) {
    (step.task.uuid(), i32::try_from(step.step.0).unwrap_or(i32::MAX))
}

/// A step that moved since it was found is left as it is. What fails for another reason ends the request: what was done
/// before that is done, and the same request goes on with the rest.
async fn act(api: &Api, step: &FailedStep, action: &StepAction) -> Result<RepairOutcome, ApiError> {
    match api.engine.act_on_step(step.task, step.step, action.clone()).await {
        Ok(()) => Ok(RepairOutcome::Done),
        Err(CommandError::Refused(_) | CommandError::NotFound | CommandError::NoSuchStep) => Ok(RepairOutcome::Refused),
        Err(error) => Err(error.into()),
    }
}

fn told(step: &FailedStep, outcome: RepairOutcome) -> RepairedStep {
    RepairedStep {
        task_uuid: step.task.uuid(),
        step_uuid: step.task.step(step.step).uuid(),
        step_name: step.step_name.clone(),
        namespace: step.namespace.clone(),
        task_name: step.task_name.clone(),
        handler: step.handler.clone(),
        attempts: u32::try_from(step.attempts).unwrap_or(0),
        error_type: step.error_type.clone(),
        outcome,
    }
}

/// A request that was checked.
struct Order {
    wanted: Wanted,
    after: (Uuid, i32),
    limit: usize,
    per_second: u32,
    /// None for a preview.
    action: Option<StepAction>,
}

impl Order {
    fn of(request: BulkRepair) -> Result<Self, ApiError> {
        let mut wrong = Wrong::default();
        let after = request.cursor.as_deref().map_or(Ok((Uuid::nil(), 0)), read_cursor)?;
        check_filter(&request.filter, &mut wrong);
        let limit = within("/limit", request.limit, (LIMIT, LIMIT_MAX), &mut wrong);
        let per_second = within("/per_second", request.per_second, (PER_SECOND, PER_SECOND_MAX), &mut wrong);
        let mut account = (String::new(), String::new());
        if !request.preview {
            account.0 = wrong.required("/reason", request.reason, REASON_MAX);
            account.1 = wrong.required("/by", request.by, NAME_MAX);
        }
        let (reason, by) = account;
        let action = match request.action_type {
            StepActionType::ResetForRetry => StepAction::reset_for_retry(reason, by),
            StepActionType::ResolveManually => StepAction::resolve_manually(reason, by),
            StepActionType::CompleteManually => {
                wrong.add("/action_type", "steps are completed one by one, each with its own result".to_owned());
                StepAction::resolve_manually(reason, by)
            }
        };
        if !wrong.0.is_empty() {
            return Err(ApiError::invalid(&wrong.0));
        }
        let RepairFilter { namespace, name, step, handler, error_type } = request.filter;
        let wanted = Wanted { namespace, name, step, handler, error_type };
        let limit = usize::try_from(limit).expect("at most 500");
        Ok(Self { wanted, after, limit, per_second, action: (!request.preview).then_some(action) })
    }
}

/// A filter that names nothing would be a slip of the hand more often than not.
fn check_filter(filter: &RepairFilter, wrong: &mut Wrong) {
    let RepairFilter { namespace, name, step, handler, error_type } = filter;
    let parts = [
        ("/filter/namespace", namespace),
        ("/filter/name", name),
        ("/filter/step", step),
        ("/filter/handler", handler),
        ("/filter/error_type", error_type),
    ];
    for (path, text) in parts {
        if let Some(offence) = text.as_deref().and_then(|text| bad_text(text, NAME_MAX)) {
            wrong.add(path, offence);
        }
    }
    if parts.iter().all(|(_, text)| text.is_none()) {
        wrong.add("/filter", "must name a namespace, name, step, handler or error_type".to_owned());
    }
}

fn within(path: &str, given: Option<u32>, (absent, max): (u32, u32), wrong: &mut Wrong) -> u32 {
    let number = given.unwrap_or(absent);
    if !(1..=max).contains(&number) {
        wrong.add(path, format!("must be between 1 and {max}"));
    }
    number
}

fn cursor((task, step): (Uuid, i32)) -> String {
    format!("{}{step:08x}", task.simple())
}

fn read_cursor(cursor: &str) -> Result<(Uuid, i32), ApiError> {
    let read = || {
        let (task, step) = cursor.split_at_checked(32).filter(|(_, step)| step.len() == 8)?;
        let task = Uuid::parse_str(task).ok().filter(|task| TaskId::try_from(*task).is_ok())?;
        Some((task, i32::from_str_radix(step, 16).ok()?))
    };
    read().ok_or_else(|| ApiError::bad_request("INVALID_CURSOR", "the cursor is none that a repair has given"))
}
