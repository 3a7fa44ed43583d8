//! A task in memory: its graph and what is known of each step. No payloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batches::Expansion;
use crate::event::Transition;
use crate::ids::{Nonce, StepIndex, TaskId, Timestamp};
use crate::state::{StepState, TaskState};
use crate::template::Template;

/// The snapshot that `decide` reads and `evolve` changes.
#[derive(Debug, Clone)]
pub struct Task {
    id: TaskId,
    template: Arc<Template>,
    pub(crate) steps: Vec<StepState>,
    /// Per step: how many of its parents do not satisfy it yet.
    pub(crate) waiting: Vec<u32>,
    live: BTreeMap<StepIndex, Live>,
    pub(crate) counts: [u32; StepState::ALL.len()],
    /// How many of the failed steps are batch workers that may fail alone.
    pub(crate) tolerated: u32,
    /// The batch workers behind the steps of the template.
    pub(crate) expansions: Vec<Expansion>,
    /// The state that the task was put into, whatever its steps are like: cancelled, or error.
    ended: Option<TaskState>,
    started: bool,
}

/// What the compact column can't say about a step: the sparse column's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "SparseEntry", into = "SparseEntry")]
pub struct Live {
    /// Attempts that were decided on.
    pub attempts: u32,
    /// The attempt that may be the last, where an operator's reset moved it.
    pub limit: Option<u32>,
    /// When the next attempt may start.
    pub retry_at: Option<Timestamp>,
    /// What holds the step while it is live.
    pub holder: Holder,
}

/// What holds a live step: its ticket, or a row in the due-time table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Holder {
    /// Nothing: the step is not live.
    #[default]
    None,
    /// One message in the step's queue.
    Ticket(TicketRef),
    /// One row in the due-time table, whose ticket is still to be sent: when its time comes, or when there is room.
    Due {
        /// The nonce of that row.
        nonce: Nonce,
    },
}

/// Where a ticket lies; its queue follows from the step's namespace, pool and the task's priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketRef {
    /// The message's number in its queue.
    pub msg_id: i64,
    /// The random part of its claim token.
    pub nonce: Nonce,
}

/// The sparse column's JSON: one-letter keys, absent where default. A nonce without a message number is
/// a due-time row.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SparseEntry {
    #[serde(rename = "a", default, skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    retry_at: Option<Timestamp>,
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    msg_id: Option<i64>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    nonce: Option<Nonce>,
}

impl From<Live> for SparseEntry {
    fn from(live: Live) -> Self {
        let (msg_id, nonce) = match live.holder {
            Holder::None => (None, None),
            Holder::Ticket(ticket) => (Some(ticket.msg_id), Some(ticket.nonce)),
            Holder::Due { nonce } => (None, Some(nonce)),
        };
        let Live { attempts, limit, retry_at, .. } = live;
        Self { attempts, limit, retry_at, msg_id, nonce }
    }
}

impl TryFrom<SparseEntry> for Live {
    type Error = &'static str;

    fn try_from(entry: SparseEntry) -> Result<Self, &'static str> {
        let holder = match (entry.msg_id, entry.nonce) {
            (None, None) => Holder::None,
            (Some(msg_id), Some(nonce)) => Holder::Ticket(TicketRef { msg_id, nonce }),
            (None, Some(nonce)) => Holder::Due { nonce },
            (Some(_), None) => return Err("a ticket without its nonce"),
        };
        let SparseEntry { attempts, limit, retry_at, .. } = entry;
        Ok(Self { attempts, limit, retry_at, holder })
    }
}

/// The stored columns of a task, as the store reads and writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTask {
    /// The cached state.
    pub state: TaskState,
    /// One letter per step.
    pub steps: String,
    /// JSON object: step position → [`Live`].
    pub sparse: String,
    /// The batches that were made; none where there are none.
    pub expansions: Option<String>,
}

/// Stored columns that contradict each other or the template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {id} is stored wrongly: {what}")]
pub struct CorruptTask {
    /// The task.
    pub id: TaskId,
    /// What contradicts what.
    pub what: String,
}

impl Task {
    /// A task of `template` in which nothing has happened yet.
    #[must_use]
    pub fn new(id: TaskId, template: Arc<Template>) -> Self {
        let steps = template.initial.clone();
        let mut task = Self::with_steps(id, template, steps, Vec::new());
        task.started = false;
        task
    }

