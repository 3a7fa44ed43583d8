//! A worker's reports: tickets go, attempts and result messages come, in one statement.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::writes::{Payload, step_column};
use super::{StoreError, to_sql};
use crate::messages::{Report, Verdict};

/// What `complete_step` fails with where another claim took the place of this one.
const CLAIM_LOST: &str = "TK001";
/// What it fails with where the claim was reported on before.
const REPORTED: &str = "TK002";

/// Stores the reports whose claim is still current and tells the server of them; answers what became of
/// each, in their order. Reporting the same again answers [`Verdict::Duplicate`] and changes nothing.
/// All reports are of one worker.
///
/// # Errors
/// Where the database is away, or refuses one of the reports: then none was stored.
pub async fn report(conn: &mut PgConnection, reports: &[Report]) -> Result<Vec<Verdict>, StoreError> {
    let Some(first) = reports.first() else { return Ok(Vec::new()) };
    let c = Columns::of(reports);
    let rows = sqlx::query!(
        r#"SELECT ord AS "ord!", verdict AS "verdict!" FROM tasker.report(
               $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
               $20, $21, $22)"#,
        &c.queues as &[&str],
        &c.msg_ids,
        &c.read_cts,
        &c.nonces,
        &c.tasks,
        &c.steps,
        &c.base_attempts,
        &c.attempts,
        &c.outcomes as &[&str],
        &c.retryables as &[Option<bool>],
        &c.retry_afters as &[Option<i64>],
        &*first.worker,
        &c.claimed,
        &c.started as &[Option<DateTime<Utc>>],
        &c.ended,
        &c.results as &[Option<String>],
        &c.errors as &[Option<String>],
        &c.metadatas as &[Option<String>],
        &c.follows as &[Option<String>],
        &c.event_ords,
        &c.event_queues,
        &c.event_bodies
    )
    .fetch_all(conn)
    .await?;
    // What the statement does not speak of can't have been stored.
    let mut verdicts = vec![Verdict::Refused; reports.len()];
    for row in rows {
        let at = usize::try_from(row.ord).expect("ordinals count from 1") - 1;
        verdicts[at] = match row.verdict.as_str() {
            "accepted" => Verdict::Accepted,
            "duplicate" => Verdict::Duplicate,
            _ => Verdict::Refused,
        };
    }
    Ok(verdicts)
}

/// Stores the success of one attempt inside the caller's transaction. Unless it is accepted the transaction has failed.
///
/// # Errors
/// Where the database is away, or refuses the report.
pub async fn complete(conn: &mut PgConnection, report: &Report) -> Result<Verdict, StoreError> {
    let (claim, payload) = (&report.claim, Payload::of(&report.outcome));
    let (queues, bodies) = messages(report).unzip::<_, _, Vec<String>, Vec<String>>();
    let completed = sqlx::query!(
        "SELECT tasker.complete_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::json, $13::text::json,
                                      $14::text::json, $15, $16)",
        claim.token.queue.as_str(),
        claim.token.msg_id,
        claim.token.read_ct,
        claim.token.nonce,
        claim.task.uuid(),
        step_column(claim.step),
        claim.base_attempt,
        i32::try_from(claim.attempt).unwrap_or(i32::MAX),
        &*report.worker,
        to_sql(claim.claimed_at),
        report.started_at.map(to_sql),
        payload.result.as_deref(),
        payload.metadata.as_deref(),
        payload.follows.as_deref(),
        &queues,
        &bodies
    )
    .execute(conn)
    .await;
    match completed {
        Ok(_) => Ok(Verdict::Accepted),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(CLAIM_LOST) => Ok(Verdict::Refused),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(REPORTED) => Ok(Verdict::Duplicate),
        Err(error) => Err(error.into()),
    }
}

/// Queue and body of each durable event of a report.
fn messages(report: &Report) -> impl Iterator<Item = (String, String)> {
    let durable = report.events.iter().filter(|published| published.is_durable());
    durable.map(|published| (published.event.queue().to_string(), published.event.to_json()))
}

#[derive(Default)]
struct Columns<'a> {
    queues: Vec<&'a str>,
    msg_ids: Vec<i64>,
    read_cts: Vec<i32>,
    nonces: Vec<Uuid>,
    tasks: Vec<Uuid>,
    steps: Vec<i32>,
    base_attempts: Vec<i32>,
    attempts: Vec<i32>,
    outcomes: Vec<&'static str>,
    retryables: Vec<Option<bool>>,
    retry_afters: Vec<Option<i64>>,
    claimed: Vec<DateTime<Utc>>,
    started: Vec<Option<DateTime<Utc>>>,
    ended: Vec<DateTime<Utc>>,
    results: Vec<Option<String>>,
    errors: Vec<Option<String>>,
    metadatas: Vec<Option<String>>,
    follows: Vec<Option<String>>,
    /// Whose report each event belongs to, counted from 1.
    event_ords: Vec<i32>,
    event_queues: Vec<String>,
    event_bodies: Vec<String>,
}

impl<'a> Columns<'a> {
    fn of(reports: &'a [Report]) -> Self {
        let mut columns = Self::default();
        for report in reports {
            columns.push(report);
        }
        columns
    }

    fn push(&mut self, report: &'a Report) {
        let claim = &report.claim;
        self.queues.push(claim.token.queue.as_str());
        self.msg_ids.push(claim.token.msg_id);
        self.read_cts.push(claim.token.read_ct);
        self.nonces.push(claim.token.nonce);
        self.tasks.push(claim.task.uuid());
        self.steps.push(step_column(claim.step));
        self.base_attempts.push(claim.base_attempt);
        self.attempts.push(i32::try_from(claim.attempt).unwrap_or(i32::MAX));
        self.outcomes.push(report.outcome.name());
        self.claimed.push(to_sql(claim.claimed_at));
        self.started.push(report.started_at.map(to_sql));
        self.ended.push(to_sql(report.ended_at));
        let payload = Payload::of(&report.outcome);
        self.retryables.push(payload.retryable);
        self.retry_afters.push(payload.retry_after_ms);
        self.results.push(payload.result);
        self.errors.push(payload.error);
        self.metadatas.push(payload.metadata);
        self.follows.push(payload.follows);
        let ord = i32::try_from(self.msg_ids.len()).expect("a bounded batch");
        for (queue, body) in messages(report) {
            self.event_ords.push(ord);
            self.event_queues.push(queue);
            self.event_bodies.push(body);
        }
    }
}
