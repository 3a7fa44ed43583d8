//! Claims, their fence, and how they end.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use support::{Setup, success, tokens};
use tasker_lifecycle::{Nonce, StepIndex};
use tasker_shared::messages::{Report, Verdict};
use tasker_shared::store::{reports, tasks};
use tasker_worker::{StepContext, StepError, StepOutcome};
use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

const STEP: &str = "
  - {name: only, handler: {callable: h}, timeout_seconds: 60, retry: {max_attempts: 3}}";
const LONG: Duration = Duration::from_secs(30);
/// What a server is told: how many attempts its messages name.
const TOLD: &str = "SELECT coalesce(sum(CASE jsonb_typeof(message) WHEN 'array' THEN jsonb_array_length(message)
                                        ELSE 1 END), 0)::bigint FROM pgmq.q_orchestration_step_results";

/// A handler that says when it starts and waits to be let go.
#[derive(Clone)]
struct Gate {
    entered: Arc<Semaphore>,
    open: Arc<Notify>,
}

impl Gate {
    fn new() -> Self {
        Self { entered: Arc::new(Semaphore::new(0)), open: Arc::new(Notify::new()) }
    }

    async fn pass(&self) -> Result<StepOutcome, StepError> {
        self.entered.add_permits(1);
        self.open.notified().await;
        StepOutcome::success("late")
    }

    async fn entered(&self) {
        tokio::time::timeout(LONG, self.entered.acquire()).await.unwrap().unwrap().forget();
    }
}

fn gated(setup: &Setup, gate: &Gate) -> tasker_worker::HandlerRegistry {
    let mut registry = setup.registry();
    let gate = gate.clone();
    registry.register_fn("h", move |_| {
        let gate = gate.clone();
        async move { gate.pass().await }
    });
    registry
}

#[tokio::test]
async fn a_paused_workers_late_report_is_refused_and_kept_and_the_lost_attempt_is_told() {
    let mut setup = Setup::new(STEP).await;
    // Without a free slot the worker does not claim the ticket again itself.
    setup.config.worker.concurrency = 1;
    let gate = Gate::new();
    let worker = setup.start(gated(&setup, &gate)).await;
    let task = setup.task(json!({}), Duration::ZERO).await;
    gate.entered().await;
    // The worker stands still beyond its lease, and somebody else claims.
    setup.end_leases().await;
    let other = setup.claim(LONG).await;
    assert_eq!((other.len(), other[0].attempt), (1, 2));
    gate.open.notify_one();
    setup.until("SELECT EXISTS (SELECT FROM tasker.discarded_results)").await;
    assert_eq!(setup.attempts(task).await, []);
    let kept: (i32, String, String) =
        sqlx::query_as("SELECT attempt, worker, result::text FROM tasker.discarded_results")
            .fetch_one(&setup.db.pool)
            .await
            .unwrap();
    assert_eq!(kept, (1, "tested".to_owned(), "\"late\"".to_owned()));
    let mut conn = setup.db.pool.acquire().await.unwrap();
    let verdicts = reports::report(&mut conn, &[success(&other[0], "other")]).await.unwrap();
    assert_eq!(verdicts, [Verdict::Accepted]);
    assert_eq!(setup.attempts(task).await, [(1, "lost".to_owned(), None), (2, "success".to_owned(), None)]);
    assert_eq!(setup.number("SELECT count(*) FROM pgmq.q_orchestration_step_results").await, 1);
    drop(conn);
    worker.stop().await;
    assert_eq!(setup.metrics.fences_refused.get(), 1);
}

/// Claims so many tickets, and what is to be reported of them.
async fn claimed(setup: &Setup, count: usize) -> Vec<Report> {
    for _ in 0..count {
        setup.task(json!({}), Duration::ZERO).await;
    }
    setup.claim(LONG).await.iter().map(|claim| success(claim, "w")).collect()
}

