//! A template as the engine runs it: names resolved, defaults filled in, overrides applied.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::canonical;
use crate::dag::Dag;
use crate::ids::StepIndex;
use crate::state::StepState;

/// A validated, immutable template.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Template {
    /// Its steps; the place of a step is its [`StepIndex`].
    pub steps: Vec<StepTemplate>,
    /// Which step waits for which.
    #[serde(skip)]
    pub dag: Dag,
    /// SHA-256 of the canonical content, with the environment's overrides applied.
    #[serde(skip)]
    pub hash: TemplateHash,
    /// Whose queues its steps go to.
    #[serde(rename = "namespace_name")]
    pub namespace: Namespace,
    /// Unique together with namespace and version.
    pub name: String,
    /// Its version.
    pub version: semver::Version,
    /// What it is for.
    pub description: Option<String>,
    /// Author, tags and the like: an object, or null; not acted on.
    pub metadata: Value,
    /// The JSON Schema that a task's context must match.
    pub input_schema: Option<Value>,
    /// When two requests mean the same task.
    pub identity_strategy: IdentityStrategy,
    /// Bounds on a task's life.
    pub lifecycle: Lifecycle,
    /// Events that its steps may publish.
    pub domain_events: Vec<DomainEvent>,
    /// Systems that it talks to; informational.
    pub system_dependencies: SystemDependencies,
    #[serde(skip)]
    pub(super) by_name: HashMap<String, StepIndex>,
    /// The state of each step before a task starts.
    #[serde(skip)]
    pub(crate) initial: Vec<StepState>,
    /// Whether any step names a resource that it uses.
    #[serde(skip)]
    pub uses_resources: bool,
}

/// One step of a template. What it waits for is in the template's [`Dag`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepTemplate {
    /// Unique in its template.
    pub name: String,
    /// What runs it.
    pub handler: HandlerRef,
    /// Which workers of the namespace take it.
    pub pool: Pool,
    /// When it is tried again.
    pub retry: RetryPolicy,
    /// How long one attempt may run.
    #[serde(rename = "timeout_seconds", serialize_with = "as_seconds")]
    pub timeout_ms: u64,
    /// How the engine treats its result.
    #[serde(rename = "type")]
    pub kind: StepKind,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The system that it talks to; informational.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_dependency: Option<String>,
    /// Shared resources (breakers, limits) that it needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<ResourceName>,
    /// Events that its outcome publishes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publishes_events: Vec<PublishedEvent>,
    /// How a batchable step is split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_config: Option<BatchConfig>,
    /// The JSON Schema that its result must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_schema: Option<Value>,
}

/// Which code runs a step, and with which settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HandlerRef {
    /// The name that workers register the handler under.
    pub callable: String,
    /// The method to call, where it is not `call`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The resolver that is asked for the handler first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolver: Option<String>,
    /// The handler's settings: an object.
    pub initialization: Value,
}

impl HandlerRef {
    /// The method that is called where a template names none.
    pub const CALL: &'static str = "call";

    /// The method that is called.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or(Self::CALL)
    }
}

/// `callable`, then `#method` where it is not `call`, then `@resolver` where one is named. Workers announce what they
/// can run in these words.
impl fmt::Display for HandlerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.callable)?;
        if let Some(method) = &self.method {
            write!(f, "#{method}")?;
        }
        match &self.resolver {
            Some(resolver) => write!(f, "@{resolver}"),
            None => Ok(()),
        }
    }
}

/// Whether and when a failed attempt is followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Whether there is ever a second attempt.
    pub retryable: bool,
    /// From 1.
    pub max_attempts: u32,
    /// How waits grow.
    pub backoff: Backoff,
    /// The first wait.
    #[serde(rename = "backoff_base_ms")]
    pub base_ms: u64,
    /// The longest wait.
    #[serde(rename = "max_backoff_ms")]
    pub max_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { retryable: true, max_attempts: 3, backoff: Backoff::Exponential, base_ms: 1000, max_ms: 30_000 }
    }
}

/// Whole seconds stay whole numbers, so that equal times are written alike.
fn as_seconds<S: Serializer>(ms: &u64, to: S) -> Result<S::Ok, S::Error> {
    if ms.is_multiple_of(1000) {
        return to.serialize_u64(ms / 1000);
    }
    to.serialize_f64(Duration::from_millis(*ms).as_secs_f64())
}

