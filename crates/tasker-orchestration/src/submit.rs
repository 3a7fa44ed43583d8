//! From a request to a submission: the template is found, the input checked, the identity settled. Everything that can
//! be refused is refused here, before the request meets others in a batch.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use semver::Version;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tasker_client::types::TaskRequest;
use tasker_lifecycle::template::{IdentityStrategy, Namespace, Problem, Template, TemplateHash};
use tasker_shared::json_schema::{VIOLATIONS_MAX, Validator, compile, violations};
use tasker_shared::portable;
use tasker_shared::store::StoreError;
use tasker_shared::store::tasks::Details;
use tasker_shared::store::templates::Resolved;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::engine::{Engine, Parts};
use crate::errors::{CreateError, Violation};
use crate::requests::{Created, Submission, SubmissionKey};
use crate::session::Session;

/// How late another server may notice that a newer version was registered.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// More names or schemas than this are forgotten all at once and read again.
const CATALOG_MAX: usize = 4_096;
/// Characters of an idempotency key.
const KEY_MAX: usize = 255;
/// Characters of initiator and source system.
pub(crate) const NAME_MAX: usize = 255;
/// Characters of the reason.
pub(crate) const REASON_MAX: usize = 2_000;
const TAGS_MAX: usize = 64;
const TAG_MAX: usize = 128;
const PRIORITIES: std::ops::RangeInclusive<i16> = -100..=100;
/// Keys that the server derives from the input of strict templates begin with this.
const STRICT: &str = "strict:";

/// Which content a name means just now, and the validators of input schemas.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    names: RwLock<HashMap<String, (Instant, Named)>>,
    schemas: RwLock<HashMap<TemplateHash, Arc<Validator>>>,
}

/// What a name means just now.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) template: Arc<Template>,
    /// What whoever names it should know.
    warning: Option<Arc<str>>,
}

/// A request that became a task, or found it there.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) created: Created,
    pub(crate) template: Arc<Template>,
    pub(crate) context: Arc<RawValue>,
    pub(crate) details: Details,
    pub(crate) priority: i16,
    pub(crate) correlation_id: Option<Uuid>,
    pub(crate) warnings: Vec<String>,
}

impl Engine {
    /// Creates a task, or finds the one that an equal request with the same idempotency key has created. A key that
    /// the caller gives settles the identity, whatever the template's strategy is.
    ///
    /// # Errors
    /// Where the request is not valid, conflicts with another, or could not be carried out.
    pub async fn create(&self, request: TaskRequest) -> Result<Created, CreateError> {
        Ok(self.accept(request).await?.created)
    }

    pub(crate) async fn accept(&self, request: TaskRequest) -> Result<Accepted, CreateError> {
        self.parts.check(&request)?;
        let Named { template, warning } = match self.parts.catalog.fresh(&asked(&request)) {
            Some(named) => named,
            None => {
                let mut conn = self.pool().acquire().await.map_err(|error| unavailable(&error.into()))?;
                self.parts.template(&mut *conn, &request).await.map_err(|error| unavailable(&error))??
            }
        };
        let (submission, answer) = self.parts.submission(&template, request)?;
        let (context, details) = (Arc::clone(&submission.context), submission.details.clone());
        let (priority, correlation_id) = (submission.priority, submission.correlation_id);
        self.submit(submission)?;
        let created = answer.await.unwrap_or(Err(CreateError::OutcomeUnknown))?;
        let warnings = warning.iter().map(ToString::to_string).collect();
        Ok(Accepted { created, template, context, details, priority, correlation_id, warnings })
    }
}

