//! `tasker dlq`: look into what was given up, and write down what was found.

use tasker_client::Client;
use tasker_client::types::{
    DlqEntry, DlqFiling, DlqList, DlqQuery, DlqStats, DlqUpdate, InvestigationQuery, InvestigationQueue,
    StalenessReport,
};

use crate::cli::DlqCommand;
use crate::failure::{Failure, Status};
use crate::output::{Output, fields, or_dash, table, time};

pub(super) async fn run(command: DlqCommand, client: &Client, output: &Output) -> Result<Status, Failure> {
    match command {
        DlqCommand::List { status, page } => {
            let resolution_status = status.map(Into::into);
            let query = DlqQuery { resolution_status, limit: Some(page.limit), cursor: page.cursor };
            output.value(&client.dlq(&query).await?, list)?;
        }
        DlqCommand::Get { task } => output.value(&client.dlq_of_task(task).await?, details)?,
        DlqCommand::Queue { limit } => {
            let query = InvestigationQuery { limit: Some(limit) };
            output.value(&client.investigation_queue(&query).await?, queue)?;
        }
        DlqCommand::Stale { limit } => {
            let query = InvestigationQuery { limit: Some(limit) };
            output.value(&client.stale_tasks(&query).await?, stale)?;
        }
        DlqCommand::Update { entry, status, notes, by } => {
            let resolution_status = status.into();
            let update = DlqUpdate { resolution_status, resolution_notes: Some(notes), resolved_by: Some(by) };
            output.value(&client.update_dlq_entry(entry, &update).await?, line)?;
        }
        DlqCommand::File { task, account } => {
            let filing = DlqFiling { reason: Some(account.reason), filed_by: Some(account.by) };
            output.value(&client.file_task(task, &filing).await?, line)?;
        }
        DlqCommand::Stats => output.value(&client.dlq_stats().await?, stats)?,
    }
    Ok(Status::Done)
}

fn line(entry: &DlqEntry) -> String {
    format!("{} {}\n", entry.dlq_entry_uuid, entry.resolution_status.as_str())
}

fn list(list: &DlqList) -> String {
    let rows = list.entries.iter().map(|entry| {
        [
            entry.dlq_entry_uuid.to_string(),
            time(entry.dlq_timestamp),
            of(entry),
            or_dash(entry.step_name.as_ref()),
            entry.dlq_reason.clone(),
            entry.resolution_status.as_str().to_owned(),
            or_dash(entry.task_uuid),
        ]
    });
    let text = table(["ENTRY", "FILED", "TEMPLATE", "STEP", "REASON", "STATUS", "TASK"], rows, "no entries");
    match &list.pagination.next_cursor {
        Some(cursor) => format!("{text}\nmore with --cursor {cursor}\n"),
        None => text,
    }
}

fn of(entry: &DlqEntry) -> String {
    let name = entry.namespace.as_ref().zip(entry.task_name.as_ref());
    or_dash(name.map(|(namespace, name)| format!("{namespace}/{name}")))
}

fn details(list: &DlqList) -> String {
    let texts: Vec<String> = list.entries.iter().map(entry).collect();
    texts.join("\n")
}

fn entry(entry: &DlqEntry) -> String {
    fields([
        ("entry", Some(entry.dlq_entry_uuid.to_string())),
        ("task", entry.task_uuid.map(|task| task.to_string())),
        ("template", Some(of(entry))),
        ("state", entry.current_state.clone()),
        ("step", entry.step_name.clone()),
        ("attempt", entry.attempt.map(|attempt| attempt.to_string())),
        ("reason", Some(entry.dlq_reason.clone())),
        ("filed", Some(time(entry.dlq_timestamp))),
        ("filed by", entry.filed_by.clone()),
        ("status", Some(entry.resolution_status.as_str().to_owned())),
        ("resolved", entry.resolution_timestamp.map(time)),
        ("resolved by", entry.resolved_by.clone()),
        ("notes", entry.resolution_notes.clone()),
        ("snapshot", entry.task_snapshot.as_ref().map(|snapshot| snapshot.get().to_owned())),
    ])
}

fn stale(report: &StalenessReport) -> String {
    let rows = report.tasks.iter().map(|task| {
        let follows = match (task.will_end_in_error, task.will_be_filed, task.is_filed) {
            (true, _, _) => "ends in error",
            (false, true, _) => "is filed",
            (false, false, true) => "was filed",
            (false, false, false) => "nothing",
        };
        [
            format!("{}/{}", task.namespace, task.task_name),
            task.current_state.to_string(),
            format!("{} of {}", task.minutes, task.bound_minutes),
            task.bound.clone(),
            follows.to_owned(),
            task.task_uuid.to_string(),
        ]
    });
    table(["TEMPLATE", "STATE", "MINUTES", "BOUND", "FOLLOWS", "TASK"], rows, "nothing is stale")
}

fn queue(queue: &InvestigationQueue) -> String {
    let rows = queue.entries.iter().map(|urgent| {
        [
            format!("{:.1}", urgent.priority_score),
            format!("{:.0}", urgent.minutes_in_dlq),
            of(&urgent.entry),
            or_dash(urgent.entry.step_name.as_ref()),
            urgent.entry.dlq_reason.clone(),
            urgent.entry.dlq_entry_uuid.to_string(),
            or_dash(urgent.entry.task_uuid),
        ]
    });
    table(["SCORE", "MINUTES", "TEMPLATE", "STEP", "REASON", "ENTRY", "TASK"], rows, "nothing to look into")
}

fn stats(stats: &DlqStats) -> String {
    let rows = stats.reasons.iter().map(|figures| {
        [
            figures.dlq_reason.clone(),
            figures.total_entries.to_string(),
            figures.pending.to_string(),
            figures.manually_resolved.to_string(),
            figures.permanently_failed.to_string(),
            figures.cancelled.to_string(),
            time(figures.oldest_entry),
            or_dash(figures.avg_resolution_time_minutes.map(|minutes| format!("{minutes:.1}"))),
        ]
    });
    let heads = ["REASON", "TOTAL", "PENDING", "RESOLVED", "FAILED", "CANCELLED", "OLDEST", "MINUTES TO RESOLVE"];
    table(heads, rows, "no entries")
}
