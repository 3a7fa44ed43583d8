//! The worker's reads: claiming tickets, whether a claim is current, and what its handler is given.

use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::{Message, QueueName};
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tasker_lifecycle::template::{HandlerRef, TemplateHash};
use tasker_lifecycle::{StepIndex, TaskId};
use uuid::Uuid;

use super::StoreError;
use super::tasks::{hash, range};
use super::writes::step_column;
use crate::messages::Claim;

/// What a look into the ticket queues found.
#[derive(Debug)]
pub struct Claimed {
    /// The messages that were claimed, in the order of the queues.
    pub messages: Vec<Message>,
    /// Where fewer than wanted were there: milliseconds until the next hidden one can be claimed.
    pub next_ms: Option<u64>,
}

/// One queue's part in a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The queue.
    pub queue: QueueName,
    /// Neighbours of the same group share what is claimed equally; the next group gets what they leave.
    pub group: i32,
    /// Only tickets that could have been claimed for this long count.
    pub waited_ms: u64,
}

impl From<QueueName> for Part {
    /// All tickets of a queue.
    fn from(queue: QueueName) -> Self {
        Self { queue, group: 0, waited_ms: 0 }
    }
}

/// Claims up to `qty` tickets, part by part. One statement, so that a ticket that becomes visible between the claim and
/// the look at the hidden ones is seen by the latter.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn claim(
    conn: &mut PgConnection,
    parts: &[Part],
    lease: Duration,
    qty: usize,
) -> Result<Claimed, StoreError> {
    let queues: Vec<&str> = parts.iter().map(|part| part.queue.as_str()).collect();
    let groups: Vec<i32> = parts.iter().map(|part| part.group).collect();
    let ages_ms: Vec<i64> = parts.iter().map(|part| i64::try_from(part.waited_ms).unwrap_or(i64::MAX)).collect();
    let whole = parts.iter().filter(|part| part.waited_ms == 0);
    let whole: Vec<&str> = whole.map(|part| part.queue.as_str()).collect();
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        r#"WITH m AS MATERIALIZED (SELECT * FROM pgmq_notify.read_shared($1, $2, $3, $4, $5)), n AS MATERIALIZED (
               SELECT CASE WHEN (SELECT count(*) FROM m) < $5 THEN pgmq_notify.next_vt($6) END AS vt
           )
           SELECT queue, msg_id, read_ct, enqueued_at, vt, body, NULL::bigint AS next_ms FROM m
           UNION ALL
           SELECT NULL, NULL, NULL, NULL, NULL, NULL, ceil(extract(epoch FROM vt - clock_timestamp()) * 1000)::bigint
           FROM n WHERE vt IS NOT NULL"#,
        &queues as &[&str],
        &groups,
        &ages_ms,
        lease_ms,
        i32::try_from(qty).unwrap_or(i32::MAX),
        &whole as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let mut claimed = Claimed { messages: Vec::with_capacity(rows.len()), next_ms: None };
    for row in rows {
        let (Some(queue), Some(msg_id), Some(read_ct), Some(enqueued_at), Some(vt), Some(body)) =
            (row.queue, row.msg_id, row.read_ct, row.enqueued_at, row.vt, row.body)
        else {
            claimed.next_ms = row.next_ms.map(|ms| u64::try_from(ms).unwrap_or(0));
            continue;
        };
        let part = parts.iter().find(|part| part.queue.as_str() == queue).expect("a queue that was named");
        let queue = part.queue.clone();
        claimed.messages.push(Message { queue, msg_id, read_ct, enqueued_at, vt, body });
    }
    Ok(claimed)
}

/// What a claim turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// The task row names this ticket: its step may be run.
    Current {
        /// The template that the task started with.
        template: TemplateHash,
        /// The attempt that may be the last, where an operator's reset moved it.
        limit: Option<u32>,
        /// The stored letters and batches, where the task's steps are not simply those of its template.
        shape: Option<(String, Option<String>)>,
    },
    /// The task row does not name it; why, for the archive.
    Stranger(&'static str),
}

