//! What operators do to steps over HTTP, against a real database: the task goes on by itself.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use http_support::{Answer, ORDER, Server, failure, order, success};
use serde_json::{Value, json};
use tasker_client::types::{AttemptOutcome, CompletionData, StepAction, StepResponse, StepState, TaskState};
use tasker_lifecycle::{StepId, TaskId};
use tasker_shared::messages::ReportedOutcome;
use tasker_shared::store::claims;
use uuid::Uuid;

/// Charging never succeeds by itself.
fn no_money(step: u32, _attempt: u32) -> ReportedOutcome {
    if step == 1 { failure(true) } else { success("1") }
}

/// A task that is blocked because `charge` has used up its attempts.
async fn blocked(server: &Server) -> (Uuid, Uuid) {
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    server.work_until_settled(task, no_money).await;
    let task = server.client.get_task(task).await.unwrap();
    assert_eq!(task.status, TaskState::BlockedByFailures);
    (task.task_uuid, named(&task.steps, "charge").step_uuid)
}

fn named<'a>(steps: &'a [StepResponse], name: &str) -> &'a StepResponse {
    steps.iter().find(|step| step.name == name).unwrap()
}

async fn patch(server: &Server, task: Uuid, step: Uuid, body: &Value) -> Answer {
    let url = format!("{}/v1/tasks/{task}/workflow_steps/{step}", server.base);
    Answer::of(server.http.patch(url).json(body).send().await.unwrap()).await
}

async fn violations(server: &Server) -> Vec<String> {
    let found = sqlx::query_scalar("SELECT v::text FROM tasker.live_step_violations() v");
    found.fetch_all(&server.db.pool).await.unwrap()
}

fn reset() -> StepAction {
    StepAction::reset_for_retry("the bank is back", "ann")
}

#[tokio::test]
async fn an_exhausted_step_that_is_reset_goes_on_to_the_end() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let (task, charge) = blocked(&server).await;
    let step = server.client.act_on_step(task, charge, &reset()).await.unwrap();
    assert_eq!((step.current_state, step.attempts, step.max_attempts), (StepState::Enqueued, 2, 4));
    let again = server.client.act_on_step(task, charge, &reset()).await.unwrap_err();
    assert!(again.is_code("STEP_STATE"), "a repetition is refused: {again:?}");
    assert_eq!(again.to_string(), "`reset_for_retry` does not apply to step `charge`: it is enqueued (STEP_STATE)");

    server.work_until_settled(task, |_, _| success("7")).await;
    let done = server.client.get_task(task).await.unwrap();
    assert_eq!(done.status, TaskState::Complete);
    let audit = server.client.step_audit(task, charge).await.unwrap();
    let outcomes: Vec<_> = audit.iter().map(|entry| (entry.attempt, entry.outcome)).collect();
    let (failed, succeeded) = (AttemptOutcome::Failure, AttemptOutcome::Success);
    assert_eq!(outcomes, [(1, failed), (2, failed), (3, succeeded)]);
    let history = server.client.history(task).await.unwrap();
    let entry = history.iter().find(|entry| entry.cause == "step_reset").unwrap();
    let detail = entry.detail.as_ref().unwrap();
    assert_eq!((&detail["by"], &detail["reason"]), (&json!("ann"), &json!("the bank is back")));
    assert_eq!((entry.task_from, entry.passed[0]), (Some(TaskState::BlockedByFailures), TaskState::EnqueuingSteps));
    server.stop().await;
}

#[tokio::test]
async fn a_step_that_is_reset_again_and_again_is_filed_each_time() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let (task, charge) = blocked(&server).await;
    for _ in 0..2 {
        server.client.act_on_step(task, charge, &reset()).await.unwrap();
        server.work_until_settled(task, no_money).await;
    }
    let filed: Vec<i32> = sqlx::query_scalar("SELECT attempt FROM tasker.dead_letters ORDER BY attempt")
        .fetch_all(&server.db.pool)
        .await
        .unwrap();
    assert_eq!(filed, [2, 4, 6]);
    server.stop().await;
}

