//! From a document to a template.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::document::{Data, Node};
use super::environment::ALL;
use super::model::{
    Backoff, BatchConfig, DeliveryMode, DomainEvent, FailureStrategy, HandlerRef, IdentityStrategy, Lifecycle,
    Namespace, Pool, PublishCondition, PublishedEvent, ResourceName, RetryPolicy, StalenessAction, StepKind,
    StepTemplate, SystemDependencies,
};
use super::problem::{Findings, Path};
use super::schema;
use super::table::{self, Table};
use crate::ids::MAX_STEPS;
use crate::retry::MAX_BACKOFF_MS;

/// The longest name of a template.
const MAX_NAME: usize = 64;
/// The longest name of a step or an event.
const MAX_STEP_NAME: usize = 128;
/// The most resources of a step.
const MAX_USES: usize = 8;
/// The longest name of a handler.
const MAX_CALLABLE: usize = 256;
/// More attempts than this are a loop, not a retry.
const MAX_ATTEMPTS: u64 = 100;
/// One attempt may run a week.
const MAX_TIMEOUT_MS: u64 = 7 * 24 * 3_600_000;
/// How long one attempt may run where its step does not say.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;
/// Ten years: a bound that keeps arithmetic on minutes safe.
const MAX_MINUTES: u64 = 10 * 366 * 24 * 60;
/// The most items of a batch.
const MAX_BATCH: u64 = 1_000_000_000;
/// The most batch workers that live at once.
const MAX_PARALLELISM: u64 = 10_000;

const KEYS: &[&str] = &[
    "name",
    "namespace_name",
    "version",
    "description",
    "metadata",
    "task_handler",
    "input_schema",
    "identity_strategy",
    "system_dependencies",
    "domain_events",
    "lifecycle",
    "steps",
    "environments",
];
const STEP_KEYS: &[&str] = &[
    "name",
    "description",
    "type",
    "handler",
    "pool",
    "uses",
    "system_dependency",
    "dependencies",
    "depends_on",
    "retry",
    "timeout_seconds",
    "publishes_events",
    "batch_config",
    "result_schema",
];
/// What an environment may change: how steps run, not which steps there are.
pub(super) const OVERRIDE_KEYS: &[&str] =
    &["name", "handler", "pool", "uses", "retry", "timeout_seconds", "batch_config"];
const LIFECYCLE_KEYS: &[&str] = &[
    "max_duration_minutes",
    "max_waiting_for_dependencies_minutes",
    "max_waiting_for_retry_minutes",
    "max_steps_in_process_minutes",
    "staleness_action",
    "auto_fail_on_timeout",
    "auto_dlq_on_timeout",
];
const BATCH_KEYS: &[&str] = &["batch_size", "parallelism", "cursor_field", "worker_template", "failure_strategy"];

/// Everything of a template but its steps.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) namespace: Namespace,
    pub(super) name: String,
    pub(super) version: semver::Version,
    pub(super) description: Option<String>,
    pub(super) metadata: Value,
    pub(super) input_schema: Option<Value>,
    pub(super) identity_strategy: IdentityStrategy,
    pub(super) lifecycle: Lifecycle,
    pub(super) domain_events: Vec<DomainEvent>,
    pub(super) system_dependencies: SystemDependencies,
}

/// Reads all but the steps; `None` where a part is missing that nothing can stand in for.
pub(super) fn head(root: &Node, out: &mut Findings) -> Option<Head> {
    let at = Table::open(root, Path::Root, KEYS, out)?;
    if let Some(old) = at.get("task_handler") {
        let place = Path::Key(&at.at, "task_handler");
        out.warn((&place, old.line), "`task_handler` is not used any more and has no effect; remove it");
    }
    let name = at.identifier("name", MAX_NAME, out).map(str::to_owned);
    let namespace = namespace(&at, out);
    let version = version(&at, out);
    let description = at.owned_text("description", out);
    let metadata = at.object("metadata", out).map_or(Value::Null, Value::Object);
    let input_schema = schema::read(&at, "input_schema", out);
    let identity_strategy = at.choice("identity_strategy", IdentityStrategy::SPELLINGS, out);
    let lifecycle = lifecycle(&at, out);
    let domain_events = domain_events(&at, out);
    let system_dependencies = system_dependencies(&at, out);
    Some(Head {
        namespace: namespace?,
        name: name?,
        version: version?,
        description,
        metadata,
        input_schema,
        identity_strategy,
        lifecycle,
        domain_events,
        system_dependencies,
    })
}

