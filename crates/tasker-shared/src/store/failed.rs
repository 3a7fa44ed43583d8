//! Failed steps of live tasks, for repairing many at once.

use sqlx::PgConnection;
use tasker_lifecycle::{StepIndex, TaskId};
use uuid::Uuid;

use super::StoreError;
use super::tasks::task_id;

/// Live tasks that are looked at for one page: a rare match can't make it a scan of them all.
const WALK_MAX: i64 = 2_000;

/// What every step must be like; what is absent does not matter.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its task's namespace.
    pub namespace: Option<String>,
    /// Its template's name.
    pub name: Option<String>,
    /// Its name.
    pub step: Option<String>,
    /// Its handler.
    pub handler: Option<String>,
    /// The class of its last error; `lease_lost` where the attempts were used up by lost workers.
    pub error_type: Option<String>,
}

/// A failed step of a live task.
#[derive(Debug, Clone)]
pub struct FailedStep {
    /// The task.
    pub task: TaskId,
    /// The step.
    pub step: StepIndex,
    /// The step's name.
    pub step_name: Option<String>,
    /// Its task's namespace.
    pub namespace: String,
    /// Its template's name.
    pub task_name: String,
    /// Its handler.
    pub handler: Option<String>,
    /// Attempts made.
    pub attempts: i32,
    /// The class of its last error.
    pub error_type: Option<String>,
}

/// Up to `limit` failed steps after `after`, by task and position, and where to go on; nowhere once all live tasks were
/// looked at.
///
/// # Errors
/// Where the database is away.
pub async fn failed_steps(
    conn: &mut PgConnection,
    wanted: &Wanted,
    after: (Uuid, i32),
    limit: usize,
) -> Result<(Vec<FailedStep>, Option<(Uuid, i32)>), StoreError> {
    let walked = sqlx::query_scalar!(
        "SELECT task_uuid FROM tasker.tasks WHERE ended_at IS NULL AND task_uuid >= $1 ORDER BY task_uuid LIMIT $2",
        after.0,
        WALK_MAX
    )
    .fetch_all(&mut *conn)
    .await?;
    let rows = sqlx::query!(
        r#"SELECT t.task_uuid AS "task_uuid!", (n.ord - 1)::integer AS "step!", t.namespace AS "namespace!",
                  t.name AS "name!", d.step_name, d.step -> 'handler' ->> 'callable' AS handler,
                  coalesce((t.sparse -> ((n.ord - 1)::text) ->> 'a')::integer, 0) AS "attempts!",
                  coalesce(a.error ->> 'error_type', a.outcome) AS error_type
           FROM unnest($1::uuid[]) AS u (id)
           JOIN tasker.tasks t ON t.task_uuid = u.id
           JOIN tasker.templates c ON c.hash = t.template_hash
           CROSS JOIN LATERAL string_to_table(t.steps, NULL) WITH ORDINALITY AS n (letter, ord)
           CROSS JOIN LATERAL (
               SELECT c.content -> 'steps' -> tasker.pattern(c.content, t.expansions, (n.ord - 1)::integer) AS step,
                      tasker.step_name(c.content, t.expansions, t.task_uuid, (n.ord - 1)::integer) AS step_name
           ) d
           LEFT JOIN tasker.attempts a ON a.task_uuid = t.task_uuid AND a.step = (n.ord - 1)::integer
                                      AND a.attempt = (t.sparse -> ((n.ord - 1)::text) ->> 'a')::integer
           WHERE t.ended_at IS NULL AND strpos(t.steps, 'E') > 0 AND n.letter = 'E'
             AND (t.task_uuid, (n.ord - 1)::integer) > ($2, $3)
             AND ($4::text IS NULL OR t.namespace = $4) AND ($5::text IS NULL OR t.name = $5)
             AND ($6::text IS NULL OR d.step_name = $6 OR d.step ->> 'name' = $6)
             AND ($7::text IS NULL OR d.step -> 'handler' ->> 'callable' = $7)
             AND ($8::text IS NULL OR coalesce(a.error ->> 'error_type', a.outcome) = $8)
           ORDER BY t.task_uuid, n.ord LIMIT $9"#,
        &walked,
        after.0,
        after.1,
        wanted.namespace.as_deref(),
        wanted.name.as_deref(),
        wanted.step.as_deref(),
        wanted.handler.as_deref(),
        wanted.error_type.as_deref(),
        i64::try_from(limit).unwrap_or(i64::MAX)
    )
    .fetch_all(conn)
    .await?;
    let full = rows.len() >= limit;
    let cut_off = i64::try_from(walked.len()).is_ok_and(|looked_at| looked_at >= WALK_MAX);
    let next = match (rows.last(), walked.last()) {
        (Some(last), _) if full => Some((last.task_uuid, last.step)),
        (_, Some(last)) if cut_off => Some((*last, i32::MAX)),
        _ => None,
    };
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        found.push(FailedStep {
            task: task_id(row.task_uuid)?,
            step: StepIndex(u32::try_from(row.step).unwrap_or(0)),
            step_name: row.step_name,
            namespace: row.namespace,
            task_name: row.name,
            handler: row.handler,
            attempts: row.attempts,
            error_type: row.error_type,
        });
    }
    Ok((found, next))
}
