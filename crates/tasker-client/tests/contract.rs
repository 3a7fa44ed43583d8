//! The shapes that go over the wire.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;
use tasker_client::types::{RegisterRequest, TaskRequest};

#[test]
fn a_request_is_small_and_its_context_keeps_its_text() {
    let mut request = TaskRequest::new("shop", "order");
    request.context = serde_json::from_str(r#"{"amount": 1.50}"#).unwrap();
    let text = serde_json::to_string(&request).unwrap();
    assert_eq!(text, r#"{"name":"order","namespace":"shop","context":{"amount": 1.50},"priority":0}"#);
    let read: TaskRequest = serde_json::from_str(&text).unwrap();
    assert_eq!(read.context.get(), r#"{"amount": 1.50}"#);
}

#[test]
fn unknown_fields_of_requests_are_refused() {
    for body in [
        json!({"name": "a", "namespace": "b", "prority": 1}),
        json!({"name": "a", "namespace": "b", "options": {"fast": true}}),
        json!({"name": "a"}),
    ] {
        assert!(serde_json::from_str::<TaskRequest>(&body.to_string()).is_err(), "{body}");
    }
}

#[test]
fn a_template_is_registered_as_yaml_or_as_json() {
    let yaml: RegisterRequest = serde_json::from_str(r#"{"yaml": "name: a"}"#).unwrap();
    let RegisterRequest::Yaml(text) = yaml else { panic!("{yaml:?}") };
    assert_eq!(text, "name: a");
    let json: RegisterRequest = serde_json::from_str(r#"{"template": {"name":  "a"}}"#).unwrap();
    let RegisterRequest::Template(text) = json else { panic!("{json:?}") };
    assert_eq!(text.get(), r#"{"name":  "a"}"#);
}
