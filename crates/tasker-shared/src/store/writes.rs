//! Everything that a batch writes, gathered in memory and written by a number of statements that does not
//! depend on the batch's size.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use pgmq_notify::{Outgoing, Token};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tasker_lifecycle::{Cause, Decision, StepIndex, TaskId, TaskState, Timestamp};
use uuid::Uuid;

use super::tasks::{NewTask, Snapshot, range};
use super::{StoreError, dead_letters, due, to_sql};
use crate::crash_point;
use crate::follows;
use crate::messages::{Report, ReportedOutcome};

/// What the statement fails with where something is not as it was expected.
const OVERTAKEN: &str = "TK003";

/// A result that somebody supplied instead of a handler.
#[derive(Debug, Clone)]
pub struct ByHand {
    /// The result, JSON text as it was sent.
    pub result: Arc<RawValue>,
    /// Whatever else was to be kept.
    pub metadata: Option<Box<RawValue>>,
    /// Who supplied it.
    pub by: String,
}

/// The rows of one transaction, as columns.
#[derive(Debug, Default)]
pub struct Writes {
    /// For the history.
    pub history: HistoryColumns,
    /// For the attempts.
    pub attempts: AttemptColumns,
    /// Tickets and events to send.
    pub tickets: Vec<Outgoing>,
    /// Tickets to delete, whoever holds them.
    pub withdrawn: Vec<Token>,
    /// Due times to insert, and holds.
    pub due: BTreeMap<(TaskId, StepIndex), due::DueTime>,
    /// Due times to delete.
    pub undue: Vec<(TaskId, StepIndex)>,
    /// Dead letter entries.
    pub dead: Vec<dead_letters::Filing>,
    /// What is locked and deleted by the same statement that writes, where that was not done before.
    pub expected: Expected,
}

/// Tasks that nobody has locked, as they are expected to be, and tickets that are expected to be there.
#[derive(Debug, Default)]
pub struct Expected {
    /// The tasks, by id, with their versions.
    pub tasks: BTreeMap<TaskId, i64>,
    /// The tickets to delete.
    pub tokens: Vec<Token>,
}

/// Columns of `tasker.history`.
#[expect(missing_docs, reason = "named as in the table")]
#[derive(Debug, Default)]
pub struct HistoryColumns {
    pub tasks: Vec<Uuid>,
    pub seqs: Vec<i32>,
    pub causes: Vec<&'static str>,
    pub from: Vec<&'static str>,
    pub to: Vec<&'static str>,
    pub changes: Vec<String>,
    pub details: Vec<Option<String>>,
}

/// Columns of `tasker.attempts`.
#[expect(missing_docs, reason = "named as in the table")]
#[derive(Debug, Default)]
pub struct AttemptColumns {
    pub tasks: Vec<Uuid>,
    pub steps: Vec<i32>,
    pub attempts: Vec<i32>,
    pub nonces: Vec<Uuid>,
    pub outcomes: Vec<&'static str>,
    pub retryables: Vec<Option<bool>>,
    pub retry_afters: Vec<Option<i64>>,
    pub workers: Vec<String>,
    pub claimed: Vec<Option<DateTime<Utc>>>,
    pub started: Vec<Option<DateTime<Utc>>>,
    pub ended: Vec<DateTime<Utc>>,
    pub results: Vec<Option<String>>,
    pub errors: Vec<Option<String>>,
    pub metadatas: Vec<Option<String>>,
    pub follows: Vec<Option<String>>,
}

impl Writes {
    /// Adds what `decision` did to a task whose history has `seq` rows now. Decisions with the same cause
    /// that follow each other in one commit share a row, but none is added to a row that says who asked for it.
    pub fn history(&mut self, task: TaskId, seq: &mut i32, cause: Cause, decision: &Decision, at: TaskState) {
        let mut changes = String::with_capacity(decision.transitions.len() * 9);
        for t in &decision.transitions {
            use std::fmt::Write as _;
            let separator = if changes.is_empty() { "" } else { " " };
            write!(changes, "{separator}{}:{}{}@{}", t.step, t.from.letter(), t.to.letter(), t.attempts)
                .expect("a String takes all that is written");
        }
        let (from, to) = decision.task.unwrap_or((at, at));
        let h = &mut self.history;
        let same = h.tasks.last() == Some(&task.uuid()) && h.causes.last() == Some(&cause_name(cause));
        if same && h.details.last() == Some(&None) {
            let last = h.changes.last_mut().expect("as long as tasks");
            last.push(' ');
            last.push_str(&changes);
            *h.to.last_mut().expect("as long as tasks") = to.as_str();
            return;
        }
        *seq += 1;
        h.tasks.push(task.uuid());
        h.seqs.push(*seq);
        h.causes.push(cause_name(cause));
        h.from.push(from.as_str());
        h.to.push(to.as_str());
        h.changes.push(changes);
        h.details.push(None);
    }

