//! Versions that no new task should take.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use http_support::{ORDER, Server, order, success};
use serde_json::{Value, json};
use tasker_client::types::{DeprecateRequest, TaskRequest, TaskState, TemplateListQuery};

const REASON: &str = r#"{"reason": "it charges twice, take 1.10.0", "by": "ada"}"#;

fn version(version: &str) -> String {
    ORDER.replace("version: 1.0.0", &format!("version: {version}"))
}

fn of(version: &str) -> TaskRequest {
    TaskRequest { version: Some(version.to_owned()), ..order() }
}

impl Server {
    async fn deprecate(&self, version: &str) -> Value {
        let answer = self.post(&format!("/v1/templates/shop/order/{version}/deprecate"), REASON).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    async fn newest(&self) -> String {
        self.client.create_task(&order()).await.unwrap().version
    }
}

#[tokio::test]
async fn the_newest_version_that_is_not_deprecated_is_taken_by_default() {
    let server = Server::start().await;
    for known in ["1.2.0", "1.10.0", "1.9.0", "2.0.0-rc.1"] {
        server.register(&version(known)).await.unwrap();
    }
    assert_eq!(server.newest().await, "1.10.0", "by semver, and not a pre-release");
    let answer = server.deprecate("1.10.0").await;
    assert_eq!((&answer["deprecated"]["by"], &answer["version"]), (&json!("ada"), &json!("1.10.0")));
    assert_eq!(server.newest().await, "1.9.0");
    server.deprecate("1.9.0").await;
    server.deprecate("1.2.0").await;
    assert_eq!(server.newest().await, "2.0.0-rc.1", "a pre-release where nothing else is left");
    server.deprecate("2.0.0-rc.1").await;
    let refused = server.post("/v1/tasks", serde_json::to_string(&order()).unwrap()).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "TEMPLATE_DEPRECATED"), "{refused:?}");
    assert!(refused.text.contains("name the one"), "{refused:?}");
    let id = ("shop", "order", "1.2.0");
    assert!(server.client.undeprecate_template(id).await.unwrap().deprecated.is_none());
    assert_eq!(server.newest().await, "1.2.0");
    let listed = server.client.list_templates(&TemplateListQuery::default()).await.unwrap().templates;
    let deprecated = listed.iter().filter(|template| template.deprecated.is_some()).map(|template| &template.version);
    assert_eq!(deprecated.collect::<Vec<_>>(), ["2.0.0-rc.1", "1.10.0", "1.9.0"]);
    let detail = server.client.get_template("shop", "order", "1.9.0").await.unwrap().deprecated.unwrap();
    assert_eq!((detail.by.as_str(), detail.reason.as_str()), ("ada", "it charges twice, take 1.10.0"));
    // The same content registered again is as deprecated as before.
    server.register(&version("1.10.0")).await.unwrap();
    assert_eq!(server.newest().await, "1.2.0");
    server.stop().await;
}

#[tokio::test]
async fn who_names_a_deprecated_version_gets_it_with_a_warning_and_tasks_that_have_it_go_on() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let mut keyed = of("1.0.0");
    keyed.idempotency_key = Some("k".to_owned());
    let before = server.client.create_task(&keyed).await.unwrap();
    assert_eq!(before.warnings, Vec::<String>::new());
    let request = DeprecateRequest { reason: "take 2".to_owned(), by: "ada".to_owned() };
    server.client.deprecate_template(("shop", "order", "1.0.0"), &request).await.unwrap();
    let named = server.client.create_task(&of("1.0.0")).await.unwrap();
    assert_eq!(
        (named.version.as_str(), named.warnings.as_slice()),
        ("1.0.0", &["shop/order 1.0.0 is deprecated: take 2".to_owned()][..])
    );
    let again = server.client.create_task(&keyed).await.unwrap();
    assert_eq!((again.task_uuid, again.warnings.len()), (before.task_uuid, 1), "the same request, the same task");
    let many = server.client.create_tasks(vec![of("1.0.0"), order()]).await.unwrap();
    assert_eq!((many[0].status, many[0].warnings.len()), (201, 1));
    assert_eq!((many[1].status, many[1].error.as_ref().unwrap().code.as_str()), (409, "TEMPLATE_DEPRECATED"));
    server.work_until_settled(before.task_uuid, |_, _| success("1")).await;
    assert_eq!(server.client.get_task(before.task_uuid).await.unwrap().status, TaskState::Complete);
    server.stop().await;
}

#[tokio::test]
async fn bad_deprecations_are_refused() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let cases = [
        ("shop/order/1.0.0", "{}".to_owned(), 422, "INVALID_REQUEST"),
        ("shop/order/1.0.0", r#"{"reason":"","by":"ada"}"#.to_owned(), 422, "INVALID_REQUEST"),
        ("shop/order/1.0.0", r#"{"reason":"a","by":"a\u0000"}"#.to_owned(), 422, "INVALID_REQUEST"),
        ("shop/order/1.0.0", json!({"reason": "r".repeat(2_001), "by": "ada"}).to_string(), 422, "INVALID_REQUEST"),
        ("shop/order/1.0.0", r#"{"reson":"a","by":"ada"}"#.to_owned(), 422, "UNKNOWN_FIELD"),
        ("shop/order/1.0.0", "reason".to_owned(), 400, "MALFORMED_JSON"),
        ("shop/order/9.9.9", REASON.to_owned(), 404, "NOT_FOUND"),
        ("shop/order/%00", REASON.to_owned(), 404, "NOT_FOUND"),
    ];
    for (template, body, status, code) in cases {
        let answer = server.post(&format!("/v1/templates/{template}/deprecate"), body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}: {answer:?}");
    }
    assert_eq!(server.newest().await, "1.0.0");
    server.stop().await;
}
