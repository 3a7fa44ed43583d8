//! Queues in memory: what is read, hidden, extended, given back, and what befalls messages.

use std::time::Duration;

use pgmq_notify::{Outgoing, QueueName, Token};
use rand::Rng;
use serde::Deserialize;
use tasker_lifecycle::{StepIndex, TaskId, Timestamp};
use tasker_shared::messages::TicketBody;
use tasker_shared::store::to_sql;
use uuid::Uuid;

use super::world::{Lock, World, requests, results, tickets};
use super::{LEASE_MS, Mutant};

/// A message as it lies in its queue.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) vt: Timestamp,
    pub(super) read_ct: i32,
    pub(super) body: String,
    /// What it says, where it is a ticket.
    pub(super) ticket: Option<Ticket>,
    /// A copy that somebody made of a ticket.
    pub(super) is_copy: bool,
}

/// What a ticket is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) task: TaskId,
    pub(super) step: StepIndex,
    pub(super) nonce: Uuid,
}

/// The body of a result message.
#[derive(Debug, Deserialize)]
pub(super) struct Hint {
    pub(super) task_uuid: TaskId,
    pub(super) step: StepIndex,
    pub(super) attempt: u32,
}

impl Message {
    pub(super) fn new(body: String, vt: Timestamp, read_ct: i32) -> Self {
        let ticket = serde_json::from_str(&body).ok().map(|body: TicketBody| Ticket {
            task: body.task_uuid,
            step: body.step_uuid.index(),
            nonce: body.nonce.0,
        });
        Self { vt, read_ct, body, ticket, is_copy: false }
    }

    /// What is sent now, as the last but `behind` of its batch.
    pub(super) fn sent(outgoing: &Outgoing, now: Timestamp, behind: usize) -> Self {
        let delay = i64::try_from(outgoing.delay.as_micros()).unwrap();
        let place = if delay == 0 { -i64::try_from(behind).unwrap() } else { delay };
        Self::new(outgoing.body.clone(), Timestamp(now.0 + place), outgoing.read_ct)
    }

    fn has(&self, token: &Token) -> bool {
        self.read_ct == token.read_ct && self.ticket.is_some_and(|ticket| ticket.nonce == token.nonce)
    }
}

impl World {
    /// Whether the ticket of this token is there, in the form that the token names.
    pub(super) fn is_current(&self, token: &Token) -> bool {
        let message = self.queues.get(&token.queue).and_then(|queue| queue.get(&token.msg_id));
        message.is_some_and(|message| self.mutant == Some(Mutant::FenceKnowsOnlyTheMessage) || message.has(token))
    }

    /// Whether the ticket is there, whoever holds it.
    pub(super) fn is_there(&self, token: &Token) -> bool {
        let message = self.queues.get(&token.queue).and_then(|queue| queue.get(&token.msg_id));
        message.is_some_and(|message| message.ticket.is_some_and(|ticket| ticket.nonce == token.nonce))
    }

    /// The same, where nobody has ever claimed it.
    pub(super) fn is_unclaimed(&self, token: &Token) -> bool {
        self.is_there(token) && self.queues[&token.queue][&token.msg_id].read_ct == 0
    }

    /// Messages that can be read now, those first that could be first. What is locked is passed over.
    pub(super) fn visible(&self, queue: &QueueName, limit: usize) -> Vec<i64> {
        let free = |id: i64| !self.locks.contains_key(&Lock::Message(queue.clone(), id));
        let visible = self.queues[queue].iter().filter(|(id, message)| message.vt <= self.now && free(**id));
        let mut visible: Vec<(Timestamp, i64)> = visible.map(|(id, message)| (message.vt, *id)).collect();
        visible.sort_unstable();
        visible.into_iter().map(|(_, id)| id).take(limit).collect()
    }

