//! A task in the middle of its life, what can happen to it at the same moment, and what must hold afterwards.

use std::sync::Arc;
use std::time::Duration;

use pgmq_notify::{Extension, QueueName};
use serde_json::json;
use serde_json::value::RawValue;
use sqlx::PgPool;
use tasker_lifecycle::template::{self, Template};
use tasker_lifecycle::{Event, Follows, StepIndex, StepState, Task, TaskId, TaskState, Timestamp};
use tasker_shared::messages::{Claim, Report, ReportedOutcome, StepFailure, Verdict, ticket_queue};
use tasker_shared::store::claims::{self, Loaded};
use tasker_shared::store::tasks::{self, Snapshot};
use tasker_shared::store::templates::Templates;
use tasker_shared::store::{checkpoints, reports, sweep};

use crate::advance::conformance::server::{Server, history, history_folds, violations};

const LEASE: Duration = Duration::from_secs(60);
/// The steps of the task, in their order. `join` waits for `left` and `right`.
const STEPS: [&str; 6] = ["left", "right", "late", "bad", "open", "join"];
const LEFT: StepIndex = StepIndex(0);
const BAD: StepIndex = StepIndex(3);

/// What happens to a task, or beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// A worker claims what is there, `left` too, whose lease is over, and looks at what it has.
    Claim,
    /// The worker that had `left` reports, through the queue.
    Report,
    /// The same, in the server's process.
    ReportHere,
    /// The same, and the server's cache has the task as it was before both.
    ReportAtOnce,
    /// The worker that had `left` extends its lease.
    Heartbeat,
    /// The worker that had `left` stores a checkpoint.
    Checkpoint,
    Cancel,
    /// The due time of `late` has come.
    ComeDue,
    /// A task is asked for, always under the same key.
    Create,
    /// A server decides on the stored attempt of `right`.
    Decide,
    /// An operator resets `bad`.
    Reset,
}

impl Deed {
    pub(super) const ALL: [Self; 11] = [
        Self::Claim,
        Self::Report,
        Self::ReportHere,
        Self::ReportAtOnce,
        Self::Heartbeat,
        Self::Checkpoint,
        Self::Cancel,
        Self::ComeDue,
        Self::Create,
        Self::Decide,
        Self::Reset,
    ];
}

/// What the one who did it was told.
#[derive(Debug)]
pub(super) enum Told {
    Nothing,
    /// The claims, and whether each may be run.
    Claims(Vec<(Claim, bool)>),
    Verdict(Verdict),
    Extension(Extension),
    Task(TaskId),
}

/// Who did what, and between which statements of both: `began` before its own first one, `last` before its last.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) deed: Deed,
    pub(super) told: Told,
    pub(super) began: usize,
    pub(super) last: usize,
    pub(super) ended: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) task: TaskId,
    template: Template,
    queue: QueueName,
    /// The claim of `left`, whose lease is over.
    left: Claim,
    /// The task as it is before both.
    before: Snapshot,
}

pub(super) fn template() -> Template {
    let step = |name: &&str| {
        let dependencies = if *name == "join" { json!(["left", "right"]) } else { json!([]) };
        let retry = json!({"max_attempts": 5, "backoff": "none", "max_backoff_ms": 200_000});
        json!({"name": name, "handler": "h", "dependencies": dependencies, "retry": retry})
    };
    let steps: Vec<_> = STEPS.iter().map(step).collect();
    let document = json!({"name": "met", "namespace_name": "test", "version": "1.0.0", "steps": steps});
    template::from_json(&document, None).unwrap().0
}

impl Scene {
    pub(super) async fn begin(server: &Server, pool: &PgPool, template: &Template) -> Self {
        let task = server.create(template, 1).await[0];
        let queue = ticket_queue("test", "default", 0).unwrap();
        let mut conn = pool.acquire().await.unwrap();
        let claimed = claims::claim(&mut conn, &[queue.clone().into()], LEASE, 4).await.unwrap();
        let claimed = claimed.messages.iter().map(|message| Claim::from_message(message, Timestamp(0)).unwrap());
        let [left, right, late, bad] = claimed.collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((left.step, bad.step), (LEFT, BAD));
        server.report(vec![failure(late, Some(100_000)), failure(bad, None)]).await;
        reports::report(&mut conn, &[success(right)]).await.unwrap();
        for due in ["UPDATE tasker.due_times SET due_at = clock_timestamp()", REVEAL] {
            sqlx::query(due).execute(&mut *conn).await.unwrap();
        }
        let before = tasks::load(&mut conn, &[task], &Templates::default()).await.unwrap().remove(0);
        Self { task, template: template.clone(), queue, left, before }
    }

