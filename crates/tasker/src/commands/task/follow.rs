//! Following a task while it runs: `wait` for its end, `watch` every transition.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tasker_client::Client;
use tasker_client::Waited;
use tasker_client::types::{StepState, TaskEvent, TaskResponse, TaskState};
use uuid::Uuid;

use super::show;
use crate::failure::{Failure, Status};
use crate::output::Output;

/// Redraws of the bar's clock; its numbers change with the events.
const TICK: Duration = Duration::from_millis(200);

/// A bar on standard error that counts the steps that ended well. On anything but a terminal it draws nothing.
struct Progress {
    bar: ProgressBar,
    steps: HashMap<String, StepState>,
}

impl Progress {
    fn new(task: &TaskResponse, output: &Output) -> Self {
        let target = if output.shows_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {elapsed}  {msg}")
            .expect("the template is well formed");
        let bar = ProgressBar::with_draw_target(Some(u64::from(task.total_steps)), target).with_style(style);
        bar.set_message(task.status.as_str());
        bar.enable_steady_tick(TICK);
        let steps = task.steps.iter().map(|step| (step.name.clone(), StepState::Pending)).collect();
        Self { bar, steps }
    }

    fn take(&mut self, event: &TaskEvent) {
        for step in &event.entry.transitions {
            if step.to.exists() {
                self.steps.insert(step.step.clone(), step.to);
            }
        }
        let done = self.steps.values().filter(|state| state.satisfies()).count();
        self.bar.set_length(self.steps.len() as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(event.status.as_str());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Waits until the task has settled. A bar follows the events meanwhile; it is the answer to the wait that counts.
pub(super) async fn wait(
    task: Uuid,
    timeout: Option<Duration>,
    client: &Client,
    output: &Output,
) -> Result<Status, Failure> {
    let waited = if output.shows_progress() {
        let progress = Progress::new(&client.get_task(task).await?, output);
        tokio::select! {
            waited = client.wait(task, timeout) => waited?,
            never = show_progress(progress, task, client) => match never {},
        }
    } else {
        client.wait(task, timeout).await?
    };
    match waited {
        Waited::Settled(task) => {
            output.value(&task, |task| show::task(task))?;
            Ok(Status::done_if(ended_well(task.status)))
        }
        Waited::TimedOut(task) => {
            output.value(&task, |task| show::task(task))?;
            if !output.json() {
                eprintln!("the time is over and the task is still {}", task.status);
            }
            Ok(Status::Failed)
        }
    }
}

/// Draws until it is dropped.
async fn show_progress(mut progress: Progress, task: Uuid, client: &Client) -> std::convert::Infallible {
    let mut events = std::pin::pin!(client.watch(task, Some(0)));
    // An error ends the drawing only: the wait meets it too and reports it.
    while let Some(Ok(event)) = events.next().await {
        progress.take(&event);
    }
    std::future::pending().await
}

/// Shows every transition, from the first on, until the task has settled.
pub(super) async fn watch(task: Uuid, client: &Client, output: &Output) -> Result<Status, Failure> {
    let mut progress = Progress::new(&client.get_task(task).await?, output);
    let mut events = std::pin::pin!(client.watch(task, Some(0)));
    let mut status = None;
    while let Some(event) = events.next().await {
        let event = event?;
        progress.take(&event);
        progress.bar.suspend(|| print(&event, output))?;
        status = Some(event.status);
        if event.status == TaskState::BlockedByFailures && is_blocked_now(task, client).await? {
            break;
        }
    }
    drop(progress);
    let status = match status {
        Some(status) => status,
        None => client.get_task(task).await?.status,
    };
    if status == TaskState::BlockedByFailures && !output.json() {
        eprintln!("the task is blocked by failures; see them with `tasker task get {task}`");
    }
    Ok(Status::done_if(ended_well(status)))
}

/// The history may tell of a block that an operator has lifted since.
async fn is_blocked_now(task: Uuid, client: &Client) -> Result<bool, Failure> {
    Ok(client.get_task(task).await?.status == TaskState::BlockedByFailures)
}

fn print(event: &TaskEvent, output: &Output) -> std::io::Result<()> {
    if output.json() {
        return output.line(&serde_json::to_string(event)?);
    }
    let at = event.entry.at.format("%H:%M:%S%.3f");
    for (what, change) in show::changes(&event.entry) {
        output.line(&format!("{at}  {what:24}  {change}"))?;
    }
    Ok(())
}

fn ended_well(status: TaskState) -> bool {
    matches!(status, TaskState::Complete | TaskState::ResolvedManually)
}