impl Parts {
    /// What is wrong with the request whatever its template is.
    pub(crate) fn check(&self, request: &TaskRequest) -> Result<(), CreateError> {
        let mut found = Vec::new();
        let mut add = |path: &str, message: String| found.push(Violation { path: path.to_owned(), message });
        if let Err(error) = request.namespace.parse::<Namespace>() {
            add("/namespace", error.to_string());
        }
        if let Some(offence) = bad_text(&request.name, 64) {
            add("/name", offence);
        }
        if !PRIORITIES.contains(&request.priority) {
            add("/priority", format!("{} is not between -100 and 100", request.priority));
        }
        let texts = [
            ("/initiator", &request.initiator, NAME_MAX),
            ("/source_system", &request.source_system, NAME_MAX),
            ("/reason", &request.reason, REASON_MAX),
        ];
        for (path, text, max) in texts {
            if let Some(offence) = text.as_deref().and_then(|text| bad_text(text, max)) {
                add(path, offence);
            }
        }
        if let Some(offence) = request.idempotency_key.as_deref().and_then(bad_key) {
            add("/idempotency_key", offence.to_owned());
        }
        if request.tags.len() > TAGS_MAX {
            add("/tags", format!("there are more than {TAGS_MAX}"));
        }
        for (index, tag) in request.tags.iter().enumerate().take(TAGS_MAX) {
            if let Some(offence) = bad_text(tag, TAG_MAX) {
                add(&format!("/tags/{index}"), offence);
            }
        }
        let limits = &self.config.limits;
        let context = request.context.get();
        if !context.starts_with('{') {
            add("/context", "must be an object".to_owned());
        } else if context.len() > limits.payload_bytes {
            add("/context", format!("is larger than {} bytes", limits.payload_bytes));
        } else if let Err(offence) = portable::check(context, limits.json_depth) {
            add(&format!("/context{}", offence.path), offence.what.to_string());
        }
        if found.is_empty() { Ok(()) } else { Err(CreateError::Invalid(found)) }
    }

    /// The template that the request names now.
    pub(crate) async fn template(
        &self,
        conn: &mut impl Session,
        request: &TaskRequest,
    ) -> Result<Result<Named, CreateError>, StoreError> {
        let asked = asked(request);
        if let Some(named) = self.catalog.fresh(&asked) {
            return Ok(Ok(named));
        }
        let version = match request.version.as_deref().map(str::parse::<Version>).transpose() {
            Ok(version) => version,
            Err(error) => {
                let message = format!("is not a version such as 1.0.0: {error}");
                return Ok(Err(CreateError::Invalid(vec![Violation { path: "/version".to_owned(), message }])));
            }
        };
        let (namespace, name) = (request.namespace.clone(), request.name.clone());
        match conn.resolve(&namespace, &name, version.as_ref()).await? {
            Resolved::Unknown => {
                Ok(Err(CreateError::UnknownTemplate { namespace, name, version: request.version.clone() }))
            }
            Resolved::AllDeprecated => Ok(Err(CreateError::AllDeprecated { namespace, name })),
            Resolved::Found { hash, version, deprecated } => {
                let template = conn.template(&self.templates, &hash).await?;
                let warning =
                    deprecated.map(|reason| format!("{namespace}/{name} {version} is deprecated: {reason}").into());
                let named = Named { template, warning };
                self.catalog.remember(asked, named.clone());
                Ok(Ok(named))
            }
        }
    }

    /// A checked request as its actor takes it, and where the answer will come.
    pub(crate) fn submission(
        &self,
        template: &Arc<Template>,
        request: TaskRequest,
    ) -> Result<(Submission, oneshot::Receiver<Result<Created, CreateError>>), CreateError> {
        self.check_input(template, &request.context)?;
        let key = submission_key(template, &request)?;
        let details = Details {
            parent_correlation_id: request.parent_correlation_id,
            initiator: request.initiator,
            source_system: request.source_system,
            reason: request.reason,
            tags: request.tags,
            idempotency_key: request.idempotency_key,
            requested_at: request.requested_at,
            options: None,
        };
        let (reply, answer) = oneshot::channel();
        let (priority, correlation_id) = (request.priority, request.correlation_id);
        let (template, context) = (Arc::clone(template), Arc::from(request.context));
        Ok((Submission { template, context, priority, correlation_id, details, key, reply }, answer))
    }

