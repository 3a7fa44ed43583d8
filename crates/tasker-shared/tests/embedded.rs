//! The private PostgreSQL on real server binaries: fresh and again, alone and shared, killed and left behind.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tasker_shared::embedded::{Embedded, EmbeddedError, Options};

/// A small one: these tests run beside others.
fn options(folder: &Path) -> Options {
    Options { settings: vec![("shared_buffers".into(), "16MB".into())], ..Options::new(folder) }
}

async fn execute(server: &Embedded, statement: &str) {
    let mut conn = PgConnection::connect(&server.url()).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

async fn count(url: &str) -> i64 {
    let mut conn = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut conn).await.unwrap()
}

fn is_alive(pid: u32) -> bool {
    // A zombie that its parent has not reaped yet has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

fn within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "{what} took longer than {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Another process that uses the server of a folder.
struct Launcher {
    process: Child,
    server_pid: u32,
    url: String,
}

impl Launcher {
    fn start(folder: &Path) -> Self {
        let mut process = Self::spawn(folder);
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (pid, url) = line.trim().split_once(' ').unwrap_or_else(|| panic!("the launcher said {line:?}"));
        Self { server_pid: pid.parse().unwrap(), url: url.to_owned(), process }
    }

    fn spawn(folder: &Path) -> Child {
        let tests = std::env::current_exe().unwrap();
        let program: PathBuf = tests.parent().unwrap().parent().unwrap().join("examples/private_postgres");
        assert!(program.exists(), "build it first: cargo build -p tasker-shared --examples");
        Command::new(program).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn leave(&mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

#[tokio::test]
async fn what_was_committed_is_there_when_it_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = Embedded::start(options(folder.path())).unwrap();
    execute(&server, "CREATE TABLE kept AS SELECT 1").await;
    let pid = server.pid();
    server.stop().unwrap();
    assert!(!is_alive(pid), "stop() returned before the server was gone");

    let again = Embedded::start(options(folder.path())).unwrap();
    assert_ne!(again.pid(), pid);
    assert_eq!(count(&again.url()).await, 1);
    assert_eq!(count(&again.socket_url()).await, 1);
}

#[tokio::test]
async fn commits_survive_the_death_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Embedded::start(options(folder.path())).unwrap();
    execute(&server, "CREATE TABLE kept AS SELECT 1").await;
    let url = server.url();
    server.crash().unwrap();
    assert!(PgConnection::connect(&url).await.is_err());
    server.restart().unwrap();
    assert_eq!(server.url(), url);
    assert_eq!(count(&url).await, 1);
}

#[test]
fn a_killed_launcher_leaves_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = Launcher::start(folder.path());
    assert!(is_alive(launcher.server_pid));
    launcher.kill();
    within(Duration::from_secs(20), "the end of the server", || !is_alive(launcher.server_pid));
}

#[tokio::test]
async fn the_server_stays_for_the_second_when_the_first_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Launcher::start(folder.path());
    let second = Embedded::start(options(folder.path())).unwrap();
    assert_eq!(second.pid(), first.server_pid);
    assert!(!second.started_here());
    execute(&second, "CREATE TABLE kept AS SELECT 1").await;
    first.kill();
    assert_eq!(count(&second.url()).await, 1);
    second.stop().unwrap();
    within(Duration::from_secs(20), "the end of the server", || !is_alive(first.server_pid));
}

#[test]
fn two_that_start_at_once_share_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let starts: Vec<_> = (0..2)
        .map(|_| {
            let folder = folder.path().to_owned();
            std::thread::spawn(move || Launcher::start(&folder))
        })
        .collect();
    let mut launchers: Vec<Launcher> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    assert_eq!(launchers[0].url, launchers[1].url);
    for launcher in &mut launchers {
        assert!(is_alive(launcher.server_pid));
        launcher.leave();
    }
    within(Duration::from_secs(20), "the end of the server", || !is_alive(launchers[0].server_pid));
}

#[test]
fn two_folders_have_two_servers() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let servers = folders.each_ref().map(|folder| Embedded::start(options(folder.path())).unwrap());
    assert_ne!(servers[0].pid(), servers[1].pid());
    assert_ne!(servers[0].port(), servers[1].port());
}

#[tokio::test]
async fn a_pid_file_that_names_a_stranger_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Embedded::start(options(folder.path())).unwrap();
    execute(&server, "CREATE TABLE kept AS SELECT 1").await;
    server.crash().unwrap();
    let pid_file = folder.path().join("data/postmaster.pid");
    let left = fs::read_to_string(&pid_file).unwrap();
    let (_, rest) = left.split_once('\n').unwrap();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(&pid_file, format!("{}\n{rest}", stranger.id())).unwrap();

    let again = Embedded::start(options(folder.path())).unwrap();
    assert_eq!(count(&again.url()).await, 1);
    drop(again);
    assert!(is_alive(stranger.id()), "the stranger was taken for the server");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_start_that_fails_shows_the_servers_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { settings: vec![("no_such_setting".into(), "1".into())], ..Options::new(folder.path()) };
    let error = Embedded::start(options).unwrap_err();
    assert!(matches!(error, EmbeddedError::StartFailed { .. }), "{error:?}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[test]
fn a_creation_that_was_cut_short_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let half = folder.path().join("data.new");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("PG_VERSION"), "15\n").unwrap();
    let server = Embedded::start(options(folder.path())).unwrap();
    assert!(is_alive(server.pid()));
}
