//! The names of a task's steps, those of batch workers among them.

use std::collections::HashMap;
use std::sync::Arc;

use tasker_lifecycle::template::Template;
use tasker_lifecycle::{Batch, StepIndex, Task};
use tasker_shared::follows::{NO_BATCH, worker_name};

/// What a task's steps are called.
#[derive(Debug, Clone)]
pub(super) struct StepNames {
    template: Arc<Template>,
    made: HashMap<StepIndex, String>,
}

impl StepNames {
    /// From the task and the ids of the batches that each batchable step was split into.
    pub(super) fn new(task: &Task, batch_ids: &HashMap<StepIndex, Vec<String>>) -> Self {
        let name = |step| {
            let Batch { expansion, position } = task.batch_of(step).expect("a step of an expansion");
            let ids = batch_ids.get(&expansion.batchable);
            let id = ids.and_then(|ids| ids.get(position as usize)).map_or(NO_BATCH, String::as_str);
            (step, worker_name(task.template(), expansion.worker, id))
        };
        let made = task.expansions().iter().flat_map(|expansion| expansion.steps()).map(name).collect();
        Self { template: Arc::clone(task.template()), made }
    }

    /// The names of batch workers.
    pub(super) fn made(self) -> HashMap<StepIndex, String> {
        self.made
    }

    /// The name of a step; `None` for one that was made after this was read.
    pub(super) fn of(&self, step: StepIndex) -> Option<&str> {
        match self.template.steps.get(step.at()) {
            Some(step) => Some(&step.name),
            None => self.made.get(&step).map(String::as_str),
        }
    }
}
