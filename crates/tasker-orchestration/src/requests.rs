//! `TaskRequestActor`: all waiting requests become tasks, with their first tickets, in one transaction.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;
use tasker_lifecycle::template::Template;
use tasker_lifecycle::{Event, Task, TaskId};
use tasker_shared::store::StoreError;
use tasker_shared::store::idempotency::{Held, Key};
use tasker_shared::store::tasks::{Details, Snapshot};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::actor::{Actor, Handled, Work};
use crate::advance::{Advance, After};
use crate::engine::Parts;
use crate::errors::CreateError;
use crate::session::Session;

/// A request that was found valid.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) template: Arc<Template>,
    pub(crate) context: Arc<RawValue>,
    pub(crate) priority: i16,
    pub(crate) correlation_id: Option<Uuid>,
    pub(crate) details: Details,
    pub(crate) key: Option<SubmissionKey>,
    pub(crate) reply: oneshot::Sender<Result<Created, CreateError>>,
}

/// The key under which asking again gives the same task.
#[derive(Debug)]
pub(crate) struct SubmissionKey {
    pub(crate) key: String,
    pub(crate) body_hash: [u8; 32],
    /// Whether a second request is an error even where it is the same.
    pub(crate) strict: bool,
}

/// A task that exists now.
#[derive(Debug, Clone, Copy)]
pub struct Created {
    /// Its id.
    pub task: TaskId,
    /// Whether it was there before, under the same key.
    pub existed: bool,
}

/// A submission with the id its task will have, whatever it takes to commit it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: TaskId,
    pub(crate) submission: Submission,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct TaskRequests {
    pub(crate) parts: Arc<Parts>,
}

/// What follows a commit of requests.
#[derive(Debug, Default)]
pub(crate) struct Inserted {
    after: After,
    pub(crate) answers: Vec<Result<Created, CreateError>>,
    /// Those that came from the queue, where the events are none of the inbox's.
    pub(crate) submitted: Vec<Request>,
}

impl Actor for TaskRequests {
    type Event = Request;
    type After = Inserted;

    const NAME: &'static str = "requests";

    #[expect(clippy::misnamed_getters, reason = "requests have a bound of their own")]
    fn batch_max(&self) -> usize {
        self.parts.config.actor.request_batch_max
    }

    async fn handle(&self, conn: &mut impl Session, work: Work<'_, Request>) -> Result<Handled<Inserted>, StoreError> {
        match work {
            Work::Inbox { events, again } => {
                Ok(Handled { after: self.insert(conn, events, again).await?, taken: 0, next: None })
            }
            Work::Source(max) => self.take_submitted(conn, max).await,
        }
    }

    /// Where none has a key and none begins with a wait.
    async fn handle_at_once(
        &self,
        conn: &mut impl Session,
        requests: &[Request],
    ) -> Result<Option<Inserted>, StoreError> {
        if requests.iter().any(|request| request.submission.key.is_some()) {
            return Ok(None);
        }
        let new: Vec<&Request> = requests.iter().collect();
        let advance = self.start(&new);
        if !advance.is_one_statement() {
            return Ok(None);
        }
        let after = advance.insert(conn, &self.parts, details(&new)).await?;
        let answers = new.iter().map(|request| Ok(Created { task: request.id, existed: false })).collect();
        Ok(Some(Inserted { after, answers, submitted: Vec::new() }))
    }

    fn committed(&self, inserted: Inserted, requests: Vec<Request>) {
        for (request, answer) in requests.into_iter().chain(inserted.submitted).zip(inserted.answers) {
            let Request { submission, id } = request;
            if matches!(&answer, Ok(created) if !created.existed) {
                self.parts.metrics.tasks_created.inc();
                if let Some(local) = &self.parts.local {
                    local.payloads().put_context(id, submission.context);
                }
            }
            // Who asked may have gone away meanwhile.
            let _gone = submission.reply.send(answer);
        }
        inserted.after.committed(&self.parts);
    }

