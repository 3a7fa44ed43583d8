//! Why a step does not run, over HTTP, and the handlers that live workers have.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use http_support::{ORDER, Server, failure, order, success};
use tasker_client::types::{StepExplanation, StepReason, StepState, TaskRequest};
use tasker_shared::store::workers::{self, Announcement};
use uuid::Uuid;

async fn announce(server: &Server, instance: u128, queues: &[&str], handlers: &[&str]) {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (queues, handlers) = (owned(queues), owned(handlers));
    let said = Announcement {
        instance: Uuid::from_u128(instance),
        worker: &format!("worker-{instance}"),
        queues: &queues,
        handlers: &handlers,
    };
    workers::announce(&mut server.db.pool.acquire().await.unwrap(), &said).await.unwrap();
}

async fn step(server: &Server, task: Uuid, name: &str) -> StepExplanation {
    let explanation = server.client.explain(task).await.unwrap();
    explanation.steps.into_iter().find(|step| step.name == name).unwrap()
}

#[tokio::test]
async fn a_step_is_explained_from_its_ticket_to_its_end() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    assert_eq!(step(&server, task, "reserve").await.code, StepReason::NoLiveWorker);
    let waiting = step(&server, task, "ship").await;
    assert_eq!((waiting.code, waiting.waits_for.len()), (StepReason::ParentPending, 2));

    announce(&server, 1, &["worker_shop_queue"], &["reserve", "charge", "pack", "ship"]).await;
    let reserve = step(&server, task, "reserve").await;
    assert_eq!((reserve.code, reserve.queue.as_deref()), (StepReason::WaitingForWorker, Some("worker_shop_queue")));
    assert!(reserve.waiting_since.is_some());

    let claims = server.claim("shop").await;
    let reserve = step(&server, task, "reserve").await;
    assert_eq!((reserve.code, reserve.current_state), (StepReason::Claimed, StepState::InProgress));
    assert_eq!(reserve.attempts, 1);
    server.report(&claims[0], success("1")).await;
    server.work_until_settled(task, |step, _| if step == 1 { failure(true) } else { success("1") }).await;
    let charge = step(&server, task, "charge").await;
    assert_eq!((charge.code, charge.attempts, charge.max_attempts), (StepReason::AttemptsExhausted, 2, 2));
    assert_eq!(charge.last_error.unwrap().error_code.as_deref(), Some("E42"));
    assert_eq!(step(&server, task, "ship").await.blocked_by, ["charge"]);
    let explanation = server.client.explain(task).await.unwrap();
    assert_eq!(explanation.message, "nothing can move until charge is repaired or the task is cancelled");

    server.client.cancel_task(task).await.unwrap();
    assert_eq!(step(&server, task, "ship").await.code, StepReason::Cancelled);
    assert_eq!(
        server
            .get(&format!("/v1/tasks/{}/explain", Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000)))
            .await
            .status,
        404
    );
    server.stop().await;
}

#[tokio::test]
async fn a_step_whose_method_or_resolver_no_live_worker_has_says_which() {
    let server = Server::start().await;
    let handler = "handler: {callable: reserve, METHOD resolver: null}";
    let template = ORDER.replace("handler: {callable: reserve}", handler);
    server.register(&template.replace("METHOD", "method: twice,")).await.unwrap();
    let resolved = template.replace("METHOD resolver: null", "resolver: tenants").replace("1.0.0", "1.1.0");
    server.register(&resolved).await.unwrap();
    let task = async |version: &str| {
        let request = TaskRequest { version: Some(version.to_owned()), ..order() };
        server.client.create_task(&request).await.unwrap().task_uuid
    };
    let (twice, tenants) = (task("1.0.0").await, task("1.1.0").await);
    announce(&server, 1, &["worker_shop_queue"], &["reserve", "charge"]).await;
    let explained = step(&server, twice, "reserve").await;
    assert_eq!((explained.code, explained.handler.as_str()), (StepReason::NoLiveWorker, "reserve#twice"));
    let said = "the handler reserve of live workers has no method twice; workers of worker_shop_queue give it back";
    assert!(explained.message.starts_with(said), "{}", explained.message);
    let explained = step(&server, tenants, "reserve").await;
    assert_eq!((explained.code, explained.handler.as_str()), (StepReason::NoLiveWorker, "reserve@tenants"));
    let said = "no live worker has the resolver tenants of its handler reserve@tenants; workers of worker_shop_queue";
    assert!(explained.message.starts_with(said), "{}", explained.message);

    announce(&server, 1, &["worker_shop_queue"], &["@tenants", "reserve", "reserve#twice"]).await;
    assert_eq!(step(&server, twice, "reserve").await.code, StepReason::WaitingForWorker);
    let explained = step(&server, tenants, "reserve").await;
    let said = "no live worker knows its handler reserve@tenants; workers of worker_shop_queue";
    assert!(explained.message.starts_with(said), "the resolver is there and does not know it: {}", explained.message);
    let named = server.get("/v1/handlers/shop/reserve%23twice").await.json();
    assert_eq!(named["handlers"][0]["workers"][0], "worker-1");
    server.stop().await;
}

#[tokio::test]
async fn handlers_are_those_of_workers_that_were_heard_of_lately() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    server.register(&ORDER.replace("shop", "store")).await.unwrap();
    announce(&server, 1, &["worker_shop_queue", "worker_shop_queue_hi"], &["charge", "pack"]).await;
    announce(&server, 2, &["worker_shop_queue", "worker_store_queue"], &["charge"]).await;
    announce(&server, 3, &[], &["idle"]).await;
    announce(&server, 4, &["worker_store_queue"], &["gone"]).await;
    let silent = "UPDATE tasker.workers SET last_seen = last_seen - interval '46 seconds' WHERE worker = 'worker-4'";
    sqlx::raw_sql(silent).execute(&server.db.pool).await.unwrap();
    let told = async |namespace| {
        let list = server.client.handlers(namespace).await.unwrap();
        let told =
            list.handlers.into_iter().map(|handler| (handler.namespace, handler.name, handler.workers.join("+")));
        told.map(|(namespace, name, workers)| format!("{} {name} {workers}", namespace.unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    let all = ["shop charge worker-1+worker-2", "shop pack worker-1", "store charge worker-2", " idle worker-3"];
    assert_eq!(told(None).await, all);
    assert_eq!(told(Some("store")).await, ["store charge worker-2"]);
    assert_eq!(server.get("/v1/handlers/shop/pack").await.json()["handlers"][0]["workers"][0], "worker-1");
    assert_eq!(server.get("/v1/handlers/store/gone").await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn workers_that_were_silent_for_an_hour_are_forgotten() {
    let server = Server::start().await;
    announce(&server, 1, &["q"], &["h"]).await;
    announce(&server, 2, &["q"], &["h"]).await;
    sqlx::raw_sql("UPDATE tasker.workers SET last_seen = last_seen - interval '61 minutes'")
        .execute(&server.db.pool)
        .await
        .unwrap();
    announce(&server, 2, &["q"], &["h"]).await;
    let left: Vec<String> =
        sqlx::query_scalar("SELECT worker FROM tasker.workers").fetch_all(&server.db.pool).await.unwrap();
    assert_eq!(left, ["worker-2"]);
    server.stop().await;
}
