//! Around every route: the request's id, limits, the reading of the body, a time limit, one error body, metrics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::middleware::Next;
use axum::response::IntoResponse;
use futures::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;
use uuid::Uuid;

use super::Api;
use super::error::ApiError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ids of the caller's are replaced by ours.
const REQUEST_ID_MAX: usize = 128;

/// The right to occupy the server, kept for as long as the answer takes.
#[derive(Debug, Clone)]
pub(super) struct Place(#[expect(dead_code, reason = "it is held, not read")] Arc<OwnedSemaphorePermit>);

/// The request's id, for answers that hold refusals of parts.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// The layer.
pub(super) async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response<Body> {
    let started = Instant::now();
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let span = tracing::debug_span!("http", request_id = id.as_str());
    let mut response = match run(&api, request, next, route.as_ref()).instrument(span).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    if let Some(error) = ApiError::behind(&mut response) {
        let allow = response.headers_mut().remove(ALLOW);
        response = error.answer(&id, allow);
        if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
            // The rest of the body is not read, so the connection can't be used again.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let status = response.status();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let labels = [route, known_method(&method), status.as_str()];
    api.engine.metrics().http_seconds.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
    let id = HeaderValue::from_str(&id).expect("printable ASCII");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn run(
    api: &Api,
    mut request: Request,
    next: Next,
    route: Option<&MatchedPath>,
) -> Result<Response<Body>, ApiError> {
    let place = match route {
        Some(route) => place(api, route.as_str())?,
        None => None,
    };
    if place.is_some() && api.engine.parts.database.is_open(Instant::now()) {
        return Err(ApiError::unavailable());
    }
    if let Some(place) = place.clone() {
        request.extensions_mut().insert(place);
    }
    let limit = Duration::from_millis(api.engine.config().web.request_timeout_ms);
    let method = request.method().clone();
    if route.is_some() && !matches!(method, Method::GET | Method::HEAD) {
        request = with_body(request, api.engine.config().web.body_bytes, limit).await?;
    }
    bounded(next.run(request), limit, &method).await
}

/// A handler's answer, whatever becomes of the handler. One that was cut off may have changed something.
async fn bounded(
    handler: impl Future<Output = Response<Body>>,
    limit: Duration,
    method: &Method,
) -> Result<Response<Body>, ApiError> {
    match tokio::time::timeout(limit, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(_panic)) => Err(ApiError::internal()),
        Err(_) if !matches!(*method, Method::GET | Method::HEAD) => Err(ApiError::outcome_unknown()),
        Err(_) => Err(ApiError::timed_out()),
    }
}

/// Long waits have places of their own, so that who waits does not keep out who works. Health and metrics need none:
/// they must answer when all places are taken.
fn place(api: &Api, route: &str) -> Result<Option<Place>, ApiError> {
    if !route.starts_with("/v1/") {
        return Ok(None);
    }
    let waits = route.ends_with("/wait") || route.ends_with("/events");
    let places: &Arc<Semaphore> = if waits { &api.waiting } else { &api.working };
    let permit = Arc::clone(places).try_acquire_owned().map_err(|_| ApiError::overloaded())?;
    Ok(Some(Place(Arc::new(permit))))
}

/// Reads the body up to its limit.
async fn with_body(request: Request, max: usize, limit: Duration) -> Result<Request, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {max} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    };
    let said = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let (parts, body) = request.into_parts();
    let mut chunks = body.into_data_stream();
    let read = async {
        let mut whole = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| ApiError::bad_request("BODY_CUT_OFF", "the body ended before its end"))?;
            if whole.len() + chunk.len() > max {
                return Err(too_large());
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    };
    let slow = || ApiError::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "the body came too slowly");
    let body = tokio::time::timeout(limit, read).await.map_err(|_| slow())??;
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// The caller's id where it can be sent back and logged, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let usable = |id: &&str| (1..=REQUEST_ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    given.filter(usable).map_or_else(|| Uuid::from_u128(rand::random()).to_string(), str::to_owned)
}

fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(handler: impl Future<Output = Response<Body>>, method: Method) -> String {
        let answer = bounded(handler, Duration::from_millis(1), &method).await;
        answer.expect_err("a handler without an answer").body("7")
    }

    #[tokio::test]
    async fn a_handler_that_gives_no_answer_is_answered_for() {
        let panicked = refusal(async { panic!("secret") }, Method::GET).await;
        assert!(panicked.contains("INTERNAL") && !panicked.contains("secret"), "{panicked}");
        let unknown = refusal(std::future::pending(), Method::POST).await;
        assert!(unknown.contains("OUTCOME_UNKNOWN"), "{unknown}");
        let late = refusal(std::future::pending(), Method::GET).await;
        assert!(late.contains("TIMEOUT") && late.contains(r#""request_id":"7""#), "{late}");
    }
}
