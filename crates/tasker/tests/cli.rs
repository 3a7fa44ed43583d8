//! The built commands, as a shell would run them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const TASK: &str = "01900000-0000-7000-8000-000000000001";

/// What a command did.
#[derive(Debug)]
struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Runs a program in a folder of its own, without the variables that would change what it does.
fn run_in(program: &str, folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("TASKER_") || name.ends_with("DATABASE_URL") {
            command.env_remove(name.as_ref());
        }
    }
    let output = command.output().unwrap();
    Ran {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn tasker(arguments: &[&str]) -> Ran {
    let folder = TempDir::new().unwrap();
    run_in(env!("CARGO_BIN_EXE_tasker"), folder.path(), arguments)
}

/// Serves these answers, one for each connection, a string as it is; the address, and the request lines once all were served.
fn serve(answers: Vec<(&'static str, Value)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = std::thread::spawn(move || {
        answers
            .into_iter()
            .map(|(status, body)| {
                let (mut connection, _) = listener.accept().unwrap();
                let request = read_request(&mut connection);
                let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
                let length = body.len();
                write!(connection, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                    .unwrap();
                request
            })
            .collect()
    });
    (address, requests)
}

/// The request line and the body.
fn read_request(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = connection.read(&mut piece).unwrap();
        assert!(read > 0, "the request broke off");
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return format!("{} {body}", head.lines().next().unwrap());
        }
    }
}

fn task(status: &str) -> Value {
    json!({"task_uuid": TASK, "name": "order", "namespace": "shop", "version": "1.0.0", "status": status,
           "created_at": "2024-05-01T10:00:00Z", "updated_at": "2024-05-01T10:00:00Z", "completed_at": null,
           "context": {"amount": 7}, "initiator": null, "source_system": null, "reason": null, "priority": 0,
           "tags": [], "correlation_id": TASK, "parent_correlation_id": null, "total_steps": 1, "pending_steps": 0,
           "in_progress_steps": 0, "completed_steps": 1, "failed_steps": 0, "ready_steps": 0,
           "execution_status": "all_complete", "recommended_action": "finalize_task",
           "completion_percentage": 100.0, "health_status": "healthy", "steps": [step()]})
}

fn step() -> Value {
    json!({"step_uuid": TASK, "task_uuid": TASK, "name": "charge", "created_at": "2024-05-01T10:00:00Z",
           "updated_at": "2024-05-01T10:00:00Z", "completed_at": "2024-05-01T10:00:01Z", "results": {"paid": 1.50},
           "current_state": "complete", "dependencies_satisfied": true, "retry_eligible": false,
           "ready_for_execution": false, "total_parents": 0, "completed_parents": 0, "attempts": 1, "max_attempts": 3,
           "last_failure_at": null, "next_retry_at": null, "last_attempted_at": "2024-05-01T10:00:00Z"})
}

fn refusal(code: &str) -> Value {
    json!({"error": {"code": code, "message": "There is no such task.", "details": {}, "request_id": "r-1"}})
}

