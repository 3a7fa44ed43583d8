//! Resources that steps share: a limit holds across tasks, one that fails is left alone until a probe succeeds, and a
//! pause takes back what nobody has claimed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tasker_lifecycle::{TaskId, TaskState};
use tasker_shared::store::resources::{self, Known, ResourceKey, Settings};
use tasker_shared::testing::eventually;
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};
use tokio::sync::Semaphore;

use crate::bench::Bench;

const TEMPLATE: &str = "
name: t
namespace_name: test
version: 1.0.0
steps:
  - {name: before, handler: pass}
  - {name: call, handler: call, uses: [shop], dependencies: [before],
     retry: {max_attempts: 4, backoff: none}}
  - {name: after, handler: pass, dependencies: [call]}
";

/// What the resource is like, and what it has borne.
#[derive(Default)]
struct Shop {
    is_down: AtomicBool,
    at_once: AtomicUsize,
    most: AtomicUsize,
    /// Calls stay until so many have been here at once.
    awaited: AtomicUsize,
    calls: AtomicUsize,
    failures: AtomicUsize,
}

impl Shop {
    async fn call(&self) -> Result<StepOutcome, StepError> {
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(at_once, Ordering::SeqCst);
        self.calls.fetch_add(1, Ordering::SeqCst);
        // The step's deadline bounds the wait; the turns of others let more come, if they could.
        let mut turns = 0;
        while turns < 50 || self.most.load(Ordering::SeqCst) < self.awaited.load(Ordering::SeqCst) {
            turns += 1;
            tokio::task::yield_now().await;
        }
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        if self.is_down.load(Ordering::SeqCst) {
            self.failures.fetch_add(1, Ordering::SeqCst);
            return Err(StepError::retryable("the shop is closed"));
        }
        StepOutcome::success(json!({"sold": true}))
    }
}

fn handlers(shop: &Arc<Shop>) -> impl Fn(&mut HandlerRegistry) {
    move |registry| {
        registry.register_fn("pass", async |_: StepContext| StepOutcome::success(json!({})));
        let shop = Arc::clone(shop);
        registry.register_fn("call", move |_: StepContext| {
            let shop = Arc::clone(&shop);
            async move { shop.call().await }
        });
    }
}

async fn set(bench: &Bench, settings: Settings) {
    let key = ResourceKey { namespace: "test".to_owned(), name: "shop".to_owned() };
    let mut conn = bench.pool.acquire().await.unwrap();
    assert!(resources::set(&mut conn, &key, settings, ("tester", "a test")).await.unwrap());
}

async fn known(bench: &Bench) -> Known {
    let mut conn = bench.pool.acquire().await.unwrap();
    resources::list(&mut conn, Some("test"), Some("shop")).await.unwrap().remove(0)
}

async fn create(bench: &Bench, tasks: usize) -> Vec<TaskId> {
    let mut ids = Vec::new();
    for _ in 0..tasks {
        ids.push(bench.create(json!({})).await);
    }
    ids
}

