//! The form of the boundary's messages: JSON in both directions, as docs/boundary.md gives it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use serde::de::{DeserializeOwned, Error, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tasker_lifecycle::template::{BatchConfig, StepTemplate};
use tasker_shared::events::DomainEvent;
use uuid::Uuid;

use super::BoundaryError;
use super::desk::{Answer, Batch, Id, Notice, Pulse, Taken, Told, Verdict};
use super::rehearsal::Rehearsal;
use super::resolvers::{Answered, Question};
use crate::batches::Cursor;
use crate::checkpoints::Checkpoint;
use crate::handler::{StepError, StepOutcome};
use crate::mapped::{Asked, Mapped, Mapping};
use crate::worker::Status;

/// The longest `retry_after_ms`: a year. The template's `max_backoff_ms` caps it anyway.
const LONGEST_MS: u64 = 365 * 24 * 3_600_000;

/// What a worker is started with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    pub(super) version: u32,
    /// The methods of each handler, by the name that templates call.
    pub(super) handlers: BTreeMap<String, Vec<String>>,
    /// The names of what finds handlers that are not registered, in the order in which they are asked.
    #[serde(default)]
    pub(super) resolvers: Vec<String>,
    /// The names of payload mappings.
    #[serde(default)]
    pub(super) publishers: BTreeSet<String>,
    /// Globs of the fast and broadcast events that are wanted.
    #[serde(default)]
    pub(super) subscriptions: BTreeSet<String>,
    /// Variables of the configuration, which win over those of the environment.
    #[serde(default)]
    pub(super) variables: BTreeMap<String, String>,
    /// Steps to measure with, in place of a database's.
    pub(super) rehearsal: Option<Rehearsal>,
}

pub(super) fn read<T: DeserializeOwned>(message: &str) -> Result<T, BoundaryError> {
    serde_json::from_str(message).map_err(|error| BoundaryError::Message(error.to_string()))
}

fn written(message: &impl Serialize) -> String {
    serde_json::to_string(message).expect("strings, numbers and stored JSON always encode")
}

/// One step to run.
#[derive(Serialize)]
struct Step<'a> {
    id: String,
    task_uuid: Uuid,
    step_uuid: Uuid,
    correlation_id: Uuid,
    namespace: &'a str,
    template: &'a str,
    template_version: String,
    step_name: &'a str,
    handler_name: &'a str,
    method: &'a str,
    resolver: Option<&'a str>,
    attempt: u32,
    max_attempts: u32,
    idempotency_key: String,
    ms_left: u64,
    cancelled: bool,
    input: &'a RawValue,
    step_config: &'a Value,
    dependency_results: Named<'a>,
    checkpoint: Option<&'a Checkpoint>,
    batch_config: Option<&'a BatchConfig>,
    batch: Option<OneBatch<'a>>,
    batch_workers: BTreeMap<&'a str, Vec<&'a str>>,
    batch_failures: Named<'a>,
    publishes: Vec<Asked<'a>>,
}

/// An object whose keys keep their order.
struct Named<'a>(Vec<(&'a str, &'a RawValue)>);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().copied())
    }
}

/// The batch of a batch worker.
#[derive(Serialize)]
struct OneBatch<'a> {
    is_no_op: bool,
    #[serde(flatten)]
    cursor: Option<&'a Cursor>,
}

impl<'a> Step<'a> {
    fn new(Taken { id, ctx, resolver }: &'a Taken) -> Self {
        let attempt = &*ctx.0;
        let step: &StepTemplate = attempt.template.step(attempt.pattern);
        let batch = ctx.batch().ok().map(|batch| OneBatch { is_no_op: batch.is_no_op(), cursor: batch.cursor() });
        let present: HashSet<&str> = ctx.dependencies().map(|(name, _)| name).collect();
        let workers = attempt.batches.iter().map(|batches| {
            let names = batches.names().filter(|name| present.contains(name)).collect();
            (attempt.template.step(batches.worker()).name.as_str(), names)
        });
        Self {
            id: id.to_string(),
            task_uuid: ctx.task_uuid(),
            step_uuid: ctx.step_uuid(),
            correlation_id: ctx.correlation_id(),
            namespace: ctx.namespace(),
            template: &attempt.template.name,
            template_version: attempt.template.version.to_string(),
            step_name: ctx.step_name(),
            handler_name: ctx.handler_name(),
            method: ctx.method_name(),
            resolver: resolver.as_deref(),
            attempt: ctx.attempt(),
            max_attempts: ctx.max_attempts(),
            idempotency_key: ctx.idempotency_key(),
            ms_left: milliseconds(ctx.deadline().saturating_duration_since(Instant::now())),
            cancelled: ctx.is_cancelled(),
            input: ctx.input_value(),
            step_config: &step.handler.initialization,
            dependency_results: Named(ctx.dependencies().collect()),
            checkpoint: ctx.checkpoint(),
            batch_config: step.batch_config.as_ref(),
            batch,
            batch_workers: workers.collect(),
            batch_failures: Named(ctx.batch_failures().map(|failure| (failure.step, failure.error)).collect()),
            publishes: ctx.publication().map_or_else(Vec::new, |publication| publication.asked(ctx.attempt())),
        }
    }
}

