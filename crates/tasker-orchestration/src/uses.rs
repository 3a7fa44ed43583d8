//! What a batch does with the resources that its steps use: permits that are given and come back, what attempts say of
//! them, and which held steps there is room for.
//!
//! A step has permits of all its resources exactly while it has a ticket. The rows of the resources are locked from the
//! first look until the commit, after the tasks and before any ticket, so the counts are exact.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tasker_lifecycle::resource::Seen;
use tasker_lifecycle::{Decision, Event, Nonce, StepIndex, StepState, Task, TaskId, Timestamp};
use tasker_shared::store::StoreError;
use tasker_shared::store::resources::{Gate, HeldStep, Permit, ResourceKey};
use tasker_shared::telemetry::Metrics;
use tokio::sync::Notify;

use crate::session::Session;

/// The resources of one batch.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    gates: BTreeMap<ResourceKey, Gate>,
    /// Those of `gates` whose breaker moved.
    moved: BTreeSet<ResourceKey>,
    /// Whether a permit was given in this batch, or came back.
    permits: BTreeMap<Permit, bool>,
    /// Permits that came back, and are not yet counted in `gates`.
    freed: Vec<ResourceKey>,
    seen: Vec<(ResourceKey, Seen)>,
    asked: Vec<Asked>,
    opened: Vec<ResourceKey>,
}

/// A held step that asks whether there is room.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) task: TaskId,
    pub(crate) step: StepIndex,
    pub(crate) nonce: Nonce,
    keys: Vec<ResourceKey>,
    /// What it waited for until now; none where it has only just become ready.
    pub(crate) holder: Option<ResourceKey>,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Answer {
    /// There is room in all of them.
    Admitted(Asked),
    /// There is none in this one, which is not what its row says.
    Held(Asked, ResourceKey),
}

/// Who looks after held steps, and is told when there is a reason to.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    pub(crate) bell: Arc<Notify>,
    opened: AtomicBool,
}

impl Doorbell {
    /// The commit is known.
    pub(crate) fn nudge(&self, nudge: &Nudge, metrics: &Metrics) {
        for ResourceKey { namespace, name } in &nudge.opened {
            tracing::warn!(namespace, resource = name, "a resource has failed again and again: its steps are held");
            metrics.breakers_opened.inc();
        }
        if !nudge.opened.is_empty() {
            self.take_back();
        } else if nudge.has_room {
            self.bell.notify_one();
        }
    }

    /// Tickets of resources that are open or paused are to be taken back.
    pub(crate) fn take_back(&self) {
        self.look_for_open();
        self.bell.notify_one();
    }

    /// The next look looks for tickets to take back, too.
    pub(crate) fn look_for_open(&self) {
        self.opened.store(true, Ordering::Release);
    }

    /// Whether tickets are to be taken back; asked once.
    pub(crate) fn is_to_take_back(&self) -> bool {
        self.opened.swap(false, Ordering::AcqRel)
    }
}

/// What somebody has to do after the commit.
#[derive(Debug, Default)]
pub(crate) struct Nudge {
    /// Held steps may be let through.
    pub(crate) has_room: bool,
    /// Their breakers opened: tickets that nobody has claimed are taken back.
    pub(crate) opened: Vec<ResourceKey>,
}

impl Uses {
    /// Takes note of what a decision did to permits, and of what the event says of resources.
    pub(crate) fn note(&mut self, task: &Task, event: &Event, decision: &Decision) {
        if !task.template().uses_resources {
            return;
        }
        let is_sent = |state: StepState| state == StepState::Enqueued;
        for moved in decision.transitions.iter().filter(|moved| is_sent(moved.from) != is_sent(moved.to)) {
            for key in keys(task, moved.step) {
                if is_sent(moved.from) {
                    self.freed.push(key.clone());
                }
                self.permits.insert((key, task.id(), moved.step), is_sent(moved.to));
            }
        }
        if let Event::Reported { step, outcome, .. } = event {
            self.seen.extend(keys(task, *step).into_iter().map(|key| (key, Seen::of(outcome))));
        }
    }

    /// Whether nothing was noted and nobody asks.
    pub(crate) fn is_empty(&self) -> bool {
        self.permits.is_empty() && self.seen.is_empty() && self.asked.is_empty()
    }

    /// A step of this batch is held until there is room. Answers by what, as far as is known.
    pub(crate) fn ask(&mut self, task: &Task, step: StepIndex, nonce: Nonce) -> Option<ResourceKey> {
        let keys = keys(task, step);
        let first = keys.first().cloned();
        self.asked.push(Asked { task: task.id(), step, nonce, keys, holder: None });
        first
    }