    fn offends(&self, request: Request, error: StoreError) {
        tracing::error!(task = %request.id, %error, "a request can't be stored");
        let _gone = request.submission.reply.send(Err(CreateError::Unavailable));
    }

    async fn file_offender(&self, conn: &mut impl Session, error: &StoreError) -> Result<(), StoreError> {
        self.refuse_next(conn, error).await
    }

    fn abandoned(&self, requests: Vec<Request>) {
        for request in requests {
            let _gone = request.submission.reply.send(Err(CreateError::OutcomeUnknown));
        }
    }
}

impl TaskRequests {
    pub(crate) async fn insert(
        &self,
        conn: &mut impl Session,
        requests: &[Request],
        again: bool,
    ) -> Result<Inserted, StoreError> {
        let mut answers: Vec<Option<Result<Created, CreateError>>> = requests.iter().map(|_| None).collect();
        if again {
            // The try before may have been committed although its answer got lost.
            let ids: Vec<TaskId> = requests.iter().map(|request| request.id).collect();
            let there: HashSet<TaskId> = conn.existing(&ids).await?.into_iter().collect();
            for (answer, request) in answers.iter_mut().zip(requests) {
                if there.contains(&request.id) {
                    *answer = Some(Ok(Created { task: request.id, existed: false }));
                }
            }
        }
        self.claim_keys(conn, requests, &mut answers).await?;
        let new: Vec<&Request> =
            requests.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(r, _)| r).collect();
        let mut after = After::default();
        if !new.is_empty() {
            after = self.start(&new).insert(conn, &self.parts, details(&new)).await?;
        }
        let answers = answers
            .into_iter()
            .zip(requests)
            .map(|(answer, request)| answer.unwrap_or(Ok(Created { task: request.id, existed: false })))
            .collect();
        Ok(Inserted { after, answers, submitted: Vec::new() })
    }

    /// Decides on the starts of new tasks.
    fn start(&self, new: &[&Request]) -> Advance {
        let snapshots = new.iter().map(|request| first_snapshot(request)).collect();
        let mut advance = Advance::new(self.parts.now(), snapshots);
        for request in new {
            advance.event(request.id, &Event::Started).expect("a start always applies");
        }
        advance
    }

    /// Answers the requests whose key somebody holds already.
    async fn claim_keys(
        &self,
        conn: &mut impl Session,
        requests: &[Request],
        answers: &mut [Option<Result<Created, CreateError>>],
    ) -> Result<(), StoreError> {
        let mut keys = Vec::new();
        let mut positions = Vec::new();
        for (position, request) in requests.iter().enumerate() {
            if let (Some(key), None) = (&request.submission.key, &answers[position]) {
                let namespace = request.submission.template.namespace.as_str().to_owned();
                keys.push(Key { namespace, key: key.key.clone(), body_hash: key.body_hash, task: request.id });
                positions.push((position, key.strict));
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        let held = conn.claim_keys(&keys).await?;
        for ((position, strict), held) in positions.into_iter().zip(held) {
            answers[position] = match held {
                Held::New => None,
                Held::Same(task) | Held::Other(task) if strict => Some(Err(CreateError::Duplicate { task })),
                Held::Same(task) => Some(Ok(Created { task, existed: true })),
                Held::Other(task) => Some(Err(CreateError::KeyConflict { task })),
            };
        }
        Ok(())
    }
}

/// Input and details of new tasks.
fn details(new: &[&Request]) -> Vec<(Arc<RawValue>, Details)> {
    new.iter().map(|r| (Arc::clone(&r.submission.context), r.submission.details.clone())).collect()
}

fn first_snapshot(request: &Request) -> Snapshot {
    let submission = &request.submission;
    Snapshot {
        task: Task::new(request.id, Arc::clone(&submission.template)),
        version: 0,
        seq: 0,
        priority: submission.priority,
        correlation_id: submission.correlation_id.unwrap_or(request.id.uuid()),
    }
}
