//! `tasker demo`: the examples on real input, over HTTP like anybody's tasks, and what happened to each.

mod timeline;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tasker_client::types::{StepState, TaskRequest, TaskResponse, TaskState};
use tasker_client::{Client, Waited};
use tasker_examples::Demo;
use tasker_shared::config::Config;
use tasker_shared::embedded::default_data_dir;
use tasker_shared::telemetry;
use uuid::Uuid;

use self::timeline::Timeline;
use crate::cli::RunDemo;
use crate::commands::process;
use crate::database::Database;
use crate::failure::{Failure, Status};
use crate::languages::{Folder, Watched};
use crate::node::{Node, listen};
use crate::output::{Output, table};

/// The slowest example takes some seconds; this is when it is stuck.
const LONGEST: Duration = Duration::from_mins(1);

/// What became of one example.
#[derive(Debug, Serialize)]
struct Outcome {
    example: String,
    about: &'static str,
    task_uuid: Uuid,
    status: TaskState,
    steps: u32,
    attempts: usize,
    milliseconds: f64,
    /// What came out, or why it is not what the input gives.
    result: String,
    as_expected: bool,
    #[serde(skip)]
    timeline: Timeline,
}

pub(crate) async fn run(arguments: &RunDemo, mut config: Config, output: &Output) -> Result<Status, Failure> {
    config.telemetry.log = "warn".to_owned();
    telemetry::init(&config.telemetry);
    // Any free port: a server of the user's may run beside the demo.
    config.web.bind_address.set_port(0);
    let database = Database::open(&config, arguments.data_dir.as_ref().map(|dir| dir.join("postgres"))).await?;
    let folder = arguments.data_dir.clone().unwrap_or_else(|| default_data_dir().with_file_name("demo"));
    let outcomes = played(config, &database, folder.join("input"), &arguments.workers, output).await;
    let what = database.what.clone();
    database.close().await;
    tell(&outcomes?, &what, output)
}

async fn played(
    config: Config,
    database: &Database,
    folder: PathBuf,
    workers: &[Folder],
    output: &Output,
) -> Result<Vec<Outcome>, Failure> {
    tasker_examples::write_data(&folder).map_err(|error| Failure::file(&folder, error))?;
    let folder = std::fs::canonicalize(&folder).map_err(|error| Failure::file(&folder, error))?;
    let config = Arc::new(config);
    let mut node = Node::start(Arc::clone(&config), database, true, Some(process::built_in(true))).await?;
    let engine = node.engine.clone().expect("a server was started");
    process::register_examples(&engine).await?;
    node.find_queues().await?;
    let address = node.serve(listen(&config).await?).await?;
    let client = Client::new(&format!("http://{address}"))?;
    if !output.json() {
        output.line(&format!("Server and worker run on {}.\n", database.what))?;
    }
    let mut outcomes = all(&client, &folder.to_string_lossy(), output).await;
    if !workers.is_empty() {
        let (name, yaml) = tasker_examples::polyglot();
        process::register(&engine, name, yaml, None, true).await?;
        let leads = [
            ("DATABASE_URL", database.url.clone()),
            ("TASKER_ORCHESTRATION_URL", client.address().to_owned()),
            // The other examples are Rust's here.
            ("TASKER__WORKER__NAMESPACES", "polyglot".to_owned()),
        ];
        let workers = Watched::start(workers, &config, &leads, false)?;
        let last = one(&client, &tasker_examples::polyglot_demo(), ProgressBar::hidden()).await;
        workers.stop().await;
        outcomes = outcomes.and_then(|mut all| last.map(|last| all.push(last)).map(|()| all));
    }
    node.stop().await;
    outcomes
}

/// Every example at once, each with a bar.
async fn all(client: &Client, folder: &str, output: &Output) -> Result<Vec<Outcome>, Failure> {
    let target = if output.shows_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bars = MultiProgress::with_draw_target(target);
    let demos = tasker_examples::demos(folder);
    let running = demos.iter().map(|demo| one(client, demo, bars.add(bar())));
    futures::future::join_all(running).await.into_iter().collect()
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:32} {bar:24.green} {pos:>2}/{len:2} {msg}");
    ProgressBar::new(0).with_style(style.expect("a valid template"))
}

