//! Domain events: what the outcomes of steps tell other programs.
//!
//! A durable event is a message of its namespace's queue, sent by the commit that accepts the attempt. A fast one goes to
//! the subscribers in the worker's process after that commit, and is forgotten where nobody takes it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use pgmq_notify::QueueName;
use prometheus::IntCounter;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tasker_lifecycle::template::DeliveryMode;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::telemetry::Metrics;

/// An event: the body of its message, and what subscribers are given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DomainEvent {
    /// Tells events apart: a reader that sees the same one twice knows it by this.
    pub event_id: Uuid,
    /// Its name in the template.
    pub name: String,
    /// The task's namespace.
    pub namespace: String,
    /// The task's template.
    pub template: String,
    /// Which version of it.
    pub version: String,
    /// The task.
    pub task_uuid: Uuid,
    /// The step.
    pub step_uuid: Uuid,
    /// What the step is called.
    pub step_name: String,
    /// Which attempt of the step it was, from 1.
    pub attempt: u32,
    /// The task's.
    pub correlation_id: Uuid,
    /// What came of the attempt.
    pub outcome: EventOutcome,
    /// The error's class, after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// When the attempt ended.
    pub occurred_at: DateTime<Utc>,
    /// The step's result or error, or what a publisher made of it.
    pub payload: Box<RawValue>,
    /// What its publisher says beside the payload: an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Box<RawValue>>,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventOutcome {
    /// The handler returned a result.
    Success,
    /// It did not.
    Failure,
}

/// An event with the ways in which it goes.
#[derive(Debug, Clone)]
pub struct Published {
    /// The event.
    pub event: Arc<DomainEvent>,
    /// By queue, in memory, or both.
    pub delivery: DeliveryMode,
}

/// The queue of a namespace's durable events.
#[must_use]
pub fn queue(namespace: &str) -> QueueName {
    QueueName::new(format!("{namespace}_domain_events")).expect("namespaces are bounded so that it is a queue's name")
}

impl DomainEvent {
    /// The queue that it goes to.
    #[must_use]
    pub fn queue(&self) -> QueueName {
        queue(&self.namespace)
    }

    /// The message's body.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and JSON text always encode")
    }

    /// The payload as a value of your own type.
    ///
    /// # Errors
    /// Where it is of another type.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.payload.get())
    }
}

impl Published {
    /// Whether it goes by queue.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.delivery != DeliveryMode::Fast
    }

    /// Whether it goes to subscribers in the process.
    #[must_use]
    pub fn is_fast(&self) -> bool {
        self.delivery != DeliveryMode::Durable
    }
}

/// Counts the durable ones among the events of an accepted report.
pub fn count(events: &[Published], metrics: &Metrics) {
    let durable = events.iter().filter(|published| published.is_durable()).count();
    if durable > 0 {
        metrics.domain_events.with_label_values(&["published"]).inc_by(durable as u64);
    }
}

/// Who hears fast events in this process. Each has an inbox of its own, so that a slow one holds up no other.
#[derive(Debug, Clone)]
pub struct Subscribers {
    subscriptions: Arc<[Subscription]>,
    delivered: IntCounter,
    dropped: IntCounter,
}

/// What one subscriber hears, and where.
#[derive(Debug)]
pub struct Subscription {
    /// Names of events, as in [`matches`].
    pub glob: String,
    /// The inbox.
    pub inbox: mpsc::Sender<Arc<DomainEvent>>,
}

impl Subscribers {
    /// Subscribers whose events are counted here.
    #[must_use]
    pub fn new(subscriptions: Vec<Subscription>, metrics: &Metrics) -> Self {
        let counter = |fate| metrics.domain_events.with_label_values(&[fate]);
        Self { subscriptions: subscriptions.into(), delivered: counter("delivered"), dropped: counter("dropped") }
    }

    /// Whether anybody wants events of this name.
    #[must_use]
    pub fn want(&self, name: &str) -> bool {
        self.subscriptions.iter().any(|subscription| matches(&subscription.glob, name))
    }