#[tokio::test]
async fn the_same_reports_again_are_duplicates_and_strangers_among_them_are_refused() {
    let setup = Setup::new(STEP).await;
    let mut batch = claimed(&setup, 3).await;
    batch[1].claim.token.read_ct += 1;
    let mut conn = setup.db.pool.acquire().await.unwrap();
    let first = reports::report(&mut conn, &batch).await.unwrap();
    assert_eq!(first, [Verdict::Accepted, Verdict::Refused, Verdict::Accepted]);
    let again = reports::report(&mut conn, &batch).await.unwrap();
    assert_eq!(again, [Verdict::Duplicate, Verdict::Refused, Verdict::Duplicate]);
    assert_eq!(setup.number("SELECT count(*) FROM tasker.attempts").await, 2);
    assert_eq!(setup.number(TOLD).await, 2);
}

#[tokio::test]
async fn what_is_reported_together_is_told_by_messages_of_eight() {
    let setup = Setup::new(STEP).await;
    let batch = claimed(&setup, 17).await;
    let mut conn = setup.db.pool.acquire().await.unwrap();
    assert_eq!(reports::report(&mut conn, &batch).await.unwrap(), [Verdict::Accepted; 17]);
    assert_eq!(setup.number("SELECT count(*) FROM pgmq.q_orchestration_step_results").await, 3);
    assert_eq!(setup.number(TOLD).await, 17);
    // A message that is not ours is taken apart like any other: what it names is looked up, and what is strange is told.
    sqlx::query("SELECT pgmq.send('orchestration_step_results', '[{\"task_uuid\": 1}, [], 7]')")
        .execute(&mut *conn)
        .await
        .unwrap();
    let mut told = tasks::take_results(&mut conn, 1).await.unwrap();
    assert_eq!(told.len(), 8, "a message is taken whole, and no more of them than are wanted");
    told.extend(tasks::take_results(&mut conn, 100).await.unwrap());
    let (ours, strange): (Vec<_>, Vec<_>) = told.into_iter().partition(|result| result.body.is_none());
    let named: Vec<_> = ours.iter().map(|result| result.task.unwrap().0).collect();
    let reported: Vec<_> = batch.iter().map(|report| report.claim.task).collect();
    assert_eq!(named, reported, "in the order in which they were reported");
    assert!(ours.iter().all(|result| result.event.is_some()));
    assert_eq!(strange.len(), 3);
    assert!(strange.iter().all(|result| result.event.is_none() && result.msg_id == strange[0].msg_id));
}

#[tokio::test]
async fn attempts_without_a_report_are_rows_and_used_up_attempts_end_without_a_run() {
    let setup = Setup::new(STEP).await;
    let task = setup.task(json!({}), Duration::ZERO).await;
    for attempt in 1..=3 {
        assert_eq!(setup.claim(LONG).await[0].attempt, attempt);
        setup.end_leases().await;
    }
    let runs = Arc::new(AtomicUsize::new(0));
    let mut registry = setup.registry();
    let counted = Arc::clone(&runs);
    registry.register_fn("h", move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { StepOutcome::success(1) }
    });
    let worker = setup.start(registry).await;
    setup.until_attempts(4).await;
    let lost = |attempt| (attempt, "lost".to_owned(), None);
    let expected = [lost(1), lost(2), lost(3), (4, "lease_lost".to_owned(), None)];
    assert_eq!((setup.attempts(task).await, runs.load(Ordering::Relaxed)), (expected.to_vec(), 0));
    worker.stop().await;
}

#[tokio::test]
async fn a_step_that_is_never_retried_does_not_run_again_after_a_lost_lease() {
    let setup = Setup::new("\n  - {name: only, handler: {callable: h}, retry: {retryable: false}}").await;
    let task = setup.task(json!({}), Duration::ZERO).await;
    setup.claim(LONG).await;
    setup.end_leases().await;
    let mut registry = setup.registry();
    registry.register_fn("h", |_| async { StepOutcome::success("ran twice") });
    let worker = setup.start(registry).await;
    setup.until_attempts(2).await;
    assert_eq!(setup.attempts(task).await, [(1, "lost".to_owned(), None), (2, "lease_lost".to_owned(), None)]);
    worker.stop().await;
}

