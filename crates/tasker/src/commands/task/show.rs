//! Tasks and steps as text for people.

use tasker_client::types::{
    HistoryEntry, StepAudit, StepResponse, StepTransition, TaskList, TaskResponse, TaskSummary,
};

use crate::output::{fields, or_dash, table, time, time_or_dash};

pub(super) fn created(task: &TaskResponse) -> String {
    format!("{} {}\n", task.task_uuid, task.status)
}

pub(super) fn task(task: &TaskResponse) -> String {
    let progress =
        format!("{} of {} steps, {:.0} %", task.completed_steps, task.total_steps, task.completion_percentage);
    let facts = fields([
        ("task", Some(task.task_uuid.to_string())),
        ("template", Some(format!("{}/{} {}", task.namespace, task.name, task.version))),
        ("status", Some(task.status.to_string())),
        ("refused", task.refusal.as_ref().map(|refusal| format!("{} ({})", refusal.message, refusal.code))),
        ("progress", Some(progress)),
        ("failed", (task.failed_steps > 0).then(|| format!("{} steps", task.failed_steps))),
        ("created", Some(time(task.created_at))),
        ("completed", task.completed_at.map(time)),
        ("initiator", task.initiator.clone()),
        ("source", task.source_system.clone()),
        ("reason", task.reason.clone()),
        ("tags", (!task.tags.is_empty()).then(|| task.tags.join(", "))),
        ("priority", (task.priority != 0).then(|| task.priority.to_string())),
        ("correlation", Some(task.correlation_id.to_string())),
        ("part of", task.parent_correlation_id.map(|id| id.to_string())),
        ("input", Some(task.context.get().to_owned())),
    ]);
    format!("{facts}\n{}", steps(&task.steps))
}

pub(super) fn list(list: &TaskList) -> String {
    let rows = list.tasks.iter().map(summary);
    let text = table(["TASK", "TEMPLATE", "STATUS", "STEPS", "CREATED"], rows, "no tasks");
    match &list.pagination.next_cursor {
        Some(cursor) => format!("{text}\nmore with --cursor {cursor}\n"),
        None => text,
    }
}

fn summary(task: &TaskSummary) -> [String; 5] {
    [
        task.task_uuid.to_string(),
        format!("{}/{} {}", task.namespace, task.name, task.version),
        task.status.to_string(),
        format!("{}/{}", task.completed_steps, task.total_steps),
        time(task.created_at),
    ]
}

pub(super) fn steps(steps: &[StepResponse]) -> String {
    let rows = steps.iter().map(|step| {
        [
            step.name.clone(),
            step.current_state.to_string(),
            format!("{}/{}", step.attempts, step.max_attempts),
            format!("{}/{}", step.completed_parents, step.total_parents),
            time_or_dash(step.next_retry_at),
            time_or_dash(step.completed_at),
            step.step_uuid.to_string(),
        ]
    });
    table(["STEP", "STATE", "ATTEMPTS", "PARENTS", "NEXT RETRY", "COMPLETED", "ID"], rows, "no steps")
}

pub(super) fn step(step: &StepResponse) -> String {
    fields([
        ("step", Some(step.name.clone())),
        ("id", Some(step.step_uuid.to_string())),
        ("task", Some(step.task_uuid.to_string())),
        ("state", Some(step.current_state.to_string())),
        ("attempts", Some(format!("{} of {}", step.attempts, step.max_attempts))),
        ("parents", Some(format!("{} of {} complete", step.completed_parents, step.total_parents))),
        ("created", Some(time(step.created_at))),
        ("last attempt", step.last_attempted_at.map(time)),
        ("last failure", step.last_failure_at.map(time)),
        ("next retry", step.next_retry_at.map(time)),
        ("completed", step.completed_at.map(time)),
        ("results", step.results.as_ref().map(|results| results.get().to_owned())),
    ])
}

pub(super) fn attempts(attempts: &[StepAudit]) -> String {
    let rows = attempts.iter().map(|attempt| {
        let outcome = serde_json::to_value(attempt.outcome).ok();
        let told = match (&attempt.error, &attempt.result) {
            (Some(error), _) => format!("{}: {}", error.error_type, error.message),
            (None, Some(result)) => result.get().to_owned(),
            (None, None) => "-".to_owned(),
        };
        [
            attempt.attempt.to_string(),
            or_dash(outcome.as_ref().and_then(|outcome| outcome.as_str())),
            time_or_dash(attempt.started_at),
            or_dash(attempt.duration_ms.map(|ms| format!("{ms:.1}"))),
            or_dash(attempt.worker.as_ref()),
            told,
        ]
    });
    table(["ATTEMPT", "OUTCOME", "STARTED", "MS", "WORKER", "RESULT OR ERROR"], rows, "no attempt has ended yet")
}

pub(super) fn history(entries: &[HistoryEntry]) -> String {
    let rows = entries.iter().flat_map(|entry| {
        changes(entry).into_iter().enumerate().map(|(line, (what, change))| {
            let first = line == 0;
            [
                if first { entry.seq.to_string() } else { String::new() },
                if first { entry.at.format("%Y-%m-%d %H:%M:%S%.3f").to_string() } else { String::new() },
                if first { entry.cause.clone() } else { String::new() },
                what,
                change,
            ]
        })
    });
    table(["SEQ", "AT", "CAUSE", "WHAT", "CHANGE"], rows, "no history")
}

/// What an entry changed, steps first, as pairs of what and how.
pub(super) fn changes(entry: &HistoryEntry) -> Vec<(String, String)> {
    let steps = entry.transitions.iter().map(|step| (step.step.clone(), step_change(step)));
    let task = entry.task_to.map(|to| {
        let from = entry.task_from.map_or_else(String::new, |from| format!("{from} -> "));
        ("(task)".to_owned(), format!("{from}{to}"))
    });
    steps.chain(task).chain(entry.detail.as_ref().and_then(account)).collect()
}

/// Who asked for it and why, where somebody did.
fn account(detail: &serde_json::Value) -> Option<(String, String)> {
    let text = |key: &str| detail[key].as_str().filter(|text| !text.is_empty());
    let said: Vec<&str> = [text("by"), text("reason")].into_iter().flatten().collect();
    (!said.is_empty()).then(|| ("(by)".to_owned(), said.join(": ")))
}

fn step_change(step: &StepTransition) -> String {
    let from = step.from.map_or_else(String::new, |from| format!("{from} -> "));
    let attempt = if step.attempt > 0 { format!(" (attempt {})", step.attempt) } else { String::new() };
    format!("{from}{}{attempt}", step.to)
}
