//! Calling one handler alone, without a database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;
use tasker_lifecycle::template::{self, Template};
use tasker_lifecycle::{StepIndex, TaskId};
use tasker_shared::config::Config;
use tokio_util::sync::CancellationToken;

use crate::attempt;
use crate::handler::{self, StepContext, StepError, StepHandler, StepOutcome};
use crate::plans::Plans;

/// The attempt that a handler is tested with.
#[derive(Debug, Clone)]
pub struct Attempt {
    template: Arc<Template>,
    step: StepIndex,
    attempt: u32,
    context: Arc<RawValue>,
    results: Vec<(StepIndex, Arc<RawValue>)>,
}

impl Attempt {
    /// The first attempt of a template's step, with an empty input.
    ///
    /// # Panics
    /// Where the template is refused or has no such step.
    #[must_use]
    pub fn of(template: &str, step: &str) -> Self {
        let (template, _) = template::parse(template, None).unwrap_or_else(|problems| panic!("{}", problems[0]));
        let step = template.step_by_name(step).unwrap_or_else(|| panic!("the template has no step `{step}`"));
        let context = raw(&serde_json::json!({}));
        Self { template: Arc::new(template), step, attempt: 1, context, results: Vec::new() }
    }

    /// With this input.
    #[must_use]
    pub fn input(self, input: impl Serialize) -> Self {
        Self { context: raw(&input), ..self }
    }

    /// With this result of an ancestor.
    ///
    /// # Panics
    /// Where the template has no such step.
    #[must_use]
    pub fn dependency(mut self, step: &str, result: impl Serialize) -> Self {
        let index = self.template.step_by_name(step);
        let index = index.unwrap_or_else(|| panic!("the template has no step `{step}`"));
        self.results.push((index, raw(&result)));
        self
    }

    /// As this try.
    #[must_use]
    pub fn number(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.template.steps[self.step.at()].timeout_ms)
    }

    /// What its handler sees, beginning now.
    pub(crate) fn context(&self) -> StepContext {
        StepContext(Arc::new(handler::Attempt {
            task: TaskId::new(0, 0),
            step: self.step,
            pattern: self.step,
            correlation_id: uuid::Uuid::nil(),
            number: self.attempt,
            limit: self.template.steps[self.step.at()].retry.max_attempts.max(1),
            template: Arc::clone(&self.template),
            deadline: Instant::now() + self.timeout(),
            cancelled: CancellationToken::new(),
            input: Arc::clone(&self.context),
            results: self.results.clone(),
            failures: Vec::new(),
            batches: Vec::new(),
            checkpoint: None,
            completion: None,
        }))
    }
}

/// Calls a handler as a worker would: within the step's time, a panic contained, a result checked against the default
/// limits and its schema.
///
/// # Errors
/// What would be reported as the attempt's failure.
pub async fn call(handler: &dyn StepHandler, attempt: Attempt) -> Result<StepOutcome, StepError> {
    let timeout = attempt.timeout();
    let (plan, step, ctx) = (Plans::default().of(&attempt.template), attempt.step, attempt.context());
    let returned = attempt::call(handler, ctx, timeout).await;
    attempt::checked(&Config::default().limits, &plan, step, returned)
}

fn raw(value: &impl Serialize) -> Arc<RawValue> {
    Arc::from(serde_json::value::to_raw_value(value).expect("test values have a JSON form"))
}
