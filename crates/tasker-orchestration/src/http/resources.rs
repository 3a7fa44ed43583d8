//! `/v1/resources`: what steps share, how it is, and what it may bear.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use tasker_client::types::{BreakerState, ResourceInfo, ResourceList, ResourceQuery, ResourceUpdate};
use tasker_lifecycle::resource::Breaker;
use tasker_shared::store::resources::{self, Known, ResourceKey, Settings};
use tasker_shared::store::to_sql;

use super::error::ApiError;
use super::input::{self, Params};
use super::{Api, Refusals};
use crate::errors::Violation;
use crate::repair::Wrong;
use crate::submit::{NAME_MAX, REASON_MAX};

/// The most that a number in a resource's settings may be; a day in milliseconds.
const MAX: u32 = 86_400_000;

#[utoipa::path(get, path = "/v1/resources", tag = "resources", params(ResourceQuery),
    responses((status = 200, description = "Every resource that a template names in `uses`.", body = ResourceList), Refusals))]
/// Lists resources.
pub(super) async fn list(
    State(api): State<Api>,
    Params(query): Params<ResourceQuery>,
) -> Result<Json<ResourceList>, ApiError> {
    let mut conn = api.engine.pool().acquire().await?;
    let found = resources::list(&mut conn, query.namespace.as_deref(), None).await?;
    Ok(Json(ResourceList { resources: found.into_iter().map(told).collect() }))
}

#[utoipa::path(get, path = "/v1/resources/{namespace}/{name}", tag = "resources",
    params(("namespace" = String, Path, description = "The namespace."), ("name" = String, Path, description = "The resource.")),
    responses((status = 200, description = "The resource.", body = ResourceInfo), Refusals))]
/// One resource.
pub(super) async fn get(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<ResourceInfo>, ApiError> {
    one(&api, &ResourceKey { namespace, name }).await
}

#[utoipa::path(patch, path = "/v1/resources/{namespace}/{name}", tag = "resources", request_body = ResourceUpdate,
    params(("namespace" = String, Path, description = "The namespace."), ("name" = String, Path, description = "The resource.")),
    responses((status = 200, description = "The resource after that.", body = ResourceInfo), Refusals))]
/// Changes what a resource bears, pauses it, or closes its breaker.
pub(super) async fn update(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ResourceInfo>, ApiError> {
    let key = ResourceKey { namespace, name };
    let update: ResourceUpdate = input::json(&headers, &body)?;
    let mut wrong = Wrong::default();
    let by = wrong.required("/set_by", update.set_by, NAME_MAX);
    let reason = wrong.required("/reason", update.reason, REASON_MAX);
    let mut within = |path: &str, given: Option<u32>, least: u32| {
        let given = given?;
        if !(least..=MAX).contains(&given) {
            let message = format!("must be between {least} and {MAX}");
            wrong.0.push(Violation { path: path.to_owned(), message });
        }
        i32::try_from(given).ok()
    };
    let settings = Settings {
        max_in_flight: within("/max_in_flight", update.max_in_flight, 0),
        failures_to_open: within("/failures_to_open", update.failures_to_open, 0),
        open_ms: within("/open_ms", update.open_ms, 1),
        max_open_ms: within("/max_open_ms", update.max_open_ms, 1),
        paused: update.paused,
        close: update.close,
    };
    if !wrong.0.is_empty() {
        return Err(ApiError::invalid(&wrong.0));
    }
    refuse_nul(&key)?;
    let mut conn = api.engine.pool().acquire().await?;
    let found = resources::set(&mut conn, &key, settings, (&by, &reason)).await?;
    drop(conn);
    if !found {
        return Err(ApiError::not_found("resource"));
    }
    // There may be room now, or none any more.
    api.engine.parts.doorbell.take_back();
    one(&api, &key).await
}

async fn one(api: &Api, key: &ResourceKey) -> Result<Json<ResourceInfo>, ApiError> {
    refuse_nul(key)?;
    let mut conn = api.engine.pool().acquire().await?;
    let found = resources::list(&mut conn, Some(&key.namespace), Some(&key.name)).await?;
    let one = found.into_iter().next().ok_or_else(|| ApiError::not_found("resource"))?;
    Ok(Json(told(one)))
}

fn refuse_nul(key: &ResourceKey) -> Result<(), ApiError> {
    let nul = key.namespace.contains('\0') || key.name.contains('\0');
    if nul { Err(ApiError::not_found("resource")) } else { Ok(()) }
}

fn told(known: Known) -> ResourceInfo {
    let resource = known.gate.resource;
    let (mut failures, mut open_until, mut allowed_in_flight) = (0, None, None);
    let breaker = match resource.breaker {
        Breaker::Closed { failures: so_far } => {
            failures = so_far;
            BreakerState::Closed
        }
        Breaker::Open { until, .. } => {
            open_until = Some(to_sql(until));
            BreakerState::Open
        }
        Breaker::HalfOpen { allowed, .. } => {
            allowed_in_flight = Some(allowed);
            BreakerState::HalfOpen
        }
    };
    ResourceInfo {
        namespace: known.key.namespace,
        name: known.key.name,
        max_in_flight: resource.max_in_flight,
        failures_to_open: resource.failures_to_open,
        open_ms: resource.open_ms,
        max_open_ms: resource.max_open_ms,
        paused: resource.paused,
        breaker,
        failures,
        open_until,
        allowed_in_flight,
        in_flight: known.gate.in_flight,
        held: known.held,
        set_by: known.set_by,
        reason: known.reason,
        changed_at: known.changed_at,
    }
}
