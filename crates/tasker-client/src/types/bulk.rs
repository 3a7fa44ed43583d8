//! Many tasks in one request.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ErrorDetail, TaskRequest, TaskSummary};

/// Body of `POST /v1/tasks/bulk`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// At most 1,000; each is created or refused on its own.
    pub tasks: Vec<TaskRequest>,
}

/// Answer of `POST /v1/tasks/bulk`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct BulkResponse {
    /// One entry for each request, in their order.
    pub results: Vec<BulkResult>,
}

/// What became of one of many requests.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct BulkResult {
    /// The position of the request, from 0.
    pub index: u32,
    /// The status that the request would have been answered with alone: 201, 200 or that of its refusal.
    pub status: u16,
    /// The task, where there is one now; its steps are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskSummary>,
    /// What the requester should know, such as that the version it named is deprecated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
}
