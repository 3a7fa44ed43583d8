//! What the API refuses, and how: the status, the code, and what the answer must say.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use std::time::Duration;

use http_support::{Answer, ORDER, Server, order};
use tasker_shared::testing::{TestDatabase, eventually, through_a_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// (body of POST /v1/tasks, status, code, what the answer says)
fn bodies() -> Vec<(String, u16, &'static str, &'static str)> {
    let with = |more: &str| format!(r#"{{"name":"order","namespace":"shop","context":{{"amount":1}},{more}}}"#);
    let context = |context: &str| format!(r#"{{"name":"order","namespace":"shop","context":{context}}}"#);
    let deep = format!(r#"{{"amount":1,"a":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    vec![
        ("".into(), 400, "MALFORMED_JSON", "EOF"),
        ("{\n  \"name\": nope}".into(), 400, "MALFORMED_JSON", r#""line":2"#),
        (r#"{"name":"order""#.into(), 400, "MALFORMED_JSON", "column"),
        ("[]".into(), 422, "INVALID_REQUEST", "violations"),
        (r#"{"name":"order"}"#.into(), 422, "INVALID_REQUEST", "namespace"),
        (with(r#""prority":1"#), 422, "UNKNOWN_FIELD", "did you mean `priority`?"),
        (with(r#""options":{"fast":true}"#), 422, "UNKNOWN_FIELD", "fast"),
        (with(r#""priority":101"#), 422, "INVALID_REQUEST", "/priority"),
        (with(r#""priority":1.5"#), 422, "INVALID_REQUEST", "1.5"),
        (with(r#""priority":100000"#), 422, "INVALID_REQUEST", "100000"),
        (with(r#""correlation_id":"x""#), 422, "INVALID_REQUEST", "UUID"),
        (with(r#""requested_at":"yesterday""#), 422, "INVALID_REQUEST", "violations"),
        (with(r#""idempotency_key":"""#), 400, "INVALID_IDEMPOTENCY_KEY", "empty"),
        (with(&format!(r#""idempotency_key":"{}""#, "k".repeat(256))), 400, "INVALID_IDEMPOTENCY_KEY", "255"),
        (with(r#""idempotency_key":"a\nb""#), 400, "INVALID_IDEMPOTENCY_KEY", "printable"),
        (with(r#""idempotency_key":"strict:1""#), 400, "INVALID_IDEMPOTENCY_KEY", "strict:"),
        (with(r#""name":"order""#), 422, "INVALID_REQUEST", "/name"),
        (with(r#""reason":"a\u0000b""#), 422, "INVALID_REQUEST", "/reason"),
        (with(r#""reason":"\ud800""#), 422, "INVALID_REQUEST", "surrogate"),
        (with(&format!(r#""initiator":"{}""#, "i".repeat(256))), 422, "INVALID_REQUEST", "/initiator"),
        (with(r#""tags":["ok",""]"#), 422, "INVALID_REQUEST", "/tags/1"),
        (with(&format!(r#""tags":[{}"t"]"#, r#""t","#.repeat(64))), 422, "INVALID_REQUEST", "/tags"),
        (with(r#""version":"one""#), 422, "INVALID_REQUEST", "/version"),
        (context("[1]"), 422, "INVALID_REQUEST", "must be an object"),
        (context("null"), 422, "INVALID_REQUEST", "must be an object"),
        (context(r#"{"a":"\u0000"}"#), 422, "INVALID_REQUEST", "/context/a"),
        (context(r#"{"a":"\udc00"}"#), 422, "INVALID_REQUEST", "/context/a"),
        (context(r#"{"a":[0,1e400]}"#), 422, "INVALID_REQUEST", "/context/a/1"),
        (context(r#"{"amount":9007199254740993}"#), 422, "INVALID_REQUEST", "/context/amount"),
        (context(r#"{"amount":1,"amount":2}"#), 422, "INVALID_REQUEST", "/context/amount"),
        (context(&deep), 422, "INVALID_REQUEST", "deeper than 64"),
        (context("{}"), 422, "INPUT_SCHEMA", "amount"),
        (context(r#"{"amount":-1,"mail":"x"}"#), 422, "INPUT_SCHEMA", "/context/mail"),
        (r#"{"name":"none","namespace":"shop"}"#.into(), 404, "TEMPLATE_NOT_FOUND", "shop/none"),
        (r#"{"name":"order","namespace":"other"}"#.into(), 404, "TEMPLATE_NOT_FOUND", "other"),
        (r#"{"name":"order","namespace":"shop","version":"9.9.9"}"#.into(), 404, "TEMPLATE_NOT_FOUND", "9.9.9"),
        (r#"{"name":"order","namespace":"Shop-1"}"#.into(), 422, "INVALID_REQUEST", "/namespace"),
        (r#"{"name":"order","namespace":"shop'; drop table"}"#.into(), 422, "INVALID_REQUEST", "/namespace"),
        (r#"{"name":"a\u0000","namespace":"shop"}"#.into(), 422, "INVALID_REQUEST", "/name"),
    ]
}

#[tokio::test]
async fn bad_requests_for_tasks_are_refused_with_the_place() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    for (body, status, code, says) in bodies() {
        let answer = server.post("/v1/tasks", body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}: {answer:?}");
        assert!(answer.text.contains(says), "{body}: no `{says}` in {}", answer.text);
        for secret in ["SELECT", "tasker.", "/work", ".rs:", "panicked"] {
            assert!(!answer.text.contains(secret), "{body}: {}", answer.text);
        }
    }
    let tasks = server.get("/v1/tasks").await.json();
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 0, "nothing was half done");
    server.stop().await;
}

#[tokio::test]
async fn bad_ids_and_queries_are_refused() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap();
    let (task, step) = (task.task_uuid, task.steps[0].step_uuid);
    let foreign = server.client.create_task(&order()).await.unwrap().steps[0].step_uuid;
    let unknown = uuid::Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000);
    let cases = [
        ("/v1/tasks/nonsense".to_owned(), 400, "INVALID_ID"),
        (format!("/v1/tasks/{unknown}"), 404, "NOT_FOUND"),
        (format!("/v1/tasks/{step}"), 404, "NOT_FOUND"),
        ("/v1/tasks/00000000-0000-4000-8000-000000000000".to_owned(), 404, "NOT_FOUND"),
        (format!("/v1/tasks/{unknown}/wait?timeout_ms=1"), 404, "NOT_FOUND"),
        (format!("/v1/tasks/{unknown}/events"), 404, "NOT_FOUND"),
        (format!("/v1/tasks/{unknown}/history"), 404, "NOT_FOUND"),
        (format!("/v1/tasks/{unknown}/graph"), 404, "NOT_FOUND"),
        (format!("/v1/tasks/{unknown}/workflow_steps"), 404, "NOT_FOUND"),
        (format!("/v1/tasks/{task}/workflow_steps/{foreign}"), 404, "NOT_FOUND"),
        (format!("/v1/tasks/{task}/workflow_steps/{task}"), 404, "NOT_FOUND"),
        (format!("/v1/tasks/{task}/workflow_steps/x"), 400, "INVALID_ID"),
        (format!("/v1/tasks/{task}/history?limit=0"), 422, "INVALID_REQUEST"),
        (format!("/v1/tasks/{task}/history?limit=1001"), 422, "INVALID_REQUEST"),
        (format!("/v1/tasks/{task}/history?after=x"), 422, "INVALID_REQUEST"),
        (format!("/v1/tasks/{task}/graph?format=png"), 422, "INVALID_REQUEST"),
        (format!("/v1/tasks/{task}/wait?timeout=1"), 422, "UNKNOWN_FIELD"),
        (format!("/v1/tasks/{task}/wait?timeout_ms=-1"), 422, "INVALID_REQUEST"),
        ("/v1/tasks?limit=0".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/tasks?limit=101".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/tasks?limit=99999999999999".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/tasks?page=0".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/tasks?page=4000000000".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/tasks?page=1&limit=5".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/tasks?cursor=forged".to_owned(), 400, "INVALID_CURSOR"),
        ("/v1/tasks?cursor=00000000000040008000000000000000".to_owned(), 400, "INVALID_CURSOR"),
        ("/v1/tasks?status=done".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/tasks?statis=complete".to_owned(), 422, "UNKNOWN_FIELD"),
        ("/v1/tasks?tag=a%00b".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/tasks?created_after=now".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/templates?cursor=x".to_owned(), 400, "INVALID_CURSOR"),
        ("/v1/templates?limit=1000".to_owned(), 422, "INVALID_REQUEST"),
        ("/v1/templates/shop/order/9.9.9".to_owned(), 404, "NOT_FOUND"),
        ("/v1/templates/shop/or%00der/1.0.0".to_owned(), 404, "NOT_FOUND"),
        ("/v1/nothing".to_owned(), 404, "NOT_FOUND"),
        ("/".to_owned(), 404, "NOT_FOUND"),
    ];
    for (path, status, code) in cases {
        let answer = server.get(&path).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}: {answer:?}");
    }
    let nearest = server.get("/v1/tasks?statis=complete").await;
    assert!(nearest.text.contains("did you mean `status`?"), "{nearest:?}");
    let header = server.http.get(format!("{}/v1/tasks/{task}/events", server.base)).header("Last-Event-ID", "x");
    assert_eq!(Answer::of(header.send().await.unwrap()).await.code(), "INVALID_EVENT_ID");
    server.stop().await;
}

#[tokio::test]
async fn wrong_methods_and_media_types_are_refused() {
    let server = Server::start().await;
    let wrong = server.http.put(format!("{}/v1/tasks", server.base)).send().await.unwrap();
    let answer = Answer::of(wrong).await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "METHOD_NOT_ALLOWED"));
    let allow = answer.headers["allow"].to_str().unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    for (path, media_type) in
        [("/v1/tasks", Some("text/plain")), ("/v1/tasks", None), ("/v1/templates", Some("text/html"))]
    {
        let mut request = server.http.post(format!("{}{path}", server.base)).body("{}");
        if let Some(media_type) = media_type {
            request = request.header("content-type", media_type);
        }
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!((answer.status, answer.code().as_str()), (415, "UNSUPPORTED_MEDIA_TYPE"), "{media_type:?}");
    }
    let own =
        server.http.get(format!("{}/nothing", server.base)).header("X-Request-Id", "mine-1").send().await.unwrap();
    assert_eq!(Answer::of(own).await.headers["x-request-id"], "mine-1");
    let long =
        server.http.get(format!("{}/live", server.base)).header("X-Request-Id", "x".repeat(500)).send().await.unwrap();
    assert_eq!(Answer::of(long).await.headers["x-request-id"].len(), 36);
    server.stop().await;
}

#[tokio::test]
async fn bad_templates_are_refused_with_every_problem() {
    let server = Server::start().await;
    let head = "name: t\nnamespace_name: shop\nversion: 1.0.0\n";
    let step = "steps: [{name: a, handler: {callable: a}}]\n";
    let cases = [
        (format!("{head}stepz: []\n{step}"), "INVALID_TEMPLATE", "did you mean `steps`?"),
        (
            format!("{head}steps: [{{name: a, handler: {{callable: a}}, dependencies: [b]}}]"),
            "INVALID_TEMPLATE",
            "line",
        ),
        (format!("{head}input_schema: {{type: thing}}\n{step}"), "INVALID_TEMPLATE", "input_schema"),
        (format!("{head}input_schema: {{$ref: 'http://example.com/x'}}\n{step}"), "INVALID_TEMPLATE", "ref"),
        (
            format!("{head}domain_events: [{{name: e, schema: {{type: thing}}}}]\n{step}"),
            "INVALID_TEMPLATE",
            "domain_events[0]",
        ),
        (
            format!("{head}{}", step.replace("}}]", "}, publishes_events: [{name: e, schema: {type: thing}}]}]")),
            "INVALID_TEMPLATE",
            "steps[0].publishes_events[0].schema",
        ),
        (format!("{head}{}", step.replace("}}]", "}, uses: ['-']}]")), "INVALID_TEMPLATE", "steps[0].uses[0]"),
        (
            format!("{head}lifecycle: {{max_duration_minutes: 0}}\n{step}"),
            "INVALID_TEMPLATE",
            "lifecycle.max_duration_minutes",
        ),
        ("[".to_owned(), "INVALID_TEMPLATE", "line"),
    ];
    for (yaml, code, says) in cases {
        let body = serde_json::json!({ "yaml": yaml }).to_string();
        let answer = server.post("/v1/templates", body).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, code), "{yaml}: {answer:?}");
        assert!(answer.text.contains(says), "{yaml}: no `{says}` in {}", answer.text);
    }
    let json = server.post("/v1/templates", r#"{"template": {"name": "t", "name": "u"}}"#).await;
    assert_eq!((json.status, json.code().as_str()), (422, "INVALID_REQUEST"), "{json:?}");
    let raw = server.http.post(format!("{}/v1/templates", server.base)).header("content-type", "application/yaml");
    assert_eq!(Answer::of(raw.body(format!("{head}{step}")).send().await.unwrap()).await.status, 201);
    server.stop().await;
}

#[tokio::test]
async fn a_large_body_is_refused_before_it_is_read() {
    let server = Server::start().await;
    let said = server.post("/v1/tasks", vec![b' '; (1 << 20) + 1]).await;
    assert_eq!((said.status, said.code().as_str()), (413, "PAYLOAD_TOO_LARGE"), "{said:?}");
    // Only announced, never sent: the answer comes all the same.
    let head =
        "POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n\r\n";
    let answer = raw(&server, head).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
    // Without a length it is counted.
    let endless = format!(
        "POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n100001\r\n{}\r\n",
        " ".repeat((1 << 20) + 1)
    );
    let answer = raw(&server, &endless).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn slow_headers_and_slow_bodies_are_given_up() {
    let server = Server::with(|config| {
        config.web.header_timeout_ms = 100;
        config.web.request_timeout_ms = 300;
    })
    .await;
    let answer = raw(&server, "GET /live HTTP/1.1\r\nhost: x\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("REQUEST_TIMEOUT"), "{answer}");
    let head = "POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    let answer = raw(&server, head).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("REQUEST_TIMEOUT"), "{answer}");
    let silent = raw(&server, "").await;
    assert_eq!(silent, "", "who sent nothing is not answered");
    server.stop().await;
}

#[tokio::test]
async fn more_requests_than_there_are_places_are_shed() {
    let server = Server::with(|config| config.web.max_in_flight = 1).await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    let path = format!("/v1/tasks/{task}/events");
    let stream = server.http.get(format!("{}{path}", server.base)).send().await.unwrap();
    assert_eq!(stream.status().as_u16(), 200);
    let shed = server.get(&path).await;
    assert_eq!((shed.status, shed.code().as_str()), (503, "OVERLOADED"));
    assert_eq!(shed.headers["retry-after"], "1");
    assert_eq!(server.get(&format!("/v1/tasks/{task}")).await.status, 200, "who waits does not keep out who works");
    assert_eq!(server.get("/health").await.status, 200, "health needs no place");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn while_the_database_is_away_the_server_says_so_and_lives() {
    let db = TestDatabase::create().await;
    let (url, cut) = through_a_proxy(&db.url).await;
    let server = Server::on(db, &url, |_| ()).await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    cut.cancel();
    for path in ["/health/ready", "/ready", "/health", "/health/detailed"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.json()["status"].as_str()), (503, Some("unhealthy")), "{answer:?}");
    }
    assert_eq!(server.get("/health/live").await.status, 200);
    assert_eq!(server.get("/metrics").await.status, 200);
    for path in [format!("/v1/tasks/{task}"), "/v1/tasks".to_owned(), "/v1/templates".to_owned()] {
        let answer = server.get(&path).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"), "{path}: {answer:?}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    let other = server.post("/v1/tasks", r#"{"name":"other","namespace":"shop"}"#).await;
    assert_eq!((other.status, other.code().as_str()), (503, "UNAVAILABLE"), "{other:?}");
    // Once nothing was answered for a second, nobody waits for a connection any more.
    eventually("the breaker opens", async || {
        server.get("/metrics").await.text.contains("tasker_database_breaker_open 1")
    })
    .await;
    let health = server.get("/health/detailed").await.text;
    assert!(health.contains("its breaker is open and requests are refused"), "{health}");
    let asked = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(server.get("/v1/tasks").await.code(), "UNAVAILABLE");
    }
    // The pool waits for two seconds each.
    assert!(asked.elapsed() < Duration::from_secs(10), "twenty refusals took {:?}", asked.elapsed());
    server.stop().await;
}

/// Sends bytes as they are and reads until the server closes.
async fn raw(server: &Server, text: &str) -> String {
    let mut stream = TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}
