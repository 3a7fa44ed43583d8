//! `tasker analytics`: how tasks of the last hours went, and which handlers took longest.

use tasker_client::Client;
use tasker_client::types::{Bottlenecks, BottlenecksQuery, Performance, PerformanceQuery};

use crate::cli::AnalyticsCommand;
use crate::failure::{Failure, Status};
use crate::output::{Output, fields, or_dash, table, time};

pub(super) async fn run(command: AnalyticsCommand, client: &Client, output: &Output) -> Result<Status, Failure> {
    match command {
        AnalyticsCommand::Performance { hours } => {
            let query = PerformanceQuery { hours: Some(hours) };
            output.value(&client.performance(&query).await?, performance)?;
        }
        AnalyticsCommand::Bottlenecks { hours, limit, min_executions } => {
            let (limit, min_executions, hours) = (Some(limit), Some(min_executions), Some(hours));
            let query = BottlenecksQuery { limit, min_executions, hours };
            output.value(&client.bottlenecks(&query).await?, bottlenecks)?;
        }
    }
    Ok(Status::Done)
}

fn performance(figures: &Performance) -> String {
    let newest = if figures.truncated { ", the newest of them alone" } else { "" };
    let times = figures.step_execution_ms.map(|times| {
        format!("p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms", times.p50, times.p95, times.p99, times.max)
    });
    let seconds = |seconds: Option<f64>| seconds.map(|seconds| format!("{seconds:.3} s"));
    let tasks = format!(
        "{}: {} active, {} completed, {} failed, {} cancelled",
        figures.total_tasks,
        figures.active_tasks,
        figures.completed_tasks,
        figures.failed_tasks,
        figures.cancelled_tasks
    );
    let attempts = format!(
        "{}: {} completed a step, {} failed, {} were lost",
        figures.attempts, figures.completed_steps, figures.failed_attempts, figures.lost_attempts
    );
    let per_hour = format!("{:.1} tasks, {:.1} steps", figures.tasks_per_hour, figures.steps_per_hour);
    fields([
        ("since", Some(format!("{}{newest}", time(figures.period_start)))),
        ("tasks", Some(tasks)),
        ("completed", Some(percent(figures.completion_rate))),
        ("failed", Some(percent(figures.error_rate))),
        ("a task takes", seconds(figures.average_task_duration_seconds)),
        ("attempts", Some(attempts)),
        ("an attempt takes", seconds(figures.average_step_duration_seconds)),
        ("execution", times),
        ("per hour", Some(per_hour)),
    ])
}

fn bottlenecks(found: &Bottlenecks) -> String {
    let steps = found.slow_steps.iter().map(|step| {
        [
            format!("{}/{} {}", step.namespace, step.task_name, step.version),
            or_dash(step.step_name.as_ref()),
            step.executions.to_string(),
            format!("{:.1}", step.average_ms),
            format!("{:.1}", step.p95_ms),
            format!("{:.1}", step.max_ms),
            percent(step.error_rate),
            percent(step.retry_rate),
            or_dash(step.handler.as_ref()),
        ]
    });
    let heads = ["TEMPLATE", "STEP", "RUNS", "MEAN MS", "P95 MS", "MAX MS", "FAILED", "RETRIED", "HANDLER"];
    let steps = table(heads, steps, "no step ran often enough");
    let tasks = found.slow_tasks.iter().map(|task| {
        [
            format!("{}/{} {}", task.namespace, task.task_name, task.version),
            task.executions.to_string(),
            format!("{:.1}", task.average_execution_ms),
            format!("{:.1}", task.max_execution_ms),
            format!("{:.1}", task.average_duration_ms),
        ]
    });
    let heads = ["TEMPLATE", "TASKS", "MEAN MS", "MAX MS", "WITH WAITING MS"];
    format!("{steps}\n{}", table(heads, tasks, "no template was complete often enough"))
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}
