//! In which order tickets of several priorities and namespaces are claimed. The worker has one slot, so it claims one
//! ticket at a look, and the order in which handlers start is that of the claims.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use support::{Setup, register};
use tasker_lifecycle::template::Template;
use tasker_worker::{HandlerRegistry, StepContext, StepOutcome};
use tokio::sync::Semaphore;

const STEP: &str = "
  - {name: only, handler: {callable: h}, timeout_seconds: 60}";
const NOW: Duration = Duration::ZERO;

/// What was started, in this order: the text that each task has as its context.
type Started = Arc<Mutex<Vec<String>>>;

fn writing_down(setup: &Setup) -> (HandlerRegistry, Started) {
    let started = Started::default();
    let (log, mut registry) = (Arc::clone(&started), setup.registry());
    registry.register_fn("h", move |ctx: StepContext| {
        log.lock().unwrap().push(ctx.input::<String>().unwrap());
        async { StepOutcome::success(1) }
    });
    (registry, started)
}

/// The texts of the first `claims` tickets that a worker with one slot takes, each with its number.
async fn first(setup: &Setup, claims: usize) -> Vec<(String, usize)> {
    let (registry, started) = writing_down(setup);
    let before = usize::try_from(setup.number("SELECT count(*) FROM tasker.attempts").await).unwrap();
    let worker = setup.start(registry).await;
    setup.until_attempts(before + claims).await;
    worker.stop().await;
    let started = &started.lock().unwrap()[..claims];
    let mut texts: Vec<&String> = started.iter().collect();
    texts.sort();
    texts.dedup();
    texts.into_iter().map(|text| (text.clone(), started.iter().filter(|other| *other == text).count())).collect()
}

async fn one_slot() -> Setup {
    let mut setup = Setup::new(STEP).await;
    setup.config.worker.concurrency = 1;
    setup
}

async fn tasks(setup: &Setup, template: &Arc<Template>, priority: i16, text: &str, count: usize) {
    for _ in 0..count {
        setup.task_of(template, priority, json!(text), NOW).await;
    }
}

#[tokio::test]
async fn high_comes_before_normal_and_normal_before_low_and_none_gets_nothing() {
    let setup = one_slot().await;
    for (priority, text) in [(-100, "low"), (0, "normal"), (100, "high")] {
        tasks(&setup, &setup.template, priority, text, 40).await;
    }
    let told = first(&setup, 32).await;
    assert_eq!(told, [("high".to_owned(), 24), ("low".to_owned(), 2), ("normal".to_owned(), 6)]);
}

#[tokio::test]
async fn a_ticket_that_has_waited_for_long_is_claimed_among_those_of_higher_priority() {
    let setup = one_slot().await;
    tasks(&setup, &setup.template, 100, "high", 40).await;
    tasks(&setup, &setup.template, -100, "low", 1).await;
    tasks(&setup, &setup.template, 0, "normal", 1).await;
    // By weight alone the first low ticket is the sixteenth claim.
    let old = "SET vt = vt - interval '10 minutes', enqueued_at = enqueued_at - interval '10 minutes'";
    setup.run(&format!("UPDATE pgmq.q_worker_here_queue_lo {old}")).await;
    let told = first(&setup, 7).await;
    assert_eq!(told, [("high".to_owned(), 5), ("low".to_owned(), 1), ("normal".to_owned(), 1)]);
}

#[tokio::test]
async fn namespaces_with_a_backlog_get_equal_shares_and_a_quiet_one_is_not_held_up() {
    let setup = one_slot().await;
    let there = register(&setup.db, "there", STEP).await;
    let quiet = register(&setup.db, "quiet", STEP).await;
    // Namespaces without work do not change the shares of those that have some.
    register(&setup.db, "idle", STEP).await;
    tasks(&setup, &setup.template, 0, "here", 60).await;
    tasks(&setup, &there, 0, "there", 60).await;
    tasks(&setup, &quiet, 0, "quiet", 1).await;
    let told = first(&setup, 41).await;
    assert_eq!(told, [("here".to_owned(), 20), ("quiet".to_owned(), 1), ("there".to_owned(), 20)]);
    tasks(&setup, &quiet, 0, "quiet", 1).await;
    let told = first(&setup, 3).await;
    assert_eq!(told, [("here".to_owned(), 1), ("quiet".to_owned(), 1), ("there".to_owned(), 1)]);
}

#[tokio::test]
async fn one_look_for_many_slots_takes_no_more_than_its_share_from_one_namespace() {
    let mut setup = Setup::new(STEP).await;
    setup.config.worker.concurrency = 16;
    setup.config.worker.claim_batch = 16;
    let there = register(&setup.db, "there", STEP).await;
    tasks(&setup, &setup.template, 0, "here", 30).await;
    tasks(&setup, &there, 0, "there", 4).await;
    let (started, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let mut registry = setup.registry();
    let (enter, gate) = (Arc::clone(&started), Arc::clone(&open));
    registry.register_fn("h", move |_| {
        let (enter, gate) = (Arc::clone(&enter), Arc::clone(&gate));
        async move {
            enter.add_permits(1);
            gate.acquire().await.unwrap().forget();
            StepOutcome::success(1)
        }
    });
    let worker = setup.start(registry).await;
    started.acquire_many(16).await.unwrap().forget();
    let claimed = async |queue| setup.number(&format!("SELECT count(*) FROM pgmq.q_{queue} WHERE read_ct > 0")).await;
    assert_eq!((claimed("worker_here_queue").await, claimed("worker_there_queue").await), (12, 4));
    open.add_permits(1_000);
    setup.until_attempts(34).await;
    worker.stop().await;
}
