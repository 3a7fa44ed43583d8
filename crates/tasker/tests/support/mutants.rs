//! The checker is checked: a good run whose record is changed, and runs of a product that is made wrong. Each must be
//! caught, by the promise that it breaks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures::FutureExt as _;
use tasker_client::Client;
use tasker_shared::testing::TestDatabase;
use uuid::Uuid;

use super::checker::{AttemptRow, Body, HistoryRow, Record};
use super::{Shape, World, eventually, orders};

/// Long enough for what moves at all.
const MOVES: Duration = Duration::from_mins(1);
/// What is stuck after this is stuck for ever: many times the lease, the sweep and the poll.
const STUCK: Duration = Duration::from_secs(8);

/// What is changed in the record of a good run, and which check says so.
type Mutant = (&'static str, fn(&mut Record));

const MUTANTS: &[Mutant] = &[
    ("I1: somebody was answered with", |r| drop(r.tasks.pop())),
    ("I2: two keys were answered with the same task", |r| r.answered[0] = r.answered[1]),
    ("I2: there are tasks that nobody was told of", |r| r.answered.truncate(r.answered.len() - 1)),
    ("I2: the same key and body give another task", |r| r.again[0].same = Uuid::nil()),
    ("I2: the same key with another body is not refused", |r| r.again[0].other = None),
    ("I3: another attempt's result", |r| returned(r, r#"{"attempt": 99, "step": 0}"#)),
    ("I3: another step's result", |r| returned(r, r#"{"attempt": 1, "step": 99}"#)),
    ("I3: nobody returned this result", |r| returned(r, r#"{"attempt": 1, "step": 0, "pid": 1}"#)),
    ("I4: a report was accepted and refused", |r| r.refused_and_accepted = 1),
    ("I4: more or less than one result was accepted", |r| again(first(r), "success", 2)),
    ("I4: a later attempt than the accepted one was claimed", |r| started(r, 2)),
    ("I5: an attempt was the last although it failed", |r| again(first(r), "failure", 2)),
    ("I6: enabled more or less than once", |r| insert(r, &["0:CP@1", "0:PQ@1", "0:QC@2"])),
    ("I6: completed more or less than once", |r| insert(r, &["0:CW@1", "0:WC@1"])),
    ("I6: held 0 and let through 0 times", |r| unheld(r)),
    ("I6: an event is missing, or there is one too many", |r| drop(r.told.pop())),
    ("I6: an event is missing, or there is one too many", |r| r.told.push(r.told[0].clone())),
    ("I7: a handler began before its parent", |r| parent_ends_last(r)),
    ("I8: the task had ended", |r| {
        let rows = rows(r);
        let mut late = rows.last().unwrap().clone();
        (late.from_state, late.changes) = ("complete".to_owned(), String::new());
        late.seq += 1;
        rows.push(late);
    }),
    ("I8: TaskRow", |r| {
        r.tasks[0].state = "cancelled".to_owned();
        rows(r).last_mut().unwrap().to_state = "cancelled".to_owned();
    }),
    ("I9: attempts with a gap or a repeat", |r| first(r)[0].attempt = 2),
    ("I9: attempts with a gap or a repeat", |r| again(first(r), "lost", 1)),
    ("I9: over the budget", |r| {
        let tried = first(r);
        (2..=16).for_each(|attempt| again(tried, "failure", attempt));
    }),
    ("I9: a handler ran an attempt that is not on record", |r| started(r, 0)),
    ("ms is early", |r| {
        let retried = r.attempts.values_mut().find(|tried| tried.len() > 1 && tried[0].outcome == "failure").unwrap();
        retried[1].claimed_at = retried[0].claimed_at;
    }),
    ("I10: a live step is not held once", |r| r.live.push("a stray ticket".to_owned())),
    ("I20: the history has a gap", |r| drop(rows(r).remove(1))),
    ("I20: the history has a gap", |r| rows(r)[1].seq = 1),
    ("I20: the history jumps", |r| rows(r)[1].from_state = "cancelled".to_owned()),
    ("I20: step 0 was not there", |r| insert(r, &["0:PQ@0"])),
    ("I20: [", |r| r.tasks[0].steps = "Q".repeat(r.tasks[0].steps.len())),
    ("I20: TaskRow", |r| r.tasks[0].seq += 1),
];

/// The attempts of the first step of the first task.
fn first(record: &mut Record) -> &mut Vec<AttemptRow> {
    record.attempts.get_mut(&(record.tasks[0].task_uuid, 0)).unwrap()
}

/// The history of the first task.
fn rows(record: &mut Record) -> &mut Vec<HistoryRow> {
    record.history.get_mut(&record.tasks[0].task_uuid).unwrap()
}

fn returned(record: &mut Record, result: &str) {
    first(record)[0].result = Some(result.to_owned());
}

/// One more attempt.
fn again(tried: &mut Vec<AttemptRow>, outcome: &str, attempt: i32) {
    tried.push(AttemptRow { attempt, outcome: outcome.to_owned(), ..tried[0].clone() });
}

/// A handler ran another attempt of the first step.
fn started(record: &mut Record, attempt: i32) {
    let bodies = record.bodies.get_mut(&(record.tasks[0].task_uuid, 0)).unwrap();
    bodies.push(Body { attempt, what: "start".to_owned(), ..bodies[0].clone() });
}

/// Puts changes into the first task's history, before its last row.
fn insert(record: &mut Record, changes: &[&str]) {
    let rows = rows(record);
    let last = rows.pop().unwrap();
    for changes in changes {
        let state = last.from_state.clone();
        rows.push(HistoryRow { changes: (*changes).to_owned(), to_state: state, ..last.clone() });
    }
    rows.push(last);
    for (row, seq) in rows.iter_mut().zip(1..) {
        row.seq = seq;
    }
    let seq = rows.len();
    record.tasks[0].seq = i32::try_from(seq).unwrap();
}

/// A step got its ticket although nobody looked at the resource that it uses.
fn unheld(record: &mut Record) {
    let limited = record.tasks.iter().find(|task| task.name == "limited").unwrap();
    let rows = record.history.get_mut(&limited.task_uuid).unwrap();
    for row in rows {
        let changes = row.changes.split_whitespace().filter(|change| !change.starts_with("1:HQ"));
        row.changes = changes.map(|change| change.replace("1:PH", "1:PQ").replace("1:WH", "1:WQ") + " ").collect();
    }
}

fn parent_ends_last(record: &mut Record) {
    let bodies = record.bodies.get_mut(&(record.tasks[0].task_uuid, 0)).unwrap();
    bodies.iter_mut().filter(|body| body.what == "end").for_each(|body| body.position = usize::MAX);
}

/// What the checker says of it; `None` where it finds nothing wrong.
fn found(record: &Record) -> Option<String> {
    said(catch_unwind(AssertUnwindSafe(|| _ = record.check())))
}

fn said(result: Result<(), Box<dyn std::any::Any + Send>>) -> Option<String> {
    let panic = result.err()?;
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    Some(text.unwrap_or_else(|| panic.downcast_ref::<String>().unwrap().clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_every_check_of_the_checker_can_fail() {
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    let (_server, client) = world.server().await;
    let _worker = world.worker(None);
    // The first task is a chain: the mutants speak of its first step, which succeeds at once.
    World::make_scarce(&client).await;
    world.submit_orders(std::slice::from_ref(&client), orders(40, 0, Shape::mixed_and_limited)).await;
    world.all_end(MOVES).await;
    world.check(&client).await;
    let mut good = Record::read(&world, &client).await;
    let chain = good.tasks.iter().position(|task| task.name == "linear4").unwrap();
    good.tasks.swap(0, chain);
    for (expected, change) in MUTANTS {
        let mut record = good.clone();
        change(&mut record);
        let said = found(&record).unwrap_or_else(|| panic!("nobody noticed: {expected}"));
        assert!(said.contains(expected), "{expected} was wanted: {said}");
    }
    assert_eq!(found(&good), None);
    // I11 is the wait itself.
    let waits = AssertUnwindSafe(world.stuck_with(&client)).catch_unwind().await;
    assert!(said(waits).unwrap().starts_with("I11"));
}

impl World {
    /// Tasks that lose a ticket, and a wait for their end.
    async fn stuck_with(&mut self, client: &Client) {
        self.wrong(LOSES_TICKETS).await;
        self.submit_orders(std::slice::from_ref(client), orders(10, 0, |_| Shape::Linear4)).await;
        self.all_end(Duration::from_secs(1)).await;
    }

    /// Makes the product's functions in this database wrong.
    async fn wrong(&self, sql: &str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    /// Replaces a part of a function in this database.
    async fn says_instead(&self, function: &str, text: &str, instead: &str) {
        let definition: String = sqlx::query_scalar("SELECT pg_get_functiondef($1::regproc)")
            .bind(function)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        assert!(definition.contains(text), "{function} does not say {text}");
        self.wrong(&definition.replace(text, instead)).await;
    }

    /// Ends with what the checker finds, or with I11.
    async fn verdict(&self, client: &Client, limit: Duration) -> (Option<String>, Option<String>) {
        let ended = said(AssertUnwindSafe(self.all_end(limit)).catch_unwind().await);
        (ended, found(&Record::read(self, client).await))
    }
}

/// Every fifth ticket gets lost, as those do that are sent after the commit by somebody who dies before.
const LOSES_TICKETS: &str = "CREATE FUNCTION pgmq.lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RETURN CASE WHEN NEW.msg_id % 5 <> 0 THEN NEW END;
    END $$;
    CREATE TRIGGER lost BEFORE INSERT ON pgmq.q_worker_faults_queue FOR EACH ROW EXECUTE FUNCTION pgmq.lose()";

const DELETE: &str = "pgmq_notify.delete_worker_faults_queue";

#[tokio::test(flavor = "multi_thread")]
async fn faults_tickets_sent_after_the_commit_are_noticed() {
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    let (_server, client) = world.server().await;
    world.wrong(LOSES_TICKETS).await;
    let _worker = world.worker(None);
    world.submit(std::slice::from_ref(&client), 20, 0).await;
    let (ended, found) = world.verdict(&client, STUCK).await;
    assert!(ended.unwrap().starts_with("I11"));
    assert!(found.unwrap().starts_with("I10: a live step is not held once"));
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_tickets_deleted_before_their_handlers_run_are_noticed() {
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    let (_server, client) = world.server().await;
    // The claim deletes the ticket, and a report is taken at its word.
    world
        .wrong(
            "CREATE FUNCTION pgmq.acknowledge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 DELETE FROM pgmq.q_worker_faults_queue WHERE msg_id = NEW.msg_id; RETURN NULL;
             END $$;
             CREATE TRIGGER early AFTER UPDATE ON pgmq.q_worker_faults_queue FOR EACH ROW
                 EXECUTE FUNCTION pgmq.acknowledge();
             CREATE OR REPLACE FUNCTION pgmq_notify.delete_worker_faults_queue(
                 queues text[], msg_ids bigint[], read_cts int[], nonces uuid[]
             ) RETURNS SETOF int LANGUAGE sql AS 'SELECT generate_series(1, cardinality($1))'",
        )
        .await;
    let worker = world.worker(None);
    let pid = format!("start {}", worker.id());
    world.submit(std::slice::from_ref(&client), 20, 200).await;
    eventually("the worker runs handlers", async || world.bodies().contains(&pid)).await;
    worker.kill();
    let _worker = world.worker(None);
    let (ended, found) = world.verdict(&client, STUCK).await;
    assert!(ended.unwrap().starts_with("I11"));
    assert!(found.unwrap().starts_with("I10: a live step is not held once"));
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_reports_that_no_fence_refuses_are_noticed() {
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    let (_server, client) = world.server().await;
    for function in [DELETE, "pgmq_notify.extend_fenced"] {
        world.says_instead(function, "m.read_ct = token.read_ct", "true").await;
    }
    let paused = world.worker(None);
    let pid = format!("start {}", paused.id());
    world.submit_orders(std::slice::from_ref(&client), orders(10, 800, |_| Shape::Linear4)).await;
    eventually("the worker runs handlers", async || world.bodies().contains(&pid)).await;
    paused.pause();
    let other = world.worker(None);
    let pid = format!(" 2 start {}", other.id());
    eventually("its lease ends", async || world.bodies().contains(&pid)).await;
    paused.resume();
    let (ended, found) = world.verdict(&client, MOVES).await;
    assert_eq!(ended, None);
    let found = found.unwrap();
    assert!(found.starts_with("I4: a later attempt than the accepted one was claimed"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_two_parents_decided_on_without_the_lock_are_noticed() {
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    world.set("TASKER__ACTOR__BATCH_MAX", "1");
    let (_first, one) = world.server().await;
    let (_second, other) = world.server().await;
    world.says_instead("tasker.take_results", "FOR NO KEY UPDATE", "").await;
    // The key of the history would refuse the second of two decisions; a pause between reading and writing makes them
    // meet.
    world
        .wrong(
            "ALTER TABLE tasker.history DROP CONSTRAINT history_pkey;
             CREATE FUNCTION tasker.pause() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_sleep(0.01); RETURN NEW;
             END $$;
             CREATE TRIGGER pause BEFORE UPDATE ON tasker.tasks FOR EACH ROW EXECUTE FUNCTION tasker.pause()",
        )
        .await;
    let _worker = world.worker(None);
    world.submit_orders(&[one.clone(), other], orders(80, 0, |_| Shape::Diamond4)).await;
    let (_, found) = world.verdict(&one, STUCK).await;
    let found = found.unwrap();
    assert!(found.contains("I20: the history has a gap"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_claims_that_do_not_wait_for_the_lease_are_noticed() {
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    let (_server, client) = world.server().await;
    world.says_instead("pgmq_notify.read_worker_faults_queue", "m.vt <= at", "true").await;
    let _workers = [world.worker(None), world.worker(None)];
    world.submit(std::slice::from_ref(&client), 5, 300).await;
    let (ended, _) = world.verdict(&client, STUCK).await;
    assert!(ended.unwrap().starts_with("I11"));
}
