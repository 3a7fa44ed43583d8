//! Domain events as a worker publishes them: with the report that is accepted, and with none that is not.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Setup, success};
use tasker_lifecycle::template::DeliveryMode;
use tasker_shared::events::{DomainEvent, Published};
use tasker_shared::messages::{Claim, Report, Verdict};
use tasker_shared::store::{reports, schema};
use tasker_worker::{StepContext, StepOutcome};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(30);

/// One step that may be tried three times and publishes these events.
fn step(events: &str) -> String {
    format!(
        "\n  - {{name: only, handler: {{callable: h}}, retry: {{max_attempts: 3, backoff: none}}, publishes_events: [{events}]}}"
    )
}

impl Setup {
    /// The durable events, in the order in which they were sent.
    async fn events(&self) -> Vec<Value> {
        sqlx::query_scalar("SELECT message FROM pgmq.q_here_domain_events ORDER BY vt, msg_id")
            .fetch_all(&self.db.pool)
            .await
            .unwrap()
    }
}

/// A success of this claim with two durable events and a fast one.
fn reported(claim: &Claim) -> Report {
    let event = |name: &str, delivery| {
        let event = json!({"event_id": Uuid::from_u128(rand::random()), "name": name, "namespace": "here",
            "template": "job", "version": "1.0.0", "task_uuid": claim.task, "step_uuid": claim.task.step(claim.step),
            "step_name": "only", "attempt": claim.attempt, "correlation_id": claim.correlation_id, "outcome": "success",
            "occurred_at": "2020-02-20T20:20:20Z", "payload": true});
        let event: DomainEvent = serde_json::from_str(&event.to_string()).unwrap();
        Published { event: Arc::new(event), delivery }
    };
    let events = [("a", DeliveryMode::Durable), ("b", DeliveryMode::Broadcast), ("c", DeliveryMode::Fast)];
    let events = events.map(|(name, delivery)| event(name, delivery)).into();
    Report { events, ..success(claim, "w") }
}

#[tokio::test]
async fn a_report_that_is_repeated_or_refused_publishes_nothing() {
    let setup = Setup::new(&step("{name: a}")).await;
    for _ in 0..3 {
        setup.task(json!({}), Duration::ZERO).await;
    }
    let claims = setup.claim(LONG).await;
    let mut batch: Vec<Report> = claims.iter().map(reported).collect();
    batch[1].claim.token.read_ct += 1;
    let mut conn = setup.db.pool.acquire().await.unwrap();
    let first = reports::report(&mut conn, &batch).await.unwrap();
    assert_eq!(first, [Verdict::Accepted, Verdict::Refused, Verdict::Accepted]);
    let again = reports::report(&mut conn, &batch).await.unwrap();
    assert_eq!(again, [Verdict::Duplicate, Verdict::Refused, Verdict::Duplicate]);
    let told = |event: &Value| (event["name"].clone(), event["task_uuid"].clone());
    let events: Vec<_> = setup.events().await.iter().map(told).collect();
    let of = |name: &str, claim: &Claim| (json!(name), json!(claim.task));
    let expected = [of("a", &claims[0]), of("b", &claims[0]), of("a", &claims[2]), of("b", &claims[2])];
    assert_eq!(events, expected, "in their order");
}

