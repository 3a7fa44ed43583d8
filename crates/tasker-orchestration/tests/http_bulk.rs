//! Many tasks in one request.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use http_support::{ORDER, Server, order};
use serde_json::{Value, json};
use tasker_client::types::{TaskRequest, TaskState};

fn keyed(key: &str) -> TaskRequest {
    let mut request = order();
    request.idempotency_key = Some(key.to_owned());
    request
}

#[tokio::test]
async fn each_of_many_tasks_is_created_or_refused_on_its_own_and_answered_in_order() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let good = json!({"namespace": "shop", "name": "order", "context": {"amount": 1}});
    let with = |key: &str, value: Value| {
        let mut request = good.clone();
        request[key] = value;
        request
    };
    let cases = [
        (good.clone(), 201, ""),
        (with("name", json!("none")), 404, "TEMPLATE_NOT_FOUND"),
        (with("context", json!({})), 422, "INPUT_SCHEMA"),
        (with("prority", json!(1)), 422, "UNKNOWN_FIELD"),
        (json!(7), 422, "INVALID_REQUEST"),
        (with("priority", json!("high")), 422, "INVALID_REQUEST"),
        (with("idempotency_key", json!("")), 400, "INVALID_IDEMPOTENCY_KEY"),
        (with("idempotency_key", json!("k")), 201, ""),
        (with("idempotency_key", json!("k")), 200, ""),
        (
            json!({"namespace": "shop", "name": "order", "context": {"amount": 2}, "idempotency_key": "k"}),
            422,
            "IDEMPOTENCY_CONFLICT",
        ),
        (with("context", json!({"amount": 1e300, "mail": "nobody"})), 422, "INPUT_SCHEMA"),
        (good.clone(), 201, ""),
    ];
    let tasks: Vec<&Value> = cases.iter().map(|(request, ..)| request).collect();
    let answer = server.post("/v1/tasks/bulk", json!({ "tasks": tasks }).to_string()).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    let results = answer.json()["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), cases.len());
    for (index, ((request, status, code), result)) in cases.iter().zip(&results).enumerate() {
        assert_eq!((&result["index"], &result["status"]), (&json!(index), &json!(status)), "{request}: {result}");
        assert_eq!(result.get("task").is_some(), *status < 300, "{result}");
        assert_eq!(result["error"]["code"].as_str().unwrap_or_default(), *code, "{result}");
        if *status >= 300 {
            assert_eq!(result["error"]["request_id"], answer.headers["x-request-id"].to_str().unwrap());
        }
    }
    assert_eq!(results[7]["task"]["task_uuid"], results[8]["task"]["task_uuid"], "the first of the key made the task");
    let task = server.get(&format!("/v1/tasks/{}", results[0]["task"]["task_uuid"].as_str().unwrap())).await.json();
    for (field, value) in results[0]["task"].as_object().unwrap() {
        if field != "updated_at" {
            assert_eq!(&task[field], value, "{field} is what is read");
        }
    }
    assert_eq!(server.get("/v1/tasks").await.json()["tasks"].as_array().unwrap().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn many_tasks_share_commits_and_the_same_requests_give_the_same_tasks() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let requests: Vec<TaskRequest> = (0..1_000).map(|n| keyed(&format!("k{n}"))).collect();
    let created = server.client.create_tasks(requests.clone()).await.unwrap();
    assert!(created.iter().all(|result| result.status == 201), "{:?}", created.iter().find(|r| r.status != 201));
    assert!(created.iter().all(|result| result.task.as_ref().unwrap().status == TaskState::StepsInProcess));
    let commits = server.engine.metrics().batch_size.with_label_values(&["requests"]).get_sample_count();
    assert!(commits <= 100, "{commits} commits for 1,000 tasks");
    let again = server.client.create_tasks(requests).await.unwrap();
    for (first, second) in created.iter().zip(&again) {
        assert_eq!((first.index, second.status), (second.index, 200));
        assert_eq!(first.task.as_ref().unwrap().task_uuid, second.task.as_ref().unwrap().task_uuid);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_bulk_that_can_not_be_read_is_refused_as_a_whole() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let many = format!(r#"{{"tasks":[{}]}}"#, vec![serde_json::to_string(&order()).unwrap(); 1_001].join(","));
    let large = format!(r#"{{"tasks":[{}]}}"#, " ".repeat(1 << 20));
    let cases = [
        (r#"{"tasks":[{"name":"order""#.to_owned(), 400, "MALFORMED_JSON"),
        (r#"{"tasks":{}}"#.to_owned(), 422, "INVALID_REQUEST"),
        ("{}".to_owned(), 422, "INVALID_REQUEST"),
        (r#"{"task":[]}"#.to_owned(), 422, "UNKNOWN_FIELD"),
        (many, 422, "INVALID_REQUEST"),
        (large, 413, "PAYLOAD_TOO_LARGE"),
    ];
    for (body, status, code) in cases {
        let answer = server.post("/v1/tasks/bulk", body.clone()).await;
        let shown: String = body.chars().take(60).collect();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{shown}: {answer:?}");
    }
    let nothing = server.post("/v1/tasks/bulk", r#"{"tasks":[]}"#).await;
    assert_eq!((nothing.status, nothing.json()), (207, json!({"results": []})));
    assert_eq!(server.get("/v1/tasks").await.json()["tasks"], json!([]), "nothing was half done");
    server.stop().await;
}
