//! What the API does when all is well, over real connections and a real database.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use http_support::{Answer, ORDER, Server, failure, order, success};
use serde_json::json;
use tasker_client::client::Waited;
use tasker_client::graph::GraphFormat;
use tasker_client::types::{
    AttemptOutcome, ExecutionStatus, ListQuery, RecommendedAction, StepState, TaskHealth, TaskState,
};
use tasker_shared::config::Secret;

#[tokio::test]
async fn a_task_goes_from_its_creation_to_its_end() {
    let server = Server::start().await;
    let registered = server.register(ORDER).await.unwrap();
    assert!(registered.created);
    assert!(!server.register(ORDER).await.unwrap().created, "the same content changes nothing");

    let created = server.client.create_task(&order()).await.unwrap();
    assert_eq!((created.status, created.total_steps), (TaskState::StepsInProcess, 4));
    assert_eq!((created.in_progress_steps, created.pending_steps), (1, 3));
    assert_eq!(created.execution_status, ExecutionStatus::Processing);
    assert_eq!(created.correlation_id, created.task_uuid);
    assert_eq!(created.context.get(), r#"{"amount": 12.50}"#);

    let read = server.client.get_task(created.task_uuid).await.unwrap();
    let text = |task| serde_json::to_value(task).unwrap();
    let (mut created_text, mut read_text) = (text(&created), text(&read));
    for task in [&mut created_text, &mut read_text] {
        // A fresh task answers from memory; only its last change is told by another clock reading.
        task.as_object_mut().unwrap().remove("updated_at");
    }
    assert_eq!(created_text, read_text, "what was answered is what is read");

    server.work_until_settled(created.task_uuid, |step, _| success(&format!(r#"{{"step": {step}}}"#))).await;
    let done = server.client.get_task(created.task_uuid).await.unwrap();
    assert_eq!((done.status, done.completed_steps), (TaskState::Complete, 4));
    assert_eq!((done.execution_status, done.health_status), (ExecutionStatus::AllComplete, TaskHealth::Healthy));
    assert_eq!(done.recommended_action, RecommendedAction::FinalizeTask);
    assert!((done.completion_percentage - 100.0).abs() < f64::EPSILON);
    let ship = done.steps.iter().find(|step| step.name == "ship").unwrap();
    assert_eq!(ship.results.as_ref().unwrap().get(), r#"{"step": 3}"#);
    assert_eq!((ship.attempts, ship.total_parents, ship.completed_parents), (1, 2, 2));
    assert!(ship.completed_at.is_some() && ship.last_attempted_at.is_some() && done.completed_at.is_some());
    server.stop().await;
}

#[tokio::test]
async fn a_claimed_step_is_in_progress_until_it_is_reported() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    let state = async || server.client.steps(task).await.unwrap()[0].clone();
    assert_eq!(state().await.current_state, StepState::Enqueued);
    let claims = server.claim("shop").await;
    let step = state().await;
    assert_eq!((step.current_state, step.attempts), (StepState::InProgress, 1));
    let graph = server.client.graph(task, GraphFormat::Dot).await.unwrap();
    assert!(graph.contains("in_progress"), "{graph}");
    server.report(&claims[0], success("{}")).await;
    let mut waits = 0;
    while state().await.current_state != StepState::Complete {
        // Every answer of the server takes the actor's commit further; 200 of them are seconds.
        waits += 1;
        assert!(waits < 200);
        server.get(&format!("/v1/tasks/{task}/wait?timeout_ms=20")).await;
    }
    let one = server.client.step(task, step.step_uuid).await.unwrap();
    assert_eq!(one.results.unwrap().get(), "{}");
    server.stop().await;
}

#[tokio::test]
async fn failures_are_told_with_every_attempt() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    server.work_until_settled(task, |step, _| if step == 1 { failure(true) } else { success("1") }).await;
    let Waited::Settled(blocked) = server.client.wait(task, Some(Duration::from_secs(5))).await.unwrap() else {
        panic!("the task is not settled")
    };
    assert_eq!((blocked.status, blocked.failed_steps), (TaskState::BlockedByFailures, 1));
    assert_eq!(blocked.execution_status, ExecutionStatus::BlockedByFailures);
    assert_eq!(
        (blocked.recommended_action, blocked.health_status),
        (RecommendedAction::HandleFailures, TaskHealth::Blocked)
    );
    let charge = blocked.steps.iter().find(|step| step.name == "charge").unwrap();
    assert_eq!((charge.attempts, charge.max_attempts, charge.retry_eligible), (2, 2, false));
    assert!(charge.last_failure_at.is_some() && charge.results.is_none());
    let audit = server.client.step_audit(task, charge.step_uuid).await.unwrap();
    assert_eq!(audit.iter().map(|entry| entry.attempt).collect::<Vec<_>>(), [1, 2]);
    let error = audit[1].error.as_ref().unwrap();
    assert_eq!((audit[1].outcome, error.error_code.as_deref()), (AttemptOutcome::Failure, Some("E42")));
    assert!(error.retryable && audit[1].duration_ms.is_some());
    server.stop().await;
}

#[tokio::test]
async fn the_history_tells_every_transition_and_the_stream_tells_it_live() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    let events = server.client.watch(task, Some(0));
    let (events, ()) = tokio::join!(events.collect::<Vec<_>>(), server.work_until_settled(task, |_, _| success("1")));
    let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
    assert_eq!(events.last().unwrap().status, TaskState::Complete);
    let history = server.client.history(task).await.unwrap();
    assert_eq!(history, events.into_iter().map(|event| event.entry).collect::<Vec<_>>());
    assert_eq!(
        history.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        (1..=history.len() as i64).collect::<Vec<_>>()
    );
    assert_eq!(
        (history[0].cause.as_str(), &history[0].passed[..]),
        ("started", &[TaskState::Initializing, TaskState::EnqueuingSteps][..])
    );
    let mut folded = std::collections::BTreeMap::new();
    for transition in history.iter().flat_map(|entry| &entry.transitions) {
        let before = folded.insert(transition.step.clone(), transition.to).unwrap_or(StepState::Pending);
        assert_eq!(Some(before), transition.from, "{transition:?}");
    }
    assert!(folded.len() == 4 && folded.values().all(|state| *state == StepState::Complete), "{folded:?}");

    let page = server.get(&format!("/v1/tasks/{task}/history?limit=1&after=1")).await.json();
    assert_eq!((&page["entries"][0]["seq"], &page["next_after"]), (&json!(2), &json!(2)));
    let late: Vec<_> = server.client.watch(task, Some(history.len() as i64 - 1)).collect().await;
    assert_eq!(late.len(), 1, "who comes back hears what was missed, and the end");
    server.stop().await;
}

#[tokio::test]
async fn cancelling_twice_is_once_and_cancelling_what_ended_is_refused() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    let path = format!("{}/v1/tasks/{task}?cancelled_by=ann&reason=wrong%20order", server.base);
    for _ in 0..2 {
        let answer = Answer::of(server.http.delete(&path).send().await.unwrap()).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("cancelled")));
    }
    assert!(server.claim("shop").await.is_empty(), "no claim succeeds after cancel returned");
    let history = server.client.history(task).await.unwrap();
    let detail = history.last().unwrap().detail.as_ref().unwrap();
    assert_eq!((&detail["by"], &detail["reason"]), (&json!("ann"), &json!("wrong order")));
    assert_eq!(server.get(&format!("/v1/tasks/{task}/wait")).await.status, 200);

    let done = server.client.create_task(&order()).await.unwrap().task_uuid;
    server.work_until_settled(done, |_, _| success("1")).await;
    let refused = server.client.cancel_task(done).await.unwrap_err();
    assert!(refused.is_code("TASK_ENDED"), "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_wait_ends_when_its_time_is_over() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    let waited = server.get(&format!("/v1/tasks/{task}/wait?timeout_ms=30")).await;
    assert_eq!((waited.status, &waited.json()["status"]), (202, &json!("steps_in_process")));
    server.stop().await;
}

