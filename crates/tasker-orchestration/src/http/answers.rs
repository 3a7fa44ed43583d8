//! What those are told who waited for a task. Tasks that end by one commit are read by one question, and so are those
//! that end while it is asked.

use std::collections::HashMap;

use tasker_lifecycle::TaskId;
use tasker_shared::store::StoreError;
use tasker_shared::store::kept::Kept;
use tasker_shared::store::queries::{self, LastAttempt};
use tokio::sync::{mpsc, oneshot};

use super::view::TaskView;
use super::viewed;
use crate::engine::Engine;

/// The most tasks of one question.
const BATCH: usize = 64;
/// The most steps of one question. What is more is read alone, so that nobody waits for another one's thousands of steps.
const STEPS_MAX: usize = 1_024;

type Asked = (TaskId, oneshot::Sender<TaskView>);

/// Takes the questions. Its task ends with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Answers(mpsc::Sender<Asked>);

impl Answers {
    pub(super) fn start(engine: Engine) -> Self {
        let (sender, mut inbox) = mpsc::channel(BATCH);
        tokio::spawn(async move {
            let database = Kept::new(engine.pool().clone());
            let mut asked = Vec::new();
            while inbox.recv_many(&mut asked, BATCH).await > 0 {
                // Two who wait for one task are rare, and one of them is not answered.
                let waiting: HashMap<TaskId, oneshot::Sender<TaskView>> = asked.drain(..).collect();
                // Who is not answered reads the task, and hears of the failure, by himself.
                let _failed = answer(&engine, &database, waiting).await;
            }
        });
        Self(sender)
    }

    /// The task as it is now; none where it has to be read alone, which says why.
    pub(super) async fn task(&self, task: TaskId) -> Option<TaskView> {
        let (reply, answer) = oneshot::channel();
        self.0.send((task, reply)).await.ok()?;
        answer.await.ok()
    }
}

async fn answer(
    engine: &Engine,
    database: &Kept,
    mut waiting: HashMap<TaskId, oneshot::Sender<TaskView>>,
) -> Result<(), StoreError> {
    let mut conn = database.acquire().await?;
    let ids: Vec<TaskId> = waiting.keys().copied().collect();
    let mut records = queries::tasks(&mut conn, &ids, engine.templates()).await?;
    let mut steps = 0;
    records.retain(|record| {
        steps += record.task.steps().len();
        steps <= STEPS_MAX
    });
    let ids: Vec<TaskId> = records.iter().map(|record| record.task.id()).collect();
    let mut attempts: HashMap<TaskId, Vec<LastAttempt>> = HashMap::new();
    for attempt in queries::last_attempts(&mut conn, &ids, None).await? {
        attempts.entry(attempt.task).or_default().push(attempt);
    }
    for record in records {
        let id = record.task.id();
        let of_task = attempts.remove(&id).unwrap_or_default();
        let view = viewed(&mut conn, record, of_task, engine.parts.now()).await?;
        if let Some(reply) = waiting.remove(&id) {
            let _gone = reply.send(view);
        }
    }
    conn.keep();
    Ok(())
}
