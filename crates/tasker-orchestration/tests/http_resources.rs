//! Resources over HTTP, against a real database: what is shown of them, and what an operator may change.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use http_support::{ORDER, Server, failure, order, success};
use tasker_client::types::{BreakerState, ResourceQuery, ResourceUpdate, StepReason, TaskState};
use tasker_lifecycle::StepState;
use tasker_shared::messages::ReportedOutcome;
use tasker_shared::testing::eventually;
use uuid::Uuid;

/// The example with a step that uses what others use, too.
fn using() -> String {
    let using = ORDER.replace("{callable: charge}", "{callable: charge}, uses: [bank]");
    assert_ne!(using, ORDER, "the step is found");
    using
}

fn by_ann(update: ResourceUpdate) -> ResourceUpdate {
    ResourceUpdate { set_by: Some("ann".to_owned()), reason: Some("the bank is slow".to_owned()), ..update }
}

/// Why `charge` does not run.
async fn reason(server: &Server, task: Uuid) -> (StepReason, String) {
    let told = server.client.explain(task).await.unwrap();
    let charge = told.steps.into_iter().find(|step| step.name == "charge").unwrap();
    (charge.code, charge.message)
}

/// Works on what there is until the step has come as far as that.
async fn work_until(
    server: &Server,
    task: Uuid,
    handle: impl Fn(u32, u32) -> ReportedOutcome + Copy,
    step: &str,
    state: StepState,
) {
    eventually("the step comes so far", async || {
        server.work("shop", handle).await;
        let seen = server.client.get_task(task).await.unwrap();
        seen.steps.iter().any(|found| found.name == step && found.current_state == state)
    })
    .await;
}

fn well(_step: u32, _attempt: u32) -> ReportedOutcome {
    success("1")
}

/// `charge` fails.
fn badly(step: u32, _attempt: u32) -> ReportedOutcome {
    if step == 1 { failure(true) } else { success("1") }
}