#[tokio::test]
async fn a_completion_publishes_if_and_only_if_its_transaction_is_committed() {
    let setup = Setup::new(&step("{name: a}")).await;
    setup.task(json!({}), Duration::ZERO).await;
    let claim = setup.claim(LONG).await.remove(0);
    for (commits, events) in [(false, 0), (true, 2)] {
        let mut tx = setup.db.pool.begin().await.unwrap();
        assert_eq!(reports::complete(&mut tx, &reported(&claim)).await.unwrap(), Verdict::Accepted);
        if commits {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        assert_eq!(setup.events().await.len(), events);
    }
    let mut conn = setup.db.pool.acquire().await.unwrap();
    assert_eq!(reports::report(&mut conn, &[reported(&claim)]).await.unwrap(), [Verdict::Duplicate]);
    assert_eq!(setup.events().await.len(), 2);
}

#[tokio::test]
async fn dropping_everything_drops_the_queue_of_events() {
    let setup = Setup::new(&step("{name: a}")).await;
    let queues = "SELECT count(*) FROM pgmq.list_queues() WHERE queue_name LIKE '%here%'";
    assert_eq!(setup.number(queues).await, 4, "three of tickets and one of events");
    let mut conn = setup.db.pool.acquire().await.unwrap();
    schema::drop_everything(&mut conn).await.unwrap();
    assert_eq!(setup.number(queues).await, 0);
}

#[tokio::test]
async fn a_step_whose_workers_died_publishes_its_failure_and_none_for_the_lost_attempts() {
    let events = "{name: given_up, condition: permanent_failure}, {name: any, condition: always}, {name: good}, \
        {name: again, condition: retryable_failure}";
    let setup = Setup::new(&step(events)).await;
    setup.task(json!({}), Duration::ZERO).await;
    for _ in 0..3 {
        setup.claim(LONG).await;
        setup.end_leases().await;
    }
    let mut registry = setup.registry();
    registry.register_fn("h", |_| async { StepOutcome::success("runs no more") });
    let worker = setup.start(registry).await;
    setup.until_attempts(4).await;
    let told = |event: &Value| [&event["name"], &event["attempt"], &event["error_type"]].map(Clone::clone);
    let events: Vec<_> = setup.events().await.iter().map(told).collect();
    let expected = ["given_up", "any"].map(|name| [json!(name), json!(4), json!("lease_lost")]);
    assert_eq!(events, expected);
    worker.stop().await;
}

#[tokio::test]
async fn an_outcome_that_the_database_refuses_publishes_the_failure_that_is_stored_instead() {
    let setup = Setup::new(&step("{name: good}, {name: bad, condition: failure}")).await;
    setup.run("ALTER TABLE tasker.attempts ADD CHECK (result::text <> '\"poison\"')").await;
    setup.task(json!({}), Duration::ZERO).await;
    let mut registry = setup.registry();
    registry.register_fn("h", |_| async { StepOutcome::success("poison") });
    let worker = setup.start(registry).await;
    setup.until_attempts(1).await;
    let events = setup.events().await;
    assert_eq!((events.len(), &events[0]["name"]), (1, &json!("bad")));
    assert_eq!(events[0]["payload"]["error_type"], "report_refused");
    worker.stop().await;
}

#[tokio::test]
async fn a_step_whose_publisher_is_not_registered_waits_for_a_worker_that_has_it() {
    let mut setup = Setup::new(&step("{name: a, publisher: masked}")).await;
    setup.config.worker.unregistered_delay_ms = 10;
    let handler = |ctx: StepContext| async move { StepOutcome::success(json!({"card": "4711", "try": ctx.attempt()})) };
    let mut registry = setup.registry();
    registry.register_fn("h", handler);
    let without = setup.start(registry).await;
    let task = setup.task(json!({}), Duration::ZERO).await;
    setup.until(&format!("SELECT read_ct >= 6 FROM {}", setup.ticket_table())).await;
    assert_eq!(setup.attempts(task).await, []);
    let mut registry = setup.registry();
    registry.register_fn("h", handler);
    registry.register_publisher("masked", |event| {
        let payload: Value = event.payload().ok()?;
        Some(json!({"try": payload["try"]}))
    });
    let with = setup.start(registry).await;
    setup.until_attempts(1).await;
    assert_eq!(setup.attempts(task).await, [(1, "success".to_owned(), None)]);
    let events = setup.events().await;
    assert_eq!((events.len(), &events[0]["payload"]), (1, &json!({"try": 1})));
    without.stop().await;
    with.stop().await;
}
