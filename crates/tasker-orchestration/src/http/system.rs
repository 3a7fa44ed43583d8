//! How the server is, what it measures, how it is configured, and what it can be asked.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Response};
use chrono::Utc;
use serde_json::Value;
use tasker_client::types::{CheckStatus, DetailedHealth, Health, HealthCheck};

use super::{Api, Refusals};

#[utoipa::path(get, path = "/health/live", tag = "system",
    responses((status = 200, description = "The process answers.", body = Health)))]
/// Whether the process is alive, whatever the database is like.
pub(super) async fn live() -> Json<Health> {
    Json(health(CheckStatus::Healthy))
}

#[utoipa::path(get, path = "/live", tag = "system", operation_id = "live_short",
    responses((status = 200, description = "The process answers.", body = Health)))]
/// The same as `/health/live`.
pub(super) async fn live_short() -> Json<Health> {
    live().await
}

#[utoipa::path(get, path = "/health/ready", tag = "system",
    responses((status = 200, description = "The server takes work.", body = Health),
        (status = 503, description = "The database can't be reached or refuses to store, or the server is stopping.", body = Health)))]
/// Whether the server takes work.
pub(super) async fn ready(State(api): State<Api>) -> (StatusCode, Json<Health>) {
    let status = overall(&checks(&api).await);
    (status_code(status), Json(health(status)))
}

#[utoipa::path(get, path = "/ready", tag = "system", operation_id = "ready_short",
    responses((status = 200, description = "The server takes work.", body = Health),
        (status = 503, description = "The database can't be reached or refuses to store, or the server is stopping.", body = Health)))]
/// The same as `/health/ready`.
pub(super) async fn ready_short(state: State<Api>) -> (StatusCode, Json<Health>) {
    ready(state).await
}

#[utoipa::path(get, path = "/health", tag = "system",
    responses((status = 200, description = "The server takes work.", body = Health),
        (status = 503, description = "The database can't be reached or refuses to store, or the server is stopping.", body = Health)))]
/// How the server is.
pub(super) async fn summary(state: State<Api>) -> (StatusCode, Json<Health>) {
    ready(state).await
}

#[utoipa::path(get, path = "/health/detailed", tag = "system",
    responses((status = 200, description = "The server takes work.", body = DetailedHealth),
        (status = 503, description = "The database can't be reached or refuses to store, or the server is stopping.", body = DetailedHealth)))]
/// How each part of the server is.
pub(super) async fn detailed(State(api): State<Api>) -> (StatusCode, Json<DetailedHealth>) {
    let checks = checks(&api).await;
    let status = overall(&checks);
    let Health { timestamp, version, .. } = health(status);
    let environment = api.engine.config().environment.to_string();
    let uptime_ms = u64::try_from(api.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    (status_code(status), Json(DetailedHealth { status, timestamp, version, environment, uptime_ms, checks }))
}

async fn checks(api: &Api) -> BTreeMap<String, HealthCheck> {
    let began = Instant::now();
    let found = api.engine.health().await;
    let duration_ms = began.elapsed().as_secs_f64() * 1_000.0;
    let check = |status, message: String, duration_ms| HealthCheck { status, message: Some(message), duration_ms };
    let inbox = |waiting: usize| {
        let room = api.engine.config().actor.request_inbox;
        let status = if waiting * 10 > room * 9 { CheckStatus::Degraded } else { CheckStatus::Healthy };
        check(status, format!("{waiting} of at most {room} wait"), 0.0)
    };
    let open = api.engine.parts.database.is_open(Instant::now());
    let database = match (found.database, found.refuses) {
        (false, _) if open => {
            let told = "can't be reached; its breaker is open and requests are refused";
            check(CheckStatus::Unhealthy, told.to_owned(), duration_ms)
        }
        (false, _) => check(CheckStatus::Unhealthy, "can't be reached".to_owned(), duration_ms),
        (true, true) => check(CheckStatus::Unhealthy, "answers, but refuses to store".to_owned(), duration_ms),
        (true, false) => check(CheckStatus::Healthy, "answers".to_owned(), duration_ms),
    };
    let server = if api.shutdown.is_cancelled() {
        check(CheckStatus::Unhealthy, "is stopping".to_owned(), 0.0)
    } else {
        check(CheckStatus::Healthy, "takes work".to_owned(), 0.0)
    };
    let resources = match &found.failed_resources[..] {
        [] => check(CheckStatus::Healthy, "none has failed".to_owned(), 0.0),
        failed => check(CheckStatus::Degraded, format!("steps are held by {}", failed.join(", ")), 0.0),
    };
    BTreeMap::from([
        ("resources".to_owned(), resources),
        ("database".to_owned(), database),
        ("server".to_owned(), server),
        ("task_requests".to_owned(), inbox(found.requests_waiting)),
        ("commands".to_owned(), inbox(found.commands_waiting)),
    ])
}

fn overall(checks: &BTreeMap<String, HealthCheck>) -> CheckStatus {
    let any = |status| checks.values().any(|check| check.status == status);
    if any(CheckStatus::Unhealthy) {
        CheckStatus::Unhealthy
    } else if any(CheckStatus::Degraded) {
        CheckStatus::Degraded
    } else {
        CheckStatus::Healthy
    }
}

fn status_code(status: CheckStatus) -> StatusCode {
    match status {
        CheckStatus::Healthy | CheckStatus::Degraded => StatusCode::OK,
        CheckStatus::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn health(status: CheckStatus) -> Health {
    Health { status, timestamp: Utc::now(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

#[utoipa::path(get, path = "/metrics", tag = "system",
    responses((status = 200, description = "Metrics in the Prometheus text format.", body = String, content_type = "text/plain")))]
/// What the process measures.
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    api.engine.parts.database.show(api.engine.metrics());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.engine.metrics().render()).into_response()
}

#[utoipa::path(get, path = "/config", tag = "system",
    responses((status = 200, description = "Every key with its value; secrets are replaced.", body = Object), Refusals))]
/// The configuration that is in force.
pub(super) async fn config(State(api): State<Api>) -> Json<Value> {
    Json(api.engine.config().redacted())
}

#[utoipa::path(get, path = "/api-docs/openapi.json", tag = "system",
    responses((status = 200, description = "This document.", body = Object)))]
/// The description of this API, OpenAPI 3.1.
pub(super) async fn openapi(State(api): State<Api>) -> Response {
    ([(CONTENT_TYPE, "application/json")], api.openapi.to_string()).into_response()
}

#[utoipa::path(get, path = "/api-docs/ui", tag = "system",
    responses((status = 200, description = "A page for browsers.", body = String, content_type = "text/html")))]
/// The description of this API for people.
pub(super) async fn ui() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    ([(CONTENT_SECURITY_POLICY, policy)], Html(include_str!("ui.html"))).into_response()
}