    /// Attaches who and why to the history row that was added last.
    pub fn explain(&mut self, detail: String) {
        if let Some(last) = self.history.details.last_mut() {
            *last = Some(detail);
        }
    }

    /// Adds an accepted local report, and `lost` rows for the claims before it that never reported: those after
    /// `decided`, the attempts that the task knows. The ticket's base is lower after a release.
    pub fn attempt(&mut self, report: &Report, decided: u32) {
        for attempt in decided + 1..report.claim.attempt {
            self.attempts.push(report, attempt, "lost");
        }
        self.attempts.push(report, report.claim.attempt, report.outcome.name());
    }

    /// Adds the attempt that a result by hand counts as.
    pub fn by_hand(&mut self, (task, step, attempt): (TaskId, StepIndex, u32), by_hand: &ByHand, at: Timestamp) {
        self.attempts.push_by_hand((task, step, attempt), by_hand, at);
    }

    /// Adds a ticket to send.
    pub fn ticket(&mut self, ticket: Outgoing) {
        self.tickets.push(ticket);
    }

    /// Adds a domain event to send.
    pub fn event(&mut self, message: Outgoing) {
        self.tickets.push(message);
    }

    /// Adds a ticket to delete, claimed or not.
    pub fn withdraw(&mut self, token: Token) {
        self.withdrawn.push(token);
    }

    /// Adds a row to the due-time table.
    pub fn schedule(&mut self, row: due::DueTime) {
        self.due.insert((row.task, row.step), row);
    }

    /// Adds a due-time row to delete.
    pub fn unschedule(&mut self, task: TaskId, step: StepIndex) {
        // A wait that began in this same commit was never written.
        if self.due.remove(&(task, step)).is_none_or(|row| row.replaces) {
            self.undue.push((task, step));
        }
    }

    /// Adds a dead letter entry.
    pub fn dead_letter(&mut self, filing: dead_letters::Filing) {
        self.dead.push(filing);
    }

    /// Whether one statement writes all of it.
    #[must_use]
    pub fn are_one_statement(&self) -> bool {
        self.withdrawn.is_empty() && self.undue.is_empty() && self.due.is_empty() && self.dead.is_empty()
    }

