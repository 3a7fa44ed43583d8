//! `tasker dev --worker`: workers of other languages beside a server, started again when their files change, and gone
//! when it is.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tasker_shared::testing::{TestDatabase, eventually};
use tempfile::TempDir;

const BOUND: Duration = Duration::from_secs(30);

/// Stands for a worker package: says what it was started with, and ends when it is asked to.
const PACKAGE: &str = r#"
trap 'echo "it stops"; exit 0' TERM
echo "$$ runs $* on $DATABASE_URL at $TASKER_ORCHESTRATION_URL in $(pwd)"
if [ -e broken ]; then echo "it breaks" >&2; exit 3; fi
while :; do sleep 0.05; done
"#;

/// Killed with the value.
struct Dev {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Dev {
    fn start(database: &str, folder: &Path, workers: &[String]) -> Self {
        let package = folder.join("package.sh");
        std::fs::write(&package, PACKAGE).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("TASKER_") || name.ends_with("DATABASE_URL") {
                command.env_remove(name.as_ref());
            }
        }
        command.arg("dev").env("DATABASE_URL", database).env("TASKER_WEB_BIND_ADDRESS", "127.0.0.1:0");
        command.env("TASKER__WORKER__PYTHON_COMMAND", format!("sh {}", package.display()));
        command.env("TASKER__WORKER__RUBY_COMMAND", "/there/is/no/ruby");
        command.args(workers.iter().flat_map(|worker| ["--worker", worker]));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (said, lines) = channel();
        let from = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || from.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Self { child, lines }
    }

    /// The next line with this text.
    fn says(&self, text: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(BOUND) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => before.push(line),
                Err(_) => panic!("`{text}` is never said, but:\n{}", before.join("\n")),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_started_again_when_its_files_change_and_ends_with_the_server() {
    let (database, folder) = (TestDatabase::create().await, TempDir::new().unwrap());
    let project = folder.path().join("shop").join("workers");
    std::fs::create_dir_all(project.join("handlers")).unwrap();
    std::fs::create_dir_all(project.join("node_modules")).unwrap();
    let project = project.canonicalize().unwrap();
    let mut dev = Dev::start(&database.url, folder.path(), &[format!("python:{}", project.display())]);
    let said = dev.says("runs --handlers");
    let place = format!(" runs --handlers {0}/handlers on {1} at http://", project.display(), database.url);
    assert!(
        said.starts_with("    python | ")
            && said.contains(&place)
            && said.ends_with(&format!(" in {}", project.display())),
        "{said}"
    );

    std::fs::write(project.join("node_modules/other.js"), "").unwrap();
    std::fs::write(project.join("handlers/charge.py"), "").unwrap();
    dev.says("a file changed");
    dev.says("it stops");
    dev.says("runs --handlers");

    std::fs::write(project.join("broken"), "").unwrap();
    dev.says("it breaks");
    // Each wait is longer than the one before it, also after a start that a change brought.
    for pause in ["1s", "2s", "4s"] {
        dev.says(&format!("ended (exit status: 3); starts again when a file changes, or in {pause}"));
    }
    std::fs::remove_file(project.join("broken")).unwrap();
    let said = dev.says("runs --handlers");

    // Whoever started it may be killed.
    let process = said.split_whitespace().nth(2).unwrap();
    let lives = async || Command::new("kill").args(["-0", process]).stderr(Stdio::null()).status().unwrap().success();
    assert!(lives().await, "{said}");
    dev.child.kill().unwrap();
    eventually("the worker ends", async || !lives().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_installed_is_named_with_the_remedy_and_a_folder_that_is_none_is_refused() {
    let (database, folder) = (TestDatabase::create().await, TempDir::new().unwrap());
    let here = folder.path().canonicalize().unwrap().display().to_string();
    let dev = Dev::start(&database.url, folder.path(), &[format!("ruby:{here}")]);
    dev.says("install its package, or say how it is started in worker.ruby_command");
    for (worker, why) in [
        ("python", "say it as LANGUAGE:DIR"),
        ("cobol:.", "`cobol` is none of python, ruby, typescript"),
        ("python:/there/is/none", "No such file"),
    ] {
        let dev = Dev::start(&database.url, folder.path(), &[worker.to_owned()]);
        dev.says(why);
    }
}

#[tokio::test]
async fn a_benchmark_ends_with_the_worker_that_it_measures() {
    let (database, folder) = (TestDatabase::create().await, TempDir::new().unwrap());
    let worker = format!("python:{}", folder.path().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
    command.args(["bench", "--mode", "queue", "--latency", "--worker", &worker]);
    command.env("DATABASE_URL", &database.url).env("TASKER__WORKER__PYTHON_COMMAND", "false");
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && said.contains("the worker process ended: exit status: 1"), "{said}");
}
