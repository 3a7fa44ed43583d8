//! The arguments of what operators do: repair, and what they look at before.

use clap::{Args, Subcommand, ValueEnum};
use tasker_client::types::{ResolutionStatus, StepActionType};
use uuid::Uuid;

use super::{Page, StepOfTask};

/// A step, and who does what to it why.
#[derive(Args, Debug)]
pub(crate) struct RepairStep {
    #[command(flatten)]
    pub(crate) step: StepOfTask,
    #[command(flatten)]
    pub(crate) account: Account,
}

#[derive(Args, Debug)]
pub(crate) struct CompleteStep {
    #[command(flatten)]
    pub(crate) step: StepOfTask,
    /// The result as JSON, or @FILE, or @- for standard input
    #[arg(long, value_name = "JSON")]
    pub(crate) result: String,
    /// What is to be kept beside it, as JSON, @FILE or @-
    #[arg(long, value_name = "JSON")]
    pub(crate) metadata: Option<String>,
    #[command(flatten)]
    pub(crate) account: Account,
}

/// What is kept in the history with every repair.
#[derive(Args, Debug)]
pub(crate) struct Account {
    /// Why
    #[arg(long)]
    pub(crate) reason: String,
    /// Who does it [default: the user of this terminal]
    #[arg(long, value_name = "NAME", env = "USER", hide_env = true)]
    pub(crate) by: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List entries, newest first
    List {
        /// Only entries whose investigation stands there
        #[arg(long, value_enum)]
        status: Option<Resolution>,
        #[command(flatten)]
        page: Page,
    },
    /// Show the entries of a task with what was known when they were filed
    Get {
        /// The task's id
        task: Uuid,
    },
    /// List pending entries, the most urgent first
    Queue {
        /// At most this many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// List tasks that have passed a bound of their life, and what follows; looking changes nothing
    Stale {
        /// At most this many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Write down what was found out about an entry
    Update {
        /// The entry's id
        entry: Uuid,
        /// What it becomes
        #[arg(long, value_enum)]
        status: Resolution,
        /// What was found
        #[arg(long)]
        notes: String,
        /// Who found it [default: the user of this terminal]
        #[arg(long, value_name = "NAME", env = "USER", hide_env = true)]
        by: String,
    },
    /// File a task by hand, with a snapshot of it
    File {
        /// The task's id
        task: Uuid,
        #[command(flatten)]
        account: Account,
    },
    /// Count entries by reason
    Stats,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AnalyticsCommand {
    /// Show how many tasks ended how, and how long handlers ran
    Performance {
        /// Of tasks that were created within so many hours
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
        hours: u32,
    },
    /// List the steps and templates whose handlers ran longest
    Bottlenecks {
        /// Of tasks that were created within so many hours
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
        hours: u32,
        /// At most this many steps and templates
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
        /// Only those that ran at least this often
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        min_executions: u32,
    },
}

/// What an entry may become.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Resolution {
    /// Nobody has resolved it
    Pending,
    /// Somebody has put it right
    ManuallyResolved,
    /// It can't be put right
    PermanentlyFailed,
    /// It is not looked into any more
    Cancelled,
}

impl From<Resolution> for ResolutionStatus {
    fn from(resolution: Resolution) -> Self {
        match resolution {
            Resolution::Pending => Self::Pending,
            Resolution::ManuallyResolved => Self::ManuallyResolved,
            Resolution::PermanentlyFailed => Self::PermanentlyFailed,
            Resolution::Cancelled => Self::Cancelled,
        }
    }
}

/// One action on every failed step that matches.
#[derive(Args, Debug)]
pub(crate) struct RepairMany {
    /// What is done to each
    #[arg(long, value_enum)]
    pub(crate) action: RepairAction,
    /// Only tasks of this namespace
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    /// Only templates of this name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Only steps of this name
    #[arg(long)]
    pub(crate) step: Option<String>,
    /// Only steps with this handler
    #[arg(long)]
    pub(crate) handler: Option<String>,
    /// Only steps whose last error is of this class
    #[arg(long, value_name = "CLASS")]
    pub(crate) error_type: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) preview: bool,
    /// At most this many steps a second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) per_second: u32,
    /// Why
    #[arg(long, required_unless_present = "preview")]
    pub(crate) reason: Option<String>,
    /// Who does it [default: the user of this terminal]
    #[arg(long, value_name = "NAME", env = "USER", hide_env = true, required_unless_present = "preview")]
    pub(crate) by: Option<String>,
    /// Don't ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// What can be done to many steps.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum RepairAction {
    /// Give them a new budget of attempts and try them
    Reset,
    /// Step over them
    Resolve,
}

impl From<RepairAction> for StepActionType {
    fn from(action: RepairAction) -> Self {
        match action {
            RepairAction::Reset => Self::ResetForRetry,
            RepairAction::Resolve => Self::ResolveManually,
        }
    }
}
