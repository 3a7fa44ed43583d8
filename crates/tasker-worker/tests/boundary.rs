//! The boundary as another language sees it, by its messages alone.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use support::Setup;
use tasker_lifecycle::TaskId;
use tasker_worker::boundary::{Boundary, BoundaryError, Interrupt, VERSION};
use tokio::runtime::Runtime;

const STEP: &str = "
  - {name: only, handler: {callable: h, initialization: {currency: EUR}}, timeout_seconds: 5}";

/// The other side: it polls and completes on the test's thread, which is none of the worker's.
struct Side {
    runtime: Runtime,
    setup: Setup,
}

impl Side {
    fn new(steps: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let setup = runtime.block_on(Setup::new(steps));
        Self { runtime, setup }
    }

    fn task(&self, input: Value) -> TaskId {
        self.runtime.block_on(self.setup.task(input, Duration::ZERO))
    }

    fn message(&self, version: u32, handlers: &[&str], more: &[(&str, &str)]) -> String {
        let mut variables: HashMap<&str, &str> = more.iter().copied().collect();
        variables.extend([("DATABASE_URL", self.setup.db.url.as_str()), ("TASKER_ENV", "test")]);
        variables.extend([("TASKER_WORKER_ID", "beyond"), ("TASKER__QUEUE__POLL_MAX_MS", "500")]);
        let handlers: HashMap<&str, [&str; 2]> = handlers.iter().map(|name| (*name, ["call", "other"])).collect();
        json!({"version": version, "handlers": handlers, "variables": variables}).to_string()
    }

    /// With these keys of the start message beside the handler.
    fn start_with(&self, more: &Value) -> Boundary {
        let mut message: Value = serde_json::from_str(&self.message(VERSION, &["h"], &[])).unwrap();
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Boundary::start(&message.to_string()).unwrap()
    }

    fn start(&self, more: &[(&str, &str)]) -> Boundary {
        Boundary::start(&self.message(VERSION, &["h"], more)).unwrap()
    }

    fn until_attempts(&self, count: usize) {
        self.runtime.block_on(self.setup.until_attempts(count));
    }

    fn attempts(&self, task: TaskId) -> Vec<(i32, String, Option<String>)> {
        self.runtime.block_on(self.setup.attempts(task))
    }

    fn text(&self, query: &str) -> String {
        let read = sqlx::query_scalar(query).fetch_one(&self.setup.db.pool);
        self.runtime.block_on(read).unwrap()
    }
}

/// Polls until there is a step.
fn step(boundary: &Boundary) -> Value {
    next(boundary, "steps")
}

/// Polls until there is a notice: `(id, notice)`.
fn notice(boundary: &Boundary) -> (String, String) {
    let notice = next(boundary, "notices");
    (notice["id"].as_str().unwrap().to_owned(), notice["notice"].as_str().unwrap().to_owned())
}

fn next(boundary: &Boundary, what: &str) -> Value {
    for _ in 0..20 {
        let batch: Value = serde_json::from_str(&boundary.poll(Duration::from_secs(1)).unwrap()).unwrap();
        if let Some(first) = batch[what].as_array().unwrap().first() {
            return first.clone();
        }
    }
    panic!("no {what} came");
}

/// Completes the step with an outcome; answers the verdict.
fn complete(boundary: &Boundary, id: &Value, mut outcome: Value) -> String {
    outcome["id"] = id.clone();
    verdict(boundary, &outcome.to_string())
}

