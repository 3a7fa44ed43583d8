//! Driving tasks: one after another, or many at once with a bound.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tasker_client::types::TaskRequest;
use tasker_client::{Client, Waited};
use tasker_lifecycle::TaskState;
use tasker_orchestration::Engine;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use super::workload::{NAMESPACE, Workload};
use crate::failure::Failure;

/// A task that takes longer than this is stuck, and so is the benchmark.
const LONGEST: Duration = Duration::from_mins(1);

/// Where tasks are asked for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// The engine in this process.
    Local(Engine),
    /// A server over HTTP.
    Http(Client),
    /// A server over HTTP that is only asked to take the task in.
    Post(Client),
}

/// What a drive took.
#[derive(Debug)]
pub(crate) struct Drive {
    /// The whole of it.
    pub(crate) took: Duration,
    /// Each task, in milliseconds.
    pub(crate) latencies: Vec<f64>,
}

/// Runs `tasks` tasks with at most `concurrency` in flight.
pub(crate) async fn drive(
    target: &Target,
    workload: Workload,
    tasks: usize,
    concurrency: usize,
) -> Result<Drive, Failure> {
    let slots = Arc::new(Semaphore::new(concurrency));
    let mut running = JoinSet::new();
    let mut latencies = Vec::with_capacity(tasks);
    let began = Instant::now();
    for _ in 0..tasks {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        // One that failed is not waited with until all the others have had their turn.
        while let Some(one) = running.try_join_next() {
            latencies.push(milliseconds(one)?);
        }
        let target = target.clone();
        running.spawn(async move {
            let one = target.one(workload).await;
            drop(slot);
            one
        });
    }
    while let Some(one) = running.join_next().await {
        latencies.push(milliseconds(one)?);
    }
    Ok(Drive { took: began.elapsed(), latencies })
}

fn milliseconds(one: Result<Result<Duration, Failure>, JoinError>) -> Result<f64, Failure> {
    let took = one.map_err(|error| Failure::Failed(error.to_string()))??;
    Ok(took.as_secs_f64() * 1000.0)
}

impl Target {
    async fn one(&self, workload: Workload) -> Result<Duration, Failure> {
        let began = Instant::now();
        let state = match self {
            Self::Local(engine) => {
                let created = retried(|| engine.create(request(workload))).await;
                let created = created.map_err(|error| Failure::Failed(error.to_string()))?;
                engine.wait(created.task, LONGEST).await
            }
            Self::Http(client) => {
                let created = client.create_task(&request(workload)).await?;
                match client.wait(created.task_uuid, Some(LONGEST)).await? {
                    Waited::Settled(task) => Some(task.status),
                    Waited::TimedOut(_) => None,
                }
            }
            Self::Post(client) => {
                client.create_task(&request(workload)).await?;
                Some(TaskState::Complete)
            }
        };
        match state {
            Some(TaskState::Complete) => Ok(began.elapsed()),
            other => Err(Failure::Failed(format!("a task did not complete: {other:?}"))),
        }
    }
}

/// A full inbox is an answer, not a failure: the load waits and asks again.
async fn retried<T, F: Future<Output = Result<T, tasker_orchestration::CreateError>>>(
    mut ask: impl FnMut() -> F,
) -> Result<T, tasker_orchestration::CreateError> {
    loop {
        match ask().await {
            Err(tasker_orchestration::CreateError::Overloaded { .. }) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => return other,
        }
    }
}

fn request(workload: Workload) -> TaskRequest {
    let context = RawValue::from_string(r#"{"n":1}"#.to_owned()).expect("valid JSON");
    TaskRequest { context, ..TaskRequest::new(NAMESPACE, workload.name()) }
}
