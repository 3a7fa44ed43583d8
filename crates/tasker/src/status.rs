//! What a worker in a process of its own tells about itself over HTTP, where `worker.status_address` says: for probes
//! and for Prometheus. A server has all of it in its API.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tasker_shared::telemetry::Metrics;
use tasker_worker::{Status, StatusHandle};

/// What the routes share.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) worker: StatusHandle,
    pub(crate) metrics: Arc<Metrics>,
}

/// The routes, without a server of their own.
pub(crate) fn router(told: Told) -> Router {
    Router::new()
        .route("/health/live", get(|| async { Json(json!({ "status": "healthy" })) }))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(told)
}

/// 503 while the database does not answer or the worker stops: it takes no step then.
async fn ready(State(told): State<Told>) -> (StatusCode, Json<Value>) {
    let Status { id, slots, busy, database_answers, stopping } = told.worker.status();
    let takes_steps = database_answers && !stopping;
    let status = if takes_steps { "healthy" } else { "unhealthy" };
    let code = if takes_steps { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": status, "worker": id, "slots": slots, "busy": busy, "database_answers": database_answers,
        "stopping": stopping,
    });
    (code, Json(body))
}

async fn metrics(State(told): State<Told>) -> Response {
    let Status { slots, busy, .. } = told.worker.status();
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    told.metrics.worker_slots.set(number(slots));
    told.metrics.worker_slots_busy.set(number(busy));
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], told.metrics.render()).into_response()
}