async fn one(client: &Client, demo: &Demo, bar: ProgressBar) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let context = serde_json::value::to_raw_value(&demo.context).expect("JSON always encodes");
    let request = TaskRequest {
        context,
        version: Some(demo.version.to_owned()),
        initiator: Some("demo".to_owned()),
        ..TaskRequest::new(demo.namespace, demo.template)
    };
    let created = client.create_task(&request).await?;
    bar.set_prefix(format!("{}/{}", demo.namespace, demo.template));
    bar.set_length(u64::from(created.total_steps));
    let waited = tokio::select! {
        waited = client.wait(created.task_uuid, Some(LONGEST)) => waited?,
        never = follow(client, created.task_uuid, &bar) => match never {},
    };
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    let (Waited::Settled(task) | Waited::TimedOut(task)) = waited;
    bar.set_position(u64::from(task.completed_steps));
    bar.finish_with_message(task.status.to_string());
    outcome(client, demo, &task, milliseconds).await
}

/// Moves the bar with every transition.
async fn follow(client: &Client, task: Uuid, bar: &ProgressBar) -> std::convert::Infallible {
    let mut events = std::pin::pin!(client.watch(task, Some(0)));
    while let Some(Ok(event)) = events.next().await {
        for step in &event.entry.transitions {
            if step.from.is_none() && step.to.exists() {
                bar.inc_length(1);
            }
            match step.to {
                StepState::Complete => bar.inc(1),
                StepState::WaitingForRetry => bar.set_message(format!("{} is tried again", step.step)),
                _ => {}
            }
        }
    }
    std::future::pending().await
}

async fn outcome(client: &Client, demo: &Demo, task: &TaskResponse, milliseconds: f64) -> Result<Outcome, Failure> {
    let steps = client.steps(task.task_uuid).await?;
    let timeline = Timeline::of(client, task, &steps).await?;
    let result = steps.iter().find(|step| step.name == demo.final_step).and_then(|step| step.results.as_deref());
    let result: Value =
        result.map_or(Value::Null, |result: &RawValue| serde_json::from_str(result.get()).unwrap_or(Value::Null));
    let (as_expected, told) = match (task.status, (demo.expect)(&result)) {
        (TaskState::Complete, Ok(told)) => (true, told),
        (TaskState::Complete, Err(mismatch)) => (false, mismatch.to_string()),
        (status, _) => (false, format!("the task is {status}")),
    };
    Ok(Outcome {
        example: format!("{}/{}", demo.namespace, demo.template),
        about: demo.about,
        task_uuid: task.task_uuid,
        status: task.status,
        steps: task.total_steps,
        attempts: timeline.attempts(),
        milliseconds: (milliseconds * 10.0).round() / 10.0,
        result: told,
        as_expected,
        timeline,
    })
}

fn tell(outcomes: &[Outcome], what: &str, output: &Output) -> Result<Status, Failure> {
    let all_well = outcomes.iter().all(|outcome| outcome.as_expected);
    output.value(&outcomes, |outcomes| {
        let mut text = String::new();
        for outcome in *outcomes {
            text += &format!("{} - {}\n{}\n", outcome.example, outcome.about, outcome.timeline);
        }
        let rows = outcomes.iter().map(|outcome| {
            let milliseconds = format!("{:.0}", outcome.milliseconds);
            let (steps, attempts) = (outcome.steps.to_string(), outcome.attempts.to_string());
            let mark = if outcome.as_expected { "as expected" } else { "WRONG" };
            let result = format!("{mark}: {}", outcome.result);
            [outcome.example.clone(), outcome.status.to_string(), steps, attempts, milliseconds, result]
        });
        text += &table(["example", "status", "steps", "attempts", "ms", "result"], rows, "no examples");
        text + &format!(
            "\nEverything above is kept in {what}.\nNext: `tasker dev` keeps it running with its HTTP API; README.md leads to your own first workflow in ten minutes.\n"
        )
    })?;
    Ok(Status::done_if(all_well))
}
