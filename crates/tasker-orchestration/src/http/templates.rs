//! `/v1/templates`: list, look, register.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tasker_client::types::{
    DeprecateRequest, Deprecation, Pagination, RegisterRequest, RegisterResponse, TemplateDetail, TemplateList,
    TemplateListQuery, TemplateSummary, TemplateWarning,
};
use tasker_lifecycle::template::{self, Problem, Template, Warning};
use tasker_shared::config::Environment;
use tasker_shared::portable;
use tasker_shared::store::queries::{self, TemplateRecord};
use tasker_shared::store::templates::Registered;

use super::error::ApiError;
use super::input::{self, Params};
use super::{Api, Refusals};
use crate::errors::Violation;
use crate::submit::{NAME_MAX, REASON_MAX, bad_text, schema_problems};

const LIMIT: u32 = 50;
const LIMIT_MAX: u32 = 100;
/// Deeper documents are refused by the reader of templates, with a better message.
const DOCUMENT_DEPTH: usize = 120;

#[utoipa::path(get, path = "/v1/templates", tag = "templates", params(TemplateListQuery),
    responses((status = 200, description = "Registered versions by namespace and name, newest version first.", body = TemplateList), Refusals))]
/// Lists templates.
pub(super) async fn list(
    State(api): State<Api>,
    Params(query): Params<TemplateListQuery>,
) -> Result<Json<TemplateList>, ApiError> {
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let message = "must be between 1 and 100".to_owned();
        return Err(ApiError::invalid(&[Violation { path: "/limit".to_owned(), message }]));
    }
    let skip = query.cursor.as_deref().map_or(Ok(0), read_cursor)?;
    let mut conn = api.engine.pool().acquire().await?;
    let (namespace, name) = (query.namespace.as_deref(), query.name.as_deref());
    let mut found = queries::templates(&mut conn, namespace, name, i64::from(skip), i64::from(limit) + 1).await?;
    drop(conn);
    let has_next = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = has_next.then(|| format!("t{:x}", skip.saturating_add(limit)));
    let pagination = Pagination { limit, next_cursor, has_next, page: None };
    Ok(Json(TemplateList { templates: found.into_iter().map(summary).collect(), pagination }))
}

/// How many versions lie before the page. There are few, so that skipping them is cheap.
fn read_cursor(cursor: &str) -> Result<u32, ApiError> {
    let skip = cursor.strip_prefix('t').and_then(|digits| u32::from_str_radix(digits, 16).ok());
    skip.ok_or_else(|| ApiError::bad_request("INVALID_CURSOR", "the cursor is none that a list has given"))
}

fn summary(record: TemplateRecord) -> TemplateSummary {
    TemplateSummary {
        step_count: u32::try_from(record.steps).unwrap_or(0),
        hash: record.hash.to_string(),
        namespace: record.namespace,
        name: record.name,
        version: record.version,
        description: record.description,
        registered_at: record.registered_at,
        deprecated: record.deprecated.map(deprecation),
    }
}

fn deprecation((at, by, reason): (DateTime<Utc>, String, String)) -> Deprecation {
    Deprecation { at, by, reason }
}

#[utoipa::path(get, path = "/v1/templates/{namespace}/{name}/{version}", tag = "templates",
    params(("namespace" = String, Path, description = "Its namespace."), ("name" = String, Path, description = "Its name."),
        ("version" = String, Path, description = "Its version.")),
    responses((status = 200, description = "The template with its content.", body = TemplateDetail), Refusals))]
/// One version of a template.
pub(super) async fn get(
    State(api): State<Api>,
    Path((namespace, name, version)): Path<(String, String, String)>,
) -> Result<Json<TemplateDetail>, ApiError> {
    let unknown = || ApiError::not_found("template");
    if [&namespace, &name, &version].iter().any(|part| part.contains('\0')) {
        return Err(unknown());
    }
    let mut conn = api.engine.pool().acquire().await?;
    let found = queries::template(&mut conn, &namespace, &name, &version).await?;
    let (record, template) = found.ok_or_else(unknown)?;
    Ok(Json(TemplateDetail {
        hash: record.hash.to_string(),
        namespace,
        name,
        version,
        description: record.description,
        step_count: u32::try_from(record.steps).unwrap_or(0),
        registered_at: record.registered_at,
        deprecated: record.deprecated.map(deprecation),
        template,
    }))
}

#[utoipa::path(post, path = "/v1/templates/{namespace}/{name}/{version}/deprecate", tag = "templates",
    params(("namespace" = String, Path, description = "Its namespace."), ("name" = String, Path, description = "Its name."),
        ("version" = String, Path, description = "Its version.")), request_body = DeprecateRequest,
    responses((status = 200, description = "The version is deprecated, with this reason.", body = TemplateSummary), Refusals))]
