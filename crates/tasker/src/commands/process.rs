//! `tasker server`, `tasker worker` and `tasker dev`: processes that run until they are told to stop.

mod probe;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::sync::Arc;

use tasker_lifecycle::template;
use tasker_orchestration::Engine;
use tasker_shared::config::{Config, Environment};
use tasker_shared::store::templates::Registered;
use tasker_shared::telemetry;
use tasker_worker::HandlerRegistry;

use crate::cli::{RunDev, RunWorker};
use crate::commands::bench;
use crate::database::Database;
use crate::failure::{Failure, Status};
use crate::languages::{self, Language, Watched};
use crate::node::{Node, interrupted, listen, listen_on};
use crate::output::Output;

/// The handlers that come with the binary: the examples where they are wanted, the one that benchmarks call, and the
/// fault tests' probe where it is asked for.
pub(crate) fn built_in(examples: bool) -> HandlerRegistry {
    let mut registry = HandlerRegistry::new();
    if examples {
        tasker_examples::register(&mut registry);
    }
    bench::register(&mut registry);
    probe::register(&mut registry);
    registry
}

pub(crate) async fn server(config: Config, output: &Output) -> Result<Status, Failure> {
    telemetry::init(&config.telemetry);
    let listener = listen(&config).await?;
    let database = Database::named(&config).await?;
    let config = Arc::new(config);
    let mut node = Node::start(Arc::clone(&config), &database, true, None).await?;
    let engine = node.engine.clone().expect("a server was started");
    if let Some(folder) = &config.templates.path {
        register_folder(&engine, &config, folder).await?;
    }
    let address = node.serve(listener).await?;
    output.line(&format!("server at http://{address} on {}", database.what))?;
    interrupted().await?;
    node.stop().await;
    database.close().await;
    Ok(Status::Done)
}

pub(crate) async fn worker(
    arguments: &RunWorker,
    mut config: Config,
    handlers: HandlerRegistry,
    output: &Output,
) -> Result<Status, Failure> {
    if let (Some(language), Some(handlers)) = (arguments.language, &arguments.handlers) {
        return Err(become_worker(language, handlers, arguments, &config));
    }
    telemetry::init(&config.telemetry);
    if !arguments.namespaces.is_empty() {
        config.worker.namespaces = Some(arguments.namespaces.clone());
    }
    let listener = match config.worker.status_address {
        Some(address) => Some(listen_on(address, "worker.status_address").await?),
        None => None,
    };
    let database = Database::named(&config).await?;
    let config = Arc::new(config);
    let mut node = Node::start(Arc::clone(&config), &database, false, Some(handlers)).await?;
    output.line(&format!("worker {} on {}", config.worker.id, database.what))?;
    if let Some(listener) = listener {
        output.line(&format!("  status   http://{}", node.serve_status(listener).await?))?;
    }
    interrupted().await?;
    node.stop().await;
    database.close().await;
    Ok(Status::Done)
}

/// Takes the place of this process; comes back where it can't.
fn become_worker(language: Language, handlers: &Path, arguments: &RunWorker, config: &Config) -> Failure {
    let folder = handlers.canonicalize().unwrap_or_else(|_| handlers.to_path_buf());
    let mut command = languages::command(language, config, &folder, handlers, arguments.templates.as_deref());
    for namespace in &arguments.namespaces {
        command.args(["--namespace", namespace]);
    }
    let error = command.exec();
    languages::not_started(language, &command, &error)
}

pub(crate) async fn dev(
    arguments: &RunDev,
    config: Config,
    handlers: HandlerRegistry,
    output: &Output,
) -> Result<Status, Failure> {
    telemetry::init(&config.telemetry);
    let listener = listen(&config).await?;
    let database = Database::open(&config, arguments.data_dir.clone()).await?;
    let config = Arc::new(config);
    let mut node = Node::start(Arc::clone(&config), &database, true, Some(handlers)).await?;
    let engine = node.engine.clone().expect("a server was started");
    let folder = arguments.templates.as_deref().or(config.templates.path.as_deref());
    let first_try = match folder {
        Some(folder) => {
            register_folder(&engine, &config, folder).await?;
            "tasker template list"
        }
        None if !arguments.workers.is_empty() => "tasker template list",
        None => {
            register_examples(&engine).await?;
            "tasker task create --namespace examples --name linear --input '{\"number\": 6}' --wait"
        }
    };
    node.find_queues().await?;
    let address = node.serve(listener).await?;
    output.line(&format!("Tasker runs on {}", database.what))?;
    output.line(&format!("  DATABASE_URL={}", database.url))?;
    output.line(&format!("  API      http://{address}/v1"))?;
    output.line(&format!("  docs     http://{address}/api-docs/ui"))?;
    output.line(&format!("  try      {first_try}"))?;
    let leads = [("DATABASE_URL", database.url.clone()), ("TASKER_ORCHESTRATION_URL", format!("http://{address}"))];
    let workers = Watched::start(&arguments.workers, &config, &leads, true)?;
    output.line("Ctrl-C stops it.")?;
    interrupted().await?;
    workers.stop().await;
    node.stop().await;
    database.close().await;
    Ok(Status::Done)
}

/// Registers the example templates.
pub(crate) async fn register_examples(engine: &Engine) -> Result<(), Failure> {
    for (name, yaml) in tasker_examples::templates() {
        register(engine, name, yaml, None, true).await?;
    }
    Ok(())
}

/// Registers every `.yaml` and `.yml` file of a folder; each that is refused says why, and then none of the
/// processes that need them starts.
async fn register_folder(engine: &Engine, config: &Config, folder: &Path) -> Result<(), Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| Failure::file(folder, error))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "yaml" || end == "yml"));
    files.sort();
    if files.is_empty() {
        return Err(Failure::Failed(format!("{} holds no .yaml file", folder.display())));
    }
    let replace = config.environment != Environment::Production;
    for file in files {
        let yaml = std::fs::read_to_string(&file).map_err(|error| Failure::file(&file, error))?;
        register(engine, &file.display().to_string(), &yaml, Some(config.environment.name()), replace).await?;
    }
    Ok(())
}

pub(crate) async fn register(
    engine: &Engine,
    what: &str,
    yaml: &str,
    environment: Option<&str>,
    replace: bool,
) -> Result<(), Failure> {
    let refused = |problems: Vec<template::Problem>| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
        Failure::Failed(format!("{what} is refused:\n{}", lines.join("\n")))
    };
    let (template, warnings) = template::parse(yaml, environment).map_err(refused)?;
    for warning in warnings {
        tracing::warn!(template = what, path = warning.path, "{}", warning.message);
    }
    let broken = tasker_orchestration::schema_problems(&template);
    if !broken.is_empty() {
        return Err(refused(broken));
    }
    match engine.register(template, replace).await {
        Ok(Registered::Conflict) => {
            let remedy = "give the changed template a new version";
            Err(Failure::Failed(format!("{what}: this version is registered with other content; {remedy}")))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Failed(format!("{what}: {error}"))),
    }
}