    /// Claims tickets: one statement and its commit.
    pub(super) fn claim(&mut self, qty: usize) -> Vec<pgmq_notify::Message> {
        let (queue, now) = (tickets(&self.template), self.now);
        let mut claimed = Vec::new();
        for msg_id in self.visible(&queue, qty) {
            let message = self.queues.get_mut(&queue).unwrap().get_mut(&msg_id).unwrap();
            message.read_ct += 1;
            message.vt = now.plus_ms(LEASE_MS);
            let read_ct = message.read_ct;
            self.ledger.claimed(&queue, msg_id, read_ct);
            claimed.push(pgmq_notify::Message {
                queue: queue.clone(),
                msg_id,
                read_ct: message.read_ct,
                enqueued_at: to_sql(now),
                vt: to_sql(message.vt),
                body: message.body.clone(),
            });
        }
        claimed
    }

    /// Hides a claimed ticket for another lease; answers whether the claim was current.
    pub(super) fn extend(&mut self, token: &Token) -> bool {
        let until = self.now.plus_ms(LEASE_MS);
        let message = self.current_and_free(token);
        message.map(|message| message.vt = until).is_some()
    }

    /// Gives a claim back that did not run: the next claim is the same attempt.
    pub(super) fn release(&mut self, token: &Token) {
        let now = self.now;
        let Some(message) = self.current_and_free(token) else { return };
        message.read_ct += 1;
        message.vt = now;
        let mut body: TicketBody = serde_json::from_str(&message.body).unwrap();
        body.base_attempt -= 2;
        message.body = serde_json::to_string(&body).unwrap();
        let read_ct = message.read_ct;
        self.ledger.claimed(&token.queue, token.msg_id, read_ct);
    }

    /// Takes a message away that is no ticket of a live step.
    pub(super) fn archive(&mut self, token: &Token) {
        self.queues.get_mut(&token.queue).unwrap().remove(&token.msg_id);
    }

    fn current_and_free(&mut self, token: &Token) -> Option<&mut Message> {
        if self.locks.contains_key(&Lock::Message(token.queue.clone(), token.msg_id)) {
            return None;
        }
        self.queues.get_mut(&token.queue)?.get_mut(&token.msg_id).filter(|message| message.has(token))
    }

    /// Leases and delays that a jump of the clock moved out of reach come back.
    pub(super) fn clamp(&mut self, max_lease: Duration, max_delay: Duration) -> u64 {
        let (now, mut clamped) = (self.now, 0);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        for (queue, messages) in &mut self.queues {
            for (id, message) in messages {
                let longest = if message.read_ct > 0 { max_lease } else { max_delay };
                let is_locked = self.locks.contains_key(&Lock::Message(queue.clone(), *id));
                if message.vt > now.plus_ms(ms(longest)) && !is_locked {
                    message.vt = if message.read_ct > 0 { now } else { now.plus_ms(ms(max_delay)) };
                    clamped += 1;
                }
            }
        }
        clamped
    }

    /// One of the messages that wait is sent twice, comes late, or never.
    pub(super) fn disturb_a_message(&mut self) {
        let queue = [results(), results(), requests(), tickets(&self.template)][self.rng.random_range(0..4)].clone();
        let waiting = self.visible(&queue, usize::MAX);
        if waiting.is_empty() {
            return;
        }
        let msg_id = waiting[self.rng.random_range(0..waiting.len())];
        let later = self.now.plus_ms(self.rng.random_range(0..10_000));
        let next_id = self.next_id();
        let is_hint = queue == results();
        let messages = self.queues.get_mut(&queue).unwrap();
        let what = match self.rng.random_range(0..4) {
            0 => {
                messages.get_mut(&msg_id).unwrap().vt = later;
                "a message came late"
            }
            1 if is_hint => {
                messages.remove(&msg_id);
                "a result message was lost"
            }
            2 if is_hint => {
                messages.insert(next_id, Message::new("{\"what\": 1}".to_owned(), later, 0));
                "a stranger in the result queue"
            }
            _ => {
                let copy = messages[&msg_id].clone();
                messages.insert(next_id, Message { vt: later, is_copy: true, ..copy });
                "a message came twice"
            }
        };
        self.saw(what);
    }
}
