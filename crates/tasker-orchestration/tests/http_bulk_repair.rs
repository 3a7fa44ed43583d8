//! Repairing many failed steps at once over HTTP, against a real database.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use std::time::{Duration, Instant};

use http_support::{Answer, ORDER, Server, failure, order, success};
use serde_json::{Value, json};
use tasker_client::types::{BulkRepair, RepairFilter, RepairOutcome, StepActionType, TaskState};
use tasker_shared::messages::{ReportedOutcome, StepFailure};
use uuid::Uuid;

/// `count` tasks that are blocked because the step at `failing` failed.
async fn blocked(server: &Server, count: usize, failing: u32, outcome: impl Fn() -> ReportedOutcome) -> Vec<Uuid> {
    let mut tasks = Vec::new();
    for _ in 0..count {
        let task = server.client.create_task(&order()).await.unwrap().task_uuid;
        server.work_until_settled(task, |step, _| if step == failing { outcome() } else { success("1") }).await;
        tasks.push(task);
    }
    tasks.sort_unstable();
    tasks
}

fn outage() -> ReportedOutcome {
    let (message, error_type) = ("no answer".to_owned(), "outage".to_owned());
    let error = StepFailure { message, error_type, error_code: None };
    ReportedOutcome::Failure { error, retryable: false, retry_after_ms: None, metadata: None }
}

fn reset(filter: RepairFilter) -> BulkRepair {
    BulkRepair {
        action_type: StepActionType::ResetForRetry,
        filter,
        preview: false,
        reason: Some("the bank is back".to_owned()),
        by: Some("ann".to_owned()),
        limit: None,
        per_second: Some(1_000),
        cursor: None,
    }
}

fn class(error_type: &str) -> RepairFilter {
    RepairFilter { error_type: Some(error_type.to_owned()), ..RepairFilter::default() }
}

#[tokio::test]
async fn a_preview_tells_what_a_repair_then_does() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let declined = blocked(&server, 2, 1, || failure(true)).await;
    let unreached = blocked(&server, 5, 2, outage).await;
    let mut preview = BulkRepair { preview: true, reason: None, by: None, ..reset(class("outage")) };
    preview.limit = Some(2);
    let mut told = Vec::new();
    loop {
        let page = server.client.repair(&preview).await.unwrap();
        assert!(page.preview && page.done == 0 && page.steps.len() <= 2, "{page:?}");
        told.extend(page.steps);
        preview.cursor = page.next_cursor;
        if preview.cursor.is_none() {
            break;
        }
    }
    assert_eq!(told.iter().map(|step| step.task_uuid).collect::<Vec<_>>(), unreached);
    let step = &told[0];
    assert_eq!((step.step_name.as_deref(), step.handler.as_deref()), (Some("pack"), Some("pack")));
    assert_eq!((step.attempts, step.outcome), (1, RepairOutcome::Matched));
    assert!(server.claim("shop").await.is_empty(), "nothing moved");

    let done = server.client.repair(&reset(class("outage"))).await.unwrap();
    assert_eq!((done.done, done.refused, done.next_cursor), (5, 0, None));
    for task in &unreached {
        server.work_until_settled(*task, |_, _| success("1")).await;
        assert_eq!(server.client.get_task(*task).await.unwrap().status, TaskState::Complete);
        let history = server.client.history(*task).await.unwrap();
        let entry = history.iter().find(|entry| entry.cause == "step_reset").unwrap();
        assert_eq!(entry.detail.as_ref().unwrap()["by"], "ann");
    }
    for task in declined {
        assert_eq!(server.client.get_task(task).await.unwrap().status, TaskState::BlockedByFailures);
    }
    server.stop().await;
}

#[tokio::test]
async fn every_part_of_the_filter_counts() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    blocked(&server, 1, 1, || failure(true)).await;
    blocked(&server, 2, 2, outage).await;
    let count = async |filter: Value| {
        let body = json!({"action_type": "resolve_manually", "filter": filter}).to_string();
        server.post("/v1/tasks/repair", body).await.json()["steps"].as_array().unwrap().len()
    };
    for (filter, expected) in [
        (json!({"namespace": "shop"}), 3),
        (json!({"namespace": "store"}), 0),
        (json!({"name": "order", "step": "pack"}), 2),
        (json!({"name": "gift"}), 0),
        (json!({"handler": "charge"}), 1),
        (json!({"error_type": "payment"}), 1),
        (json!({"handler": "charge", "error_type": "outage"}), 0),
    ] {
        assert_eq!(count(filter.clone()).await, expected, "{filter}");
    }
    server.stop().await;
}

#[tokio::test]
async fn steps_are_repaired_no_faster_than_asked_for_and_the_rest_is_left_for_the_next_request() {
    let server = Server::with(|config| config.web.request_timeout_ms = 1_000).await;
    server.register(ORDER).await.unwrap();
    let tasks = blocked(&server, 6, 1, || failure(true)).await;
    let began = Instant::now();
    let mut request = BulkRepair { per_second: Some(10), ..reset(class("payment")) };
    let (mut done, mut requests) = (Vec::new(), 0);
    loop {
        let page = server.client.repair(&request).await.unwrap();
        done.extend(page.steps.into_iter().map(|step| (step.task_uuid, step.outcome)));
        requests += 1;
        request.cursor = page.next_cursor;
        if request.cursor.is_none() {
            break;
        }
    }
    assert_eq!(done, tasks.iter().map(|task| (*task, RepairOutcome::Done)).collect::<Vec<_>>());
    // The first of each request waits for nothing; the others wait for a tenth of a second each.
    let least = Duration::from_millis(100) * (6 - requests);
    assert!(began.elapsed() >= least, "{:?} for {requests} requests", began.elapsed());
    server.stop().await;
}

#[tokio::test]
async fn a_repair_of_many_without_filter_reason_or_sense_is_refused() {
    let server = Server::start().await;
    for (body, place) in [
        (json!({"action_type": "reset_for_retry"}), "filter"),
        (json!({"action_type": "reset_for_retry", "filter": {}}), "/filter"),
        (json!({"action_type": "reset_for_retry", "filter": {"name": ""}}), "/filter/name"),
        (json!({"action_type": "reset_for_retry", "filter": {"name": "a"}, "preview": false, "by": "ann"}), "/reason"),
        (json!({"action_type": "reset_for_retry", "filter": {"name": "a"}, "preview": false, "reason": "r"}), "/by"),
        (json!({"action_type": "complete_manually", "filter": {"name": "a"}}), "/action_type"),
        (json!({"action_type": "reset_for_retry", "filter": {"name": "a"}, "limit": 501}), "/limit"),
        (json!({"action_type": "reset_for_retry", "filter": {"name": "a"}, "per_second": 0}), "/per_second"),
    ] {
        let refused = server.post("/v1/tasks/repair", body.to_string()).await;
        assert_eq!((refused.status, refused.code().as_str()), (422, "INVALID_REQUEST"), "{body}");
        assert!(refused.text.contains(place), "{body} should name {place}: {refused:?}");
    }
    let body = json!({"action_type": "reset_for_retry", "filter": {"name": "a"}, "cursor": "x"});
    assert_eq!(server.post("/v1/tasks/repair", body.to_string()).await.code(), "INVALID_CURSOR");
    let get = Answer::of(server.http.get(format!("{}/v1/tasks/repair", server.base)).send().await.unwrap()).await;
    assert!(get.status == 405 || get.status == 400, "{get:?}");
    server.stop().await;
}
