//! Requests and answers of the HTTP API, with exactly the field names that go over the wire.
//!
//! Requests refuse unknown fields; answers tolerate them, so that an older client reads a newer server. Payloads that only
//! pass through (context, results, metadata) are kept as the text they came in and are never encoded again.

mod action;
mod analytics;
mod bulk;
mod dead_letter;
mod error;
mod explain;
mod health;
mod history;
mod repair;
mod resource;
mod step;
mod task;
mod template;

pub use action::{CompletionData, StepAction, StepActionType};
pub use analytics::{Bottlenecks, BottlenecksQuery, ExecutionTimes, Performance, PerformanceQuery, SlowStep, SlowTask};
pub use bulk::{BulkRequest, BulkResponse, BulkResult};
pub use dead_letter::{
    DlqEntry, DlqFigures, DlqFiling, DlqList, DlqQuery, DlqStats, DlqUpdate, Investigation, InvestigationQuery,
    InvestigationQueue, Resolution, ResolutionStatus, StaleTask, StalenessReport,
};
pub use error::{ErrorBody, ErrorDetail};
pub use explain::{Explanation, HandlerInfo, HandlerList, StepExplanation, StepReason, WaitedFor};
pub use health::{CheckStatus, DetailedHealth, Health, HealthCheck};
pub use history::{History, HistoryEntry, HistoryQuery, StepTransition, TaskEvent};
pub use repair::{BulkRepair, BulkRepairReport, RepairFilter, RepairOutcome, RepairedStep};
pub use resource::{BreakerState, ResourceInfo, ResourceList, ResourceQuery, ResourceUpdate};
pub use step::{AttemptError, AttemptOutcome, StepAudit, StepResponse};
pub use task::{
    ExecutionStatus, ListQuery, Pagination, RecommendedAction, TaskHealth, TaskList, TaskOptions, TaskRefusal,
    TaskRequest, TaskResponse, TaskSummary, WaitQuery,
};
pub use template::{
    DeprecateRequest, Deprecation, RegisterRequest, RegisterResponse, TemplateDetail, TemplateList, TemplateListQuery,
    TemplateSummary, TemplateWarning,
};

pub use tasker_lifecycle::{StepState, TaskState};

use serde_json::value::RawValue;

/// JSON text that passes through unread.
pub type RawJson = Box<RawValue>;

/// The text of an empty JSON object, the context of a task that was given none.
#[must_use]
pub fn empty_object() -> RawJson {
    RawValue::from_string("{}".to_owned()).expect("an empty object is JSON")
}