fn namespace(at: &Table<'_>, out: &mut Findings) -> Option<Namespace> {
    if at.get("namespace_name").is_none() {
        at.missing("namespace_name", out);
    }
    let text = at.text("namespace_name", out)?;
    text.parse()
        .map_err(|e: super::BadName| at.problem("namespace_name", "bad_namespace", e.to_string(), "rename it", out))
        .ok()
}

fn version(at: &Table<'_>, out: &mut Findings) -> Option<semver::Version> {
    if at.get("version").is_none() {
        at.missing("version", out);
    }
    let text = at.text("version", out)?;
    let remedy = "write major.minor.patch, such as 1.0.0";
    text.parse()
        .map_err(|e| at.problem("version", "bad_version", format!("`{text}` is not a version: {e}"), remedy, out))
        .ok()
}

fn lifecycle(at: &Table<'_>, out: &mut Findings) -> Lifecycle {
    let Some(node) = at.get("lifecycle") else { return Lifecycle::default() };
    let Some(at) = Table::open(node, Path::Key(&at.at, "lifecycle"), LIFECYCLE_KEYS, out) else {
        return Lifecycle::default();
    };
    let mut minutes = |key| at.whole(key, 1..=MAX_MINUTES, out);
    Lifecycle {
        max_duration_minutes: minutes("max_duration_minutes"),
        max_waiting_for_dependencies_minutes: minutes("max_waiting_for_dependencies_minutes"),
        max_waiting_for_retry_minutes: minutes("max_waiting_for_retry_minutes"),
        max_steps_in_process_minutes: minutes("max_steps_in_process_minutes"),
        staleness_action: at.choice("staleness_action", StalenessAction::SPELLINGS, out),
        auto_fail_on_timeout: at.flag("auto_fail_on_timeout", false, out),
        auto_dlq_on_timeout: at.flag("auto_dlq_on_timeout", false, out),
    }
}

fn domain_events(at: &Table<'_>, out: &mut Findings) -> Vec<DomainEvent> {
    let path = Path::Key(&at.at, "domain_events");
    let mut events = Vec::new();
    let mut seen = HashSet::new();
    for (index, node) in at.list("domain_events", out).iter().enumerate() {
        let Some(at) = Table::open(node, Path::Item(&path, index), &["name", "description", "schema"], out) else {
            continue;
        };
        let (description, schema) = (at.owned_text("description", out), schema::read(&at, "schema", out));
        let Some(name) = at.name("name", MAX_STEP_NAME, out) else { continue };
        if !seen.insert(name) {
            let message = format!("another event is called `{name}` too");
            at.problem("name", "duplicate_name", message, "rename one of them", out);
        }
        events.push(DomainEvent { name: name.into(), description, schema });
    }
    events
}

fn system_dependencies(at: &Table<'_>, out: &mut Findings) -> SystemDependencies {
    let known = &["primary", "secondary"];
    let path = Path::Key(&at.at, "system_dependencies");
    let table = at.get("system_dependencies").and_then(|node| Table::open(node, path, known, out));
    table.map_or_else(SystemDependencies::default, |at| SystemDependencies {
        primary: at.owned_text("primary", out),
        secondary: at.texts("secondary", out),
    })
}

