//! Resources that steps share: their limits, their circuit breakers, and who holds a permit for them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tasker_lifecycle::resource::{Breaker, Resource};
use tasker_lifecycle::template::Template;
use tasker_lifecycle::{Nonce, StepIndex, TaskId, Timestamp};
use uuid::Uuid;

pub use super::due::ResourceKey;
use super::tasks::task_id;
use super::writes::step_column;
use super::{StoreError, from_sql, to_sql};

/// A resource with what depends on it.
#[derive(Debug, Clone)]
pub struct Gate {
    /// The resource.
    pub resource: Resource,
    /// How many steps have a ticket.
    pub in_flight: u32,
    /// Whether steps are held by it.
    pub waiting: bool,
}

struct Row {
    namespace: String,
    resource: String,
    max_in_flight: Option<i32>,
    failures_to_open: i32,
    open_ms: i32,
    max_open_ms: i32,
    paused: bool,
    state: String,
    failures: i32,
    times: i32,
    allowed: i32,
    open_until: Option<DateTime<Utc>>,
    in_flight: i64,
    waiting: bool,
    now: Option<DateTime<Utc>>,
}

impl Row {
    fn gate(self) -> (ResourceKey, Gate) {
        let times = count(self.times);
        let breaker = match (self.state.as_str(), self.open_until) {
            ("open", Some(until)) => Breaker::Open { until: from_sql(until), times },
            ("half_open", _) => Breaker::HalfOpen { allowed: count(self.allowed), times },
            _ => Breaker::Closed { failures: count(self.failures) },
        };
        let resource = Resource {
            max_in_flight: self.max_in_flight.map(count),
            failures_to_open: count(self.failures_to_open),
            open_ms: count(self.open_ms),
            max_open_ms: count(self.max_open_ms),
            paused: self.paused,
            breaker,
        };
        let in_flight = u32::try_from(self.in_flight).unwrap_or(u32::MAX);
        let key = ResourceKey { namespace: self.namespace, name: self.resource };
        (key, Gate { resource, in_flight, waiting: self.waiting })
    }
}

/// A permit: that a step has a ticket.
pub type Permit = (ResourceKey, TaskId, StepIndex);

/// Makes known the resources that a template names. Those that are known keep their settings.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn register(conn: &mut PgConnection, template: &Template) -> Result<(), StoreError> {
    let used = template.steps.iter().flat_map(|step| &step.uses);
    let names: BTreeSet<String> = used.map(ToString::to_string).collect();
    if names.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO tasker.resources (namespace, resource) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
        template.namespace.as_str(),
        &names.into_iter().collect::<Vec<_>>()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks resources until the transaction ends. The tasks of the batch must be locked before.
///
/// # Errors
/// Where the database is away.
pub async fn lock(
    conn: &mut PgConnection,
    keys: &BTreeSet<ResourceKey>,
) -> Result<Vec<(ResourceKey, Gate)>, StoreError> {
    let (namespaces, names) = columns(keys.iter());
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT namespace AS "namespace!", resource AS "resource!", max_in_flight,
                  failures_to_open AS "failures_to_open!", open_ms AS "open_ms!", max_open_ms AS "max_open_ms!",
                  paused AS "paused!", state AS "state!", failures AS "failures!", times AS "times!",
                  allowed AS "allowed!", open_until, in_flight AS "in_flight!", waiting AS "waiting!", NULL::timestamptz AS now
           FROM tasker.lock_resources($1, $2)"#,
        &namespaces as &[&str],
        &names as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Row::gate).collect())
}

