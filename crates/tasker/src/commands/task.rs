//! `tasker task`: create, follow and cancel tasks.

mod bulk;
mod explain;
mod follow;
mod repair;
mod show;

use std::io::{self, BufRead, IsTerminal, Read};

use tasker_client::types::{CompletionData, ListQuery, RawJson, StepAction, TaskRequest};
use tasker_client::{Client, Graph, GraphFormat};
use uuid::Uuid;

use super::drawing;
use crate::cli::{CompleteStep, CreateTask, Drawing, ListTasks, StepOfTask, TaskCommand};
use crate::failure::{Failure, Status};
use crate::output::Output;

pub(super) async fn run(command: TaskCommand, client: &Client, output: &Output) -> Result<Status, Failure> {
    match command {
        TaskCommand::Create(task) => create(*task, client, output).await,
        TaskCommand::CreateBulk { file } => bulk::create(&file, client, output).await,
        TaskCommand::Get { task } => {
            output.value(&client.get_task(task).await?, show::task)?;
            Ok(Status::Done)
        }
        TaskCommand::List(list) => {
            output.value(&client.list_tasks(&query(*list)).await?, show::list)?;
            Ok(Status::Done)
        }
        TaskCommand::Cancel { task, yes } => cancel(task, yes, client, output).await,
        TaskCommand::Wait { task, timeout } => follow::wait(task, timeout, client, output).await,
        TaskCommand::Watch { task } => follow::watch(task, client, output).await,
        TaskCommand::Steps { task } => {
            output.value(&client.steps(task).await?, |steps| show::steps(steps))?;
            Ok(Status::Done)
        }
        TaskCommand::Step(wanted) => {
            let step = client.step(wanted.task, step_id(&wanted, client).await?).await?;
            output.value(&step, show::step)?;
            Ok(Status::Done)
        }
        TaskCommand::Explain { task } => {
            output.value(&client.explain(task).await?, explain::text)?;
            Ok(Status::Done)
        }
        TaskCommand::StepAudit(wanted) => {
            let attempts = client.step_audit(wanted.task, step_id(&wanted, client).await?).await?;
            output.value(&attempts, |attempts| show::attempts(attempts))?;
            Ok(Status::Done)
        }
        TaskCommand::ResetStep(wanted) => {
            let action = StepAction::reset_for_retry(wanted.account.reason, wanted.account.by);
            act(&wanted.step, &action, client, output).await
        }
        TaskCommand::ResolveStep(wanted) => {
            let action = StepAction::resolve_manually(wanted.account.reason, wanted.account.by);
            act(&wanted.step, &action, client, output).await
        }
        TaskCommand::CompleteStep(wanted) => complete_step(wanted, client, output).await,
        TaskCommand::Repair(wanted) => repair::run(*wanted, client, output).await,
        TaskCommand::History { task } => {
            output.value(&client.history(task).await?, |entries| show::history(entries))?;
            Ok(Status::Done)
        }
        TaskCommand::Visualize { task, drawing } => visualize(task, &drawing, client, output).await,
    }
}

async fn create(task: CreateTask, client: &Client, output: &Output) -> Result<Status, Failure> {
    let (wait, timeout) = (task.wait, task.timeout);
    let request = TaskRequest {
        name: task.name,
        namespace: task.namespace,
        version: task.version,
        context: input("--input", &task.input)?,
        initiator: task.initiator,
        source_system: task.source_system,
        reason: task.reason,
        tags: task.tags,
        priority: task.priority,
        correlation_id: task.correlation_id,
        parent_correlation_id: task.parent_correlation_id,
        idempotency_key: task.idempotency_key,
        requested_at: Some(chrono::Utc::now()),
        options: None,
    };
    let created = client.create_task(&request).await?;
    for warning in &created.warnings {
        eprintln!("warning: {warning}");
    }
    if wait {
        return follow::wait(created.task_uuid, timeout, client, output).await;
    }
    output.value(&created, show::created)?;
    Ok(Status::Done)
}

/// The input as it was written: `JSON`, `@FILE`, or `@-`.
fn input(option: &str, argument: &str) -> Result<RawJson, Failure> {
    let (text, origin) = match argument.strip_prefix('@') {
        None => (argument.to_owned(), option.to_owned()),
        Some("-") => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(|error| Failure::file("standard input", error))?;
            (text, "standard input".to_owned())
        }
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, error))?;
            (text, file.to_owned())
        }
    };
    serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("{origin} is not JSON: {error}")))
}

fn query(list: ListTasks) -> ListQuery {
    ListQuery {
        limit: Some(list.page.limit),
        cursor: list.page.cursor,
        page: None,
        per_page: None,
        namespace: list.namespace,
        name: list.name,
        status: list.status,
        initiator: list.initiator,
        source_system: list.source_system,
        tag: list.tag,
        correlation_id: list.correlation_id,
        created_after: list.created_after,
        created_before: list.created_before,
    }
}

async fn cancel(task: Uuid, yes: bool, client: &Client, output: &Output) -> Result<Status, Failure> {
    if !yes && !confirmed(&format!("Cancel task {task}?"))? {
        return Err(Failure::Failed("nothing was cancelled".to_owned()));
    }
    let task = client.cancel_task(task).await?;
    output.value(&task, |task| format!("{} {}\n", task.task_uuid, task.status))?;
    Ok(Status::Done)
}

async fn complete_step(wanted: CompleteStep, client: &Client, output: &Output) -> Result<Status, Failure> {
    let result = input("--result", &wanted.result)?;
    let metadata = wanted.metadata.map(|metadata| input("--metadata", &metadata)).transpose()?;
    let data = CompletionData { result, metadata };
    let action = StepAction::complete_manually(data, wanted.account.reason, wanted.account.by);
    act(&wanted.step, &action, client, output).await
}

async fn act(wanted: &StepOfTask, action: &StepAction, client: &Client, output: &Output) -> Result<Status, Failure> {
    let step = client.act_on_step(wanted.task, step_id(wanted, client).await?, action).await?;
    output.value(&step, |step| format!("{} {}\n", step.name, step.current_state))?;
    Ok(Status::Done)
}

/// Asks somebody at a terminal.
fn confirmed(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage("there is no terminal to ask at; add --yes".to_owned()));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::file("the terminal", error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The step's id; a name is looked up among the steps of the task.
async fn step_id(wanted: &StepOfTask, client: &Client) -> Result<Uuid, Failure> {
    if let Ok(id) = wanted.step.parse() {
        return Ok(id);
    }
    let steps = client.steps(wanted.task).await?;
    if let Some(step) = steps.iter().find(|step| step.name == wanted.step) {
        return Ok(step.step_uuid);
    }
    let names: Vec<&str> = steps.iter().take(20).map(|step| step.name.as_str()).collect();
    let more = if steps.len() > names.len() { ", …" } else { "" };
    Err(Failure::Failed(format!("the task has no step `{}`; it has {}{more}", wanted.step, names.join(", "))))
}

async fn visualize(task: Uuid, options: &Drawing, client: &Client, output: &Output) -> Result<Status, Failure> {
    let text = match drawing::format(options, output).for_machines() {
        Some(format) => client.graph(task, format).await?,
        None => {
            let text = client.graph(task, GraphFormat::Json).await?;
            let graph: Graph = serde_json::from_str(&text)
                .map_err(|error| Failure::Failed(format!("the server's graph can't be read: {error}")))?;
            graph.ascii()
        }
    };
    drawing::write(&text, options.out.as_deref(), output)
}
