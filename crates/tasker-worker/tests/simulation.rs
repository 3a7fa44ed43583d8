//! Whole workflows in memory, by the boundary's messages alone.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};
use tasker_worker::boundary::Simulation;

fn start(steps: &str, more: Value) -> Simulation {
    let template = format!("name: job\nnamespace_name: here\nversion: 1.0.0\n{steps}");
    let mut message = json!({ "template": template });
    message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Simulation::start(&message.to_string()).unwrap()
}

fn next(simulation: &Simulation) -> Vec<Value> {
    let batch: Value = serde_json::from_str(&simulation.next().unwrap()).unwrap();
    batch["steps"].as_array().unwrap().clone()
}

fn state(simulation: &Simulation) -> Value {
    serde_json::from_str(&simulation.state().unwrap()).unwrap()
}

fn complete(simulation: &Simulation, step: &Value, mut outcome: Value) -> String {
    outcome["id"] = step["id"].clone();
    let answer = simulation.complete(&json!({ "outcomes": [outcome] }).to_string()).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["verdicts"][0].as_str().unwrap().to_owned()
}

/// Runs to the end; the handler is given a step and answers its outcome. Answers `name#attempt@ms` of each run.
fn run(simulation: &Simulation, mut handler: impl FnMut(&Value) -> Value) -> Vec<String> {
    let mut runs = Vec::new();
    loop {
        let steps = next(simulation);
        if steps.is_empty() {
            return runs;
        }
        for step in steps {
            let at = state(simulation)["now_ms"].clone();
            runs.push(format!("{}#{}@{at}", step["step_name"].as_str().unwrap(), step["attempt"]));
            assert_eq!(complete(simulation, &step, handler(&step)), "accepted");
        }
    }
}

fn success(result: Value) -> Value {
    json!({"type": "success", "result": result})
}

fn names(state: &Value) -> Vec<String> {
    let told = |step: &Value| format!("{} {}", step["name"].as_str().unwrap(), step["state"].as_str().unwrap());
    state["steps"].as_array().unwrap().iter().map(told).collect()
}

#[test]
fn retries_come_at_their_time_without_anybody_waiting_for_it() {
    let steps = "steps:
  - {name: a, handler: {callable: h, initialization: {k: 1}}}
  - name: b
    handler: h
    dependencies: [a]
    retry: {max_attempts: 3, backoff: exponential, backoff_base_ms: 100000, max_backoff_ms: 600000}
  - {name: c, handler: h, dependencies: [b]}";
    let simulation = start(steps, json!({"input": {"x": 1.50}}));
    let runs = run(&simulation, |step| {
        assert_eq!((&step["input"], &step["namespace"]), (&json!({"x": 1.5}), &json!("here")));
        let name = step["step_name"].as_str().unwrap();
        match (name, step["attempt"].as_u64().unwrap()) {
            ("b", 1) => json!({"type": "failure", "message": "later", "retryable": true, "retry_after_ms": 7_000}),
            ("b", 2) => json!({"type": "failure", "message": "again", "retryable": true}),
            _ => success(json!({"from": name, "saw": step["dependency_results"]})),
        }
    });
    let b3: i64 = runs[3].strip_prefix("b#3@").unwrap().parse().unwrap();
    assert!((7_000 + 170_000..7_000 + 230_000).contains(&b3), "the second backoff with its jitter: {runs:?}");
    assert_eq!(runs[..3], ["a#1@0", "b#1@0", "b#2@7000"]);
    assert_eq!(runs[4], format!("c#1@{b3}"));
    let state = state(&simulation);
    assert_eq!((&state["status"], &state["ended"]), (&json!("complete"), &json!(true)));
    assert_eq!(state["steps"][2]["result"]["saw"]["a"], json!({"from": "a", "saw": {}}));
    assert_eq!(state["attempts"][1]["error"]["message"], "later");
    let again = start(steps, json!({"input": {"x": 1.50}}));
    next(&again);
    assert_eq!(self::state(&again)["ended"], json!(false));
}

#[test]
fn decisions_create_what_they_name_and_convergences_wait_for_that() {
    let steps = "steps:
  - {name: choose, type: decision, handler: h}
  - {name: one, handler: h, dependencies: [choose]}
  - {name: two, handler: h, dependencies: [choose]}
  - {name: end, type: deferred_convergence, handler: h, dependencies: [one, two]}";
    let simulation = start(steps, json!({}));
    let runs = run(&simulation, |step| match step["step_name"].as_str().unwrap() {
        "choose" => json!({"type": "decision", "step_names": ["two"]}),
        name => success(json!({"from": name, "saw": step["dependency_results"]})),
    });
    assert_eq!(runs, ["choose#1@0", "two#1@0", "end#1@0"]);
    assert_eq!(names(&state(&simulation)), ["choose complete", "two complete", "end complete"]);
    let bad = start(steps, json!({}));
    run(&bad, |_| json!({"type": "decision", "step_names": ["three"]}));
    let state = state(&bad);
    assert_eq!(
        (&state["status"], &state["attempts"][0]["error"]["error_type"]),
        (&json!("blocked_by_failures"), &json!("invalid_outcome"))
    );
}

