//! What travels between server and worker: tickets, claims and reports.

use std::sync::Arc;

use pgmq_notify::{QueueName, Token};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tasker_lifecycle::{Follows, Nonce, Outcome, StepId, StepIndex, TaskId, Timestamp};
use uuid::Uuid;

use crate::events::Published;

/// Queue of requests from `tasker.submit_task`.
pub const TASK_REQUESTS: &str = "orchestration_task_requests";
/// Queue of hints that an attempt was stored.
pub const STEP_RESULTS: &str = "orchestration_step_results";

/// The channel on which workers learn that there are queues they have not seen.
pub const NEW_QUEUES: &str = "tasker_new_queues";

/// The body of a ticket, the one queue message of a live step.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketBody {
    /// The task.
    pub task_uuid: TaskId,
    /// The step.
    pub step_uuid: StepId,
    /// Runs through logs, traces, messages and handlers.
    pub correlation_id: Uuid,
    /// The attempt number is this plus the message's `read_ct`; negative after claims given back unrun.
    pub base_attempt: i32,
    /// The random part of the claim token.
    pub nonce: Nonce,
}

/// The body of a message from `tasker.submit_task`. The request is read later: one that can't be read is refused under its
/// id.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmittedBody {
    /// The task to be.
    pub task_uuid: TaskId,
    /// The request, as over HTTP.
    pub request: Box<RawValue>,
}

/// A claimed ticket: the right to make one attempt until the lease ends.
#[derive(Debug, Clone)]
pub struct Claim {
    /// (queue, `msg_id`, `read_ct`, nonce): the fence.
    pub token: Token,
    /// The task.
    pub task: TaskId,
    /// The step.
    pub step: StepIndex,
    /// Runs through logs, traces, messages and handlers.
    pub correlation_id: Uuid,
    /// Attempts that were decided on before this ticket was sent.
    pub base_attempt: i32,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// When the claim was made, on the database's clock.
    pub claimed_at: Timestamp,
}

/// A message in a ticket queue that is not a ticket.
#[derive(Debug, thiserror::Error)]
#[error("not a ticket: {0}")]
pub struct NotATicket(String);

impl Claim {
    /// Reads a claimed message as a ticket.
    ///
    /// # Errors
    /// Where somebody else wrote the message, or its ids contradict each other.
    pub fn from_message(message: &pgmq_notify::Message, claimed_at: Timestamp) -> Result<Self, NotATicket> {
        let body: TicketBody = serde_json::from_str(&message.body).map_err(|e| NotATicket(e.to_string()))?;
        if body.step_uuid.task() != body.task_uuid {
            return Err(NotATicket("the step belongs to another task".to_owned()));
        }
        let attempt = i64::from(body.base_attempt) + i64::from(message.read_ct);
        let attempt = u32::try_from(attempt)
            .ok()
            .filter(|attempt| *attempt > 0)
            .ok_or_else(|| NotATicket(format!("attempt {attempt}")))?;
        Ok(Self {
            token: Token {
                queue: message.queue.clone(),
                msg_id: message.msg_id,
                read_ct: message.read_ct,
                nonce: body.nonce.0,
            },
            task: body.task_uuid,
            step: body.step_uuid.index(),
            correlation_id: body.correlation_id,
            base_attempt: body.base_attempt,
            attempt,
            claimed_at,
        })
    }
}

/// What a worker says of one claim.
#[derive(Debug, Clone)]
pub struct Report {
    /// The claim that is reported on.
    pub claim: Claim,
    /// What came of it.
    pub outcome: ReportedOutcome,
    /// When the handler started; `None` where it never ran.
    pub started_at: Option<Timestamp>,
    /// When the handler ended.
    pub ended_at: Timestamp,
    /// The worker.
    pub worker: Arc<str>,
    /// What is published if the report is accepted.
    pub events: Vec<Published>,
}

/// What came of an attempt, with its payload.
#[derive(Debug, Clone)]
pub enum ReportedOutcome {
    /// The handler returned this.
    Success {
        /// The result, JSON text as the handler gave it.
        result: Arc<RawValue>,
        /// Whatever else the handler wanted kept.
        metadata: Option<Box<RawValue>>,
        /// What the result leads to.
        follows: Follows,
    },
    /// The handler failed, or nothing usable came back.
    Failure {
        /// Class, message and code.
        error: StepFailure,
        /// Whether trying again may help.
        retryable: bool,
        /// When the handler asked to be tried again.
        retry_after_ms: Option<u64>,
        /// Whatever else the handler wanted kept.
        metadata: Option<Box<RawValue>>,
    },
    /// The attempts were used up by lost leases; the handler did not run.
    LeaseLost,
}

/// The error of a failed attempt, as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFailure {
    /// What went wrong, in the handler's words.
    pub message: String,
    /// `permanent_error`, `retryable_error`, `validation_error`, `timeout`, `handler_error` or a free name.
    pub error_type: String,
    /// A code of the handler's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

impl ReportedOutcome {
    /// The name in `attempts.outcome`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Success { .. } => "success",
            Self::Failure { .. } => "failure",
            Self::LeaseLost => "lease_lost",
        }
    }

    /// What the lifecycle needs to know of it.
    #[must_use]
    pub fn for_lifecycle(&self) -> Outcome {
        match self {
            Self::Success { follows, .. } => Outcome::Success(follows.clone()),
            Self::Failure { retryable, retry_after_ms, .. } => {
                Outcome::Failure { retryable: *retryable, retry_after_ms: *retry_after_ms }
            }
            Self::LeaseLost => Outcome::LeaseLost,
        }
    }
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Stored; it is the attempt's outcome.
    Accepted,
    /// It had been stored before, an answer got lost.
    Duplicate,
    /// The claim was no longer current; kept as discarded, changes nothing.
    Refused,
}

/// The queue of a namespace, pool and priority.
///
/// # Errors
/// Where the name is too long for a queue.
pub fn ticket_queue(namespace: &str, pool: &str, priority: i16) -> Result<QueueName, pgmq_notify::Error> {
    let band = match band(priority) {
        1 => "_hi",
        -1 => "_lo",
        _ => "",
    };
    if pool == "default" {
        QueueName::new(format!("worker_{namespace}_queue{band}"))
    } else {
        QueueName::new(format!("w_{namespace}_{pool}{band}"))
    }
}

/// The band of a priority: 1 from 34 up, −1 from −34 down.
#[must_use]
pub const fn band(priority: i16) -> i16 {
    match priority {
        34.. => 1,
        ..=-34 => -1,
        _ => 0,
    }
}
