//! `tasker bench`: the load generator. It prints what a run took beside what it cost.

mod figures;
mod meter;
mod processes;
mod run;
mod workload;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tasker_client::Client;
use tasker_lifecycle::template;
use tasker_shared::config::Config;
use tasker_shared::embedded::{Options, default_data_dir};
use tasker_shared::store::measure::{self, Counters, Ran};
use tasker_worker::{HandlerRegistry, StepContext, StepOutcome};

use self::figures::{Cpu, Figures, Quantiles, round};
use self::processes::Processes;
use self::run::{Drive, Target};
pub(crate) use self::workload::Workload;
use crate::cli::{BenchMode, RunBench};
use crate::database::Database;
use crate::failure::{Failure, Status};
use crate::node::Node;
use crate::output::Output;

/// Tasks that run before the measured ones: connections, plans and caches are warm then.
const WARM_UP: usize = 64;

pub(crate) async fn run(arguments: &RunBench, config: Config, output: &Output) -> Result<Status, Failure> {
    if arguments.worker.is_some() && arguments.mode != BenchMode::Queue {
        return Err(Failure::Usage(
            "--worker is for --mode queue: in the others the worker is this program".to_owned(),
        ));
    }
    let database = open(&config).await?;
    let figures = measured(arguments, &config, &database).await;
    database.close().await;
    let figures = figures?;
    output.value(&figures, |figures| serde_json::to_string_pretty(figures).expect("figures always encode"))?;
    Ok(Status::Done)
}

/// The handler of every step of every workload.
pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn(workload::HANDLER, |_: StepContext| async { StepOutcome::success(json!({"ok": true})) });
}

/// The named database, or a private server that counts statements where it can.
async fn open(config: &Config) -> Result<Database, Failure> {
    if config.database.url.is_some() {
        return Database::open(config, None).await;
    }
    let mut options = Options::new(default_data_dir().with_file_name("bench"));
    options.settings.push(("shared_preload_libraries".to_owned(), "pg_stat_statements".to_owned()));
    match Database::scratch(config, options.clone()).await {
        Ok(database) => Ok(database),
        // The library is not part of every installation.
        Err(_) => {
            options.settings.clear();
            Database::scratch(config, options).await
        }
    }
}

async fn measured(arguments: &RunBench, config: &Config, database: &Database) -> Result<Figures, Failure> {
    let workload = arguments.workload;
    let (template, _) = template::parse(&workload.template(), None)
        .map_err(|problems| Failure::Failed(format!("the workload's template: {}", problems[0])))?;
    match arguments.mode {
        BenchMode::Local => {
            let mut registry = HandlerRegistry::new();
            register(&mut registry);
            let mut config = config.clone();
            config.worker.namespaces = Some(vec![workload::NAMESPACE.to_owned()]);
            let node = Node::start(Arc::new(config), database, true, Some(registry)).await?;
            let engine = node.engine.clone().expect("a node with a server has an engine");
            let registered = engine.register(template, true).await;
            registered.map_err(|error| Failure::Failed(error.to_string()))?;
            node.find_queues().await?;
            let figures = figures(arguments, database, &Target::Local(engine), None).await;
            node.stop().await;
            figures
        }
        BenchMode::Queue | BenchMode::Post => {
            let worker = arguments.mode == BenchMode::Queue;
            let started = Processes::start(&database.url, template, worker, arguments.worker.as_ref());
            let (processes, mut children) = started.await?;
            let client = Client::new(&processes.address)?;
            let target = if worker { Target::Http(client) } else { Target::Post(client) };
            let figures = tokio::select! {
                figures = figures(arguments, database, &target, Some(&processes)) => figures,
                ended = children.ended() => Err(ended),
            };
            children.stop().await;
            figures
        }
    }
}

async fn figures(
    arguments: &RunBench,
    database: &Database,
    target: &Target,
    processes: Option<&Processes>,
) -> Result<Figures, Failure> {
    let workload = arguments.workload;
    let tasks = arguments.tasks.map_or(if arguments.latency { 200 } else { 2_000 }, |tasks| tasks as usize);
    let concurrency = if arguments.latency { 1 } else { arguments.concurrency as usize };
    let mut conn = database.pool.acquire().await.map_err(failed)?;
    measure::count_statements(&mut conn).await;
    run::drive(target, workload, WARM_UP.min(tasks), concurrency).await?;
    let before = Reading::take(&mut conn, processes).await?;
    let drive = run::drive(target, workload, tasks, concurrency).await?;
    let after = Reading::take(&mut conn, processes).await?;
    let ran = measure::ran(&mut conn, workload::NAMESPACE).await.map_err(failed)?;
    let engine = engine_ms(workload, &ran, tasks);
    let per_task = if arguments.mode == BenchMode::Post { 0 } else { workload.parents().len() };
    Ok(told(arguments, tasks, tasks * per_task, concurrency, &drive, engine, &before.until(&after)))
}

/// Before and after, of everything that only grows.
#[derive(Debug, Clone, Copy)]
struct Reading {
    counters: Counters,
    postgres: Option<f64>,
    server: f64,
    worker: f64,
    rss_mb: f64,
}