    /// Whether anything is to be written beside the tasks themselves.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Whatever else is written comes with a row of the history, but for a hold that changes its resource.
        self.history.tasks.is_empty() && self.attempts.tasks.is_empty() && self.due.is_empty()
    }

    /// Writes the tasks that changed and everything gathered here. The tasks must be locked, or expected.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] where something is not as it was expected, and else where the database refuses, or a task
    /// was not there any more.
    pub async fn apply(
        self,
        conn: &mut PgConnection,
        tasks: &[&Snapshot],
        now: Timestamp,
        processor: &str,
    ) -> Result<(), StoreError> {
        let t = TaskColumns::of(tasks);
        let (least, last) = range(&t.uuids);
        let (h, a, q) = (&self.history, &self.attempts, TicketColumns::of(&self.tickets));
        let e = ExpectedColumns::of(&self.expected);
        crash_point::pass("advance.before_write").await?;
        let written = sqlx::query_file_scalar!(
            "src/store/apply.sql",
            &t.uuids,
            &t.states as &[&str],
            &t.versions,
            &t.seqs,
            &t.steps,
            &t.sparse,
            to_sql(now),
            processor,
            &h.tasks,
            &h.seqs,
            &h.causes as &[&str],
            &h.from as &[&str],
            &h.to as &[&str],
            &h.changes,
            &h.details as &[Option<String>],
            &a.tasks,
            &a.steps,
            &a.attempts,
            &a.nonces,
            &a.outcomes as &[&str],
            &a.retryables as &[Option<bool>],
            &a.retry_afters as &[Option<i64>],
            &a.workers,
            &a.claimed as &[Option<DateTime<Utc>>],
            &a.started as &[Option<DateTime<Utc>>],
            &a.ended,
            &a.results as &[Option<String>],
            &a.errors as &[Option<String>],
            &a.metadatas as &[Option<String>],
            &q.queues,
            &q.msg_ids,
            &q.bodies,
            &q.delays,
            &q.read_cts,
            least,
            last,
            &t.expansions as &[Option<String>],
            &a.follows as &[Option<String>],
            &e.tasks,
            &e.versions,
            &e.queues as &[&str],
            &e.msg_ids,
            &e.read_cts,
            &e.nonces
        )
        .fetch_one(&mut *conn)
        .await
        .map_err(overtaken)?;
        if written != i64::try_from(tasks.len()).unwrap_or(i64::MAX) {
            return Err(StoreError::Incomplete { expected: tasks.len(), written });
        }
        crash_point::pass("advance.after_write").await?;
        self.rare(conn).await
    }

    /// Inserts new tasks with their first history and tickets.
    ///
    /// # Errors
    /// Where the database refuses or is away.
    pub async fn insert(
        self,
        conn: &mut PgConnection,
        tasks: &[NewTask],
        now: Timestamp,
        processor: &str,
    ) -> Result<(), StoreError> {
        let snapshots: Vec<&Snapshot> = tasks.iter().map(|task| &task.snapshot).collect();
        let t = TaskColumns::of(&snapshots);
        let n = NewColumns::of(tasks);
        let (h, q) = (&self.history, TicketColumns::of(&self.tickets));
        crash_point::pass("create.before_write").await?;
        sqlx::query_file_scalar!(
            "src/store/insert.sql",
            &t.uuids,
            &t.states as &[&str],
            &t.versions,
            &t.seqs,
            &t.steps,
            &t.sparse,
            to_sql(now),
            processor,
            &h.tasks,
            &h.seqs,
            &h.causes as &[&str],
            &h.from as &[&str],
            &h.to as &[&str],
            &h.changes,
            &q.queues,
            &q.msg_ids,
            &q.bodies,
            &q.delays,
            &q.read_cts,
            &n.namespaces as &[&str],
            &n.names as &[&str],
            &n.hashes as &[&[u8]],
            &n.priorities,
            &n.contexts as &[&str],
            &n.correlations,
            &n.parents as &[Option<Uuid>],
            &n.initiators as &[Option<&str>],
            &n.sources as &[Option<&str>],
            &n.reasons as &[Option<&str>],
            &n.tags,
            &n.keys as &[Option<&str>],
            &n.requested as &[Option<DateTime<Utc>>],
            &n.options as &[Option<&str>]
        )
        .fetch_one(&mut *conn)
        .await?;
        crash_point::pass("create.after_write").await?;
        self.rare(conn).await
    }

    /// What most batches have none of.
    async fn rare(self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if !self.withdrawn.is_empty() {
            pgmq_notify::delete_any(conn, &self.withdrawn).await?;
        }
        if !self.undue.is_empty() {
            due::delete(conn, &self.undue).await?;
        }
        if !self.due.is_empty() {
            due::insert(conn, self.due.values()).await?;
        }
        if !self.dead.is_empty() {
            dead_letters::file(conn, &self.dead).await?;
        }
        Ok(())
    }
}

impl AttemptColumns {
    fn push(&mut self, report: &Report, attempt: u32, outcome: &'static str) {
        let lost = outcome == "lost";
        let at = |moment: Timestamp| (!lost).then(|| to_sql(moment));
        self.tasks.push(report.claim.task.uuid());
        self.steps.push(step_column(report.claim.step));
        self.attempts.push(i32::try_from(attempt).unwrap_or(i32::MAX));
        self.nonces.push(report.claim.token.nonce);
        self.outcomes.push(outcome);
        self.workers.push(report.worker.to_string());
        self.claimed.push(at(report.claim.claimed_at));
        self.started.push(report.started_at.and_then(at));
        self.ended.push(to_sql(report.ended_at));
        let mut payload = Payload::default();
        if !lost {
            payload = Payload::of(&report.outcome);
        }
        self.retryables.push(payload.retryable);
        self.retry_afters.push(payload.retry_after_ms);
        self.results.push(payload.result);
        self.errors.push(payload.error);
        self.metadatas.push(payload.metadata);
        self.follows.push(payload.follows);
    }

