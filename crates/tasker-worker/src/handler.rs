//! What a handler is given and what it gives back.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tasker_lifecycle::template::{HandlerRef, StepTemplate, Template};
use tasker_lifecycle::{Follows, StepIndex, TaskId};
use tasker_shared::follows::NO_BATCH;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::batches::Batches;
use crate::checkpoints::Checkpoint;
use crate::complete_in::Completion;
use crate::encode;
use crate::events::Publication;
use crate::field::field;

/// User code that runs one step. It may run more than once for the same step: see
/// [`StepContext::idempotency_key`].
#[async_trait]
pub trait StepHandler: Send + Sync + 'static {
    /// Makes one attempt. A panic is a permanent failure; at the end of the step's timeout the future is dropped.
    async fn call(&self, ctx: StepContext) -> Result<StepOutcome, StepError>;

    /// The methods that templates may name (`handler.method`), asked once when the handler is registered. A step that
    /// names another one is not run by it.
    fn methods(&self) -> Vec<&str> {
        vec![HandlerRef::CALL]
    }

    /// Makes one attempt by a method other than `call`, one of [`Self::methods`].
    async fn call_method(&self, method: &str, ctx: StepContext) -> Result<StepOutcome, StepError> {
        let handler = ctx.handler_name();
        Err(StepError::permanent(format!(
            "the handler `{handler}` says that it has the method `{method}` and does not"
        )))
    }
}

/// One attempt of a step, as its handler sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StepContext(pub(crate) Arc<Attempt>);

/// What a [`StepContext`] shows.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) task: TaskId,
    pub(crate) step: StepIndex,
    /// The step of the template that says how this one is run: itself, unless it is a batch worker.
    pub(crate) pattern: StepIndex,
    pub(crate) template: Arc<Template>,
    pub(crate) correlation_id: Uuid,
    /// From 1.
    pub(crate) number: u32,
    /// The last attempt that the step may have.
    pub(crate) limit: u32,
    pub(crate) deadline: Instant,
    pub(crate) cancelled: CancellationToken,
    pub(crate) input: Arc<RawValue>,
    /// The results of all ancestors, parents before children.
    pub(crate) results: Vec<(StepIndex, Arc<RawValue>)>,
    /// The errors of batch workers before this step that failed although it runs.
    pub(crate) failures: Vec<(StepIndex, Arc<RawValue>)>,
    /// The batches that this step or steps before it belong to.
    pub(crate) batches: Vec<Arc<Batches>>,
    /// How far an earlier run got.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// None for a handler that is tested alone.
    pub(crate) completion: Option<Arc<Completion>>,
}

