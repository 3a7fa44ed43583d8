//! What the fault tests share: processes that can be killed and paused, a load of mixed tasks, and the checker.

mod checker;
mod load;
mod mutants;
mod process;
mod storm;

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tasker_client::Client;
pub(crate) use tasker_shared::testing::{eventually, workers_of_other_languages};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) use load::{Order, Shape, orders, submit as submit_all};
pub(crate) use process::Process;
pub(crate) use storm::Storm;

/// Longer than any step here takes, also on a machine that is busy with something else.
const BOUND: Duration = Duration::from_secs(60);

/// One database with the servers and workers that run on it, and what the client was told.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) pool: PgPool,
    url: String,
    folder: TempDir,
    /// Settings of every process.
    pub(crate) settings: Vec<(String, String)>,
    /// The client's log: each key that was asked for with the task it was answered with.
    pub(crate) answered: Vec<(Order, Uuid)>,
    /// The database's clock is not to be trusted about how long something took.
    pub(crate) clock_jumps: bool,
    /// Workers of other languages, which take turns with Rust's: the language, and the line of the shell.
    pub(crate) others: Vec<(String, String)>,
    /// The language of each worker, by its process.
    pub(crate) languages: HashMap<i64, String>,
    started: usize,
}

impl World {
    /// A world on the database at `url`, with leases short enough to wait for.
    pub(crate) fn new(url: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let templates = folder.path().join("templates");
        std::fs::create_dir(&templates).unwrap();
        for shape in Shape::ALL {
            std::fs::write(templates.join(format!("{}.yaml", shape.name())), shape.template()).unwrap();
        }
        let pool = PgPoolOptions::new().max_connections(4).connect_lazy(url).unwrap();
        let (url, settings, answered) = (url.to_owned(), Vec::new(), Vec::new());
        let mut world = Self {
            pool,
            url,
            folder,
            settings,
            answered,
            clock_jumps: false,
            others: Vec::new(),
            languages: HashMap::new(),
            started: 0,
        };
        world.set("TASKER_ENV", "test");
        world.set("TASKER_TEMPLATE_PATH", templates.to_str().unwrap());
        world.set("TASKER_BODY_LOG", world.body_log().to_str().unwrap());
        world.set("TASKER__QUEUE__LEASE_MS", "1500");
        world.set("TASKER__WORKER__HEARTBEAT_MS", "300");
        world.set("TASKER__QUEUE__POLL_MAX_MS", "500");
        world.set("TASKER__SWEEP__INTERVAL_MS", "200");
        world.set("TASKER__DATABASE__MAX_CONNECTIONS", "8");
        world
    }

    /// Sets a variable of the processes that are started from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// The log that the probes write.
    pub(crate) fn body_log(&self) -> PathBuf {
        self.folder.path().join("bodies")
    }

    /// What the probes have written so far.
    pub(crate) fn bodies(&self) -> String {
        std::fs::read_to_string(self.body_log()).unwrap_or_default()
    }

    /// A server that answers, with the client that asks it.
    pub(crate) async fn server(&mut self) -> (Process, Client) {
        let address = free_address();
        self.server_at(&address, None).await
    }

    /// A server at this address, with a crash point armed where one is named.
    pub(crate) async fn server_at(&mut self, address: &str, crash_point: Option<&str>) -> (Process, Client) {
        let mut settings = vec![("TASKER_WEB_BIND_ADDRESS", address)];
        settings.extend(crash_point.map(|point| ("TASKER_CRASH_POINT", point)));
        let process = self.start("server", &settings);
        let client = Client::new(&format!("http://{address}")).unwrap();
        let asked = &client;
        eventually("the server answers", async || asked.health().await.is_ok()).await;
        (process, client)
    }

    /// A server at this address, which may not be ready for a while: `server`, or `dev` with a worker of its own.
    pub(crate) fn server_unready(&mut self, role: &str, address: &str) -> Process {
        let process = self.start(role, &[("TASKER_WEB_BIND_ADDRESS", address)]);
        self.languages.insert(i64::from(process.id()), "rust".to_owned());
        process
    }

    /// A worker, which may not be ready yet.
    pub(crate) fn worker(&mut self, crash_point: Option<&str>) -> Process {
        let settings: Vec<_> = crash_point.map(|point| ("TASKER_CRASH_POINT", point)).into_iter().collect();
        let turn = self.started % (self.others.len() + 1);
        let (language, worker) = match turn.checked_sub(1).map(|other| self.others[other].clone()) {
            Some((language, line)) if crash_point.is_none() => {
                (language, self.launch("worker", Some(&line), &settings))
            }
            _ => ("rust".to_owned(), self.start("worker", &settings)),
        };
        self.languages.insert(i64::from(worker.id()), language);
        worker
    }

    fn start(&mut self, role: &str, settings: &[(&str, &str)]) -> Process {
        self.launch(role, None, settings)
    }

    fn launch(&mut self, role: &str, line: Option<&str>, settings: &[(&str, &str)]) -> Process {
        self.started += 1;
        let log = self.folder.path().join(format!("{role}-{}.log", self.started));
        let shared = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<_> = shared.chain([("DATABASE_URL", self.url.as_str())]).chain(settings.iter().copied()).collect();
        match line {
            Some(line) => Process::run(line, &all, self.folder.path(), &log),
            None => Process::start(role, &all, self.folder.path(), &log),
        }
    }

    /// How many lines of the probes' log hold this text.
    pub(crate) fn noted(&self, text: &str) -> usize {
        self.bodies().lines().filter(|line| line.contains(text)).count()
    }

    /// How many lines of the processes' logs hold this text.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let logs = std::fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.path());
        let logs = logs.filter(|path| path.extension().is_some_and(|end| end == "log"));
        logs.map(|path| std::fs::read_to_string(path).unwrap_or_default().matches(text).count()).sum()
    }

    /// How many accepted attempts the workers of each language made.
    pub(crate) async fn successes(&self) -> BTreeMap<String, i64> {
        let by_process: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT (result ->> 'pid')::bigint, count(*) FROM tasker.attempts WHERE outcome = 'success' GROUP BY 1",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let mut successes = BTreeMap::new();
        for (process, count) in by_process {
            *successes.entry(self.languages[&process].clone()).or_default() += count;
        }
        successes
    }

    /// Counts, on a database that may be away at this moment.
    pub(crate) async fn count(&self, query: &str) -> Option<i64> {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.ok()
    }

    /// Waits until a count has reached `least`.
    pub(crate) async fn until(&self, query: &str, least: i64) {
        eventually(query, async || self.count(query).await.is_some_and(|count| count >= least)).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|end| end == "log") {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n");
                eprintln!("--- {}\n{tail}", entry.file_name().display());
            }
        }
    }
}

/// An address that nobody listens on.
pub(crate) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
