//! The arguments of what operators do: repair, and what they look at before.

use clap::Args;

use super::StepOfTask;

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
