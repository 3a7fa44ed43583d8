//! What a worker in a process of its own tells about itself.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tasker_shared::testing::{TestDatabase, eventually, through_a_proxy};

/// Killed with the value.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_answers_probes_and_tells_its_figures_where_it_is_told_to() {
    let database = TestDatabase::create().await;
    let (url, cut) = through_a_proxy(&database.url).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("TASKER_") || name.ends_with("DATABASE_URL") {
            command.env_remove(name.as_ref());
        }
    }
    command.arg("worker").env("DATABASE_URL", &url).env("TASKER__WORKER__STATUS_ADDRESS", "127.0.0.1:0");
    command.env("TASKER_WORKER_ID", "worker-7").env("TASKER__WORKER__CONCURRENCY", "3").stdin(Stdio::null());
    let mut worker = Worker(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(worker.0.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().split("status   ").nth(1).map(str::to_owned)).unwrap();
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("/health/live").await, (200, r#"{"status":"healthy"}"#.to_owned()));
    let (status, body) = get("/health/ready").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, body["worker"].as_str(), body["slots"].as_u64()), (200, Some("worker-7"), Some(3)));
    let (status, text) = get("/metrics").await;
    assert!(
        status == 200 && text.contains("tasker_worker_slots 3") && text.contains("tasker_claims_total 0"),
        "{text}"
    );
    assert_eq!(get("/elsewhere").await.0, 404);

    // Its database goes away under it: it is not ready any more, and lives.
    cut.cancel();
    eventually("the worker sees that its database is away", async || get("/health/ready").await.0 == 503).await;
    assert_eq!(get("/health/live").await.0, 200);

    let told = Command::new("kill").args(["-TERM", &worker.0.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert!(worker.0.wait().unwrap().success(), "it ends by itself when it is told to");
}