#[test]
fn batches_are_made_named_and_brought_together_and_checkpoints_go_on_in_the_same_attempt() {
    let steps = "steps:
  - name: split
    type: batchable
    handler: h
    batch_config: {batch_size: 2, worker_template: work, failure_strategy: continue_on_failure, parallelism: 1}
  - {name: work, type: batch_worker, handler: h, dependencies: [split], retry: {max_attempts: 1}}
  - {name: end, type: deferred_convergence, handler: h, dependencies: [work]}";
    let simulation = start(steps, json!({}));
    let cursor = |id: &str, from: u64| json!({"batch_id": id, "start_cursor": from, "end_cursor": from + 2});
    let runs = run(&simulation, |step| match step["step_name"].as_str().unwrap() {
        "split" => json!({"type": "batches", "cursor_configs": [cursor("001", 0), cursor("002", 2)], "total_items": 4}),
        "work_001" if step["checkpoint"].is_null() => {
            json!({"type": "checkpoint_yield", "cursor": 1, "items_processed": 1, "accumulated_results": [0]})
        }
        "work_001" => success(json!({"seen": step["checkpoint"], "batch": step["batch"]})),
        "work_002" => json!({"type": "failure", "message": "no", "retryable": true}),
        _ => success(json!({"workers": step["batch_workers"], "failures": step["batch_failures"]})),
    });
    assert_eq!(runs, ["split#1@0", "work_001#1@0", "work_001#1@0", "work_002#1@0", "end#1@0"]);
    let state = state(&simulation);
    assert_eq!(names(&state), ["split complete", "end complete", "work_001 complete", "work_002 error"]);
    let end = &state["steps"][1]["result"];
    assert_eq!(end["workers"], json!({"work": ["work_001"]}));
    assert_eq!(end["failures"]["work_002"]["message"], "no");
    assert_eq!(state["steps"][2]["result"]["seen"]["accumulated_results"], json!([0]));
    assert_eq!(state["status"], "complete");
}

#[test]
fn outcomes_are_checked_and_events_published_as_by_a_worker() {
    let steps = "steps:
  - name: only
    handler: h
    uses: [gateway]
    retry: {max_attempts: 2, backoff: none}
    result_schema: {type: object}
    publishes_events: [{name: paid, publisher: mask}, {name: tried, condition: always, delivery_mode: fast}]";
    let simulation = start(steps, json!({"publishers": ["mask"]}));
    let step = next(&simulation).remove(0);
    assert_eq!(step["publishes"][0]["name"], "paid");
    let failure = json!({"type": "failure", "message": "later", "retryable": true});
    assert_eq!(complete(&simulation, &step, failure.clone()), "accepted");
    assert_eq!(complete(&simulation, &step, failure), "over");
    assert_eq!(complete(&simulation, &json!({"id": "0.99"}), success(json!({}))), "unknown");
    assert_eq!(complete(&simulation, &json!({"id": "1.1"}), success(json!({}))), "unknown");
    let step = next(&simulation).remove(0);
    let events = json!([{"name": "paid", "publisher": "mask", "payload": {"masked": true}}]);
    complete(&simulation, &step, json!({"type": "success", "result": {"card": 1}, "events": events}));
    let published = state(&simulation)["events"].clone();
    let told = |event: &Value| json!([event["event"]["name"], event["event"]["attempt"], event["event"]["payload"]]);
    let told: Vec<Value> = published.as_array().unwrap().iter().map(told).collect();
    assert_eq!(told[1..], [json!(["paid", 2, {"masked": true}]), json!(["tried", 2, {"card": 1}])]);
    assert_eq!(told[0][2]["message"], "later");
    let refused = start(steps, json!({"publishers": ["mask"]}));
    run(&refused, |_| success(json!("no object")));
    assert_eq!(state(&refused)["attempts"][0]["error"]["error_type"], "result_schema");
}

#[test]
fn what_a_server_would_refuse_is_refused_with_its_reason() {
    let refused = |message: Value| {
        let error = Simulation::start(&message.to_string()).unwrap_err();
        (error.code(), error.to_string())
    };
    let head = "name: job\nnamespace_name: here\nversion: 1.0.0\n";
    assert_eq!(refused(json!({"template": "x", "inptu": 1})).0, "bad_message");
    let (code, why) = refused(json!({"template": format!("{head}steps:\n  - {{name: a, handlr: h}}")}));
    assert!(code == "bad_template" && why.contains("handlr"), "{why}");
    let publisher = format!("{head}steps:\n  - {{name: a, handler: h, publishes_events: [{{name: e, publisher: p}}]}}");
    assert!(refused(json!({"template": publisher})).1.contains("`p`"));
    let schema = format!("{head}input_schema: {{type: object, required: [x]}}\nsteps:\n  - {{name: a, handler: h}}");
    assert_eq!(refused(json!({"template": schema})).0, "bad_input");
    let environment = format!("{schema}\nenvironments:\n  test: {{steps: [{{name: a, retry: {{max_attempts: 1}}}}]}}");
    let message = json!({"template": environment, "input": {"x": 1}, "environment": "test"}).to_string();
    let simulation = Simulation::start(&message).unwrap();
    assert_eq!(next(&simulation)[0]["max_attempts"], json!(1));
}
