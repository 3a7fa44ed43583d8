//! Which domain events an outcome publishes, and who hears the fast ones.
//!
//! They are worked out with the report and go with it: nothing is published of a report that is not accepted.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tasker_lifecycle::template::{DeliveryMode, PublishCondition, PublishedEvent};
use tasker_lifecycle::{StepIndex, Timestamp};
use tasker_shared::config::Config;
use tasker_shared::events::{DomainEvent, EventOutcome, Published, Subscribers, Subscription};
use tasker_shared::json_schema::{Validator, violations};
use tasker_shared::messages::{Claim, ReportedOutcome, StepFailure};
use tasker_shared::portable;
use tasker_shared::store::to_sql;
use tasker_shared::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::mapped::{Asked, Kind, Mapped, Said};
use crate::plans::Plan;

/// Events that wait for one subscriber: enough for a burst, and no more than some megabytes of ordinary results.
const INBOX: usize = 1024;

/// What is published instead of the event's own payload; `None` publishes nothing.
type MapPayload = dyn Fn(&DomainEvent) -> Option<Value> + Send + Sync;

/// A payload mapping.
#[derive(Clone)]
pub(crate) enum Publisher {
    Here(Arc<MapPayload>),
    /// In another language: what it made of the event comes with the outcome.
    Beyond,
}

/// What a subscriber does with an event.
type Hear = Arc<dyn Fn(Arc<DomainEvent>) -> BoxFuture<'static, ()> + Send + Sync>;

/// A subscriber as it was registered.
#[derive(Clone)]
pub(crate) struct Subscriber {
    glob: String,
    hear: Hear,
}

impl Subscriber {
    pub(crate) fn new<F, Fut>(glob: String, hear: F) -> Self
    where
        F: Fn(Arc<DomainEvent>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self { glob, hear: Arc::new(move |event| hear(event).boxed()) }
    }
}

/// A subscriber with its inbox.
pub(crate) struct Listener {
    subscriber: Subscriber,
    inbox: mpsc::Receiver<Arc<DomainEvent>>,
}

/// Opens an inbox for each subscriber.
pub(crate) fn open(subscribers: &[Subscriber], metrics: &Metrics) -> (Subscribers, Vec<Listener>) {
    let (mut subscriptions, mut listeners) = (Vec::new(), Vec::new());
    for subscriber in subscribers {
        let (sender, inbox) = mpsc::channel(INBOX);
        subscriptions.push(Subscription { glob: subscriber.glob.clone(), inbox: sender });
        listeners.push(Listener { subscriber: subscriber.clone(), inbox });
    }
    (Subscribers::new(subscriptions, metrics), listeners)
}

/// Hands a subscriber its events one after another; after `stop` those that are there already. A panic of its costs it
/// the one event.
pub(crate) async fn listen(listener: Listener, stop: CancellationToken) {
    let Listener { subscriber: Subscriber { glob, hear }, mut inbox } = listener;
    loop {
        let event = tokio::select! {
            biased;
            event = inbox.recv() => event,
            () = stop.cancelled(), if !inbox.is_closed() => {
                inbox.close();
                continue;
            }
        };
        let Some(event) = event else { return };
        let heard = AssertUnwindSafe(async { hear(event).await }).catch_unwind().await;
        if heard.is_err() {
            tracing::error!(glob, "a subscriber panicked; the event is lost to it");
        }
    }
}

/// What publications of one worker share.
pub(crate) struct Publishing {
    pub(crate) publishers: HashMap<String, Publisher>,
    pub(crate) subscribers: Subscribers,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What the outcome of a claimed step will publish.
pub(crate) struct Publication {
    shared: Arc<Publishing>,
    plan: Arc<Plan>,
    pattern: StepIndex,
    /// The last attempt that the step may have.
    limit: u32,
    step_name: String,
    /// By publishers in other languages.
    pub(crate) said: Said,
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication").field("step", &self.step_name).finish_non_exhaustive()
    }
}

/// The events of an outcome; none where the step publishes none.
pub(crate) fn of(
    publication: Option<&Publication>,
    claim: &Claim,
    outcome: &ReportedOutcome,
    ended_at: Timestamp,
) -> Vec<Published> {
    publication.map(|publication| publication.events(claim, outcome, ended_at)).unwrap_or_default()
}

impl Publication {
    /// None for a step that publishes nothing, so that it costs nothing.
    pub(crate) fn new(
        shared: &Arc<Publishing>,
        plan: &Arc<Plan>,
        (pattern, limit): (StepIndex, u32),
        step_name: &str,
    ) -> Option<Arc<Self>> {
        if plan.template.step(pattern).publishes_events.is_empty() {
            return None;
        }
        let (shared, plan) = (Arc::clone(shared), Arc::clone(plan));
        let (step_name, said) = (step_name.to_owned(), Said::default());
        Some(Arc::new(Self { shared, plan, pattern, limit, step_name, said }))
    }

