//! What happened to a task, as entries and as events.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tasker_lifecycle::{StepState, TaskState};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Everything that one commit changed in a task, with its cause.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct HistoryEntry {
    /// Rises by one with each entry of the task.
    pub seq: i64,
    /// When it was decided, by the database's clock.
    pub at: DateTime<Utc>,
    /// The event that made it happen.
    pub cause: String,
    /// The process that decided it.
    pub processor: String,
    /// The task's state before; absent if this entry left it as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub task_from: Option<TaskState>,
    /// The task's state after; absent if this entry left it as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub task_to: Option<TaskState>,
    /// States that the task passed through between the two, inside this commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub passed: Vec<TaskState>,
    /// Who asked for it and why, where somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub detail: Option<serde_json::Value>,
    /// What happened to the steps, in the order in which it was decided.
    pub transitions: Vec<StepTransition>,
}

/// One state change of one step.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct StepTransition {
    /// The step's name.
    pub step: String,
    /// The state before; absent if the step was created by this transition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub from: Option<StepState>,
    /// The state after.
    #[schema(value_type = String)]
    pub to: StepState,
    /// The attempt that this belongs to; 0 before the first.
    pub attempt: u32,
}

/// A part of `GET /v1/tasks/{uuid}/history`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct History {
    /// The task.
    pub task_uuid: Uuid,
    /// Entries in rising order of `seq`.
    pub entries: Vec<HistoryEntry>,
    /// Ask again with this as `after`; absent at the end of the history.
    pub next_after: Option<i64>,
}

/// Query of `GET /v1/tasks/{uuid}/history`.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// Only entries with a greater `seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// At most this many entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// The data of one server-sent event of `GET /v1/tasks/{uuid}/events`; the event's `id` is the entry's `seq`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct TaskEvent {
    /// The task.
    pub task_uuid: Uuid,
    /// The task's state after this entry. The stream ends after a terminal one.
    #[schema(value_type = String)]
    pub status: TaskState,
    /// What changed.
    #[serde(flatten)]
    pub entry: HistoryEntry,
}
