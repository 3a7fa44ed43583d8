//! A worker's life: waking, stopping, losing the database, working beside a server.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use support::Setup;
use tasker_lifecycle::template::HandlerRef;
use tasker_shared::local::{LocalClaim, LocalServer, LocalWorker};
use tasker_shared::messages::{Claim, ReportedOutcome};
use tasker_shared::testing::eventually;
use tasker_worker::{HandlerRegistry, Server, StepContext, StepOutcome};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

const STEP: &str = "
  - {name: only, handler: {callable: h}, timeout_seconds: 60}";
const LONG: Duration = Duration::from_secs(30);

fn echo(setup: &Setup) -> HandlerRegistry {
    let mut registry = setup.registry();
    registry.register_fn("h", |ctx: StepContext| async move { StepOutcome::success(ctx.input_value().to_owned()) });
    registry
}

/// A handler that never returns; the semaphore gets a permit for each start.
fn endless(setup: &Setup) -> (HandlerRegistry, Arc<Semaphore>) {
    let entered = Arc::new(Semaphore::new(0));
    let mut registry = setup.registry();
    let says = Arc::clone(&entered);
    registry.register_fn("h", move |_| {
        says.add_permits(1);
        std::future::pending()
    });
    (registry, entered)
}

#[tokio::test]
async fn delayed_tickets_run_when_they_are_due_not_at_the_next_poll() {
    let mut setup = Setup::new(STEP).await;
    setup.config.queue.poll_max_ms = 60_000;
    setup.config.queue.poll_min_ms = 60_000;
    let worker = setup.start(echo(&setup)).await;
    for number in 0..20 {
        setup.task(json!(number), Duration::from_millis(200 + 13 * number)).await;
    }
    // Nobody notifies; the worker has to have seen the hidden tickets when it looked last.
    worker.find_queues().await.unwrap();
    setup.run("SELECT pg_notify('pgmq_worker_here_queue', '')").await;
    setup.until_attempts(20).await;
    let late = "SELECT (1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM
        a.started_at - t.created_at - (200 + 13 * a.result::text::int) * interval '1 ms')))::bigint
        FROM tasker.attempts a JOIN tasker.tasks t USING (task_uuid)";
    let late = setup.number(late).await;
    // By polling alone it would be half a minute.
    assert!((-5..=5_000).contains(&late), "median lateness {late} ms");
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_says_what_it_can_run_and_takes_that_back_when_it_stops() {
    let setup = Setup::new(STEP).await;
    let worker = setup.start(echo(&setup)).await;
    let said = "worker = 'tested' AND handlers = '{h}' AND 'worker_here_queue' = ANY (queues)";
    setup.until(&format!("SELECT EXISTS (SELECT FROM tasker.workers WHERE {said})")).await;
    worker.stop().await;
    assert_eq!(setup.number("SELECT count(*) FROM tasker.workers").await, 0);
}

