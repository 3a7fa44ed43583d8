//! The arguments of what operators do to resources.

use clap::{Args, Subcommand};

use super::operate::Account;

#[derive(Debug, Subcommand)]
pub(crate) enum ResourceCommand {
    /// List what steps share, with its limits and breakers
    List {
        /// Only resources of this namespace
        #[arg(long)]
        namespace: Option<String>,
    },
    /// Show one resource
    Get {
        #[command(flatten)]
        which: Which,
    },
    /// Change what a resource bears
    Set {
        #[command(flatten)]
        which: Which,
        /// The most steps that may be enqueued or in progress at once; 0 for any number
        #[arg(long, value_name = "STEPS")]
        max_in_flight: Option<u32>,
        /// So many failures in a row open the breaker; 0 never does
        #[arg(long, value_name = "FAILURES")]
        failures_to_open: Option<u32>,
        /// How long it stays open at first, in milliseconds
        #[arg(long, value_name = "MS")]
        open_ms: Option<u32>,
        /// The longest that it stays open, in milliseconds
        #[arg(long, value_name = "MS")]
        max_open_ms: Option<u32>,
        #[command(flatten)]
        account: Account,
    },
    /// Let no step through until `resume`
    Pause {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        account: Account,
    },
    /// Let steps through again
    Resume {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        account: Account,
    },
    /// Close the breaker by hand
    Close {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        account: Account,
    },
}

/// A resource.
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// Its namespace
    pub(crate) namespace: String,
    /// Its name, as templates write it in `uses`
    pub(crate) name: String,
}
