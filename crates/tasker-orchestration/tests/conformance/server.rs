//! A server whose actors do nothing by themselves, and what is read beside it.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgmq_notify::{Mode, Notifier, Wakeups};
use serde_json::value::RawValue;
use sqlx::{PgConnection, PgPool};
use tasker_lifecycle::template::Template;
use tasker_lifecycle::{Event, StepIndex, StepState, Task, TaskId, TaskState};
use tasker_shared::config::{Config, Environment};
use tasker_shared::messages::Report;
use tasker_shared::store::StoreError;
use tasker_shared::store::queries::{self, HistoryRow};
use tasker_shared::store::tasks::{self, Details, Snapshot};
use tasker_shared::store::writes::ByHand;
use tasker_shared::telemetry::Metrics;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::actor::{Actor, Work};
use crate::advance::{Advance, snapshots};
use crate::engine::{Engine, Parts};
use crate::enqueuer::{Command, Ordered, Repair, StepEnqueuer, Sweep};
use crate::errors::CommandError;
use crate::requests::{Request, Submission, SubmissionKey, TaskRequests};
use crate::results::ResultProcessor;

/// See the module.
pub(in crate::advance) struct Server {
    engine: Engine,
    results: ResultProcessor,
    enqueuer: StepEnqueuer,
}

impl Server {
    pub(in crate::advance) async fn start(pool: &PgPool, snapshot_bytes: usize) -> Self {
        let mut config = Config::default();
        config.environment = Environment::Test;
        config.cache.snapshot_bytes = snapshot_bytes;
        let (wakeups, notifier) = (Wakeups::new(Mode::PollingOnly), Notifier::new(Mode::PollingOnly));
        let metrics = Arc::new(Metrics::new());
        let started = Engine::start(Arc::new(config), pool.clone(), metrics, wakeups, notifier, None).await;
        let (engine, running, _) = started.unwrap();
        running.stop().await;
        let parts = || Arc::clone(&engine.parts);
        let results = ResultProcessor { parts: parts(), reads_queue: true };
        let enqueuer = StepEnqueuer { parts: parts(), sweep: Sweep::default().into() };
        Self { results, enqueuer, engine }
    }

    fn parts(&self) -> &Arc<Parts> {
        &self.engine.parts
    }

    pub(in crate::advance) async fn register(&self, template: &Template) {
        self.engine.register(template.clone(), false).await.unwrap();
    }

    /// Creates tasks, all in one commit.
    pub(in crate::advance) async fn create(&self, template: &Template, count: usize) -> Vec<TaskId> {
        self.ask_for(template, count, None).await
    }

    /// Asks for tasks, all in one commit and, where there is a key, under the same one.
    pub(in crate::advance) async fn ask_for(
        &self,
        template: &Template,
        count: usize,
        key: Option<&str>,
    ) -> Vec<TaskId> {
        let template = Arc::new(template.clone());
        let mut replies = Vec::new();
        let requests = (0..count).map(|_| {
            let (reply, answer) = oneshot::channel();
            replies.push(answer);
            let submission = Submission {
                template: Arc::clone(&template),
                context: RawValue::from_string("{}".to_owned()).unwrap().into(),
                priority: 0,
                correlation_id: None,
                details: Details::default(),
                key: key.map(|key| SubmissionKey { key: key.to_owned(), body_hash: [1; 32], strict: false }),
                reply,
            };
            Request { id: self.parts().new_task_id(), submission }
        });
        let requests = requests.collect();
        inbox(&TaskRequests { parts: Arc::clone(self.parts()) }, self.parts(), requests).await;
        let mut created = Vec::new();
        for reply in replies {
            created.push(reply.await.unwrap().unwrap().task);
        }
        created
    }

    /// Reports of a worker in this process.
    pub(in crate::advance) async fn report(&self, reports: Vec<Report>) {
        inbox(&self.results, self.parts(), reports).await;
    }

    /// Every result message of workers elsewhere.
    pub(in crate::advance) async fn take_messages(&self) {
        let mut tx = self.parts().pool.begin().await.unwrap();
        let handled = self.results.handle(&mut *tx, Work::Source(100)).await.unwrap();
        tx.commit().await.unwrap();
        self.results.committed(handled.after, Vec::new());
    }

    pub(in crate::advance) async fn command(&self, task: TaskId, event: Event) -> Result<bool, CommandError> {
        let (command, answer) = ordered(task, event);
        inbox(&self.enqueuer, self.parts(), vec![command]).await;
        answer.await.unwrap()
    }

    /// The command is committed, the answer of that commit gets lost, and the actor tries again.
    pub(in crate::advance) async fn command_of_lost_outcome(
        &self,
        task: TaskId,
        event: Event,
    ) -> Result<bool, CommandError> {
        let (command, answer) = ordered(task, event);
        let commands = vec![command];
        let mut last = None;
        for again in [false, true] {
            let mut tx = self.parts().pool.begin().await.unwrap();
            last = Some(self.enqueuer.handle(&mut *tx, Work::Inbox { events: &commands, again }).await.unwrap());
            tx.commit().await.unwrap();
        }
        self.enqueuer.committed(last.unwrap().after, commands);
        answer.await.unwrap()
    }

    /// The first due time that has come, or what the sweep finds where there is none.
    pub(in crate::advance) async fn look(&self) {
        let mut tx = self.parts().pool.begin().await.unwrap();
        let handled = self.enqueuer.handle(&mut *tx, Work::Source(1)).await.unwrap();
        tx.commit().await.unwrap();
        self.enqueuer.committed(handled.after, Vec::new());
    }

