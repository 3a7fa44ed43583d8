//! Refusals: one body for all of them.
//!
//! A handler answers with an [`ApiError`]; the guard around all routes writes its body, because only there the id of
//! the request is known. What the framework refuses by itself gets the same body there.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use tasker_client::types::{ErrorBody, ErrorDetail};
use tasker_lifecycle::Refused;
use tasker_lifecycle::template::Problem;
use tasker_shared::portable::Offence;
use tasker_shared::store::StoreError;

use crate::errors::{CommandError, CreateError, Violation};

/// When to try again where nothing better is known.
const RETRY_AFTER_MS: u64 = 1_000;

/// A refusal.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Value,
    retry_after_ms: Option<u64>,
}

/// Marks a response whose body the guard is to write.
#[derive(Debug, Clone)]
pub(super) struct Refusal(Arc<ApiError>);

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: json!({}), retry_after_ms: None }
    }

    pub(super) fn with(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// The same refusal in better words.
    pub(super) fn saying(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    fn later(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("there is no such {what}"))
    }

    pub(super) fn invalid(violations: &[Violation]) -> Self {
        let message = "the request is not valid; details.violations says where";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_REQUEST", message)
            .with(json!({ "violations": violations }))
    }

    pub(super) fn not_portable(offence: &Offence) -> Self {
        let violation = Violation { path: offence.path.clone(), message: offence.what.to_string() };
        Self::invalid(&[violation])
    }

    pub(super) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn template(problems: &[Problem]) -> Self {
        let message = "the template is not valid; details.problems lists what to change";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_TEMPLATE", message).with(json!({ "problems": problems }))
    }

    pub(super) fn overloaded() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", "too many requests are being served; try again later")
            .later(RETRY_AFTER_MS)
    }

    pub(super) fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the database can't be reached; nothing was changed")
            .later(RETRY_AFTER_MS)
    }

    pub(super) fn timed_out() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "TIMEOUT", "the answer took too long; try again later")
            .later(RETRY_AFTER_MS)
    }

    pub(super) fn outcome_unknown() -> Self {
        let message = "whether this took effect is not known; a request with an idempotency key may be sent again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "OUTCOME_UNKNOWN", message).later(RETRY_AFTER_MS)
    }

    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "STOPPING", "the server is stopping; nothing was changed")
            .later(RETRY_AFTER_MS)
    }

    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "the server failed; its log says why")
    }

    /// What the framework refused, by the status that it chose.
    fn of_status(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::NOT_FOUND => ("NOT_FOUND", "there is no such route; /api-docs/ui lists all"),
            StatusCode::METHOD_NOT_ALLOWED => ("METHOD_NOT_ALLOWED", "this route does not take this method; see Allow"),
            StatusCode::INTERNAL_SERVER_ERROR => return Self::internal(),
            _ => ("BAD_REQUEST", "the request can't be understood"),
        };
        Self::new(status, code, message)
    }

    /// The refusal that a response stands for, if it is one. An answer in JSON says by itself what is wrong, as the
    /// health of a server without its database does.
    pub(super) fn behind(response: &mut Response<Body>) -> Option<Self> {
        let status = response.status();
        match response.extensions_mut().remove::<Refusal>() {
            Some(Refusal(error)) => Some(Arc::unwrap_or_clone(error)),
            None if response.headers().get(CONTENT_TYPE).is_some_and(|of| of == "application/json") => None,
            None if status.is_client_error() || status.is_server_error() => Some(Self::of_status(status)),
            None => None,
        }
    }

    /// The answer with its body.
    pub(super) fn answer(self, request_id: &str, allow: Option<HeaderValue>) -> Response<Body> {
        let (retry_after_ms, status) = (self.retry_after_ms, self.status);
        let mut response = Response::new(Body::from(self.body(request_id)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(ms) = retry_after_ms {
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        if let Some(allow) = allow {
            headers.insert(ALLOW, allow);
        }
        response
    }

    /// The body as JSON text.
    pub(super) fn body(self, request_id: &str) -> String {
        let error = self.detail(request_id);
        serde_json::to_string(&ErrorBody { error }).expect("strings and JSON values always encode")
    }

    /// What the body says.
    pub(super) fn detail(self, request_id: &str) -> ErrorDetail {
        let Self { code, message, details, .. } = self;
        ErrorDetail { code: code.to_owned(), message, details, request_id: request_id.to_owned() }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Refusal(Arc::new(self)));
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_transient() {
            tracing::warn!(%error, "a request could not be served");
            return Self::unavailable();
        }
        tracing::error!(%error, "a request failed");
        Self::internal()
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let refused = |status| Self::new(status, error.code(), error.to_string()).with(error.details());
        match error {
            CreateError::UnknownTemplate { .. } => refused(StatusCode::NOT_FOUND),
            CreateError::InputSchema(_) | CreateError::KeyConflict { .. } => refused(StatusCode::UNPROCESSABLE_ENTITY),
            CreateError::Duplicate { .. } | CreateError::AllDeprecated { .. } => refused(StatusCode::CONFLICT),
            CreateError::NotStorable => Self::internal(),
            CreateError::Invalid(violations) => Self::invalid(&violations),
            CreateError::Overloaded { retry_after_ms } => Self::overloaded().later(retry_after_ms),
            CreateError::Unavailable => Self::unavailable(),
            CreateError::OutcomeUnknown => Self::outcome_unknown(),
            CreateError::Stopping => Self::stopping(),
        }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NotFound => Self::not_found("task"),
            CommandError::NoSuchStep => Self::not_found("step"),
            CommandError::Invalid(violations) => Self::invalid(&violations),
            CommandError::Refused(refused) => refused.into(),
            CommandError::Overloaded { retry_after_ms } => Self::overloaded().later(retry_after_ms),
            CommandError::Unavailable => Self::outcome_unknown(),
            CommandError::Stopping => Self::stopping(),
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::AlreadyEnded(state) => {
                Self::new(StatusCode::CONFLICT, "TASK_ENDED", message).with(json!({ "status": state }))
            }
            Refused::NotRepairable(_, state) => {
                Self::new(StatusCode::CONFLICT, "STEP_STATE", message).with(json!({ "current_state": state }))
            }
            Refused::UnknownStep(_) => Self::not_found("step"),
            Refused::AttemptZero | Refused::BadOutcome(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_REQUEST", message)
            }
        }
    }
}
