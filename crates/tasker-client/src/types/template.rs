//! Templates: registering, listing, showing.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Pagination, RawJson};

/// A registered template in a list.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct TemplateSummary {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: Option<String>,
    /// SHA-256 of its canonical content, in hexadecimal.
    pub hash: String,
    /// How many steps a task begins with.
    pub step_count: u32,
    /// When this version was registered.
    pub registered_at: DateTime<Utc>,
    /// That it should not be used any more; absent while it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecation>,
}

/// That a version should not be used any more: no new task takes it unless it names it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Deprecation {
    /// Since when.
    pub at: DateTime<Utc>,
    /// Who said so.
    pub by: String,
    /// Why, and what to use instead.
    pub reason: String,
}

/// Body of `POST /v1/templates/{namespace}/{name}/{version}/deprecate`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeprecateRequest {
    /// Why, and what to use instead; up to 2,000 characters.
    pub reason: String,
    /// Who says so; up to 255 characters.
    pub by: String,
}

/// Answer of `GET /v1/templates`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct TemplateList {
    /// By namespace, name and version, newest version first.
    pub templates: Vec<TemplateSummary>,
    /// Where this page lies.
    pub pagination: Pagination,
}

/// Query of `GET /v1/templates`.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TemplateListQuery {
    /// Only templates of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only templates of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// At most this many templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Answer of `GET /v1/templates/{namespace}/{name}/{version}`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct TemplateDetail {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: Option<String>,
    /// SHA-256 of its canonical content, in hexadecimal.
    pub hash: String,
    /// How many steps a task begins with.
    pub step_count: u32,
    /// When this version was registered.
    pub registered_at: DateTime<Utc>,
    /// That it should not be used any more; absent while it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecation>,
    /// The canonical content, with the overrides of the environment applied.
    #[schema(value_type = Object)]
    pub template: RawJson,
}

/// Body of `POST /v1/templates`: either `{"yaml": "…"}` or `{"template": {…}}`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegisterRequest {
    /// The text of a template file; errors name its lines.
    Yaml(String),
    /// The same document as JSON.
    #[schema(value_type = Object)]
    Template(RawJson),
}

/// Answer of `POST /v1/templates`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct RegisterResponse {
    /// The template's namespace.
    pub namespace: String,
    /// The template's name.
    pub name: String,
    /// The template's version.
    pub version: String,
    /// SHA-256 of its canonical content, in hexadecimal.
    pub hash: String,
    /// Whether this request registered it; false if the same content was there before.
    pub created: bool,
    /// What was accepted but may not be what the author meant.
    pub warnings: Vec<TemplateWarning>,
}

/// Something in a template that was accepted but may not be what the author meant.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct TemplateWarning {
    /// Where in the document, such as `steps[2].retry`.
    pub path: String,
    /// Counted from 1; unknown for JSON.
    pub line: Option<u32>,
    /// In words.
    pub message: String,
}