/// The nodes of the steps; empty where there is nothing to read.
pub(super) fn step_nodes<'a>(root: &'a Node, out: &mut Findings) -> &'a [Node] {
    let Some(table) = Table::known(root, Path::Root) else { return &[] };
    let Some(node) = table.get("steps") else {
        table.missing("steps", out);
        return &[];
    };
    let at = Path::Key(&table.at, "steps");
    let Data::List(steps) = &node.data else {
        table::wrong_type(node, &at, "a list", out);
        return &[];
    };
    if steps.len() > MAX_STEPS {
        let message = format!("there are {} steps; at most {MAX_STEPS} are allowed", steps.len());
        out.add("too_many_steps", (&at, node.line), message, "split the template");
        return &[];
    }
    if steps.is_empty() {
        out.add("no_steps", (&at, node.line), "there is no step", "add at least one step");
    }
    steps
}

/// Reads one step; what it depends on is read with the names of all.
pub(super) fn step(node: &Node, at: Path<'_>, out: &mut Findings) -> Option<StepTemplate> {
    let at = Table::open(node, at, STEP_KEYS, out)?;
    let name = at.identifier("name", MAX_STEP_NAME, out);
    if name == Some(ALL) {
        at.problem("name", "bad_name", "`ALL` means every step in overrides", "rename it", out);
    }
    let handler = handler(&at, true, out);
    if handler.is_none() && at.get("handler").is_none() {
        at.missing("handler", out);
    }
    let retry = retry(&at, out);
    Some(StepTemplate {
        kind: at.choice("type", StepKind::SPELLINGS, out),
        pool: pool(&at, out),
        retry,
        timeout_ms: at.seconds("timeout_seconds", MAX_TIMEOUT_MS, out).unwrap_or(DEFAULT_TIMEOUT_MS),
        description: at.owned_text("description", out),
        system_dependency: at.owned_text("system_dependency", out),
        uses: uses(&at, out),
        publishes_events: publishes_events(&at, out),
        batch_config: batch_config(&at, out),
        result_schema: schema::read(&at, "result_schema", out),
        name: name?.to_owned(),
        handler: handler?,
    })
}

/// Checks the values that an environment gives for a step.
pub(super) fn override_of_step(node: &Node, at: Path<'_>, out: &mut Findings) {
    let Some(at) = Table::open(node, at, OVERRIDE_KEYS, out) else { return };
    handler(&at, false, out);
    pool(&at, out);
    retry(&at, out);
    at.seconds("timeout_seconds", MAX_TIMEOUT_MS, out);
    uses(&at, out);
    batch_config(&at, out);
}

/// A handler as a mapping, or as its name alone. `whole` is false for overrides, which need no name.
fn handler(at: &Table<'_>, whole: bool, out: &mut Findings) -> Option<HandlerRef> {
    let node = at.get("handler")?;
    if let Data::Text(_) = node.data {
        let callable = at.name("handler", MAX_CALLABLE, out)?.to_owned();
        let initialization = Value::Object(Map::new());
        return Some(HandlerRef { callable, method: None, resolver: None, initialization });
    }
    let known = &["callable", "method", "resolver", "initialization"];
    let at = Table::open(node, Path::Key(&at.at, "handler"), known, out)?;
    let optional =
        |key, out: &mut Findings| at.get(key).and_then(|_| at.name(key, MAX_CALLABLE, out)).map(str::to_owned);
    let method = optional("method", out).filter(|method| method != HandlerRef::CALL);
    let resolver = optional("resolver", out);
    let initialization = Value::Object(at.object("initialization", out).unwrap_or_default());
    if !whole && at.get("callable").is_none() {
        return None;
    }
    let callable = at.name("callable", MAX_CALLABLE, out)?.to_owned();
    Some(HandlerRef { callable, method, resolver, initialization })
}

fn pool(at: &Table<'_>, out: &mut Findings) -> Pool {
    let Some(text) = at.text("pool", out) else { return Pool::default() };
    text.parse().unwrap_or_else(|e: super::BadName| {
        at.problem("pool", "bad_pool", e.to_string(), "rename it", out);
        Pool::default()
    })
}