/// Writes the breakers that moved.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn save(
    conn: &mut PgConnection,
    moved: &[(&ResourceKey, &Breaker)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let (namespaces, names) = columns(moved.iter().map(|(key, _)| *key));
    let states: Vec<&str> = moved.iter().map(|(_, breaker)| breaker.name()).collect();
    let numbers = moved.iter().map(|(_, breaker)| match **breaker {
        Breaker::Closed { failures } => (failures, 0, 0, None),
        Breaker::Open { until, times } => (0, times, 0, Some(to_sql(until))),
        Breaker::HalfOpen { allowed, times } => (0, times, allowed, None),
    });
    let column = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let numbers: Vec<(i32, i32, i32, Option<DateTime<Utc>>)> = numbers
        .map(|(failures, times, allowed, until)| (column(failures), column(times), column(allowed), until))
        .collect();
    sqlx::query!(
        "UPDATE tasker.resources r
         SET state = u.state, failures = u.failures, times = u.times, allowed = u.allowed, open_until = u.until,
             changed_at = CASE WHEN r.state = u.state THEN r.changed_at ELSE $8 END
         FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::integer[], $6::integer[], $7::timestamptz[])
             AS u (namespace, name, state, failures, times, allowed, until)
         WHERE r.namespace = u.namespace AND r.resource = u.name",
        &namespaces as &[&str],
        &names as &[&str],
        &states as &[&str],
        &numbers.iter().map(|n| n.0).collect::<Vec<_>>(),
        &numbers.iter().map(|n| n.1).collect::<Vec<_>>(),
        &numbers.iter().map(|n| n.2).collect::<Vec<_>>(),
        &numbers.iter().map(|n| n.3).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        to_sql(now)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives permits and takes them back.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn permit(conn: &mut PgConnection, given: &[&Permit], taken_back: &[&Permit]) -> Result<(), StoreError> {
    if !given.is_empty() {
        let ((namespaces, names), (tasks, steps)) = permit_columns(given);
        sqlx::query!(
            "INSERT INTO tasker.permits (namespace, resource, task_uuid, step)
             SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::integer[]) ON CONFLICT DO NOTHING",
            &namespaces as &[&str],
            &names as &[&str],
            &tasks,
            &steps
        )
        .execute(&mut *conn)
        .await?;
    }
    if !taken_back.is_empty() {
        let ((namespaces, names), (tasks, steps)) = permit_columns(taken_back);
        sqlx::query!(
            "DELETE FROM tasker.permits p
             USING unnest($1::text[], $2::text[], $3::uuid[], $4::integer[]) AS u (namespace, name, task, step)
             WHERE p.namespace = u.namespace AND p.resource = u.name AND p.task_uuid = u.task AND p.step = u.step",
            &namespaces as &[&str],
            &names as &[&str],
            &tasks,
            &steps
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// The resources that hold steps, and the time of the look. They are not locked: what they say may have changed when
/// they are.
///
/// # Errors
/// Where the database is away.
pub async fn holding(conn: &mut PgConnection) -> Result<(Vec<(ResourceKey, Gate)>, Timestamp), StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT r.namespace, r.resource, r.max_in_flight, r.failures_to_open, r.open_ms, r.max_open_ms, r.paused,
                  r.state, r.failures, r.times, r.allowed, r.open_until, true AS "waiting!", clock_timestamp() AS now,
                  (SELECT count(*) FROM tasker.permits p
                   WHERE p.namespace = r.namespace AND p.resource = r.resource) AS "in_flight!"
           FROM tasker.resources r
           WHERE EXISTS (SELECT FROM tasker.due_times d WHERE d.namespace = r.namespace AND d.resource = r.resource)"#
    )
    .fetch_all(conn)
    .await?;
    let now = rows.first().and_then(|row| row.now).map_or(Timestamp(0), from_sql);
    Ok((rows.into_iter().map(Row::gate).collect(), now))
}

/// A step that a resource holds.
#[derive(Debug, Clone)]
pub struct HeldStep {
    /// The task.
    pub task: TaskId,
    /// The step.
    pub step: StepIndex,
    /// The nonce of the row that holds it.
    pub nonce: Nonce,
    /// What holds it.
    pub key: ResourceKey,
}

/// Of each resource as many steps as are asked for, those first that are held longest; not locked.
///
/// # Errors
/// Where the database is away.
pub async fn held(conn: &mut PgConnection, wanted: &[(ResourceKey, u32)]) -> Result<Vec<HeldStep>, StoreError> {
    let (namespaces, names) = columns(wanted.iter().map(|(key, _)| key));
    let rooms: Vec<i64> = wanted.iter().map(|(_, room)| i64::from(*room)).collect();
    let rows = sqlx::query!(
        r#"SELECT d.task_uuid AS "task_uuid!", d.step AS "step!", d.nonce AS "nonce!", u.namespace AS "namespace!",
                  u.name AS "name!"
           FROM unnest($1::text[], $2::text[], $3::bigint[]) AS u (namespace, name, room)
           CROSS JOIN LATERAL (
               SELECT d.task_uuid, d.step, d.nonce FROM tasker.due_times d
               WHERE d.namespace = u.namespace AND d.resource = u.name AND d.resource IS NOT NULL
               ORDER BY d.due_at LIMIT u.room
           ) d"#,
        &namespaces as &[&str],
        &names as &[&str],
        &rooms
    )
    .fetch_all(conn)
    .await?;
    let held = rows.into_iter().map(|row| {
        let step = StepIndex(u32::try_from(row.step).unwrap_or(u32::MAX));
        let key = ResourceKey { namespace: row.namespace, name: row.name };
        Ok(HeldStep { task: task_id(row.task_uuid)?, step, nonce: Nonce(row.nonce), key })
    });
    held.collect()
}

/// A page of the steps that have a ticket although a resource that they use is open or paused, by their ids.
///
/// # Errors
/// Where the database is away.
pub async fn revocable(
    conn: &mut PgConnection,
    after: Option<(TaskId, StepIndex)>,
    limit: i64,
) -> Result<Vec<(TaskId, StepIndex)>, StoreError> {
    let (task, step) = after.map_or((Uuid::nil(), -1), |(task, step)| (task.uuid(), step_column(step)));
    let rows = sqlx::query!(
        "SELECT DISTINCT p.task_uuid, p.step FROM tasker.permits p JOIN tasker.resources r USING (namespace, resource)
         WHERE (r.state = 'open' OR r.paused) AND (p.task_uuid, p.step) > ($1, $2)
         ORDER BY p.task_uuid, p.step LIMIT $3",
        task,
        step,
        limit
    )
    .fetch_all(conn)
    .await?;
    let steps = rows
        .into_iter()
        .map(|row| Ok((task_id(row.task_uuid)?, StepIndex(u32::try_from(row.step).unwrap_or(u32::MAX)))));
    steps.collect()
}

/// A resource as people see it.
#[derive(Debug, Clone)]
pub struct Known {
    /// Which it is.
    pub key: ResourceKey,
    /// Itself, and what depends on it.
    pub gate: Gate,
    /// How many steps it holds.
    pub held: i64,
    /// Who gave it its settings last.
    pub set_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When its breaker moved last, or its settings changed.
    pub changed_at: DateTime<Utc>,
}

/// The resources of a namespace or of all, or the one of this name, by namespace and name.
///
/// # Errors
/// Where the database is away.
pub async fn list(
    conn: &mut PgConnection,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<Known>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT r.*, (SELECT count(*) FROM tasker.permits p
                        WHERE p.namespace = r.namespace AND p.resource = r.resource) AS "in_flight!",
                  (SELECT count(*) FROM tasker.due_times d
                   WHERE d.namespace = r.namespace AND d.resource = r.resource) AS "held!"
           FROM tasker.resources r
           WHERE ($1::text IS NULL OR r.namespace = $1) AND ($2::text IS NULL OR r.resource = $2)
           ORDER BY r.namespace, r.resource"#,
        namespace,
        name
    )
    .fetch_all(conn)
    .await?;
    let known = rows.into_iter().map(|r| {
        let (set_by, reason, changed_at, held) = (r.set_by, r.reason, r.changed_at, r.held);
        let (key, gate) = Row {
            namespace: r.namespace,
            resource: r.resource,
            max_in_flight: r.max_in_flight,
            failures_to_open: r.failures_to_open,
            open_ms: r.open_ms,
            max_open_ms: r.max_open_ms,
            paused: r.paused,
            state: r.state,
            failures: r.failures,
            times: r.times,
            allowed: r.allowed,
            open_until: r.open_until,
            in_flight: r.in_flight,
            waiting: held > 0,
            now: None,
        }
        .gate();
        Known { key, gate, held, set_by, reason, changed_at }
    });
    Ok(known.collect())
}