fn verdict(boundary: &Boundary, outcome: &str) -> String {
    let answer = boundary.complete(&format!(r#"{{"outcomes":[{outcome}]}}"#)).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["verdicts"][0].as_str().unwrap().to_owned()
}

fn pulse(boundary: &Boundary, id: &Value) -> String {
    let answer = boundary.heartbeat(&json!({"ids": [id]}).to_string()).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["attempts"][0]["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_step_crosses_with_all_that_its_handler_sees_and_its_result_comes_back_unchanged() {
    let steps = STEP.replace("callable: h,", "callable: h, method: other,");
    let event = "publishes_events: [{name: only.done, condition: success}]";
    let side = Side::new(&steps.replace("timeout_seconds: 5", &format!("timeout_seconds: 5, {event}")));
    let task = side.task(json!({"who": "ada", "n": 9_007_199_254_740_992_u64, "x": 1.5, "ü": "\u{1F600}"}));
    let boundary = side.start(&[]);
    let about: Value = serde_json::from_str(boundary.about()).unwrap();
    assert_eq!((&about["worker_id"], &about["environment"]), (&json!("beyond"), &json!("test")));
    let step = step(&boundary);
    assert_eq!(step["task_uuid"], json!(task.uuid()));
    assert_eq!(step["input"], json!({"who": "ada", "n": 9_007_199_254_740_992_u64, "x": 1.5, "ü": "\u{1F600}"}));
    assert_eq!((&step["step_config"], &step["handler_name"]), (&json!({"currency": "EUR"}), &json!("h")));
    assert_eq!((&step["attempt"], &step["max_attempts"], &step["namespace"]), (&json!(1), &json!(3), &json!("here")));
    assert_eq!(step["idempotency_key"], json!(format!("{task}:only")));
    assert!((1..=5_000).contains(&step["ms_left"].as_u64().unwrap()), "{step}");
    assert_eq!((&step["method"], pulse(&boundary, &step["id"])), (&json!("other"), "running".to_owned()));
    let result = r#"{"b":1.50,"a":[1e2,"é\n"],"nested":{"z":null}}"#;
    let worker: Value = serde_json::from_str(&boundary.heartbeat(r#"{"ids":[]}"#).unwrap()).unwrap();
    assert_eq!((&worker["worker"]["running"], &worker["worker"]["database_answers"]), (&json!(1), &json!(true)));
    let id = &step["id"];
    let outcome = format!(r#"{{"id":{id},"type":"success","result":{result},"metadata":{{"took":"long"}}}}"#);
    assert_eq!(verdict(&boundary, &outcome), "accepted");
    assert_eq!((verdict(&boundary, &outcome), pulse(&boundary, id)), ("over".to_owned(), "over".to_owned()));
    side.until_attempts(1);
    assert_eq!(side.text("SELECT result::text FROM tasker.attempts"), result);
    assert_eq!(side.text("SELECT metadata::text || worker FROM tasker.attempts"), r#"{"took":"long"}beyond"#);
    let event = "SELECT (message -> 'payload' ->> 'b') FROM pgmq.q_here_domain_events";
    assert_eq!(side.text(event), "1.50", "the template's event, without a line of the other side's");
    boundary.stop(None).unwrap();
}

#[test]
fn failures_cross_with_class_code_and_delay_and_what_is_not_understood_fails_for_good() {
    let side = Side::new(STEP);
    let cases = [
        (
            json!({"type": "failure", "message": "later", "retryable": true, "retry_after_ms": 7_000}),
            ("retryable_error", true, Some(7_000), "later"),
        ),
        (
            json!({"type": "failure", "message": "no\0card", "retryable": false, "error_type": "card", "error_code": "E1"}),
            ("card", false, None, "no\u{fffd}card"),
        ),
        (json!({"type": "success", "result": "\0"}), ("result_not_serializable", false, None, "U+0000")),
        (json!({"type": "success", "reslut": 1}), ("invalid_outcome", false, None, "unknown field `reslut`")),
        (json!({"type": "perhaps"}), ("invalid_outcome", false, None, "unknown variant `perhaps`")),
        (json!({"type": "failure", "message": 1}), ("invalid_outcome", false, None, "invalid type")),
        (
            json!({"type": "decision", "step_names": ["x"], "result": [1]}),
            ("result_not_serializable", false, None, "must be an object"),
        ),
    ];
    let boundary = side.start(&[]);
    for (outcome, expected) in cases {
        let task = side.task(json!({}));
        assert_eq!(complete(&boundary, &step(&boundary)["id"], outcome.clone()), "accepted");
        let stored = format!("SELECT EXISTS (SELECT FROM tasker.attempts WHERE task_uuid = '{task}')");
        side.runtime.block_on(side.setup.until(&stored));
        let row: (String, bool, Option<i64>, String) = side.runtime.block_on(async {
            sqlx::query_as(
                "SELECT error ->> 'error_type', retryable, retry_after_ms, error ->> 'message' FROM tasker.attempts
                 WHERE task_uuid = $1",
            )
            .bind(task.uuid())
            .fetch_one(&side.setup.db.pool)
            .await
            .unwrap()
        });
        assert_eq!((row.0.as_str(), row.1, row.2), (expected.0, expected.1, expected.2), "{outcome}: {row:?}");
        assert!(row.3.contains(expected.3), "{outcome}: {row:?}");
    }
    boundary.stop(None).unwrap();
}

#[test]
fn decisions_splits_and_checkpoints_cross_as_rust_has_them() {
    let side = Side::new(
        "
  - {name: choose, type: decision, handler: h}
  - {name: one, handler: h, dependencies: [choose]}",
    );
    let boundary = side.start(&[]);
    let read = || side.text("SELECT result::text FROM tasker.attempts");
    side.task(json!({}));
    let outcome =
        json!({"type": "checkpoint_yield", "cursor": {"at": 10}, "items_processed": 10, "accumulated_results": [1]});
    let first = step(&boundary);
    assert_eq!(first["checkpoint"], Value::Null);
    complete(&boundary, &first["id"], outcome);
    let again = step(&boundary);
    assert_eq!(again["checkpoint"], json!({"cursor": {"at": 10}, "items_processed": 10, "accumulated_results": [1]}));
    assert_eq!((&again["attempt"], again["id"] == first["id"]), (&json!(1), false));
    let id = &again["id"];
    let decision = format!(r#"{{"id":{id},"type":"decision","step_names":["one"],"result":{{"why":1.50}}}}"#);
    verdict(&boundary, &decision);
    side.until_attempts(1);
    assert_eq!(read(), r#"{"decision_point_outcome":{"step_names":["one"],"type":"create_steps"},"why":1.50}"#);
    boundary.stop(None).unwrap();

    let side = Side::new(
        "
  - {name: split, type: batchable, handler: h, batch_config: {batch_size: 2, worker_template: work}}
  - {name: work, type: batch_worker, handler: h, dependencies: [split]}",
    );
    let boundary = side.start(&[]);
    side.task(json!({}));
    let split = step(&boundary);
    assert_eq!(split["batch_config"]["batch_size"], json!(2));
    let cursor = r#"{"batch_id":"001","start_cursor":0,"end_cursor":2.50,"batch_size":2}"#;
    let id = &split["id"];
    verdict(&boundary, &format!(r#"{{"id":{id},"type":"batches","cursor_configs":[{cursor}],"total_items":2}}"#));
    side.until_attempts(1);
    let said = side.text("SELECT result::text FROM tasker.attempts");
    let expected = format!(
        r#"{{"batch_processing_outcome":{{"type":"create_batches","worker_count":1,"cursor_configs":[{cursor}],"total_items":2}}}}"#
    );
    assert_eq!(said, expected);
    boundary.stop(None).unwrap();
}

#[test]
fn an_outcome_that_comes_too_late_or_for_nobody_changes_nothing() {
    let side = Side::new(&STEP.replace("timeout_seconds: 5", "timeout_seconds: 0.05"));
    let task = side.task(json!({}));
    let boundary = side.start(&[]);
    let late = step(&boundary);
    let id = late["id"].as_str().unwrap().to_owned();
    assert_eq!(notice(&boundary), (id.clone(), "timed_out".to_owned()));
    let success = json!({"type": "success", "result": "late"});
    assert_eq!(complete(&boundary, &late["id"], success.clone()), "over");
    for never in ["99999.1", &format!("{}999", id)] {
        assert_eq!(complete(&boundary, &json!(never), success.clone()), "unknown", "{never}");
        assert_eq!(pulse(&boundary, &json!(never)), "unknown", "{never}");
    }
    for nonsense in ["{", "{}", r#"{"outcomes":[{}]}"#, r#"{"outcomes":[{"id":"x","type":"success"}]}"#] {
        assert_eq!(boundary.complete(nonsense).unwrap_err().code(), "bad_message", "{nonsense}");
    }
    side.until_attempts(1);
    assert_eq!(side.attempts(task), [(1, "failure".to_owned(), Some("timeout".to_owned()))]);
    boundary.stop(None).unwrap();
}

#[test]
fn a_lost_lease_is_told_to_the_other_side() {
    let side = Side::new(STEP);
    side.task(json!({}));
    let fast = [("TASKER__WORKER__HEARTBEAT_MS", "50"), ("TASKER__QUEUE__LEASE_MS", "2000")];
    let boundary = side.start(&fast);
    let step = step(&boundary);
    side.runtime.block_on(side.setup.run(&format!("DELETE FROM {}", side.setup.ticket_table())));
    let id = step["id"].as_str().unwrap().to_owned();
    assert_eq!(notice(&boundary), (id, "cancelled".to_owned()));
    assert_eq!(pulse(&boundary, &step["id"]), "cancelled");
    assert_eq!(complete(&boundary, &step["id"], json!({"type": "success", "result": 1})), "accepted");
    boundary.stop(None).unwrap();
    assert_eq!(side.text("SELECT count(*)::text FROM tasker.attempts"), "0", "its claim was somebody else's");
}

#[test]
fn stopping_waits_for_handlers_for_as_long_as_the_grace_and_then_everything_is_refused() {
    let side = Side::new(STEP);
    let task = side.task(json!({}));
    let boundary = side.start(&[]);
    let running = step(&boundary);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| boundary.stop(Some(Duration::from_secs(20))));
        let success = json!({"type": "success", "result": "in time"});
        assert_eq!(complete(&boundary, &running["id"], success), "accepted");
        stopping.join().unwrap().unwrap();
    });
    assert_eq!(side.attempts(task), [(1, "success".to_owned(), None)]);
    assert_eq!(boundary.poll(Duration::ZERO).unwrap_err().code(), "stopped");
    assert_eq!(boundary.complete(r#"{"outcomes":[{"id":"1.1","type":"success"}]}"#).unwrap_err().code(), "stopped");
    assert_eq!(boundary.heartbeat(r#"{"ids":["1.1"]}"#).unwrap_err().code(), "stopped");
    assert_eq!(boundary.stop(None).unwrap_err().code(), "stopped");
}

#[test]
fn a_wait_leaves_what_there_is_and_ends_with_the_worker() {
    let handlers = json!({"rehearsed": ["call"]});
    let variables = json!({"TASKER_ENV": "test", "TASKER__WORKER__CONCURRENCY": "5"});
    let start = json!({"version": VERSION, "handlers": handlers, "variables": variables, "rehearsal": {"steps": 40}});
    let boundary = Boundary::start(&start.to_string()).unwrap();
    let (mut seen, mut out) = (0, Vec::new());
    loop {
        boundary.wait(Duration::from_secs(20)).unwrap();
        boundary.wait(Duration::from_secs(20)).unwrap();
        let Ok(batch) = boundary.poll(Duration::ZERO) else { break };
        let batch: Value = serde_json::from_str(&batch).unwrap();
        let steps = batch["steps"].as_array().unwrap();
        assert!(!steps.is_empty(), "there was nothing to end the wait: {batch}");
        out.extend(steps.iter().map(|step| step["id"].clone()));
        seen += steps.len();
        // One is always out, as where steps take their time.
        let keep = usize::from(seen < 40);
        for id in out.drain(..out.len().saturating_sub(keep).max(1)) {
            assert_eq!(complete(&boundary, &id, json!({"type": "success", "result": 1})), "accepted");
        }
    }
    assert_eq!((seen, out.len()), (40, 0));
}

#[test]
fn a_poll_ends_early_where_the_other_side_wants_its_thread_back() {
    let side = Side::new(STEP);
    let boundary = side.start(&[]);
    let nothing = json!({"steps": [], "notices": [], "events": [], "questions": []});
    let poll = |interrupt: &Interrupt| boundary.poll_unless(Duration::from_secs(600), interrupt).unwrap();
    for before in [true, false] {
        let interrupt = Interrupt::default();
        std::thread::scope(|scope| {
            if before {
                boundary.interrupt(&interrupt);
            }
            let polling = scope.spawn(|| poll(&interrupt));
            boundary.interrupt(&interrupt);
            assert_eq!(serde_json::from_str::<Value>(&polling.join().unwrap()).unwrap(), nothing);
        });
    }
    // Another poll is not meant, and takes what comes.
    let other = Interrupt::default();
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| poll(&other));
        boundary.interrupt(&Interrupt::default());
        side.task(json!({}));
        assert!(polling.join().unwrap().contains("\"handler_name\":\"h\""));
    });
    boundary.stop(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_stop_from_within_a_handler_ends_with_the_grace() {
    let side = Side::new(STEP);
    let task = side.task(json!({}));
    let boundary = side.start(&[]);
    let inside = step(&boundary);
    boundary.stop(Some(Duration::from_millis(50))).unwrap();
    let late = boundary.complete(&json!({"outcomes": [{"id": inside["id"], "type": "success"}]}).to_string());
    assert_eq!(late.unwrap_err().code(), "stopped");
    assert_eq!(side.attempts(task), [], "its lease ends, and it is tried again");
}

#[test]
fn a_worker_that_is_dropped_in_the_midst_of_a_step_ends_quietly() {
    let side = Side::new(STEP);
    side.task(json!({}));
    let boundary = side.start(&[]);
    step(&boundary);
    // Its next look has been answered, so that what claims are made with is kept. No runtime is entered on this thread.
    let looked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'
                                 AND query LIKE '%pgmq_notify.read_shared%' AND pid <> pg_backend_pid())";
    side.runtime.block_on(side.setup.until(looked));
    std::thread::spawn(move || drop(boundary)).join().unwrap();
}

#[test]
fn a_start_that_can_not_be_is_refused() {
    let side = Side::new(STEP);
    let refused = |message: &str| Boundary::start(message).unwrap_err();
    assert_eq!(refused("{").code(), "bad_message");
    assert!(
        matches!(refused(&side.message(VERSION + 1, &["h"], &[])), BoundaryError::Version { theirs } if theirs == VERSION + 1)
    );
    for handlers in [&[][..], &[""]] {
        assert_eq!(refused(&side.message(VERSION, handlers, &[])).code(), "bad_message", "{handlers:?}");
    }
    let methodless = json!({"version": VERSION, "handlers": {"h": []}}).to_string();
    assert_eq!(refused(&methodless).code(), "bad_message");
    let wrong = refused(&side.message(VERSION, &["h"], &[("TASKER__WORKER__CONCURENCY", "1")]));
    assert_eq!(wrong.code(), "bad_config");
    assert!(wrong.to_string().contains("did you mean `TASKER__WORKER__CONCURRENCY`"), "{wrong}");
    let away = side.message(VERSION, &["h"], &[]).replace(&side.setup.db.url, "postgres://nobody@127.0.0.1:1/none");
    let quick = away.replace("\"TASKER_ENV\"", "\"TASKER__DATABASE__ACQUIRE_TIMEOUT_MS\":\"100\",\"TASKER_ENV\"");
    assert_eq!(refused(&quick).code(), "not_started");
    let version: Value = serde_json::from_str(&Boundary::version()).unwrap();
    assert_eq!(version["boundary"], json!(VERSION));
}

#[test]
fn a_thousand_starts_leave_nothing_behind_whether_they_are_stopped_or_dropped() {
    let side = Side::new(STEP);
    let held = || ["task", "fd"].map(|what| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count());
    let cycle = |is_stopped| {
        let boundary = side.start(&[]);
        if is_stopped {
            boundary.stop(None).unwrap();
        }
    };
    cycle(true);
    cycle(false);
    let [threads, files] = held();
    for round in 0..1_000 {
        cycle(round % 2 == 0);
    }
    let gone = tasker_shared::testing::eventually("threads, files and connections are gone", async || {
        let now = held();
        now[0] <= threads && now[1] <= files
    });
    side.runtime.block_on(gone);
}

#[test]
fn resolvers_are_asked_by_polls_and_what_they_have_is_claimed_and_announced() {
    let side = Side::new(
        "
  - {name: first, handler: {callable: lazy.One, method: undo}}
  - {name: second, handler: {callable: lazy.Two, resolver: by_path}, dependencies: [first]}
  - {name: third, handler: lazy.Nowhere}",
    );
    side.task(json!({}));
    let variables = json!({"DATABASE_URL": side.setup.db.url, "TASKER_ENV": "test"});
    let message = json!({"version": VERSION, "handlers": {}, "resolvers": ["sql", "by_path"], "variables": variables});
    let boundary = Boundary::start(&message.to_string()).unwrap();
    let question = |resolver, callable, method| json!({"resolver": resolver, "callable": callable, "method": method});
    let mut asked = Vec::new();
    while asked.len() < 6 {
        let batch: Value = serde_json::from_str(&boundary.poll(Duration::from_secs(20)).unwrap()).unwrap();
        let questions = batch["questions"].as_array().unwrap();
        assert!(!questions.is_empty() && batch["steps"] == json!([]), "{batch} after {asked:?}");
        asked.extend(questions.clone());
    }
    for (callable, method) in [("lazy.One", "undo"), ("lazy.Two", "call"), ("lazy.Nowhere", "call")] {
        let order: Vec<&str> = if callable == "lazy.Two" { vec!["by_path", "sql"] } else { vec!["sql", "by_path"] };
        let expected: Vec<Value> = order.iter().map(|resolver| question(*resolver, callable, method)).collect();
        let of: Vec<Value> = asked.iter().filter(|asked| asked["callable"] == callable).cloned().collect();
        assert_eq!(of, expected, "the one that the template names, then in the order of the start");
    }
    let answers: Vec<Value> = asked
        .into_iter()
        .map(|mut question| {
            let found = question["resolver"] == "by_path" && question["callable"] != "lazy.Nowhere";
            question["found"] = json!(found);
            question
        })
        .collect();
    let answer = boundary.complete(&json!({"outcomes": [], "answers": answers}).to_string()).unwrap();
    assert_eq!(answer, r#"{"verdicts":[]}"#);
    let first = step(&boundary);
    let told = [&first["step_name"], &first["method"], &first["resolver"]];
    assert_eq!(told, [&json!("first"), &json!("undo"), &json!("by_path")]);
    assert_eq!(complete(&boundary, &first["id"], json!({"type": "success", "result": 1})), "accepted");
    let names = "ARRAY['@by_path', '@sql', 'lazy.One#undo', 'lazy.Two@by_path']";
    let announced = format!("SELECT EXISTS (SELECT FROM tasker.workers WHERE handlers = {names})");
    side.runtime.block_on(side.setup.until(&announced));
    boundary.stop(None).unwrap();
    for resolvers in [json!([""]), json!(["a", "a"])] {
        let message =
            json!({"version": VERSION, "handlers": {}, "resolvers": resolvers, "variables": variables}).to_string();
        assert_eq!(Boundary::start(&message).unwrap_err().code(), "bad_message", "{resolvers}");
    }
}

const EVENTS: &str = "
  - name: only
    handler: h
    retry: {max_attempts: 1}
    result_schema: {not: {const: refused}}
    publishes_events:
      - {name: paid, publisher: mask}
      - {name: tried, condition: always, delivery_mode: broadcast, publisher: mask}
      - {name: again, condition: retryable_failure, publisher: mask}
      - {name: unheard, delivery_mode: fast, publisher: mask}
      - {name: plain, delivery_mode: fast}";

/// What the namespace's queue of events has, each as `name payload metadata`.
fn durable(side: &Side) -> String {
    side.text(
        "SELECT coalesce(string_agg(concat_ws(' ', message ->> 'name', message -> 'payload', message -> 'metadata'),
            ', ' ORDER BY msg_id), '') FROM pgmq.q_here_domain_events",
    )
}

#[test]
fn publishers_are_asked_with_the_step_and_answer_with_the_outcome_and_subscribers_hear_by_glob() {
    let side = Side::new(EVENTS);
    let boundary = side.start_with(&json!({"publishers": ["mask"], "subscriptions": ["tr*", "plai?"]}));
    side.task(json!({}));
    let step = step(&boundary);
    let asked = |name, condition, delivery, on: &[&str]| json!({"name": name, "publisher": "mask", "condition": condition, "delivery_mode": delivery, "on": on});
    let expected = json!([
        asked("paid", "success", "durable", &["success"]),
        asked("tried", "always", "broadcast", &["success", "retryable", "permanent"])
    ]);
    assert_eq!(step["publishes"], expected, "nothing that nobody hears, and nothing that can't come");
    let events = json!([
        {"name": "paid", "publisher": "mask", "payload": {"card": "…11"}, "metadata": {"by": "mask"}},
        {"name": "tried", "publisher": "mask", "payload": null},
        {"name": "never declared", "publisher": "mask", "payload": 1}
    ]);
    complete(&boundary, &step["id"], json!({"type": "success", "result": {"card": "4711"}, "events": events}));
    assert_eq!(heard(&boundary, 2), [r#"plai? plain {"card":"4711"}"#, "tr* tried null"]);
    assert_eq!(durable(&side), r#"paid {"card": "…11"} {"by": "mask"}, tried null"#);
    boundary.stop(None).unwrap();
}

#[test]
fn a_mapping_that_is_missing_or_failed_is_not_published_and_the_outcome_stays_as_it_is() {
    let side = Side::new(EVENTS);
    let boundary = side.start_with(&json!({"publishers": ["mask"]}));
    let said = |more: Value| {
        let mut event = json!({"name": "paid", "publisher": "mask"});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"type": "success", "result": 1, "events": [event]})
    };
    let refused = json!({"type": "success", "result": "refused", "events": [
        {"name": "paid", "publisher": "mask", "payload": 1}, {"name": "tried", "publisher": "mask", "payload": 1}]});
    for (outcome, class) in [
        (json!({"type": "success", "result": 1}), None),
        (said(json!({"error": "KeyError: 'card'"})), None),
        (said(json!({"skip": true})), None),
        (said(json!({"payload": "\0"})), None),
        (said(json!({"payload": 1, "metadata": "\0"})), None),
        (refused, Some("result_schema")),
        (said(json!({})), Some("invalid_outcome")),
        (said(json!({"payload": 1, "skip": true})), Some("invalid_outcome")),
        (said(json!({"payload": 1, "more": 1})), Some("invalid_outcome")),
        (
            json!({"type": "checkpoint_yield", "items_processed": 1, "events": said(json!({"skip": true}))["events"]}),
            Some("invalid_outcome"),
        ),
    ] {
        let task = side.task(json!({}));
        complete(&boundary, &step(&boundary)["id"], outcome.clone());
        let stored = format!("SELECT EXISTS (SELECT FROM tasker.attempts WHERE task_uuid = '{task}')");
        side.runtime.block_on(side.setup.until(&stored));
        let outcome_of = if class.is_none() { "success" } else { "failure" };
        assert_eq!(side.attempts(task), [(1, outcome_of.to_owned(), class.map(str::to_owned))], "{outcome}");
        assert_eq!(durable(&side), "", "{outcome}");
    }
    boundary.stop(None).unwrap();
}

#[test]
fn events_that_nobody_fetched_before_the_stop_are_fetched_after_it() {
    let side = Side::new(EVENTS);
    let boundary = side.start_with(&json!({"publishers": ["mask"], "subscriptions": ["*"]}));
    side.task(json!({}));
    let events = json!([{"name": "unheard", "publisher": "mask", "payload": 2}]);
    complete(&boundary, &step(&boundary)["id"], json!({"type": "success", "result": 1, "events": events}));
    boundary.stop(None).unwrap();
    assert_eq!(heard(&boundary, 2), ["* plain 1", "* unheard 2"]);
    assert_eq!(boundary.poll(Duration::ZERO).unwrap_err().code(), "stopped");
}

/// Polls until so many events have come; each as `subscription name payload`, sorted.
fn heard(boundary: &Boundary, count: usize) -> Vec<String> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let batch: Value = serde_json::from_str(&boundary.poll(Duration::from_secs(20)).unwrap()).unwrap();
        let events = batch["events"].as_array().unwrap();
        assert!(!events.is_empty(), "no more than {heard:?}");
        let told = |told: &Value| {
            let (subscription, event) = (told["subscription"].as_str().unwrap(), &told["event"]);
            format!("{subscription} {} {}", event["name"].as_str().unwrap(), event["payload"])
        };
        heard.extend(events.iter().map(told));
    }
    heard.sort();
    heard
}

#[test]
fn a_rehearsal_hands_out_its_steps_without_a_database_and_ends() {
    let handlers = json!({"rehearsed": ["call"]});
    let variables = json!({"TASKER_ENV": "test", "TASKER__WORKER__CONCURRENCY": "3"});
    let start = json!({"version": VERSION, "handlers": handlers, "variables": variables, "rehearsal": {"steps": 7}});
    let boundary = Boundary::start(&start.to_string()).unwrap();
    let mut seen = 0;
    loop {
        let batch = match boundary.poll(Duration::from_secs(20)) {
            Ok(batch) => serde_json::from_str::<Value>(&batch).unwrap(),
            Err(error) => break assert_eq!(error.code(), "stopped"),
        };
        let steps = batch["steps"].as_array().unwrap();
        assert!((1..=3).contains(&steps.len()), "{batch}");
        for step in steps {
            assert_eq!((&step["handler_name"], &step["input"]["number"]), (&json!("rehearsed"), &json!(6)));
            assert_eq!(complete(&boundary, &step["id"], json!({"type": "success", "result": 1})), "accepted");
            seen += 1;
        }
    }
    assert_eq!(seen, 7);
    let nobody = json!({"version": VERSION, "handlers": {}, "resolvers": ["all"], "rehearsal": {"steps": 1}});
    assert_eq!(Boundary::start(&nobody.to_string()).unwrap_err().code(), "bad_message");
    let heart = json!({"ids": []}).to_string();
    assert_eq!(boundary.heartbeat(&heart).unwrap_err().code(), "stopped");
    assert_eq!(boundary.stop(None).unwrap_err().code(), "stopped");
}
