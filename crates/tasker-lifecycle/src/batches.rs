//! The batch workers of a task: steps that its template does not have, made when a batchable step said how to split
//! the work.
//!
//! They are numbered behind the steps of the template, one expansion after the other. The batch worker of the template
//! is only their pattern: it never runs, and is skipped once they are there.

use serde::{Deserialize, Serialize};

use crate::ids::StepIndex;
use crate::state::StepState;
use crate::task::Task;
use crate::template::{FailureStrategy, StepKind};

/// What a batchable step's result said: how many steps are made of which pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expand {
    /// The step that was split.
    pub batchable: StepIndex,
    /// The batch worker of the template that they are made of.
    pub worker: StepIndex,
    /// How many there are, from 1.
    pub count: u32,
}

/// The batch workers that were made of one batchable step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expansion {
    /// The step that was split.
    pub batchable: StepIndex,
    /// The batch worker of the template that they are made of.
    pub worker: StepIndex,
    /// The first of them.
    pub first: StepIndex,
    /// How many there are.
    pub count: u32,
    /// How many of them are live.
    pub(crate) live: u32,
    /// No pending one lies before this position.
    pub(crate) next: u32,
}

/// The stored form: `[batchable, worker, count]`, in the order in which they were made.
#[derive(Serialize, Deserialize)]
struct Stored(StepIndex, StepIndex, u32);

/// Which batch worker a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The expansion that it belongs to.
    pub expansion: Expansion,
    /// Its position among them, from 0: that of its cursor in the batchable step's result.
    pub position: u32,
}

impl Expansion {
    /// Reads the stored form for a template of `steps` steps; none is stored where there is none.
    ///
    /// # Errors
    /// Where it was written by somebody else.
    pub fn from_stored(steps: usize, stored: Option<&str>) -> Result<Vec<Self>, serde_json::Error> {
        let Some(stored) = stored else { return Ok(Vec::new()) };
        let stored: Vec<Stored> = serde_json::from_str(stored)?;
        let mut first = u32::try_from(steps).unwrap_or(u32::MAX);
        let made = stored.into_iter().map(|Stored(batchable, worker, count)| {
            let made = Self { batchable, worker, first: StepIndex(first), count, live: 0, next: 0 };
            first = first.saturating_add(count);
            made
        });
        Ok(made.collect())
    }

    pub(crate) fn to_stored(expansions: &[Self]) -> Option<String> {
        let stored: Vec<Stored> = expansions.iter().map(|e| Stored(e.batchable, e.worker, e.count)).collect();
        (!stored.is_empty()).then(|| serde_json::to_string(&stored).expect("numbers always encode"))
    }

    /// Its steps.
    pub fn steps(&self) -> impl Iterator<Item = StepIndex> + use<> {
        (self.first.0..self.first.0 + self.count).map(StepIndex)
    }

    /// Which of `expansions` a step belongs to; `None` for a step of the template.
    #[must_use]
    pub fn find(expansions: &[Self], step: StepIndex) -> Option<usize> {
        let at = expansions.partition_point(|e| e.first.0 + e.count <= step.0);
        expansions.get(at).is_some_and(|e| e.first <= step).then_some(at)
    }
}

impl Batch {
    pub(crate) fn find(expansions: &[Expansion], step: StepIndex) -> Option<Self> {
        let expansion = expansions[Expansion::find(expansions, step)?];
        Some(Self { expansion, position: step.0 - expansion.first.0 })
    }
}

impl Task {
    /// The batches that were made so far.
    #[must_use]
    pub fn expansions(&self) -> &[Expansion] {
        &self.expansions
    }

    /// Which batch worker a step is; `None` for a step of the template.
    #[must_use]
    pub fn batch_of(&self, step: StepIndex) -> Option<Batch> {
        Batch::find(&self.expansions, step)
    }

    /// The step of the template that says how this one is run: itself, or the pattern that it was made of.
    #[must_use]
    pub fn pattern(&self, step: StepIndex) -> StepIndex {
        if step.at() < self.template().steps.len() {
            return step;
        }
        self.batch_of(step).map_or(step, |batch| batch.expansion.worker)
    }

    /// The steps that `step` waits for; in the place of a pattern those that were made of it.
    #[must_use]
    pub fn parents(&self, step: StepIndex) -> Vec<StepIndex> {
        let declared = self.template().dag.parents(self.pattern(step));
        if self.expansions.is_empty() {
            return declared.to_vec();
        }
        declared.iter().flat_map(|parent| self.made_of(*parent)).collect()
    }