    /// Hands the fast ones among the events of an accepted report to whoever wants them. Never waits: what does not fit
    /// into an inbox is dropped.
    pub fn deliver(&self, events: &[Published]) {
        for Published { event, .. } in events.iter().filter(|published| published.is_fast()) {
            for subscription in self.subscriptions.iter().filter(|s| matches(&s.glob, &event.name)) {
                match subscription.inbox.try_send(Arc::clone(event)) {
                    Ok(()) => self.delivered.inc(),
                    Err(_) => self.dropped.inc(),
                }
            }
        }
    }
}

/// Whether a whole name matches a glob: `*` stands for any number of characters, `?` for one, the rest for itself.
#[must_use]
pub fn matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut at, mut next) = (0, 0);
    // The last `*` and the end of what it stands for. On a mismatch it takes one more character; earlier ones need not.
    let mut star = None;
    while next < name.len() {
        match glob.get(at) {
            Some('*') => {
                star = Some((at, next));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[next] => (at, next) = (at + 1, next + 1),
            _ => {
                let Some((star_at, end)) = star else { return false };
                star = Some((star_at, end + 1));
                (at, next) = (star_at + 1, end + 1);
            }
        }
    }
    glob[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn event(name: &str, delivery: DeliveryMode) -> Published {
        let nil = Uuid::nil();
        let event = json!({"event_id": nil, "name": name, "namespace": "n", "template": "t", "version": "1.0.0",
            "task_uuid": nil, "step_uuid": nil, "step_name": "s", "attempt": 1, "correlation_id": nil,
            "outcome": "success", "occurred_at": "2020-02-20T20:20:20.123456Z", "payload": {"a": 1.0}});
        let event: DomainEvent = serde_json::from_str(&event.to_string()).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&event.to_json()).unwrap()["payload"], json!({"a": 1.0}));
        Published { event: Arc::new(event), delivery }
    }

    #[tokio::test]
    async fn a_full_inbox_drops_what_comes_and_holds_up_nobody_else() {
        let metrics = Metrics::new();
        let (small, mut slow) = mpsc::channel(1);
        let (large, mut quick) = mpsc::channel(9);
        let subscription = |glob: &str, inbox| Subscription { glob: glob.to_owned(), inbox };
        let subscribers = Subscribers::new(vec![subscription("a*", small), subscription("*", large)], &metrics);
        let events = [
            event("a1", DeliveryMode::Fast),
            event("a2", DeliveryMode::Broadcast),
            event("a3", DeliveryMode::Durable),
            event("b", DeliveryMode::Fast),
        ];
        subscribers.deliver(&events);
        count(&events, &metrics);
        drop(subscribers);
        let heard = async |inbox: &mut mpsc::Receiver<Arc<DomainEvent>>| {
            let mut names = Vec::new();
            while let Some(event) = inbox.recv().await {
                names.push(event.name.clone());
            }
            names
        };
        assert_eq!(heard(&mut slow).await, ["a1"]);
        assert_eq!(heard(&mut quick).await, ["a1", "a2", "b"]);
        let counted =
            ["delivered", "dropped", "published"].map(|fate| metrics.domain_events.with_label_values(&[fate]).get());
        assert_eq!(counted, [4, 1, 2]);
    }

    #[test]
    fn globs_match_whole_names() {
        for (glob, name) in [
            ("*", ""),
            ("*", "order.paid"),
            ("order.*", "order.paid"),
            ("order.*", "order.item.added"),
            ("*.paid", "order.paid"),
            ("order.pai?", "order.paid"),
            ("o*r.*d", "order.repaid"),
            ("a**b", "ab"),
            ("ü?", "üé"),
        ] {
            assert!(matches(glob, name), "{glob} {name}");
        }
        for (glob, name) in [
            ("", "a"),
            ("order", "order.paid"),
            ("order.*", "orders.paid"),
            ("order.?", "order."),
            ("*.paid", "order.paid.twice"),
            ("o*r", "order."),
            ("order.paid?", "order.paid"),
            ("order.paid", "order_paid"),
        ] {
            assert!(!matches(glob, name), "{glob} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_more_than_the_product_of_the_lengths() {
        let (glob, name) = ("*a".repeat(100) + "b", "a".repeat(10_000));
        assert!(!matches(&glob, &name));
    }
}
