//! How a server and its parts are.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a server or one part of it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// Works.
    Healthy,
    /// Works, but slower or with less than it should have.
    Degraded,
    /// Does not work; `/health/ready` answers 503.
    Unhealthy,
}

/// Answer of `/health`, `/health/live` and `/health/ready`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct Health {
    /// How the server is.
    pub status: CheckStatus,
    /// When this was said.
    pub timestamp: DateTime<Utc>,
    /// The server's version.
    pub version: String,
}

/// Answer of `/health/detailed`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct DetailedHealth {
    /// The worst of the checks.
    pub status: CheckStatus,
    /// When this was said.
    pub timestamp: DateTime<Utc>,
    /// The server's version.
    pub version: String,
    /// The environment whose configuration is in force.
    pub environment: String,
    /// Milliseconds since the server became ready.
    pub uptime_ms: u64,
    /// One entry for each part, by its name.
    pub checks: BTreeMap<String, HealthCheck>,
}

/// How one part of the server is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct HealthCheck {
    /// How it is.
    pub status: CheckStatus,
    /// What was found, in words.
    pub message: Option<String>,
    /// How long the check took.
    pub duration_ms: f64,
}