/// Bounds on a task's life and what happens when one is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Lifecycle {
    /// From creation to the end.
    pub max_duration_minutes: Option<u64>,
    /// In `waiting_for_dependencies`.
    pub max_waiting_for_dependencies_minutes: Option<u64>,
    /// In `waiting_for_retry`.
    pub max_waiting_for_retry_minutes: Option<u64>,
    /// In `steps_in_process`.
    pub max_steps_in_process_minutes: Option<u64>,
    /// What is done with a task that passed a bound.
    pub staleness_action: StalenessAction,
    /// Whether such a task ends in error.
    pub auto_fail_on_timeout: bool,
    /// Whether such a task gets a dead letter entry.
    pub auto_dlq_on_timeout: bool,
}

/// An event that steps of a template may publish.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DomainEvent {
    /// Its name.
    pub name: String,
    /// What it means.
    pub description: Option<String>,
    /// The JSON Schema of its payload.
    pub schema: Option<Value>,
}

/// An event that a step publishes after an attempt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedEvent {
    /// Its name.
    pub name: String,
    /// After which outcomes.
    pub condition: PublishCondition,
    /// The JSON Schema of its payload.
    pub schema: Option<Value>,
    /// How surely it arrives.
    pub delivery_mode: DeliveryMode,
    /// The publisher to use, where it is not the default one.
    pub publisher: Option<String>,
}

/// Names of systems, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SystemDependencies {
    /// The main one.
    pub primary: Option<String>,
    /// The others.
    pub secondary: Vec<String>,
}

/// How a batchable step is split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchConfig {
    /// Items per batch.
    pub batch_size: u64,
    /// Workers that live at once.
    pub parallelism: u64,
    /// The field that a cursor runs over.
    pub cursor_field: String,
    /// The batch worker step that is made once per batch, where its result does not name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_template: Option<String>,
    /// What one failed batch means for the others.
    pub failure_strategy: FailureStrategy,
}

/// An enum with its spellings in a document: the first of a value is the canonical one.
macro_rules! spelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $spelling:literal $(| $alias:literal)*,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            pub(super) const SPELLINGS: &[(&str, Self)] =
                &[$(($spelling, Self::$variant), $(($alias, Self::$variant),)*)+];

            /// The canonical spelling.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $spelling,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    };
}

spelled! {
    /// How the waits between attempts grow.
    Backoff {
        /// No wait.
        None = "none",
        /// The base times 1, 2, 3, …
        Linear = "linear",
        /// The base times 1, 2, 4, 8, …
        #[default]
        Exponential = "exponential",
        /// The base times 1, 1, 2, 3, 5, …
        Fibonacci = "fibonacci",
    }
}

spelled! {
    /// How the engine treats a step's result.
    StepKind {
        /// Its result is data for those that wait for it.
        #[default]
        Standard = "standard",
        /// Its result names the steps to create.
        Decision = "decision" | "decision_point",
        /// It waits for those of its parents that were created.
        DeferredConvergence = "deferred_convergence" | "deferred",
        /// Its result says how to split the work.
        Batchable = "batchable",
        /// It runs once per batch.
        BatchWorker = "batch_worker",
    }
}

spelled! {
    /// When two requests for the same template mean the same task.
    IdentityStrategy {
        /// Never, but for an equal idempotency key.
        #[default]
        AlwaysUnique = "always_unique",
        /// When their contexts are equal.
        Strict = "strict",
        /// When their idempotency keys are equal; a key is required.
        CallerProvided = "caller_provided",
    }
}

spelled! {
    /// What is done with a task that passed a bound of its life.
    StalenessAction {
        /// A dead letter entry is filed.
        #[default]
        Dlq = "dlq",
        /// The task ends in error.
        Error = "error",
        /// Nothing.
        Nothing = "none",
    }
}

spelled! {
    /// The outcomes after which an event is published.
    PublishCondition {
        /// A success.
        #[default]
        Success = "success",
        /// Any failure.
        Failure = "failure",
        /// A failure that another attempt follows.
        RetryableFailure = "retryable_failure",
        /// A failure that none follows.
        PermanentFailure = "permanent_failure",
        /// Every outcome.
        Always = "always",
    }
}

spelled! {
    /// How surely an event arrives.
    DeliveryMode {
        /// By a queue, in the transaction of the outcome.
        #[default]
        Durable = "durable",
        /// In memory.
        Fast = "fast",
        /// Both.
        Broadcast = "broadcast",
    }
}

