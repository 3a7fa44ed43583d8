//! Bounds on a task's life: each is seen by the sweep, and what the template says follows.

use std::time::Duration;

use tasker_lifecycle::{TaskId, TaskState};
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::bench::Bench;

/// A task of this template waits for a retry until its life is over.
fn template(lifecycle: &str) -> String {
    format!(
        "
name: t
namespace_name: test
version: 1.0.0
lifecycle: {lifecycle}
steps:
  - {{name: call, handler: fail, retry: {{max_attempts: 3, backoff_base_ms: 3600000, max_backoff_ms: 3600000}}}}
  - {{name: after, handler: fail, dependencies: [call]}}
"
    )
}

fn handlers(registry: &mut HandlerRegistry) {
    registry.register_fn("fail", async |_: StepContext| -> Result<StepOutcome, StepError> {
        Err(StepError::retryable("nobody answers"))
    });
}

/// A task that waits for its retry, and has done so for ten minutes as far as the database knows.
async fn aged(bench: &Bench) -> TaskId {
    let task = bench.create(serde_json::json!({})).await;
    let waiting = "SELECT count(*) FROM tasker.tasks WHERE state = 'waiting_for_retry'";
    while bench.count(waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let age = "UPDATE tasker.tasks SET created_at = created_at - interval '10 minutes';
               UPDATE tasker.history SET at = at - interval '10 minutes'";
    sqlx::raw_sql(age).execute(&bench.pool).await.unwrap();
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bound_of_a_life_does_what_its_template_says() {
    const FILED: &str = "SELECT count(*) FROM tasker.dead_letters WHERE reason = 'stale' AND snapshot IS NOT NULL";
    for (lifecycle, filed, ends) in [
        ("{max_duration_minutes: 5, staleness_action: error}", 0, true),
        ("{max_duration_minutes: 5, staleness_action: none, auto_fail_on_timeout: true}", 0, true),
        ("{max_waiting_for_retry_minutes: 5, staleness_action: error, auto_dlq_on_timeout: true}", 1, true),
        ("{max_waiting_for_retry_minutes: 5}", 1, false),
        ("{max_duration_minutes: 5, staleness_action: none}", 0, false),
        ("{max_duration_minutes: 60, max_waiting_for_retry_minutes: 60, staleness_action: error}", 0, false),
        (
            "{max_steps_in_process_minutes: 5, max_waiting_for_dependencies_minutes: 5, staleness_action: error}",
            0,
            false,
        ),
    ] {
        Bench::on_both(&template(lifecycle), handlers, async |bench| {
            let task = aged(bench).await;
            if ends {
                assert_eq!(bench.rests(task).await, TaskState::Error, "{lifecycle}");
                assert_eq!(bench.letters(task).await, "XX", "{lifecycle}");
            }
            // The sweep looks ten times a second: more looks change nothing.
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert_eq!(bench.count(FILED).await, filed, "{lifecycle}");
            let live = "SELECT count(*) FROM tasker.tasks WHERE ended_at IS NULL";
            assert_eq!(bench.count(live).await, i64::from(!ends), "{lifecycle}");
        })
        .await;
    }
}