/// Three who wait for each of these tasks.
fn three_each(server: &Server, tasks: &[uuid::Uuid]) -> Vec<(uuid::Uuid, tokio::task::JoinHandle<Waited>)> {
    let wait = |task: uuid::Uuid| {
        let client = server.client.clone();
        (task, tokio::spawn(async move { client.wait(task, None).await.unwrap() }))
    };
    tasks.iter().flat_map(|task| [*task; 3]).map(wait).collect()
}

#[tokio::test]
async fn many_who_wait_are_told_of_their_own_task_each_also_where_several_wait_for_one() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..20 {
        tasks.push(server.client.create_task(&order()).await.unwrap().task_uuid);
    }
    let mut waits = three_each(&server, &tasks);
    while waits.iter().any(|(_, wait)| !wait.is_finished()) {
        server.work("shop", |_, _| success("7")).await;
    }
    // These come when all have ended, and at once: one look tells them all, and few questions answer them.
    waits.extend(three_each(&server, &tasks));
    for (task, wait) in waits {
        let Waited::Settled(told) = wait.await.unwrap() else { panic!("{task} has ended") };
        assert_eq!((told.task_uuid, told.status), (task, TaskState::Complete));
        assert!(told.steps.iter().all(|step| step.task_uuid == task && step.results.is_some()), "{told:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_waits_and_streams() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    let stream = server.http.get(format!("{}/v1/tasks/{task}/events", server.base)).send().await.unwrap();
    let wait = server.http.get(format!("{}/v1/tasks/{task}/wait?timeout_ms=30000", server.base)).send();
    let wait = tokio::spawn(wait);
    // The wait is on its way once the server has counted the request before it.
    server.get("/health/live").await;
    server.shutdown.cancel();
    assert_eq!(stream.bytes().await.unwrap().len(), 0, "the stream ends whole");
    // Either the wait was taken in and is answered, or its connection came too late.
    if let Ok(answer) = wait.await.unwrap() {
        assert_eq!(answer.status().as_u16(), 202);
    }
    server.stop().await;
}

#[tokio::test]
async fn the_same_key_gives_the_same_task_and_another_body_is_refused() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let body = |amount: &str, at: &str| {
        format!(
            r#"{{"name":"order","namespace":"shop","context":{{"amount":{amount}}},"idempotency_key":"k1","requested_at":"{at}"}}"#
        )
    };
    let first = server.post("/v1/tasks", body("1", "2026-01-01T00:00:00Z")).await;
    assert_eq!(first.status, 201);
    let task = first.json()["task_uuid"].clone();
    assert_eq!(first.headers["location"], format!("/v1/tasks/{}", task.as_str().unwrap()));
    let again = server.post("/v1/tasks", body("1.0", "2026-02-02T00:00:00Z")).await;
    assert_eq!((again.status, &again.json()["task_uuid"]), (200, &task));
    let other = server.post("/v1/tasks", body("2", "2026-01-01T00:00:00Z")).await;
    assert_eq!((other.status, other.code().as_str()), (422, "IDEMPOTENCY_CONFLICT"));
    assert_eq!(other.json()["error"]["details"]["task_uuid"], task);
    server.stop().await;
}