impl StepContext {
    /// The task's context as a value of your own type.
    ///
    /// # Errors
    /// A permanent `validation_error` that names the place: the input will be the same at every attempt.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        serde_json::from_str(self.0.input.get()).map_err(|error| invalid(format!("the task's input: {error}")))
    }

    /// One key of the task's context. An absent key reads as `null`, so an `Option` may be asked for.
    ///
    /// # Errors
    /// A permanent `validation_error` where the key is absent or of another type.
    pub fn get_input<T: DeserializeOwned>(&self, key: &str) -> Result<T, StepError> {
        typed(&self.0.input, &[key], || format!("the task's input `{key}`"))
    }

    /// The task's context as it was given.
    #[must_use]
    pub fn input_value(&self) -> &RawValue {
        &self.0.input
    }

    /// The handler's settings (`initialization` in the template) as a value of your own type.
    ///
    /// # Errors
    /// A permanent `validation_error` that names the place: the settings will be the same at every attempt.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        let settings = &self.template_of_step().handler.initialization;
        T::deserialize(settings).map_err(|error| invalid(format!("the settings: {error}")))
    }

    /// One key of the handler's settings (`initialization` in the template). An absent key reads as `null`.
    ///
    /// # Errors
    /// A permanent `validation_error` where the key is absent or of another type.
    pub fn get_config<T: DeserializeOwned>(&self, key: &str) -> Result<T, StepError> {
        let settings = &self.template_of_step().handler.initialization;
        match settings.get(key) {
            Some(value) => T::deserialize(value).map_err(|error| invalid(format!("the setting `{key}`: {error}"))),
            None => absent(|| format!("the setting `{key}`")),
        }
    }

    /// The result of a step that this one waits for, directly or not. Of a step that was resolved by hand it is
    /// `null`.
    ///
    /// # Errors
    /// A permanent `validation_error` where this step does not wait for one of that name, or the result is of
    /// another type.
    pub fn dependency<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepError> {
        let result = self.result_of(step)?;
        serde_json::from_str(result.get()).map_err(|error| invalid(format!("the result of `{step}`: {error}")))
    }

    /// What lies at `path` in the result of a step that this one waits for. What is absent reads as `null`.
    ///
    /// # Errors
    /// As [`Self::dependency`].
    pub fn dependency_field<T: DeserializeOwned>(&self, step: &str, path: &[&str]) -> Result<T, StepError> {
        typed(self.result_of(step)?, path, || format!("the result of `{step}` at `{}`", path.join(".")))
    }

    /// The name and the result of every step that this one waits for, directly or not, in an order in which they
    /// could have run.
    pub fn dependencies(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        let attempt = &*self.0;
        attempt.results.iter().map(|(step, result)| (attempt.name_of(*step), &**result))
    }

    /// The task.
    #[must_use]
    pub fn task_uuid(&self) -> Uuid {
        self.0.task.uuid()
    }

    /// The step.
    #[must_use]
    pub fn step_uuid(&self) -> Uuid {
        self.0.task.step(self.0.step).uuid()
    }

    /// The task's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.template.namespace.as_str()
    }

    /// The step's name in its template; of a batch worker `<name>_<batch id>`.
    #[must_use]
    pub fn step_name(&self) -> &str {
        self.0.name_of(self.0.step)
    }

    /// The name by which the template calls the handler.
    #[must_use]
    pub fn handler_name(&self) -> &str {
        &self.template_of_step().handler.callable
    }

    /// The method of the handler that runs the step; `call` unless the template names another.
    #[must_use]
    pub fn method_name(&self) -> &str {
        self.template_of_step().handler.method()
    }

    /// Runs through logs, traces, messages and handlers.
    #[must_use]
    pub fn correlation_id(&self) -> Uuid {
        self.0.correlation_id
    }

    /// Which attempt of the step this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.number
    }

    /// The number of the last attempt that the step may have.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.0.limit
    }

    /// Attempts before this one.
    #[must_use]
    pub fn retry_count(&self) -> u32 {
        self.0.number - 1
    }

    /// Whether there was an attempt before this one.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        self.0.number > 1
    }

    /// Whether no attempt will follow, whatever comes of this one.
    #[must_use]
    pub fn is_last_retry(&self) -> bool {
        self.0.number >= self.0.limit
    }

    /// `<task uuid>:<step name>`, the same at every attempt: give it to other systems, so that they recognise a
    /// request that is repeated.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}", self.0.task, self.step_name())
    }

    /// When the attempt's time is over.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// Whether the attempt's outcome will count no more: the task was cancelled, the lease was lost, or the worker
    /// stops and has no time left. Stop then; what is returned is kept as discarded.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.is_cancelled()
    }

    /// Waits until [`Self::is_cancelled`].
    pub async fn cancelled(&self) {
        self.0.cancelled.cancelled().await;
    }

    /// What the outcome will publish.
    pub(crate) fn publication(&self) -> Option<&Publication> {
        self.0.completion.as_ref()?.publication.as_deref()
    }

    fn template_of_step(&self) -> &StepTemplate {
        self.0.template.step(self.0.pattern)
    }

    fn result_of(&self, step: &str) -> Result<&RawValue, StepError> {
        let found = self.0.results.iter().find(|(at, _)| self.0.name_of(*at) == step);
        found.map(|(_, result)| &**result).ok_or_else(|| {
            invalid(format!("the step `{}` waits for no step `{step}`, so it has no result of it", self.step_name()))
        })
    }
}

impl Attempt {
    /// What a step that this one can see is called.
    pub(crate) fn name_of(&self, step: StepIndex) -> &str {
        match self.template.steps.get(step.at()) {
            Some(step) => &step.name,
            None => self.batches.iter().find_map(|batches| batches.name(step)).unwrap_or(NO_BATCH),
        }
    }
}

fn typed<T: DeserializeOwned>(value: &RawValue, path: &[&str], what: impl Fn() -> String) -> Result<T, StepError> {
    let mut value = value;
    for key in path {
        match field(value, key) {
            Some(inner) => value = inner,
            None => return absent(what),
        }
    }
    serde_json::from_str(value.get()).map_err(|error| invalid(format!("{}: {error}", what())))
}