/// Looks at the tasks of claims, in one statement: the answer at each position is that of the claim there.
///
/// # Errors
/// Where the database is away.
pub async fn load(conn: &mut PgConnection, claims: &[Claim]) -> Result<Vec<Loaded>, StoreError> {
    let tasks: Vec<Uuid> = claims.iter().map(|claim| claim.task.uuid()).collect();
    let steps: Vec<i32> = claims.iter().map(|claim| step_column(claim.step)).collect();
    let nonces: Vec<Uuid> = claims.iter().map(|claim| claim.token.nonce).collect();
    // A copy of a ticket carries its nonce; only the message that the task row names is the ticket.
    let msg_ids: Vec<i64> = claims.iter().map(|claim| claim.token.msg_id).collect();
    let (least, last) = range(&tasks);
    let rows = sqlx::query!(
        r#"SELECT u.ord AS "ord!", t.template_hash AS "template_hash?", t.ended_at IS NOT NULL AS "ended!",
                  coalesce(substr(t.steps, u.step + 1, 1) IN ('Q', 'W')
                           AND t.sparse -> (u.step::text) ->> 'n' = u.nonce::text
                           AND (t.sparse -> (u.step::text) ->> 'm')::bigint = u.msg_id, false) AS "ours!",
                  (t.sparse -> (u.step::text) ->> 'l')::bigint AS "attempt_limit",
                  CASE WHEN t.expansions IS NOT NULL OR t.steps ~ '[.-]' THEN t.steps END AS letters, t.expansions
           FROM unnest($1::uuid[], $2::integer[], $3::uuid[], $6::bigint[]) WITH ORDINALITY
               AS u (task, step, nonce, msg_id, ord)
           LEFT JOIN tasker.tasks t ON t.task_uuid = u.task AND t.task_uuid >= $4 AND t.task_uuid <= ANY (ARRAY[$5::uuid])"#,
        &tasks,
        &steps,
        &nonces,
        least,
        last,
        &msg_ids
    )
    .fetch_all(conn)
    .await?;
    let mut loaded = vec![Loaded::Stranger("its task does not exist"); claims.len()];
    for row in rows {
        let Some(template) = row.template_hash else { continue };
        loaded[position(row.ord)] = if row.ended {
            Loaded::Stranger("its task has ended")
        } else if !row.ours {
            Loaded::Stranger("its step has another ticket or none")
        } else {
            let limit = row.attempt_limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
            let shape = row.letters.map(|letters| (letters, row.expansions));
            Loaded::Current { template: hash(&template)?, limit, shape }
        };
    }
    Ok(loaded)
}

/// The errors of steps that failed for good, JSON texts in the order in which they were asked for.
///
/// # Errors
/// Where the database is away.
pub async fn failures(
    conn: &mut PgConnection,
    steps: &[(TaskId, StepIndex)],
) -> Result<Vec<Option<Arc<RawValue>>>, StoreError> {
    let tasks: Vec<Uuid> = steps.iter().map(|(task, _)| task.uuid()).collect();
    let indexes: Vec<i32> = steps.iter().map(|(_, step)| step_column(*step)).collect();
    let rows = sqlx::query!(
        r#"SELECT u.ord AS "ord!", f.error AS "error!"
           FROM unnest($1::uuid[], $2::integer[]) WITH ORDINALITY AS u (task, step, ord)
           CROSS JOIN LATERAL (
               SELECT coalesce(a.error::text, json_build_object('error_type', a.outcome, 'message',
                          'its attempts were used up by workers that died')::text) AS error
               FROM tasker.attempts a WHERE a.task_uuid = u.task AND a.step = u.step
               ORDER BY a.attempt DESC LIMIT 1
           ) f"#,
        &tasks,
        &indexes
    )
    .fetch_all(conn)
    .await?;
    let mut failures = vec![None; steps.len()];
    for row in rows {
        let json = RawValue::from_string(row.error).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        failures[position(row.ord)] = Some(json.into());
    }
    Ok(failures)
}

/// What handlers are given, beside what is cached: JSON texts in the order in which they were asked for.
#[derive(Debug)]
pub struct Inputs {
    /// The contexts of tasks; none where there is no such task.
    pub contexts: Vec<Option<Arc<RawValue>>>,
    /// The results of steps; none for a step that was resolved by hand and so has no result.
    pub results: Vec<Option<Arc<RawValue>>>,
}