/// Deprecates a version: no new task takes it unless it names it, and is warned then.
pub(super) async fn deprecate(
    State(api): State<Api>,
    Path(version): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<TemplateSummary>, ApiError> {
    let DeprecateRequest { reason, by } = input::json(&headers, &body)?;
    let wrong: Vec<Violation> = [("/reason", &reason, REASON_MAX), ("/by", &by, NAME_MAX)]
        .into_iter()
        .filter_map(|(path, text, max)| Some(Violation { path: path.to_owned(), message: bad_text(text, max)? }))
        .collect();
    if !wrong.is_empty() {
        return Err(ApiError::invalid(&wrong));
    }
    set_deprecation(&api, version, Some((&by, &reason))).await
}

#[utoipa::path(delete, path = "/v1/templates/{namespace}/{name}/{version}/deprecate", tag = "templates",
    params(("namespace" = String, Path, description = "Its namespace."), ("name" = String, Path, description = "Its name."),
        ("version" = String, Path, description = "Its version.")),
    responses((status = 200, description = "The version is not deprecated, or not any more.", body = TemplateSummary), Refusals))]
/// Takes a deprecation back.
pub(super) async fn undeprecate(
    State(api): State<Api>,
    Path(version): Path<(String, String, String)>,
) -> Result<Json<TemplateSummary>, ApiError> {
    set_deprecation(&api, version, None).await
}

async fn set_deprecation(
    api: &Api,
    (namespace, name, version): (String, String, String),
    by_and_reason: Option<(&str, &str)>,
) -> Result<Json<TemplateSummary>, ApiError> {
    let unknown = || ApiError::not_found("template");
    let id = (namespace.as_str(), name.as_str(), version.as_str());
    if [id.0, id.1, id.2].iter().any(|part| part.contains('\0')) || !api.engine.deprecate(id, by_and_reason).await? {
        return Err(unknown());
    }
    let mut conn = api.engine.pool().acquire().await?;
    let (record, _) = queries::template(&mut conn, id.0, id.1, id.2).await?.ok_or_else(unknown)?;
    Ok(Json(summary(record)))
}

#[utoipa::path(post, path = "/v1/templates", tag = "templates",
    request_body(content((RegisterRequest = "application/json"), (String = "application/yaml"))),
    responses((status = 201, description = "The version was registered.", body = RegisterResponse),
        (status = 200, description = "The same content was there, or (in the development environment) other content, which was replaced.", body = RegisterResponse),
        Refusals))]
/// Registers a template.
pub(super) async fn register(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<RegisterResponse>), ApiError> {
    let environment = api.engine.config().environment;
    let (template, warnings) = read(&headers, &body, environment)?;
    let broken = schema_problems(&template);
    if !broken.is_empty() {
        return Err(ApiError::template(&broken));
    }
    let (namespace, name) = (template.namespace.to_string(), template.name.clone());
    let (version, hash) = (template.version.to_string(), template.hash.to_string());
    let registered = api.engine.register(template, environment == Environment::Development).await?;
    let created = match registered {
        Registered::Created => true,
        Registered::Unchanged | Registered::Replaced => false,
        Registered::Conflict => {
            let message = format!("{namespace}/{name} {version} is registered with another content; raise the version");
            return Err(ApiError::new(StatusCode::CONFLICT, "TEMPLATE_CONFLICT", message)
                .with(json!({ "namespace": namespace, "name": name, "version": version })));
        }
    };
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let warnings =
        warnings.into_iter().map(|Warning { path, line, message }| TemplateWarning { path, line, message }).collect();
    Ok((status, Json(RegisterResponse { namespace, name, version, hash, created, warnings })))
}

fn read(headers: &HeaderMap, body: &[u8], environment: Environment) -> Result<(Template, Vec<Warning>), ApiError> {
    let refused = |problems: Vec<Problem>| ApiError::template(&problems);
    let environment = Some(environment.name());
    let yaml = match input::media_type(headers).as_str() {
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            let text = std::str::from_utf8(body);
            text.map_err(|_| ApiError::bad_request("INVALID_ENCODING", "the body is not UTF-8"))?.to_owned()
        }
        "application/json" => match input::json(headers, body)? {
            RegisterRequest::Yaml(text) => text,
            RegisterRequest::Template(document) => {
                portable::check(document.get(), DOCUMENT_DEPTH).map_err(|offence| ApiError::not_portable(&offence))?;
                let document: Value = serde_json::from_str(document.get()).expect("portable JSON of bounded depth");
                return template::from_json(&document, environment).map_err(refused);
            }
        },
        _ => return Err(input::unsupported_media_type("application/json or application/yaml")),
    };
    template::parse(&yaml, environment).map_err(refused)
}
