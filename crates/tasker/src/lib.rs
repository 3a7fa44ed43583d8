//! The command line of Tasker: arguments in, calls of the other crates, tables or JSON out.
//!
//! Answers go to standard output and nothing else does; progress, questions and errors go to standard error. The exit
//! status is 0 when what was asked for is done, 1 when it failed, 2 when it was asked for wrongly.

mod cli;
mod commands;
mod database;
mod failure;
mod node;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, ConfigValidator};
use crate::failure::{Failure, Status};
use crate::output::Output;

/// Runs `tasker` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.global.json);
    exit(&output, commands::run(cli, &output))
}

/// Runs `config-validator` with the arguments of this process.
#[must_use]
pub fn config_validator() -> ExitCode {
    let arguments = ConfigValidator::parse();
    let output = Output::new(arguments.json);
    exit(&output, commands::config::validate(&arguments.validate, &output))
}

fn exit(output: &Output, result: Result<Status, Failure>) -> ExitCode {
    match result {
        Ok(status) => status.into(),
        Err(failure) => failure.report(output),
    }
}
