//! Decisions and batches as handlers see them: outcomes that say what follows, and the batch that a worker is given.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tasker_lifecycle::template::{BatchConfig, FailureStrategy, Template};
use tasker_lifecycle::{Expansion, StepIndex, TaskId};
pub use tasker_shared::follows::Cursor;
use tasker_shared::follows::{NO_BATCH, cursors, worker_name};

use crate::handler::{StepContext, StepError, StepOutcome};

/// The batches of one batchable step.
#[derive(Debug, Clone)]
pub struct Batches {
    expansion: Expansion,
    cursors: Vec<Cursor>,
    names: Vec<String>,
    lists_failures: bool,
}

/// The batch that a batch worker is to work on.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    cursor: Option<&'a Cursor>,
}

/// A batch that failed although its convergence runs.
#[derive(Debug, Clone, Copy)]
pub struct BatchFailure<'a> {
    /// The batch worker's step.
    pub step: &'a str,
    /// Its last error: an object with `message`, `error_type` and, where it has one, `error_code`.
    pub error: &'a RawValue,
}

impl Batches {
    pub(crate) fn new(template: &Template, expansion: Expansion, result: Option<&RawValue>) -> Self {
        let cursors = result.map(cursors).unwrap_or_default();
        let id = |at: usize| cursors.get(at).map_or(NO_BATCH, |cursor: &Cursor| cursor.batch_id.as_str());
        let names = (0..expansion.count as usize).map(|at| worker_name(template, expansion.worker, id(at))).collect();
        let config = template.step(expansion.batchable).batch_config.as_ref();
        let strategy = config.map(|config| config.failure_strategy).unwrap_or_default();
        Self { expansion, cursors, names, lists_failures: strategy == FailureStrategy::ContinueOnFailure }
    }

    pub(crate) fn name(&self, step: StepIndex) -> Option<&str> {
        self.names.get(self.position(step)?).map(String::as_str)
    }

    /// Its batch workers, in the order of their batches.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The pattern that they are made of.
    pub(crate) fn worker(&self) -> StepIndex {
        self.expansion.worker
    }

    fn position(&self, step: StepIndex) -> Option<usize> {
        step.at().checked_sub(self.expansion.first.at()).filter(|position| *position < self.names.len())
    }
}

/// The batches that steps of this worker saw lately. What a batchable step's result says never changes, and each of a
/// thousand batch workers would read all of it again.
#[derive(Debug, Default)]
pub(crate) struct KnownBatches(Mutex<HashMap<(TaskId, StepIndex), Arc<Batches>>>);

impl KnownBatches {
    /// Splits that are kept. Each may be as large as a result.
    const MOST: usize = 32;

    pub(crate) fn of(
        &self,
        task: TaskId,
        template: &Template,
        expansion: Expansion,
        result: Option<&RawValue>,
    ) -> Arc<Batches> {
        let key = (task, expansion.batchable);
        if let Some(known) = self.0.lock().expect("no panic while held").get(&key) {
            return Arc::clone(known);
        }
        let batches = Arc::new(Batches::new(template, expansion, result));
        let mut known = self.0.lock().expect("no panic while held");
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(key, Arc::clone(&batches));
        batches
    }
}

impl<'a> Batch<'a> {
    pub(crate) fn cursor(&self) -> Option<&'a Cursor> {
        self.cursor
    }

    /// Whether there was nothing to split: this worker runs once, so that the convergence does, and has nothing to do.
    #[must_use]
    pub fn is_no_op(&self) -> bool {
        self.cursor.is_none()
    }

    /// Its id; `000` where there was nothing to split.
    #[must_use]
    pub fn id(&self) -> &str {
        self.cursor.map_or(NO_BATCH, |cursor| &cursor.batch_id)
    }

    /// Where the batch begins.
    ///
    /// # Errors
    /// A permanent `validation_error` where it is of another type, or there is no batch.
    pub fn start<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        self.edge("start_cursor", |cursor| &cursor.start_cursor)
    }

    /// Where the batch ends, exclusive.
    ///
    /// # Errors
    /// A permanent `validation_error` where it is of another type, or there is no batch.
    pub fn end<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        self.edge("end_cursor", |cursor| &cursor.end_cursor)
    }

    /// How many items it has, where the split said so.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.cursor.and_then(|cursor| cursor.batch_size)
    }

    fn edge<T: DeserializeOwned>(&self, what: &str, of: impl Fn(&Cursor) -> &Value) -> Result<T, StepError> {
        let value = self.cursor.map_or(&Value::Null, of);
        T::deserialize(value).map_err(|error| {
            StepError::permanent(format!("the batch's {what}: {error}")).with_class("validation_error")
        })
    }
}