    /// No claim was made and no handler ran, so only the end has a time. The nonce is that of no ticket.
    fn push_by_hand(&mut self, (task, step, attempt): (TaskId, StepIndex, u32), by_hand: &ByHand, at: Timestamp) {
        self.tasks.push(task.uuid());
        self.steps.push(step_column(step));
        self.attempts.push(i32::try_from(attempt).unwrap_or(i32::MAX));
        self.nonces.push(Uuid::from_u128(rand::random()));
        self.outcomes.push("by_hand");
        self.retryables.push(None);
        self.retry_afters.push(None);
        self.workers.push(by_hand.by.clone());
        self.claimed.push(None);
        self.started.push(None);
        self.ended.push(to_sql(at));
        self.results.push(Some(by_hand.result.get().to_owned()));
        self.errors.push(None);
        self.metadatas.push(by_hand.metadata.as_ref().map(|metadata| metadata.get().to_owned()));
        self.follows.push(None);
    }
}

/// The columns that depend on the outcome.
#[derive(Debug, Default)]
pub(super) struct Payload {
    pub(super) retryable: Option<bool>,
    pub(super) retry_after_ms: Option<i64>,
    pub(super) result: Option<String>,
    pub(super) error: Option<String>,
    pub(super) metadata: Option<String>,
    pub(super) follows: Option<String>,
}

impl Payload {
    pub(super) fn of(outcome: &ReportedOutcome) -> Self {
        match outcome {
            ReportedOutcome::Success { result, metadata, follows } => Self {
                follows: follows::to_json(follows),
                result: Some(result.get().to_owned()),
                metadata: metadata.as_ref().map(|m| m.get().to_owned()),
                ..Self::default()
            },
            ReportedOutcome::Failure { error, retryable, retry_after_ms, metadata } => Self {
                retryable: Some(*retryable),
                retry_after_ms: retry_after_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
                error: Some(serde_json::to_string(error).expect("strings always encode")),
                metadata: metadata.as_ref().map(|m| m.get().to_owned()),
                ..Self::default()
            },
            ReportedOutcome::LeaseLost => Self::default(),
        }
    }
}

/// The task row's columns.
struct TaskColumns {
    uuids: Vec<Uuid>,
    states: Vec<&'static str>,
    versions: Vec<i64>,
    seqs: Vec<i32>,
    steps: Vec<String>,
    sparse: Vec<String>,
    expansions: Vec<Option<String>>,
}

impl TaskColumns {
    fn of(tasks: &[&Snapshot]) -> Self {
        let mut columns = Self {
            uuids: Vec::with_capacity(tasks.len()),
            states: Vec::with_capacity(tasks.len()),
            versions: Vec::with_capacity(tasks.len()),
            seqs: Vec::with_capacity(tasks.len()),
            steps: Vec::with_capacity(tasks.len()),
            sparse: Vec::with_capacity(tasks.len()),
            expansions: Vec::with_capacity(tasks.len()),
        };
        for snapshot in tasks {
            let stored = snapshot.task.to_stored();
            columns.uuids.push(snapshot.task.id().uuid());
            columns.states.push(stored.state.as_str());
            columns.versions.push(snapshot.version);
            columns.seqs.push(snapshot.seq);
            columns.steps.push(stored.steps);
            columns.sparse.push(stored.sparse);
            columns.expansions.push(stored.expansions);
        }
        columns
    }
}

/// The columns of tickets to send.
struct TicketColumns {
    queues: Vec<String>,
    msg_ids: Vec<i64>,
    bodies: Vec<String>,
    delays: Vec<i64>,
    read_cts: Vec<i32>,
}

