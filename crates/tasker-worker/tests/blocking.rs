//! Handlers that block the threads of the runtime.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::Connection;
use support::Setup;
use tasker_shared::testing::eventually;
use tasker_worker::{HandlerRegistry, StepContext, StepOutcome};

const STEP: &str = "
  - {name: only, handler: {callable: h}, timeout_seconds: 60}";
const LEASE: Duration = Duration::from_millis(600);

/// Where handlers stop the thread that runs them.
#[derive(Default)]
struct Gate {
    inside: AtomicUsize,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    async fn until_inside(&self, count: usize) {
        eventually("they are inside", async || self.inside.load(Ordering::SeqCst) >= count).await;
    }
}

/// Opens the gate also where the test fails, which could not end otherwise.
struct Opened<'a>(&'a Gate);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// What the test does meanwhile has to have threads of its own.
fn aside<T: Send>(doing: impl AsyncFnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(doing())
        });
        thread.join().unwrap()
    })
}

async fn setup() -> Setup {
    let mut setup = Setup::new(STEP).await;
    setup.config.queue.lease_ms = u64::try_from(LEASE.as_millis()).unwrap();
    setup.config.worker.heartbeat_ms = 100;
    setup
}

fn blocking(gate: &Arc<Gate>) -> HandlerRegistry {
    let gate = Arc::clone(gate);
    let mut registry = HandlerRegistry::new();
    registry.register_fn("h", move |ctx: StepContext| {
        let gate = Arc::clone(&gate);
        async move {
            if ctx.get_input::<bool>("block")? {
                gate.pass();
            }
            StepOutcome::success(1)
        }
    });
    registry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_block_every_thread_keep_their_leases() {
    let (setup, gate) = (setup().await, Arc::new(Gate::default()));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(setup.task(json!({"block": true}), Duration::ZERO).await);
    }
    let worker = setup.start(blocking(&gate)).await;
    let claimable = aside(async || {
        let _open = Opened(&gate);
        gate.until_inside(2).await;
        let mut conn = sqlx::PgConnection::connect(&setup.db.url).await.unwrap();
        let first_end = format!("SELECT max(vt) FROM {}", setup.ticket_table());
        let first_end: DateTime<Utc> = sqlx::query_scalar(&first_end).fetch_one(&mut conn).await.unwrap();
        let over = "SELECT clock_timestamp() > $1";
        eventually("the first leases would be over", async || {
            sqlx::query_scalar(over).bind(first_end).fetch_one(&mut conn).await.unwrap()
        })
        .await;
        let claimable = format!("SELECT count(*) FROM {} WHERE vt <= clock_timestamp()", setup.ticket_table());
        sqlx::query_scalar::<_, i64>(&claimable).fetch_one(&mut conn).await.unwrap()
    });
    assert_eq!(claimable, 0, "another worker could have claimed what handlers still run");
    setup.until_attempts(4).await;
    for task in tasks {
        assert_eq!(setup.attempts(task).await, [(1, "success".to_owned(), None)]);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_one_thread_leaves_the_others_to_the_rest() {
    let (setup, gate) = (setup().await, Arc::new(Gate::default()));
    setup.task(json!({"block": true}), Duration::ZERO).await;
    let worker = setup.start(blocking(&gate)).await;
    aside(async || {
        let _open = Opened(&gate);
        gate.until_inside(1).await;
        let mut conn = sqlx::PgConnection::connect(&setup.db.url).await.unwrap();
        // A copy of the ticket is work enough: it is looked up, found to be none, and archived.
        let copy = format!(
            "INSERT INTO {0} (read_ct, enqueued_at, vt, message)
             SELECT 0, now(), now(), message FROM {0} LIMIT 1",
            setup.ticket_table()
        );
        sqlx::query(&copy).execute(&mut conn).await.unwrap();
        let archived = format!("SELECT count(*) > 0 FROM pgmq.a_{}", setup.queue);
        eventually("something else is done while one handler blocks its thread", async || {
            sqlx::query_scalar(&archived).fetch_one(&mut conn).await.unwrap()
        })
        .await;
    });
    worker.stop().await;
}
