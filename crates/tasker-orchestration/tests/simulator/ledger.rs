//! What happened, written down beside the database: the checks compare the two.

use std::collections::{BTreeMap, BTreeSet};

use pgmq_notify::{QueueName, Token};
use tasker_lifecycle::{StepIndex, StepState, TaskId};
use tasker_shared::events::DomainEvent;
use uuid::Uuid;

use super::queues::Ticket;
use super::world::Told;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The newest claim of each ticket that was ever sent, with its nonce.
    claims: BTreeMap<(QueueName, i64), (i32, Uuid)>,
    /// Tickets sent for each step.
    tickets: BTreeMap<(TaskId, StepIndex), usize>,
    /// Attempts that operators added to, by how many were made then.
    resets: BTreeMap<(TaskId, StepIndex), Vec<u32>>,
    /// Attempts whose handler was started.
    pub(super) started: BTreeSet<(TaskId, StepIndex, u32)>,
    /// Attempts whose event was sent.
    pub(super) published: BTreeSet<(TaskId, StepIndex, u32)>,
    /// Tasks that somebody was told are there.
    pub(super) promised: BTreeSet<TaskId>,
    /// Requests that were committed by SQL.
    pub(super) submitted: BTreeSet<TaskId>,
    /// Tasks that somebody was told are cancelled.
    pub(super) cancelled: BTreeSet<TaskId>,
    /// Which task somebody was given for a key.
    pub(super) keyed: BTreeMap<String, TaskId>,
    /// Whether the clock jumped: then no time between two readings means anything.
    pub(super) clock_jumped: bool,
}

impl Ledger {
    pub(super) fn sent(&mut self, queue: &QueueName, msg_id: i64, ticket: &Ticket, read_ct: i32) {
        self.claims.insert((queue.clone(), msg_id), (read_ct, ticket.nonce));
        *self.tickets.entry((ticket.task, ticket.step)).or_default() += 1;
    }

    pub(super) fn claimed(&mut self, queue: &QueueName, msg_id: i64, read_ct: i32) {
        if let Some(claim) = self.claims.get_mut(&(queue.clone(), msg_id)) {
            claim.0 = read_ct;
        }
    }

    pub(super) fn accepted(&mut self, token: &Token) -> Result<(), String> {
        let claim = self.claims.get(&(token.queue.clone(), token.msg_id));
        if claim == Some(&(token.read_ct, token.nonce)) {
            return Ok(());
        }
        Err(format!("a report with {token:?} was accepted, but the newest claim is {claim:?}"))
    }

    pub(super) fn published(&mut self, body: &str) -> Result<(), String> {
        let event: DomainEvent = serde_json::from_str(body).unwrap();
        let step = tasker_lifecycle::StepId::try_from(event.step_uuid).unwrap();
        let key = (step.task(), step.index(), event.attempt);
        if self.published.insert(key) { Ok(()) } else { Err(format!("the event of attempt {key:?} was sent twice")) }
    }

    pub(super) fn told(&mut self, task: TaskId, told: &Told) {
        // An operator's reset, or a cancelled batch worker that another action takes up again.
        let grants = |moved: &&Moved| match moved.from {
            StepState::Error => told.cause == "step_reset",
            from => from == StepState::Cancelled && moved.to == StepState::Cancelled,
        };
        for moved in told.moves.iter().filter(grants) {
            self.resets.entry((task, moved.step)).or_default().push(moved.attempts);
        }
    }

    /// The last attempt that a step may have whose template grants `each`.
    pub(super) fn budget(&self, task: TaskId, step: StepIndex, each: u32) -> u32 {
        self.resets.get(&(task, step)).and_then(|made| made.last()).map_or(each, |made| made + each)
    }

    /// Whether an operator granted more after this attempt.
    pub(super) fn was_reset_at(&self, task: TaskId, step: StepIndex, attempt: u32) -> bool {
        self.resets.get(&(task, step)).is_some_and(|made| made.contains(&attempt))
    }

    pub(super) fn tickets(&self, task: TaskId, step: StepIndex) -> usize {
        self.tickets.get(&(task, step)).copied().unwrap_or(0)
    }
}

/// One state change as the history tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    pub(super) step: StepIndex,
    pub(super) from: StepState,
    pub(super) to: StepState,
    pub(super) attempts: u32,
}

pub(super) fn moves(changes: &str) -> impl Iterator<Item = Moved> + '_ {
    changes.split_whitespace().map(|change| {
        let (step, change) = change.split_once(':').unwrap();
        let (letters, attempts) = change.split_once('@').unwrap();
        let mut letters = letters.chars().map(|letter| StepState::from_letter(letter).unwrap());
        let step = StepIndex(step.parse().unwrap());
        Moved { step, from: letters.next().unwrap(), to: letters.next().unwrap(), attempts: attempts.parse().unwrap() }
    })
}