    /// Does it, on the connection of `pool`, which is the server's too. What the product does in one statement
    /// has a commit of its own here, so that others come between it and its commit.
    pub(super) async fn happens(&self, deed: Deed, server: &Server, pool: &PgPool) -> Told {
        let left = &self.left;
        match deed {
            Deed::Claim => return Told::Claims(self.claim(pool).await),
            Deed::Report => {
                let mut tx = pool.begin().await.unwrap();
                let verdicts = reports::report(&mut tx, &[success(left.clone())]).await.unwrap();
                tx.commit().await.unwrap();
                return Told::Verdict(verdicts[0]);
            }
            Deed::ReportHere => server.report(vec![success(left.clone())]).await,
            Deed::ReportAtOnce => {
                server.remember(self.before.clone());
                server.report(vec![success(left.clone())]).await;
            }
            Deed::Heartbeat => {
                let mut tx = pool.begin().await.unwrap();
                let told = pgmq_notify::extend_fenced(&mut tx, std::slice::from_ref(&left.token), LEASE).await.unwrap();
                tx.commit().await.unwrap();
                return Told::Extension(told[0]);
            }
            Deed::Checkpoint => {
                let mut tx = pool.begin().await.unwrap();
                let json = RawValue::from_string("1".to_owned()).unwrap();
                let told = checkpoints::store(&mut tx, left, LEASE, &json).await.unwrap();
                tx.commit().await.unwrap();
                return Told::Extension(told);
            }
            Deed::Cancel => assert!(server.command(self.task, Event::Cancelled).await.is_ok()),
            Deed::ComeDue => server.look().await,
            Deed::Create => return Told::Task(server.ask_for(&self.template, 1, Some("the same")).await[0]),
            Deed::Decide => server.take_messages().await,
            // Refused where a cancel came first.
            Deed::Reset => drop(server.command(self.task, Event::StepReset { step: BAD }).await),
        }
        Told::Nothing
    }

    async fn claim(&self, pool: &PgPool) -> Vec<(Claim, bool)> {
        let mut tx = pool.begin().await.unwrap();
        let claimed = claims::claim(&mut tx, &[self.queue.clone().into()], LEASE, 10).await.unwrap();
        tx.commit().await.unwrap();
        let mut conn = pool.acquire().await.unwrap();
        let claimed = claimed.messages.iter().map(|message| Claim::from_message(message, Timestamp(0)).unwrap());
        let claimed: Vec<Claim> = claimed.collect();
        let loaded = claims::load(&mut conn, &claimed).await.unwrap();
        claimed.into_iter().zip(loaded.iter().map(|loaded| matches!(loaded, Loaded::Current { .. }))).collect()
    }

    /// What must hold whoever was first, then and once everything else has happened.
    pub(super) async fn end(&self, done: &[Done; 2], server: &Server, pool: &PgPool) {
        self.is_whole(pool).await;
        let [one, other] = done;
        for (early, late) in [(one, other), (other, one)] {
            if early.deed == Deed::Cancel {
                after_a_cancel(early, late);
            }
            if let (Told::Claims(claims), true) = (&early.told, early.ended <= late.began) {
                let is_taken = claims.iter().any(|(claim, _)| claim.token.nonce == self.left.token.nonce);
                assert!(!is_taken || !counts(&late.told), "I4: the token of an earlier claim counts: {done:?}");
            }
        }
        if let (Told::Task(one), Told::Task(other)) = (&one.told, &other.told) {
            assert!(one == other, "I2: the same key gave two tasks");
        }
        let happened = |deed| done.iter().any(|done| done.deed == deed);
        if happened(Deed::Cancel) {
            let found = self.revealed(pool).await;
            let is_there = found.iter().any(|(claim, _)| claim.task == self.task);
            assert!(!is_there, "I13: there is something to claim after a cancel: {found:?}");
        }
        let claimed = done.iter().filter_map(|done| match &done.told {
            Told::Claims(claims) => Some(claims.iter().filter(|(_, current)| *current)),
            _ => None,
        });
        let claimed: Vec<Claim> = claimed.flatten().map(|(claim, _)| claim.clone()).collect();
        self.drain(claimed, server, pool).await;
        let task = self.is_whole(pool).await;
        let late = reports::report(&mut pool.acquire().await.unwrap(), &[success(self.left.clone())]).await.unwrap();
        assert!(late[0] != Verdict::Accepted, "I4: a report was accepted after the last one");
        if happened(Deed::Cancel) {
            assert!(task.state() == TaskState::Cancelled, "I8: it was cancelled: {task:?}");
            return;
        }
        for (name, state) in STEPS.iter().zip(task.steps()) {
            let failed = *name == "bad" && !happened(Deed::Reset);
            let expected = if failed { StepState::Error } else { StepState::Complete };
            assert!(*state == expected, "I11: {name} did not come to its end: {task:?}");
        }
    }