    /// The steps that wait for `step`; in the place of a pattern those that were made of it.
    #[must_use]
    pub fn children(&self, step: StepIndex) -> Vec<StepIndex> {
        let declared = self.template().dag.children(self.pattern(step));
        if self.expansions.is_empty() {
            return declared.to_vec();
        }
        declared.iter().flat_map(|child| self.made_of(*child)).collect()
    }

    /// Every step whose count of parents this one is in: a pattern's is kept too, for those that are made of it.
    pub(crate) fn counted_by(&self, step: StepIndex) -> Vec<StepIndex> {
        let declared = self.template().dag.children(self.pattern(step));
        let mut counted = declared.to_vec();
        let made = |child: &StepIndex| self.expansions.iter().find(|e| e.worker == *child).map(Expansion::steps);
        counted.extend(declared.iter().filter_map(made).flatten());
        counted
    }

    fn made_of(&self, step: StepIndex) -> Vec<StepIndex> {
        match self.expansions.iter().find(|e| e.worker == step) {
            Some(expansion) => expansion.steps().collect(),
            None => vec![step],
        }
    }

    /// Whether the edge from `parent` in this state to `child` is satisfied.
    pub(crate) fn settles(&self, parent: StepIndex, state: StepState, child: StepIndex) -> bool {
        match state {
            StepState::Complete | StepState::ResolvedManually => true,
            StepState::Error => self.tolerates(parent),
            // A pattern was replaced; what no decision created is not waited for by a convergence.
            StepState::Skipped => {
                let kind = |step| self.template().step(self.pattern(step)).kind;
                kind(parent) == StepKind::BatchWorker || kind(child) == StepKind::DeferredConvergence
            }
            StepState::Pending
            | StepState::Held
            | StepState::Enqueued
            | StepState::InProgress
            | StepState::WaitingForRetry
            | StepState::Cancelled
            | StepState::NotCreated => false,
        }
    }

    /// Whether a failure of this step is none of the task: its batch fails alone.
    #[must_use]
    pub fn tolerates(&self, step: StepIndex) -> bool {
        self.failure_strategy(step).is_some_and(|strategy| strategy != FailureStrategy::FailFast)
    }

    /// What a failure of this batch worker means for the others; `None` for any other step.
    #[must_use]
    pub fn failure_strategy(&self, step: StepIndex) -> Option<FailureStrategy> {
        let batch = self.batch_of(step)?;
        let config = self.template().step(batch.expansion.batchable).batch_config.as_ref();
        Some(config.map(|config| config.failure_strategy).unwrap_or_default())
    }

    /// The most batch workers of a batchable step that are live at once.
    #[must_use]
    pub fn parallelism(&self, batchable: StepIndex) -> u32 {
        let config = self.template().step(batchable).batch_config.as_ref();
        config.map_or(10, |config| u32::try_from(config.parallelism).unwrap_or(u32::MAX))
    }

    /// The first batch worker of an expansion, from the given position, that waits for its turn.
    pub(crate) fn next_pending(&self, expansion: &Expansion, from: u32) -> Option<StepIndex> {
        let pending = |step: &StepIndex| self.step(*step) == Some(StepState::Pending);
        expansion.steps().skip(expansion.next.max(from) as usize).find(pending)
    }

    /// Keeps an expansion's counts while one of its steps moves.
    pub(crate) fn count_batch(&mut self, step: StepIndex, from: StepState, to: StepState) {
        if step.at() < self.template().steps.len() {
            return;
        }
        let Some(at) = Expansion::find(&self.expansions, step) else { return };
        let tolerated = self.tolerates(step);
        let expansion = &mut self.expansions[at];
        let position = step.0 - expansion.first.0;
        expansion.live = expansion.live + u32::from(to.is_live()) - u32::from(from.is_live());
        if to == StepState::Pending {
            expansion.next = expansion.next.min(position);
        } else if expansion.next == position {
            expansion.next += 1;
        }
        if tolerated {
            self.tolerated = self.tolerated + u32::from(to == StepState::Error) - u32::from(from == StepState::Error);
        }
    }

    /// Makes room for new batch workers. They wait for what their pattern waits for.
    pub(crate) fn expand(&mut self, expand: Expand) {
        let Expand { batchable, worker, count } = expand;
        let first = StepIndex::from(self.steps.len());
        self.expansions.push(Expansion { batchable, worker, first, count, live: 0, next: 0 });
        let waiting = self.waiting[worker.at()];
        self.steps.extend(std::iter::repeat_n(StepState::NotCreated, count as usize));
        self.waiting.extend(std::iter::repeat_n(waiting, count as usize));
        self.counts[StepState::NotCreated as usize] += count;
        let template = std::sync::Arc::clone(self.template());
        for child in template.dag.children(worker) {
            self.waiting[child.at()] += count;
        }
    }
}