/// What a poll answers, in its parts.
#[derive(Serialize)]
struct Said<'a> {
    steps: Vec<Step<'a>>,
    notices: Vec<Value>,
    events: Vec<Event<'a>>,
    questions: &'a [Question],
}

#[derive(Serialize)]
struct Event<'a> {
    subscription: &'a str,
    event: &'a DomainEvent,
}

/// What a poll answers.
pub(super) fn batch(batch: &Batch) -> String {
    let steps: Vec<Step<'_>> = batch.steps.iter().map(Step::new).collect();
    let notices: Vec<Value> = batch
        .notices
        .iter()
        .map(|(id, notice)| {
            let notice = match notice {
                Notice::Cancelled => "cancelled",
                Notice::TimedOut => "timed_out",
                Notice::Dropped => "dropped",
            };
            json!({"id": id.to_string(), "notice": notice})
        })
        .collect();
    let events = batch.events.iter().map(|Told { glob, event, .. }| Event { subscription: glob, event });
    written(&Said { steps, notices, events: events.collect(), questions: &batch.questions })
}

/// What is handed in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Complete {
    /// Each still to be read.
    pub(super) outcomes: Vec<Box<RawValue>>,
    /// What resolvers have.
    #[serde(default)]
    pub(super) answers: Vec<Answered>,
}

/// What every outcome begins with.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    events: Vec<Published>,
}

/// What a publisher made of one event: a `payload`, nothing (`skip`), or an `error`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    name: String,
    publisher: String,
    #[serde(default, deserialize_with = "even_null")]
    payload: Option<Box<RawValue>>,
    metadata: Option<Box<RawValue>>,
    #[serde(default)]
    skip: bool,
    error: Option<String>,
}

fn even_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Success,
    Failure,
    Decision,
    Batches,
    CheckpointYield,
}