/// Nothing is `null` to whoever takes `null`.
fn absent<T: DeserializeOwned>(what: impl Fn() -> String) -> Result<T, StepError> {
    serde_json::from_str("null").map_err(|_| invalid(format!("{} is missing", what())))
}

fn invalid(message: String) -> StepError {
    StepError::permanent(message).with_class("validation_error")
}

/// What a handler that succeeded returns: the step's result, which later steps read.
#[derive(Debug, Clone)]
pub struct StepOutcome {
    pub(crate) result: Arc<RawValue>,
    pub(crate) metadata: Option<Box<RawValue>>,
    /// What the result leads to; read from it once it is checked.
    pub(crate) follows: Follows,
    /// Where it is no end but a stop on the way.
    pub(crate) checkpoint: Option<Box<RawValue>>,
    /// It was stored by a transaction of the handler's.
    pub(crate) in_transaction: bool,
}

impl StepOutcome {
    /// A success with this result.
    ///
    /// # Errors
    /// A permanent `result_not_serializable` with the path of a value that JSON can't say: it is refused, never
    /// changed into another.
    pub fn success(result: impl Serialize) -> Result<Self, StepError> {
        let result = encode::to_raw(&result).map_err(|error| {
            StepError::permanent(format!("the result: {error}")).with_class("result_not_serializable")
        })?;
        Ok(Self::said(result))
    }

    /// A success with a result that is JSON text already.
    pub(crate) fn said(result: Box<RawValue>) -> Self {
        let (follows, checkpoint) = (Follows::Nothing, None);
        Self { result: result.into(), metadata: None, follows, checkpoint, in_transaction: false }
    }

    /// The same success with something beside the result, which no later step reads.
    #[must_use]
    pub fn with_metadata(self, metadata: serde_json::Value) -> Self {
        Self { metadata: Some(raw(&metadata)), ..self }
    }

    /// The result, JSON text.
    #[must_use]
    pub fn result(&self) -> &RawValue {
        &self.result
    }
}

/// Why an attempt failed, and whether another may succeed.
#[derive(Debug, Clone)]
pub struct StepError {
    pub(crate) message: String,
    pub(crate) class: String,
    pub(crate) code: Option<String>,
    pub(crate) retryable: bool,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) metadata: Option<Box<RawValue>>,
}

impl StepError {
    /// Trying again can't help. Its class is `permanent_error`.
    #[must_use]
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(message, "permanent_error", false)
    }

    /// Trying again may help; the template says when. Its class is `retryable_error`.
    #[must_use]
    pub fn retryable(message: impl Into<String>) -> Self {
        Self::new(message, "retryable_error", true)
    }

    /// Trying again may help, after this time; the template's `max_backoff_ms` caps it.
    #[must_use]
    pub fn retryable_after(message: impl Into<String>, after: Duration) -> Self {
        Self { retry_after: Some(after), ..Self::retryable(message) }
    }

    /// The same error under another class, for whoever counts or filters errors.
    #[must_use]
    pub fn with_class(self, class: impl Into<String>) -> Self {
        Self { class: class.into(), ..self }
    }

    /// The same error with a code of your own.
    #[must_use]
    pub fn with_code(self, code: impl Into<String>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// The same error with whatever else is worth keeping.
    #[must_use]
    pub fn with_metadata(self, metadata: serde_json::Value) -> Self {
        Self { metadata: Some(raw(&metadata)), ..self }
    }

    /// What went wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error's class.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The error's code.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    pub(crate) fn new(message: impl Into<String>, class: &str, retryable: bool) -> Self {
        let (message, class) = (message.into(), class.to_owned());
        Self { message, class, code: None, retryable, retry_after: None, metadata: None }
    }
}

fn raw(value: &serde_json::Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("a JSON value always encodes")
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for StepError {}

/// Errors that `?` turns into a retryable `handler_error`, as an uncaught exception is in other languages.
macro_rules! handler_errors {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for StepError {
            fn from(error: $error) -> Self {
                Self::retryable(error.to_string()).with_class("handler_error")
            }
        }
    )+};
}
handler_errors!(
    serde_json::Error,
    std::io::Error,
    fmt::Error,
    std::num::ParseIntError,
    std::num::ParseFloatError,
    std::num::TryFromIntError,
    std::string::FromUtf8Error,
    std::str::Utf8Error,
    tokio::task::JoinError,
    tokio::time::error::Elapsed,
    sqlx::Error,
    tasker_shared::store::StoreError,
    Box<dyn std::error::Error + Send + Sync>,
);
