//! The same events through `decide` and `evolve` in memory and through two servers on PostgreSQL: after each commit
//! both know the same.
//!
//! A part of the crate, so that the actors' own transactions run, one at a time and when the test says so.

#![allow(clippy::unwrap_used, reason = "tests")]

pub(super) mod server;
mod templates;
mod twin;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use serde_json::value::RawValue;
use server::{Server, history, history_folds, violations};
use sqlx::PgConnection;
use tasker_lifecycle::template::{self, StepKind, Template};
use tasker_lifecycle::{
    Decision, Event, Follows, Holder, Nonce, StepIndex, StepState, Task, TaskId, TaskState, Timestamp, decide,
};
use tasker_shared::messages::{Claim, Report, ReportedOutcome, StepFailure, ticket_queue};
use tasker_shared::store::claims::{self, Loaded};
use tasker_shared::store::templates::Templates;
use tasker_shared::store::{from_sql, queries, reports, tasks};
use tasker_shared::testing::TestDatabase;
use uuid::Uuid;

pub(crate) use templates::random_template;
use twin::{admit, adopt, name};

const LEASE: Duration = Duration::from_secs(60);
/// A wait that goes to the due-time table.
const LATER_MS: u64 = 100_000;
/// Causes and effects, all of which some life must see.
const EVERYTHING: [&str; 19] = [
    "Admitted",
    "hold",
    "Started",
    "Reported",
    "Due",
    "Cancelled",
    "StepReset",
    "StepResolved",
    "StepCompleted",
    "ticket",
    "ticket withdrawn",
    "due time",
    "due time withdrawn",
    "AttemptsExhausted",
    "PermanentFailure",
    "LeaseLost",
    "complete",
    "cancelled",
    "blocked_by_failures",
];