    /// What publishers in other languages are to be asked about.
    pub(crate) fn asked(&self, attempt: u32) -> Vec<Asked<'_>> {
        let declared = self.plan.template.step(self.pattern).publishes_events.iter();
        let asked = declared.filter(|declared| self.heard(declared)).filter_map(|declared| {
            let publisher = declared.publisher.as_deref()?;
            let Publisher::Beyond = self.shared.publishers.get(publisher)? else { return None };
            let on: Vec<Kind> =
                Kind::ALL.into_iter().filter(|kind| self.applies(declared.condition, attempt, *kind)).collect();
            let (name, condition, delivery_mode) = (&declared.name, declared.condition, declared.delivery_mode);
            (!on.is_empty()).then_some(Asked { name, publisher, condition, delivery_mode, on })
        });
        asked.collect()
    }

    fn heard(&self, declared: &PublishedEvent) -> bool {
        declared.delivery_mode != DeliveryMode::Fast || self.shared.subscribers.want(&declared.name)
    }

    fn events(&self, claim: &Claim, outcome: &ReportedOutcome, ended_at: Timestamp) -> Vec<Published> {
        let declared = &self.plan.template.step(self.pattern).publishes_events;
        let (kind, mut events) = (Kind::of(outcome), Vec::new());
        for (declared, validator) in declared.iter().zip(self.plan.event_validators(self.pattern)) {
            if !self.heard(declared) || !self.applies(declared.condition, claim.attempt, kind) {
                continue;
            }
            let event = self.plain(declared, claim, outcome, ended_at);
            match self.mapped(declared, kind, event).and_then(|event| valid(validator.as_ref(), event)) {
                Ok(Some(event)) => {
                    events.push(Published { event: Arc::new(event), delivery: declared.delivery_mode });
                }
                Ok(None) => {}
                Err(why) => {
                    self.shared.metrics.domain_events.with_label_values(&["invalid"]).inc();
                    tracing::warn!(event = declared.name, task = %claim.task, step = self.step_name, why,
                        "an event is not published");
                }
            }
        }
        events
    }

    /// By the rule that the server decides on the attempt with.
    fn applies(&self, condition: PublishCondition, attempt: u32, outcome: Kind) -> bool {
        let succeeded = outcome == Kind::Success;
        let retried =
            outcome == Kind::Retryable && self.plan.template.step(self.pattern).retry.retryable && attempt < self.limit;
        match condition {
            PublishCondition::Always => true,
            PublishCondition::Success => succeeded,
            PublishCondition::Failure => !succeeded,
            PublishCondition::RetryableFailure => retried,
            PublishCondition::PermanentFailure => !succeeded && !retried,
        }
    }

    /// The event with its own payload.
    fn plain(
        &self,
        declared: &PublishedEvent,
        claim: &Claim,
        outcome: &ReportedOutcome,
        ended_at: Timestamp,
    ) -> DomainEvent {
        let (payload, error_type) = match outcome {
            ReportedOutcome::Success { result, .. } => ((**result).to_owned(), None),
            ReportedOutcome::Failure { error, .. } => (raw(error), Some(error.error_type.clone())),
            ReportedOutcome::LeaseLost => {
                let message = "its attempts were used up by workers that died".to_owned();
                let error = StepFailure { message, error_type: "lease_lost".to_owned(), error_code: None };
                (raw(&error), Some(error.error_type))
            }
        };
        let template = &self.plan.template;
        DomainEvent {
            event_id: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
            name: declared.name.clone(),
            namespace: template.namespace.to_string(),
            template: template.name.clone(),
            version: template.version.to_string(),
            task_uuid: claim.task.uuid(),
            step_uuid: claim.task.step(claim.step).uuid(),
            step_name: self.step_name.clone(),
            attempt: claim.attempt,
            correlation_id: claim.correlation_id,
            outcome: if error_type.is_none() { EventOutcome::Success } else { EventOutcome::Failure },
            error_type,
            occurred_at: to_sql(ended_at),
            payload,
            metadata: None,
        }
    }

    /// The event as its publisher wants it.
    fn mapped(
        &self,
        declared: &PublishedEvent,
        outcome: Kind,
        event: DomainEvent,
    ) -> Result<Option<DomainEvent>, String> {
        let Some(name) = &declared.publisher else { return Ok(Some(event)) };
        // Without it the step would not have been run here.
        let publisher = self.shared.publishers.get(name).ok_or_else(|| format!("no publisher `{name}`"))?;
        let mapped = match publisher {
            Publisher::Here(publisher) => {
                let payload = catch_unwind(AssertUnwindSafe(|| publisher(&event)));
                let payload = payload.map_err(|_| format!("the publisher `{name}` panicked"))?;
                payload.map_or(Mapped::Nothing, |payload| Mapped::Payload { payload: raw(&payload), metadata: None })
            }
            Publisher::Beyond => self.said.of(outcome, &declared.name, name)?,
        };
        match mapped {
            Mapped::Payload { payload, metadata } => {
                self.acceptable("payload", &payload)?;
                metadata.as_ref().map_or(Ok(()), |metadata| self.acceptable("metadata", metadata))?;
                Ok(Some(DomainEvent { payload, metadata, ..event }))
            }
            Mapped::Nothing => Ok(None),
            Mapped::Failed(why) => Err(format!("the publisher `{name}` failed: {why}")),
        }
    }

    fn acceptable(&self, what: &str, json: &RawValue) -> Result<(), String> {
        let limits = &self.shared.config.limits;
        if json.get().len() > limits.payload_bytes {
            return Err(format!("the {what} is larger than {} bytes", limits.payload_bytes));
        }
        let checked = portable::check(json.get(), limits.json_depth);
        checked.map_err(|offence| format!("the {what} at `{}` {}", offence.path, offence.what))
    }
}

/// The event if its payload matches its schema.
fn valid(
    validator: Option<&Result<Validator, String>>,
    event: Option<DomainEvent>,
) -> Result<Option<DomainEvent>, String> {
    let (Some(validator), Some(checked)) = (validator, &event) else { return Ok(event) };
    let validator = validator.as_ref().map_err(|error| format!("its schema: {error}"))?;
    let payload = checked.payload::<Value>().map_err(|error| error.to_string())?;
    match violations(validator, &payload, "").first() {
        None => Ok(event),
        Some(offence) => Err(format!("the payload does not match its schema: {}: {}", offence.path, offence.message)),
    }
}

fn raw(value: &impl serde::Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("strings and JSON values always encode")
}