    fn check_input(&self, template: &Template, context: &RawValue) -> Result<(), CreateError> {
        let Some(validator) = self.catalog.validator(template) else { return Ok(()) };
        let input = read(context)?;
        let offences = violations(&validator, &input, "/context");
        if offences.is_empty() { Ok(()) } else { Err(CreateError::InputSchema(offences)) }
    }
}

impl Catalog {
    /// Forgets what names mean, because one of them was registered anew.
    pub(crate) fn forget(&self) {
        self.names.write().expect("no panic while held").clear();
    }

    fn fresh(&self, asked: &str) -> Option<Named> {
        let names = self.names.read().expect("no panic while held");
        names.get(asked).filter(|(since, _)| since.elapsed() < FRESH_FOR).map(|(_, named)| named.clone())
    }

    fn remember(&self, asked: String, named: Named) {
        let mut names = self.names.write().expect("no panic while held");
        if names.len() >= CATALOG_MAX {
            names.clear();
        }
        names.insert(asked, (Instant::now(), named));
    }

    /// The validator of the input, where the template has a schema that compiles. One that does not was refused at
    /// its registration.
    fn validator(&self, template: &Template) -> Option<Arc<Validator>> {
        let schema = template.input_schema.as_ref()?;
        if let Some(known) = self.schemas.read().expect("no panic while held").get(&template.hash) {
            return Some(Arc::clone(known));
        }
        let validator = Arc::new(compile(schema).ok()?);
        let mut schemas = self.schemas.write().expect("no panic while held");
        if schemas.len() >= CATALOG_MAX {
            schemas.clear();
        }
        schemas.insert(template.hash, Arc::clone(&validator));
        Some(validator)
    }
}

/// What the catalog knows a template by.
fn asked(request: &TaskRequest) -> String {
    format!("{}/{}/{}", request.namespace, request.name, request.version.as_deref().unwrap_or(""))
}

/// What is wrong with the template's schemas.
pub fn schema_problems(template: &Template) -> Vec<Problem> {
    let results = template.steps.iter().enumerate();
    let results =
        results.filter_map(|(at, step)| Some((format!("steps[{at}].result_schema"), step.result_schema.as_ref()?)));
    let input = template.input_schema.as_ref().map(|schema| ("input_schema".to_owned(), schema));
    let named = template.domain_events.iter().enumerate();
    let named = named.filter_map(|(at, event)| Some((format!("domain_events[{at}].schema"), event.schema.as_ref()?)));
    let published = template.steps.iter().enumerate().flat_map(|(step, template)| {
        let events = template.publishes_events.iter().enumerate();
        events.filter_map(move |(at, event)| {
            Some((format!("steps[{step}].publishes_events[{at}].schema"), event.schema.as_ref()?))
        })
    });
    let problem = |(path, schema): (String, &Value)| {
        let error = compile(schema).err()?;
        let remedy = "write a JSON Schema of draft 2020-12; patterns take no look-around and no back-references";
        Some(Problem { code: "schema_invalid", path, line: None, message: error, remedy: remedy.to_owned() })
    };
    input.into_iter().chain(results).chain(named).chain(published).filter_map(problem).take(VIOLATIONS_MAX).collect()
}

fn submission_key(template: &Template, request: &TaskRequest) -> Result<Option<SubmissionKey>, CreateError> {
    if let Some(key) = &request.idempotency_key {
        return Ok(Some(SubmissionKey { key: key.clone(), body_hash: body_hash(request)?, strict: false }));
    }
    match template.identity_strategy {
        IdentityStrategy::AlwaysUnique => Ok(None),
        IdentityStrategy::Strict => {
            let body_hash = input_hash(template, &request.context)?;
            let mut key = STRICT.to_owned();
            body_hash.iter().for_each(|byte| write!(key, "{byte:02x}").expect("a String takes all that is written"));
            Ok(Some(SubmissionKey { key, body_hash, strict: true }))
        }
        IdentityStrategy::CallerProvided => {
            let message = "is required: this template tells its tasks apart by it".to_owned();
            Err(CreateError::Invalid(vec![Violation { path: "/idempotency_key".to_owned(), message }]))
        }
    }
}

