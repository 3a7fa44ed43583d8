//! Requests and answers of the HTTP API, with exactly the field names that go over the wire.
//!
//! Requests refuse unknown fields; answers tolerate them, so that an older client reads a newer server. Payloads that only
//! pass through (context, results, metadata) are kept as the text they came in and are never encoded again.

mod bulk;
mod error;
mod health;
mod history;
mod step;
mod task;
mod template;

pub use bulk::{BulkRequest, BulkResponse, BulkResult};
pub use error::{ErrorBody, ErrorDetail};
pub use health::{CheckStatus, DetailedHealth, Health, HealthCheck};
pub use history::{History, HistoryEntry, HistoryQuery, StepTransition, TaskEvent};
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
