//! Which steps a task has, where that is not simply those of its template: what a worker needs to know of it.

use crate::batches::{Batch, Expansion};
use crate::ids::StepIndex;
use crate::state::StepState;
use crate::task::Task;

/// The letters of a task's steps and its batches, as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    letters: Vec<u8>,
    template_steps: usize,
    expansions: Vec<Expansion>,
}

impl Shape {
    /// Reads the stored columns of a task whose template has `template_steps` steps.
    ///
    /// # Errors
    /// Where the column of batches was written by somebody else.
    pub fn from_stored(
        template_steps: usize,
        letters: String,
        expansions: Option<&str>,
    ) -> Result<Self, serde_json::Error> {
        let expansions = Expansion::from_stored(template_steps, expansions)?;
        Ok(Self { letters: letters.into_bytes(), template_steps, expansions })
    }

    /// The batches.
    #[must_use]
    pub fn expansions(&self) -> &[Expansion] {
        &self.expansions
    }

    /// Which batch worker a step is; `None` for a step of the template.
    #[must_use]
    pub fn batch_of(&self, step: StepIndex) -> Option<Batch> {
        Batch::find(&self.expansions, step)
    }

    /// The step of the template that says how this one is run.
    #[must_use]
    pub fn pattern(&self, step: StepIndex) -> StepIndex {
        self.batch_of(step).map_or(step, |batch| batch.expansion.worker)
    }

    /// Those of `steps`, steps of the template, that the task has; batch workers in the place of their pattern.
    #[must_use]
    pub fn present(&self, steps: &[StepIndex]) -> Vec<StepIndex> {
        let made = |step: StepIndex| self.expansions.iter().find(move |e| e.worker == step);
        let mut present = Vec::with_capacity(steps.len());
        for step in steps.iter().copied() {
            match made(step) {
                Some(expansion) => present.extend(expansion.steps()),
                None if self.state(step).exists() => present.push(step),
                None => {}
            }
        }
        present
    }

    /// Whether a batch worker failed for good.
    #[must_use]
    pub fn has_failed(&self, step: StepIndex) -> bool {
        step.at() >= self.template_steps && self.state(step) == StepState::Error
    }

    fn state(&self, step: StepIndex) -> StepState {
        let letter = self.letters.get(step.at()).map(|letter| char::from(*letter));
        letter.and_then(|letter| StepState::from_letter(letter).ok()).unwrap_or(StepState::NotCreated)
    }
}

impl Task {
    /// The task's shape; none where its steps are those of its template, each of them.
    #[must_use]
    pub fn shape(&self) -> Option<Shape> {
        let plain = self.counts[StepState::NotCreated as usize] == 0 && self.counts[StepState::Skipped as usize] == 0;
        let letters = || self.steps().iter().map(|step| step.letter() as u8).collect();
        let (template_steps, expansions) = (self.template().steps.len(), self.expansions().to_vec());
        (!plain).then(|| Shape { letters: letters(), template_steps, expansions })
    }
}
