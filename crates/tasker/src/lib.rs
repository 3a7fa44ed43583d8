//! The command line of Tasker: arguments in, calls of the other crates, tables or JSON out.
//!
//! Answers go to standard output and nothing else does; progress, questions and errors go to standard error. The exit
//! status is 0 when what was asked for is done, 1 when it failed, 2 when it was asked for wrongly.

mod cli;
mod commands;
mod database;
mod failure;
mod languages;
mod node;
mod output;
mod status;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use tasker_worker::HandlerRegistry;

use crate::cli::{Cli, ConfigValidator};
use crate::failure::{Failure, Status};
use crate::output::Output;

/// Runs `tasker` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    main_with(|_| {})
}

/// The same for a program of your own: `dev` and `worker` run the handlers that `register` adds, beside those of the
/// examples.
///
/// ```no_run
/// use tasker_worker::StepOutcome;
///
/// fn main() -> std::process::ExitCode {
///     tasker::main_with(|registry| {
///         registry.register_fn("hello.Compose", |ctx| async move {
///             let name: String = ctx.get_input("name")?;
///             StepOutcome::success(format!("Hello, {name}!"))
///         });
///     })
/// }
/// ```
///
/// # Panics
/// Where a name is registered twice: one of the two handlers would never run.
#[must_use]
pub fn main_with(register: impl FnOnce(&mut HandlerRegistry)) -> ExitCode {
    main_of(std::env::args_os(), register)
}

/// The same with arguments from elsewhere, the first of which is the program's name.
///
/// # Panics
/// As [`main_with`].
#[must_use]
pub fn main_of(
    arguments: impl IntoIterator<Item: Into<OsString> + Clone>,
    register: impl FnOnce(&mut HandlerRegistry),
) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    let output = Output::new(cli.global.json);
    let mut handlers = commands::built_in(!cli.has_workers_of_its_own());
    register(&mut handlers);
    exit(&output, commands::run(cli, handlers, &output))
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