#[tokio::test]
async fn a_released_claim_keeps_its_attempt_number() {
    let setup = Setup::new(STEP).await;
    let task = setup.task(json!({}), Duration::ZERO).await;
    for _ in 0..5 {
        let claims = setup.claim(LONG).await;
        assert_eq!(claims[0].attempt, 1);
        let mut conn = setup.db.pool.acquire().await.unwrap();
        let released = pgmq_notify::release_fenced(&mut conn, &tokens(&claims), Duration::ZERO).await.unwrap();
        assert_eq!(released, [0]);
        let verdicts = reports::report(&mut conn, &[success(&claims[0], "w")]).await.unwrap();
        assert_eq!(verdicts, [Verdict::Refused], "a released claim is void");
    }
    let claims = setup.claim(LONG).await;
    let mut conn = setup.db.pool.acquire().await.unwrap();
    reports::report(&mut conn, &[success(&claims[0], "w")]).await.unwrap();
    assert_eq!(setup.attempts(task).await, [(1, "success".to_owned(), None)]);
}

#[tokio::test]
async fn a_step_whose_handler_is_not_registered_waits_for_a_worker_that_has_it() {
    let mut setup = Setup::new(STEP).await;
    setup.config.worker.unregistered_delay_ms = 10;
    // A worker without the handler that takes from the namespace all the same.
    setup.config.worker.namespaces = Some(vec!["here".to_owned()]);
    let mut others = setup.registry();
    others.register_fn("another", |_| async { StepOutcome::success(1) });
    let without = setup.start(others).await;
    let task = setup.task(json!({}), Duration::ZERO).await;
    setup.until(&format!("SELECT read_ct >= 6 FROM {}", setup.ticket_table())).await;
    assert_eq!(setup.attempts(task).await, []);
    let mut registry = setup.registry();
    registry.register_fn("h", |ctx: StepContext| async move { StepOutcome::success(ctx.attempt()) });
    let with = setup.start(registry).await;
    setup.until_attempts(1).await;
    assert_eq!(setup.attempts(task).await, [(1, "success".to_owned(), None)]);
    without.stop().await;
    with.stop().await;
}

#[tokio::test]
async fn a_ticket_for_another_worker_is_kept_from_it_for_a_moment_at_first() {
    let mut setup = Setup::new(STEP).await;
    setup.config.worker.unregistered_delay_ms = 3_600_000;
    setup.config.worker.namespaces = Some(vec!["here".to_owned()]);
    let mut others = setup.registry();
    others.register_fn("another", |_| async { StepOutcome::success(1) });
    let without = setup.start(others).await;
    setup.task(json!({}), Duration::ZERO).await;
    setup.until(&format!("SELECT read_ct >= 4 FROM {}", setup.ticket_table())).await;
    without.stop().await;
}

#[tokio::test]
async fn strangers_in_the_queue_are_archived_and_never_run() {
    let setup = Setup::new(STEP).await;
    let table = setup.ticket_table();
    // A ticket of a cancelled task, one that its step does not name, one of no task, and three that are none.
    let cancelled = setup.task(json!({}), Duration::ZERO).await;
    setup.run("UPDATE tasker.tasks SET steps = 'X', sparse = '{}', state = 'cancelled', ended_at = now()").await;
    let live = setup.task(json!({}), Duration::ZERO).await;
    setup
        .run(&format!(
            "UPDATE {table} SET message = jsonb_set(message, '{{nonce}}', to_jsonb(gen_random_uuid())) \
        WHERE message ->> 'task_uuid' = '{live}'"
        ))
        .await;
    let nobody = tasker_lifecycle::TaskId::new(1_800_000_000_000, 1);
    let body = support::ticket(nobody, StepIndex(0), Nonce(Uuid::nil()));
    let foreign = body.replacen(&nobody.to_string(), &cancelled.to_string(), 1);
    let unborn = body.replace("\"base_attempt\":0", "\"base_attempt\":-5");
    for text in [body.as_str(), "{\"hello\": 1}", &foreign, &unborn] {
        setup.run(&format!("SELECT pgmq.send('{}', '{text}')", setup.queue)).await;
    }
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let mut registry = setup.registry();
    registry.register_fn("h", move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { StepOutcome::success(1) }
    });
    let worker = setup.start(registry).await;
    setup.until(&format!("SELECT count(*) = 0 FROM {table}")).await;
    worker.stop().await;
    let mut reasons: Vec<String> =
        sqlx::query_scalar(&format!("SELECT headers ->> 'reason' FROM pgmq.a_{}", setup.queue))
            .fetch_all(&setup.db.pool)
            .await
            .unwrap();
    reasons.sort();
    let starts = [
        "its step has another ticket",
        "its task does not exist",
        "its task has ended",
        "not a ticket: attempt -4",
        "not a ticket: the step belongs",
        "not a ticket: unknown field",
    ];
    assert_eq!(reasons.len(), starts.len(), "{reasons:?}");
    assert!(reasons.iter().zip(starts).all(|(reason, start)| reason.starts_with(start)), "{reasons:?}");
    assert_eq!((runs.load(Ordering::Relaxed), setup.number("SELECT count(*) FROM tasker.attempts").await), (0, 0));
}