#[test]
fn what_is_asked_for_wrongly_exits_with_2_and_names_the_remedy() {
    let cases: &[(&[&str], &str)] = &[
        (&["task", "lst"], "'list'"),
        (&["task", "list", "--namespac", "shop"], "similar argument exists: '--namespace'"),
        (&["task", "get", "seven"], "invalid value 'seven' for '<TASK>'"),
        (&["task", "list", "--status", "done"], "`done` is not a state"),
        (&["task", "list", "--limit", "101"], "101 is not in 1..=100"),
        (&["task", "wait", TASK, "--timeout", "soon"], "`soon` is not a number of seconds"),
        (&["task", "create", "--name", "order"], "--namespace"),
        (&["task", "create", "--namespace", "shop", "--name", "order", "--input", "{"], "--input is not JSON"),
        (
            &["task", "create", "--namespace", "shop", "--name", "order", "--priority", "-101"],
            "-101 is not in -100..=100",
        ),
        (&["task", "cancel", TASK], "add --yes"),
        (&["task", "reset-step", TASK, "charge", "--by", "ann"], "--reason"),
        (&["task", "repair", "--action", "reset", "--name", "order", "--by", "ann"], "--reason"),
        (&["task", "repair", "--action", "reset", "--name", "order", "--by", "ann", "--reason", "r"], "add --yes"),
        (
            &["task", "complete-step", TASK, "charge", "--by", "a", "--reason", "r", "--result", "{"],
            "--result is not JSON",
        ),
        (&["task", "list", "--url", "https://tasker.example"], "use `http://`"),
        (&["config", "explain", "queue.lease_m"], "did you mean `queue.lease_ms`?"),
        (&["template", "validate", "."], "holds no .yaml or .yml file"),
    ];
    for (arguments, remedy) in cases {
        let ran = tasker(arguments);
        assert_eq!(ran.status, 2, "{arguments:?}: {ran:#?}");
        assert!(ran.stderr.contains(remedy), "{arguments:?} should name `{remedy}`: {ran:#?}");
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_server_that_is_down_is_one_line_with_cause_and_address() {
    let address = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let ran = tasker(&["task", "get", TASK, "--url", &address]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{ran:#?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    let expected = format!("error: no server answers at {address}: Connection refused");
    assert!(ran.stderr.starts_with(&expected) && ran.stderr.contains("`tasker server`"), "{ran:#?}");

    let ran = tasker(&["--json", "system", "health", "--url", &address]);
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((ran.status, &error["error"]["code"]), (1, &json!("UNREACHABLE")), "{ran:#?}");
}

#[test]
fn a_refusal_is_told_with_its_code() {
    let (address, requests) =
        serve(vec![("404 Not Found", refusal("NOT_FOUND")), ("404 Not Found", refusal("NOT_FOUND"))]);
    let ran = tasker(&["task", "get", TASK, "--url", &address]);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, "error: There is no such task. (NOT_FOUND)\n"), "{ran:#?}");
    let ran = tasker(&["task", "get", TASK, "--url", &address, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&ran.stderr).unwrap(), refusal("NOT_FOUND"), "{ran:#?}");
    assert_eq!(requests.join().unwrap().len(), 2);
}

#[test]
fn many_tasks_are_created_from_a_file_and_each_is_answered() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tasks.jsonl");
    let argument = file.to_str().unwrap();
    std::fs::write(
        &file,
        "{\"namespace\":\"shop\",\"name\":\"order\"}\n\n{\"namespace\":\"shop\",\"name\":\"none\"}\n",
    )
    .unwrap();
    let error = refusal("TEMPLATE_NOT_FOUND")["error"].clone();
    let results = json!({"results": [{"index": 0, "status": 201, "task": task("steps_in_process")},
                                     {"index": 1, "status": 404, "error": error}]});
    let (url, requests) = serve(vec![("207 Multi-Status", results)]);
    let ran = tasker(&["task", "create-bulk", "--file", argument, "--json", "--url", &url]);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.status, lines.len()), (1, 2), "{ran:#?}");
    assert_eq!(
        (&lines[0]["task"]["task_uuid"], &lines[1]["error"]["code"]),
        (&json!(TASK), &json!("TEMPLATE_NOT_FOUND"))
    );
    assert!(ran.stderr.contains("1 of 2 requests were refused"), "{ran:#?}");
    let request = requests.join().unwrap().remove(0);
    assert!(request.starts_with("POST /v1/tasks/bulk ") && request.contains(r#""name":"none""#), "{request}");

    std::fs::write(&file, "{\"namespace\":\"shop\",\"name\":\"order\"}\n{\"namespace\":\"shop\"}\n").unwrap();
    let ran = tasker(&["task", "create-bulk", "--file", argument, "--url", "http://127.0.0.1:1"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("line 2 is not a request for a task: missing field `name`"), "{ran:#?}");
}

#[test]
fn a_task_is_created_and_waited_for() {
    let (address, requests) = serve(vec![("201 Created", task("pending")), ("200 OK", task("complete"))]);
    let ran = tasker(&[
        "task",
        "create",
        "--namespace",
        "shop",
        "--name",
        "order",
        "--version",
        "1.0.0",
        "--input",
        r#"{"amount": 1.50}"#,
        "--priority",
        "-5",
        "--tag",
        "a",
        "--tag",
        "b",
        "--wait",
        "--url",
        &address,
        "--json",
    ]);
    assert_eq!((ran.status, &ran.json()["status"]), (0, &json!("complete")), "{ran:#?}");
    let requests = requests.join().unwrap();
    let (line, body) = requests[0].split_once(" HTTP/1.1 ").unwrap();
    assert_eq!(line, "POST /v1/tasks");
    assert!(body.contains(r#""context":{"amount": 1.50}"#), "the input goes out as it was written: {body}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["priority"], &body["tags"], &body["version"]), (&json!(-5), &json!(["a", "b"]), &json!("1.0.0")));
    assert!(requests[1].starts_with(&format!("GET /v1/tasks/{TASK}/wait?timeout_ms=")), "{requests:?}");
}

#[test]
fn waiting_for_a_task_that_ends_badly_fails() {
    for status in ["error", "cancelled", "blocked_by_failures"] {
        let (address, _requests) = serve(vec![("200 OK", task(status))]);
        let ran = tasker(&["task", "wait", TASK, "--url", &address]);
        assert_eq!(ran.status, 1, "{status}: {ran:#?}");
        assert!(ran.stdout.contains(status), "{ran:#?}");
    }
}

fn event(seq: i64, status: &str, step: Value) -> String {
    let entry = json!({"task_uuid": TASK, "status": status, "seq": seq, "at": "2024-05-01T10:00:00.25Z", "cause": "report",
                       "processor": "one", "task_from": "steps_in_process", "task_to": status, "transitions": [step]});
    format!("id: {seq}\ndata: {entry}\n\n")
}

#[test]
fn every_transition_is_watched_until_the_task_has_settled() {
    let failed =
        event(1, "blocked_by_failures", json!({"step": "charge", "from": "in_progress", "to": "error", "attempt": 3}));
    let repaired =
        event(2, "complete", json!({"step": "charge", "from": "error", "to": "resolved_manually", "attempt": 3}));
    let text = "10:00:00.250  charge                    in_progress -> error (attempt 3)
10:00:00.250  (task)                    steps_in_process -> blocked_by_failures
";
    let answers = |events: String, now: &str| {
        serve(vec![("200 OK", task("pending")), ("200 OK", json!(events)), ("200 OK", task(now))])
    };
    let (address, _requests) = answers(failed.clone(), "blocked_by_failures");
    let ran = tasker(&["task", "watch", TASK, "--url", &address]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, text), "{ran:#?}");
    assert!(ran.stderr.contains("blocked by failures"), "{ran:#?}");

    let (address, _requests) = answers(failed + &repaired, "complete");
    let ran = tasker(&["task", "watch", TASK, "--url", &address, "--json"]);
    let seen: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.status, seen.len()), (0, 2), "a block that was lifted since does not end the watch: {ran:#?}");
    assert_eq!((&seen[1]["seq"], &seen[1]["transitions"][0]["to"]), (&json!(2), &json!("resolved_manually")));
}

#[test]
fn json_is_the_server_s_answer_and_the_table_is_for_people() {
    let (address, _requests) = serve(vec![("200 OK", json!([step()])), ("200 OK", json!([step()]))]);
    let ran = tasker(&["task", "steps", TASK, "--json", "--url", &address]);
    assert_eq!(ran.json(), json!([step()]));
    assert!(ran.stdout.contains(r#""results":{"paid":1.5}"#), "{ran:#?}");

    let ran = tasker(&["task", "steps", TASK, "--url", &address]);
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["STEP", "STATE", "ATTEMPTS", "PARENTS"], "{ran:#?}");
    assert_eq!(lines[1][..4], ["charge", "complete", "1/3", "0/0"], "{ran:#?}");
}

#[test]
fn a_step_is_found_by_its_name() {
    let (address, requests) =
        serve(vec![("200 OK", json!([step()])), ("200 OK", json!([])), ("200 OK", json!([step()]))]);
    let ran = tasker(&["task", "step-audit", TASK, "charge", "--url", &address]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "no attempt has ended yet\n"), "{ran:#?}");
    let ran = tasker(&["task", "step-audit", TASK, "chrge", "--url", &address]);
    assert_eq!(ran.status, 1);
    assert_eq!(ran.stderr, "error: the task has no step `chrge`; it has charge\n");
    let path = format!("GET /v1/tasks/{TASK}/workflow_steps/{TASK}/audit HTTP/1.1 ");
    assert_eq!(requests.join().unwrap()[1], path);
}

#[test]
fn a_graph_is_drawn_for_the_terminal_from_the_server_s_json() {
    let graph = json!({"name": "order", "nodes": [{"name": "charge", "state": "complete"}], "edges": []});
    let (address, requests) = serve(vec![("200 OK", graph)]);
    let ran = tasker(&["task", "visualize", TASK, "--url", &address]);
    assert_eq!(ran.stdout, "order\n   1  charge  complete\n", "{ran:#?}");
    assert!(requests.join().unwrap()[0].contains("/graph?format=json "));
}

#[test]
fn the_health_of_a_server_is_the_exit_status() {
    let health = |status: &str| {
        json!({"status": status, "timestamp": "2024-05-01T10:00:00Z", "version": "1.2.3", "environment": "test",
               "uptime_ms": 5000, "checks": {"database": {"status": status, "message": null, "duration_ms": 0.25}}})
    };
    let (address, _requests) =
        serve(vec![("200 OK", health("healthy")), ("503 Service Unavailable", health("unhealthy"))]);
    let ran = tasker(&["system", "health", "--url", &address]);
    assert!(ran.status == 0 && ran.stdout.contains("database  healthy"), "{ran:#?}");
    let ran = tasker(&["system", "health", "--url", &address]);
    assert!(ran.status == 1 && ran.stdout.starts_with("the server is unhealthy"), "{ran:#?}");
}

const TEMPLATE: &str = "\
name: order
namespace_name: shop
version: 1.0.0
steps:
  - name: check
    handler: shop.Check
  - name: charge
    handler: shop.Charge
    dependencies: [check]
";

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn templates_are_checked_without_a_server() {
    let cases: &[(&str, &str, i32, &str)] = &[
        ("order", "order", 0, "valid: shop/order 1.0.0, 2 steps"),
        ("[check]", "[chek]", 1, "did you mean `check`?"),
        ("[check]", "[charge]", 1, "charge"),
        ("version: 1.0.0", "version: one", 1, "line 3: version"),
        ("namespace_name: shop", "namespace_name: worker_shop", 1, "line 2: namespace_name"),
        ("dependencies", "dependancies", 1, "did you mean `dependencies`?"),
        ("name: charge", "name: check", 1, "check"),
        ("version: 1.0.0", "version: 1.0.0\ninput_schema: {type: thing}", 1, "input_schema"),
    ];
    for (what, with, status, told) in cases {
        let folder = TempDir::new().unwrap();
        file(&folder, "order.yaml", &TEMPLATE.replacen(what, with, 1));
        let ran = run_in(env!("CARGO_BIN_EXE_tasker"), folder.path(), &["template", "validate", "order.yaml"]);
        assert_eq!(ran.status, *status, "{with}: {ran:#?}");
        assert!(ran.stdout.contains(told), "{with} should tell `{told}`: {ran:#?}");
        assert!(ran.stdout.lines().all(|line| line.starts_with("order.yaml: ")), "{ran:#?}");
    }
}

#[test]
fn a_folder_of_templates_is_checked_whole() {
    let folder = TempDir::new().unwrap();
    file(&folder, "t/b/bad.yml", "name: [");
    file(&folder, "t/a.yaml", TEMPLATE);
    file(&folder, "t/notes.txt", "not a template");
    let ran =
        run_in(env!("CARGO_BIN_EXE_tasker"), folder.path(), &["template", "validate", "t", "missing.yaml", "--json"]);
    assert_eq!(ran.status, 1, "{ran:#?}");
    let answer = ran.json();
    let files: Vec<&str> = answer.as_array().unwrap().iter().map(|checked| checked["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["t/a.yaml", "t/b/bad.yml", "missing.yaml"]);
    let valid: Vec<&Value> = answer.as_array().unwrap().iter().map(|checked| &checked["valid"]).collect();
    assert_eq!(valid, [true, false, false]);
    assert_eq!(answer[0]["template"]["steps"], 2);
    assert_eq!(answer[0]["template"]["hash"].as_str().unwrap().len(), 64);
    assert_eq!(answer[2]["problems"][0]["code"], "unreadable");
}

#[test]
fn a_template_file_is_drawn() {
    let folder = TempDir::new().unwrap();
    file(&folder, "order.yaml", TEMPLATE);
    let draw = |arguments: &[&str]| {
        let arguments = [&["template", "visualize", "order.yaml"], arguments].concat();
        run_in(env!("CARGO_BIN_EXE_tasker"), folder.path(), &arguments)
    };
    assert_eq!(draw(&[]).stdout, "order\n   1  check\n   2  charge    <- check\n");
    assert_eq!(draw(&["--json"]).json()["edges"], json!([{"from": "check", "to": "charge"}]));
    assert!(draw(&["--format", "mermaid"]).stdout.starts_with("flowchart TD\n"));
    let ran = draw(&["--format", "svg", "--out", "order.svg"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{ran:#?}");
    assert!(std::fs::read_to_string(folder.path().join("order.svg")).unwrap().starts_with("<svg "));
}

#[test]
fn a_step_is_repaired_by_its_name_with_who_and_why() {
    let (address, requests) = serve(vec![
        ("200 OK", json!([step()])),
        ("200 OK", step()),
        ("200 OK", step()),
        ("409 Conflict", refusal("STEP_STATE")),
    ]);
    let account = ["--reason", "the bank is back", "--by", "ann", "--url", &address];
    let ran = tasker(&[&["task", "reset-step", TASK, "charge"], &account[..]].concat());
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "charge complete\n"), "{ran:#?}");
    let complete = ["task", "complete-step", TASK, TASK, "--result", r#"{"paid": 1.50}"#, "--json"];
    let ran = tasker(&[&complete, &account[..]].concat());
    assert_eq!((ran.status, &ran.json()["name"]), (0, &json!("charge")), "{ran:#?}");
    let ran = tasker(&[&["task", "resolve-step", TASK, TASK], &account[..]].concat());
    assert!(ran.status == 1 && ran.stderr.contains("STEP_STATE"), "{ran:#?}");
    let requests = requests.join().unwrap();
    let patch = format!("PATCH /v1/tasks/{TASK}/workflow_steps/{TASK} HTTP/1.1 ");
    let bodies: Vec<&str> = requests[1..].iter().map(|request| request.strip_prefix(&patch).unwrap()).collect();
    assert_eq!(bodies[0], r#"{"action_type":"reset_for_retry","reason":"the bank is back","reset_by":"ann"}"#);
    assert!(bodies[1].contains(r#""result":{"paid": 1.50}"#), "the result goes out as it was written: {bodies:?}");
    assert!(bodies[2].contains(r#""resolved_by":"ann""#), "{bodies:?}");
}

#[test]
fn many_steps_are_repaired_page_by_page() {
    let step = json!({"task_uuid": TASK, "step_uuid": TASK, "step_name": "charge", "namespace": "shop",
        "task_name": "order", "handler": "h", "attempts": 3, "error_type": "outage", "outcome": "done"});
    let page =
        |next: Value| json!({"preview": false, "done": 1, "refused": 0, "steps": [step.clone()], "next_cursor": next});
    let (address, requests) = serve(vec![("200 OK", page(json!("abc"))), ("200 OK", page(Value::Null))]);
    let what = ["task", "repair", "--action", "reset", "--error-type", "outage", "--per-second", "5", "--yes"];
    let account = ["--reason", "it is back", "--by", "ann", "--url", &address];
    let ran = tasker(&[&what[..], &account[..]].concat());
    assert!(ran.status == 0 && ran.stdout.ends_with("\n2 steps repaired, 0 had moved meanwhile\n"), "{ran:#?}");
    let requests = requests.join().unwrap();
    let body = r#"{"action_type":"reset_for_retry","filter":{"error_type":"outage"},"preview":false,"reason":"it is back","by":"ann","per_second":5"#;
    assert_eq!(requests[0], format!("POST /v1/tasks/repair HTTP/1.1 {body}}}"));
    assert_eq!(requests[1], format!(r#"POST /v1/tasks/repair HTTP/1.1 {body},"cursor":"abc"}}"#));
}

#[test]
fn figures_are_shown_for_people_and_asked_for_as_they_were_ordered() {
    let at = "2024-05-01T10:00:00Z";
    let performance = json!({"period_start": at, "calculated_at": at, "truncated": true, "total_tasks": 8, "active_tasks": 1,
        "completed_tasks": 5, "failed_tasks": 2, "cancelled_tasks": 0, "completion_rate": 0.714, "error_rate": 0.286,
        "average_task_duration_seconds": 1.5, "average_step_duration_seconds": null, "attempts": 30, "completed_steps": 25,
        "step_execution_ms": {"p50": 2.0, "p95": 9.0, "p99": 12.0, "max": 40.0}, "failed_attempts": 4, "lost_attempts": 1,
        "tasks_per_hour": 4.0, "steps_per_hour": 12.5});
    let slow = json!({"namespace": "shop", "task_name": "order", "version": "1.0.0", "step_name": "charge", "handler": "h",
        "executions": 7, "error_rate": 0.25, "retry_rate": 0.0, "average_ms": 12.0, "p95_ms": 30.0, "max_ms": 31.5, "total_ms": 84.0});
    let bottlenecks = json!({"period_start": at, "calculated_at": at, "slow_steps": [slow], "slow_tasks": []});
    let (address, requests) =
        serve(vec![("200 OK", performance), ("200 OK", bottlenecks.clone()), ("200 OK", bottlenecks)]);
    let ran = tasker(&["analytics", "performance", "--hours", "2", "--url", &address]);
    for told in ["10:00:00, the newest of them alone", "8: 1 active, 5 completed", "71.4 %", "p50 2.0 ms", "12.5 steps"]
    {
        assert!(ran.status == 0 && ran.stdout.contains(told), "{told}: {ran:#?}");
    }
    assert!(!ran.stdout.contains("an attempt takes"), "what is not known is left out: {ran:#?}");
    let ran = tasker(&["analytics", "bottlenecks", "--limit", "3", "--min-executions", "2", "--url", &address]);
    let row: Vec<&str> = ran.stdout.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row.join(" "), "shop/order 1.0.0 charge 7 12.0 30.0 31.5 25.0 % 0.0 % h", "{ran:#?}");
    assert!(ran.stdout.ends_with("no template was complete often enough\n"), "{ran:#?}");
    let ran = tasker(&["analytics", "bottlenecks", "--json", "--url", &address]);
    assert_eq!(ran.json()["slow_steps"][0]["executions"], 7, "{ran:#?}");
    let requests = requests.join().unwrap();
    assert_eq!(requests[0], "GET /v1/analytics/performance?hours=2 HTTP/1.1 ");
    assert_eq!(requests[1], "GET /v1/analytics/bottlenecks?limit=3&min_executions=2&hours=24 HTTP/1.1 ");
}

#[test]
fn an_explanation_is_a_table_of_reasons() {
    let step = json!({"step_uuid": TASK, "name": "charge", "current_state": "enqueued", "code": "no_live_worker",
        "message": "no live worker knows its handler h", "handler": "h", "attempts": 0, "max_attempts": 3});
    let explanation = json!({"task_uuid": TASK, "status": "steps_in_process", "message": "it waits", "steps": [step]});
    let handlers = json!({"handlers": [{"namespace": "shop", "name": "h", "workers": ["w1", "w2"], "last_seen": "2024-05-01T10:00:00Z"}]});
    let (address, requests) = serve(vec![("200 OK", explanation), ("200 OK", handlers)]);
    let ran = tasker(&["task", "explain", TASK, "--url", &address]);
    assert!(ran.stdout.starts_with(&format!("{TASK} steps_in_process: it waits\n")), "{ran:#?}");
    assert!(ran.stdout.contains("no_live_worker"), "{ran:#?}");
    let ran = tasker(&["system", "handlers", "--namespace", "shop", "--url", &address]);
    assert!(ran.status == 0 && ran.stdout.contains("w1, w2"), "{ran:#?}");
    let requests = requests.join().unwrap();
    assert_eq!(requests[0], format!("GET /v1/tasks/{TASK}/explain HTTP/1.1 "));
    assert_eq!(requests[1], "GET /v1/handlers/shop HTTP/1.1 ");
}

#[test]
fn what_was_given_up_is_listed_and_resolved() {
    let entry = json!({"dlq_entry_uuid": TASK, "task_uuid": TASK, "step_uuid": TASK, "step_name": "charge", "attempt": 3,
        "namespace": "shop", "task_name": "order", "current_state": "blocked_by_failures",
        "dlq_reason": "attempts_exhausted", "dlq_timestamp": "2024-05-01T10:00:00Z", "filed_by": null,
        "resolution_status": "cancelled", "resolution_timestamp": null, "resolution_notes": null, "resolved_by": null,
        "resolutions": []});
    let pagination = json!({"limit": 50, "next_cursor": "abc", "has_next": true, "page": null});
    let list = json!({"entries": [entry.clone()], "pagination": pagination});
    let (address, requests) = serve(vec![("200 OK", list), ("200 OK", entry)]);
    let ran = tasker(&["dlq", "list", "--status", "permanently_failed", "--url", &address]);
    assert!(ran.stdout.contains("shop/order") && ran.stdout.ends_with("\nmore with --cursor abc\n"), "{ran:#?}");
    let update =
        ["dlq", "update", TASK, "--status", "cancelled", "--notes", "a test", "--by", "ann", "--url", &address];
    let ran = tasker(&update);
    assert_eq!((ran.status, ran.stdout), (0, format!("{TASK} cancelled\n")));
    let requests = requests.join().unwrap();
    assert!(requests[0].starts_with("GET /v1/dlq?resolution_status=permanently_failed&limit=50 "), "{requests:?}");
    let body = r#"{"resolution_status":"cancelled","resolution_notes":"a test","resolved_by":"ann"}"#;
    assert_eq!(requests[1], format!("PATCH /v1/dlq/entry/{TASK} HTTP/1.1 {body}"));
}

#[test]
fn templates_are_registered_one_by_one_and_a_refusal_does_not_stop_the_rest() {
    let folder = TempDir::new().unwrap();
    file(&folder, "t/a.yaml", "not checked here");
    file(&folder, "t/b.yaml", TEMPLATE);
    let registered = json!({"namespace": "shop", "name": "order", "version": "1.0.0", "hash": "ab", "created": true, "warnings": []});
    let (address, requests) =
        serve(vec![("422 Unprocessable Entity", refusal("INVALID_TEMPLATE")), ("201 Created", registered)]);
    let ran = run_in(env!("CARGO_BIN_EXE_tasker"), folder.path(), &["template", "register", "t", "--url", &address]);
    assert_eq!(ran.status, 1, "{ran:#?}");
    let expected =
        "t/a.yaml: refused: There is no such task. (INVALID_TEMPLATE)\nt/b.yaml: registered: shop/order 1.0.0\n";
    assert_eq!(ran.stdout, expected);
    assert!(requests.join().unwrap()[1].contains(r#"{"yaml":"name: order\n"#));
}

#[test]
fn configurations_are_checked_with_file_and_line() {
    let cases: &[(&str, i32, &str)] = &[
        ("[queue]\nlease_ms = 30000\n", 0, "the configuration for development is valid"),
        ("[queue]\nlease_mss = 30000\n", 1, "c.toml:2: unknown key `queue.lease_mss`; did you mean `queue.lease_ms`?"),
        ("[queue]\n\nlease_ms = \"long\"\n", 1, "c.toml:3: `queue.lease_ms` must be"),
        ("[queue\n", 1, "c.toml:1: "),
    ];
    for (text, status, told) in cases {
        let folder = TempDir::new().unwrap();
        file(&folder, "c.toml", text);
        let arguments = ["config", "validate", "--file", "c.toml"];
        for (program, arguments) in
            [(env!("CARGO_BIN_EXE_tasker"), &arguments[..]), (env!("CARGO_BIN_EXE_config-validator"), &arguments[2..])]
        {
            let ran = run_in(program, folder.path(), arguments);
            assert_eq!(ran.status, *status, "{text}: {ran:#?}");
            assert!(ran.stdout.contains(told), "{text} should tell `{told}`: {ran:#?}");
        }
    }
}

#[test]
fn errors_of_a_configuration_have_their_place_in_json() {
    let folder = TempDir::new().unwrap();
    file(&folder, "c.toml", "[queue]\nlease_mss = 1\npoll_mi_ms = 1\n");
    let ran =
        run_in(env!("CARGO_BIN_EXE_tasker"), folder.path(), &["config", "validate", "--file", "c.toml", "--json"]);
    let answer = ran.json();
    assert_eq!((ran.status, &answer["valid"]), (1, &json!(false)), "{ran:#?}");
    let lines: Vec<&Value> = answer["errors"].as_array().unwrap().iter().map(|error| &error["line"]).collect();
    assert_eq!(lines, [2, 3], "{ran:#?}");
    assert_eq!(answer["errors"][0]["file"], "c.toml");
}

#[test]
fn a_configuration_is_shown_with_where_each_value_came_from() {
    let folder = TempDir::new().unwrap();
    file(&folder, "c.toml", "[queue]\nlease_ms = 31000\n");
    let ran = run_in(env!("CARGO_BIN_EXE_tasker"), folder.path(), &["config", "show", "--file", "c.toml"]);
    let line = ran.stdout.lines().find(|line| line.starts_with("queue.lease_ms")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["queue.lease_ms", "31000", "c.toml:2"]);
    let ran = tasker(&["config", "explain", "queue.lease_ms", "--json"]);
    assert_eq!(ran.json()["override"], "TASKER__QUEUE__LEASE_MS");
    assert!(tasker(&["config", "docs"]).stdout.contains("### `queue.lease_ms`"));
}

#[test]
fn a_wrong_configuration_is_told_where_the_server_s_address_is_needed_from_it() {
    let folder = TempDir::new().unwrap();
    file(&folder, "config/tasker/base/common.toml", "[client]\nurll = \"http://127.0.0.1:1\"\n");
    let ran = run_in(env!("CARGO_BIN_EXE_tasker"), folder.path(), &["task", "get", TASK]);
    assert!(ran.status == 1 && ran.stderr.contains("common.toml:2: unknown key `client.urll`"), "{ran:#?}");
}

#[test]
fn completions_and_manual_pages_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = tasker(&["completions", shell]);
        assert!(ran.status == 0 && ran.stdout.contains("step-audit"), "{shell}");
    }
    assert!(tasker(&["man"]).stdout.contains(".TH tasker 1"));
    let folder = TempDir::new().unwrap();
    let ran = run_in(env!("CARGO_BIN_EXE_tasker"), folder.path(), &["man", "--out", "man1"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(folder.path().join("man1/tasker-task-create.1").exists());
}
