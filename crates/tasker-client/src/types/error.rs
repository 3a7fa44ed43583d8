//! The one body of every refusal.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What every refused request is answered with.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The refusal.
    pub error: ErrorDetail,
}

/// Why a request was refused, and where to look it up.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable, upper case with underscores, such as `NOT_FOUND`; programs branch on this.
    pub code: String,
    /// One sentence for people, with the remedy.
    pub message: String,
    /// What belongs to the code, such as the failing paths of a validation; an empty object if there is nothing to add.
    #[serde(default = "empty_details")]
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
    /// The `X-Request-Id` of the answer, to be found in the server's logs.
    pub request_id: String,
}

fn empty_details() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

impl fmt::Display for ErrorDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}
