//! Domain events: published when their condition holds, once per accepted attempt, to the queue and to subscribers.

use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tasker_lifecycle::TaskState;
use tasker_worker::{DomainEvent, EventOutcome, HandlerRegistry, StepContext, StepError, StepOutcome};
use tokio::sync::{Notify, mpsc};

use crate::bench::{BOUND, Bench};

fn template(events: &str, more: &str) -> String {
    format!(
        "
name: t
namespace_name: test
version: 1.2.3
steps:
  - {{name: pay, handler: pay, retry: {{max_attempts: 3, backoff: none}}, publishes_events: [{events}]}}
{more}"
    )
}

/// Does at each attempt what the input's list says.
async fn pay(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let acts: Vec<String> = ctx.get_input("acts")?;
    match acts[ctx.attempt() as usize - 1].as_str() {
        "soon" => Err(StepError::retryable("not yet").with_class("busy")),
        "never" => Err(StepError::permanent("no such card")),
        "panic" => panic!("it panics"),
        said => StepOutcome::success(json!({ "said": said, "n": 1.50 })),
    }
}

/// The durable events as (name, attempt), in the order in which they were sent; takes them out of the queue.
async fn taken(bench: &Bench) -> Vec<Value> {
    let events = "SELECT message FROM pgmq.q_test_domain_events ORDER BY vt, msg_id";
    let events = sqlx::query_scalar(events).fetch_all(&bench.pool).await.unwrap();
    sqlx::query("SELECT pgmq.purge_queue('test_domain_events')").execute(&bench.pool).await.unwrap();
    events
}

