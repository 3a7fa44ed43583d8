//! Two things happen to one task at the same moment, in every order of their statements that PostgreSQL admits.
//!
//! A part of the crate, so that the actors' own transactions run. Each side talks to the database through a
//! [`gate`](Gate), which lets one statement through when the test says so. An order is a row of choices: whose statement is
//! next, wherever both wait. All rows are tried, each with a task of its own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod gate;
mod scene;

use std::sync::Arc;
use std::time::Duration;

use gate::{At, Gate};
use scene::{Deed, Done, Scene, Told, template};
use sqlx::PgPool;
use tasker_lifecycle::template::Template;
use tasker_shared::store;
use tasker_shared::testing::TestDatabase;
use tokio::task::JoinHandle;

use super::conformance::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_meets_a_claim_leaves_a_whole_task() {
    every_order(|one, _| one == Deed::Claim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_meets_a_report_leaves_a_whole_task() {
    every_order(|one, _| one == Deed::Report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_meets_a_report_here_or_a_cancel_leaves_a_whole_task() {
    every_order(|one, _| matches!(one, Deed::ReportHere | Deed::ReportAtOnce | Deed::Cancel)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_else_meets_leaves_a_whole_task() {
    let before = [Deed::Claim, Deed::Report, Deed::ReportHere, Deed::ReportAtOnce, Deed::Cancel];
    every_order(|one, _| !before.contains(&one)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_locks_and_fences_some_order_breaks_a_task() {
    // Where a function says something else, these two break it, and this is what is said.
    let wrongs = [
        ("tasker.lock_and_take", "FOR NO KEY UPDATE", "", Deed::ReportHere, Deed::Decide, "it fails"),
        ("tasker.lock_and_take", "FOR NO KEY UPDATE", "", Deed::ReportHere, Deed::Cancel, "it fails"),
        (
            "tasker.take_expected",
            "found IS DISTINCT FROM versions",
            "false",
            Deed::ReportAtOnce,
            Deed::Decide,
            "it fails",
        ),
        ("tasker.take_expected", "taken <> cardinality(msg_ids)", "false", Deed::Claim, Deed::ReportAtOnce, "I10"),
        ("tasker.take_results", "FOR NO KEY UPDATE", "", Deed::Cancel, Deed::Decide, "it fails"),
        (DELETE, "m.read_ct = token.read_ct", "true", Deed::Claim, Deed::Report, "I4"),
        (EXTEND, "m.read_ct = token.read_ct", "true", Deed::Claim, Deed::Heartbeat, "I4"),
        (EXTEND, "m.read_ct = token.read_ct", "true", Deed::Claim, Deed::Checkpoint, "I4"),
        ("pgmq_notify.delete_any", "m.msg_id = token.msg_id", "false", Deed::Claim, Deed::Cancel, "I10"),
    ];
    for (function, text, instead, one, other, expected) in wrongs {
        let arena = Arena::new().await;
        arena.says_instead(function, text, instead).await;
        arena.is_broken_by(one, other, expected).await;
    }
    let arena = Arena::new().await;
    let unguarded = "ALTER TABLE tasker.idempotency_keys DROP CONSTRAINT idempotency_keys_pkey";
    sqlx::query(unguarded).execute(&arena.pool).await.unwrap();
    arena.is_broken_by(Deed::Create, Deed::Create, "I2").await;
}

const DELETE: &str = "pgmq_notify.delete_worker_test_queue";
const EXTEND: &str = "pgmq_notify.extend_fenced";

async fn every_order(are_wanted: impl Fn(Deed, Deed) -> bool) {
    let arena = Arena::new().await;
    let (mut orders, mut blocked) = (0, 0);
    for (at, one) in Deed::ALL.into_iter().enumerate() {
        for other in
            Deed::ALL.into_iter().skip(at).filter(|other| are_wanted(one, *other) && !are_strangers(one, *other))
        {
            let met = arena.every_order_of(one, other).await;
            println!("{one:?} and {other:?}: {} orders, in {} of them one waited", met.orders, met.blocked);
            if let Some(violation) = met.violation {
                panic!("{one:?} and {other:?}: {violation}");
            }
            assert!(met.orders > 1, "{one:?} and {other:?} never met");
            (orders, blocked) = (orders + met.orders, blocked + met.blocked);
        }
    }
    println!("{orders} orders, in {blocked} of them one waited for the other's lock");
    assert!(blocked > 10, "hardly anybody waited for a lock: {blocked} of {orders}");
}

/// A new task has no row in common with this one, only the tables, the keys and the queues.
fn are_strangers(one: Deed, other: Deed) -> bool {
    other == Deed::Create && !matches!(one, Deed::Claim | Deed::Report | Deed::Create)
        || one == Deed::Create && other != Deed::Create
}

/// What came of all orders of two deeds.
#[derive(Debug, Default)]
struct Met {
    orders: usize,
    /// Orders in which one side waited for a lock of the other's.
    blocked: usize,
    /// The first order that broke something.
    violation: Option<String>,
}

/// One side: a server, with the gate on the way to its database.
struct Side {
    server: Arc<Server>,
    pool: PgPool,
    gate: Arc<Gate>,
    pid: i32,
}

struct Arena {
    db: TestDatabase,
    /// Prepares the task and looks at it afterwards.
    house: Server,
    pool: PgPool,
    sides: [Side; 2],
    template: Template,
}

impl Arena {
    async fn new() -> Self {
        let db = TestDatabase::create().await;
        // Nothing crashes here, and what others see does not depend on the disk.
        let quick = format!("ALTER DATABASE {} SET synchronous_commit = off", db.name);
        sqlx::query(&quick).execute(&db.pool).await.unwrap();
        let pool = store::connect(&db.url, 4, Duration::from_secs(30), 60_000).await.unwrap();
        let house = Server::start(&pool, 1 << 20).await;
        let template = template();
        house.register(&template).await;
        let sides = [Side::new(&db.url).await, Side::new(&db.url).await];
        Self { house, pool, sides, template, db }
    }

    /// Replaces a part of a function in this database.
    async fn says_instead(&self, function: &str, text: &str, instead: &str) {
        let definition: String = sqlx::query_scalar("SELECT pg_get_functiondef($1::regproc)")
            .bind(function)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        assert!(definition.contains(text), "{function} does not say {text}");
        sqlx::raw_sql(&definition.replace(text, instead)).execute(&self.db.pool).await.unwrap();
    }

    async fn is_broken_by(&self, one: Deed, other: Deed, expected: &str) {
        let met = self.every_order_of(one, other).await;
        let said = met.violation.unwrap_or_else(|| panic!("{one:?} and {other:?}: nothing was noticed"));
        println!("{one:?} and {other:?}, order {}: {said:.200}", met.orders);
        assert!(said.starts_with(expected), "{one:?} and {other:?}: {said}");
    }

    async fn every_order_of(&self, one: Deed, other: Deed) -> Met {
        let mut met = Met::default();
        let mut choices = Vec::new();
        loop {
            let order = self.order([one, other], &choices).await;
            met.orders += 1;
            met.blocked += usize::from(order.blocked);
            if let Some(violation) = order.violation {
                let statements: Vec<_> = order.passed.iter().map(|(side, text)| format!("{side} {text:.70}")).collect();
                met.violation = Some(format!("{violation}\n{}", statements.join("\n")));
                return met;
            }
            // The next row of choices: the last first one becomes a second one.
            choices = order.choices;
            while choices.pop_if(|second| *second).is_some() {}
            match choices.last_mut() {
                Some(second) => *second = true,
                None => return met,
            }
        }
    }

    /// Lets both happen: where both wait it goes as `choices` say (true for the second), then always with the first.
    async fn order(&self, deeds: [Deed; 2], choices: &[bool]) -> Order {
        let scene = Arc::new(Scene::begin(&self.house, &self.pool, &self.template).await);
        let mut order = Order::default();
        let mut running = [0, 1].map(|at| self.sides[at].happens(deeds[at], &scene));
        loop {
            let at = [self.settled(0).await, self.settled(1).await];
            for (side, at) in running.iter_mut().zip(&at) {
                if *at == At::End {
                    side.ended.get_or_insert(order.passed.len());
                }
            }
            order.blocked |= at.contains(&At::Busy);
            let next = match &at {
                [At::Gate(_), At::Gate(_)] => {
                    let second = choices.get(order.choices.len()).copied().unwrap_or(false);
                    order.choices.push(second);
                    usize::from(second)
                }
                [At::Gate(_), _] => 0,
                [_, At::Gate(_)] => 1,
                [At::End, At::End] => break,
                // Each waits for the other until PostgreSQL ends it: one of them is told of a deadlock, and panics.
                _ => continue,
            };
            if let At::Gate(statement) = &at[next] {
                let side = &mut running[next];
                side.began.get_or_insert(order.passed.len());
                side.last = order.passed.len();
                order.passed.push((next, statement.clone()));
            }
            self.sides[next].gate.pass();
        }
        let mut done = Vec::new();
        for side in running {
            match side.done().await {
                Ok(side) => done.push(side),
                Err(violation) => order.violation = Some(violation),
            }
        }
        if let Ok(done) = <[Done; 2]>::try_from(done) {
            let ends = scene.end(&done, &self.house, &self.pool);
            order.violation = panic_of(futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(ends)).await);
        }
        self.forget().await;
        order
    }

    /// Where a side is once it has come to its next statement, to its end or to a lock of the other's (`Busy`).
    async fn settled(&self, side: usize) -> At {
        let (me, other) = (&self.sides[side], &self.sides[1 - side]);
        let mut at = me.gate.at();
        loop {
            let come = tokio::time::timeout(Duration::from_millis(3), at.wait_for(|at| *at != At::Busy)).await;
            if let Ok(at) = come {
                return at.unwrap().clone();
            }
            let waits = sqlx::query_scalar("SELECT $1 = ANY (pg_blocking_pids($2))").bind(other.pid).bind(me.pid);
            if waits.fetch_one(&self.pool).await.unwrap() {
                return At::Busy;
            }
        }
    }

    /// So that the next task is alone.
    async fn forget(&self) {
        let forgotten = "DELETE FROM tasker.tasks; DELETE FROM tasker.task_details; DELETE FROM tasker.history;
            DELETE FROM tasker.attempts; DELETE FROM tasker.due_times; DELETE FROM tasker.checkpoints;
            DELETE FROM tasker.idempotency_keys; DELETE FROM tasker.dead_letters; DELETE FROM tasker.discarded_results;
            DELETE FROM pgmq.q_worker_test_queue; DELETE FROM pgmq.q_orchestration_step_results";
        sqlx::raw_sql(forgotten).execute(&self.pool).await.unwrap();
    }
}

impl Side {
    async fn new(url: &str) -> Self {
        let (gate, pool, pid) = Gate::connect(url).await;
        let server = Arc::new(Server::start(&pool, 1 << 20).await);
        // Its first look makes partitions.
        server.look().await;
        Self { server, pool, gate, pid }
    }

    fn happens(&self, deed: Deed, scene: &Arc<Scene>) -> Running {
        let (scene, server, pool, shut) =
            (Arc::clone(scene), Arc::clone(&self.server), self.pool.clone(), self.gate.shut());
        let happens = tokio::spawn(async move {
            let _shut = shut;
            scene.happens(deed, &server, &pool).await
        });
        Running { deed, happens, began: None, last: 0, ended: None }
    }
}

/// A deed under way, and between which statements of both.
struct Running {
    deed: Deed,
    happens: JoinHandle<Told>,
    began: Option<usize>,
    last: usize,
    ended: Option<usize>,
}

impl Running {
    async fn done(self) -> Result<Done, String> {
        let Self { deed, happens, began, last, ended } = self;
        let told = happens.await.map_err(|error| {
            let said = panic_of::<()>(Err(error.into_panic())).unwrap_or_default();
            format!("it fails, {deed:?}: {said}")
        })?;
        Ok(Done { deed, told, began: began.unwrap(), last, ended: ended.unwrap() })
    }
}

/// One order, as it went.
#[derive(Debug, Default)]
struct Order {
    /// Wherever both waited: whether it went on with the second.
    choices: Vec<bool>,
    /// Every statement, and whose it was.
    passed: Vec<(usize, String)>,
    blocked: bool,
    violation: Option<String>,
}

/// What a panic said.
fn panic_of<T>(result: Result<T, Box<dyn std::any::Any + Send>>) -> Option<String> {
    let panic = result.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
}