#[tokio::test]
async fn heartbeats_keep_a_handler_that_outlives_its_lease() {
    let mut setup = Setup::new(STEP).await;
    (setup.config.queue.lease_ms, setup.config.worker.heartbeat_ms) = (300, 60);
    let gate = Gate::new();
    let worker = setup.start(gated(&setup, &gate)).await;
    let task = setup.task(json!({}), Duration::ZERO).await;
    gate.entered().await;
    // Time itself is what is tested: three leases go by.
    let claimed = format!("SELECT vt > enqueued_at + interval '1.2 seconds' FROM {}", setup.ticket_table());
    setup.until(&claimed).await;
    gate.open.notify_one();
    setup.until_attempts(1).await;
    assert_eq!(setup.attempts(task).await, [(1, "success".to_owned(), None)]);
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_hears_of_a_cancel_and_what_it_returns_is_kept_as_discarded() {
    let mut setup = Setup::new(STEP).await;
    setup.config.worker.heartbeat_ms = 20;
    let entered = Arc::new(Semaphore::new(0));
    let mut registry = setup.registry();
    let says = Arc::clone(&entered);
    registry.register_fn("h", move |ctx: StepContext| {
        says.add_permits(1);
        async move {
            ctx.cancelled().await;
            StepOutcome::success(ctx.is_cancelled())
        }
    });
    let worker = setup.start(registry).await;
    let task = setup.task(json!({}), Duration::ZERO).await;
    entered.acquire().await.unwrap().forget();
    setup.run(&format!("DELETE FROM {}", setup.ticket_table())).await;
    setup.until("SELECT result::text = 'true' FROM tasker.discarded_results UNION ALL SELECT false LIMIT 1").await;
    assert_eq!(setup.attempts(task).await, []);
    worker.stop().await;
    assert_eq!((setup.metrics.heartbeats_lost.get(), setup.metrics.fences_refused.get()), (1, 1));
}

#[tokio::test]
async fn two_workers_run_every_step_once_and_never_more_than_they_have_slots() {
    let mut setup = Setup::new(STEP).await;
    (setup.config.worker.concurrency, setup.config.worker.claim_batch) = (4, 3);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let registry = || {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        let mut registry = setup.registry();
        registry.register_fn("h", move |ctx: StepContext| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                StepOutcome::success(ctx.attempt())
            }
        });
        registry
    };
    for _ in 0..60 {
        setup.task(json!({}), Duration::ZERO).await;
    }
    let (one, other) = (setup.start(registry()).await, setup.start(registry()).await);
    setup.until_attempts(60).await;
    one.stop().await;
    other.stop().await;
    let once = "SELECT count(*) FROM tasker.attempts WHERE outcome = 'success' AND attempt = 1";
    assert_eq!(
        (setup.number(once).await, setup.number("SELECT count(*) FROM tasker.discarded_results").await),
        (60, 0)
    );
    assert!((1..=8).contains(&most.load(Ordering::SeqCst)), "{most:?} at once");
}
