//! Configuration: read raw from files and variables, checked as a whole, resolved once into [`Config`].
//!
//! Deliberately absent: reloading, and a lookup by name at run time. What runs reads plain fields.

mod check;
mod docs;
mod error;
pub mod keys;
mod raw;
mod secret;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use pgmq_notify::Mode;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use docs::{docs, explain};
pub use error::{Error, Errors, Source};
pub use secret::Secret;

use raw::Layers;
use value::Values;

/// Looks an environment variable up. An argument, so that tests and the command line can add to the real ones.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The resolved configuration. A field `a.b` is the key `a.b`; [`keys::KEYS`] says what each is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of keys documents each field, and a test ties the two together")]
pub struct Config {
    /// Which of the three environments this is (`TASKER_ENV`).
    pub environment: Environment,
    pub deployment_mode: Mode,
    pub database: Database,
    pub queue: Queue,
    pub limits: Limits,
    pub client: Client,
    pub telemetry: Telemetry,
    pub actor: Actor,
    pub cache: Cache,
    pub sweep: Sweep,
    pub stop: Stop,
    pub web: Web,
    pub templates: Templates,
    pub worker: Worker,
    #[serde(skip)]
    sources: BTreeMap<&'static str, Source>,
}

/// Where a deployment stands; it chooses the folder of overrides and how strict some checks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Automatic tests: intervals may be very short.
    Test,
    /// Somebody's machine.
    Development,
    /// Real work: durability can't be switched off.
    Production,
}

impl Environment {
    /// The value of `TASKER_ENV` and the name of the folder.
    pub fn name(self) -> &'static str {
        match self {
            Environment::Test => "test",
            Environment::Development => "development",
            Environment::Production => "production",
        }
    }

    fn from_variable(env: Lookup<'_>) -> Result<Self, Errors> {
        let name = raw::set(env, "TASKER_ENV").unwrap_or_else(|| "development".to_owned());
        let all = [Environment::Test, Environment::Development, Environment::Production];
        all.into_iter().find(|environment| environment.name() == name).ok_or_else(|| {
            let what = format!("must be one of test, development, production, not {name:?}");
            Errors(vec![Error::new(Source::Variable("TASKER_ENV".to_owned()), what)])
        })
    }
}

macro_rules! sections {
    ($($(#[$doc:meta])* $section:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "the table of keys documents each field, and a test ties the two together")]
        pub struct $section { $(pub $field: $type),* }
    )*};
}

sections! {
    /// `database.*`: the way to PostgreSQL.
    Database {
        url: Option<Secret>, pgmq_url: Option<Secret>, max_connections: u32, acquire_timeout_ms: u64,
        statement_timeout_ms: u64,
    }
    /// `queue.*`: polling and leases.
    Queue { poll_min_ms: u64, poll_max_ms: u64, lease_ms: u64, max_lease_ms: u64 }
    /// `limits.*`: what input may be like.
    Limits { payload_bytes: usize, json_depth: usize }
    /// `client.*`: where clients find the server.
    Client { url: String }
    /// `telemetry.*`: log lines.
    Telemetry { log_format: LogFormat, log: String }
    /// `actor.*`: lanes, batches and inboxes of the server.
    Actor { lanes: usize, batch_max: usize, inbox: usize, request_batch_max: usize, request_inbox: usize }
    /// `cache.*`: snapshots in memory.
    Cache { snapshot_bytes: usize }
    /// `sweep.*`: the search for due work.
    Sweep { interval_ms: u64, due_batch: usize }
    /// `stop.*`: how the server stops.
    Stop { drain_ms: u64 }
    /// `web.*`: the HTTP API.
    Web {
        bind_address: SocketAddr, body_bytes: usize, header_timeout_ms: u64, request_timeout_ms: u64,
        max_in_flight: usize, allow_unauthenticated_public: bool,
    }
    /// `templates.*`: templates registered at start.
    Templates { path: Option<PathBuf> }
    /// `worker.*`: claiming, running and reporting.
    Worker {
        id: String, concurrency: usize, claim_batch: usize, report_batch_max: usize, report_inbox: usize,
        heartbeat_ms: u64, stop_grace_ms: u64, namespaces: Option<Vec<String>>, pools: Vec<String>,
        status_address: Option<SocketAddr>, python_command: Option<String>, ruby_command: Option<String>,
        typescript_command: Option<String>, unregistered_delay_ms: u64, aging_ms: u64,
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// One line of `tasker config show`.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The key.
    pub name: &'static str,
    /// Its value, secrets redacted; null where there is none.
    pub value: serde_json::Value,
    /// Where the value came from.
    pub source: Source,
}

impl Config {
    /// Reads the configuration of this process: its environment variables and the files they name.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_process() -> Result<Self, Errors> {
        // Lossy, so that a variable that is not UTF-8 is refused as a value instead of passed over.
        let names: Vec<String> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
        Self::load(&|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()), &names)
    }

    /// Reads the configuration with these variables. `names` lists the variables there are: a `TASKER__` name
    /// among them that belongs to no key is an error, and a lookup alone can't find it.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(env: Lookup<'_>, names: &[String]) -> Result<Self, Errors> {
        let environment = Environment::from_variable(env)?;
        let mut layers = Layers::read(environment, env, names);
        let values = Values::parse(&mut layers, environment, env);
        if !layers.incomplete {
            layers.errors.extend(check::inconsistent(&values));
        }
        layers.errors.extend(check::dangerous(&values, environment));
        if layers.errors.is_empty() { Ok(resolve(environment, &values)) } else { Err(Errors(layers.errors)) }
    }

    /// The configuration as JSON with every secret replaced, for `/config` and `tasker config show --json`.
    pub fn redacted(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("plain structs with string keys serialize")
    }

    /// Every key with its value and where that came from, in the order of the documentation.
    pub fn sources(&self) -> Vec<Setting> {
        let all = self.redacted();
        let setting = |key: &keys::Key| Setting {
            name: key.name,
            value: all.pointer(&format!("/{}", key.name.replace('.', "/"))).cloned().unwrap_or_default(),
            source: self.sources.get(key.name).cloned().unwrap_or(Source::Default),
        };
        keys::KEYS.iter().map(setting).collect()
    }
}

impl Default for Config {
    /// The built-in defaults, without files and variables, for the development environment.
    fn default() -> Self {
        let mut layers = Layers::default();
        layers.read_defaults();
        let values = Values::parse(&mut layers, Environment::Development, &|_| None);
        resolve(Environment::Development, &values)
    }
}

/// Turns the values into fields. Keys and fields have the same names, so the two can't drift apart unseen: a
/// key without a field, or a field without a key, fails in every test that takes the defaults.
fn resolve(environment: Environment, values: &Values) -> Config {
    let mut tree = values.tree();
    tree.insert("environment".to_owned(), json!(environment));
    // The one section whose only key has no default.
    tree.entry("templates").or_insert_with(|| json!({}));
    let worker = &mut tree["worker"];
    if worker.get("id").is_none() {
        worker["id"] = random_worker_id().into();
    }
    let config = serde_json::from_value(tree.into()).expect("every key has a field of its kind");
    Config { sources: values.sources(), ..config }
}

/// Host and process say where to look; the random part tells a restarted container from the one before it,
/// which often has the same host name and process id.
fn random_worker_id() -> String {
    let host = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(64).collect();
    let host = if host.is_empty() { "host" } else { &host };
    format!("{host}-{}-{:08x}", std::process::id(), rand::random::<u32>())
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
