//! Figures over HTTP: made of execution times, whatever the steps waited for.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use http_support::{ORDER, Server, failure, order, success};
use tasker_client::types::{BottlenecksQuery, PerformanceQuery};

/// Three complete tasks and a blocked one whose attempts ran for known times: step number × 100 ms, and `charge` needs
/// two attempts.
async fn history_of_four(server: &Server) {
    server.register(ORDER).await.unwrap();
    for n in 0..4 {
        let task = server.client.create_task(&order()).await.unwrap().task_uuid;
        let handle = |step, attempt| if step == 1 && (attempt == 1 || n == 3) { failure(true) } else { success("1") };
        server.work_until_settled(task, handle).await;
    }
    // Claimed an hour before it began, as if it had waited in a worker: that must not count.
    let times = "UPDATE tasker.attempts SET ended_at = started_at + step * interval '100 ms',
                 claimed_at = started_at - interval '1 hour'";
    sqlx::raw_sql(times).execute(&server.db.pool).await.unwrap();
}

#[tokio::test]
async fn performance_counts_tasks_and_measures_execution() {
    let server = Server::start().await;
    let nothing = server.client.performance(&PerformanceQuery::default()).await.unwrap();
    assert_eq!((nothing.total_tasks, nothing.step_execution_ms, nothing.error_rate), (0, None, 0.0));
    history_of_four(&server).await;
    let active = server.client.create_task(&order()).await.unwrap().task_uuid;
    let cancelled = server.client.create_task(&order()).await.unwrap().task_uuid;
    server.client.cancel_task(cancelled).await.unwrap();
    let found = server.client.performance(&PerformanceQuery { hours: Some(1) }).await.unwrap();
    assert_eq!((found.total_tasks, found.active_tasks, found.cancelled_tasks), (6, 1, 1), "{active} goes on");
    assert_eq!((found.completed_tasks, found.failed_tasks), (3, 1));
    assert!((found.completion_rate - 0.75).abs() < 1e-9 && (found.error_rate - 0.25).abs() < 1e-9);
    // reserve 4, charge 8 (3 good, 5 bad), pack 4, ship 3
    assert_eq!((found.attempts, found.failed_attempts, found.completed_steps), (19, 5, 14));
    let times = found.step_execution_ms.unwrap();
    assert_eq!((times.p50.round(), times.max.round()), (100.0, 300.0));
    let mean = (8.0 * 100.0 + 4.0 * 200.0 + 3.0 * 300.0) / 19.0 / 1_000.0;
    assert!((found.average_step_duration_seconds.unwrap() - mean).abs() < 1e-6, "{found:?}");
    assert!((found.tasks_per_hour - 6.0).abs() < 0.01 && !found.truncated, "{found:?}");

    for query in ["hours=0", "hours=721", "hours=x", "days=1"] {
        assert_eq!(server.get(&format!("/v1/analytics/performance?{query}")).await.status, 422, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bottlenecks_are_ordered_by_execution_time() {
    let server = Server::start().await;
    history_of_four(&server).await;
    let query = BottlenecksQuery { min_executions: Some(1), ..BottlenecksQuery::default() };
    let found = server.client.bottlenecks(&query).await.unwrap();
    let told: Vec<_> = found
        .slow_steps
        .iter()
        .map(|step| (step.step_name.as_deref().unwrap(), step.executions, step.average_ms.round()))
        .collect();
    assert_eq!(told, [("ship", 3, 300.0), ("pack", 4, 200.0), ("charge", 8, 100.0), ("reserve", 4, 0.0)]);
    let charge = &found.slow_steps[2];
    assert_eq!((charge.error_rate, charge.retry_rate, charge.handler.as_deref()), (0.625, 0.5, Some("charge")));
    assert_eq!((charge.total_ms.round(), charge.max_ms.round()), (800.0, 100.0));
    let [task] = &found.slow_tasks[..] else { panic!("one template: {found:?}") };
    assert_eq!((task.executions, task.average_execution_ms.round()), (3, 700.0), "two charges, pack and ship");
    assert!(task.average_duration_ms > 0.0);
    let few = BottlenecksQuery { min_executions: Some(4), limit: Some(1), hours: None };
    let few = server.client.bottlenecks(&few).await.unwrap();
    assert_eq!(few.slow_steps[0].step_name.as_deref(), Some("pack"));
    assert_eq!((few.slow_steps.len(), few.slow_tasks.len()), (1, 0));
    assert_eq!(server.get("/v1/analytics/bottlenecks?limit=101").await.status, 422);
    server.stop().await;
}
