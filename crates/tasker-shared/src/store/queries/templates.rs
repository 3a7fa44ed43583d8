//! Registered templates, as lists and details show them.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tasker_lifecycle::template::TemplateHash;

use super::super::StoreError;
use super::super::tasks::hash;
use super::json;

/// One registered version of a template.
#[derive(Debug, Clone)]
pub struct TemplateRecord {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Version, semver.
    pub version: String,
    /// Content hash.
    pub hash: TemplateHash,
    /// How many steps it declares.
    pub steps: i64,
    /// Its description.
    pub description: Option<String>,
    /// When this version was registered last.
    pub registered_at: DateTime<Utc>,
    /// Since when it should not be used any more, who said so and why.
    pub deprecated: Option<(DateTime<Utc>, String, String)>,
}

/// Registered versions by namespace and name, newest version first: `limit` of them after the first `skip`.
///
/// # Errors
/// Where the database is away.
pub async fn templates(
    conn: &mut PgConnection,
    namespace: Option<&str>,
    name: Option<&str>,
    skip: i64,
    limit: i64,
) -> Result<Vec<TemplateRecord>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT v.namespace, v.name, v.version, v.hash, v.registered_at, v.deprecated_at, v.deprecated_by,
                  v.deprecation_reason,
                  jsonb_array_length(t.content -> 'steps')::bigint AS "steps!", t.content ->> 'description' AS description
           FROM tasker.template_versions v JOIN tasker.templates t ON t.hash = v.hash
           CROSS JOIN LATERAL (SELECT split_part(v.version, '+', 1) AS core) c
           WHERE ($1::text IS NULL OR v.namespace = $1) AND ($2::text IS NULL OR v.name = $2)
           ORDER BY v.namespace, v.name, string_to_array(split_part(c.core, '-', 1), '.')::numeric[] DESC,
                    position('-' IN c.core) > 0, v.version DESC
           OFFSET $3 LIMIT $4"#,
        namespace,
        name,
        skip,
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(TemplateRecord {
                hash: hash(&row.hash)?,
                namespace: row.namespace,
                name: row.name,
                version: row.version,
                steps: row.steps,
                description: row.description,
                registered_at: row.registered_at,
                deprecated: deprecation(row.deprecated_at, row.deprecated_by, row.deprecation_reason),
            })
        })
        .collect()
}

/// One version with its canonical content, JSON.
///
/// # Errors
/// Where the database is away.
pub async fn template(
    conn: &mut PgConnection,
    namespace: &str,
    name: &str,
    version: &str,
) -> Result<Option<(TemplateRecord, Box<RawValue>)>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT v.hash, v.registered_at, v.deprecated_at, v.deprecated_by, v.deprecation_reason,
                  t.content::text AS "content!", t.content ->> 'description' AS description,
                  jsonb_array_length(t.content -> 'steps')::bigint AS "steps!"
           FROM tasker.template_versions v JOIN tasker.templates t ON t.hash = v.hash
           WHERE v.namespace = $1 AND v.name = $2 AND v.version = $3"#,
        namespace,
        name,
        version
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let record = TemplateRecord {
        hash: hash(&row.hash)?,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
        steps: row.steps,
        description: row.description,
        registered_at: row.registered_at,
        deprecated: deprecation(row.deprecated_at, row.deprecated_by, row.deprecation_reason),
    };
    Ok(Some((record, json(row.content)?)))
}

fn deprecation(
    at: Option<DateTime<Utc>>,
    by: Option<String>,
    reason: Option<String>,
) -> Option<(DateTime<Utc>, String, String)> {
    Some((at?, by?, reason?))
}
