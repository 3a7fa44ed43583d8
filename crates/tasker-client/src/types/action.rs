//! What an operator does to a step.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RawJson;

/// What is done to a step.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepActionType {
    /// A failed step gets as many attempts again as its template allows, and is tried at once.
    ResetForRetry,
    /// A failed step is stepped over: its children run without its result.
    ResolveManually,
    /// A step that is not running gets this result, as if its handler had returned it.
    CompleteManually,
}

/// Body of `PATCH /v1/tasks/{uuid}/workflow_steps/{step_uuid}`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StepAction {
    /// What is to be done.
    pub action_type: StepActionType,
    /// Why; required, up to 2,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who does it; required with `reset_for_retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_by: Option<String>,
    /// Who does it; required with `resolve_manually`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<String>,
    /// Who does it; required with `complete_manually`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_by: Option<String>,
    /// The result; required with `complete_manually`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_data: Option<CompletionData>,
}

/// A result that an operator supplies.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletionData {
    /// What the handler would have returned; checked against the step's `result_schema`.
    #[schema(value_type = Object)]
    pub result: RawJson,
    /// What is to be kept beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<RawJson>,
}

impl StepAction {
    /// Tries a failed step again.
    #[must_use]
    pub fn reset_for_retry(reason: impl Into<String>, reset_by: impl Into<String>) -> Self {
        Self { reset_by: Some(reset_by.into()), ..Self::of(StepActionType::ResetForRetry, reason.into()) }
    }

    /// Steps over a failed step.
    #[must_use]
    pub fn resolve_manually(reason: impl Into<String>, resolved_by: impl Into<String>) -> Self {
        Self { resolved_by: Some(resolved_by.into()), ..Self::of(StepActionType::ResolveManually, reason.into()) }
    }

    /// Supplies a step's result.
    #[must_use]
    pub fn complete_manually(data: CompletionData, reason: impl Into<String>, completed_by: impl Into<String>) -> Self {
        Self {
            completed_by: Some(completed_by.into()),
            completion_data: Some(data),
            ..Self::of(StepActionType::CompleteManually, reason.into())
        }
    }

    fn of(action_type: StepActionType, reason: String) -> Self {
        let reason = Some(reason);
        Self { action_type, reason, reset_by: None, resolved_by: None, completed_by: None, completion_data: None }
    }
}

impl StepActionType {
    /// The word that goes over the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ResetForRetry => "reset_for_retry",
            Self::ResolveManually => "resolve_manually",
            Self::CompleteManually => "complete_manually",
        }
    }
}