    /// A step that was held before asks again.
    pub(crate) fn ask_again(&mut self, task: &Task, HeldStep { step, nonce, key, .. }: HeldStep) {
        let keys = keys(task, step);
        self.asked.push(Asked { task: task.id(), step, nonce, keys, holder: Some(key) });
    }

    /// Only what is still held asks: a later event of the same batch may have ended its wait.
    pub(crate) fn keep(&mut self, is_held: impl Fn(TaskId, StepIndex, Nonce) -> bool) {
        self.asked.retain(|asked| is_held(asked.task, asked.step, asked.nonce));
    }

    /// Locks what is not locked yet, counts what came back and what attempts say, and answers those who asked, in the
    /// order in which they did. Whoever only just became ready does not overtake those who wait.
    pub(crate) async fn answers(&mut self, conn: &mut impl Session, now: Timestamp) -> Result<Vec<Answer>, StoreError> {
        if self.asked.is_empty() && self.freed.is_empty() && self.seen.is_empty() {
            return Ok(Vec::new());
        }
        self.lock(conn).await?;
        for key in std::mem::take(&mut self.freed) {
            if let Some(gate) = self.gates.get_mut(&key) {
                gate.in_flight = gate.in_flight.saturating_sub(1);
            }
        }
        for (key, seen) in std::mem::take(&mut self.seen) {
            let Some(gate) = self.gates.get_mut(&key) else { continue };
            let before = gate.resource.breaker;
            if gate.resource.observe(seen, now) {
                self.opened.push(key.clone());
            }
            if gate.resource.breaker != before {
                self.moved.insert(key);
            }
        }
        let asked = std::mem::take(&mut self.asked);
        Ok(asked.into_iter().filter_map(|asked| self.answer(asked, now)).collect())
    }

    async fn lock(&mut self, conn: &mut impl Session) -> Result<(), StoreError> {
        let asked = self.asked.iter().flat_map(|asked| &asked.keys);
        let touched = self.freed.iter().chain(self.seen.iter().map(|(key, _)| key)).chain(asked);
        let unlocked: BTreeSet<ResourceKey> = touched.filter(|key| !self.gates.contains_key(*key)).cloned().collect();
        if !unlocked.is_empty() {
            self.gates.extend(conn.lock_resources(&unlocked).await?);
        }
        Ok(())
    }

    fn answer(&mut self, asked: Asked, now: Timestamp) -> Option<Answer> {
        let first = asked.holder.is_none();
        let full = |key: &&ResourceKey| {
            let gate = self.gates.get(*key);
            gate.is_some_and(|gate| (first && gate.waiting) || gate.resource.room(gate.in_flight, now) == 0)
        };
        if let Some(full) = asked.keys.iter().find(full).cloned() {
            let gate = self.gates.get_mut(&full).expect("it was found there");
            gate.waiting = true;
            return (asked.holder.as_ref() != Some(&full)).then_some(Answer::Held(asked, full));
        }
        for key in &asked.keys {
            let Some(gate) = self.gates.get_mut(key) else { continue };
            let before = gate.resource.breaker;
            gate.resource.let_through();
            gate.in_flight += 1;
            if gate.resource.breaker != before {
                self.moved.insert(key.clone());
            }
        }
        Some(Answer::Admitted(asked))
    }

    /// Writes what changed. What is answered is for after the commit.
    pub(crate) async fn write(self, conn: &mut impl Session, now: Timestamp) -> Result<Nudge, StoreError> {
        if !self.moved.is_empty() {
            let moved: Vec<_> = self.moved.iter().map(|key| (key, &self.gates[key].resource.breaker)).collect();
            conn.move_breakers(&moved, now).await?;
        }
        if !self.permits.is_empty() {
            let which =
                |wanted| self.permits.iter().filter(move |(_, given)| **given == wanted).map(|(permit, _)| permit);
            let (given, taken_back): (Vec<&Permit>, Vec<&Permit>) = (which(true).collect(), which(false).collect());
            conn.permit(&given, &taken_back).await?;
        }
        let has_room = self.gates.values().any(|gate| gate.waiting && gate.resource.room(gate.in_flight, now) > 0);
        Ok(Nudge { has_room, opened: self.opened })
    }
}

/// The resources that a step uses.
fn keys(task: &Task, step: StepIndex) -> Vec<ResourceKey> {
    let template = task.template();
    let uses = template.step(task.pattern(step)).uses.iter();
    uses.map(|name| ResourceKey { namespace: template.namespace.to_string(), name: name.to_string() }).collect()
}