#[tokio::test]
async fn a_step_that_is_resolved_frees_its_children() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let (task, charge) = blocked(&server).await;
    let action = StepAction::resolve_manually("paid in cash", "ann");
    let step = server.client.act_on_step(task, charge, &action).await.unwrap();
    assert_eq!((step.current_state, step.results.is_none()), (StepState::ResolvedManually, true));
    assert_eq!(named(&server.client.steps(task).await.unwrap(), "ship").current_state, StepState::Enqueued);
    server.work_until_settled(task, |_, _| success("1")).await;
    assert_eq!(server.client.get_task(task).await.unwrap().status, TaskState::Complete);
    server.stop().await;
}

#[tokio::test]
async fn a_result_by_hand_is_what_the_child_reads() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let (task, charge) = blocked(&server).await;
    let raw = |text: &str| serde_json::from_str(text).unwrap();
    let data = CompletionData { result: raw(r#"{"paid": 12.50}"#), metadata: Some(raw(r#"{"receipt": 7}"#)) };
    let action = StepAction::complete_manually(data, "paid in cash", "ann");
    let step = server.client.act_on_step(task, charge, &action).await.unwrap();
    assert_eq!((step.current_state, step.attempts), (StepState::Complete, 3));
    assert_eq!(step.results.unwrap().get(), r#"{"paid": 12.50}"#);

    let claims = server.claim("shop").await;
    let [ship] = &claims[..] else { panic!("one ticket: {claims:?}") };
    assert_eq!(ship.step.0, 3);
    let wanted = (TaskId::try_from(task).unwrap(), StepId::try_from(charge).unwrap().index());
    let mut conn = server.db.pool.acquire().await.unwrap();
    let inputs = claims::inputs(&mut conn, &[], &[wanted]).await.unwrap();
    assert_eq!(inputs.results[0].as_ref().unwrap().get(), r#"{"paid": 12.50}"#);
    server.report(ship, success("1")).await;
    server.work_until_settled(task, |_, _| success("1")).await;
    assert_eq!(server.client.get_task(task).await.unwrap().status, TaskState::Complete);

    let audit = server.client.step_audit(task, charge).await.unwrap();
    let last = audit.last().unwrap();
    assert_eq!((last.attempt, last.outcome, last.worker.as_deref()), (3, AttemptOutcome::ByHand, Some("ann")));
    assert_eq!(last.metadata.as_ref().unwrap().get(), r#"{"receipt": 7}"#);
    assert!(last.started_at.is_none() && last.duration_ms.is_none() && last.error.is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_step_that_waits_for_its_retry_is_completed_and_its_ticket_is_gone() {
    let server = Server::start().await;
    server.register(&ORDER.replace("backoff: none", "backoff: linear, backoff_base_ms: 600000")).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    while server.client.get_task(task).await.unwrap().status != TaskState::WaitingForRetry {
        server.work("shop", no_money).await;
        server.get(&format!("/v1/tasks/{task}/wait?timeout_ms=20")).await;
    }
    let charge = named(&server.client.steps(task).await.unwrap(), "charge").step_uuid;
    let data = CompletionData { result: serde_json::from_str("null").unwrap(), metadata: None };
    let action = StepAction::complete_manually(data, "paid in cash", "ann");
    server.client.act_on_step(task, charge, &action).await.unwrap();
    assert_eq!(violations(&server).await, Vec::<String>::new());
    server.work_until_settled(task, |_, _| success("1")).await;
    assert_eq!(server.client.get_task(task).await.unwrap().status, TaskState::Complete);
    server.stop().await;
}

#[tokio::test]
async fn a_worker_that_reports_after_a_result_by_hand_changes_nothing() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    let mut late = None;
    while late.is_none() {
        server.get(&format!("/v1/tasks/{task}/wait?timeout_ms=20")).await;
        for claim in server.claim("shop").await {
            // The retry of `charge` is claimed while its task row still says that it waits.
            if (claim.step.0, claim.attempt) == (1, 2) {
                late = Some(claim);
            } else {
                server.report(&claim, no_money(claim.step.0, claim.attempt)).await;
            }
        }
    }
    let charge = named(&server.client.steps(task).await.unwrap(), "charge").step_uuid;
    let data = CompletionData { result: serde_json::from_str(r#""by hand""#).unwrap(), metadata: None };
    let action = StepAction::complete_manually(data, "paid in cash", "ann");
    server.client.act_on_step(task, charge, &action).await.unwrap();
    server.report(&late.unwrap(), success(r#""late""#)).await;
    let discarded = async || -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM tasker.discarded_results");
        count.fetch_one(&server.db.pool).await.unwrap()
    };
    let mut looks = 0;
    while discarded().await == 0 {
        looks += 1;
        assert!(looks < 500, "the late report is kept as discarded");
        server.get(&format!("/v1/tasks/{task}/wait?timeout_ms=20")).await;
    }
    let step = server.client.step(task, charge).await.unwrap();
    assert_eq!(step.results.unwrap().get(), r#""by hand""#);
    let audit = server.client.step_audit(task, charge).await.unwrap();
    let outcomes: Vec<_> = audit.iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes, [AttemptOutcome::Failure, AttemptOutcome::ByHand]);
    assert_eq!(violations(&server).await, Vec::<String>::new());
    server.stop().await;
}

#[tokio::test]
async fn actions_that_do_not_apply_are_refused_with_the_state() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let (task, charge) = blocked(&server).await;
    let steps = server.client.steps(task).await.unwrap();
    let (reserve, ship) = (named(&steps, "reserve").step_uuid, named(&steps, "ship").step_uuid);
    let reset = json!({"action_type": "reset_for_retry", "reason": "r", "reset_by": "ann"});
    let resolve = json!({"action_type": "resolve_manually", "reason": "r", "resolved_by": "ann"});
    for (step, body, state) in [(reserve, &reset, "complete"), (ship, &reset, "pending"), (ship, &resolve, "pending")] {
        let refused = patch(&server, task, step, body).await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "STEP_STATE"), "{refused:?}");
        assert_eq!(refused.json()["error"]["details"]["current_state"], state, "{refused:?}");
    }
    let (other, _) = blocked(&server).await;
    let unknown = Uuid::from_u128(task.as_u128() | 99);
    for (task, step) in [(other, charge), (task, unknown), (task, task)] {
        assert_eq!(patch(&server, task, step, &reset).await.status, 404);
    }
    server.client.cancel_task(task).await.unwrap();
    let late = patch(&server, task, charge, &reset).await;
    assert_eq!((late.status, late.code().as_str()), (409, "TASK_ENDED"), "{late:?}");
    assert_eq!(late.json()["error"]["details"]["status"], "cancelled");
    server.stop().await;
}

#[tokio::test]
async fn an_action_without_who_or_why_or_with_a_bad_result_is_refused_with_the_place() {
    let server = Server::start().await;
    let schema = "handler: {callable: charge}, result_schema: {type: object, required: [paid]}";
    server.register(&ORDER.replace("handler: {callable: charge}", schema)).await.unwrap();
    let (task, charge) = blocked(&server).await;
    let complete = |data: &str| {
        format!(r#"{{"action_type":"complete_manually","reason":"r","completed_by":"a","completion_data":{data}}}"#)
    };
    let cases = [
        (r#"{"action_type":"reset_for_retry","reset_by":"a"}"#.to_owned(), "/reason"),
        (r#"{"action_type":"reset_for_retry","reason":" ","reset_by":"a"}"#.to_owned(), "/reason"),
        (r#"{"action_type":"reset_for_retry","reason":"r"}"#.to_owned(), "/reset_by"),
        (
            r#"{"action_type":"reset_for_retry","reason":"r","reset_by":"a","resolved_by":"a"}"#.to_owned(),
            "/resolved_by",
        ),
        (r#"{"action_type":"resolve_manually","reason":"r","resolved_by":""}"#.to_owned(), "/resolved_by"),
        (r#"{"action_type":"resolve_manually","reason":"\u0000","resolved_by":"a"}"#.to_owned(), "/reason"),
        (complete("null"), "/completion_data"),
        (complete("{}"), "result"),
        (complete(r#"{"result":{}}"#), "/completion_data/result"),
        (complete(r#"{"result":{"paid":1e400}}"#), "/completion_data/result/paid"),
        (complete(r#"{"result":{"paid":1},"metadata":{"a":"\u0000"}}"#), "/completion_data/metadata/a"),
        (r#"{"action_type":"undo","reason":"r"}"#.to_owned(), "undo"),
    ];
    for (body, place) in cases {
        let url = format!("{}/v1/tasks/{task}/workflow_steps/{charge}", server.base);
        let request = server.http.patch(url).header("content-type", "application/json").body(body.clone());
        let refused = Answer::of(request.send().await.unwrap()).await;
        assert_eq!((refused.status, refused.code().as_str()), (422, "INVALID_REQUEST"), "{body}: {refused:?}");
        assert!(refused.text.contains(place), "{body} should name {place}: {refused:?}");
    }
    let state = named(&server.client.steps(task).await.unwrap(), "charge").current_state;
    assert_eq!(state, StepState::Error, "nothing was done");
    server.stop().await;
}

#[tokio::test]
async fn a_reset_that_races_with_a_cancel_leaves_a_cancelled_task_without_tickets() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    for _ in 0..10 {
        let (task, charge) = blocked(&server).await;
        let action = reset();
        let (reset, cancelled) =
            tokio::join!(server.client.act_on_step(task, charge, &action), server.client.cancel_task(task));
        assert_eq!(cancelled.unwrap().status, TaskState::Cancelled);
        if let Err(refused) = reset {
            assert!(refused.is_code("TASK_ENDED"), "{refused:?}");
        }
        assert!(server.claim("shop").await.is_empty(), "no claim succeeds after cancel returned");
        let task = server.client.get_task(task).await.unwrap();
        assert_eq!((task.status, task.in_progress_steps), (TaskState::Cancelled, 0));
    }
    assert_eq!(violations(&server).await, Vec::<String>::new());
    server.stop().await;
}

#[tokio::test]
async fn actions_that_share_a_commit_each_keep_who_and_why() {
    let server = Server::start().await;
    let steps = (0..8).map(|n| format!("  - {{name: s{n}, handler: h, retry: {{max_attempts: 1}}}}\n"));
    let template = format!("name: order\nnamespace_name: shop\nversion: 1.0.0\nsteps:\n{}", steps.collect::<String>());
    server.register(&template).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    server.work_until_settled(task, |_, _| failure(true)).await;
    let steps = server.client.steps(task).await.unwrap();
    let resets = steps.iter().map(|step| {
        let (client, id) = (server.client.clone(), step.step_uuid);
        let action = StepAction::reset_for_retry("r", step.name.clone());
        async move { client.act_on_step(task, id, &action).await.unwrap() }
    });
    futures::future::join_all(resets).await;
    let history = server.client.history(task).await.unwrap();
    let mut told: Vec<(String, String)> = history
        .iter()
        .filter(|entry| entry.cause == "step_reset")
        .map(|entry| {
            let by = entry.detail.as_ref().unwrap()["by"].as_str().unwrap().to_owned();
            let [change] = &entry.transitions[..] else { panic!("one change for each action: {entry:?}") };
            (by, change.step.clone())
        })
        .collect();
    told.sort();
    let expected: Vec<_> = (0..8).map(|n| (format!("s{n}"), format!("s{n}"))).collect();
    assert_eq!(told, expected);
    server.stop().await;
}
