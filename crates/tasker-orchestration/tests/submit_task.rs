//! Tasks that are submitted with SQL, in the transaction that holds the caller's own data.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use std::time::Duration;

use http_support::{Answer, ORDER, Server, order, success};
use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use sqlx::{Connection, Executor, PgConnection};
use tasker_lifecycle::TaskId;
use tasker_shared::config::Config;
use tasker_shared::testing::eventually;
use uuid::Uuid;

const KEYED: &str = "
name: keyed
namespace_name: shop
version: 1.0.0
identity_strategy: strict
steps: [{name: only, handler: {callable: h}}]
";

/// A server that looks into its queues at once.
async fn start() -> Server {
    let server = Server::with(|config: &mut Config| {
        config.queue.poll_min_ms = 5;
        config.queue.poll_max_ms = 20;
    })
    .await;
    server.register(ORDER).await.unwrap();
    server.register(KEYED).await.unwrap();
    server.db.pool.execute("CREATE TABLE orders (id serial PRIMARY KEY, task uuid)").await.unwrap();
    server
}

async fn submit(conn: &mut PgConnection, arguments: &str) -> Uuid {
    sqlx::query_scalar(&format!("SELECT tasker.submit_task({arguments})")).fetch_one(conn).await.unwrap()
}

impl Server {
    /// The task, once its request was judged.
    async fn judged(&self, task: Uuid) -> Value {
        let mut judged = Value::Null;
        eventually("the request is judged", async || {
            let answer: Answer = self.get(&format!("/v1/tasks/{task}")).await;
            assert!(matches!(answer.status, 200 | 404), "{answer:?}");
            if answer.status == 200 {
                judged = answer.json();
            }
            answer.status == 200
        })
        .await;
        judged
    }

