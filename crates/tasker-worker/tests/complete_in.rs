//! Steps that are completed inside a transaction of their handler's.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::{Mode, Notifier, Wakeups};
use serde_json::json;
use sqlx::{Executor, PgPool};
use support::Setup;
use tasker_lifecycle::TaskId;
use tasker_shared::config::Config;
use tasker_shared::store;
use tasker_shared::telemetry::Metrics;
use tasker_worker::{HandlerRegistry, Server, StepContext, StepError, StepOutcome, Worker};
use tokio::sync::Notify;

const STEP: &str = "
  - name: only
    handler: {callable: h}
    timeout_seconds: 5
    retry: {max_attempts: 50, backoff: none}
    result_schema: {type: integer}
    publishes_events: [{name: booked}]";

async fn setup() -> Setup {
    let mut setup = Setup::new(STEP).await;
    setup.run("CREATE TABLE bookings (task uuid, what text)").await;
    setup.config.queue.lease_ms = 60_000;
    setup
}

impl Setup {
    async fn bookings(&self, task: TaskId) -> i64 {
        self.number(&format!("SELECT count(*) FROM bookings WHERE task = '{task}'")).await
    }

    async fn told(&self, task: TaskId) -> i64 {
        let named = format!(r#"{{"task_uuid": "{task}"}}"#);
        let told = "SELECT count(*) FROM pgmq.q_orchestration_step_results WHERE message @>";
        self.number(&format!("{told} '{named}' OR message @> '[{named}]'")).await
    }
}

async fn book(ctx: &StepContext, conn: &mut sqlx::PgConnection) -> Result<(), StepError> {
    let insert = sqlx::query("INSERT INTO bookings VALUES ($1, 'it')").bind(ctx.task_uuid());
    insert.execute(conn).await?;
    Ok(())
}

/// Does to its transaction and returns afterwards what the input says.
async fn handler(ctx: StepContext, pool: PgPool) -> Result<StepOutcome, StepError> {
    let what: String = ctx.get_input("do")?;
    let mut tx = pool.begin().await?;
    book(&ctx, &mut tx).await?;
    if what == "a bad result, then a good one" {
        let refused = ctx.complete_in(&mut tx, "no integer").await.unwrap_err();
        assert_eq!((refused.class(), refused.is_retryable()), ("result_schema", false));
    }
    let outcome = ctx.complete_in(&mut tx, 7).await?;
    match what.as_str() {
        "roll back" => tx.rollback().await?,
        "forget" => drop(tx),
        "roll back and say something else" => {
            tx.rollback().await?;
            return StepOutcome::success(8);
        }
        "complete twice" => {
            tx.commit().await?;
            let mut second = pool.begin().await?;
            book(&ctx, &mut second).await?;
            let refused = ctx.complete_in(&mut second, 9).await.unwrap_err();
            assert_eq!(refused.class(), "already_completed");
            assert!(
                second.commit().await.is_ok(),
                "PostgreSQL turns the commit of a failed transaction into a rollback"
            );
            return Err(refused);
        }
        _ => tx.commit().await?,
    }
    match what.as_str() {
        "commit and fail" => Err(StepError::permanent("after the commit")),
        "commit and panic" => panic!("after the commit"),
        "commit and hang" => std::future::pending().await,
        _ => Ok(outcome),
    }
}

#[tokio::test]
async fn a_step_is_complete_if_and_only_if_the_transaction_is_committed_whatever_the_handler_says_then() {
    let setup = setup().await;
    let (pool, mut registry) = (setup.db.pool.clone(), setup.registry());
    registry.register_fn("h", move |ctx| handler(ctx, pool.clone()));
    // What it does, and whether that is a booking; then the class of the failure.
    let cases = [
        ("commit", true, None),
        ("a bad result, then a good one", true, None),
        ("complete twice", true, None),
        ("commit and fail", true, None),
        ("commit and panic", true, None),
        ("commit and hang", true, None),
        ("roll back", false, Some("not_committed")),
        ("forget", false, Some("not_committed")),
        ("roll back and say something else", false, None),
    ];
    let mut tasks = Vec::new();
    for (what, ..) in cases {
        tasks.push(setup.task(json!({"do": what}), Duration::ZERO).await);
    }
    let worker = setup.start(registry).await;
    setup.until_attempts(cases.len()).await;
    // All reports that follow the handlers' own are written when it has stopped.
    worker.stop().await;
    for ((what, booked, class), task) in cases.into_iter().zip(tasks) {
        let outcome = if class.is_some() { "failure" } else { "success" };
        let expected = [(1, outcome.to_owned(), class.map(str::to_owned))];
        assert_eq!(setup.attempts(task).await, expected, "{what}");
        assert_eq!((setup.bookings(task).await, setup.told(task).await), (i64::from(booked), 1), "{what}");
    }
    let stored = "SELECT count(*) FROM tasker.attempts WHERE result::text = '7' AND claimed_at <= started_at
                  AND started_at <= ended_at AND worker = 'tested'";
    assert_eq!(setup.number(stored).await, 6);
    assert_eq!(setup.number("SELECT count(*) FROM tasker.discarded_results").await, 0, "a duplicate is no late report");
    assert_eq!(setup.number(&format!("SELECT count(*) FROM {}", setup.ticket_table())).await, 0);
    let counted = |outcome: &str| setup.metrics.steps_reported.with_label_values(&[outcome]).get();
    assert_eq!((counted("success"), counted("failure")), (7, 2));
}

#[tokio::test]
async fn the_whole_transaction_of_a_zombie_fails() {
    let mut setup = setup().await;
    // Without a free slot the worker does not claim the ticket again itself.
    setup.config.worker.concurrency = 1;
    let (pool, mut registry) = (setup.db.pool.clone(), setup.registry());
    let (booked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (says, hears) = (Arc::clone(&booked), Arc::clone(&go_on));
    registry.register_fn("h", move |ctx: StepContext| {
        let (pool, says, hears) = (pool.clone(), Arc::clone(&says), Arc::clone(&hears));
        async move {
            let mut tx = pool.begin().await?;
            book(&ctx, &mut tx).await?;
            says.notify_one();
            hears.notified().await;
            let lost = ctx.complete_in(&mut tx, 7).await.unwrap_err();
            assert_eq!((lost.class(), lost.is_retryable()), ("claim_lost", true));
            // It is too late for anything else too.
            assert!(book(&ctx, &mut tx).await.is_err());
            tx.commit().await?;
            Err(lost)
        }
    });
    let task = setup.task(json!({}), Duration::ZERO).await;
    let worker = setup.start(registry).await;
    booked.notified().await;
    setup.end_leases().await;
    let again = setup.claim(Duration::from_secs(60)).await;
    assert_eq!(again[0].attempt, 2);
    go_on.notify_one();
    setup.until("SELECT count(*) = 1 FROM tasker.discarded_results WHERE reason = 'fenced'").await;
    assert_eq!((setup.bookings(task).await, setup.attempts(task).await), (0, Vec::new()));
    worker.stop().await;
}

const ACCOUNTS: i64 = 10;
const TRANSFERS: usize = 120;
const DATABASE: &str = "TEST_OF_TRANSFERS_DATABASE";

/// Moves an amount between two accounts and writes it into the journal, in no hurry.
async fn transfer(ctx: StepContext, pool: PgPool) -> Result<StepOutcome, StepError> {
    let (from, to, amount): (i64, i64, i64) = (ctx.get_input("from")?, ctx.get_input("to")?, ctx.get_input("amount")?);
    let mut tx = pool.begin().await?;
    sqlx::query("SELECT FROM accounts WHERE id IN ($1, $2) ORDER BY id FOR UPDATE")
        .bind(from)
        .bind(to)
        .execute(&mut *tx)
        .await?;
    for (account, change) in [(from, -amount), (to, amount)] {
        let book = sqlx::query("UPDATE accounts SET balance = balance + $2 WHERE id = $1").bind(account).bind(change);
        book.execute(&mut *tx).await?;
        tx.execute("SELECT pg_sleep(random() * 0.01)").await?;
    }
    let journal = sqlx::query("INSERT INTO bookings VALUES ($1, $2)").bind(ctx.task_uuid()).bind(amount.to_string());
    journal.execute(&mut *tx).await?;
    let outcome = ctx.complete_in(&mut tx, amount).await?;
    tx.execute("SELECT pg_sleep(random() * 0.01)").await?;
    tx.commit().await?;
    pool.execute("SELECT pg_sleep(random() * 0.01)").await?;
    Ok(outcome)
}

/// A worker process that can be killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the test of transfers, as a process of its own"]
async fn transfers_are_worked_on_until_killed() {
    let url = std::env::var(DATABASE).expect("the test of transfers names its database");
    let pool = store::connect(&url, 12, Duration::from_secs(30), 30_000).await.unwrap();
    let mut config = Config::default();
    config.worker.id = format!("worker-{}", std::process::id());
    config.worker.concurrency = 4;
    (config.queue.lease_ms, config.worker.heartbeat_ms, config.queue.poll_max_ms) = (800, 200, 50);
    let (wakeups, notifier) = (Wakeups::new(Mode::PollingOnly), Notifier::new(Mode::PollingOnly));
    let mut registry = HandlerRegistry::new();
    let of_handlers = pool.clone();
    registry.register_fn("h", move |ctx| transfer(ctx, of_handlers.clone()));
    let worker = Worker::builder(pool, Arc::new(config), Arc::new(Metrics::new()), wakeups, notifier);
    let _running = worker.registry(registry).build().start(Server::Elsewhere).await.unwrap();
    std::future::pending::<()>().await;
}

fn start_worker(url: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "transfers_are_worked_on_until_killed"])
        .env(DATABASE, url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_are_booked_once_each_although_their_workers_are_killed() {
    let setup = setup().await;
    setup.run("CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)").await;
    setup.run(&format!("INSERT INTO accounts SELECT id, 1000 FROM generate_series(1, {ACCOUNTS}) id")).await;
    let mut expected = [1000_i64; ACCOUNTS as usize];
    for n in 0..i64::try_from(TRANSFERS).unwrap() {
        let (from, to, amount) = (n % ACCOUNTS, (n * 7 + 3) % ACCOUNTS, n % 13);
        let to = if to == from { (to + 1) % ACCOUNTS } else { to };
        expected[usize::try_from(from).unwrap()] -= amount;
        expected[usize::try_from(to).unwrap()] += amount;
        setup.task(json!({"from": from + 1, "to": to + 1, "amount": amount}), Duration::ZERO).await;
    }
    let mut workers = [start_worker(&setup.db.url), start_worker(&setup.db.url)];
    let done = "SELECT count(*) FROM tasker.attempts WHERE outcome = 'success'";
    for kill in 1..=6_usize {
        setup.until(&format!("SELECT ({done}) >= {}", kill * TRANSFERS / 8)).await;
        let worker = &mut workers[kill % 2];
        worker.kill().unwrap();
        worker.wait().unwrap();
        *worker = start_worker(&setup.db.url);
    }
    setup.until(&format!("SELECT ({done}) = {TRANSFERS}")).await;
    for mut worker in workers {
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    let count = async |query| usize::try_from(setup.number(query).await).unwrap();
    assert_eq!(count("SELECT count(*) FROM bookings").await, TRANSFERS);
    assert_eq!(count("SELECT count(DISTINCT task) FROM bookings").await, TRANSFERS);
    assert_eq!(count("SELECT count(*) FROM pgmq.q_here_domain_events").await, TRANSFERS);
    assert_eq!(count("SELECT count(DISTINCT message ->> 'task_uuid') FROM pgmq.q_here_domain_events").await, TRANSFERS);
    assert_eq!(count("SELECT count(*) FROM tasker.attempts WHERE outcome NOT IN ('success', 'lost')").await, 0);
    let balances: Vec<i64> =
        sqlx::query_scalar("SELECT balance FROM accounts ORDER BY id").fetch_all(&setup.db.pool).await.unwrap();
    assert_eq!(balances, expected);
    let lost = count("SELECT count(*) FROM tasker.attempts WHERE outcome = 'lost'").await;
    assert!(lost > 0, "no worker was killed in mid-transfer");
    assert_eq!(count(&format!("SELECT count(*) FROM {}", setup.ticket_table())).await, 0);
}
