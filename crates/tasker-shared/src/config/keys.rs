//! The one table of configuration keys. Parsing, defaults, `explain`, the documentation page and the
//! suggestions for misspelt keys all come from it; a key that is not here does not exist.

use std::fmt;

use super::Environment;
use Preset::{Absent, Value};
use Role::{Common, Orchestration, Worker};

/// The file of a configuration folder that a key belongs in. Every key has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `common.toml`: what every process reads.
    Common,
    /// `orchestration.toml`: what the server reads.
    Orchestration,
    /// `worker.toml`: what workers read.
    Worker,
}

impl Role {
    /// All roles, in the order their files are read.
    pub const ALL: [Role; 3] = [Common, Orchestration, Worker];

    /// The file's name inside `base/` and `environments/<name>/`.
    pub fn file_name(self) -> &'static str {
        match self {
            Common => "common.toml",
            Orchestration => "orchestration.toml",
            Worker => "worker.toml",
        }
    }
}

/// The integers a key takes, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Smallest value.
    pub min: u64,
    /// Largest value.
    pub max: u64,
    /// Smallest value in the test environment, where waiting for a real lease would make tests slow.
    pub min_in_test: u64,
}

impl Range {
    /// The smallest value in this environment.
    pub fn min_in(&self, environment: Environment) -> u64 {
        match environment {
            Environment::Test => self.min_in_test,
            Environment::Development | Environment::Production => self.min,
        }
    }
}

/// What kind of value a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A whole number.
    Integer(Range),
    /// true or false.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Names, each of which obeys `rule`; in an environment variable they are separated by commas.
    Names {
        /// The rule in words.
        rule: &'static str,
        /// The rule.
        holds: fn(&str) -> bool,
    },
    /// Printable text of at most 128 bytes.
    Text,
    /// A path in the file system.
    Path,
    /// An IP address with a port.
    Address,
    /// An http:// or https:// URL without credentials.
    HttpUrl,
    /// A postgres:// URL. Its value is a secret.
    DatabaseUrl,
    /// A filter as `tracing_subscriber::EnvFilter` reads it.
    LogFilter,
}

/// The value of a key that nobody sets.
#[derive(Debug, Clone, Copy)]
pub enum Preset {
    /// This value, written as in an environment variable.
    Value(&'static str),
    /// No value; what happens then, in words.
    Absent(&'static str),
}

/// One configuration key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Path in the TOML files and in [`super::Config`], e.g. `queue.lease_ms`.
    pub name: &'static str,
    /// The file it belongs in.
    pub role: Role,
    /// An environment variable of its own, beside `TASKER__SECTION__KEY`.
    pub variable: Option<&'static str>,
    /// What it takes, with its range.
    pub kind: Kind,
    /// Unit of the value; empty when it has none.
    pub unit: &'static str,
    /// The built-in default.
    pub default: Preset,
    /// Why the key exists, why this default, and what moves when it is changed.
    pub reason: &'static str,
}

impl Key {
    /// The variable that sets this key in any deployment, e.g. `TASKER__QUEUE__LEASE_MS`.
    pub fn override_variable(&self) -> String {
        format!("TASKER__{}", self.name.to_uppercase().replace('.', "__"))
    }

    /// Whether the value must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::DatabaseUrl)
    }

    const fn variable(mut self, name: &'static str) -> Self {
        self.variable = Some(name);
        self
    }
}

impl fmt::Display for Kind {
    /// What is expected, as errors and the documentation say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Integer(range) => {
                write!(f, "an integer from {} to {}", range.min, range.max)?;
                if range.min_in_test < range.min {
                    write!(f, " (in the test environment from {})", range.min_in_test)?;
                }
                Ok(())
            }
            Kind::Flag => f.write_str("true or false"),
            Kind::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Kind::Names { rule, .. } => write!(f, "a list of one or more names, {rule}"),
            Kind::Text => f.write_str("1 to 128 bytes of printable text"),
            Kind::Path => f.write_str("a path"),
            Kind::Address => f.write_str("an IP address and port such as 127.0.0.1:8080"),
            Kind::HttpUrl => f.write_str("an http:// or https:// URL without credentials"),
            Kind::DatabaseUrl => f.write_str("a URL such as postgres://user:password@host:5432/database"),
            Kind::LogFilter => f.write_str("a log filter such as info or info,tasker_worker=debug"),
        }
    }
}

