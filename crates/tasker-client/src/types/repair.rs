//! Repairing many failed steps at once.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::StepActionType;

/// Body of `POST /v1/tasks/repair`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRepair {
    /// `reset_for_retry` or `resolve_manually`.
    pub action_type: StepActionType,
    /// Which failed steps; it must name something.
    pub filter: RepairFilter,
    /// Whether nothing is done and what would be done is told; yes if absent.
    #[serde(default = "yes")]
    pub preview: bool,
    /// Why; required without `preview`, up to 2,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who does it; required without `preview`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// At most this many steps in this request, 1 to 500; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
    /// At most this many steps a second, 1 to 1,000; 20 if absent. What does not fit into the time of one request is
    /// left for the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub per_second: Option<u32>,
    /// Go on where the last request ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What every step must be like; what is absent does not matter.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepairFilter {
    /// The task's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The template's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The step's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The step's handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// The class of its last error; `lease_lost` where the attempts were used up by lost workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
}

/// Answer of `POST /v1/tasks/repair`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct BulkRepairReport {
    /// Whether nothing was done.
    pub preview: bool,
    /// Steps that the action was carried out on.
    pub done: u32,
    /// Steps that moved meanwhile, so that it did not apply any more.
    pub refused: u32,
    /// What was found, by task.
    pub steps: Vec<RepairedStep>,
    /// Ask again with this as `cursor`; absent once every live task was looked at.
    pub next_cursor: Option<String>,
}

/// A failed step and what became of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct RepairedStep {
    /// The task.
    pub task_uuid: Uuid,
    /// The step.
    pub step_uuid: Uuid,
    /// The step's name.
    pub step_name: Option<String>,
    /// The task's namespace.
    pub namespace: String,
    /// The template's name.
    pub task_name: String,
    /// The step's handler.
    pub handler: Option<String>,
    /// Attempts made.
    pub attempts: u32,
    /// The class of its last error.
    pub error_type: Option<String>,
    /// What became of it.
    pub outcome: RepairOutcome,
}

/// What became of a step in a repair of many.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RepairOutcome {
    /// It would be repaired.
    Matched,
    /// It was repaired.
    Done,
    /// It had moved meanwhile.
    Refused,
}

fn yes() -> bool {
    true
}
