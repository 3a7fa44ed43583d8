//! Resources that steps share: their limits and circuit breakers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which resources to list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ResourceQuery {
    /// Only those of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Answer of `GET /v1/resources`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct ResourceList {
    /// By namespace and name.
    pub resources: Vec<ResourceInfo>,
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// The resource works.
    Closed,
    /// It has failed again and again; its steps are held until `open_until`.
    Open,
    /// It is being tried: at most `allowed_in_flight` steps at once.
    HalfOpen,
}

/// A resource that steps of a namespace share.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct ResourceInfo {
    /// Whose steps use it.
    pub namespace: String,
    /// What templates call it in `uses`.
    pub name: String,
    /// The most steps that may be enqueued or in progress at once; absent where any number may.
    pub max_in_flight: Option<u32>,
    /// So many failures in a row open the breaker; 0 never does.
    pub failures_to_open: u32,
    /// How long it stays open at first, in milliseconds.
    pub open_ms: u32,
    /// The longest that it stays open, in milliseconds.
    pub max_open_ms: u32,
    /// An operator lets nothing through.
    pub paused: bool,
    /// Its circuit breaker.
    pub breaker: BreakerState,
    /// Failures since the last success, while the breaker is closed.
    pub failures: u32,
    /// When one step is let through to try it, while the breaker is open.
    pub open_until: Option<DateTime<Utc>>,
    /// How many steps may be enqueued or in progress at once, while the breaker is half open.
    pub allowed_in_flight: Option<u32>,
    /// How many steps that use it are enqueued or in progress.
    pub in_flight: u32,
    /// How many steps it holds.
    pub held: i64,
    /// Who gave it its settings last.
    pub set_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When its breaker moved last, or its settings changed.
    pub changed_at: DateTime<Utc>,
}

/// Body of `PATCH /v1/resources/{namespace}/{name}`: what is absent stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceUpdate {
    /// The most steps that may be enqueued or in progress at once, 0 for any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// So many failures in a row open the breaker; 0 never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_to_open: Option<u32>,
    /// How long it stays open at first, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_ms: Option<u32>,
    /// The longest that it stays open, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_open_ms: Option<u32>,
    /// Whether nothing is let through. Attempts that run now run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Closes the breaker by hand.
    #[serde(default)]
    pub close: bool,
    /// Who asks for it; required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_by: Option<String>,
    /// Why; required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