#[tokio::test]
async fn a_resource_is_there_with_its_template_and_takes_settings_with_who_and_why() {
    let server = Server::start().await;
    server.register(&using()).await.unwrap();
    let all = server.client.resources(&ResourceQuery::default()).await.unwrap().resources;
    assert_eq!(all.len(), 1);
    let bank = &all[0];
    assert_eq!((bank.namespace.as_str(), bank.name.as_str(), bank.breaker), ("shop", "bank", BreakerState::Closed));
    assert_eq!((bank.max_in_flight, bank.failures_to_open, bank.in_flight, bank.held), (None, 5, 0, 0));
    let update = ResourceUpdate { max_in_flight: Some(3), open_ms: Some(700_000), ..ResourceUpdate::default() };
    let changed = server.client.update_resource("shop", "bank", &by_ann(update)).await.unwrap();
    assert_eq!((changed.max_in_flight, changed.failures_to_open, changed.open_ms), (Some(3), 5, 700_000));
    assert_eq!(changed.max_open_ms, 700_000, "the longest is never shorter than the first");
    assert_eq!((changed.set_by.as_deref(), changed.reason.as_deref()), (Some("ann"), Some("the bank is slow")));
    // Registering again keeps what was set.
    server.register(&using().replace("1.0.0", "1.1.0")).await.unwrap();
    assert_eq!(server.client.resource("shop", "bank").await.unwrap(), changed);
    let unlimited = ResourceUpdate { max_in_flight: Some(0), ..ResourceUpdate::default() };
    assert_eq!(server.client.update_resource("shop", "bank", &by_ann(unlimited)).await.unwrap().max_in_flight, None);
    let none = server.client.resources(&ResourceQuery { namespace: Some("other".to_owned()) }).await.unwrap();
    assert!(none.resources.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn bad_settings_are_refused_with_the_place() {
    let server = Server::start().await;
    server.register(&using()).await.unwrap();
    for (body, status, says) in [
        (r#"{"set_by":"a"}"#, 422, "/reason"),
        (r#"{"reason":"r","set_by":"a","max_in_flight":-1}"#, 422, "u32"),
        (r#"{"reason":"r","set_by":"a","open_ms":0}"#, 422, "/open_ms"),
        (r#"{"reason":"r","set_by":"a","max_open_ms":86400001}"#, 422, "/max_open_ms"),
        (r#"{"reason":"r","set_by":"a","pause":true}"#, 422, "paused"),
        ("{", 400, "line"),
    ] {
        let answer = server.patch("/v1/resources/shop/bank", body).await;
        assert!(answer.text.contains(says), "{body}: {answer:?}");
        assert_eq!(answer.status, status, "{body}: {answer:?}");
    }
    for path in ["/v1/resources/shop/other", "/v1/resources/other/bank", "/v1/resources/shop/%00"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
        assert_eq!(server.patch(path, r#"{"reason":"r","set_by":"a"}"#).await.status, 404, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_holds_a_step_is_told_in_its_explanation_and_in_health() {
    let server = Server::start().await;
    server.register(&using()).await.unwrap();
    let set = async |update| server.client.update_resource("shop", "bank", &by_ann(update)).await.unwrap();
    set(ResourceUpdate { paused: Some(true), ..ResourceUpdate::default() }).await;
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    // What does not need the bank is done first, so that nothing else keeps the task busy.
    work_until(&server, task, well, "pack", StepState::Complete).await;
    work_until(&server, task, well, "charge", StepState::Held).await;
    let (code, message) = reason(&server, task).await;
    assert_eq!((code, message.as_str()), (StepReason::ResourcePaused, "bank is paused by an operator"));
    let seen = server.client.get_task(task).await.unwrap();
    assert_eq!(seen.status, TaskState::WaitingForDependencies);
    assert_eq!(server.client.resource("shop", "bank").await.unwrap().held, 1);

    // It goes on by itself once the pause is over, and its failure opens the breaker.
    let day = Some(86_400_000);
    set(ResourceUpdate { failures_to_open: Some(1), open_ms: day, paused: Some(false), ..ResourceUpdate::default() })
        .await;
    eventually("the first failure opens it", async || {
        server.work("shop", badly).await;
        let bank = server.client.resource("shop", "bank").await.unwrap();
        bank.breaker == BreakerState::Open && bank.held == 1
    })
    .await;
    let bank = server.client.resource("shop", "bank").await.unwrap();
    assert_eq!((bank.breaker, bank.in_flight, bank.held), (BreakerState::Open, 0, 1));
    assert!(bank.open_until.is_some());
    let (code, message) = reason(&server, task).await;
    assert_eq!(code, StepReason::BreakerOpen);
    assert!(message.contains("the breaker of bank is open until"), "{message}");
    let health = server.client.detailed_health().await.unwrap();
    assert_eq!(health.checks["resources"].message.as_deref(), Some("steps are held by shop/bank"));
    assert!(server.get("/metrics").await.text.contains("breakers_opened_total 1"));

    // An operator who knows better closes it.
    set(ResourceUpdate { close: true, ..ResourceUpdate::default() }).await;
    server.work_until_settled(task, well).await;
    assert_eq!(server.client.get_task(task).await.unwrap().status, TaskState::Complete);
    server.stop().await;
}

#[tokio::test]
async fn a_full_resource_says_how_full_it_is() {
    let server = Server::start().await;
    server.register(&using()).await.unwrap();
    let update = ResourceUpdate { max_in_flight: Some(1), ..ResourceUpdate::default() };
    server.client.update_resource("shop", "bank", &by_ann(update)).await.unwrap();
    let first = server.client.create_task(&order()).await.unwrap().task_uuid;
    let second = server.client.create_task(&order()).await.unwrap().task_uuid;
    // The first steps of both are done in one batch; nobody works on what follows.
    assert_eq!(server.work("shop", well).await, 2);
    eventually("one of them is held", async || server.client.resource("shop", "bank").await.unwrap().held == 1).await;
    let mut codes = [reason(&server, first).await, reason(&server, second).await];
    codes.sort_by_key(|(code, _)| *code != StepReason::ResourceFull);
    let (code, message) = &codes[0];
    assert_eq!(
        (*code, message.as_str()),
        (StepReason::ResourceFull, "bank 1/1: as many of its steps run as may at once")
    );
    assert_eq!(codes[1].0, StepReason::NoLiveWorker);
    server.stop().await;
}
