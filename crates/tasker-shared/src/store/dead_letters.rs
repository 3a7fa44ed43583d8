//! Dead letter entries: steps that are not tried again, and messages that nobody could read.

use sqlx::PgConnection;
use tasker_lifecycle::{DeadLetterReason, StepIndex, TaskId};
use uuid::Uuid;

use super::StoreError;
use super::writes::step_column;

/// A step to file, after its last attempt was written.
#[derive(Debug, Clone, Copy)]
pub struct Filing {
    /// The task.
    pub task: TaskId,
    /// The step.
    pub step: StepIndex,
    /// Its last attempt.
    pub attempt: u32,
    /// Why it is not tried again.
    pub reason: DeadLetterReason,
}

/// Files steps. Filing the same attempt again changes nothing. What the entry says of the attempts is
/// filled in by [`describe`], which may be slow.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn file(conn: &mut PgConnection, filings: &[Filing]) -> Result<(), StoreError> {
    let tasks: Vec<Uuid> = filings.iter().map(|f| f.task.uuid()).collect();
    let steps: Vec<i32> = filings.iter().map(|f| step_column(f.step)).collect();
    let attempts: Vec<i32> = filings.iter().map(|f| i32::try_from(f.attempt).unwrap_or(i32::MAX)).collect();
    let reasons: Vec<&str> = filings.iter().map(|f| reason_name(f.reason)).collect();
    sqlx::query!(
        "INSERT INTO tasker.dead_letters (task_uuid, step, attempt, reason)
         SELECT * FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::text[])
         ON CONFLICT (task_uuid, step, attempt) DO NOTHING",
        &tasks,
        &steps,
        &attempts,
        &reasons as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes every attempt's outcome and error into up to `limit` entries that lack them; answers with how
/// many there were.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn describe(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let described = sqlx::query!(
        "UPDATE tasker.dead_letters d
         SET snapshot = jsonb_build_object(
             'namespace', t.namespace, 'name', t.name, 'steps', t.steps,
             'attempts', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                              'attempt', a.attempt, 'outcome', a.outcome, 'error', a.error, 'worker', a.worker,
                              'started_at', a.started_at, 'ended_at', a.ended_at) ORDER BY a.attempt), '[]')
                          FROM tasker.attempts a
                          WHERE a.task_uuid = d.task_uuid AND a.step = d.step AND a.attempt <= d.attempt))
         FROM tasker.tasks t
         WHERE t.task_uuid = d.task_uuid AND d.entry_uuid IN (
             SELECT e.entry_uuid FROM tasker.dead_letters e
             WHERE e.snapshot IS NULL ORDER BY e.created_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit
    )
    .execute(conn)
    .await?;
    Ok(described.rows_affected())
}

/// Files a message that is not ours or that failed alone again and again.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn file_message(
    conn: &mut PgConnection,
    queue: &str,
    msg_id: i64,
    body: &str,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO tasker.dead_letters (reason, snapshot)
         VALUES ($1, jsonb_build_object('queue', $2::text, 'msg_id', $3::bigint, 'body', $4::text))",
        reason,
        queue,
        msg_id,
        body
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn reason_name(reason: DeadLetterReason) -> &'static str {
    match reason {
        DeadLetterReason::AttemptsExhausted => "attempts_exhausted",
        DeadLetterReason::PermanentFailure => "permanent_failure",
        DeadLetterReason::LeaseLost => "lease_lost",
        DeadLetterReason::BadOutcome => "bad_outcome",
    }
}

/// Lets the oldest undescribed entry say why it can't be described, so that the others go on.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn give_up_describing(conn: &mut PgConnection, why: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE tasker.dead_letters SET snapshot = jsonb_build_object('undescribed', $1::text)
         WHERE entry_uuid = (SELECT entry_uuid FROM tasker.dead_letters WHERE snapshot IS NULL
                             ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)",
        why
    )
    .execute(conn)
    .await?;
    Ok(())
}
