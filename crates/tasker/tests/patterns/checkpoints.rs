//! Checkpoints: a step goes on where it was, in the same attempt, after a failure, and after its worker died.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::bench::Bench;

const TEMPLATE: &str = "
name: t
namespace_name: test
version: 1.0.0
steps:
  - {name: count, handler: count, retry: {max_attempts: 3, backoff: none}}
";

/// Every item that was processed, in the order in which it was.
type Log = Arc<Mutex<Vec<u64>>>;

/// Sums 0..100 in stretches of ten. The runs whose numbers are in `fails` fail after their stretch.
fn handlers(log: &Log, fails: &'static [usize]) -> impl Fn(&mut HandlerRegistry) + use<> {
    let log = Arc::clone(log);
    move |registry: &mut HandlerRegistry| {
        let (log, runs) = (Arc::clone(&log), Arc::new(AtomicUsize::new(0)));
        registry.register_fn("count", move |ctx: StepContext| {
            let (log, run) = (Arc::clone(&log), runs.fetch_add(1, Ordering::SeqCst) + 1);
            async move {
                let (start, mut sum) = match ctx.checkpoint() {
                    Some(checkpoint) => (checkpoint.cursor::<u64>()?, checkpoint.accumulated_results::<u64>()?),
                    None => (0, 0),
                };
                for item in start..start + 10 {
                    sum += item;
                    log.lock().unwrap().push(item);
                }
                if fails.contains(&run) {
                    return Err(StepError::retryable("interrupted"));
                }
                match start + 10 {
                    100 => StepOutcome::success(json!({"sum": sum, "attempt": ctx.attempt()})),
                    next => StepOutcome::checkpoint_yield(next, next, sum),
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_yields_is_run_again_at_once_in_the_same_attempt() {
    let log = Log::default();
    Bench::on_both(TEMPLATE, handlers(&log, &[]), async |bench| {
        log.lock().unwrap().clear();
        let task = bench.completes(json!({})).await;
        assert_eq!(bench.result(task, 0).await, json!({"sum": 4950, "attempt": 1}));
        assert_eq!(*log.lock().unwrap(), (0..100).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_the_next_attempt_goes_on_from_the_last_checkpoint() {
    let log = Log::default();
    Bench::on_both(TEMPLATE, handlers(&log, &[4, 6]), async |bench| {
        log.lock().unwrap().clear();
        let task = bench.completes(json!({})).await;
        assert_eq!(bench.result(task, 0).await, json!({"sum": 4950, "attempt": 3}));
        let expected: Vec<u64> = (0..40).chain(30..50).chain(40..100).collect();
        assert_eq!(*log.lock().unwrap(), expected, "what lies before a checkpoint is never processed again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_claim_stores_no_checkpoint_and_stops() {
    let log = Log::default();
    Bench::on_both(TEMPLATE, handlers(&log, &[]), async |bench| {
        log.lock().unwrap().clear();
        // Between two runs somebody else claims the ticket: the first yield finds its fence gone.
        let steal = "CREATE FUNCTION tasker.steal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.attempt = 1 AND (NEW.checkpoint ->> 'items_processed')::integer = 30 THEN
                     UPDATE pgmq.q_worker_test_queue SET read_ct = read_ct + 1, vt = clock_timestamp();
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER steal BEFORE UPDATE ON tasker.checkpoints FOR EACH ROW EXECUTE FUNCTION tasker.steal()";
        sqlx::raw_sql(steal).execute(&bench.pool).await.unwrap();
        let task = bench.completes(json!({})).await;
        assert_eq!(bench.result(task, 0).await["sum"], 4950);
        let expected: Vec<u64> = (0..40).chain(30..100).collect();
        let mut seen = log.lock().unwrap().clone();
        seen.truncate(expected.len());
        assert_eq!(seen, expected);
        let lost = "SELECT count(*) FROM tasker.attempts WHERE outcome = 'lost'";
        assert!(bench.count(lost).await >= 1, "the claim that was stolen is told as lost");
    })
    .await;
}
