//! Reports whose claim was no longer current. They are kept and change nothing.

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::writes::{Payload, step_column};
use crate::messages::{Report, Verdict};

/// Looks at the reports that are not among `taken`, the positions whose ticket was deleted: one whose attempt
/// is stored under its nonce was accepted before; any other is kept as discarded. Answers positions with
/// verdicts.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn discard(
    conn: &mut PgConnection,
    reports: &[Report],
    taken: &[usize],
) -> Result<Vec<(usize, Verdict)>, StoreError> {
    let taken: Vec<i32> = taken.iter().map(|at| i32::try_from(at + 1).unwrap_or(i32::MAX)).collect();
    let tasks: Vec<Uuid> = reports.iter().map(|r| r.claim.task.uuid()).collect();
    let steps: Vec<i32> = reports.iter().map(|r| step_column(r.claim.step)).collect();
    let attempts: Vec<i32> = reports.iter().map(|r| i32::try_from(r.claim.attempt).unwrap_or(i32::MAX)).collect();
    let nonces: Vec<Uuid> = reports.iter().map(|r| r.claim.token.nonce).collect();
    let outcomes: Vec<&str> = reports.iter().map(|r| r.outcome.name()).collect();
    let payloads: Vec<Payload> = reports.iter().map(|r| Payload::of(&r.outcome)).collect();
    let results: Vec<Option<&str>> = payloads.iter().map(|p| p.result.as_deref()).collect();
    let errors: Vec<Option<&str>> = payloads.iter().map(|p| p.error.as_deref()).collect();
    let worker = reports.first().map_or("", |report| &report.worker);
    let rows = sqlx::query!(
        r#"SELECT ord AS "ord!", verdict AS "verdict!"
           FROM tasker.discard($1, $2, $3, $4, $5, $6, $7, $8, $9)"#,
        &taken,
        &tasks,
        &steps,
        &attempts,
        &nonces,
        &outcomes as &[&str],
        worker,
        &results as &[Option<&str>],
        &errors as &[Option<&str>]
    )
    .fetch_all(conn)
    .await?;
    let verdict = |name: &str| if name == "duplicate" { Verdict::Duplicate } else { Verdict::Refused };
    let at = |ord: i32| usize::try_from(ord).expect("ordinals count from 1") - 1;
    Ok(rows.iter().map(|row| (at(row.ord), verdict(&row.verdict))).collect())
}
