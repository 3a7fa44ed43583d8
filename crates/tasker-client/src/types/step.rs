//! A step as it is now, and its attempts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tasker_lifecycle::StepState;
use utoipa::ToSchema;
use uuid::Uuid;

use super::RawJson;

/// One step of a task as it is now.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct StepResponse {
    /// The step.
    pub step_uuid: Uuid,
    /// Its task.
    pub task_uuid: Uuid,
    /// Its name in the template, unique in the task.
    pub name: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it ended well; absent while it has not.
    pub completed_at: Option<DateTime<Utc>>,
    /// What its handler returned; absent until it ended well.
    #[schema(value_type = Option<Object>)]
    pub results: Option<RawJson>,
    /// Its state.
    #[schema(value_type = String)]
    pub current_state: StepState,
    /// Whether all its parents ended well.
    pub dependencies_satisfied: bool,
    /// Whether it may be tried again by itself: attempts are left and the last failure was retryable.
    pub retry_eligible: bool,
    /// Whether it could be enqueued now.
    pub ready_for_execution: bool,
    /// How many steps it depends on.
    pub total_parents: u32,
    /// How many of these ended well.
    pub completed_parents: u32,
    /// Attempts begun so far.
    pub attempts: u32,
    /// Attempts allowed.
    pub max_attempts: u32,
    /// When an attempt last failed.
    pub last_failure_at: Option<DateTime<Utc>>,
    /// When the next attempt may begin.
    pub next_retry_at: Option<DateTime<Utc>>,
    /// When an attempt last began.
    pub last_attempted_at: Option<DateTime<Utc>>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The handler returned a result.
    Success,
    /// The handler, or the runtime for it, reported an error.
    Failure,
    /// The worker's lease ended without a report.
    Lost,
    /// An operator supplied the result.
    ByHand,
}

/// One attempt of a step, as `GET …/workflow_steps/{step_uuid}/audit` lists them.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct StepAudit {
    /// The task.
    pub task_uuid: Uuid,
    /// The step.
    pub step_uuid: Uuid,
    /// The step's name.
    pub step_name: String,
    /// Counted from 1.
    pub attempt: u32,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// When the worker claimed it; unknown for a lost attempt.
    pub started_at: Option<DateTime<Utc>>,
    /// When the report was stored.
    pub finished_at: DateTime<Utc>,
    /// Time spent in the handler; unknown for a lost attempt.
    pub duration_ms: Option<f64>,
    /// The worker that reported it, or who supplied the result by hand.
    pub worker: Option<String>,
    /// What the handler returned.
    #[schema(value_type = Option<Object>)]
    pub result: Option<RawJson>,
    /// What the handler said beside its result or error.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<RawJson>,
    /// Why it failed.
    pub error: Option<AttemptError>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct AttemptError {
    /// The class, such as `permanent_error`, `retryable_error`, `timeout`, or a name of the handler's own.
    pub error_type: String,
    /// In words.
    pub message: String,
    /// Whether another attempt may help.
    pub retryable: bool,
    /// The handler's own code.
    pub error_code: Option<String>,
}