spelled! {
    /// What a failed batch means for the others.
    FailureStrategy {
        /// They go on; the convergence sees the failures.
        #[default]
        ContinueOnFailure = "continue_on_failure",
        /// They are cancelled.
        FailFast = "fail_fast",
        /// They go on; the failed one goes to the dead letters.
        Isolate = "isolate",
    }
}

/// A name that workers and queues share: at most 29 characters of `a`–`z`, `0`–`9` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace(String);

/// Which workers of a namespace take a step: 1 to 12 characters of `a`–`z` and `0`–`9`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pool(String);

/// What many steps share and that bears only so much, or fails for all of them at once: 1 to 64 characters of `a`–`z`,
/// `A`–`Z`, `0`–`9`, `_`, `-` and `.`, the first one a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceName(String);

/// A text that breaks the rule for its kind of name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: {rule}")]
pub struct BadName {
    text: String,
    what: &'static str,
    pub(super) rule: &'static str,
}

impl Namespace {
    /// What a namespace may not begin with, because queue names do.
    const RESERVED: [&str; 3] = ["w_", "worker_", "orchestration_"];
}

impl FromStr for Namespace {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |rule| Err(BadName { text: text.into(), what: "namespace", rule });
        if text.len() > 29 {
            return bad("it has at most 29 characters");
        }
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(word) {
            return bad("it is made of a-z, 0-9 and _, beginning with a letter");
        }
        if Self::RESERVED.iter().any(|prefix| text.starts_with(prefix)) {
            return bad("names of queues begin with w_, worker_ and orchestration_");
        }
        Ok(Self(text.into()))
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for Pool {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if (1..=12).contains(&text.len()) && text.chars().all(word) {
            return Ok(Self(text.into()));
        }
        let rule = "it is made of 1 to 12 characters of a-z and 0-9";
        Err(BadName { text: text.into(), what: "pool", rule })
    }
}

impl FromStr for ResourceName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && text.len() <= 64 && text.chars().all(word) {
            return Ok(Self(text.into()));
        }
        let rule = "it is made of 1 to 64 characters of a-z, A-Z, 0-9, _, - and ., beginning with a letter or digit";
        Err(BadName { text: text.into(), what: "resource", rule })
    }
}

macro_rules! named {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}
named!(Namespace);
named!(Pool);
named!(ResourceName);

/// SHA-256 of a template's canonical content; shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateHash(pub [u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a template's hash is 64 hexadecimal digits")]
pub struct NotAHash;

impl fmt::Display for TemplateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TemplateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TemplateHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAHash);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| NotAHash)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for TemplateHash {
    type Error = NotAHash;

    fn try_from(text: String) -> Result<Self, NotAHash> {
        text.parse()
    }
}

impl From<TemplateHash> for String {
    fn from(hash: TemplateHash) -> String {
        hash.to_string()
    }
}

impl Template {
    /// Where the step of this name is.
    #[must_use]
    pub fn step_by_name(&self, name: &str) -> Option<StepIndex> {
        self.by_name.get(name).copied()
    }

    /// The step at `index`.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn step(&self, index: StepIndex) -> &StepTemplate {
        &self.steps[index.at()]
    }

    /// The state of each step before a task starts: pending, or not created where a decision comes before it or it is
    /// only the pattern of batch workers.
    #[must_use]
    pub fn initial_states(&self) -> &[StepState] {
        &self.initial
    }

    /// Whether a batch worker is the pattern of the steps that a batchable one is split into.
    #[must_use]
    pub fn is_worker_of(&self, worker: StepIndex, batchable: StepIndex) -> bool {
        let kind = self.steps.get(worker.at()).map(|step| step.kind);
        kind == Some(StepKind::BatchWorker) && self.dag.parents(worker).contains(&batchable)
    }

    /// The pattern that a batchable step is split into where its result names none.
    #[must_use]
    pub fn worker_of(&self, batchable: StepIndex) -> Option<StepIndex> {
        let named = self.step(batchable).batch_config.as_ref().and_then(|config| config.worker_template.as_deref());
        match named {
            Some(name) => self.step_by_name(name),
            None => self.dag.children(batchable).iter().copied().find(|child| self.is_worker_of(*child, batchable)),
        }
    }

    /// The canonical content: every default written out, no `environments`. Reading it with
    /// [`from_json`](super::from_json) gives an equal template with an equal hash.
    #[must_use]
    pub fn to_json(&self) -> Value {
        canonical::to_json(self)
    }
}