    /// Events that need no message or ticket.
    pub(in crate::advance) async fn advance(&self, events: &[(TaskId, Event)]) {
        let ids: BTreeSet<TaskId> = events.iter().map(|(task, _)| *task).collect();
        let ids: Vec<TaskId> = ids.into_iter().collect();
        let mut tx = self.parts().pool.begin().await.unwrap();
        let locked = tasks::lock_and_take(&mut tx, &ids, &[]).await.unwrap();
        let snapshots = snapshots(&mut *tx, self.parts(), &locked.versions).await.unwrap();
        let mut advance = Advance::new(locked.now, snapshots);
        for (task, event) in events {
            advance.event(*task, event).unwrap();
        }
        let after = advance.write(&mut *tx, self.parts()).await.unwrap();
        tx.commit().await.unwrap();
        after.committed(self.parts());
    }

    /// What the cache has under the stored version is what is stored.
    pub(in crate::advance) fn cache_agrees(&self, stored: &Snapshot) {
        let Some(cached) = self.parts().snapshots.take(stored.task.id(), stored.version) else { return };
        assert_eq!(cached.task.to_stored(), stored.task.to_stored());
        assert_eq!((cached.seq, cached.priority), (stored.seq, stored.priority));
        assert_eq!(cached.correlation_id, stored.correlation_id);
        self.parts().snapshots.put(cached);
    }

    /// Has in its cache what is stored.
    pub(in crate::advance) fn remember(&self, stored: Snapshot) {
        self.parts().snapshots.put(stored);
    }

    /// How many snapshots came from the cache, and how many did not.
    pub(in crate::advance) fn cached(&self) -> (u64, u64) {
        let metrics = &self.parts().metrics;
        (metrics.cache_hits.get(), metrics.cache_misses.get())
    }
}

/// A command as the engine makes it, and where its answer comes.
fn ordered(task: TaskId, event: Event) -> (Command, oneshot::Receiver<Result<bool, CommandError>>) {
    let (reply, answer) = oneshot::channel();
    let by_hand = match event {
        Event::StepCompleted { step, .. } => Some((step, by_hand())),
        _ => None,
    };
    let action = Uuid::from_u128(rand::random());
    let detail = serde_json::json!({ "by": "test", "action_uuid": action }).to_string();
    let is_repair = matches!(event, Event::StepReset { .. } | Event::StepResolved { .. } | Event::StepCompleted { .. });
    let repair = is_repair.then_some(Repair { action, by_hand });
    (Command { task, ordered: Ordered { event, detail, repair }, reply }, answer)
}

fn by_hand() -> ByHand {
    let result = RawValue::from_string("\"by hand\"".to_owned()).unwrap();
    ByHand { result: result.into(), metadata: None, by: "test".to_owned() }
}

/// What the actor's loop does with its inbox. What it does in one statement has a commit of its own here.
async fn inbox<A: Actor>(actor: &A, parts: &Parts, events: Vec<A::Event>) {
    let mut tx = parts.pool.begin().await.unwrap();
    let at_once = match actor.handle_at_once(&mut *tx, &events).await {
        Err(StoreError::Overtaken) => {
            tx.rollback().await.unwrap();
            tx = parts.pool.begin().await.unwrap();
            None
        }
        handled => handled.unwrap(),
    };
    let after = match at_once {
        Some(after) => after,
        None => actor.handle(&mut *tx, Work::Inbox { events: &events, again: false }).await.unwrap().after,
    };
    tx.commit().await.unwrap();
    actor.committed(after, events);
}

pub(in crate::advance) async fn history(conn: &mut PgConnection, task: TaskId) -> Vec<HistoryRow> {
    queries::history(conn, task, 0, 10_000).await.unwrap()
}

/// The history, folded over steps that are all pending, is the task.
pub(in crate::advance) fn history_folds(rows: &[HistoryRow], task: &Task) {
    let mut steps: Vec<(StepState, u32)> = task.template().initial_states().iter().map(|state| (*state, 0)).collect();
    steps.resize(task.steps().len(), (StepState::NotCreated, 0));
    let mut state = TaskState::Pending;
    for (row, seq) in rows.iter().zip(1..) {
        assert_eq!((row.seq, row.from), (seq, state));
        state = row.to;
        for change in row.changes.split_whitespace() {
            let (step, change) = change.split_once(':').unwrap();
            let (letters, attempts) = change.split_once('@').unwrap();
            let mut letters = letters.chars().map(|letter| StepState::from_letter(letter).unwrap());
            let step = &mut steps[step.parse::<usize>().unwrap()];
            assert_eq!(letters.next(), Some(step.0), "{change}");
            *step = (letters.next().unwrap(), attempts.parse().unwrap());
        }
    }
    assert_eq!(state, task.state());
    let expected = task.steps().iter().enumerate().map(|(at, state)| (*state, task.attempts(StepIndex::from(at))));
    assert!(steps.iter().copied().eq(expected), "{steps:?} is folded from {rows:?}");
}

/// Live steps that are not held by exactly one thing, and things that hold no live step.
pub(in crate::advance) async fn violations(conn: &mut PgConnection) -> Vec<String> {
    let found = sqlx::query_scalar(
        "SELECT v::text FROM tasker.live_step_violations() v UNION ALL SELECT p::text FROM tasker.permit_violations() p",
    );
    found.fetch_all(conn).await.unwrap()
}