#[tokio::test]
async fn queues_that_come_later_are_found() {
    let setup = Setup::new(STEP).await;
    let names = "UPDATE tasker.queues SET pool = 'elsewhere' WHERE pool = 'default'";
    setup.run(names).await;
    let worker = setup.start(echo(&setup)).await;
    setup.run("UPDATE tasker.queues SET pool = 'default' WHERE pool = 'elsewhere'").await;
    setup.task(json!(1), Duration::ZERO).await;
    worker.find_queues().await.unwrap();
    setup.until_attempts(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_stops_lets_handlers_end_and_leaves_the_rest_untouched() {
    let mut setup = Setup::new(STEP).await;
    setup.config.worker.concurrency = 2;
    let (entered, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let mut registry = setup.registry();
    let gate = (Arc::clone(&entered), Arc::clone(&open));
    registry.register_fn("h", move |_| {
        let (entered, open) = gate.clone();
        async move {
            entered.add_permits(1);
            open.acquire().await.unwrap().forget();
            StepOutcome::success("in time")
        }
    });
    for _ in 0..5 {
        setup.task(json!({}), Duration::ZERO).await;
    }
    let worker = setup.start(registry).await;
    entered.acquire_many(2).await.unwrap().forget();
    let stopping = tokio::spawn(worker.stop());
    open.add_permits(5);
    stopping.await.unwrap();
    assert_eq!(setup.number("SELECT count(*) FROM tasker.attempts WHERE result::text = '\"in time\"'").await, 2);
    let left = setup.claim(LONG).await;
    assert_eq!(left.iter().map(|claim| claim.attempt).collect::<Vec<_>>(), [1, 1, 1], "free at once, unburnt");
}

#[tokio::test]
async fn handlers_that_outlive_the_grace_are_dropped_and_their_leases_end() {
    let mut setup = Setup::new(STEP).await;
    setup.config.worker.stop_grace_ms = 100;
    let (registry, entered) = endless(&setup);
    let task = setup.task(json!({}), Duration::ZERO).await;
    let worker = setup.start(registry).await;
    entered.acquire().await.unwrap().forget();
    let began = Instant::now();
    worker.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(setup.attempts(task).await, []);
    setup.end_leases().await;
    assert_eq!(setup.claim(LONG).await[0].attempt, 2);
}

#[tokio::test]
async fn a_worker_survives_the_loss_of_every_connection() {
    let mut setup = Setup::new(STEP).await;
    (setup.config.worker.concurrency, setup.config.worker.heartbeat_ms) = (8, 50);
    let (entered, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let mut registry = setup.registry();
    let gate = (Arc::clone(&entered), Arc::clone(&open));
    registry.register_fn("h", move |_| {
        let (entered, open) = gate.clone();
        async move {
            entered.add_permits(1);
            open.acquire().await.unwrap().forget();
            StepOutcome::success(1)
        }
    });
    let worker = setup.start(registry).await;
    for _ in 0..40 {
        setup.task(json!({}), Duration::ZERO).await;
    }
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for round in 1..=5 {
        entered.acquire_many(8).await.unwrap().forget();
        open.add_permits(8);
        // Ours may be among those that the cut before has left in the pool.
        while sqlx::query(cut).execute(&setup.db.pool).await.is_err() {}
        if round < 5 {
            let mut conn = loop {
                if let Ok(conn) = setup.db.pool.begin().await {
                    break conn;
                }
            };
            drop(sqlx::query("SELECT 1").execute(&mut *conn).await);
        }
    }
    let all = "SELECT count(*) FROM tasker.attempts WHERE outcome = 'success'";
    eventually("every step is complete", async || {
        open.add_permits(1);
        sqlx::query_scalar::<_, i64>(all).fetch_one(&setup.db.pool).await.unwrap_or(0) >= 40
    })
    .await;
    assert_eq!(setup.number(&format!("SELECT count(*) FROM {}", setup.ticket_table())).await, 0);
    worker.stop().await;
}

/// What a server does for a step that it hands over: a ticket that is claimed as it is sent.
async fn hand_over(setup: &Setup, local: &LocalWorker, claim: &Claim) {
    let slot = reserve(setup, local).await;
    let template = Arc::clone(&setup.template);
    local.hand_over(LocalClaim { claim: claim.clone(), template, shape: None, slot, claimed: Instant::now() });
}

fn handler(setup: &Setup) -> &HandlerRef {
    &setup.template.steps[0].handler
}

/// A slot, as soon as the worker does not need it to look into its queues.
async fn reserve(setup: &Setup, local: &LocalWorker) -> OwnedSemaphorePermit {
    let mut slot = None;
    eventually("a slot is free", async || {
        slot = local.reserve(&setup.queue, handler(setup));
        slot.is_some()
    })
    .await;
    slot.unwrap()
}

#[tokio::test]
async fn claims_that_are_handed_over_run_and_are_reported_by_channel() {
    let setup = Setup::new(STEP).await;
    let (worker, _) = setup.worker(echo(&setup));
    let local = worker.local();
    assert!(local.reserve(&setup.queue, handler(&setup)).is_none(), "it has not said which queues it takes");
    let task = setup.task(json!("by hand"), Duration::ZERO).await;
    let claims = setup.claim(LONG).await;
    let (lane, mut reports) = mpsc::channel(10);
    let worker = worker.start(Server::Here(LocalServer::new(vec![lane]))).await.unwrap();
    let none = HandlerRef { method: Some("none".to_owned()), ..handler(&setup).clone() };
    assert!(local.reserve(&setup.queue, &none).is_none());
    hand_over(&setup, &local, &claims[0]).await;
    let report = reports.recv().await.unwrap();
    assert_eq!((report.claim.task, report.claim.attempt), (task, 1));
    let ReportedOutcome::Success { result, .. } = report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(result.get(), "\"by hand\"");
    assert!(report.claim.claimed_at <= report.started_at.unwrap() && report.started_at.unwrap() <= report.ended_at);
    // What the server did not hand over is claimed from the queue and reported to it all the same.
    let other = setup.task(json!("queued"), Duration::ZERO).await;
    assert_eq!(reports.recv().await.unwrap().claim.task, other);
    // With the server gone the database takes the report.
    drop(reports);
    let last = setup.task(json!("alone"), Duration::ZERO).await;
    setup.until_attempts(1).await;
    assert_eq!(setup.attempts(last).await, [(1, "success".to_owned(), None)]);
    worker.stop().await;
}

#[tokio::test]
async fn claims_that_are_handed_over_to_a_stopping_worker_are_given_back() {
    let mut setup = Setup::new(STEP).await;
    setup.config.worker.concurrency = 2;
    let (entered, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let mut registry = setup.registry();
    let gate = (Arc::clone(&entered), Arc::clone(&open));
    registry.register_fn("h", move |_| {
        let (entered, open) = gate.clone();
        async move {
            entered.add_permits(1);
            open.acquire().await.unwrap().forget();
            StepOutcome::success(1)
        }
    });
    let (worker, _) = setup.worker(registry);
    let local = worker.local();
    setup.task(json!({}), Duration::ZERO).await;
    let first = setup.claim(LONG).await;
    let (lane, _reports) = mpsc::channel(10);
    let worker = worker.start(Server::Here(LocalServer::new(vec![lane]))).await.unwrap();
    hand_over(&setup, &local, &first[0]).await;
    entered.acquire().await.unwrap().forget();
    // The server has reserved the other slot and its commit is under way when the worker is told to stop.
    let slot = reserve(&setup, &local).await;
    setup.task(json!({}), LONG).await;
    setup.end_leases().await;
    let stopping = tokio::spawn(worker.stop());
    while local.reserve(&setup.queue, handler(&setup)).is_some() {
        tokio::task::yield_now().await;
    }
    let second = setup.claim(LONG).await;
    let second = second.into_iter().find(|claim| claim.task != first[0].task).unwrap();
    let template = Arc::clone(&setup.template);
    local.hand_over(LocalClaim { claim: second.clone(), template, shape: None, slot, claimed: Instant::now() });
    setup
        .until(&format!(
            "SELECT EXISTS (SELECT FROM {} WHERE read_ct = 2 AND vt <= clock_timestamp()
        AND message ->> 'task_uuid' = '{}')",
            setup.ticket_table(),
            second.task
        ))
        .await;
    open.add_permits(1);
    stopping.await.unwrap();
    assert_eq!(entered.available_permits(), 0, "it never ran");
    assert_eq!(setup.claim(LONG).await[0].attempt, 1);
}