macro_rules! outcome_forms {
    ($($(#[$doc:meta])* $form:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $form {
            #[serde(rename = "id")]
            _id: IgnoredAny,
            #[serde(rename = "type")]
            _type: IgnoredAny,
            #[serde(default, rename = "events")]
            _events: IgnoredAny,
            $($(#[$attribute])* $field: $type),*
        }
    )*};
}

outcome_forms! {
    Success { result: Option<Box<RawValue>>, metadata: Option<Box<RawValue>> }
    Failure {
        message: String,
        retryable: bool,
        error_type: Option<String>,
        error_code: Option<String>,
        retry_after_ms: Option<u64>,
        metadata: Option<Box<RawValue>>,
    }
    /// No steps skips every branch.
    Decision { step_names: Vec<String>, result: Option<Box<RawValue>>, metadata: Option<Box<RawValue>> }
    /// No cursors is nothing to do.
    Batches {
        cursor_configs: Vec<Box<RawValue>>,
        worker_template_name: Option<String>,
        total_items: Option<u64>,
        result: Option<Box<RawValue>>,
        metadata: Option<Box<RawValue>>,
    }
    CheckpointYield {
        cursor: Option<Box<RawValue>>,
        items_processed: u64,
        accumulated_results: Option<Box<RawValue>>,
    }
}

/// One outcome. One that is not understood although its id is fails its attempt for good: nobody else will answer it.
pub(super) fn outcome(text: &RawValue) -> Result<(Id, Answer), BoundaryError> {
    #[derive(Deserialize)]
    struct Who {
        id: String,
    }
    let who: Who = read(text.get())?;
    let id = who.id.parse().map_err(|why| BoundaryError::Message(format!("`{}`: {why}", who.id)))?;
    let answer = answer(text.get()).unwrap_or_else(|error| {
        let error = StepError::permanent(format!("the outcome is not understood: {error}"));
        Answer { returned: Err(error.with_class("invalid_outcome")), events: Vec::new() }
    });
    Ok((id, answer))
}

fn answer(text: &str) -> Result<Answer, serde_json::Error> {
    let Head { kind, events } = serde_json::from_str(text)?;
    if matches!(kind, Kind::CheckpointYield) && !events.is_empty() {
        return Err(serde_json::Error::custom("a checkpoint publishes nothing"));
    }
    let events = events.into_iter().map(mapping).collect::<Result<_, _>>()?;
    Ok(Answer { returned: returned(kind, text)?, events })
}

fn mapping(published: Published) -> Result<Mapping, serde_json::Error> {
    let Published { name, publisher, payload, metadata, skip, error } = published;
    let mapped = match (payload, skip, error) {
        (Some(payload), false, None) => Mapped::Payload { payload, metadata },
        (None, true, None) => Mapped::Nothing,
        (None, false, Some(error)) => Mapped::Failed(error),
        _ => return Err(serde_json::Error::custom("an event has one of `payload`, `skip` and `error`")),
    };
    Ok(Mapping { name, publisher, mapped })
}

fn returned(kind: Kind, text: &str) -> Result<Result<StepOutcome, StepError>, serde_json::Error> {
    Ok(match kind {
        Kind::Success => {
            let Success { result, metadata, .. } = serde_json::from_str(text)?;
            Ok(success(result, metadata))
        }
        Kind::Failure => Err(failure(serde_json::from_str(text)?)),
        Kind::Decision => {
            let Decision { step_names, result, metadata, .. } = serde_json::from_str(text)?;
            let outcome = match step_names.is_empty() {
                true => json!({"type": "no_branches"}),
                false => json!({"type": "create_steps", "step_names": step_names}),
            };
            beside(result, "decision_point_outcome", &outcome.to_string()).map(|result| success(Some(result), metadata))
        }
        Kind::Batches => {
            let batches: Batches = serde_json::from_str(text)?;
            let outcome = split(&batches);
            let Batches { result, metadata, .. } = batches;
            beside(result, "batch_processing_outcome", &outcome).map(|result| success(Some(result), metadata))
        }
        Kind::CheckpointYield => {
            let CheckpointYield { cursor, items_processed, accumulated_results, .. } = serde_json::from_str(text)?;
            StepOutcome::checkpoint_yield(cursor, items_processed, accumulated_results)
        }
    })
}

fn success(result: Option<Box<RawValue>>, metadata: Option<Box<RawValue>>) -> StepOutcome {
    let result = result.unwrap_or_else(|| RawValue::NULL.to_owned());
    StepOutcome { metadata, ..StepOutcome::said(result) }
}

fn failure(failure: Failure) -> StepError {
    let Failure { message, retryable, error_type, error_code, retry_after_ms, metadata, .. } = failure;
    let class = match (error_type.filter(|class| !class.is_empty()), retryable) {
        (Some(class), _) => class,
        (None, true) => "retryable_error".to_owned(),
        (None, false) => "permanent_error".to_owned(),
    };
    let retry_after = retry_after_ms.map(|ms| Duration::from_millis(ms.min(LONGEST_MS)));
    StepError { message, class, code: error_code, retryable, retry_after, metadata }
}

/// What a batchable step's result says, with its cursors exactly as they were given.
fn split(batches: &Batches) -> String {
    #[derive(Serialize)]
    struct Said<'a> {
        r#type: &'static str,
        worker_count: usize,
        cursor_configs: &'a [Box<RawValue>],
        #[serde(skip_serializing_if = "Option::is_none")]
        worker_template_name: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        total_items: Option<u64>,
    }
    let Batches { cursor_configs, worker_template_name, total_items, .. } = batches;
    if cursor_configs.is_empty() {
        return json!({"type": "no_batches"}).to_string();
    }
    let worker_template_name = worker_template_name.as_deref();
    let (r#type, worker_count, total_items) = ("create_batches", cursor_configs.len(), *total_items);
    written(&Said { r#type, worker_count, cursor_configs, worker_template_name, total_items })
}

/// Puts one more key into an object without reading the others: what they say would not survive it unchanged.
fn beside(result: Option<Box<RawValue>>, key: &str, outcome: &str) -> Result<Box<RawValue>, StepError> {
    let object = result.as_ref().map_or("{}", |result| result.get());
    let refused = || {
        let message = format!("what stands beside `{key}` must be an object");
        StepError::permanent(message).with_class("result_not_serializable")
    };
    let rest = object.trim_start().strip_prefix('{').ok_or_else(refused)?;
    let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
    RawValue::from_string(format!("{{\"{key}\":{outcome}{comma}{rest}")).map_err(|_| refused())
}

/// What became of outcomes.
pub(super) fn verdicts(verdicts: &[Verdict]) -> String {
    let named = |verdict: &Verdict| match verdict {
        Verdict::Accepted => "accepted",
        Verdict::Over => "over",
        Verdict::Unknown => "unknown",
    };
    json!({"verdicts": verdicts.iter().map(named).collect::<Vec<_>>()}).to_string()
}

/// The ids in a message.
pub(super) fn ids(message: &str) -> Result<Vec<Id>, BoundaryError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ids {
        ids: Vec<String>,
    }
    let ids = read::<Ids>(message)?.ids;
    let parsed = ids.iter().map(|id| id.parse().map_err(|why| BoundaryError::Message(format!("`{id}`: {why}"))));
    parsed.collect()
}

/// How attempts and the worker are.
pub(super) fn pulses(pulses: &[(Id, Pulse)], running: usize, worker: Option<&Status>) -> String {
    let said = |(id, pulse): &(Id, Pulse)| {
        let (state, left) = match pulse {
            Pulse::Running(left) => ("running", Some(milliseconds(*left))),
            Pulse::Cancelled(left) => ("cancelled", Some(milliseconds(*left))),
            Pulse::Over => ("over", None),
            Pulse::Unknown => ("unknown", None),
        };
        json!({"id": id.to_string(), "state": state, "ms_left": left})
    };
    let (database_answers, stopping) = worker.map_or((false, false), |said| (said.database_answers, said.stopping));
    let worker = json!({"running": running, "database_answers": database_answers, "stopping": stopping});
    json!({"attempts": pulses.iter().map(said).collect::<Vec<_>>(), "worker": worker}).to_string()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