async fn complete(bench: &Bench, tasks: &[TaskId]) {
    for task in tasks {
        assert_eq!(bench.rests(*task).await, TaskState::Complete, "{:#?}", bench.attempts(*task).await);
    }
    let found = known(bench).await;
    assert_eq!((found.gate.in_flight, found.held), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_across_tasks() {
    for limit in [1, 3] {
        let shop = Arc::new(Shop::default());
        Bench::on_both(TEMPLATE, handlers(&shop), async |bench| {
            shop.most.store(0, Ordering::SeqCst);
            shop.awaited.store(usize::try_from(limit).unwrap(), Ordering::SeqCst);
            set(bench, Settings { max_in_flight: Some(limit), ..Settings::default() }).await;
            let tasks = create(bench, 40).await;
            complete(bench, &tasks).await;
            assert_eq!(shop.most.load(Ordering::SeqCst), usize::try_from(limit).unwrap());
            let held = bench.count("SELECT count(*) FROM tasker.history WHERE changes LIKE '%1:HQ%'").await;
            assert_eq!(held, 40, "every call is let through once");
        })
        .await;
        assert_eq!(shop.calls.load(Ordering::SeqCst), 80);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_fails_is_left_alone_until_a_probe_succeeds() {
    let shop = Arc::new(Shop::default());
    Bench::on_both(TEMPLATE, handlers(&shop), async |bench| {
        shop.is_down.store(true, Ordering::SeqCst);
        shop.failures.store(0, Ordering::SeqCst);
        let (most, quick) = (Some(2), Some(50));
        let settings = Settings {
            max_in_flight: most,
            failures_to_open: Some(3),
            open_ms: quick,
            max_open_ms: quick,
            ..Settings::default()
        };
        set(bench, settings).await;
        let tasks = create(bench, 40).await;
        // Three failures open it, then one probe after the other fails.
        let probed = "SELECT count(*) FROM tasker.resources WHERE times >= 4";
        eventually("three probes have failed", async || bench.count(probed).await == 1).await;
        let waiting = "SELECT count(*) FROM tasker.tasks WHERE state = 'waiting_for_dependencies'";
        assert!(bench.count(waiting).await >= 38, "who waits for a resource says so");
        let failures = shop.failures.load(Ordering::SeqCst);
        // Two may be in flight when the third failure opens it; a probe more may run by now.
        assert!((6..=12).contains(&failures), "{failures} attempts for three failures and some probes");
        shop.is_down.store(false, Ordering::SeqCst);
        complete(bench, &tasks).await;
        assert_eq!(bench.count("SELECT count(*) FROM tasker.dead_letters").await, 0, "nobody ran out of attempts");
        assert_eq!(bench.count("SELECT count(*) FROM tasker.resources WHERE state = 'closed'").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_takes_back_what_nobody_has_claimed() {
    let gate = Arc::new(Semaphore::new(0));
    let started = Arc::new(AtomicUsize::new(0));
    let handlers = |registry: &mut HandlerRegistry| {
        registry.register_fn("pass", async |_: StepContext| StepOutcome::success(json!({})));
        let (gate, started) = (Arc::clone(&gate), Arc::clone(&started));
        registry.register_fn("call", move |_: StepContext| {
            let (gate, started) = (Arc::clone(&gate), Arc::clone(&started));
            async move {
                started.fetch_add(1, Ordering::SeqCst);
                let _pass = gate.acquire().await.unwrap();
                StepOutcome::success(json!({}))
            }
        });
    };
    Bench::on_both(TEMPLATE, handlers, async |bench| {
        let (before, passes) = (started.load(Ordering::SeqCst), gate.available_permits());
        gate.forget_permits(passes);
        let slots = bench.engine.config().worker.concurrency;
        // All of them have come to their call before the first one is let through: only calls have tickets then.
        set(bench, Settings { paused: Some(true), ..Settings::default() }).await;
        let tasks = create(bench, slots + 60).await;
        eventually("all are held", async || usize::try_from(known(bench).await.held).unwrap() == slots + 60).await;
        set(bench, Settings { paused: Some(false), ..Settings::default() }).await;
        eventually("every slot is taken", async || started.load(Ordering::SeqCst) - before == slots).await;
        set(bench, Settings { paused: Some(true), ..Settings::default() }).await;
        eventually("what nobody claimed is held", async || {
            let found = known(bench).await;
            usize::try_from(found.gate.in_flight).unwrap() == slots && found.held > 0
        })
        .await;
        assert!(bench.count("SELECT count(*) FROM tasker.history WHERE cause = 'parked'").await > 0);
        gate.add_permits(Semaphore::MAX_PERMITS / 2);
        eventually("what ran has ended", async || known(bench).await.gate.in_flight == 0).await;
        assert_eq!(started.load(Ordering::SeqCst) - before, slots, "nothing starts while it is paused");
        set(bench, Settings { paused: Some(false), ..Settings::default() }).await;
        complete(bench, &tasks).await;
        let attempts = "SELECT coalesce(max(attempt), 0)::bigint FROM tasker.attempts";
        assert_eq!(bench.count(attempts).await, 1, "being taken back costs no attempt");
    })
    .await;
}