    /// Reads a task from its stored columns and checks them against each other.
    ///
    /// # Errors
    /// Where the columns do not fit the template or the stored state is not the computed one.
    pub fn from_stored(id: TaskId, template: Arc<Template>, stored: &StoredTask) -> Result<Self, CorruptTask> {
        let corrupt = |what: String| CorruptTask { id, what };
        let steps = stored.steps.chars().map(StepState::from_letter).collect::<Result<Vec<_>, _>>();
        let steps = steps.map_err(|e| corrupt(e.to_string()))?;
        let expansions = Expansion::from_stored(template.steps.len(), stored.expansions.as_deref());
        let expansions = expansions.map_err(|e| corrupt(format!("expansions column: {e}")))?;
        let made: usize = expansions.iter().map(|expansion| expansion.count as usize).sum();
        if steps.len() != template.steps.len() + made {
            return Err(corrupt(format!("{} letters for {} steps", steps.len(), template.steps.len() + made)));
        }
        let patterns = expansions.iter().flat_map(|e| [e.batchable, e.worker]);
        if patterns.into_iter().any(|step| step.at() >= template.steps.len()) {
            return Err(corrupt("batches of a step that the template does not have".to_owned()));
        }
        let mut task = Self::with_steps(id, template, steps, expansions);
        let live: BTreeMap<StepIndex, Live> =
            serde_json::from_str(&stored.sparse).map_err(|e| corrupt(format!("sparse column: {e}")))?;
        task.live = live;
        task.ended = Some(stored.state).filter(|state| matches!(state, TaskState::Cancelled | TaskState::Error));
        task.started = stored.state != TaskState::Pending;
        task.check().map_err(corrupt)?;
        if task.state() != stored.state {
            return Err(corrupt(format!("stored as {}, computed as {}", stored.state, task.state())));
        }
        Ok(task)
    }

    fn with_steps(id: TaskId, template: Arc<Template>, steps: Vec<StepState>, expansions: Vec<Expansion>) -> Self {
        let mut counts = [0; StepState::ALL.len()];
        for step in &steps {
            counts[*step as usize] += 1;
        }
        let (waiting, live) = (Vec::new(), BTreeMap::new());
        let (ended, started) = (None, true);
        let mut task = Self { id, template, steps, waiting, live, counts, tolerated: 0, expansions, ended, started };
        for at in task.template.steps.len()..task.steps.len() {
            task.count_batch(StepIndex::from(at), StepState::NotCreated, task.steps[at]);
        }
        task.waiting = (0..task.steps.len()).map(|at| task.unsettled_parents(StepIndex::from(at))).collect();
        task
    }

    /// Counts the parents that do not satisfy a step.
    fn unsettled_parents(&self, step: StepIndex) -> u32 {
        let unsettled = |parent: &StepIndex| !self.settles(*parent, self.steps[parent.at()], step);
        let count = if self.expansions.is_empty() {
            self.template.dag.parents(step).iter().filter(|parent| unsettled(parent)).count()
        } else {
            self.parents(step).iter().filter(|parent| unsettled(parent)).count()
        };
        u32::try_from(count).expect("fewer parents than steps")
    }

    /// What must hold between the columns; the error says what does not.
    fn check(&self) -> Result<(), String> {
        for (at, state) in self.steps.iter().enumerate() {
            let index = StepIndex::from(at);
            let held = self.live(index).holder != Holder::None;
            if state.is_live() != held {
                return Err(format!("step {index} is {state}, held: {held}"));
            }
        }
        if !self.started && self.steps != self.template.initial {
            return Err("a step moved before the task started".to_owned());
        }
        let can_move = |state: &StepState| state.is_live() || *state == StepState::Pending;
        if self.ended.is_some() && self.steps.iter().any(can_move) {
            return Err("a step of the task can still move although that was ended".to_owned());
        }
        match self.live.keys().next_back() {
            Some(last) if last.at() >= self.steps.len() => Err(format!("no step {last}")),
            _ => Ok(()),
        }
    }

    /// The columns to store.
    #[must_use]
    pub fn to_stored(&self) -> StoredTask {
        StoredTask {
            state: self.state(),
            steps: self.steps.iter().map(|step| step.letter()).collect(),
            sparse: serde_json::to_string(&self.live).expect("numbers and uuids always encode"),
            expansions: Expansion::to_stored(&self.expansions),
        }
    }

