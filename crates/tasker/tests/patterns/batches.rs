//! Batches: a worker for each, a bounded number at once, and what a failed one means.

use std::sync::Arc;

use serde_json::{Value, json};
use tasker_client::types::StepAction;
use tasker_lifecycle::{StepIndex, TaskState};
use tasker_worker::{Cursor, HandlerRegistry, StepContext, StepError, StepOutcome};

use tokio::sync::watch;

use crate::bench::{BOUND, Bench};

fn template(strategy: &str, parallelism: usize) -> String {
    format!(
        "
name: t
namespace_name: test
version: 1.0.0
steps:
  - name: split
    type: batchable
    handler: split
    batch_config: {{batch_size: 10, parallelism: {parallelism}, cursor_field: id, worker_template: work, failure_strategy: {strategy}}}
  - {{name: work, type: batch_worker, handler: work, dependencies: [split], retry: {{max_attempts: 2, backoff: none}}}}
  - {{name: join, type: deferred_convergence, handler: join, dependencies: [work]}}
"
    )
}

/// Where batch workers wait until the test opens it; it says how many are there.
struct Gate {
    running: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl Gate {
    fn open() -> Arc<Self> {
        Arc::new(Self { running: watch::Sender::new(0), open: watch::Sender::new(true) })
    }

    async fn pass(&self) {
        self.running.send_modify(|running| *running += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.running.send_modify(|running| *running -= 1);
    }
}

fn handlers(gate: &Arc<Gate>) -> impl Fn(&mut HandlerRegistry) + use<> {
    let gate = Arc::clone(gate);
    move |registry: &mut HandlerRegistry| {
        registry.register_fn("split", async |ctx: StepContext| {
            let items: u64 = ctx.get_input("items")?;
            let config = ctx.batch_config()?;
            let field = config.cursor_field.clone();
            StepOutcome::batches(Cursor::ranges(items, config.batch_size), json!({"items": items, "field": field}))
        });
        let gate = Arc::clone(&gate);
        registry.register_fn("work", move |ctx: StepContext| {
            let gate = Arc::clone(&gate);
            async move {
                gate.pass().await;
                work(&ctx)
            }
        });
        registry.register_fn("join", async |ctx: StepContext| {
            let batches = ctx.batch_results::<Value>("work")?;
            let sum: u64 = batches.iter().map(|(_, batch)| batch["sum"].as_u64().unwrap_or(0)).sum();
            let failed: Vec<String> = ctx.batch_failures().map(|failure| failure.step.to_owned()).collect();
            let names: Vec<&str> = batches.iter().map(|(name, _)| name.as_str()).collect();
            StepOutcome::success(json!({"sum": sum, "batches": names.len(), "first": names.first(), "failed": failed}))
        });
    }
}

fn work(ctx: &StepContext) -> Result<StepOutcome, StepError> {
    let batch = ctx.batch()?;
    if batch.is_no_op() {
        return StepOutcome::success(json!({"sum": 0, "name": ctx.step_name()}));
    }
    let fails: Vec<String> = ctx.get_input::<Option<_>>("fails")?.unwrap_or_default();
    let repaired_at = ctx.get_input::<Option<u32>>("repaired_at")?.unwrap_or(u32::MAX);
    if fails.iter().any(|id| id == batch.id()) && ctx.attempt() < repaired_at {
        return Err(StepError::retryable(format!("batch {} is bad", batch.id())));
    }
    let (start, end): (u64, u64) = (batch.start()?, batch.end()?);
    StepOutcome::success(json!({"sum": (start..end).sum::<u64>(), "name": ctx.step_name()}))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_is_worked_on_once_and_no_more_at_once_than_allowed() {
    for parallelism in [1, 3] {
        let gate = Gate::open();
        Bench::on_both(&template("fail_fast", parallelism), handlers(&gate), async |bench| {
            gate.open.send_replace(false);
            let task = bench.create(json!({"items": 95})).await;
            let all_in = async { gate.running.subscribe().wait_for(|running| *running == parallelism).await.map(drop) };
            tokio::time::timeout(BOUND, all_in).await.expect("as many run as may").unwrap();
            // Nothing moves while they run: what is enqueued now is all that may be.
            let live = bench.letters(task).await.matches('Q').count();
            assert_eq!(live, parallelism);
            gate.open.send_replace(true);
            assert_eq!(bench.rests(task).await, TaskState::Complete);
            let joined = json!({"sum": (0..95).sum::<u64>(), "batches": 10, "first": "work_001", "failed": []});
            assert_eq!(bench.result(task, 2).await, joined);
            assert_eq!(bench.letters(task).await, format!("C.C{}", "C".repeat(10)));
            assert_eq!(bench.result(task, 12).await["name"], "work_010");
            let named =
                "SELECT count(*) FROM tasker.steps WHERE step_name IN ('split', 'join') OR step_name LIKE 'work\\_0__'";
            assert_eq!(bench.count(named).await, 12, "the view knows every step, and not the pattern");
            assert_eq!(bench.count("SELECT count(*) FROM tasker.steps").await, 12);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handler_that_splits_reads_its_batch_config() {
    let template = template("fail_fast", 3).replace("batch_size: 10, ", "batch_size: 25, ");
    Bench::on_both(&template, handlers(&Gate::open()), async |bench| {
        let task = bench.completes(json!({"items": 60})).await;
        assert_eq!(bench.letters(task).await, "C.CCCC");
        assert_eq!(bench.result(task, 0).await["field"], "id");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_split_runs_one_worker_that_has_nothing_to_do() {
    Bench::on_both(&template("fail_fast", 3), handlers(&Gate::open()), async |bench| {
        let task = bench.completes(json!({"items": 0})).await;
        assert_eq!(bench.letters(task).await, "C.CC");
        assert_eq!(bench.result(task, 3).await["name"], "work_000");
        assert_eq!(bench.result(task, 2).await["sum"], 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_may_fail_alone_lets_the_convergence_run() {
    for (strategy, listed) in [("continue_on_failure", json!(["work_002"])), ("isolate", json!([]))] {
        Bench::on_both(&template(strategy, 2), handlers(&Gate::open()), async |bench| {
            let task = bench.completes(json!({"items": 40, "fails": ["002"]})).await;
            assert_eq!(bench.letters(task).await, "C.CCECC");
            let joined = bench.result(task, 2).await;
            assert_eq!((&joined["batches"], &joined["failed"]), (&json!(3), &listed), "{strategy}");
            assert_eq!(bench.count("SELECT count(*) FROM tasker.dead_letters").await, 1, "I14");
            assert_eq!(bench.count("SELECT count(*) FROM tasker.attempts WHERE outcome = 'failure'").await, 2);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_all_cancels_the_others_and_the_convergence_waits() {
    Bench::on_both(&template("fail_fast", 1), handlers(&Gate::open()), async |bench| {
        let task = bench.create(json!({"items": 40, "fails": ["002"]})).await;
        assert_eq!(bench.rests(task).await, TaskState::BlockedByFailures);
        assert_eq!(bench.letters(task).await, "C.PCEXX");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_failed_all_is_repaired_and_its_cancelled_siblings_run_before_the_convergence() {
    Bench::on_both(&template("fail_fast", 1), handlers(&Gate::open()), async |bench| {
        let client = bench.client().await;
        let task = bench.create(json!({"items": 40, "fails": ["002"], "repaired_at": 3})).await;
        assert_eq!(bench.rests(task).await, TaskState::BlockedByFailures);
        assert_eq!(bench.letters(task).await, "C.PCEXX");
        let failed = task.step(StepIndex(4)).uuid();
        let reset = StepAction::reset_for_retry("the batch was put right", "ann");
        client.act_on_step(task.uuid(), failed, &reset).await.unwrap();
        bench.reaches(task, TaskState::Complete).await;
        assert_eq!(bench.letters(task).await, "C.CCCCC");
        let joined = json!({"sum": (0..40).sum::<u64>(), "batches": 4, "first": "work_001", "failed": []});
        assert_eq!(bench.result(task, 2).await, joined);
        let each = "SELECT count(*) FROM (SELECT step FROM tasker.attempts WHERE outcome = 'success' GROUP BY step
                    HAVING count(*) = 1) s";
        assert_eq!(bench.count(each).await, 6, "split, four batches and the convergence, each once");
        assert_eq!(bench.count("SELECT max(attempt)::bigint FROM tasker.attempts WHERE step = 4").await, 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_batches_are_joined() {
    Bench::on_both(&template("fail_fast", 50), handlers(&Gate::open()), async |bench| {
        let task = bench.completes(json!({"items": 10_000})).await;
        let joined = bench.result(task, 2).await;
        assert_eq!((&joined["batches"], &joined["sum"]), (&json!(1_000), &json!((0..10_000_u64).sum::<u64>())));
    })
    .await;
}
