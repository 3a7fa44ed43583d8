//! Tasks that begin and steps that end in transactions of the caller's own, through a whole server with a worker beside it or
//! apart from it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::{Mode, Notifier, Wakeups};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Executor, PgPool};
use tasker_lifecycle::template;
use tasker_orchestration::Engine;
use tasker_shared::config::Config;
use tasker_shared::telemetry::Metrics;
use tasker_shared::testing::TestDatabase;
use tasker_worker::{HandlerRegistry, Server, StepContext, StepError, StepOutcome, Worker};
use tokio_util::sync::CancellationToken;

const TRANSFER: &str = "
name: transfer
namespace_name: bank
version: 1.0.0
steps:
  - {name: debit, handler: {callable: book, initialization: {sign: -1}}, retry: {max_attempts: 3, backoff: none}}
  - {name: credit, handler: {callable: book, initialization: {sign: 1}}, dependencies: [debit],
     retry: {max_attempts: 3, backoff: none}}
";
const TRANSFERS: i64 = 60;

/// Books its side of a transfer. Every third first attempt is rolled back after all was written, every other third fails
/// after its commit.
async fn book(ctx: StepContext, pool: PgPool) -> Result<StepOutcome, StepError> {
    let (number, amount): (i64, i64) = (ctx.get_input("number")?, ctx.get_input("amount")?);
    let signed = amount * ctx.get_config::<i64>("sign")?;
    if ctx.step_name() == "credit" {
        assert_eq!(ctx.dependency::<i64>("debit")?, -signed, "what the transaction stored is what the next step reads");
    }
    let mut tx = pool.begin().await?;
    let insert = sqlx::query("INSERT INTO journal VALUES ($1, $2, $3)").bind(number).bind(ctx.step_name()).bind(signed);
    insert.execute(&mut *tx).await?;
    let outcome = ctx.complete_in(&mut tx, signed).await?;
    if number % 3 == 0 && ctx.attempt() == 1 {
        tx.rollback().await?;
        return Err(StepError::retryable("the power failed"));
    }
    tx.commit().await?;
    if number % 3 == 1 { Err(StepError::permanent("the power failed after the commit")) } else { Ok(outcome) }
}

async fn transfers(beside_each_other: bool) {
    let database = TestDatabase::create().await;
    let pool = database.pool.clone();
    pool.execute("CREATE TABLE journal (number bigint, side text, amount bigint)").await.unwrap();
    pool.execute("CREATE TABLE orders (number bigint, task uuid)").await.unwrap();
    let options: PgConnectOptions = database.url.parse().unwrap();
    let (wakeups, notifier) = (Wakeups::new(Mode::Hybrid), Notifier::new(Mode::Hybrid));
    let stop = CancellationToken::new();
    let (listen, send, stopped) = (wakeups.clone(), notifier.clone(), stop.clone());
    let (listening, other) = (options.clone(), stop.clone());
    tokio::spawn(async move { listen.run(&listening, stopped).await });
    tokio::spawn(async move { send.run(&options, other).await });
    let (config, metrics) = (Arc::new(Config::default()), Arc::new(Metrics::new()));
    let mut registry = HandlerRegistry::new();
    let of_handlers = pool.clone();
    registry.register_fn("book", move |ctx| book(ctx, of_handlers.clone()));
    let worker =
        Worker::builder(pool.clone(), Arc::clone(&config), Arc::clone(&metrics), wakeups.clone(), notifier.clone())
            .registry(registry)
            .build();
    let local = beside_each_other.then(|| worker.local());
    let (engine, running, reports) =
        Engine::start(config, pool.clone(), metrics, wakeups, notifier, local).await.unwrap();
    engine.register(template::parse(TRANSFER, None).unwrap().0, false).await.unwrap();
    let side = if beside_each_other { Server::Here(reports) } else { Server::Elsewhere };
    let worker = worker.start(side).await.unwrap();

    let mut tx = pool.begin().await.unwrap();
    let submit = "INSERT INTO orders SELECT n, tasker.submit_task('bank', 'transfer',
                      jsonb_build_object('number', n, 'amount', n * 7)) FROM generate_series(1, $1) n";
    sqlx::query(submit).bind(TRANSFERS).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let count = async |query: &'static str| sqlx::query_scalar::<_, i64>(query).fetch_one(&pool).await.unwrap();
    let done = async {
        while count("SELECT count(*) FROM tasker.tasks WHERE state = 'complete'").await < TRANSFERS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), done).await.is_err() {
        let left: Vec<(String, String)> =
            sqlx::query_as("SELECT state, steps FROM tasker.tasks WHERE state <> 'complete'")
                .fetch_all(&pool)
                .await
                .unwrap();
        panic!("not all transfers are complete: {left:?}");
    }
    assert_eq!(count("SELECT count(*) FROM journal").await, 2 * TRANSFERS);
    assert_eq!(count("SELECT count(DISTINCT (number, side)) FROM journal").await, 2 * TRANSFERS);
    assert_eq!(count("SELECT sum(amount)::bigint FROM journal").await, 0);
    assert_eq!(count("SELECT count(*) FROM orders o JOIN tasker.tasks t ON t.task_uuid = o.task").await, TRANSFERS);
    let failed = count("SELECT count(*) FROM tasker.attempts WHERE outcome = 'failure'").await;
    assert_eq!(failed, 2 * TRANSFERS / 3, "those that were rolled back, and no others");
    assert_eq!(count("SELECT count(*) FROM tasker.discarded_results").await, 0);
    worker.stop().await;
    running.stop().await;
    stop.cancel();
    assert_eq!(count("SELECT count(*) FROM tasker.live_step_violations()").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_from_sql_to_sql_are_booked_once_with_server_and_worker_beside_each_other() {
    transfers(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_from_sql_to_sql_are_booked_once_through_the_queues() {
    transfers(false).await;
}
