//! What comes in: ids, queries and bodies, each refused with its place and remedy.

use axum::extract::{FromRequestParts, Query};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::json;
use tasker_lifecycle::{StepId, StepIndex, TaskId};
use tasker_shared::portable::{self, What};
use uuid::Uuid;

use super::error::ApiError;
use crate::errors::Violation;

/// The query of a request as `T`.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(invalid("", "the query contains the character U+0000"));
        }
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                Err(not_a_field(text).unwrap_or_else(|| invalid("", text)))
            }
        }
    }
}

/// A task's id from a path.
pub(super) fn task_id(text: &str) -> Result<TaskId, ApiError> {
    let uuid = uuid(text)?;
    TaskId::try_from(uuid).map_err(|_| ApiError::not_found("task"))
}

/// A step's position from the ids in a path. A step of another task is as unknown as one that never was.
pub(super) fn step_of(task: TaskId, text: &str) -> Result<StepIndex, ApiError> {
    let uuid = uuid(text)?;
    let step = StepId::try_from(uuid).ok().filter(|step| step.task() == task);
    step.map(StepId::index).ok_or_else(|| ApiError::not_found("step"))
}

/// A uuid from a path.
pub(super) fn uuid(text: &str) -> Result<Uuid, ApiError> {
    let shown: String = text.chars().take(64).collect();
    text.parse().map_err(|_| ApiError::bad_request("INVALID_ID", format!("`{shown}` is not a uuid")))
}

/// The body as JSON.
pub(super) fn json<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, ApiError> {
    let media_type = media_type(headers);
    if media_type != "application/json" {
        return Err(unsupported_media_type("application/json"));
    }
    serde_json::from_slice(body).map_err(|error| unreadable(body, &error))
}

/// A part of the body that was kept as text.
pub(super) fn value<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|error| unreadable(text.as_bytes(), &error))
}

/// The media type of the body, without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(super) fn unsupported_media_type(expected: &str) -> ApiError {
    let message = format!("the body must be {expected}, said in Content-Type");
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message)
}

/// Deeper than any body that holds a context or template, so that their own limits speak first.
const BODY_DEPTH: usize = 1_000;

fn unreadable(body: &[u8], error: &serde_json::Error) -> ApiError {
    let text = std::str::from_utf8(body).unwrap_or_default();
    if let Err(offence) = portable::check(text, BODY_DEPTH)
        && offence.what != What::NotJson
    {
        return ApiError::not_portable(&offence);
    }
    let place = json!({ "line": error.line(), "column": error.column() });
    let said = error.to_string();
    match error.classify() {
        Category::Data => {
            let said = said.split(" at line ").next().unwrap_or_default();
            not_a_field(said).unwrap_or_else(|| invalid("", said))
        }
        Category::Syntax | Category::Eof | Category::Io => {
            ApiError::bad_request("MALFORMED_JSON", format!("the body is not JSON: {said}")).with(place)
        }
    }
}

fn invalid(path: &str, message: impl Into<String>) -> ApiError {
    ApiError::invalid(&[Violation { path: path.to_owned(), message: message.into() }])
}

/// The refusal of a field that there is not, with the nearest that there is. Reads what serde says.
fn not_a_field(said: &str) -> Option<ApiError> {
    let rest = said.split_once("unknown field `")?.1;
    let (field, expected) = rest.split_once("`, ").or_else(|| rest.split_once("` "))?;
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::osa_distance(field, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .map(|(_, name)| name);
    let message = match nearest {
        Some(name) => format!("there is no field `{field}`; did you mean `{name}`?"),
        None if known.is_empty() => format!("there is no field `{field}`; none is expected here"),
        None => format!("there is no field `{field}`; there are {}", known.join(", ")),
    };
    let path = format!("/{}", portable::pointer_token(field));
    let violations = json!({ "violations": [Violation { path, message: message.clone() }], "did_you_mean": nearest });
    Some(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "UNKNOWN_FIELD", message).with(violations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_says_of_an_unknown_field_is_understood() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct One {
            #[serde(rename = "priority")]
            _priority: Option<u8>,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        let told = |error: serde_json::Error| not_a_field(&error.to_string()).expect("an unknown field").body("");
        let one = told(serde_json::from_str::<One>(r#"{"prority": 1}"#).expect_err("unknown"));
        assert!(one.contains("did you mean `priority`?"), "{one}");
        let nothing = told(serde_json::from_str::<Nothing>(r#"{"x": 1}"#).expect_err("unknown"));
        assert!(nothing.contains("none is expected here"), "{nothing}");
    }
}