impl TicketColumns {
    fn of(tickets: &[Outgoing]) -> Self {
        Self {
            queues: tickets.iter().map(|t| t.queue.to_string()).collect(),
            msg_ids: tickets.iter().map(|t| t.msg_id).collect(),
            bodies: tickets.iter().map(|t| t.body.clone()).collect(),
            delays: tickets.iter().map(|t| i64::try_from(t.delay.as_millis()).unwrap_or(i64::MAX)).collect(),
            read_cts: tickets.iter().map(|t| t.read_ct).collect(),
        }
    }
}

/// The columns of what is expected.
struct ExpectedColumns<'a> {
    tasks: Vec<Uuid>,
    versions: Vec<i64>,
    queues: Vec<&'a str>,
    msg_ids: Vec<i64>,
    read_cts: Vec<i32>,
    nonces: Vec<Uuid>,
}

impl<'a> ExpectedColumns<'a> {
    fn of(Expected { tasks, tokens }: &'a Expected) -> Self {
        Self {
            tasks: tasks.keys().map(|task| task.uuid()).collect(),
            versions: tasks.values().copied().collect(),
            queues: tokens.iter().map(|token| token.queue.as_str()).collect(),
            msg_ids: tokens.iter().map(|token| token.msg_id).collect(),
            read_cts: tokens.iter().map(|token| token.read_ct).collect(),
            nonces: tokens.iter().map(|token| token.nonce).collect(),
        }
    }
}

fn overtaken(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(error) if error.code().as_deref() == Some(OVERTAKEN) => StoreError::Overtaken,
        error => error.into(),
    }
}

/// The columns that only a new task has.
struct NewColumns<'a> {
    namespaces: Vec<&'a str>,
    names: Vec<&'a str>,
    hashes: Vec<&'a [u8]>,
    priorities: Vec<i16>,
    contexts: Vec<&'a str>,
    correlations: Vec<Uuid>,
    parents: Vec<Option<Uuid>>,
    initiators: Vec<Option<&'a str>>,
    sources: Vec<Option<&'a str>>,
    reasons: Vec<Option<&'a str>>,
    tags: Vec<String>,
    keys: Vec<Option<&'a str>>,
    requested: Vec<Option<DateTime<Utc>>>,
    options: Vec<Option<&'a str>>,
}

impl<'a> NewColumns<'a> {
    fn of(tasks: &'a [NewTask]) -> Self {
        let template = |task: &'a NewTask| task.snapshot.task.template();
        let each = || tasks.iter().map(|task| &task.details);
        Self {
            namespaces: tasks.iter().map(|task| template(task).namespace.as_str()).collect(),
            names: tasks.iter().map(|task| template(task).name.as_str()).collect(),
            hashes: tasks.iter().map(|task| &template(task).hash.0[..]).collect(),
            priorities: tasks.iter().map(|task| task.snapshot.priority).collect(),
            contexts: tasks.iter().map(|task| task.context.get()).collect(),
            correlations: tasks.iter().map(|task| task.snapshot.correlation_id).collect(),
            parents: each().map(|d| d.parent_correlation_id).collect(),
            initiators: each().map(|d| d.initiator.as_deref()).collect(),
            sources: each().map(|d| d.source_system.as_deref()).collect(),
            reasons: each().map(|d| d.reason.as_deref()).collect(),
            tags: each().map(|d| serde_json::to_string(&d.tags).expect("strings encode")).collect(),
            keys: each().map(|d| d.idempotency_key.as_deref()).collect(),
            requested: each().map(|d| d.requested_at).collect(),
            options: each().map(|d| d.options.as_deref()).collect(),
        }
    }
}

/// A step's position as it is stored.
pub(super) fn step_column(step: StepIndex) -> i32 {
    i32::try_from(step.0).expect("at most 100,000 steps")
}

/// The history's word for a cause.
#[must_use]
pub fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Started => "started",
        Cause::Reported => "reported",
        Cause::Due => "due",
        Cause::Admitted => "admitted",
        Cause::Parked => "parked",
        Cause::Cancelled => "cancelled",
        Cause::Expired => "expired",
        Cause::StepReset => "step_reset",
        Cause::StepResolved => "step_resolved",
        Cause::StepCompleted => "step_completed",
    }
}
