//! `tasker task repair`: one action on many failed steps, page by page.

use tasker_client::Client;
use tasker_client::types::{BulkRepair, BulkRepairReport, RepairFilter, RepairedStep};

use super::confirmed;
use crate::cli::RepairMany;
use crate::failure::{Failure, Status};
use crate::output::{Output, or_dash, table};

pub(super) async fn run(wanted: RepairMany, client: &Client, output: &Output) -> Result<Status, Failure> {
    let yes = wanted.yes || wanted.preview;
    if !yes && !confirmed("Repair every failed step that matches?")? {
        return Err(Failure::Failed("nothing was repaired".to_owned()));
    }
    let mut request = BulkRepair {
        action_type: wanted.action.into(),
        filter: RepairFilter {
            namespace: wanted.namespace,
            name: wanted.name,
            step: wanted.step,
            handler: wanted.handler,
            error_type: wanted.error_type,
        },
        preview: wanted.preview,
        reason: wanted.reason,
        by: wanted.by,
        limit: None,
        per_second: Some(wanted.per_second),
        cursor: None,
    };
    let mut all = client.repair(&request).await?;
    while let Some(cursor) = all.next_cursor.take() {
        request.cursor = Some(cursor);
        let page = client.repair(&request).await?;
        all.done += page.done;
        all.refused += page.refused;
        all.steps.extend(page.steps);
        all.next_cursor = page.next_cursor;
    }
    output.value(&all, text)?;
    Ok(Status::done_if(all.refused == 0))
}

fn text(report: &BulkRepairReport) -> String {
    let rows = report.steps.iter().map(row);
    let steps = table(["TASK", "TEMPLATE", "STEP", "ATTEMPTS", "ERROR", "OUTCOME"], rows, "no failed step matches");
    if report.preview {
        return format!("{steps}\n{} steps would be repaired\n", report.steps.len());
    }
    format!("{steps}\n{} steps repaired, {} had moved meanwhile\n", report.done, report.refused)
}

fn row(step: &RepairedStep) -> [String; 6] {
    let outcome = serde_json::to_value(step.outcome).ok();
    [
        step.task_uuid.to_string(),
        format!("{}/{}", step.namespace, step.task_name),
        or_dash(step.step_name.as_ref()),
        step.attempts.to_string(),
        or_dash(step.error_type.as_ref()),
        or_dash(outcome.as_ref().and_then(|outcome| outcome.as_str())),
    ]
}
