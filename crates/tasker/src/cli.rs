//! The arguments, as clap reads them. What a command does is in [`crate::commands`].

mod operate;
mod resource;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tasker_client::GraphFormat;
use tasker_client::types::TaskState;
use uuid::Uuid;

use crate::languages::{Folder, Language};

pub(crate) use operate::{Account, AnalyticsCommand, CompleteStep, DlqCommand, RepairMany, RepairStep};
pub(crate) use resource::{ResourceCommand, Which};

/// Workflows on PostgreSQL: run them, watch them, repair them
#[derive(Debug, Parser)]
#[command(name = "tasker", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Answer with JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The server's address [default: `client.url` of the configuration]
    #[arg(long, global = true, env = "TASKER_ORCHESTRATION_URL")]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in this process, on a private PostgreSQL unless DATABASE_URL names one
    Dev(RunDev),
    /// Run the examples on real input and show what happened
    Demo(RunDemo),
    /// Run a server: the orchestrator and the HTTP API
    Server,
    /// Run a worker with the handlers of this program: the examples, where nothing was added
    Worker(RunWorker),
    /// Measure speed and cost
    Bench(RunBench),
    /// Make, check and reset the schema
    #[command(subcommand)]
    Db(DbCommand),
    /// Create, follow and cancel tasks
    #[command(subcommand)]
    Task(TaskCommand),
    /// Look into what was given up
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// See and change what steps share: limits, breakers, pauses
    #[command(subcommand)]
    Resource(ResourceCommand),
    /// See how tasks went, and what took longest
    #[command(subcommand)]
    Analytics(AnalyticsCommand),
    /// Check, register and show templates
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Check and explain the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// See how a server is
    #[command(subcommand)]
    System(SystemCommand),
    /// Print a completion script
    Completions {
        /// The shell that it is for
        shell: Shell,
    },
    /// Print the manual page
    Man {
        /// Write a page for each command into this folder instead
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

impl Cli {
    /// Whether handlers in other languages take the place of the examples'.
    pub(crate) fn has_workers_of_its_own(&self) -> bool {
        matches!(&self.command, Command::Dev(RunDev { workers, .. }) if !workers.is_empty())
    }
}

#[derive(Args, Debug)]
pub(crate) struct RunDev {
    /// Register the templates of this folder instead of the examples
    #[arg(long, value_name = "DIR")]
    pub(crate) templates: Option<PathBuf>,
    /// Where the private PostgreSQL keeps its data [default: a folder of the user's]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Run a worker for the handlers of a folder, such as python:./shop, instead of the examples; may be repeated
    #[arg(long = "worker", value_name = "LANGUAGE:DIR")]
    pub(crate) workers: Vec<Folder>,
}

#[derive(Args, Debug)]
pub(crate) struct RunDemo {
    /// Where the private PostgreSQL and the input files are kept [default: a folder of the user's]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// With a worker for this language's part of a task in four languages, such as python:./workers/python/examples; all
    /// three of them are needed
    #[arg(long = "worker", value_name = "LANGUAGE:DIR")]
    pub(crate) workers: Vec<Folder>,
}

#[derive(Args, Debug)]
pub(crate) struct RunWorker {
    /// Claim from these namespaces only; may be repeated
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    pub(crate) namespaces: Vec<String>,
    /// Run handlers in this language instead, by its worker package
    #[arg(long, value_enum, requires = "handlers")]
    pub(crate) language: Option<Language>,
    /// Where these handlers are
    #[arg(long, value_name = "DIR", requires = "language")]
    pub(crate) handlers: Option<PathBuf>,
    /// Register the templates of this folder at the server first
    #[arg(long, value_name = "DIR", requires = "language")]
    pub(crate) templates: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RunBench {
    /// The shape of the tasks
    #[arg(long, value_enum, default_value = "linear4")]
    pub(crate) workload: crate::commands::bench::Workload,
    /// How many tasks [default: 200 for latency, 2000 for throughput]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) tasks: Option<u32>,
    /// How many tasks at once, for throughput
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: u32,
    /// One process, or a server and a worker of their own
    #[arg(long, value_enum, default_value = "local")]
    pub(crate) mode: BenchMode,
    /// In queue mode, with a worker in this language, such as python:./workers/python/bench
    #[arg(long = "worker", value_name = "LANGUAGE:DIR")]
    pub(crate) worker: Option<Folder>,
    /// One task after another
    #[arg(long, conflicts_with = "throughput")]
    pub(crate) latency: bool,
    /// Many tasks at once (the default)
    #[arg(long)]
    pub(crate) throughput: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BenchMode {
    /// Server, worker and load in one process
    Local,
    /// A server process, a worker process, and the load over HTTP
    Queue,
    /// Only POST /v1/tasks over HTTP, without a worker
    Post,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Make the schema, PGMQ included
    Setup,
    /// Fail unless the schema is that of this version
    Check,
    /// Bring the schema to this version
    Migrate,
    /// Delete everything and make the schema anew
    Reset {
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Show the schema's version and how many tasks are live
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Create a task
    Create(Box<CreateTask>),
    /// Create many tasks, each on its own; the exit status tells whether all of them are there
    CreateBulk {
        /// One request a line, JSON as POST /v1/tasks takes it; - for standard input
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Show a task with its steps
    Get {
        /// The task's id
        task: Uuid,
    },
    /// List tasks, newest first
    List(Box<ListTasks>),
    /// Cancel a task
    Cancel {
        /// The task's id
        task: Uuid,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Wait until a task is complete, has failed or is blocked; the exit status tells
    Wait {
        /// The task's id
        task: Uuid,
        /// Give up after this long
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        timeout: Option<std::time::Duration>,
    },
    /// Show every transition of a task as it happens, from the first on
    Watch {
        /// The task's id
        task: Uuid,
    },
    /// List the steps of a task
    Steps {
        /// The task's id
        task: Uuid,
    },
    /// Show one step
    Step(StepOfTask),
    /// Say for each step that has not ended well why
    Explain {
        /// The task's id
        task: Uuid,
    },
    /// List every attempt of a step
    StepAudit(StepOfTask),
    /// Give a failed step a new budget of attempts and try it at once
    ResetStep(RepairStep),
    /// Step over a failed step: its children run without its result
    ResolveStep(RepairStep),
    /// Supply the result of a step that is not running
    CompleteStep(CompleteStep),
    /// Reset or resolve every failed step that matches
    Repair(Box<RepairMany>),
    /// List every transition of a task
    History {
        /// The task's id
        task: Uuid,
    },
    /// Draw the graph of a task
    Visualize {
        /// The task's id
        task: Uuid,
        #[command(flatten)]
        drawing: Drawing,
    },
}

#[derive(Args, Debug)]
pub(crate) struct CreateTask {
    /// The template's namespace
    #[arg(long)]
    pub(crate) namespace: String,
    /// The template's name
    #[arg(long)]
    pub(crate) name: String,
    /// The template's version [default: the newest]
    #[arg(long)]
    pub(crate) version: Option<String>,
    /// The input as JSON, or @FILE, or @- for standard input
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) input: String,
    /// Who asks for it
    #[arg(long)]
    pub(crate) initiator: Option<String>,
    /// The program that asks for it
    #[arg(long)]
    pub(crate) source_system: Option<String>,
    /// Why
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// A word to find it by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// From -100 to 100, higher is sooner
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i16).range(-100..=100))]
    pub(crate) priority: i16,
    /// Runs through logs, traces, messages and handlers
    #[arg(long, value_name = "UUID")]
    pub(crate) correlation_id: Option<Uuid>,
    /// The correlation of the work that this is a part of
    #[arg(long, value_name = "UUID")]
    pub(crate) parent_correlation_id: Option<Uuid>,
    /// The same key with the same input gives the same task
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Wait until it is complete, has failed or is blocked
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this long
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "wait")]
    pub(crate) timeout: Option<std::time::Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct ListTasks {
    /// Only this namespace
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    /// Only templates of this name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Only tasks in this state
    #[arg(long, value_name = "STATE")]
    pub(crate) status: Option<TaskState>,
    /// Only tasks that this one asked for
    #[arg(long)]
    pub(crate) initiator: Option<String>,
    /// Only tasks that this program asked for
    #[arg(long)]
    pub(crate) source_system: Option<String>,
    /// Only tasks with this tag
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// Only tasks with this correlation
    #[arg(long, value_name = "UUID")]
    pub(crate) correlation_id: Option<Uuid>,
    /// Only tasks accepted after this time, such as 2030-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) created_after: Option<chrono::DateTime<chrono::Utc>>,
    /// Only tasks accepted before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) created_before: Option<chrono::DateTime<chrono::Utc>>,
    #[command(flatten)]
    pub(crate) page: Page,
}

/// Which part of a list.
#[derive(Args, Debug)]
pub(crate) struct Page {
    /// At most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) limit: u32,
    /// Go on where the last page ended
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct StepOfTask {
    /// The task's id
    pub(crate) task: Uuid,
    /// The step's name or id
    pub(crate) step: String,
}

/// How a graph is drawn.
#[derive(Args, Debug)]
pub(crate) struct Drawing {
    /// How to draw it [default: ascii, with --json: json]
    #[arg(long, value_enum)]
    pub(crate) format: Option<DrawingFormat>,
    /// Write the drawing to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum DrawingFormat {
    /// For the terminal
    Ascii,
    /// Names, states and edges
    Json,
    /// A Mermaid flowchart
    Mermaid,
    /// For Graphviz
    Dot,
    /// An image
    Svg,
}

impl DrawingFormat {
    /// The server's name for it; the terminal's form is drawn here.
    pub(crate) fn for_machines(self) -> Option<GraphFormat> {
        match self {
            Self::Ascii => None,
            Self::Json => Some(GraphFormat::Json),
            Self::Mermaid => Some(GraphFormat::Mermaid),
            Self::Dot => Some(GraphFormat::Dot),
            Self::Svg => Some(GraphFormat::Svg),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List registered templates
    List {
        /// Only this namespace
        #[arg(long)]
        namespace: Option<String>,
        /// Only this name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show a registered template
    Info {
        /// Its namespace
        namespace: String,
        /// Its name
        name: String,
        /// Its version [default: the newest]
        version: Option<String>,
    },
    /// Check template files, without a server
    Validate(TemplateFiles),
    /// Register template files
    Register {
        /// Files, or folders of .yaml and .yml files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Say that a version should not be used any more: no new task takes it unless it names it
    Deprecate {
        /// Its namespace
        namespace: String,
        /// Its name
        name: String,
        /// Its version
        version: String,
        /// Why, and what to use instead
        #[arg(long, required_unless_present = "undo")]
        reason: Option<String>,
        /// Who says so [default: USER]
        #[arg(long, env = "USER", required_unless_present = "undo")]
        by: Option<String>,
        /// Take it back
        #[arg(long, conflicts_with = "reason")]
        undo: bool,
    },
    /// Write stubs of a template's handlers, with types made of its schemas; they run as they are
    Generate {
        /// The file of the template
        file: PathBuf,
        /// In which language
        #[arg(long, value_enum)]
        language: GenerateLanguage,
        /// Apply the overrides of this environment
        #[arg(long, env = "TASKER_ENV")]
        environment: Option<String>,
        /// Into this new file, instead of to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Draw the graph of a template file, without a server
    Visualize {
        /// The file
        file: PathBuf,
        /// Apply the overrides of this environment
        #[arg(long, env = "TASKER_ENV")]
        environment: Option<String>,
        #[command(flatten)]
        drawing: Drawing,
    },
}

/// The languages of handlers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum GenerateLanguage {
    Python,
    Ruby,
    Rust,
    Typescript,
}

#[derive(Args, Debug)]
pub(crate) struct TemplateFiles {
    /// Files, or folders of .yaml and .yml files
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Apply the overrides of this environment
    #[arg(long, env = "TASKER_ENV")]
    pub(crate) environment: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every key with its value and where it came from
    Show(ConfigFiles),
    /// Check the configuration; every error is told with its file and line
    Validate(ConfigFiles),
    /// Say what a key means
    Explain {
        /// The key, such as queue.lease_ms
        key: String,
    },
    /// Print the documentation of every key
    Docs,
}

/// Where the configuration is.
#[derive(Args, Debug)]
pub(crate) struct ConfigFiles {
    /// The environment [default: TASKER_ENV, else development]
    #[arg(long)]
    pub(crate) environment: Option<String>,
    /// The folder that holds base/ and environments/ [default: TASKER_CONFIG_ROOT]
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    pub(crate) root: Option<PathBuf>,
    /// One file instead [default: TASKER_CONFIG_PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// See whether the server and its parts work; the exit status tells
    Health,
    /// Show the versions of this command and of the server
    Info,
    /// List the handlers that live workers have registered
    Handlers {
        /// Only those of this namespace
        #[arg(long)]
        namespace: Option<String>,
    },
}

/// Check a configuration; every error is told with its file and line
#[derive(Debug, Parser)]
#[command(name = "config-validator", version)]
pub(crate) struct ConfigValidator {
    /// Answer with JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) validate: ConfigFiles,
}

fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let refuse = || format!("`{text}` is not a number of seconds, such as 30 or 0.5");
    let seconds: f64 = text.parse().map_err(|_| refuse())?;
    std::time::Duration::try_from_secs_f64(seconds).map_err(|_| refuse())
}
