//! The client against a server that answers from a script, one connection after another.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tasker_client::calls::Calls;
use tasker_client::client::Waited;
use tasker_client::types::{TaskRequest, TaskState};
use tasker_client::{Client, ClientError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use uuid::Uuid;

const TASK: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);

/// What the server does with one connection: it reads a request, writes this text, and closes.
type Script = Vec<String>;

/// Starts the server; the handle yields the requests that it read.
async fn serve(script: Script) -> (Client, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let requests = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in script {
            let (mut connection, _) = listener.accept().await.unwrap();
            requests.push(read_request(&mut connection).await);
            connection.write_all(answer.as_bytes()).await.unwrap();
            connection.shutdown().await.unwrap();
        }
        requests
    });
    (client, requests)
}

async fn read_request(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = connection.read(&mut piece).await.unwrap();
        assert!(read > 0, "the request broke off: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return String::from_utf8(bytes).unwrap();
        }
    }
}

fn answer(status: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn events(entries: &[Value]) -> String {
    let mut text = String::from("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
    for entry in entries {
        text.push_str(&format!("id: {}\ndata: {entry}\n\n", entry["seq"]));
    }
    text
}

fn event(seq: i64, status: &str) -> Value {
    json!({"task_uuid": TASK, "status": status, "seq": seq, "at": "2024-05-01T10:00:00Z", "cause": "report",
           "processor": "one", "transitions": [{"step": "charge", "from": "enqueued", "to": "complete", "attempt": 1}]})
}

fn task(status: &str) -> Value {
    json!({"task_uuid": TASK, "name": "order", "namespace": "shop", "version": "1.0.0", "status": status,
           "created_at": "2024-05-01T10:00:00Z", "updated_at": "2024-05-01T10:00:00Z", "completed_at": null,
           "context": {"amount": 1.50}, "initiator": null, "source_system": null, "reason": null, "priority": 0,
           "tags": [], "correlation_id": TASK, "parent_correlation_id": null, "total_steps": 0, "pending_steps": 0,
           "in_progress_steps": 0, "completed_steps": 0, "failed_steps": 0, "ready_steps": 0,
           "execution_status": "processing", "recommended_action": "wait_for_completion",
           "completion_percentage": 0.0, "health_status": "healthy", "steps": [], "from_a_newer_server": true})
}

fn refusal(code: &str) -> Value {
    json!({"error": {"code": code, "message": "No.", "details": {}, "request_id": "r"}})
}

fn keyed() -> TaskRequest {
    TaskRequest { idempotency_key: Some("order-7".to_owned()), ..TaskRequest::new("shop", "order") }
}

#[tokio::test]
async fn a_keyed_task_is_sent_again_after_a_lost_connection_and_an_unknown_outcome() {
    let unknown = answer("503 Service Unavailable", &refusal("OUTCOME_UNKNOWN"));
    let (client, requests) = serve(vec![String::new(), unknown, answer("201 Created", &task("pending"))]).await;
    let created = client.create_task(&keyed()).await.unwrap();
    assert_eq!((created.task_uuid, created.status), (TASK, TaskState::Pending));
    assert_eq!(created.context.get(), r#"{"amount":1.5}"#);
    let bodies: Vec<String> =
        requests.await.unwrap().iter().map(|request| request.split_once("\r\n\r\n").unwrap().1.to_owned()).collect();
    assert_eq!(bodies.len(), 3);
    assert!(bodies.iter().all(|body| body == &bodies[0]), "{bodies:?}");
}

#[tokio::test]
async fn a_task_without_a_key_is_sent_once() {
    let (client, requests) = serve(vec![String::new()]).await;
    let error = client.create_task(&TaskRequest::new("shop", "order")).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert_eq!(requests.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_reported_with_its_code_and_not_repeated() {
    let (client, requests) = serve(vec![answer("422 Unprocessable Entity", &refusal("VALIDATION"))]).await;
    let error = client.create_task(&keyed()).await.unwrap_err();
    assert!(error.is_code("VALIDATION"), "{error:?}");
    assert_eq!(error.to_string(), "No. (VALIDATION)");
    assert_eq!(requests.await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_json_in_both_directions_and_read_strictly() {
    let busy = answer("503 Service Unavailable\r\nRetry-After: 7", &refusal("OVERLOADED"));
    let (client, requests) = serve(vec![answer("200 OK", &task("complete")), busy, "nonsense".to_owned()]).await;
    let url = client.address().to_owned();
    let calling = tokio::task::spawn_blocking(move || {
        let calls = Calls::new(url);
        let call = |message: &str| serde_json::from_str::<Value>(&calls.call(message)).unwrap();
        let get = json!({"operation": "get_task", "arguments": {"task_uuid": TASK}}).to_string();
        let wait = get.replace("get_task", "wait_task");
        let seen = call(&wait);
        assert_eq!((&seen["answer"]["settled"], &seen["answer"]["task"]["status"]), (&json!(true), &json!("complete")));
        let refused = json!({"code": "OVERLOADED", "message": "No.", "status": 503, "retry_after": 7, "details": {}});
        assert_eq!(call(&get), json!({ "error": refused }));
        assert_eq!(call(&get)["error"]["code"], "UNREACHABLE");
        for (message, told) in [
            ("{", "EOF"),
            (r#"{"operation": "make_tea"}"#, "no operation `make_tea`"),
            (r#"{"operation": "get_task"}"#, "missing field `task_uuid`"),
            (r#"{"operation": "list_tasks", "arguments": {"statsu": "error"}}"#, "unknown field `statsu`"),
            (r#"{"operation": "health_check", "arguments": {"deep": true}}"#, "unknown field `deep`"),
            (r#"{"operation": "get_task", "arguments": {}, "url": "x"}"#, "unknown field `url`"),
        ] {
            let error = call(message)["error"].clone();
            assert_eq!((&error["code"], &error["status"]), (&json!("USAGE"), &Value::Null), "{message}");
            assert!(error["message"].as_str().unwrap().contains(told), "{message}: {error}");
        }
        assert!(Calls::new("ftp://x").call(&get).contains(r#""code":"USAGE""#));
    });
    calling.await.unwrap();
    assert_eq!(requests.await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_page_of_a_proxy_is_told_by_its_status() {
    let (client, _requests) =
        serve(vec!["HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>".to_owned()]).await;
    let error = client.get_task(TASK).await.unwrap_err();
    assert!(matches!(error, ClientError::Api { status: 502, .. }) && error.is_code("HTTP_502"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_down_is_named_with_the_cause() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Client::new(&format!("http://{address}")).unwrap().health().await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("no server answers at http://{address}: Connection refused")), "{text}");
}

#[tokio::test]
async fn an_answer_of_something_else_is_a_decode_error() {
    let (client, _requests) = serve(vec![answer("200 OK", &json!({"hello": "world"}))]).await;
    let error = client.get_task(TASK).await.unwrap_err();
    assert!(matches!(&error, ClientError::Decode { .. }), "{error:?}");
    assert!(error.to_string().contains("missing field `task_uuid`"), "{error}");
}

#[tokio::test]
async fn an_unhealthy_answer_is_an_answer() {
    let body = json!({"status": "unhealthy", "timestamp": "2024-05-01T10:00:00Z", "version": "1"});
    let (client, _requests) = serve(vec![answer("503 Service Unavailable", &body)]).await;
    assert_eq!(client.health().await.unwrap().version, "1");
}

#[tokio::test]
async fn waiting_polls_until_the_task_has_settled() {
    let script = vec![answer("202 Accepted", &task("steps_in_process")), answer("200 OK", &task("complete"))];
    let (client, requests) = serve(script).await;
    let Waited::Settled(task) = client.wait(TASK, None).await.unwrap() else { panic!("not settled") };
    assert_eq!(task.status, TaskState::Complete);
    assert!(requests.await.unwrap()[0].contains("/wait?timeout_ms=25000 "));
}

#[tokio::test]
async fn waiting_ends_when_its_time_is_over() {
    let (client, _requests) = serve(vec![answer("202 Accepted", &task("steps_in_process"))]).await;
    let waited = client.wait(TASK, Some(Duration::from_millis(20))).await.unwrap();
    assert!(matches!(waited, Waited::TimedOut(_)), "{waited:?}");
}

#[tokio::test]
async fn watching_takes_up_a_broken_stream_after_the_last_event_and_ends_with_the_task() {
    let script = vec![
        events(&[event(1, "steps_in_process"), event(2, "steps_in_process")]),
        String::new(),
        events(&[event(3, "complete")]),
    ];
    let (client, requests) = serve(script).await;
    let seen: Vec<i64> = client.watch(TASK, Some(0)).map(|event| event.unwrap().entry.seq).collect().await;
    assert_eq!(seen, [1, 2, 3]);
    let resumed: Vec<String> = requests
        .await
        .unwrap()
        .iter()
        .map(|request| request.lines().find(|line| line.starts_with("last-event-id")).unwrap().to_owned())
        .collect();
    assert_eq!(resumed, ["last-event-id: 0", "last-event-id: 2", "last-event-id: 2"]);
}

#[tokio::test]
async fn watching_a_task_that_has_ended_ends() {
    let script =
        vec![events(&[]), answer("200 OK", &task("complete")), events(&[]), answer("200 OK", &task("complete"))];
    let (client, _requests) = serve(script).await;
    let events: Vec<_> = client.watch(TASK, None).collect().await;
    assert!(events.is_empty(), "{events:?}");
}

#[tokio::test]
async fn a_name_is_one_segment_of_the_path_whatever_is_in_it() {
    let (client, requests) = serve(vec![answer("404 Not Found", &refusal("NOT_FOUND"))]).await;
    client.get_template("shop", "a/../b?c", "1.0.0").await.unwrap_err();
    let request = requests.await.unwrap().remove(0);
    assert!(request.starts_with("GET /v1/templates/shop/a%2F..%2Fb%3Fc/1.0.0 "), "{request}");
}

#[test]
fn an_address_that_is_none_is_refused() {
    for address in ["127.0.0.1:8080", "https://tasker.example", "not a url"] {
        assert!(matches!(Client::new(address), Err(ClientError::Address { .. })), "{address}");
    }
}