impl StepOutcome {
    /// A decision for these steps: they are created, with what follows from them.
    ///
    /// # Errors
    /// As [`Self::decision_with`].
    pub fn decision<S: AsRef<str>>(steps: impl IntoIterator<Item = S>) -> Result<Self, StepError> {
        Self::decision_with(steps, json!({}))
    }

    /// A decision for these steps with more in the result; no step at all skips every branch.
    ///
    /// # Errors
    /// A permanent `result_not_serializable` where `more` is no object or JSON can't say it.
    pub fn decision_with<S: AsRef<str>>(
        steps: impl IntoIterator<Item = S>,
        more: impl Serialize,
    ) -> Result<Self, StepError> {
        let names: Vec<String> = steps.into_iter().map(|step| step.as_ref().to_owned()).collect();
        let outcome = match names.is_empty() {
            true => json!({"type": "no_branches"}),
            false => json!({"type": "create_steps", "step_names": names}),
        };
        Self::success(beside(more, "decision_point_outcome", outcome)?)
    }

    /// A split into these batches, each with its worker; none of them where there is nothing to do. `more` goes into
    /// the result beside them.
    ///
    /// # Errors
    /// A permanent `result_not_serializable` where `more` is no object or JSON can't say it.
    pub fn batches(cursors: Vec<Cursor>, more: impl Serialize) -> Result<Self, StepError> {
        let total: u64 = cursors.iter().filter_map(|cursor| cursor.batch_size).sum();
        let outcome = match cursors.is_empty() {
            true => json!({"type": "no_batches"}),
            false => json!({"type": "create_batches", "worker_count": cursors.len(), "cursor_configs": cursors,
                            "total_items": total}),
        };
        Self::success(beside(more, "batch_processing_outcome", outcome)?)
    }
}

fn beside(more: impl Serialize, key: &str, outcome: Value) -> Result<Map<String, Value>, StepError> {
    let refused = |why: String| StepError::permanent(why).with_class("result_not_serializable");
    match serde_json::to_value(more) {
        Ok(Value::Object(mut object)) => {
            object.insert(key.to_owned(), outcome);
            Ok(object)
        }
        Ok(_) => Err(refused(format!("what stands beside `{key}` must be an object"))),
        Err(error) => Err(refused(format!("what stands beside `{key}`: {error}"))),
    }
}

impl StepContext {
    /// How the template wants this batchable step split: `batch_size` and `cursor_field` are for the handler to obey.
    ///
    /// # Errors
    /// A permanent `validation_error` where the step has no `batch_config`.
    pub fn batch_config(&self) -> Result<&BatchConfig, StepError> {
        self.0
            .template
            .step(self.0.pattern)
            .batch_config
            .as_ref()
            .ok_or_else(|| StepError::permanent("this step has no batch_config").with_class("validation_error"))
    }

    /// The batch that this batch worker is to work on.
    ///
    /// # Errors
    /// A permanent `validation_error` where the step is no batch worker.
    pub fn batch(&self) -> Result<Batch<'_>, StepError> {
        let mine = |batches: &&Arc<Batches>| batches.position(self.0.step).is_some();
        let Some(batches) = self.0.batches.iter().find(mine) else {
            return Err(StepError::permanent("this step is no batch worker").with_class("validation_error"));
        };
        let position = batches.position(self.0.step).expect("it was found by it");
        Ok(Batch { cursor: batches.cursors.get(position) })
    }

    /// The results of the batch workers made of this pattern, by step name, in the order of their batches. Those of
    /// batches that failed are missing.
    ///
    /// # Errors
    /// A permanent `validation_error` where a result is of another type.
    pub fn batch_results<T: DeserializeOwned>(&self, pattern: &str) -> Result<Vec<(String, T)>, StepError> {
        let of_pattern = |batches: &&Arc<Batches>| self.0.template.step(batches.expansion.worker).name == pattern;
        let Some(batches) = self.0.batches.iter().find(of_pattern) else { return Ok(Vec::new()) };
        let mine = self.0.results.iter().filter_map(|(step, result)| Some((batches.name(*step)?, result)));
        mine.map(|(name, result)| {
            let typed = serde_json::from_str(result.get()).map_err(|error| {
                StepError::permanent(format!("the result of `{name}`: {error}")).with_class("validation_error")
            })?;
            Ok((name.to_owned(), typed))
        })
        .collect()
    }

    /// The batches before this step that failed and are passed over (`failure_strategy: continue_on_failure`).
    pub fn batch_failures(&self) -> impl Iterator<Item = BatchFailure<'_>> {
        let listed = |step: StepIndex| {
            let of = self.0.batches.iter().find(|batches| batches.position(step).is_some());
            of.is_some_and(|batches| batches.lists_failures)
        };
        let failures = self.0.failures.iter().filter(move |(step, _)| listed(*step));
        failures.map(|(step, error)| BatchFailure { step: self.0.name_of(*step), error })
    }
}
