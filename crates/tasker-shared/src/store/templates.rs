//! Templates: immutable by content hash, pointed to by namespace, name and version.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use semver::Version;
use sqlx::PgConnection;
use tasker_lifecycle::template::{Template, TemplateHash};

use super::StoreError;
use super::tasks::hash;

/// Templates by hash, read once each: content under a hash never changes.
#[derive(Debug, Default)]
pub struct Templates {
    known: RwLock<HashMap<TemplateHash, Arc<Template>>>,
}

impl Templates {
    /// The template with this content.
    ///
    /// # Errors
    /// Where there is none, or this version can't read it.
    pub async fn by_hash(&self, conn: &mut PgConnection, hash: &TemplateHash) -> Result<Arc<Template>, StoreError> {
        if let Some(template) = self.known.read().expect("no panic while held").get(hash) {
            return Ok(template.clone());
        }
        let template =
            by_hash(conn, hash).await?.ok_or_else(|| StoreError::Template(format!("{hash} is not registered")))?;
        Ok(self.remember(template))
    }

    /// Keeps a template that was just read or registered.
    pub fn remember(&self, template: Template) -> Arc<Template> {
        let template = Arc::new(template);
        let mut known = self.known.write().expect("no panic while held");
        known.entry(template.hash).or_insert(template).clone()
    }
}

/// Reads the template with this content.
///
/// # Errors
/// Where the database is away or the content can't be read.
pub async fn by_hash(conn: &mut PgConnection, hash: &TemplateHash) -> Result<Option<Template>, StoreError> {
    let content = sqlx::query_scalar!("SELECT content FROM tasker.templates WHERE hash = $1", &hash.0[..])
        .fetch_optional(conn)
        .await?;
    content.map(|content| read(&content)).transpose()
}

fn read(content: &serde_json::Value) -> Result<Template, StoreError> {
    match tasker_lifecycle::template::from_json(content, None) {
        Ok((template, _)) => Ok(template),
        Err(problems) => Err(StoreError::Template(format!("stored content: {}", problems[0]))),
    }
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// A new version.
    Created,
    /// The same content was there.
    Unchanged,
    /// Other content replaced it; running tasks keep the old one.
    Replaced,
    /// Other content is registered under this version.
    Conflict,
}

/// Registers a template. `replace` lets another content take over its version (development).
///
/// # Errors
/// Where the database refuses or is away.
pub async fn register(conn: &mut PgConnection, template: &Template, replace: bool) -> Result<Registered, StoreError> {
    let (namespace, name) = (template.namespace.as_str(), template.name.as_str());
    let version = template.version.to_string();
    sqlx::query!("INSERT INTO tasker.namespaces (namespace) VALUES ($1) ON CONFLICT DO NOTHING", namespace)
        .execute(&mut *conn)
        .await?;
    sqlx::query!(
        "INSERT INTO tasker.templates (hash, namespace, name, version, content) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT DO NOTHING",
        &template.hash.0[..],
        namespace,
        name,
        version,
        template.to_json()
    )
    .execute(&mut *conn)
    .await?;
    let inserted = sqlx::query!(
        "INSERT INTO tasker.template_versions (namespace, name, version, hash) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
        namespace,
        name,
        version,
        &template.hash.0[..]
    )
    .execute(&mut *conn)
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok(Registered::Created);
    }
    let there = sqlx::query_scalar!(
        "SELECT hash FROM tasker.template_versions WHERE namespace = $1 AND name = $2 AND version = $3 FOR UPDATE",
        namespace,
        name,
        version
    )
    .fetch_one(&mut *conn)
    .await?;
    if there == template.hash.0 {
        return Ok(Registered::Unchanged);
    }
    if !replace {
        return Ok(Registered::Conflict);
    }
    sqlx::query!(
        "UPDATE tasker.template_versions SET hash = $4, registered_at = now()
         WHERE namespace = $1 AND name = $2 AND version = $3",
        namespace,
        name,
        version,
        &template.hash.0[..]
    )
    .execute(conn)
    .await?;
    Ok(Registered::Replaced)
}

/// Which content a request means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// There is no such version, or none at all.
    Unknown,
    /// No version was named, and every one is deprecated.
    AllDeprecated,
    /// This one.
    Found {
        /// Its hash.
        hash: TemplateHash,
        /// Its version.
        version: Version,
        /// Why it should not be used any more.
        deprecated: Option<String>,
    },
}

/// The content of a version, or of the newest by semver where none is named: of those that are not deprecated.
/// Pre-releases are newest only where nothing else is left.
///
/// # Errors
/// Where the database is away.
pub async fn resolve(
    conn: &mut PgConnection,
    namespace: &str,
    name: &str,
    version: Option<&Version>,
) -> Result<Resolved, StoreError> {
    let rows = sqlx::query!(
        "SELECT version, hash, deprecation_reason FROM tasker.template_versions WHERE namespace = $1 AND name = $2",
        namespace,
        name
    )
    .fetch_all(conn)
    .await?;
    let none_known = rows.is_empty();
    let mut known =
        rows.into_iter().filter_map(|row| Some((row.version.parse().ok()?, row.hash, row.deprecation_reason)));
    let chosen: Option<(Version, Vec<u8>, Option<String>)> = match version {
        Some(wanted) => known.find(|(version, ..)| version == wanted),
        None => known
            .filter(|(.., deprecated)| deprecated.is_none())
            .max_by_key(|(version, ..)| (version.pre.is_empty(), version.clone())),
    };
    Ok(match chosen {
        Some((version, bytes, deprecated)) => Resolved::Found { hash: hash(&bytes)?, version, deprecated },
        None if version.is_some() || none_known => Resolved::Unknown,
        None => Resolved::AllDeprecated,
    })
}

/// Deprecates a version, with who and why, or takes that back; answers whether there is such a version. One that is
/// deprecated already gets the new reason.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn deprecate(
    conn: &mut PgConnection,
    (namespace, name, version): (&str, &str, &str),
    by_and_reason: Option<(&str, &str)>,
) -> Result<bool, StoreError> {
    let changed = sqlx::query!(
        "UPDATE tasker.template_versions
         SET deprecated_by = $4, deprecation_reason = $5,
             deprecated_at = CASE WHEN $4::text IS NOT NULL THEN clock_timestamp() END
         WHERE namespace = $1 AND name = $2 AND version = $3",
        namespace,
        name,
        version,
        by_and_reason.map(|(by, _)| by),
        by_and_reason.map(|(_, reason)| reason)
    )
    .execute(conn)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// One registered version.
#[derive(Debug, Clone)]
pub struct Listed {
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
    pub registered_at: chrono::DateTime<chrono::Utc>,
}

/// Every registered version, by namespace, name and version text; at most `limit`.
///
/// # Errors
/// Where the database is away.
pub async fn list(conn: &mut PgConnection, namespace: Option<&str>, limit: i64) -> Result<Vec<Listed>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT v.namespace, v.name, v.version, v.hash, v.registered_at,
                  jsonb_array_length(t.content -> 'steps')::bigint AS "steps!", t.content ->> 'description' AS description
           FROM tasker.template_versions v JOIN tasker.templates t USING (hash)
           WHERE $1::text IS NULL OR v.namespace = $1
           ORDER BY v.namespace, v.name, v.version LIMIT $2"#,
        namespace,
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Listed {
                hash: hash(&row.hash)?,
                namespace: row.namespace,
                name: row.name,
                version: row.version,
                steps: row.steps,
                description: row.description,
                registered_at: row.registered_at,
            })
        })
        .collect()
}