/// SHA-256 of everything in the request but the time at which it was made.
fn body_hash(request: &TaskRequest) -> Result<[u8; 32], CreateError> {
    let mut body = serde_json::to_value(request).map_err(too_deep)?;
    body.as_object_mut().expect("a request is an object").remove("requested_at");
    Ok(hash(&body))
}

fn input_hash(template: &Template, context: &RawValue) -> Result<[u8; 32], CreateError> {
    Ok(hash(&serde_json::json!([template.name, template.version.to_string(), read(context)?])))
}

fn read(context: &RawValue) -> Result<Value, CreateError> {
    serde_json::from_str(context.get()).map_err(too_deep)
}

/// Portable JSON is readable, but for nesting that was allowed by the configuration and is too deep to be walked.
fn too_deep(error: serde_json::Error) -> CreateError {
    let message = format!("can't be read: {error}");
    CreateError::Invalid(vec![Violation { path: "/context".to_owned(), message }])
}

fn hash(value: &Value) -> [u8; 32] {
    let mut text = String::new();
    canonical(value, &mut text);
    Sha256::digest(text.as_bytes()).into()
}

/// Sorted keys, no spaces, and one spelling for equal numbers: `1`, `1.0` and `1e0` are the same.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => canonical_object(map, text),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                text.push(if at == 0 { '[' } else { ',' });
                canonical(item, text);
            }
            text.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Value::Number(number) => match number.as_f64() {
            Some(float) => write!(text, "{float}").expect("a String takes all that is written"),
            None => text.push_str(&number.to_string()),
        },
        leaf => write!(text, "{leaf}").expect("a String takes all that is written"),
    }
}

fn canonical_object(map: &Map<String, Value>, text: &mut String) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    text.push('{');
    for (key, value) in entries {
        write!(text, "{}:", Value::from(key.as_str())).expect("a String takes all that is written");
        canonical(value, text);
        text.push(',');
    }
    text.push('}');
}

/// Why a text can't be an idempotency key.
pub(crate) fn bad_key(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        Some("is empty; leave it out or give 1 to 255 printable characters")
    } else if key.chars().count() > KEY_MAX {
        Some("has more than 255 characters")
    } else if key.chars().any(char::is_control) {
        Some("has characters that are not printable")
    } else if key.starts_with(STRICT) {
        Some("begins with `strict:`, which is kept for keys that the server makes")
    } else {
        None
    }
}

pub(crate) fn bad_text(text: &str, max: usize) -> Option<String> {
    match text.chars().count() {
        0 => Some("is empty".to_owned()),
        length if length > max => Some(format!("has more than {max} characters")),
        _ => text.contains('\0').then(|| "contains the character U+0000, which can't be stored".to_owned()),
    }
}

fn unavailable(error: &StoreError) -> CreateError {
    tracing::warn!(%error, "a template can't be read");
    CreateError::Unavailable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_canonical_form() {
        let same = |a: &str, b: &str| {
            let read = |text: &str| hash(&serde_json::from_str(text).expect("JSON"));
            read(a) == read(b)
        };
        assert!(same(r#"{"a": 1, "b": [1.0, "x"]}"#, r#"{"b":[1e0,"\u0078"],"a":1.0}"#));
        assert!(same("9007199254740991", "9007199254740991.0"));
        for (a, b) in [("[]", "{}"), ("[[1],2]", "[1,[2]]"), (r#"["1"]"#, "[1]"), ("0.1", "0.2"), ("null", r#""null""#)]
        {
            assert!(!same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn the_time_of_a_request_is_not_part_of_it() {
        let mut request = TaskRequest::new("shop", "order");
        let before = body_hash(&request).expect("flat");
        request.requested_at = Some(chrono::Utc::now());
        assert_eq!(before, body_hash(&request).expect("flat"));
        request.priority = 1;
        assert_ne!(before, body_hash(&request).expect("flat"));
    }
}
