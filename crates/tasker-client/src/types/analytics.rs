//! Figures on the tasks of the last hours. Execution time is the time in handlers; what waited is not in it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Query of `GET /v1/analytics/performance`.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PerformanceQuery {
    /// Of tasks that were created within so many hours; 24 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 720)]
    pub hours: Option<u32>,
}

/// Answer of `GET /v1/analytics/performance`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Performance {
    /// Tasks created from here on are counted.
    pub period_start: DateTime<Utc>,
    /// When this was computed.
    pub calculated_at: DateTime<Utc>,
    /// Whether there were more tasks or attempts than one answer looks at (20,000 and 200,000): then the figures are
    /// those of the newest, and `period_start` is when the oldest of them was created.
    pub truncated: bool,
    /// Tasks created in this time.
    pub total_tasks: i64,
    /// Those that go on.
    pub active_tasks: i64,
    /// Those that are complete or were resolved.
    pub completed_tasks: i64,
    /// Those that are blocked by failures or ended in error.
    pub failed_tasks: i64,
    /// Those that were cancelled.
    pub cancelled_tasks: i64,
    /// Completed of all that are neither active nor cancelled, from 0 to 1.
    pub completion_rate: f64,
    /// Failed of the same, from 0 to 1.
    pub error_rate: f64,
    /// From creation to completion; what waited is in it.
    pub average_task_duration_seconds: Option<f64>,
    /// In handlers, per attempt.
    pub average_step_duration_seconds: Option<f64>,
    /// Execution times of attempts.
    pub step_execution_ms: Option<ExecutionTimes>,
    /// Attempts that have ended.
    pub attempts: i64,
    /// Steps that an attempt completed.
    pub completed_steps: i64,
    /// Attempts that failed.
    pub failed_attempts: i64,
    /// Attempts whose worker was lost.
    pub lost_attempts: i64,
    /// Tasks created per hour of this time.
    pub tasks_per_hour: f64,
    /// Steps completed per hour of this time.
    pub steps_per_hour: f64,
}

/// Execution times in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct ExecutionTimes {
    /// The median.
    pub p50: f64,
    /// Nineteen of twenty are below.
    pub p95: f64,
    /// Ninety-nine of a hundred are below.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// Query of `GET /v1/analytics/bottlenecks`.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BottlenecksQuery {
    /// At most this many steps and templates; 10 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// Only those that ran at least this often; 5 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000000)]
    pub min_executions: Option<u32>,
    /// Of tasks that were created within so many hours; 24 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 720)]
    pub hours: Option<u32>,
}

/// Answer of `GET /v1/analytics/bottlenecks`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Bottlenecks {
    /// Tasks created from here on are counted.
    pub period_start: DateTime<Utc>,
    /// When this was computed.
    pub calculated_at: DateTime<Utc>,
    /// Steps by mean execution time, the longest first.
    pub slow_steps: Vec<SlowStep>,
    /// Templates by mean time in handlers, the longest first.
    pub slow_tasks: Vec<SlowTask>,
}

/// A step of a template.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct SlowStep {
    /// The template's namespace.
    pub namespace: String,
    /// The template's name.
    pub task_name: String,
    /// The template's version.
    pub version: String,
    /// The step's name.
    pub step_name: Option<String>,
    /// Its handler.
    pub handler: Option<String>,
    /// How often a handler ran.
    pub executions: i64,
    /// How many of these failed, from 0 to 1.
    pub error_rate: f64,
    /// How many of these were not the first attempt, from 0 to 1.
    pub retry_rate: f64,
    /// The mean execution time.
    pub average_ms: f64,
    /// Nineteen of twenty are below.
    pub p95_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// All together.
    pub total_ms: f64,
}

/// The complete tasks of a template.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct SlowTask {
    /// The template's namespace.
    pub namespace: String,
    /// The template's name.
    pub task_name: String,
    /// The template's version.
    pub version: String,
    /// How many there are.
    pub executions: i64,
    /// Time in handlers of one task, all its attempts together, on average.
    pub average_execution_ms: f64,
    /// The greatest of these.
    pub max_execution_ms: f64,
    /// From creation to completion, on average; what waited is in it.
    pub average_duration_ms: f64,
}
