//! Why steps do not run, and which handlers there are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tasker_lifecycle::{StepState, TaskState};
use utoipa::ToSchema;
use uuid::Uuid;

use super::AttemptError;

/// Answer of `GET /v1/tasks/{uuid}/explain`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Explanation {
    /// The task.
    pub task_uuid: Uuid,
    /// Its state.
    #[schema(value_type = String)]
    pub status: TaskState,
    /// In one sentence.
    pub message: String,
    /// Every step that has not ended well, parents before children.
    pub steps: Vec<StepExplanation>,
}

/// Why one step has not ended well yet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct StepExplanation {
    /// The step.
    pub step_uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its state.
    #[schema(value_type = String)]
    pub current_state: StepState,
    /// The reason, for programs.
    pub code: StepReason,
    /// The reason in words.
    pub message: String,
    /// Its handler.
    pub handler: String,
    /// Attempts begun so far.
    pub attempts: u32,
    /// Attempts allowed.
    pub max_attempts: u32,
    /// The parents that it waits for; at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<WaitedFor>,
    /// Failed steps further up, which have to be repaired before it can run; at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<String>,
    /// The queue that its ticket is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Since when a worker could have taken it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<DateTime<Utc>>,
    /// When its retry is due, or its claim ends unless the worker extends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// How it failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<AttemptError>,
}

/// A parent that does not satisfy a step yet.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct WaitedFor {
    /// The parent's name.
    pub step: String,
    /// Its state.
    #[schema(value_type = String)]
    pub state: StepState,
}

/// Why a step has not ended well yet.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepReason {
    /// A parent has not ended yet.
    ParentPending,
    /// A parent failed for good; it has to be repaired.
    ParentFailed,
    /// A batch worker whose turn has not come: as many run as may at once.
    Parallelism,
    /// A resource that it uses is full, or others wait for it already.
    ResourceFull,
    /// The circuit breaker of a resource that it uses is open, or lets only a few through.
    BreakerOpen,
    /// An operator has paused a resource that it uses.
    ResourcePaused,
    /// It failed and is tried again at a time that has not come.
    RetryDue,
    /// Its ticket lies in a queue and a live worker could take it.
    WaitingForWorker,
    /// Its ticket lies in a queue and no live worker claims from there and has its handler.
    NoLiveWorker,
    /// A worker has claimed it.
    Claimed,
    /// Its attempt was reported and is about to be decided on.
    Reported,
    /// It was cancelled with its task.
    Cancelled,
    /// Its last failure was permanent.
    PermanentFailure,
    /// All its attempts failed.
    AttemptsExhausted,
    /// Its attempts were used up by workers that were lost.
    LeaseLost,
}

/// Answer of `GET /v1/handlers`, `/v1/handlers/{namespace}` and `/v1/handlers/{namespace}/{name}`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct HandlerList {
    /// What live workers have registered, by namespace and name.
    pub handlers: Vec<HandlerInfo>,
}

/// A handler that live workers have registered.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct HandlerInfo {
    /// A namespace whose queues these workers claim from; absent while they have found no queue.
    pub namespace: Option<String>,
    /// The name under which templates call it.
    pub name: String,
    /// The ids of the workers that have it.
    pub workers: Vec<String>,
    /// When one of them was heard of last.
    pub last_seen: DateTime<Utc>,
}