/// The resources of a step; every one is locked whenever its ticket is sent or decided on.
fn uses(at: &Table<'_>, out: &mut Findings) -> Vec<ResourceName> {
    let list = Path::Key(&at.at, "uses");
    let items = at.list("uses", out);
    let names = table::texts(items, &list, out);
    if names.len() > MAX_USES {
        let message = format!("{} resources, at most {MAX_USES} are allowed", names.len());
        at.problem("uses", "too_many", message, "name those that fail or fill up", out);
    }
    let name = |(index, text): (usize, &str)| {
        let name = text.parse();
        if let Err(error) = &name {
            let error: &super::BadName = error;
            out.add("bad_resource", (&Path::Item(&list, index), items[index].line), error.to_string(), "rename it");
        }
        name.ok()
    };
    names.into_iter().filter_map(name).collect()
}

fn retry(at: &Table<'_>, out: &mut Findings) -> RetryPolicy {
    let default = RetryPolicy::default();
    let known = &["retryable", "max_attempts", "backoff", "backoff_base_ms", "max_backoff_ms"];
    let Some(node) = at.get("retry") else { return default };
    let Some(at) = Table::open(node, Path::Key(&at.at, "retry"), known, out) else { return default };
    let attempts = at.whole("max_attempts", 0..=MAX_ATTEMPTS, out);
    let mut wait = |key| at.whole(key, 0..=MAX_BACKOFF_MS, out);
    let (base, max) = (wait("backoff_base_ms"), wait("max_backoff_ms"));
    // A first wait above the default maximum is meant as it is written; above a stated one it is a mistake.
    let base_ms = base.unwrap_or_else(|| max.map_or(default.base_ms, |max| max.min(default.base_ms)));
    let max_ms = max.unwrap_or(default.max_ms.max(base_ms));
    if base_ms > max_ms {
        let message = format!("the first wait of {base_ms} ms is longer than the longest of {max_ms} ms");
        at.problem("backoff_base_ms", "out_of_range", message, "raise max_backoff_ms", out);
    }
    RetryPolicy {
        retryable: at.flag("retryable", default.retryable, out),
        max_attempts: attempts.map_or(default.max_attempts, |n| u32::try_from(n.max(1)).unwrap_or(u32::MAX)),
        backoff: at.choice("backoff", Backoff::SPELLINGS, out),
        base_ms,
        max_ms,
    }
}

fn publishes_events(at: &Table<'_>, out: &mut Findings) -> Vec<PublishedEvent> {
    let path = Path::Key(&at.at, "publishes_events");
    let known = &["name", "condition", "schema", "delivery_mode", "publisher"];
    let items = at.list("publishes_events", out).iter().enumerate();
    let mut events = Vec::new();
    for (index, node) in items {
        let Some(at) = Table::open(node, Path::Item(&path, index), known, out) else { continue };
        let name = at.name("name", MAX_STEP_NAME, out);
        let condition = at.choice("condition", PublishCondition::SPELLINGS, out);
        let schema = schema::read(&at, "schema", out);
        let delivery_mode = at.choice("delivery_mode", DeliveryMode::SPELLINGS, out);
        let publisher = at.owned_text("publisher", out);
        let Some(name) = name.map(str::to_owned) else { continue };
        events.push(PublishedEvent { name, condition, schema, delivery_mode, publisher });
    }
    events
}

fn batch_config(at: &Table<'_>, out: &mut Findings) -> Option<BatchConfig> {
    let node = at.get("batch_config")?;
    let at = Table::open(node, Path::Key(&at.at, "batch_config"), BATCH_KEYS, out)?;
    Some(BatchConfig {
        batch_size: at.whole("batch_size", 1..=MAX_BATCH, out).unwrap_or(1000),
        parallelism: at.whole("parallelism", 1..=MAX_PARALLELISM, out).unwrap_or(10),
        cursor_field: at.owned_text("cursor_field", out).unwrap_or_else(|| "id".into()),
        worker_template: at.owned_text("worker_template", out),
        failure_strategy: at.choice("failure_strategy", FailureStrategy::SPELLINGS, out),
    })
}
