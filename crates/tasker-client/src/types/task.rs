//! Requests for tasks, tasks as they are now, and lists of them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tasker_lifecycle::TaskState;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{RawJson, StepResponse, empty_object};

/// Body of `POST /v1/tasks`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskRequest {
    /// The template's name.
    pub name: String,
    /// The template's namespace.
    pub namespace: String,
    /// The template's version; the newest if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The task's input, validated by the template's `input_schema`.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub context: RawJson,
    /// Who asked for the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
    /// The program that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_system: Option<String>,
    /// Why it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Free words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Higher is sooner.
    #[serde(default)]
    #[schema(minimum = -100, maximum = 100)]
    pub priority: i16,
    /// Runs through logs, traces, messages and handlers; made by the server if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Uuid>,
    /// The correlation of the work that this task is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_correlation_id: Option<Uuid>,
    /// Makes the request safe to repeat: the same key with the same body gives the same task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// When the caller asked; not part of what the idempotency key compares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<DateTime<Utc>>,
    /// Options of this one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<TaskOptions>,
}

impl TaskRequest {
    /// A request for the newest version of a template with an empty context.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            version: None,
            context: empty_object(),
            initiator: None,
            source_system: None,
            reason: None,
            tags: Vec::new(),
            priority: 0,
            correlation_id: None,
            parent_correlation_id: None,
            idempotency_key: None,
            requested_at: None,
            options: None,
        }
    }
}

/// Options of one run. None are defined, so any name in it is refused rather than ignored.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskOptions {}

/// A task as it is now, with its steps.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct TaskResponse {
    /// The task.
    pub task_uuid: Uuid,
    /// The template's name.
    pub name: String,
    /// The template's namespace.
    pub namespace: String,
    /// The template's version.
    pub version: String,
    /// The task's state.
    #[schema(value_type = String)]
    pub status: TaskState,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it ended; absent while it has not.
    pub completed_at: Option<DateTime<Utc>>,
    /// Its input.
    #[schema(value_type = Object)]
    pub context: RawJson,
    /// Who asked for it.
    pub initiator: Option<String>,
    /// The program that asked for it.
    pub source_system: Option<String>,
    /// Why it was asked for.
    pub reason: Option<String>,
    /// Higher is sooner.
    pub priority: i16,
    /// Free words to find it by.
    pub tags: Vec<String>,
    /// Runs through logs, traces, messages and handlers.
    pub correlation_id: Uuid,
    /// The correlation of the work that this task is a part of.
    pub parent_correlation_id: Option<Uuid>,
    /// All steps created so far.
    pub total_steps: u32,
    /// Steps that have not begun.
    pub pending_steps: u32,
    /// Steps enqueued or in progress.
    pub in_progress_steps: u32,
    /// Steps that ended well.
    pub completed_steps: u32,
    /// Steps that ended in error.
    pub failed_steps: u32,
    /// Steps that could be enqueued now.
    pub ready_steps: u32,
    /// What the task is doing.
    pub execution_status: ExecutionStatus,
    /// What there is to do about it.
    pub recommended_action: RecommendedAction,
    /// Steps that ended well, of all, in percent.
    pub completion_percentage: f64,
    /// Whether it needs attention.
    pub health_status: TaskHealth,
    /// Every step, in topological order.
    pub steps: Vec<StepResponse>,
    /// Why a request that was submitted with SQL became no task; its status is `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<TaskRefusal>,
    /// What the requester should know, such as that the version it named is deprecated; only in the answer to its request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Why a request that was submitted with SQL became no task.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct TaskRefusal {
    /// What the same request would have been refused with over HTTP, such as `INPUT_SCHEMA`.
    pub code: String,
    /// In words.
    pub message: String,
    /// What belongs to the code.
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
}