    async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.db.pool).await.unwrap()
    }

    async fn until_queue_is_empty(&self) {
        eventually("the requests are taken", async || {
            self.number("SELECT count(*) FROM pgmq.q_orchestration_task_requests").await == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_task_is_there_if_and_only_if_its_transaction_is() {
    let server = start().await;
    let (mut first, mut second) =
        (PgConnection::connect(&server.db.url).await.unwrap(), PgConnection::connect(&server.db.url).await.unwrap());
    let mut kept = first.begin().await.unwrap();
    let mut undone = second.begin().await.unwrap();
    let arguments =
        r#"'shop', 'order', '{"amount": 7}', priority => 40, initiator => 'ada', tags => ARRAY['night', 'eu']"#;
    let (mut tasks, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        for (tx, ids) in [(&mut kept, &mut tasks), (&mut undone, &mut gone)] {
            let task = submit(tx, arguments).await;
            sqlx::query("INSERT INTO orders (task) VALUES ($1)").bind(task).execute(&mut **tx).await.unwrap();
            TaskId::try_from(task).expect("an id of a task");
            ids.push(task);
        }
    }
    assert_eq!(server.get(&format!("/v1/tasks/{}", tasks[0])).await.status, 404, "nobody sees it before the commit");
    undone.rollback().await.unwrap();
    kept.commit().await.unwrap();
    for task in &tasks {
        let task = server.judged(*task).await;
        assert_eq!((&task["status"], &task["priority"]), (&json!("steps_in_process"), &json!(40)), "{task}");
        assert_eq!((&task["context"], &task["tags"]), (&json!({"amount": 7}), &json!(["night", "eu"])));
        assert_eq!((&task["initiator"], &task["correlation_id"]), (&json!("ada"), &task["task_uuid"]));
        assert!(task.get("refusal").is_none());
    }
    server.until_queue_is_empty().await;
    for task in gone {
        assert_eq!(server.get(&format!("/v1/tasks/{task}")).await.status, 404, "rolled back");
    }
    let both = server.number("SELECT count(*) FROM orders o JOIN tasker.tasks t ON t.task_uuid = o.task").await;
    assert_eq!((both, server.number("SELECT count(*) FROM tasker.tasks").await), (3, 3));
    assert_eq!(server.number("SELECT count(*) FROM tasker.live_step_violations()").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn what_is_refused_is_told_under_the_id_that_was_given() {
    let server = start().await;
    let mut keyed = order();
    keyed.idempotency_key = Some("k".to_owned());
    let there = server.client.create_task(&keyed).await.unwrap().task_uuid;
    let mut conn = PgConnection::connect(&server.db.url).await.unwrap();
    let strict = submit(&mut conn, "'shop', 'keyed', '{\"n\": 1}'").await;
    server.judged(strict).await;
    let cases = [
        ("'shop', 'none'", "TEMPLATE_NOT_FOUND", json!({})),
        ("'shop', 'order', '{\"amount\": 1}', '9.9.9'", "TEMPLATE_NOT_FOUND", json!({})),
        ("'Shop-1', 'order'", "INVALID_REQUEST", json!(null)),
        ("'shop', 'order', '{\"amount\": 1}', priority => 70000", "INVALID_REQUEST", json!(null)),
        ("'shop', 'order', '{\"amount\": 1}', idempotency_key => 'strict:1'", "INVALID_REQUEST", json!(null)),
        ("'shop', 'order', '[1]'", "INVALID_REQUEST", json!(null)),
        ("'shop', 'order', '{\"amount\": 1e400}'", "INVALID_REQUEST", json!(null)),
        ("'shop', 'order', jsonb_build_object('amount', 1, 'x', repeat('x', 2000000))", "INVALID_REQUEST", json!(null)),
        ("'shop', 'order', '{\"amount\": -1}'", "INPUT_SCHEMA", json!(null)),
        (
            "'shop', 'order', '{\"amount\": 12.5}', idempotency_key => 'k'",
            "DUPLICATE_TASK",
            json!({"task_uuid": there}),
        ),
        (
            "'shop', 'order', '{\"amount\": 1}', idempotency_key => 'k'",
            "IDEMPOTENCY_CONFLICT",
            json!({"task_uuid": there}),
        ),
        ("'shop', 'keyed', '{\"n\": 1.0}'", "DUPLICATE_TASK", json!({"task_uuid": strict})),
    ];
    for (arguments, code, details) in cases {
        let id = submit(&mut conn, arguments).await;
        let task = server.judged(id).await;
        assert_eq!((&task["status"], &task["refusal"]["code"]), (&json!("error"), &json!(code)), "{arguments}: {task}");
        assert!(task["refusal"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{task}");
        if !details.is_null() {
            assert_eq!(task["refusal"]["details"], details, "{arguments}");
        } else {
            assert!(task["refusal"]["details"]["violations"][0]["message"].is_string(), "{arguments}: {task}");
        }
        assert_eq!((&task["total_steps"], &task["task_uuid"]), (&json!(0), &json!(id)));
        assert!(arguments.contains(task["name"].as_str().unwrap()) && task["name"] != "", "{task}");
        let waited = server.get(&format!("/v1/tasks/{id}/wait?timeout_ms=10")).await;
        assert_eq!((waited.status, waited.json()), (200, task));
        let cancel = server.http.delete(format!("{}/v1/tasks/{id}", server.base)).send().await.unwrap();
        assert_eq!(Answer::of(cancel).await.code(), "TASK_ENDED");
    }
    // Whoever may use the schema may submit, and nothing more.
    let mut tx = conn.begin().await.unwrap();
    let role = "CREATE ROLE submitter; GRANT USAGE ON SCHEMA tasker TO submitter; SET LOCAL ROLE submitter";
    sqlx::raw_sql(role).execute(&mut *tx).await.unwrap();
    submit(&mut tx, "'shop', 'order'").await;
    let error = tx.execute("SELECT FROM tasker.tasks").await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
    tx.rollback().await.unwrap();
    for (arguments, says) in [("NULL, 'order'", "must not be null"), ("'shop', 'order', NULL", "must not be null")] {
        let error = conn.execute(&*format!("SELECT tasker.submit_task({arguments})")).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(server.number("SELECT count(*) FROM tasker.tasks").await, 2);
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_is_delivered_twice_becomes_one_task_and_poison_holds_nobody_up() {
    let server = start().await;
    let mut tx = server.db.pool.begin().await.unwrap();
    let task = submit(&mut tx, "'shop', 'order', '{\"amount\": 1}'").await;
    let refused = submit(&mut tx, "'shop', 'none'").await;
    let double = "INSERT INTO pgmq.q_orchestration_task_requests (vt, message)
                  SELECT vt, message FROM pgmq.q_orchestration_task_requests";
    tx.execute(double).await.unwrap();
    let ancient = TaskId::new(0, 7).uuid();
    for poison in [
        json!("nonsense"),
        json!({"task_uuid": Uuid::max(), "request": {}}),
        json!({"task_uuid": TaskId::new(1 << 40, 7).uuid(), "request": {"namespace": 7}}),
        json!({"task_uuid": ancient, "request": {"namespace": "shop", "name": "order", "context": {"amount": 1}}}),
    ] {
        let send = "SELECT pgmq.send('orchestration_task_requests', $1)";
        sqlx::query(send).bind(poison).execute(&mut *tx).await.unwrap();
    }
    let last = submit(&mut tx, "'shop', 'order', '{\"amount\": 2}'").await;
    tx.commit().await.unwrap();
    for good in [task, last] {
        assert_eq!(server.judged(good).await["status"], "steps_in_process");
    }
    assert_eq!(server.judged(refused).await["refusal"]["code"], "TEMPLATE_NOT_FOUND");
    // No month is kept for a task of that time, so that the database refuses the row.
    assert_eq!(server.judged(ancient).await["refusal"]["code"], "NOT_STORABLE");
    server.until_queue_is_empty().await;
    assert_eq!(server.number("SELECT count(*) FROM tasker.tasks").await, 2);
    assert_eq!(server.number("SELECT count(*) FROM tasker.refused_requests").await, 3);
    let filed = "SELECT count(*) FROM tasker.dead_letters WHERE snapshot ->> 'queue' = 'orchestration_task_requests'";
    assert_eq!(server.number(filed).await, 2);
    // A copy that comes when all is done.
    let mut tx = server.db.pool.begin().await.unwrap();
    for (id, name) in [(task, "order"), (refused, "none")] {
        let message =
            json!({"task_uuid": id, "request": {"namespace": "shop", "name": name, "context": {"amount": 9}}});
        let send = "SELECT pgmq.send('orchestration_task_requests', $1)";
        sqlx::query(send).bind(message).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    server.until_queue_is_empty().await;
    assert_eq!(server.judged(task).await["context"], json!({"amount": 1}));
    assert_eq!(server.number("SELECT count(*) FROM tasker.tasks").await, 2);
    assert_eq!(server.number("SELECT count(*) FROM tasker.live_step_violations()").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_thousand_submissions_of_one_transaction_share_commits_and_one_notification() {
    let server = start().await;
    let mut listener = PgListener::connect(&server.db.url).await.unwrap();
    listener.listen("pgmq_orchestration_task_requests").await.unwrap();
    let many = "SELECT tasker.submit_task('shop', 'keyed', jsonb_build_object('n', n)) FROM generate_series(1, 1000) n";
    let mut tx = server.db.pool.begin().await.unwrap();
    let tasks: Vec<Uuid> = sqlx::query_scalar(many).fetch_all(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), listener.recv()).await.expect("one is sent").unwrap();
    for task in [tasks[0], tasks[999]] {
        assert_eq!(server.judged(task).await["status"], "steps_in_process");
    }
    server.until_queue_is_empty().await;
    assert_eq!(server.number("SELECT count(*) FROM tasker.tasks").await, 1_000);
    let commits = server.engine.metrics().batch_size.with_label_values(&["requests"]).get_sample_count();
    assert!(commits <= 20, "{commits} commits for 1,000 tasks");
    // Whatever else were sent for that transaction stands before this.
    server.db.pool.execute("NOTIFY pgmq_orchestration_task_requests, 'last'").await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await.unwrap().unwrap();
    assert_eq!(next.payload(), "last");
    assert_eq!(server.work("shop", |_, _| success("1")).await, 100, "their tickets are there");
    server.stop().await;
}