/// The resources whose breaker is not closed, as `namespace/name`; the first twenty.
///
/// # Errors
/// Where the database is away.
pub async fn failed(conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let failed = sqlx::query_scalar!(
        r#"SELECT namespace || '/' || resource AS "name!" FROM tasker.resources WHERE state <> 'closed'
           ORDER BY namespace, resource LIMIT 20"#
    );
    Ok(failed.fetch_all(conn).await?)
}

/// What an operator changes; what is none stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// The most steps that may have a ticket at once; 0 for any number.
    pub max_in_flight: Option<i32>,
    /// So many failures in a row open the breaker; 0 never does.
    pub failures_to_open: Option<i32>,
    /// How long it stays open at first, in milliseconds.
    pub open_ms: Option<i32>,
    /// The longest that it stays open, in milliseconds.
    pub max_open_ms: Option<i32>,
    /// Whether nothing is let through.
    pub paused: Option<bool>,
    /// Whether the breaker is closed by hand.
    pub close: bool,
}

/// Changes settings, with who and why; answers whether there is such a resource.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn set(
    conn: &mut PgConnection,
    key: &ResourceKey,
    settings: Settings,
    (by, reason): (&str, &str),
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "UPDATE tasker.resources
         SET max_in_flight = CASE WHEN $3::integer IS NULL THEN max_in_flight ELSE nullif($3, 0) END,
             failures_to_open = coalesce($4, failures_to_open), open_ms = coalesce($5, open_ms),
             max_open_ms = greatest(coalesce($6, max_open_ms), coalesce($5, open_ms)),
             paused = coalesce($7, paused), set_by = $8, reason = $9, changed_at = clock_timestamp(),
             state = CASE WHEN $10 THEN 'closed' ELSE state END, failures = CASE WHEN $10 THEN 0 ELSE failures END,
             times = CASE WHEN $10 THEN 0 ELSE times END, allowed = CASE WHEN $10 THEN 0 ELSE allowed END,
             open_until = CASE WHEN $10 THEN NULL ELSE open_until END
         WHERE namespace = $1 AND resource = $2",
        key.namespace,
        key.name,
        settings.max_in_flight,
        settings.failures_to_open,
        settings.open_ms,
        settings.max_open_ms,
        settings.paused,
        by,
        reason,
        settings.close
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() > 0)
}

fn columns<'a>(keys: impl Iterator<Item = &'a ResourceKey>) -> (Vec<&'a str>, Vec<&'a str>) {
    keys.map(|key| (key.namespace.as_str(), key.name.as_str())).unzip()
}

type PermitColumns<'a> = ((Vec<&'a str>, Vec<&'a str>), (Vec<Uuid>, Vec<i32>));

fn permit_columns<'a>(permits: &[&'a Permit]) -> PermitColumns<'a> {
    let ids = permits.iter().map(|(_, task, step)| (task.uuid(), step_column(*step)));
    (columns(permits.iter().map(|(key, _, _)| key)), ids.unzip())
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}