impl Reading {
    async fn take(conn: &mut sqlx::PgConnection, processes: Option<&Processes>) -> Result<Self, Failure> {
        let own = std::process::id();
        let server = processes.map_or(own, |processes| processes.server);
        let worker = processes.and_then(|processes| processes.worker);
        // CPU first: the wait for the database's statistics is not part of the run.
        let postgres = {
            let counters = measure::counters(conn).await.map_err(failed)?;
            meter::postgres_cpu_s(counters.backend)
        };
        let (server_cpu, worker_cpu) = (meter::cpu_s(server), worker.and_then(meter::cpu_s));
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        Ok(Self {
            counters: measure::counters(conn).await.map_err(failed)?,
            postgres,
            server: server_cpu.unwrap_or_default(),
            worker: worker_cpu.unwrap_or_default(),
            rss_mb: meter::rss_mb(server).unwrap_or_default(),
        })
    }

    /// What was spent between two readings.
    fn until(&self, after: &Self) -> Self {
        let (old, new) = (self.counters, after.counters);
        Self {
            counters: Counters {
                backend: new.backend,
                wal_bytes: new.wal_bytes - old.wal_bytes,
                commits: new.commits - old.commits,
                statements: new.statements.zip(old.statements).map(|(new, old)| new - old),
            },
            postgres: after.postgres.zip(self.postgres).map(|(new, old)| new - old),
            server: after.server - self.server,
            worker: after.worker - self.worker,
            rss_mb: after.rss_mb,
        }
    }
}

/// For each step that has parents: from the last parent's end to its handler's start, in milliseconds, over
/// the newest `tasks` tasks.
fn engine_ms(workload: Workload, ran: &[Ran], tasks: usize) -> Vec<f64> {
    let parents = workload.parents();
    let mut by_task: HashMap<_, Vec<Option<&Ran>>> = HashMap::new();
    for one in ran {
        let steps = by_task.entry(one.task).or_insert_with(|| vec![None; parents.len()]);
        if let Some(step) = steps.get_mut(one.step.at()) {
            *step = Some(one);
        }
    }
    let mut newest: Vec<_> = by_task.into_iter().collect();
    newest.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    let mut values = Vec::new();
    for (_, steps) in newest.iter().take(tasks) {
        for (at, parents) in parents.iter().enumerate().filter(|(_, parents)| !parents.is_empty()) {
            let ended: Option<Vec<_>> = parents.iter().map(|p| steps[*p].map(|ran| ran.ended)).collect();
            if let (Some(step), Some(ended)) = (steps[at], ended)
                && let Some(last) = ended.into_iter().max()
            {
                values.push((step.started.0 - last.0) as f64 / 1000.0);
            }
        }
    }
    values
}

fn told(
    arguments: &RunBench,
    tasks: usize,
    steps: usize,
    concurrency: usize,
    drive: &Drive,
    engine: Vec<f64>,
    spent: &Reading,
) -> Figures {
    let seconds = drive.took.as_secs_f64();
    // Where no step runs, what a task costs is told as what a step costs.
    let per = steps.max(tasks) as f64;
    let cpu = spent.postgres.map(|postgres| postgres + spent.server + spent.worker);
    Figures {
        workload: arguments.workload.name(),
        mode: match arguments.mode {
            BenchMode::Local => "local",
            BenchMode::Queue => "queue",
            BenchMode::Post => "post",
        },
        kind: if arguments.latency { "latency" } else { "throughput" },
        tasks,
        steps,
        concurrency,
        seconds: round(seconds),
        tasks_per_s: round(tasks as f64 / seconds),
        steps_per_s: round(steps as f64 / seconds),
        latency_ms: Quantiles::of(drive.latencies.clone()),
        engine_ms_per_step: Quantiles::of(engine),
        cpu_s: Cpu { server: round(spent.server), worker: round(spent.worker), postgres: spent.postgres.map(round) },
        cpu_ms_per_step: cpu.map(|seconds| round(seconds * 1000.0 / per)),
        rss_mb: round(spent.rss_mb),
        wal_bytes_per_step: round(spent.counters.wal_bytes / per),
        commits_per_step: round(spent.counters.commits as f64 / per),
        statements_per_step: spent.counters.statements.map(|statements| round(statements as f64 / per)),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("database: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasker_lifecycle::{StepIndex, TaskId, Timestamp};

    #[test]
    fn engine_time_runs_from_the_last_parents_end() {
        let task = TaskId::new(1, 1);
        let ran = |step, started, ended| Ran {
            task,
            step: StepIndex(step),
            started: Timestamp(started),
            ended: Timestamp(ended),
        };
        let diamond = [ran(0, 0, 1000), ran(1, 1500, 2000), ran(2, 1700, 3000), ran(3, 3400, 3500)];
        let mut values = engine_ms(Workload::Diamond4, &diamond, 1);
        values.sort_by(f64::total_cmp);
        assert_eq!(values.iter().map(|ms| (ms * 10.0) as i64).collect::<Vec<_>>(), [4, 5, 7]);
    }
}
