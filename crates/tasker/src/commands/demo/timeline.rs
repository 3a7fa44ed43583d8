//! When each attempt of a task ran, drawn as text.

use std::fmt;

use chrono::{DateTime, Utc};
use tasker_client::Client;
use tasker_client::types::{AttemptOutcome, StepAudit, StepResponse, TaskResponse};

use crate::failure::Failure;

/// Columns of the drawing.
const WIDTH: f64 = 56.0;

/// Every attempt of a task, in the order of its steps.
#[derive(Debug)]
pub(super) struct Timeline {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    attempts: Vec<StepAudit>,
}

impl Timeline {
    pub(super) async fn of(client: &Client, task: &TaskResponse, steps: &[StepResponse]) -> Result<Self, Failure> {
        let mut rows = Vec::with_capacity(steps.len());
        for step in steps {
            let attempts = client.step_audit(task.task_uuid, step.step_uuid).await?;
            rows.push(Row { name: step.name.clone(), attempts });
        }
        let ends = rows.iter().flat_map(|row| &row.attempts).map(|attempt| attempt.finished_at);
        let to = ends.max().unwrap_or(task.created_at);
        Ok(Self { from: task.created_at, to, rows })
    }

    /// How many attempts there were.
    pub(super) fn attempts(&self) -> usize {
        self.rows.iter().map(|row| row.attempts.len()).sum()
    }

    fn column(&self, at: DateTime<Utc>) -> usize {
        let whole = (self.to - self.from).as_seconds_f64().max(1e-6);
        let part = ((at - self.from).as_seconds_f64() / whole).clamp(0.0, 1.0);
        (part * (WIDTH - 1.0)).round() as usize
    }

    /// Waiting, running and failing, one row of characters.
    fn bar(&self, row: &Row) -> String {
        let mut line = vec![' '; WIDTH as usize];
        let mut waits_from = None;
        for attempt in &row.attempts {
            let start = self.column(attempt.started_at.unwrap_or(attempt.finished_at));
            let end = self.column(attempt.finished_at);
            if let Some(from) = waits_from {
                line[from..start.max(from)].fill('.');
            }
            let failed = attempt.outcome != AttemptOutcome::Success;
            line[start..=end].fill(if failed { 'x' } else { '#' });
            waits_from = failed.then_some(end + 1).filter(|from| *from < line.len());
        }
        line.into_iter().collect::<String>().trim_end().to_owned()
    }
}

impl fmt::Display for Timeline {
    /// `#` ran, `x` failed, `.` waited to be tried again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        for row in &self.rows {
            let tries = match row.attempts.len() {
                1 => String::new(),
                tries => format!("  {tries} attempts"),
            };
            writeln!(f, "  {:widest$} |{:56}|{tries}", row.name, self.bar(row))?;
        }
        Ok(())
    }
}