#[tokio::test]
async fn strict_templates_refuse_a_second_task_and_caller_provided_ones_want_a_key() {
    let server = Server::start().await;
    let step = "steps: [{name: a, handler: {callable: a}}]";
    let head = |name: &str, strategy: &str| {
        format!("name: {name}\nnamespace_name: shop\nversion: 1.0.0\nidentity_strategy: {strategy}\n{step}\n")
    };
    server.register(&head("once", "strict")).await.unwrap();
    server.register(&head("keyed", "caller_provided")).await.unwrap();
    let once = r#"{"name":"once","namespace":"shop","context":{"a":1,"b":[2]}}"#;
    let first = server.post("/v1/tasks", once).await;
    let second = server
        .post("/v1/tasks", r#"{"namespace":"shop","name":"once","context":{"b":[2.0],"a":1},"priority":5}"#)
        .await;
    assert_eq!((first.status, second.status, second.code().as_str()), (201, 409, "DUPLICATE_TASK"));
    assert_eq!(second.json()["error"]["details"]["task_uuid"], first.json()["task_uuid"]);
    let other = server.post("/v1/tasks", r#"{"name":"once","namespace":"shop","context":{"a":2}}"#).await;
    assert_eq!(other.status, 201);
    let keyless = server.post("/v1/tasks", r#"{"name":"keyed","namespace":"shop"}"#).await;
    assert_eq!(keyless.json()["error"]["details"]["violations"][0]["path"], "/idempotency_key", "{keyless:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_newest_version_runs_unless_one_is_named() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    assert_eq!(server.client.create_task(&order()).await.unwrap().version, "1.0.0");
    server.register(&ORDER.replace("1.0.0", "1.10.0")).await.unwrap();
    server.register(&ORDER.replace("1.0.0", "1.9.0")).await.unwrap();
    assert_eq!(server.client.create_task(&order()).await.unwrap().version, "1.10.0", "at once on this server");
    let mut request = order();
    request.version = Some("1.9.0".to_owned());
    assert_eq!(server.client.create_task(&request).await.unwrap().version, "1.9.0");
    let listed = server.get("/v1/templates?namespace=shop&limit=2").await.json();
    let versions = |page: &serde_json::Value| {
        page["templates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["version"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(versions(&listed), ["1.10.0", "1.9.0"]);
    let cursor = listed["pagination"]["next_cursor"].as_str().unwrap();
    let rest = server.get(&format!("/v1/templates?namespace=shop&limit=2&cursor={cursor}")).await.json();
    assert_eq!((versions(&rest), &rest["pagination"]["has_next"]), (vec!["1.0.0".to_owned()], &json!(false)));
    let detail = server.client.get_template("shop", "order", "1.0.0").await.unwrap();
    assert_eq!((detail.step_count, detail.description.as_deref()), (4, Some("Takes an order.")));
    let conflict = server.register(&ORDER.replace("Takes", "Loses")).await.unwrap_err();
    assert!(conflict.is_code("TEMPLATE_CONFLICT"), "{conflict:?}");
    server.stop().await;
}

#[tokio::test]
async fn lists_walk_all_tasks_once_in_order() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    server.register(&ORDER.replace("name: order", "name: gift")).await.unwrap();
    let mut made = Vec::new();
    for n in 0..12 {
        let mut request = order();
        request.tags = vec![if n % 3 == 0 { "third" } else { "other" }.to_owned()];
        request.initiator = Some(format!("user-{}", n % 2));
        request.name = if n == 5 { "gift" } else { "order" }.to_owned();
        made.push(server.client.create_task(&request).await.unwrap().task_uuid);
    }
    made.sort_unstable_by(|a, b| b.cmp(a));
    let mut seen = Vec::new();
    let mut query = ListQuery { limit: Some(5), ..ListQuery::default() };
    loop {
        let page = server.client.list_tasks(&query).await.unwrap();
        seen.extend(page.tasks.iter().map(|task| task.task_uuid));
        assert_eq!(page.pagination.has_next, page.pagination.next_cursor.is_some());
        query.cursor = page.pagination.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, made);
    let count =
        async |query: &str| server.get(&format!("/v1/tasks?{query}")).await.json()["tasks"].as_array().unwrap().len();
    assert_eq!(count("tag=third").await, 4);
    assert_eq!(count("initiator=user-1&namespace=shop").await, 6);
    assert_eq!(count("namespace=shop&name=gift").await, 1);
    assert_eq!(count("status=steps_in_process&limit=100").await, 12);
    assert_eq!(count("status=complete").await, 0);
    assert_eq!(count(&format!("correlation_id={}", made[3])).await, 1);
    assert_eq!(count("page=3&per_page=5").await, 2);
    assert_eq!(count("created_after=2100-01-01T00:00:00Z").await, 0);
    assert_eq!(count("created_before=2100-01-01T00:00:00Z&created_after=2020-01-01T00:00:00Z").await, 12);
    let second = server.get("/v1/tasks?page=2&per_page=5").await.json();
    assert_eq!(second["tasks"][0]["task_uuid"], json!(made[5]));
    assert_eq!((&second["pagination"]["page"], &second["pagination"]["has_next"]), (&json!(2), &json!(true)));
    server.stop().await;
}

#[tokio::test]
async fn every_documented_route_is_there_and_every_route_is_documented() {
    let server = Server::start().await;
    let document = server.get("/api-docs/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let mut routes = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            routes.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let expected = "DELETE /v1/tasks/{uuid}, DELETE /v1/templates/{namespace}/{name}/{version}/deprecate, GET /api-docs/openapi.json, GET /api-docs/ui, GET /config, GET /health, \
        GET /health/detailed, GET /health/live, GET /health/ready, GET /live, GET /metrics, GET /ready, GET /v1/analytics/bottlenecks, GET /v1/analytics/performance, GET /v1/dlq, GET /v1/dlq/investigation-queue, GET /v1/dlq/staleness, GET /v1/dlq/stats, GET /v1/dlq/task/{uuid}, GET /v1/handlers, GET /v1/handlers/{namespace}, GET /v1/handlers/{namespace}/{name}, GET /v1/resources, GET /v1/resources/{namespace}/{name}, GET /v1/tasks, \
        GET /v1/tasks/{uuid}, GET /v1/tasks/{uuid}/events, GET /v1/tasks/{uuid}/explain, GET /v1/tasks/{uuid}/graph, GET /v1/tasks/{uuid}/history, \
        GET /v1/tasks/{uuid}/wait, GET /v1/tasks/{uuid}/workflow_steps, GET /v1/tasks/{uuid}/workflow_steps/{step_uuid}, \
        GET /v1/tasks/{uuid}/workflow_steps/{step_uuid}/audit, GET /v1/templates, \
        GET /v1/templates/{namespace}/{name}/{version}, PATCH /v1/dlq/entry/{id}, PATCH /v1/resources/{namespace}/{name}, PATCH /v1/tasks/{uuid}/workflow_steps/{step_uuid}, POST /v1/dlq/task/{uuid}, POST /v1/tasks, POST /v1/tasks/bulk, POST /v1/tasks/repair, POST /v1/templates, \
        POST /v1/templates/{namespace}/{name}/{version}/deprecate";
    assert_eq!(routes.iter().map(String::as_str).collect::<Vec<_>>().join(", "), expected);
    let unknown = uuid::Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000).to_string();
    for route in &routes {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace("{uuid}", &unknown).replace("{step_uuid}", &unknown);
        let method = method.parse().unwrap();
        let answer =
            Answer::of(server.http.request(method, format!("{}{path}", server.base)).send().await.unwrap()).await;
        assert_ne!(answer.status, 405, "{route}");
        assert!(!answer.text.contains("no such route"), "{route}: {answer:?}");
    }
    let page = server.get("/api-docs/ui").await;
    assert!(page.text.contains("openapi.json") && !page.text.contains("//cdn"), "{page:?}");
    server.stop().await;
}

#[tokio::test]
async fn health_metrics_and_configuration_are_told_without_secrets() {
    let server =
        Server::with(|config| config.database.url = Some(Secret::new("postgres://u:canary-secret@h/db"))).await;
    for path in ["/health", "/health/live", "/health/ready", "/live", "/ready", "/health/detailed"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("healthy")), "{path}");
    }
    let config = server.get("/config").await;
    assert!(config.json()["web"].is_object() && !config.text.contains("canary-secret"), "{config:?}");
    let metrics = server.get("/metrics").await;
    assert!(metrics.text.contains(r#"tasker_http_request_seconds_count{method="GET",route="/health",status="200"} 1"#));
    server.stop().await;
}
