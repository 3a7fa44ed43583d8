//! Bounds on a task's life: each is seen by the sweep, and what the template says follows.

use tasker_lifecycle::{TaskId, TaskState};
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::bench::Bench;

/// A task of this template waits for a retry until its life is over.
fn template(name: &str, lifecycle: &str) -> String {
    format!(
        "
name: {name}
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
async fn aged(bench: &Bench, template: &str) -> TaskId {
    let task = bench.create_of(template, serde_json::json!({})).await;
    bench.reaches(task, TaskState::WaitingForRetry).await;
    for age in [
        "UPDATE tasker.tasks SET created_at = created_at - interval '10 minutes' WHERE task_uuid = $1",
        "UPDATE tasker.history SET at = at - interval '10 minutes' WHERE task_uuid = $1",
    ] {
        sqlx::query(age).bind(task.uuid()).execute(&bench.pool).await.unwrap();
    }
    task
}

/// A younger task whose end shows that the sweep has looked at all that are older.
async fn the_sweep_has_looked(bench: &Bench) {
    let canary = aged(bench, "canary").await;
    assert_eq!(bench.rests(canary).await, TaskState::Error);
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
        Bench::on_both(&template("t", lifecycle), handlers, async |bench| {
            bench.register(&template("canary", "{max_duration_minutes: 5, staleness_action: error}")).await;
            let task = aged(bench, "t").await;
            // Twice, because a second look must change nothing.
            the_sweep_has_looked(bench).await;
            the_sweep_has_looked(bench).await;
            let (state, letters) = if ends { (TaskState::Error, "XX") } else { (TaskState::WaitingForRetry, "WP") };
            bench.reaches(task, state).await;
            assert_eq!(bench.letters(task).await, letters, "{lifecycle}");
            assert_eq!(bench.count(FILED).await, filed, "{lifecycle}");
        })
        .await;
    }
}