    /// Reports on the claims, and lets all that is left happen.
    async fn drain(&self, claimed: Vec<Claim>, server: &Server, pool: &PgPool) {
        let mut open = claimed;
        for _ in 0..20 {
            server.report(open.drain(..).map(success).collect()).await;
            server.take_messages().await;
            let found = sweep::undecided(&mut pool.acquire().await.unwrap(), None, 100, 0.0).await.unwrap().0;
            server.advance(&found).await;
            server.look().await;
            for (claim, is_current) in self.revealed(pool).await {
                assert!(is_current, "I10: a ticket that is nobody's: {claim:?}");
                open.push(claim);
            }
            if open.is_empty() && self.load(pool).await.held().next().is_none() {
                return;
            }
        }
        panic!("I11: the task does not come to an end: {:?}", self.load(pool).await);
    }

    /// Claims everything, also what others have claimed.
    async fn revealed(&self, pool: &PgPool) -> Vec<(Claim, bool)> {
        sqlx::query(REVEAL).execute(pool).await.unwrap();
        self.claim(pool).await
    }

    async fn load(&self, pool: &PgPool) -> Task {
        let mut conn = pool.acquire().await.unwrap();
        let loaded =
            tasks::load(&mut conn, &[self.task], &Templates::default()).await.expect("I20: the task can be read");
        loaded.into_iter().next().unwrap().task
    }

    /// I10 and I20, at any moment between two commits.
    async fn is_whole(&self, pool: &PgPool) -> Task {
        let task = self.load(pool).await;
        let mut conn = pool.acquire().await.unwrap();
        let wrong = violations(&mut conn).await;
        assert!(wrong.is_empty(), "I10: {wrong:?}");
        history_folds(&history(&mut conn, self.task).await, &task);
        task
    }
}

const REVEAL: &str = "UPDATE pgmq.q_worker_test_queue SET vt = clock_timestamp()
    WHERE vt > clock_timestamp() AND message ->> 'step_uuid' IS NOT NULL";

/// Whether the fence let it through.
fn counts(told: &Told) -> bool {
    matches!(told, Told::Verdict(Verdict::Accepted) | Told::Extension(Extension::Extended))
}

/// I13. A claim is made by its look-up.
fn after_a_cancel(cancel: &Done, other: &Done) {
    if let Told::Claims(claims) = &other.told
        && cancel.ended <= other.last
    {
        assert!(claims.iter().all(|(_, current)| !current), "I13: claimed after a cancel: {claims:?}");
    }
    assert!(cancel.ended > other.began || !counts(&other.told), "I13: counts after a cancel: {other:?}");
}

fn success(claim: Claim) -> Report {
    let result = Arc::from(RawValue::from_string("1".to_owned()).unwrap());
    report(claim, ReportedOutcome::Success { result, metadata: None, follows: Follows::Nothing })
}

fn failure(claim: Claim, retry_after_ms: Option<u64>) -> Report {
    let error = StepFailure { message: "no".to_owned(), error_type: "test".to_owned(), error_code: None };
    let retryable = retry_after_ms.is_some();
    report(claim, ReportedOutcome::Failure { error, retryable, retry_after_ms, metadata: None })
}

fn report(claim: Claim, outcome: ReportedOutcome) -> Report {
    Report { claim, outcome, started_at: None, ended_at: Timestamp(1), worker: "tested".into(), events: Vec::new() }
}