#[tokio::test]
async fn random_lives_are_the_same_in_memory_and_on_postgresql() {
    let (mut hits, mut misses, mut seen) = (0, 0, BTreeSet::new());
    for seed in 0..10 {
        let mut lives = Lives::begin(seed, usize::MAX).await;
        for _ in 0..60 {
            lives.something_happens().await;
        }
        lives.end().await;
        let cached = lives.cached();
        (hits, misses) = (hits + cached.0, misses + cached.1);
        seen.append(&mut lives.seen);
    }
    let missing: Vec<_> = EVERYTHING.iter().filter(|what| !seen.contains(**what)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
    assert!(hits > 40 && misses > 40, "both ways to a snapshot were taken: {hits} hits, {misses} misses");
}

#[tokio::test]
async fn lives_without_a_cache_are_the_same() {
    let mut lives = Lives::begin(100, 0).await;
    for _ in 0..60 {
        lives.something_happens().await;
    }
    lives.end().await;
    assert_eq!(lives.cached().0, 0);
}

#[tokio::test]
async fn a_wait_that_is_decided_on_and_cancelled_in_one_commit_leaves_no_due_time() {
    let mut lives = Lives::begin(200, usize::MAX).await;
    lives.claim(1, LEASE).await;
    let claim = lives.open.pop().unwrap();
    let task = claim.task;
    let report = lives.report(claim, Outcome::Later);
    lives.store(vec![report]).await;
    lives.command(task, Event::Cancelled).await;
}

#[tokio::test]
async fn an_action_whose_answer_got_lost_is_carried_out_once_and_not_refused() {
    let mut lives = Lives::begin(300, usize::MAX).await;
    lives.claim(1, LEASE).await;
    let claim = lives.open.pop().unwrap();
    let (task, step) = (claim.task, claim.step);
    let report = lives.report(claim, Outcome::Permanent);
    lives.servers[0].report(vec![report]).await;
    assert!(lives.servers[1].command_of_lost_outcome(task, Event::StepReset { step }).await.unwrap());
    let mut conn = lives.db.pool.acquire().await.unwrap();
    let rows = history(&mut conn, task).await;
    assert_eq!(rows.iter().filter(|row| row.cause == "step_reset").count(), 1, "{rows:?}");
    assert_eq!(violations(&mut conn).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_claim_that_was_given_back_after_a_failure_is_reported_on_in_the_servers_process() {
    let retry = json!({"max_attempts": 3, "backoff": "none"});
    let mut lives = Lives::of_steps(json!([{"name": "s", "handler": "h", "retry": retry}])).await;
    lives.claim(3, LEASE).await;
    lives.report_all(Outcome::Soon).await;
    lives.claim(3, LEASE).await;
    let tokens: Vec<_> = lives.open.drain(..).map(|claim| claim.token).collect();
    let mut conn = lives.db.pool.acquire().await.unwrap();
    assert_eq!(pgmq_notify::release_fenced(&mut conn, &tokens, Duration::ZERO).await.unwrap().len(), 3);
    drop(conn);
    lives.claim(3, LEASE).await;
    assert!(lives.open.iter().all(|claim| claim.attempt == 2), "{:?}", lives.open);
    lives.report_all(Outcome::Success).await;
    assert!(lives.twins.values().all(|task| task.state() == TaskState::Complete), "{:?}", lives.twins);
}

#[tokio::test]
async fn a_step_that_is_enqueued_and_cancelled_by_reports_of_one_batch_gets_no_ticket() {
    let mut lives = Lives::of_steps(batches_that_fail_as_a_whole()).await;
    lives.split(3).await;
    // Two of three batches run. The first one's end lets the third one run, and the second one's failure cancels it.
    lives.claim(6, LEASE).await;
    for task in lives.twins.keys().copied().collect::<Vec<_>>() {
        let (mine, others) = std::mem::take(&mut lives.open).into_iter().partition(|claim: &Claim| claim.task == task);
        lives.open = others;
        let mine = mine.into_iter().zip([Outcome::Success, Outcome::Permanent]);
        let reports: Vec<Report> = mine.map(|(claim, outcome)| lives.report(claim, outcome)).collect();
        assert_eq!(reports.len(), 2);
        if lives.open.len() == 4 {
            lives.report_here(reports).await;
        } else {
            lives.store(reports).await;
            lives.take_messages().await;
        }
        assert_eq!(lives.twins[&task].state(), TaskState::BlockedByFailures);
    }
}

#[tokio::test]
async fn a_cancelled_batch_worker_that_had_reported_is_taken_up_again_with_the_next_number() {
    let mut lives = Lives::of_steps(batches_that_fail_as_a_whole()).await;
    lives.split(2).await;
    lives.claim(6, LEASE).await;
    let task = *lives.twins.keys().next().unwrap();
    let mine: Vec<Claim> = lives.open.iter().filter(|claim| claim.task == task).cloned().collect();
    let failed = mine[1].step;
    let reports = [lives.report(mine[0].clone(), Outcome::Success), lives.report(mine[1].clone(), Outcome::Permanent)];
    // The first one is stored and its message waits; the second one's failure cancels it.
    lives.store(reports[..1].to_vec()).await;
    lives.report_here(reports[1..].to_vec()).await;
    assert_eq!(lives.twins[&task].step(mine[0].step), Some(StepState::Cancelled));
    lives.command(task, Event::StepReset { step: failed }).await;
    lives.open.clear();
    lives.claim(6, LEASE).await;
    assert_eq!(lives.open.iter().map(|claim| claim.attempt).collect::<Vec<_>>(), [2, 2]);
    lives.report_all(Outcome::Success).await;
    lives.claim(6, LEASE).await;
    lives.report_all(Outcome::Success).await;
    assert_eq!(lives.twins[&task].state(), TaskState::Complete);
}

fn batches_that_fail_as_a_whole() -> serde_json::Value {
    let once = json!({"max_attempts": 1, "backoff": "none"});
    let batches = json!({"batch_size": 1, "parallelism": 2, "cursor_field": "id", "failure_strategy": "fail_fast"});
    json!([
        {"name": "b", "type": "batchable", "handler": "h", "batch_config": batches},
        {"name": "w", "type": "batch_worker", "handler": "h", "dependencies": ["b"], "retry": once},
        {"name": "c", "type": "deferred", "handler": "h", "dependencies": ["w"]}
    ])
}

/// What a handler may come to.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Success,
    Soon,
    Later,
    Permanent,
}

/// Three tasks of a random template, in memory and on two servers.
struct Lives {
    rng: StdRng,
    db: TestDatabase,
    servers: [Server; 2],
    twins: BTreeMap<TaskId, Task>,
    template: Template,
    templates: Templates,
    /// Claims whose worker still runs.
    open: Vec<Claim>,
    /// Everything that was ever claimed or reported, for what comes late.
    past: Vec<Report>,
    /// The newest claim of each ticket, by nonce.
    read_cts: HashMap<Uuid, i32>,
    /// Tickets that were given for an accepted report.
    taken: HashSet<Uuid>,
    /// Reports that workers stored and that no server has decided on, as far as messages go.
    stored: Vec<(TaskId, Event)>,
    /// What something followed from, and what followed.
    seen: BTreeSet<String>,
}

impl Lives {
    async fn begin(seed: u64, snapshot_bytes: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let template = random_template(&mut rng);
        Self::of(rng, template, snapshot_bytes).await
    }

    /// Tasks of the template with these steps.
    async fn of_steps(steps: serde_json::Value) -> Self {
        let document = json!({"name": "lives", "namespace_name": "test", "version": "1.0.0", "steps": steps});
        let template = template::from_json(&document, None).unwrap().0;
        Self::of(StdRng::seed_from_u64(0), template, usize::MAX).await
    }

    async fn of(rng: StdRng, template: Template, snapshot_bytes: usize) -> Self {
        let db = TestDatabase::create().await;
        let servers = [Server::start(&db.pool, snapshot_bytes).await, Server::start(&db.pool, snapshot_bytes).await];
        servers[0].register(&template).await;
        let mut twins = BTreeMap::new();
        for id in servers[0].create(&template, 3).await {
            twins.insert(id, Task::new(id, template.clone().into()));
        }
        let mut lives = Self {
            rng,
            db,
            servers,
            twins,
            template,
            templates: Templates::default(),
            open: Vec::new(),
            past: Vec::new(),
            read_cts: HashMap::new(),
            taken: HashSet::new(),
            stored: Vec::new(),
            seen: BTreeSet::new(),
        };
        let started = lives.twins.keys().map(|id| (*id, Event::Started)).collect();
        lives.committed(started).await;
        lives
    }

    /// One of everything that happens to tasks.
    async fn something_happens(&mut self) {
        match self.rng.random_range(0..20) {
            0..5 => {
                let (qty, lost) = (self.rng.random_range(1..4), self.rng.random_bool(0.2));
                self.claim(qty, if lost { Duration::ZERO } else { LEASE }).await;
            }
            5..10 => {
                let reports = self.some_reports(true);
                self.report_here(reports).await;
            }
            10..13 => {
                let reports = self.some_reports(false);
                self.store(reports).await;
            }
            13..16 => self.take_messages().await,
            16..18 => self.come_due().await,
            _ => {
                let at = self.rng.random_range(0..self.twins.len());
                let task = *self.twins.keys().nth(at).unwrap();
                let event = self.an_order(task);
                self.command(task, event).await;
            }
        }
    }

    /// Lets all that is left happen, successfully.
    async fn end(&mut self) {
        for _ in 0..200 {
            self.take_messages().await;
            self.come_due().await;
            self.claim(10, LEASE).await;
            let open = std::mem::take(&mut self.open);
            let reports: Vec<Report> = open.into_iter().map(|claim| self.report(claim, Outcome::Success)).collect();
            self.report_here(reports).await;
            if self.twins.values().all(|task| task.held().next().is_none()) {
                return;
            }
        }
        panic!("a life that does not end: {:?}", self.twins);
    }

    fn cached(&self) -> (u64, u64) {
        let metrics = self.servers.iter().map(|server| server.cached());
        metrics.fold((0, 0), |(hits, misses), (h, m)| (hits + h, misses + m))
    }

    async fn claim(&mut self, qty: usize, lease: Duration) {
        let queue = ticket_queue(self.template.namespace.as_str(), "default", 0).unwrap();
        let mut conn = self.db.pool.acquire().await.unwrap();
        let claimed = claims::claim(&mut conn, &[queue.into()], lease, qty).await.unwrap();
        let claimed: Vec<Claim> =
            claimed.messages.iter().map(|message| Claim::from_message(message, Timestamp(0)).unwrap()).collect();
        for (claim, loaded) in claimed.iter().zip(claims::load(&mut conn, &claimed).await.unwrap()) {
            assert!(matches!(loaded, Loaded::Current { .. }), "{claim:?}: {loaded:?}");
            self.read_cts.insert(claim.token.nonce, claim.token.read_ct);
        }
        if lease > Duration::ZERO {
            self.open.extend(claimed);
            return;
        }
        for claim in claimed {
            let outcome = self.an_outcome(true);
            let late = self.report(claim, outcome);
            self.past.push(late);
        }
    }

    /// Reports on open claims, and some that come late or again. Without `later` no wait is a long one: a command
    /// may be decided on in the same commit.
    fn some_reports(&mut self, later: bool) -> Vec<Report> {
        let mut reports = Vec::new();
        for _ in 0..self.rng.random_range(1..5) {
            if self.rng.random_bool(0.25) && !self.past.is_empty() {
                let at = self.rng.random_range(0..self.past.len());
                let again = self.past[at].clone();
                if later || !matches!(again.outcome, ReportedOutcome::Failure { retry_after_ms: Some(_), .. }) {
                    reports.push(again);
                }
            } else if !self.open.is_empty() {
                let at = self.rng.random_range(0..self.open.len());
                let claim = self.open.swap_remove(at);
                let outcome = self.an_outcome(later);
                reports.push(self.report(claim, outcome));
            }
        }
        self.past.extend(reports.iter().cloned());
        reports
    }

    fn an_outcome(&mut self, later: bool) -> Outcome {
        match self.rng.random_range(0..8) {
            0..5 => Outcome::Success,
            5 => Outcome::Soon,
            6 if later => Outcome::Later,
            6 => Outcome::Soon,
            _ => Outcome::Permanent,
        }
    }

    /// Every task's first step is split into so many batches.
    async fn split(&mut self, count: u32) {
        self.claim(3, LEASE).await;
        let open = std::mem::take(&mut self.open);
        let mut splits: Vec<Report> = open.into_iter().map(|claim| self.report(claim, Outcome::Success)).collect();
        for split in &mut splits {
            let ReportedOutcome::Success { follows, .. } = &mut split.outcome else { unreachable!("it succeeds") };
            *follows = Follows::Batches { worker: StepIndex(1), count };
        }
        self.report_here(splits).await;
    }

    async fn report_all(&mut self, outcome: Outcome) {
        let open = std::mem::take(&mut self.open);
        let reports = open.into_iter().map(|claim| self.report(claim, outcome)).collect();
        self.report_here(reports).await;
    }

    fn report(&self, claim: Claim, outcome: Outcome) -> Report {
        let failure = |retryable, retry_after_ms| ReportedOutcome::Failure {
            error: StepFailure { message: "no".to_owned(), error_type: "test".to_owned(), error_code: None },
            retryable,
            retry_after_ms,
            metadata: None,
        };
        let outcome = match outcome {
            _ if claim.attempt > self.twins[&claim.task].limit(claim.step) => ReportedOutcome::LeaseLost,
            Outcome::Success => ReportedOutcome::Success {
                result: RawValue::from_string("1".to_owned()).unwrap().into(),
                metadata: None,
                follows: self.follows(claim.task, claim.step, claim.token.nonce.as_u128()),
            },
            Outcome::Soon => failure(true, None),
            Outcome::Later => failure(true, Some(LATER_MS)),
            Outcome::Permanent => failure(false, None),
        };
        let (ended_at, events) = (Timestamp(1), Vec::new());
        Report { claim, outcome, started_at: None, ended_at, worker: "tested".into(), events }
    }

    /// What a success of this step leads to: one of the choices or splits that `seed` picks.
    fn follows(&self, task: TaskId, step: StepIndex, seed: u128) -> Follows {
        let pattern = self.twins[&task].pattern(step);
        match self.template.step(pattern).kind {
            StepKind::Decision => {
                let children = self.template.dag.children(pattern).iter().enumerate();
                Follows::Branches(children.filter(|(at, _)| seed >> at & 1 == 1).map(|(_, step)| *step).collect())
            }
            StepKind::Batchable => {
                let worker = self.template.worker_of(pattern).unwrap();
                Follows::Batches { worker, count: u32::try_from(seed % 4).unwrap() + 1 }
            }
            StepKind::Standard | StepKind::DeferredConvergence | StepKind::BatchWorker => Follows::Nothing,
        }
    }

    /// Of these reports those whose ticket is there, each once, as events.
    fn heard(&mut self, reports: &[Report]) -> Vec<(TaskId, Event)> {
        let mut heard = Vec::new();
        for report in reports {
            let claim = &report.claim;
            let nonce = claim.token.nonce;
            let holder = self.twins[&claim.task].live(claim.step).holder;
            let is_held = matches!(holder, Holder::Ticket(ticket) if ticket.nonce == Nonce(nonce));
            if is_held && self.read_cts[&nonce] == claim.token.read_ct && self.taken.insert(nonce) {
                let (step, attempt) = (claim.step, claim.attempt);
                let outcome = report.outcome.for_lifecycle();
                heard.push((claim.task, Event::Reported { step, attempt, nonce: Nonce(nonce), outcome }));
            }
        }
        heard
    }

    /// Reports of a worker in the server's process.
    async fn report_here(&mut self, reports: Vec<Report>) {
        if !reports.is_empty() {
            let heard = self.heard(&reports);
            self.a_server().report(reports).await;
            self.committed(heard).await;
        }
    }

    /// Reports of a worker elsewhere: its own commit. The servers are told by messages.
    async fn store(&mut self, reports: Vec<Report>) {
        let heard = self.heard(&reports);
        let mut conn = self.db.pool.acquire().await.unwrap();
        reports::report(&mut conn, &reports).await.unwrap();
        drop(conn);
        self.stored.extend(heard);
        self.committed(Vec::new()).await;
    }

    async fn take_messages(&mut self) {
        self.a_server().take_messages().await;
        let stored = std::mem::take(&mut self.stored);
        self.committed(stored).await;
    }

    /// One due-time row comes due, and one that is not there.
    async fn come_due(&mut self) {
        let rows =
            self.twins.iter().flat_map(|(task, twin)| twin.held().map(|(step, live)| (*task, step, live.holder)));
        let mut due: Vec<(TaskId, Event)> = rows
            .filter_map(|(task, step, holder)| match holder {
                Holder::Due { nonce } => Some((task, Event::Due { step, nonce })),
                Holder::Ticket(_) | Holder::None => None,
            })
            .take(1)
            .collect();
        let stranger = Event::Due { step: StepIndex(0), nonce: Nonce(Uuid::from_u128(1)) };
        due.push((*self.twins.keys().next().unwrap(), stranger));
        self.a_server().advance(&due).await;
        self.committed(due).await;
    }

    /// An operator's order, now and then a cancel.
    fn an_order(&mut self, task: TaskId) -> Event {
        let twin = &self.twins[&task];
        let at = self.rng.random_range(0..twin.steps().len());
        let failed = twin.steps().iter().position(|state| *state == StepState::Error);
        let (step, failed) = (StepIndex::from(at), failed.map_or(StepIndex::from(at), StepIndex::from));
        match self.rng.random_range(0..12) {
            0 => Event::Cancelled,
            1..6 => Event::StepReset { step: failed },
            6..9 => Event::StepResolved { step: failed },
            _ => Event::StepCompleted { step, follows: self.follows(task, step, u128::from(at as u64)) },
        }
    }

    /// What workers had stored is decided on first, then the order.
    async fn command(&mut self, task: TaskId, event: Event) {
        let step = |(_, event): &(TaskId, Event)| match event {
            Event::Reported { step, .. } => *step,
            _ => StepIndex(0),
        };
        let mut events: Vec<_> = self.stored.iter().filter(|(of, _)| *of == task).cloned().collect();
        // All of them ended at the same moment: the order of their steps decides.
        events.sort_by_key(step);
        if event != Event::Cancelled {
            events.extend(self.counted(task).await);
        }
        events.push((task, event.clone()));
        let answer = self.a_server().command(task, event.clone()).await;
        let last = self.committed(events).await;
        // An action on a step that changes nothing is refused, a second cancel is not.
        assert_eq!(answer.unwrap_or(false), last.is_some_and(|decision| !decision.is_empty()), "{event:?}");
    }

    /// The attempts that are stored of each step: they count where it is cancelled.
    async fn counted(&self, task: TaskId) -> Vec<(TaskId, Event)> {
        let counts = "SELECT step, max(attempt) FROM tasker.attempts WHERE task_uuid = $1 GROUP BY step ORDER BY step";
        let counts = sqlx::query_as(counts).bind(task.uuid()).fetch_all(&self.db.pool).await.unwrap();
        let number = |column: i32| u32::try_from(column).unwrap();
        let counted = counts.into_iter().map(|(step, attempts): (i32, i32)| {
            (task, Event::Counted { step: StepIndex(number(step)), attempts: number(attempts) })
        });
        counted.collect()
    }

    /// The events happen in memory, at the moment of the commit; then both are compared. Answers with what was
    /// decided on the last event, `None` where it was refused.
    async fn committed(&mut self, events: Vec<(TaskId, Event)>) -> Option<Decision> {
        let mut conn = self.db.pool.acquire().await.unwrap();
        let mut last = None;
        for (task, event) in events {
            let there = queries::task(&mut conn, task, &self.templates).await.unwrap().unwrap();
            let twin = self.twins.get_mut(&task).unwrap();
            last = decide(twin, &event, from_sql(there.updated_at)).ok();
            if let Some(decision) = &last {
                decision.evolve(twin);
                if !decision.is_empty() {
                    self.seen.insert(format!("{:?}", event.cause()));
                }
                self.seen.extend(decision.effects.iter().map(name));
                adopt(twin, decision, &there.task);
                self.seen.extend(admit(twin, &there.task));
            }
        }
        self.compare(&mut conn).await;
        last
    }

    async fn compare(&self, conn: &mut PgConnection) {
        let ids: Vec<TaskId> = self.twins.keys().copied().collect();
        let loaded = tasks::load(conn, &ids, &self.templates).await.unwrap();
        assert_eq!(loaded.len(), ids.len());
        for snapshot in loaded {
            let id = snapshot.task.id();
            let twin = &self.twins[&id];
            assert_eq!(snapshot.task.to_stored(), twin.to_stored());
            for at in 0..twin.steps().len() {
                let step = StepIndex::from(at);
                assert_eq!(snapshot.task.waiting_parents(step), twin.waiting_parents(step));
                assert_eq!(snapshot.task.attempts(step), twin.attempts(step));
            }
            for server in &self.servers {
                server.cache_agrees(&snapshot);
            }
            let rows = history(conn, id).await;
            assert_eq!(i32::try_from(rows.len()).unwrap(), snapshot.seq);
            history_folds(&rows, twin);
        }
        assert_eq!(violations(conn).await, Vec::<String>::new());
    }

    fn a_server(&mut self) -> &Server {
        let at = self.rng.random_range(0..self.servers.len());
        &self.servers[at]
    }
}
