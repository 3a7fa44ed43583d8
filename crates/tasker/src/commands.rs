//! One module for each group of commands.

mod about;
mod analytics;
pub(crate) mod bench;
pub(crate) mod config;
mod db;
mod demo;
mod dlq;
mod drawing;
mod process;
mod resource;
mod system;
mod task;
mod template;

use tasker_client::Client;
use tasker_shared::config::Config;
use tasker_worker::HandlerRegistry;

use crate::cli::{Cli, Command};
use crate::failure::{Failure, Status};
use crate::output::Output;

pub(crate) use process::built_in;

/// Runs the command on a runtime of its own. `handlers` are those of the worker in this process.
pub(crate) fn run(cli: Cli, handlers: HandlerRegistry, output: &Output) -> Result<Status, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no threads can be started: {error}")))?;
    let connect = || connect(cli.global.url.as_deref().filter(|url| !url.is_empty()));
    let configured = || Config::from_process().map_err(Failure::Config);
    match cli.command {
        Command::Dev(arguments) => runtime.block_on(process::dev(&arguments, configured()?, handlers, output)),
        Command::Demo(arguments) => runtime.block_on(demo::run(&arguments, configured()?, output)),
        Command::Server => runtime.block_on(process::server(configured()?, output)),
        Command::Worker(arguments) => runtime.block_on(process::worker(&arguments, configured()?, handlers, output)),
        Command::Bench(arguments) => runtime.block_on(bench::run(&arguments, configured()?, output)),
        Command::Db(command) => runtime.block_on(db::run(&command, &configured()?, output)),
        Command::Task(command) => runtime.block_on(task::run(command, &connect()?, output)),
        Command::Dlq(command) => runtime.block_on(dlq::run(command, &connect()?, output)),
        Command::Resource(command) => runtime.block_on(resource::run(command, &connect()?, output)),
        Command::Analytics(command) => runtime.block_on(analytics::run(command, &connect()?, output)),
        Command::Template(command) => runtime.block_on(template::run(command, connect, output)),
        Command::Config(command) => config::run(&command, output),
        Command::System(command) => runtime.block_on(system::run(command, &connect()?, output)),
        Command::Completions { shell } => about::completions(shell, output),
        Command::Man { out } => about::manual(out.as_deref(), output),
    }
}

/// A client of the server that was named, or else of the configured one.
fn connect(url: Option<&str>) -> Result<Client, Failure> {
    match url {
        Some(url) => Ok(Client::new(url)?),
        None => Ok(Client::new(&Config::from_process().map_err(Failure::Config)?.client.url)?),
    }
}
