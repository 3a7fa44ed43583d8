//! The HTTP API: routes, and what they share. Deliberately absent: any decision about tasks.
//!
//! A request passes the [`guard`], one handler, and at most a few reads; what changes something goes through the
//! [`Engine`].

mod analytics;
mod answers;
mod bulk;
mod dlq;
mod error;
mod explain;
mod guard;
mod history;
mod input;
mod names;
mod repair;
mod resources;
mod server;
mod steps;
mod system;
mod tasks;
mod templates;
mod view;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::middleware::from_fn_with_state;
use sqlx::PgConnection;
use tasker_client::types::{ErrorBody, TaskResponse, TaskState};
use tasker_lifecycle::{StepIndex, TaskId, Timestamp};
use tasker_shared::store::queries::{LastAttempt, TaskRecord};
use tasker_shared::store::{StoreError, queries, refusals, tasks as stored};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoResponses, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::engine::Engine;
use answers::Answers;
use error::ApiError;
use names::StepNames;
use view::TaskView;

pub use server::serve;

/// What handlers share.
#[derive(Clone)]
struct Api {
    engine: Engine,
    shutdown: CancellationToken,
    /// Places of requests that work.
    working: Arc<Semaphore>,
    /// Places of requests that wait for a task.
    waiting: Arc<Semaphore>,
    /// What those are told who waited.
    answers: Answers,
    openapi: Arc<str>,
    started: Instant,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl Api {
    async fn task(&self, task: TaskId) -> Result<TaskView, ApiError> {
        self.task_with(task, None).await
    }

    /// A task that has ended, for one who waited: read together with others, where that is soon.
    async fn ended(&self, task: TaskId) -> Result<TaskView, ApiError> {
        const SOON: Duration = Duration::from_secs(1);
        match tokio::time::timeout(SOON, self.answers.task(task)).await {
            Ok(Some(view)) => Ok(view),
            _ => self.task(task).await,
        }
    }

    /// A task with the attempts of one step, or of all.
    async fn task_with(&self, id: TaskId, step: Option<StepIndex>) -> Result<TaskView, ApiError> {
        let mut conn = self.engine.pool().acquire().await?;
        let record = queries::task(&mut conn, id, self.engine.templates()).await?;
        let record = record.ok_or_else(|| ApiError::not_found("task"))?;
        let attempts = queries::last_attempts(&mut conn, &[id], step).await?;
        Ok(viewed(&mut conn, record, attempts, self.engine.parts.now()).await?)
    }

    /// The task, or what became of its request.
    async fn answer(&self, id: TaskId) -> Result<TaskResponse, ApiError> {
        match self.task(id).await {
            Err(error) if error.is_not_found() => self.refused(id).await?.ok_or(error),
            task => Ok(task?.response()),
        }
    }

    /// A request that became no task.
    async fn refused(&self, id: TaskId) -> Result<Option<TaskResponse>, ApiError> {
        let mut conn = self.engine.pool().acquire().await?;
        let found = refusals::get(&mut conn, id).await?;
        Ok(found.map(|(refusal, refused_at)| view::refused(refusal, refused_at, &self.engine.config().limits)))
    }

    async fn names_of(&self, id: TaskId) -> Result<StepNames, ApiError> {
        let mut conn = self.engine.pool().acquire().await?;
        let record = queries::task(&mut conn, id, self.engine.templates()).await?;
        let task = record.ok_or_else(|| ApiError::not_found("task"))?.task;
        Ok(StepNames::new(&task, &queries::batch_ids(&mut conn, &task).await?))
    }

    /// The length of a task's history, and its state.
    async fn progress(&self, id: TaskId) -> Result<(i32, TaskState), ApiError> {
        let mut conn = self.engine.pool().acquire().await?;
        let found = stored::progress(&mut conn, &[id]).await?;
        let (_, seq, state) = found.into_iter().next().ok_or_else(|| ApiError::not_found("task"))?;
        Ok((seq, state))
    }
}

/// Reads what a view needs beside this: who holds the tickets, and what batches are called. Most tasks have neither.
async fn viewed(
    conn: &mut PgConnection,
    record: TaskRecord,
    attempts: Vec<LastAttempt>,
    now: Timestamp,
) -> Result<TaskView, StoreError> {
    let tickets = queries::tickets(conn, &record).await?;
    let names = StepNames::new(&record.task, &queries::batch_ids(conn, &record.task).await?);
    Ok(TaskView::new(record, names, tickets, attempts, now))
}

/// Every refusal has the same body; its code says which it is.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it only describes the answers")]
enum Refusals {
    /// The request can't be carried out as it is.
    #[response(status = "4XX")]
    Request(ErrorBody),
    /// The server can't carry it out now; `Retry-After` says when to try again.
    #[response(status = "5XX")]
    Server(ErrorBody),
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Tasker", description = "Workflows on PostgreSQL: templates, tasks, steps."),
    components(schemas(ErrorBody)),
    tags(
        (name = "tasks", description = "Runs of templates."),
        (name = "steps", description = "The nodes of a task."),
        (name = "dlq", description = "What was given up, and what people found out about it."),
        (name = "resources", description = "What steps share: limits and circuit breakers."),
        (name = "analytics", description = "Figures on the tasks of the last hours."),
        (name = "templates", description = "Graphs of steps to run."),
        (name = "system", description = "The server itself.")
    )
)]
struct Description;

/// All routes, without a server of their own: for embedding and tests.
pub fn router(engine: Engine) -> Router {
    routed(engine, CancellationToken::new())
}

fn routed(engine: Engine, shutdown: CancellationToken) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(tasks::create, tasks::list))
        .routes(routes!(bulk::create))
        .routes(routes!(tasks::get, tasks::cancel))
        .routes(routes!(repair::many))
        .routes(routes!(tasks::wait))
        .routes(routes!(history::events))
        .routes(routes!(history::history))
        .routes(routes!(history::graph))
        .routes(routes!(explain::task))
        .routes(routes!(steps::list))
        .routes(routes!(steps::get, steps::act))
        .routes(routes!(steps::audit))
        .routes(routes!(templates::list, templates::register))
        .routes(routes!(templates::get))
        .routes(routes!(analytics::performance))
        .routes(routes!(analytics::bottlenecks))
        .routes(routes!(dlq::list))
        .routes(routes!(dlq::of_task, dlq::file))
        .routes(routes!(dlq::update))
        .routes(routes!(dlq::queue))
        .routes(routes!(dlq::stale))
        .routes(routes!(dlq::stats))
        .routes(routes!(explain::handlers))
        .routes(routes!(explain::handlers_of))
        .routes(routes!(explain::handler))
        .routes(routes!(templates::deprecate, templates::undeprecate))
        .routes(routes!(resources::list))
        .routes(routes!(resources::get, resources::update))
        .routes(routes!(system::summary))
        .routes(routes!(system::live))
        .routes(routes!(system::ready))
        .routes(routes!(system::detailed))
        .routes(routes!(system::live_short))
        .routes(routes!(system::ready_short))
        .routes(routes!(system::metrics))
        .routes(routes!(system::config))
        .routes(routes!(system::openapi))
        .routes(routes!(system::ui))
        .split_for_parts();
    let places = engine.config().web.max_in_flight;
    let api = Api {
        answers: Answers::start(engine.clone()),
        engine,
        shutdown,
        working: Arc::new(Semaphore::new(places)),
        waiting: Arc::new(Semaphore::new(places)),
        openapi: document.to_json().expect("the document is made of strings and lists").into(),
        started: Instant::now(),
    };
    router.layer(from_fn_with_state(api.clone(), guard::guard)).with_state(api)
}