/// What a task is doing, for programs that do not care for all its states.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionStatus {
    /// A step could be enqueued now.
    HasReadySteps,
    /// Steps are enqueued or in progress.
    Processing,
    /// A failed step keeps the rest from going on.
    BlockedByFailures,
    /// Every step ended well.
    AllComplete,
    /// Nothing can move before something else happens.
    WaitingForDependencies,
}

impl ExecutionStatus {
    /// What there is to do about a task in this status.
    #[must_use]
    pub const fn recommended_action(self) -> RecommendedAction {
        match self {
            Self::HasReadySteps => RecommendedAction::ExecuteReadySteps,
            Self::Processing => RecommendedAction::WaitForCompletion,
            Self::BlockedByFailures => RecommendedAction::HandleFailures,
            Self::AllComplete => RecommendedAction::FinalizeTask,
            Self::WaitingForDependencies => RecommendedAction::WaitForDependencies,
        }
    }
}

/// What there is to do about a task.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecommendedAction {
    /// Let workers take the ready steps.
    ExecuteReadySteps,
    /// Wait.
    WaitForCompletion,
    /// Repair, reset or resolve the failed steps.
    HandleFailures,
    /// Nothing is left to do.
    FinalizeTask,
    /// Wait for what the task waits for.
    WaitForDependencies,
}

/// Whether a task needs attention.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskHealth {
    /// No step has failed.
    Healthy,
    /// Steps have failed and are being retried, or others still run.
    Recovering,
    /// Only an operator can make it go on.
    Blocked,
}

/// A task in a list.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct TaskSummary {
    /// The task.
    pub task_uuid: Uuid,
    /// The template's name.
    pub name: String,
    /// The template's namespace.
    pub namespace: String,
    /// The template's version.
    pub version: String,
    /// The task's state.
    #[schema(value_type = String)]
    pub status: TaskState,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When it ended; absent while it has not.
    pub completed_at: Option<DateTime<Utc>>,
    /// Who asked for it.
    pub initiator: Option<String>,
    /// The program that asked for it.
    pub source_system: Option<String>,
    /// Higher is sooner.
    pub priority: i16,
    /// Free words to find it by.
    pub tags: Vec<String>,
    /// Runs through logs, traces, messages and handlers.
    pub correlation_id: Uuid,
    /// All steps created so far.
    pub total_steps: u32,
    /// Steps that ended well.
    pub completed_steps: u32,
    /// Steps that ended in error.
    pub failed_steps: u32,
    /// Steps that ended well, of all, in percent.
    pub completion_percentage: f64,
}

/// Answer of `GET /v1/tasks`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct TaskList {
    /// Newest first.
    pub tasks: Vec<TaskSummary>,
    /// Where this page lies.
    pub pagination: Pagination,
}

/// Where a page lies. There is no total: counting would read the whole table.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Pagination {
    /// At most this many entries were asked for.
    pub limit: u32,
    /// Ask again with this as `cursor`; absent on the last page.
    pub next_cursor: Option<String>,
    /// Whether there is another page.
    pub has_next: bool,
    /// The page's number, if it was asked for by number.
    pub page: Option<u32>,
}

/// Query of `GET /v1/tasks`: cursor paging (`limit`, `cursor`) or numbered pages (`page`, `per_page`), and filters.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// At most this many tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Counted from 1; excludes `cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub page: Option<u32>,
    /// At most this many tasks; goes with `page`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 100)]
    pub per_page: Option<u32>,
    /// Only tasks of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only tasks of templates of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only tasks in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub status: Option<TaskState>,
    /// Only tasks that this one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
    /// Only tasks that this program asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_system: Option<String>,
    /// Only tasks with this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only tasks with this correlation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Uuid>,
    /// Only tasks accepted after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_after: Option<DateTime<Utc>>,
    /// Only tasks accepted before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_before: Option<DateTime<Utc>>,
}

/// Query of `GET /v1/tasks/{uuid}/wait`.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// Answer 202 with the present state after this long; the server's own limit if absent or greater.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}
