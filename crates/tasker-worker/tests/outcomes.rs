//! What becomes of what handlers do.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use async_trait::async_trait;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use support::Setup;
use tasker_worker::{StepContext, StepError, StepHandler, StepOutcome};

const STEP: &str = "
  - {name: only, handler: {callable: h, initialization: {currency: EUR}}, timeout_seconds: 5}";

#[tokio::test]
async fn a_result_is_stored_as_it_was_said_with_the_times_of_its_attempt() {
    let setup = Setup::new(STEP).await;
    let text = r#"{"b":1.50,"a":[1e2,"é\n"],"nested":{"z":null}}"#;
    let mut registry = setup.registry();
    registry.register_fn("h", move |ctx: StepContext| async move {
        assert_eq!(ctx.get_input::<String>("who")?, "ada");
        assert_eq!(ctx.get_config::<String>("currency")?, "EUR");
        assert_eq!((ctx.attempt(), ctx.max_attempts(), ctx.is_retry(), ctx.is_last_retry()), (1, 3, false, false));
        assert_eq!(ctx.idempotency_key(), format!("{}:only", ctx.task_uuid()));
        let result: Box<RawValue> = serde_json::from_str(text)?;
        Ok(StepOutcome::success(result)?.with_metadata(json!({"took": "long"})))
    });
    let task = setup.task(json!({"who": "ada"}), Duration::ZERO).await;
    let worker = setup.start(registry).await;
    setup.until_attempts(1).await;
    let row: (String, String, String, bool) = sqlx::query_as(
        "SELECT result::text, metadata::text, worker, claimed_at <= started_at AND started_at <= ended_at
                AND ended_at <= clock_timestamp() FROM tasker.attempts",
    )
    .fetch_one(&setup.db.pool)
    .await
    .unwrap();
    assert_eq!(row, (text.to_owned(), r#"{"took":"long"}"#.to_owned(), "tested".to_owned(), true));
    assert_eq!(setup.attempts(task).await, [(1, "success".to_owned(), None)]);
    assert_eq!(setup.number(&format!("SELECT count(*) FROM {}", setup.ticket_table())).await, 0);
    let told = format!(
        "SELECT count(*) FROM pgmq.q_orchestration_step_results WHERE message ->> 'task_uuid' = '{task}'
         AND message ->> 'step' = '0' AND message ->> 'attempt' = '1'"
    );
    assert_eq!(setup.number(&told).await, 1);
    worker.stop().await;
}

struct Nonsense;

#[async_trait]
impl StepHandler for Nonsense {
    async fn call(&self, ctx: StepContext) -> Result<StepOutcome, StepError> {
        let raw = |text: String| StepOutcome::success(RawValue::from_string(text)?);
        match ctx.get_input::<String>("do")?.as_str() {
            "nul" => raw(r#"{"a":["\u0000"]}"#.to_owned()),
            "huge integer" => raw(r#"{"n":9007199254740993}"#.to_owned()),
            "huge number" => raw(r#"{"n":1e400}"#.to_owned()),
            "duplicate key" => raw(r#"{"k":1,"k":2}"#.to_owned()),
            "deep" => raw("[".repeat(65) + &"]".repeat(65)),
            "large" => StepOutcome::success("x".repeat(1 << 20)),
            "nan" => StepOutcome::success(json!({})).and(StepOutcome::success([[f64::NAN]])),
            "bad metadata" => Ok(StepOutcome::success(1)?.with_metadata(json!({"m": "\0"}))),
            "schema" => StepOutcome::success(json!({"total": "many"})),
            "panic" => panic!("on {}", "purpose"),
            "slow" => std::future::pending().await,
            "exception" => Err(std::io::Error::other("disk on fire").into()),
            "permanent" => Err(StepError::permanent("no\0such card").with_class("card").with_code("E1")),
            "retryable" => Err(StepError::retryable_after("later", Duration::from_secs(7))),
            "mistyped input" => Err(ctx.get_input::<u32>("do").unwrap_err()),
            "no such step" => Err(ctx.dependency::<Value>("other").unwrap_err()),
            "endless message" => Err(StepError::permanent("m".repeat(1 << 20))),
            other => Err(StepError::permanent(format!("no case {other}"))),
        }
    }
}

#[tokio::test]
async fn nonsense_fails_the_attempt_with_its_class_and_place_and_the_worker_lives_on() {
    let schema = "{type: object, properties: {total: {type: integer}}}";
    let step = format!("{}\n    result_schema: {schema}", STEP.replace("{name: only, ", "name: only\n    ").trim_end());
    let step = step.replace(", timeout_seconds: 5}", "\n    timeout_seconds: 1");
    let setup = Setup::new(&step).await;
    let mut registry = setup.registry();
    registry.register("h", Nonsense);
    let serial = "result_not_serializable";
    let cases = [
        ("nul", serial, false, "the result at /a/0 contains the character U+0000"),
        ("huge integer", serial, false, "the result at /n is an integer beyond ±2^53"),
        ("huge number", serial, false, "the result at /n is too large"),
        ("duplicate key", serial, false, "the result at /k the key occurs twice"),
        ("deep", serial, false, "is nested deeper than 64 levels"),
        ("large", serial, false, "the result has 1048578 bytes, 1048576 are allowed"),
        ("nan", serial, false, "/0/0: NaN is no number"),
        ("bad metadata", serial, false, "the metadata at /m contains"),
        ("schema", "result_schema", false, "/total: "),
        ("panic", "panic", false, "the handler panicked: on purpose"),
        ("slow", "timeout", true, "no result after 1000 ms"),
        ("exception", "handler_error", true, "disk on fire"),
        ("permanent", "card", false, "no\u{fffd}such card"),
        ("retryable", "retryable_error", true, "later"),
        ("mistyped input", "validation_error", false, "the task's input `do`: invalid type"),
        ("no such step", "validation_error", false, "waits for no step `other`"),
        ("endless message", "permanent_error", false, "…"),
    ];
    let mut tasks = Vec::new();
    for (what, ..) in &cases {
        tasks.push(setup.task(json!({"do": what}), Duration::ZERO).await);
    }
    let worker = setup.start(registry).await;
    setup.until_attempts(cases.len()).await;
    for ((what, class, retryable, message), task) in cases.into_iter().zip(tasks) {
        let row: (String, String, bool, String, Option<i64>) = sqlx::query_as(
            "SELECT outcome, error ->> 'error_type', retryable, error ->> 'message', retry_after_ms
             FROM tasker.attempts WHERE task_uuid = $1",
        )
        .bind(task.uuid())
        .fetch_one(&setup.db.pool)
        .await
        .unwrap();
        assert_eq!((row.0.as_str(), row.1.as_str(), row.2), ("failure", class, retryable), "{what}: {row:?}");
        assert!(row.3.contains(message) && row.3.len() <= 8192, "{what}: {}", row.3);
        assert_eq!(row.4, (what == "retryable").then_some(7_000), "{what}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_result_that_offends_against_its_schema_fails_for_good_with_every_place() {
    let schema = "{type: array, items: {type: object, required: [id], properties: {'a/b': {type: integer}}}}";
    let step = format!("{}\n    result_schema: {schema}", STEP.replace("{name: only, ", "name: only\n    ").trim_end());
    let setup = Setup::new(&step.replace(", timeout_seconds: 5}", "")).await;
    let mut registry = setup.registry();
    registry.register_fn("h", |ctx: StepContext| async move {
        let count: usize = ctx.get_input("count")?;
        StepOutcome::success(vec![json!({"id": 1, "a/b": "secret"}); count])
    });
    let few = setup.task(json!({"count": 3}), Duration::ZERO).await;
    let many = setup.task(json!({"count": 150}), Duration::ZERO).await;
    let none = setup.task(json!({"count": 0}), Duration::ZERO).await;
    let worker = setup.start(registry).await;
    setup.until_attempts(3).await;
    for (task, told) in [(few, 3), (many, 100)] {
        assert_eq!(setup.attempts(task).await, [(1, "failure".to_owned(), Some("result_schema".to_owned()))]);
        let (retryable, violations, result): (bool, Value, Option<String>) = sqlx::query_as(
            "SELECT retryable, metadata -> 'violations', result::text FROM tasker.attempts WHERE task_uuid = $1",
        )
        .bind(task.uuid())
        .fetch_one(&setup.db.pool)
        .await
        .unwrap();
        assert_eq!((retryable, result, violations.as_array().unwrap().len()), (false, None, told));
        assert_eq!(violations[2]["path"], "/2/a~1b");
        let message = setup.error(task).await;
        assert!(
            message.contains("/0/a~1b: ") && message.contains("/2/a~1b: ") && !message.contains("secret"),
            "{message}"
        );
    }
    assert_eq!(setup.attempts(none).await, [(1, "success".to_owned(), None)]);
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_sees_the_results_of_all_its_ancestors() {
    let steps = "
  - {name: first, handler: {callable: h}}
  - {name: resolved, handler: {callable: h}}
  - {name: middle, handler: {callable: h}, dependencies: [first, resolved]}
  - {name: last, handler: {callable: seen}, dependencies: [middle]}";
    let setup = Setup::new(steps).await;
    let task = setup.task(json!({}), Duration::from_secs(3600)).await;
    // As the server would leave it: the last step has the ticket, one step was resolved by hand.
    let row = "INSERT INTO tasker.attempts (task_uuid, step, attempt, nonce, outcome, worker, ended_at, result, error, retryable)";
    setup
        .run(&format!(
            "{row} VALUES ('{task}', 0, 1, gen_random_uuid(), 'failure', 'w', now(), NULL, '{{}}', true),
             ('{task}', 0, 2, gen_random_uuid(), 'success', 'w', now(), '{{\"n\": {{\"deep\": 1}}}}', NULL, NULL),
             ('{task}', 2, 1, gen_random_uuid(), 'by_hand', 'w', now(), '2', NULL, NULL);
             UPDATE tasker.tasks SET steps = 'CRCQ', sparse = jsonb_build_object('3', sparse -> '0');
             DELETE FROM {} WHERE message ->> 'step_uuid' <> '{}';
             UPDATE {} SET vt = now(), message = jsonb_set(message, '{{step_uuid}}', to_jsonb('{}'::text))",
            setup.ticket_table(),
            task.step(tasker_lifecycle::StepIndex(0)),
            setup.ticket_table(),
            task.step(tasker_lifecycle::StepIndex(3)),
        ))
        .await;
    let mut registry = setup.registry();
    registry.register_fn("seen", |ctx: StepContext| async move {
        let seen: Vec<(String, String)> =
            ctx.dependencies().map(|(name, result)| (name.to_owned(), result.get().to_owned())).collect();
        let deep: i64 = ctx.dependency_field("first", &["n", "deep"])?;
        let nothing: Option<i64> = ctx.dependency_field("first", &["n", "none"])?;
        StepOutcome::success(json!([seen, deep, nothing, ctx.dependency::<Option<i64>>("resolved")?]))
    });
    let worker = setup.start(registry).await;
    setup.until("SELECT EXISTS (SELECT FROM tasker.attempts WHERE step = 3)").await;
    let result: String = sqlx::query_scalar("SELECT result::text FROM tasker.attempts WHERE step = 3")
        .fetch_one(&setup.db.pool)
        .await
        .unwrap();
    let seen = json!([[["first", "{\"n\": {\"deep\": 1}}"], ["resolved", "null"], ["middle", "2"]], 1, null, null]);
    assert_eq!(serde_json::from_str::<Value>(&result).unwrap(), seen);
    worker.stop().await;
}

#[tokio::test]
async fn an_outcome_that_the_database_refuses_fails_its_own_attempt_only() {
    let setup = Setup::new(STEP).await;
    setup.run("ALTER TABLE tasker.attempts ADD CHECK (result::text <> '\"poison\"')").await;
    let mut registry = setup.registry();
    registry.register_fn("h", |ctx: StepContext| async move { StepOutcome::success(ctx.get_input::<String>("say")?) });
    let mut poisoned = None;
    for number in 0..9 {
        let say = if number == 4 { "poison" } else { "bread" };
        let task = setup.task(json!({"say": say}), Duration::ZERO).await;
        poisoned = if number == 4 { Some(task) } else { poisoned };
    }
    let worker = setup.start(registry).await;
    setup.until_attempts(9).await;
    assert_eq!(setup.number("SELECT count(*) FROM tasker.attempts WHERE outcome = 'success'").await, 8);
    let failed = setup.attempts(poisoned.unwrap()).await;
    assert_eq!(failed, [(1, "failure".to_owned(), Some("report_refused".to_owned()))]);
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_is_reported_once_at_its_timeout() {
    let mut setup = Setup::new(&STEP.replace("timeout_seconds: 5", "timeout_seconds: 0.2")).await;
    setup.config.worker.heartbeat_ms = 50;
    let (free, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = std::sync::Mutex::new(blocked);
    let blocked = std::sync::Arc::new(blocked);
    let mut registry = setup.registry();
    registry.register_fn("h", move |_| {
        let blocked = std::sync::Arc::clone(&blocked);
        async move {
            let _freed = blocked.lock().unwrap().recv();
            StepOutcome::success(1)
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let task = setup.task(json!({}), Duration::ZERO).await;
    let (worker, _) = {
        let _entered = runtime.enter();
        setup.worker(registry)
    };
    let worker = runtime.spawn(worker.start(tasker_worker::Server::Elsewhere)).await.unwrap().unwrap();
    setup.until_attempts(1).await;
    assert_eq!(setup.attempts(task).await, [(1, "failure".to_owned(), Some("timeout".to_owned()))]);
    free.send(()).unwrap();
    runtime.spawn(worker.stop()).await.unwrap();
    assert_eq!(setup.number("SELECT count(*) FROM tasker.attempts").await, 1);
    assert_eq!(setup.number("SELECT count(*) FROM tasker.discarded_results").await, 0);
    runtime.shutdown_background();
}