fn told(events: &[Value]) -> Vec<String> {
    let mut told: Vec<String> =
        events.iter().map(|event| format!("{}@{}", event["name"].as_str().unwrap(), event["attempt"])).collect();
    told.sort_unstable();
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn each_condition_publishes_after_the_attempts_that_it_names() {
    let events = "{name: any, condition: always}, {name: bad, condition: failure}, {name: good, condition: success}, \
        {name: last, condition: permanent_failure}, {name: more, condition: retryable_failure}";
    let register = |registry: &mut HandlerRegistry| registry.register_fn("pay", pay);
    Bench::on_both(&template(events, ""), register, async |bench| {
        for (acts, expected) in [
            (json!(["yes"]), vec!["any@1", "good@1"]),
            (json!(["soon", "yes"]), vec!["any@1", "any@2", "bad@1", "good@2", "more@1"]),
            (
                json!(["soon", "soon", "soon"]),
                vec!["any@1", "any@2", "any@3", "bad@1", "bad@2", "bad@3", "last@3", "more@1", "more@2"],
            ),
            (json!(["never"]), vec!["any@1", "bad@1", "last@1"]),
            (json!(["panic"]), vec!["any@1", "bad@1", "last@1"]),
        ] {
            let task = bench.create(json!({ "acts": acts })).await;
            bench.rests(task).await;
            assert_eq!(told(&taken(bench).await), expected, "{acts}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_says_whose_it_is_and_carries_the_result_or_the_error() {
    let register = |registry: &mut HandlerRegistry| registry.register_fn("pay", pay);
    Bench::on_both(&template("{name: order.paid, condition: always}", ""), register, async |bench| {
        let task = bench.completes(json!({"acts": ["soon", "yes"]})).await;
        let texts: Vec<String> = taken(bench).await.iter().map(Value::to_string).collect();
        let events: Vec<DomainEvent> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let correlation_id: uuid::Uuid =
            sqlx::query_scalar("SELECT correlation_id FROM tasker.task_details").fetch_one(&bench.pool).await.unwrap();
        assert_ne!(events[0].event_id, events[1].event_id);
        for event in &events {
            assert_eq!(
                (event.namespace.as_str(), event.template.as_str(), event.version.as_str()),
                ("test", "t", "1.2.3")
            );
            assert_eq!(
                (event.task_uuid, event.step_name.as_str(), event.correlation_id),
                (task.uuid(), "pay", correlation_id)
            );
            let ended = "SELECT count(*) FROM tasker.attempts WHERE ended_at =";
            assert_eq!(bench.count(&format!("{ended} '{}'", event.occurred_at.to_rfc3339())).await, 1);
        }
        let (failed, paid) = (&events[0], &events[1]);
        assert_eq!((failed.outcome, failed.error_type.as_deref()), (EventOutcome::Failure, Some("busy")));
        assert_eq!(failed.payload::<Value>().unwrap(), json!({"message": "not yet", "error_type": "busy"}));
        assert_eq!((paid.outcome, paid.error_type.as_deref()), (EventOutcome::Success, None));
        assert_eq!(paid.payload::<Value>().unwrap(), json!({"said": "yes", "n": 1.5}));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_woken_and_has_an_event_until_it_deletes_it() {
    let register = |registry: &mut HandlerRegistry| registry.register_fn("pay", pay);
    Bench::on_both(&template("{name: paid}", ""), register, async |bench| {
        let mut listener = PgListener::connect_with(&bench.pool).await.unwrap();
        listener.listen("pgmq_test_domain_events").await.unwrap();
        bench.completes(json!({"acts": ["yes"]})).await;
        tokio::time::timeout(BOUND, listener.recv()).await.unwrap().unwrap();
        let read = "SELECT msg_id, message FROM pgmq.read('test_domain_events', 0, 10)";
        let read = async || -> Vec<(i64, Value)> { sqlx::query_as(read).fetch_all(&bench.pool).await.unwrap() };
        let (first, again) = (read().await, read().await);
        assert_eq!((first.len(), &first), (1, &again), "the reader died before it deleted");
        let delete = sqlx::query_scalar("SELECT pgmq.delete('test_domain_events', $1)").bind(first[0].0);
        assert!(delete.fetch_one(&bench.pool).await.is_ok_and(|deleted: bool| deleted));
        assert_eq!(read().await, []);
    })
    .await;
}

/// A handler whose first attempt stands still until it is let go.
#[derive(Default)]
struct Gate {
    entered: Notify,
    open: Notify,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_lost_its_claim_publishes_nothing() {
    let gate = Arc::new(Gate::default());
    let register = |registry: &mut HandlerRegistry| {
        let gate = Arc::clone(&gate);
        registry.register_fn("pay", move |ctx: StepContext| {
            let gate = Arc::clone(&gate);
            async move {
                if ctx.attempt() == 1 {
                    gate.entered.notify_one();
                    gate.open.notified().await;
                }
                StepOutcome::success(ctx.attempt())
            }
        });
    };
    Bench::on_both(&template("{name: paid}", ""), register, async |bench| {
        let task = bench.create(json!({})).await;
        gate.entered.notified().await;
        // Somebody else claims its ticket and dies: the third attempt ends before the first.
        let steal = "UPDATE pgmq.q_worker_test_queue SET read_ct = read_ct + 1, vt = clock_timestamp()";
        sqlx::raw_sql(steal).execute(&bench.pool).await.unwrap();
        assert_eq!(bench.rests(task).await, TaskState::Complete);
        gate.open.notify_one();
        let refused = "SELECT count(*) FROM tasker.discarded_results";
        while bench.count(refused).await == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(told(&taken(bench).await), ["paid@3"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_completes_in_a_transaction_publishes_with_it() {
    let pool: Arc<Mutex<Option<PgPool>>> = Arc::default();
    let (hears, mut heard) = mpsc::unbounded_channel();
    let register = |registry: &mut HandlerRegistry| {
        let (pool, hears) = (Arc::clone(&pool), hears.clone());
        registry.register_fn("pay", move |ctx: StepContext| {
            let pool = pool.lock().unwrap().clone().unwrap();
            async move {
                let mut tx = pool.begin().await?;
                let outcome = ctx.complete_in(&mut tx, json!({"at": ctx.attempt()})).await?;
                if ctx.attempt() == 1 {
                    tx.rollback().await?;
                } else {
                    tx.commit().await?;
                }
                Ok(outcome)
            }
        });
        registry.subscribe("*", move |event| {
            hears.send(event.payload::<Value>().unwrap()).unwrap();
            async {}
        });
    };
    let events = "{name: paid, delivery_mode: broadcast}, {name: refused, condition: failure}";
    Bench::on_both(&template(events, ""), register, async |bench| {
        *pool.lock().unwrap() = Some(bench.pool.clone());
        bench.completes(json!({})).await;
        assert_eq!(told(&taken(bench).await), ["paid@2", "refused@1"]);
        assert_eq!(heard.recv().await.unwrap(), json!({"at": 2}));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_does_not_match_its_schema_is_not_published_and_the_step_is_complete() {
    let events = "{name: a}, {name: b}, {name: a, schema: {type: object}}";
    let named = "domain_events:\n  - {name: a, schema: {type: string}}\n  - {name: b, schema: {required: [said]}}\n";
    let register = |registry: &mut HandlerRegistry| registry.register_fn("pay", pay);
    Bench::on_both(&template(events, named), register, async |bench| {
        bench.completes(json!({"acts": ["yes"]})).await;
        // Of the two `a` the one with a schema of its own.
        assert_eq!(told(&taken(bench).await), ["a@1", "b@1"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_hear_fast_and_broadcast_events_by_glob_and_survive_their_own_panics() {
    let (hears, mut heard) = mpsc::unbounded_channel();
    let register = |registry: &mut HandlerRegistry| {
        registry.register_fn("pay", pay);
        for glob in ["order.*", "*.refunded", "order.pai?"] {
            let hears = hears.clone();
            registry.subscribe(glob, move |event| {
                let hears = hears.clone();
                async move {
                    hears.send(format!("{glob} {}@{}", event.name, event.attempt)).unwrap();
                    assert_ne!(event.attempt, 1, "the first one is too much for it");
                }
            });
        }
    };
    let events = "{name: order.paid, condition: always, delivery_mode: fast}, \
        {name: order.refunded, condition: always, delivery_mode: broadcast}, {name: order.durable}, \
        {name: other, delivery_mode: fast}";
    Bench::on_both(&template(events, ""), register, async |bench| {
        bench.completes(json!({"acts": ["soon", "yes"]})).await;
        let mut all = Vec::new();
        for _ in 0..8 {
            all.push(heard.recv().await.unwrap());
        }
        all.sort_unstable();
        let expected: Vec<String> =
            ["*.refunded order.refunded", "order.* order.paid", "order.* order.refunded", "order.pai? order.paid"]
                .iter()
                .flat_map(|event| [format!("{event}@1"), format!("{event}@2")])
                .collect();
        assert_eq!(all, expected);
        assert!(heard.try_recv().is_err());
        assert_eq!(told(&taken(bench).await), ["order.durable@2", "order.refunded@1", "order.refunded@2"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_says_what_is_published() {
    let seen: Arc<OnceLock<String>> = Arc::default();
    let register = |registry: &mut HandlerRegistry| {
        registry.register_fn("pay", pay);
        let seen = Arc::clone(&seen);
        registry.register_publisher("short", move |event| {
            seen.get_or_init(|| event.step_name.clone());
            event.payload::<Value>().ok().map(|payload| json!({"short": payload["said"]}))
        });
        registry.register_publisher("nothing", |_| None);
        registry.register_publisher("broken", |_| panic!("a bad publisher"));
        registry.register_publisher("unsayable", |_| Some(json!("a\0b")));
    };
    let events = "{name: a, publisher: short}, {name: b, publisher: nothing}, {name: c, publisher: broken}, \
        {name: d, publisher: unsayable}, {name: e, publisher: short, schema: {required: [said]}}";
    Bench::on_both(&template(events, ""), register, async |bench| {
        bench.completes(json!({"acts": ["yes"]})).await;
        let events = taken(bench).await;
        assert_eq!(told(&events), ["a@1"]);
        assert_eq!(events[0]["payload"], json!({"short": "yes"}));
        assert_eq!(seen.get().map(String::as_str), Some("pay"));
    })
    .await;
}
