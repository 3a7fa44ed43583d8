//! Dead letter entries: what was given up, and what people found out about it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use tasker_lifecycle::TaskState;

use super::{Pagination, RawJson};

/// What became of the investigation of an entry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResolutionStatus {
    /// Nobody has resolved it.
    Pending,
    /// Somebody has put it right.
    ManuallyResolved,
    /// It can't be put right.
    PermanentlyFailed,
    /// It is not looked into any more.
    Cancelled,
}

/// A step that was given up, a task that somebody filed, or a message that nobody could read.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct DlqEntry {
    /// The entry.
    pub dlq_entry_uuid: Uuid,
    /// The task; absent for a message.
    pub task_uuid: Option<Uuid>,
    /// The step; absent where the whole task was filed.
    pub step_uuid: Option<Uuid>,
    /// The step's name.
    pub step_name: Option<String>,
    /// The attempt after which the step was given up.
    pub attempt: Option<u32>,
    /// The task's namespace.
    pub namespace: Option<String>,
    /// The task's template.
    pub task_name: Option<String>,
    /// The task's state now.
    pub current_state: Option<String>,
    /// `attempts_exhausted`, `permanent_failure`, `lease_lost`, or what was written by hand.
    pub dlq_reason: String,
    /// When it was filed.
    pub dlq_timestamp: DateTime<Utc>,
    /// Who filed it; absent where the engine did.
    pub filed_by: Option<String>,
    /// Where the investigation stands.
    pub resolution_status: ResolutionStatus,
    /// When it was resolved.
    pub resolution_timestamp: Option<DateTime<Utc>>,
    /// What was found.
    pub resolution_notes: Option<String>,
    /// By whom.
    pub resolved_by: Option<String>,
    /// Every resolution so far, oldest first; the last hundred.
    pub resolutions: Vec<Resolution>,
    /// What was known when it was filed, with every attempt; left out of lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub task_snapshot: Option<RawJson>,
}

/// One resolution of an entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Resolution {
    /// What the entry became.
    pub status: ResolutionStatus,
    /// What was found.
    pub notes: String,
    /// By whom.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// Answer of `GET /v1/dlq` and `GET /v1/dlq/task/{uuid}`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct DlqList {
    /// Newest first.
    pub entries: Vec<DlqEntry>,
    /// Where the list goes on.
    pub pagination: Pagination,
}

/// Query of `GET /v1/dlq`.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DlqQuery {
    /// Only entries whose investigation stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution_status: Option<ResolutionStatus>,
    /// At most this many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// Go on where the last page ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Body of `PATCH /v1/dlq/entry/{id}`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DlqUpdate {
    /// What the entry becomes.
    pub resolution_status: ResolutionStatus,
    /// What was found; required, up to 2,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution_notes: Option<String>,
    /// By whom; required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<String>,
}

/// Body of `POST /v1/dlq/task/{uuid}`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DlqFiling {
    /// Why the task is to be looked into; required, up to 2,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who says so; required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filed_by: Option<String>,
}

/// Answer of `GET /v1/dlq/investigation-queue`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct InvestigationQueue {
    /// Most urgent first.
    pub entries: Vec<Investigation>,
}

/// A pending entry and how urgent it is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct Investigation {
    /// The entry.
    #[serde(flatten)]
    pub entry: DlqEntry,
    /// How long it has been there.
    pub minutes_in_dlq: f64,
    /// The task's priority.
    pub task_priority: i16,
    /// Its age in hours (at most 168), five for each attempt (of at most 20), and the task's priority.
    pub priority_score: f64,
}

/// Query of `GET /v1/dlq/investigation-queue`.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InvestigationQuery {
    /// At most this many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
}

/// Answer of `GET /v1/dlq/stats`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct DlqStats {
    /// How many entries the figures are made of; the newest 100,000 at most.
    pub entries_counted: i64,
    /// Figures by reason, the most frequent first.
    pub reasons: Vec<DlqFigures>,
}

/// What is said of the entries of one reason.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct DlqFigures {
    /// Why they were filed.
    pub dlq_reason: String,
    /// All of them.
    pub total_entries: i64,
    /// Nobody has resolved them.
    pub pending: i64,
    /// Put right by hand.
    pub manually_resolved: i64,
    /// Given up.
    pub permanently_failed: i64,
    /// Not looked into any more.
    pub cancelled: i64,
    /// When the oldest was filed.
    pub oldest_entry: DateTime<Utc>,
    /// When the newest was filed.
    pub newest_entry: DateTime<Utc>,
    /// From filing to resolution, on average; absent while none is resolved.
    pub avg_resolution_time_minutes: Option<f64>,
}

impl ResolutionStatus {
    /// The word that goes over the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::ManuallyResolved => "manually_resolved",
            Self::PermanentlyFailed => "permanently_failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Answer of `GET /v1/dlq/staleness`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct StalenessReport {
    /// Live tasks that have passed a bound, by id.
    pub tasks: Vec<StaleTask>,
}

/// A live task that has passed a bound of its template's `lifecycle`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct StaleTask {
    /// The task.
    pub task_uuid: Uuid,
    /// Its namespace.
    pub namespace: String,
    /// Its template.
    pub task_name: String,
    /// Its state.
    #[schema(value_type = String)]
    pub current_state: TaskState,
    /// Since when the bound counts: its creation, or the moment at which it came into this state.
    pub since: DateTime<Utc>,
    /// How long ago that is.
    pub minutes: i64,
    /// The key under `lifecycle`.
    pub bound: String,
    /// What the template says under that key.
    pub bound_minutes: i64,
    /// Whether it has its dead letter entry.
    pub is_filed: bool,
    /// Whether the next look files one.
    pub will_be_filed: bool,
    /// Whether the next look ends it in error.
    pub will_end_in_error: bool,
}