const fn key(
    role: Role,
    name: &'static str,
    kind: Kind,
    default: Preset,
    unit: &'static str,
    reason: &'static str,
) -> Key {
    Key { name, role, variable: None, kind, unit, default, reason }
}

const fn int(min: u64, max: u64) -> Kind {
    Kind::Integer(Range { min, max, min_in_test: min })
}

/// An interval that tests may shorten below what production allows.
const fn int_lower_in_test(min: u64, max: u64, min_in_test: u64) -> Kind {
    Kind::Integer(Range { min, max, min_in_test })
}

fn is_namespace(name: &str) -> bool {
    (1..=29).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn is_pool(name: &str) -> bool {
    (1..=12).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

const HOUR_MS: u64 = 3_600_000;
const MIB: u64 = 1 << 20;

/// All keys, in the order of the documentation.
pub static KEYS: &[Key] = &[
    key(Common, "deployment_mode", Kind::Choice(&["PollingOnly", "EventDrivenOnly", "Hybrid"]), Value("Hybrid"), "",
        "How a process learns that a queue has work. Hybrid is woken by LISTEN/NOTIFY and polls as well, so a lost notification costs at most queue.poll_max_ms. PollingOnly is for connection poolers that do not pass LISTEN on. EventDrivenOnly spares an idle database the polls."),
    key(Common, "database.url", Kind::DatabaseUrl, Absent("commands that can start a PostgreSQL of their own do so, the others refuse to start"), "",
        "The PostgreSQL that holds all state.").variable("DATABASE_URL"),
    key(Common, "database.pgmq_url", Kind::DatabaseUrl, Absent("database.url is used"), "",
        "Another way to the same database, e.g. the direct URL beside a connection pooler that does not pass LISTEN on. It must reach the same database, because a message and the state it speaks of are written in one transaction.").variable("PGMQ_DATABASE_URL"),
    key(Common, "database.max_connections", int(2, 1_000), Value("16"), "connections",
        "Connections one process may hold. Work is done in batches, so a few connections carry much; more of them mostly means more lock waits. All processes together must stay below the server's max_connections."),
    key(Common, "database.acquire_timeout_ms", int(10, HOUR_MS), Value("5000"), "ms",
        "How long to wait for a free connection. A pool that is exhausted for seconds is overloaded: it is better to say so than to queue requests whose callers have gone."),
    key(Common, "database.statement_timeout_ms", int(100, HOUR_MS), Value("30000"), "ms",
        "PostgreSQL cancels a statement that runs longer. No statement of a normal life takes a second; the limit keeps one that waits for a lock from holding up a lane for ever."),
    key(Common, "queue.poll_min_ms", int(1, 60_000), Value("50"), "ms",
        "First pause after a poll that found nothing; it doubles up to queue.poll_max_ms. It bounds the latency of a busy queue in PollingOnly."),
    key(Common, "queue.poll_max_ms", int(1, 600_000), Value("5000"), "ms",
        "Longest pause between two polls of an idle queue: what a lost notification costs at most, against the load of idle processes."),
    key(Common, "queue.lease_ms", int_lower_in_test(2_000, HOUR_MS, 50), Value("30000"), "ms",
        "How long a claimed ticket stays hidden. A dead worker's steps start again after this time; a worker that stands still for longer loses its claims. Heartbeats extend it, so it need not cover a handler's run time."),
    key(Common, "queue.max_lease_ms", int_lower_in_test(2_000, 24 * HOUR_MS, 50), Value("3600000"), "ms",
        "A lease that ends further away than this counts as expired: it comes from a clock that jumped, and the step would otherwise hang until the clock catches up."),
    key(Common, "limits.payload_bytes", int(1_024, 64 * MIB), Value("1048576"), "bytes",
        "Largest context of a task and largest result of a step. Larger data belongs in a store of its own, with a reference to it in the result: payloads pass through every batch they are part of."),
    key(Common, "limits.json_depth", int(4, 512), Value("64"), "levels",
        "Deepest nesting of a payload. Parsers recurse, so unbounded depth is a way to crash every process that reads the row."),
    key(Common, "client.url", Kind::HttpUrl, Value("http://127.0.0.1:8080"), "",
        "Where clients and the command line find the server's HTTP API.").variable("TASKER_ORCHESTRATION_URL"),
    key(Common, "telemetry.log_format", Kind::Choice(&["text", "json"]), Value("text"), "",
        "Log lines for people or one JSON object a line for collectors."),
    key(Common, "telemetry.log", Kind::LogFilter, Value("info"), "",
        "Which log lines are written, as a level or per target. Nothing is logged per step at info.").variable("RUST_LOG"),
    key(Orchestration, "actor.lanes", int(1, 64), Value("2"), "lanes",
        "Parallel lanes of the result actor; each holds a connection while it commits, and a task always falls in the same lane. Two keep one gathering while the other commits; more help where the commit latency is high."),
    key(Orchestration, "actor.batch_max", int(1, 10_000), Value("500"), "results",
        "Most results handled in one transaction. It bounds how long rows stay locked and what a rollback repeats. A message of the result queue, which tells of up to eight, is handled whole."),
    key(Orchestration, "actor.inbox", int(1, 1_000_000), Value("1024"), "results",
        "Results waiting for a lane. A full inbox makes senders wait, so memory stays bounded under overload."),
    key(Orchestration, "actor.request_batch_max", int(1, 10_000), Value("200"), "tasks",
        "Most tasks created in one transaction. Creating writes more per item than a result does, hence the smaller number."),
    key(Orchestration, "actor.request_inbox", int(1, 1_000_000), Value("1024"), "tasks",
        "Task requests waiting to be created. When it is full the server sheds load before it touches the database."),
    key(Orchestration, "cache.snapshot_bytes", int(0, 64 * 1_024 * MIB), Value("134217728"), "bytes",
        "Memory for snapshots of live tasks. A hit saves loading the task; 0 switches the cache off, and nothing but speed depends on it."),
    key(Orchestration, "sweep.interval_ms", int_lower_in_test(100, HOUR_MS, 10), Value("5000"), "ms",
        "Pause between two sweeps for due retries and undecided attempts. Every sweep costs a few indexed reads per server."),
    key(Orchestration, "sweep.due_batch", int(1, 100_000), Value("1000"), "rows",
        "Due rows taken up in one transaction; a sweep that finds a full batch goes on at once."),
    key(Orchestration, "stop.drain_ms", int(0, HOUR_MS), Value("10000"), "ms",
        "How long a server that is told to stop finishes what it has accepted. It should lie below the time your supervisor waits before it kills."),
    key(Orchestration, "web.bind_address", Kind::Address, Value("127.0.0.1:8080"), "",
        "Where the HTTP API listens. Port 0 takes a free one.").variable("TASKER_WEB_BIND_ADDRESS"),
    key(Orchestration, "web.body_bytes", int(1_024, 256 * MIB), Value("1048576"), "bytes",
        "Largest request body; a larger one is refused before it is read."),
    key(Orchestration, "web.header_timeout_ms", int(100, 600_000), Value("10000"), "ms",
        "How long a client may take to send its request headers. It ends connections that are held open to use up sockets."),
    key(Orchestration, "web.request_timeout_ms", int(100, HOUR_MS), Value("35000"), "ms",
        "How long a request may take. The default lies above a long poll of 30 s and above database.statement_timeout_ms."),
    key(Orchestration, "web.max_in_flight", int(1, 1_000_000), Value("1024"), "requests",
        "Requests served at the same time; one more is answered with 503 and Retry-After before it costs database work."),
    key(Orchestration, "web.allow_unauthenticated_public", Kind::Flag, Value("false"), "",
        "The HTTP API has no authentication: whoever reaches it may create and cancel tasks. It is therefore bound to loopback unless this is true."),
    key(Orchestration, "templates.path", Kind::Path, Absent("templates are registered over HTTP only"), "",
        "Folder whose template files are registered when the server starts.").variable("TASKER_TEMPLATE_PATH"),
    key(Worker, "worker.id", Kind::Text, Absent("host name, process id and a random part"), "",
        "Name of the worker in attempts and logs. Two live workers may share it: claims are told apart by their tokens.").variable("TASKER_WORKER_ID"),
    key(Worker, "worker.concurrency", int(1, 100_000), Value("64"), "steps",
        "Handlers running at the same time. Raise it for handlers that wait for others, lower it to the number of cores for handlers that compute."),
    key(Worker, "worker.claim_batch", int(1, 10_000), Value("64"), "tickets",
        "Most tickets claimed in one statement, and never more than there are free slots."),
    key(Worker, "worker.report_batch_max", int(1, 10_000), Value("500"), "reports",
        "Most outcomes reported in one transaction."),
    key(Worker, "worker.report_inbox", int(1, 1_000_000), Value("1024"), "reports",
        "Outcomes waiting to be reported. When it is full handlers keep their slots, so a slow database slows claiming down."),
    key(Worker, "worker.heartbeat_ms", int_lower_in_test(100, HOUR_MS, 10), Value("5000"), "ms",
        "Pause between two extensions of the leases held. At most half of queue.lease_ms, so that one may be lost."),
    key(Worker, "worker.stop_grace_ms", int(0, HOUR_MS), Value("10000"), "ms",
        "How long a worker that is told to stop lets handlers finish; what still runs then starts again elsewhere when its lease ends."),
    key(Worker, "worker.namespaces", Kind::Names { rule: "each 1 to 29 of a-z, 0-9 and _", holds: is_namespace }, Absent("every namespace whose templates name a handler of this worker"), "",
        "The namespaces this worker takes steps from."),
    key(Worker, "worker.pools", Kind::Names { rule: "each 1 to 12 of a-z and 0-9", holds: is_pool }, Value("default"), "",
        "The pools this worker takes steps from. Pools part the steps of one namespace among workers, e.g. by language or hardware."),
    key(Worker, "worker.status_address", Kind::Address, Absent("nothing is served"), "",
        "Where a worker of the tasker command in a process of its own answers /health/live, /health/ready and /metrics. A server has them in its API; workers of other languages serve nothing."),
    key(Worker, "worker.python_command", Kind::Text, Absent("`python -m tasker_core worker` of the project's or the active environment"), "",
        "How the command line starts a worker in Python: words without a shell, to which `--handlers DIR` is added."),
    key(Worker, "worker.ruby_command", Kind::Text, Absent("`tasker-worker-ruby`, by bundler where there is a Gemfile"), "",
        "The same for Ruby."),
    key(Worker, "worker.typescript_command", Kind::Text, Absent("`tasker-worker` of the nearest node_modules"), "",
        "The same for TypeScript."),
    key(Worker, "worker.unregistered_delay_ms", int_lower_in_test(100, HOUR_MS, 10), Value("5000"), "ms",
        "How long at most a step whose handler this worker does not have is given back for: 50 ms at first, twice as long with every round. It bounds how often such a ticket makes the round where no worker has the handler. Pools spare the round."),
    key(Worker, "worker.aging_ms", int_lower_in_test(1_000, 24 * HOUR_MS, 1), Value("60000"), "ms",
        "How long a ticket waits until it counts as one of the next higher priority, and twice as long for the one above. Lower it where work of low priority has to end in time; raise it where work of high priority must not be held up by the rest."),
];

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key name or section most like `name`, if one is like it at all.
pub fn suggest(name: &str) -> Option<&'static str> {
    let sections = KEYS.iter().filter_map(|key| key.name.split_once('.').map(|(section, _)| section));
    let near = KEYS
        .iter()
        .map(|key| key.name)
        .chain(sections)
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    if near.0 <= (name.len() / 3).max(2) {
        return Some(near.1);
    }
    // A right key in a wrong section is far away by edit distance, yet the last part says what was meant.
    let last = name.rsplit('.').next()?;
    KEYS.iter().map(|key| key.name).find(|candidate| candidate.rsplit('.').next() == Some(last))
}