/// Reads contexts of tasks and results of steps in one round trip.
///
/// # Errors
/// Where the database is away.
pub async fn inputs(
    conn: &mut PgConnection,
    contexts: &[TaskId],
    results: &[(TaskId, StepIndex)],
) -> Result<Inputs, StoreError> {
    let context_tasks: Vec<Uuid> = contexts.iter().map(|task| task.uuid()).collect();
    let result_tasks: Vec<Uuid> = results.iter().map(|(task, _)| task.uuid()).collect();
    let (least, last) = range(context_tasks.iter().chain(&result_tasks));
    let result_steps: Vec<i32> = results.iter().map(|(_, step)| step_column(*step)).collect();
    let rows = sqlx::query!(
        r#"SELECT true AS "is_context!", u.ord AS "ord!", d.context::text AS "json!"
           FROM unnest($1::uuid[]) WITH ORDINALITY AS u (task, ord)
           JOIN tasker.task_details d ON d.task_uuid = u.task AND d.task_uuid >= $4 AND d.task_uuid <= ANY (ARRAY[$5::uuid])
           UNION ALL
           SELECT false, u.ord, r.result::text
           FROM unnest($2::uuid[], $3::integer[]) WITH ORDINALITY AS u (task, step, ord)
           CROSS JOIN LATERAL (
               SELECT a.result FROM tasker.attempts a
               WHERE a.task_uuid = u.task AND a.step = u.step AND a.outcome IN ('success', 'by_hand')
                 AND a.task_uuid BETWEEN $4 AND $5
               ORDER BY a.attempt DESC LIMIT 1
           ) r"#,
        &context_tasks,
        &result_tasks,
        &result_steps,
        least,
        last
    )
    .fetch_all(conn)
    .await?;
    let mut inputs = Inputs { contexts: vec![None; contexts.len()], results: vec![None; results.len()] };
    for row in rows {
        let json = RawValue::from_string(row.json).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        let of = if row.is_context { &mut inputs.contexts } else { &mut inputs.results };
        of[position(row.ord)] = Some(json.into());
    }
    Ok(inputs)
}

/// The handlers that the steps of registered templates call for, each with its namespace and without its settings: of
/// `namespaces` or of all, and under these `callables` or under any.
///
/// # Errors
/// Where the database is away.
pub async fn handlers(
    conn: &mut PgConnection,
    namespaces: Option<&[String]>,
    callables: Option<&[String]>,
) -> Result<Vec<(String, HandlerRef)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT DISTINCT t.namespace, h.callable AS "callable!", h.method, h.resolver
           FROM tasker.templates t
           CROSS JOIN LATERAL jsonb_array_elements(t.content -> 'steps') s
           CROSS JOIN LATERAL jsonb_to_record(s -> 'handler') AS h (callable text, method text, resolver text)
           WHERE ($1::text[] IS NULL OR t.namespace = ANY ($1)) AND ($2::text[] IS NULL OR h.callable = ANY ($2))"#,
        namespaces,
        callables
    )
    .fetch_all(conn)
    .await?;
    let handlers = rows.into_iter().map(|row| {
        let (callable, method, resolver) = (row.callable, row.method, row.resolver);
        (row.namespace, HandlerRef { callable, method, resolver, initialization: Value::Null })
    });
    Ok(handlers.collect())
}

/// The ticket queues of these namespaces and pools, each with its band of priority.
///
/// # Errors
/// Where the database is away.
pub async fn queues(
    conn: &mut PgConnection,
    namespaces: &[String],
    pools: &[String],
) -> Result<Vec<(QueueName, i16)>, StoreError> {
    let rows = sqlx::query!(
        "SELECT q.queue, q.band FROM tasker.queues q WHERE q.pool = ANY ($2) AND q.namespace = ANY ($1)
         ORDER BY q.band DESC, q.queue",
        namespaces,
        pools
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|row| Ok((QueueName::new(row.queue)?, row.band))).collect()
}

/// An ordinal counted from 1 as a position.
fn position(ord: i64) -> usize {
    usize::try_from(ord - 1).expect("ordinals count from 1")
}