    /// The task's id.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The template that the task started with.
    #[must_use]
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }

    /// The state of each step, by position.
    #[must_use]
    pub fn steps(&self) -> &[StepState] {
        &self.steps
    }

    /// The state of one step; `None` where there is no such step.
    #[must_use]
    pub fn step(&self, index: StepIndex) -> Option<StepState> {
        self.steps.get(index.at()).copied()
    }

    /// The sparse entry of a step.
    #[must_use]
    pub fn live(&self, index: StepIndex) -> Live {
        self.live.get(&index).copied().unwrap_or_default()
    }

    /// Every step that is held by something, with its entry.
    pub fn held(&self) -> impl Iterator<Item = (StepIndex, Live)> + '_ {
        self.live.iter().filter(|(_, live)| live.holder != Holder::None).map(|(index, live)| (*index, *live))
    }

    /// How many attempts of a step were decided on.
    #[must_use]
    pub fn attempts(&self, index: StepIndex) -> u32 {
        match self.live.get(&index) {
            Some(live) => live.attempts,
            None => u32::from(self.steps[index.at()] == StepState::Complete),
        }
    }

    /// The last attempt that the step may have.
    #[must_use]
    pub fn limit(&self, index: StepIndex) -> u32 {
        self.live(index).limit.unwrap_or_else(|| self.template.step(self.pattern(index)).retry.max_attempts.max(1))
    }

    /// How many parents of a step do not satisfy it yet.
    #[must_use]
    pub fn waiting_parents(&self, index: StepIndex) -> u32 {
        self.waiting[index.at()]
    }

    /// How many steps are in `state`.
    #[must_use]
    pub fn count(&self, state: StepState) -> u32 {
        self.counts[state as usize]
    }

    /// Whether the task has left `pending`.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// The task's state, computed from its steps: the first rule that fits.
    #[must_use]
    pub fn state(&self) -> TaskState {
        self.ended.unwrap_or_else(|| state_from(self.started, &self.counts, self.tolerated))
    }

    /// The state that the task would have after these moves, and after `made` steps came to it.
    pub(crate) fn state_after(&self, made: u32, moves: &[Transition]) -> TaskState {
        let (mut counts, mut tolerated) = (self.counts, self.tolerated);
        counts[StepState::NotCreated as usize] += made;
        for Transition { step, from, to, .. } in moves {
            counts[*from as usize] -= 1;
            counts[*to as usize] += 1;
            if (*from == StepState::Error || *to == StepState::Error) && self.tolerates(*step) {
                tolerated = tolerated + u32::from(*to == StepState::Error) - u32::from(*from == StepState::Error);
            }
        }
        self.ended.unwrap_or_else(|| state_from(true, &counts, tolerated))
    }

    /// Says where the ticket (or due-time row) of a live step was put.
    ///
    /// # Panics
    /// Where the step is not live: only an effect of `decide` may be carried out.
    pub fn hold(&mut self, index: StepIndex, holder: Holder) {
        assert!(self.steps[index.at()].is_live(), "only a live step is held");
        self.live.entry(index).or_default().holder = holder;
    }

    /// Bytes that this snapshot takes in the cache, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        256 + self.steps.len() * 5 + self.live.len() * 96
    }

    pub(crate) fn start(&mut self) {
        self.started = true;
    }

    pub(crate) fn end(&mut self, state: TaskState) {
        self.ended = Some(state);
    }

    /// Keeps what the children of a step wait for while it moves.
    fn settle_children(&mut self, index: StepIndex, from: StepState, to: StepState) {
        if self.expansions.is_empty() && from.exists() && to.exists() {
            // The usual case: the edges of the template, and nothing tolerated.
            if from.satisfies() != to.satisfies() {
                for child in self.template.dag.children(index) {
                    let waiting = &mut self.waiting[child.at()];
                    *waiting = if to.satisfies() { *waiting - 1 } else { *waiting + 1 };
                }
            }
            return;
        }
        for child in self.counted_by(index) {
            match (self.settles(index, from, child), self.settles(index, to, child)) {
                (false, true) => self.waiting[child.at()] -= 1,
                (true, false) => self.waiting[child.at()] += 1,
                (false, false) | (true, true) => {}
            }
        }
    }

    /// Moves one step and keeps counts and waiting parents in agreement with it.
    pub(crate) fn set_step(&mut self, index: StepIndex, to: StepState, live: Live) {
        let from = std::mem::replace(&mut self.steps[index.at()], to);
        self.counts[from as usize] -= 1;
        self.counts[to as usize] += 1;
        self.count_batch(index, from, to);
        self.settle_children(index, from, to);
        let default_attempts = u32::from(to == StepState::Complete);
        let plain = Live { attempts: default_attempts, ..Live::default() };
        if live == plain || (live == Live::default() && default_attempts == 0) {
            self.live.remove(&index);
        } else {
            self.live.insert(index, live);
        }
    }
}

fn state_from(started: bool, counts: &[u32; StepState::ALL.len()], tolerated: u32) -> TaskState {
    let any = |states: &[StepState]| states.iter().any(|state| counts[*state as usize] > 0);
    if !started {
        TaskState::Pending
    } else if any(&[StepState::Enqueued, StepState::InProgress]) {
        TaskState::StepsInProcess
    } else if any(&[StepState::WaitingForRetry]) {
        TaskState::WaitingForRetry
    } else if any(&[StepState::Held]) {
        TaskState::WaitingForDependencies
    } else if any(&[StepState::Pending, StepState::Cancelled, StepState::NotCreated])
        || counts[StepState::Error as usize] > tolerated
    {
        TaskState::BlockedByFailures
    } else {
        TaskState::Complete
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
