//! What is needed to run the steps of a template, worked out once per template.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};

use sqlx::PgConnection;
use tasker_lifecycle::StepIndex;
use tasker_lifecycle::template::{Template, TemplateHash};
use tasker_shared::json_schema::{Validator, compile};
use tasker_shared::store::StoreError;
use tasker_shared::store::templates::Templates;

use crate::handler::StepHandler;
use crate::registry::{HandlerRegistry, Missing};

/// Ancestors are kept for templates of at most this many steps: a long chain has as many as the square of its
/// length, and finding them again costs little beside reading that many results.
const KEEP_ANCESTORS_UP_TO: usize = 512;

/// Plans by template. Templates are immutable by their hash, so a plan never gets stale.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    templates: Templates,
    known: RwLock<HashMap<TemplateHash, Arc<Plan>>>,
}

/// How to run the steps of one template.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) template: Arc<Template>,
    steps: Vec<StepPlan>,
}

#[derive(Debug, Default)]
struct StepPlan {
    ancestors: OnceLock<Arc<[StepIndex]>>,
    /// An error is the schema's own.
    validator: OnceLock<Result<Validator, String>>,
    events: OnceLock<Vec<Option<Result<Validator, String>>>>,
}

impl Plans {
    /// The plan for a template that is known by its hash only.
    pub(crate) async fn by_hash(&self, conn: &mut PgConnection, hash: &TemplateHash) -> Result<Arc<Plan>, StoreError> {
        if let Some(plan) = self.get(hash) {
            return Ok(plan);
        }
        let template = self.templates.by_hash(conn, hash).await?;
        Ok(self.of(&template))
    }

    /// The plan for this template.
    pub(crate) fn of(&self, template: &Arc<Template>) -> Arc<Plan> {
        if let Some(plan) = self.get(&template.hash) {
            return plan;
        }
        let steps = template.steps.iter().map(|_| StepPlan::default()).collect();
        let plan = Arc::new(Plan { template: Arc::clone(template), steps });
        let mut known = self.known.write().expect("no panic while held");
        Arc::clone(known.entry(template.hash).or_insert(plan))
    }

    fn get(&self, hash: &TemplateHash) -> Option<Arc<Plan>> {
        self.known.read().expect("no panic while held").get(hash).cloned()
    }
}

impl Plan {
    /// What runs the step in this worker. All these questions are about steps of the template: a batch worker is run as
    /// its pattern says.
    ///
    /// A step is not run where the publisher of one of its events is missing either: the event would be lost, or show
    /// what the publisher leaves out.
    pub(crate) fn handler(
        &self,
        step: StepIndex,
        registry: &HandlerRegistry,
    ) -> Result<Arc<dyn StepHandler>, Missing<'_>> {
        let step = self.template.step(step);
        let mut publishers = step.publishes_events.iter().filter_map(|event| event.publisher.as_deref());
        if let Some(name) = publishers.find(|name| !registry.has_publisher(name)) {
            return Err(Missing::Publisher(name));
        }
        registry.resolve(&step.handler)
    }

    /// The steps whose results the handler sees.
    pub(crate) fn ancestors(&self, step: StepIndex) -> Arc<[StepIndex]> {
        let find = || self.template.dag.ancestors(step).into();
        if self.steps.len() > KEEP_ANCESTORS_UP_TO {
            return find();
        }
        Arc::clone(self.steps[step.at()].ancestors.get_or_init(find))
    }

    /// The last attempt that the step may have. A step that is never tried again gets one attempt, or one more after
    /// an operator's reset: a lost lease is no reason to run it twice.
    pub(crate) fn limit(&self, step: StepIndex, moved: Option<u32>) -> u32 {
        let retry = &self.template.step(step).retry;
        let budget = retry.max_attempts.max(1);
        let limit = moved.unwrap_or(budget);
        if retry.retryable { limit } else { limit.saturating_sub(budget - 1).max(1) }
    }

    /// What checks the step's results; none where the template has no schema for them.
    pub(crate) fn validator(&self, step: StepIndex) -> Option<&Result<Validator, String>> {
        let schema = self.template.step(step).result_schema.as_ref()?;
        Some(self.steps[step.at()].validator.get_or_init(|| compile(schema)))
    }

    /// What checks the payload of each event that the step publishes, in their order: the schema that stands at the step,
    /// else the template's for events of that name, else nothing.
    pub(crate) fn event_validators(&self, step: StepIndex) -> &[Option<Result<Validator, String>>] {
        let named = |name: &str| self.template.domain_events.iter().find(|event| event.name == name);
        self.steps[step.at()].events.get_or_init(|| {
            let published = self.template.step(step).publishes_events.iter();
            let schemas = published.map(|event| match &event.schema {
                None => named(&event.name).and_then(|event| event.schema.as_ref()),
                own => own.as_ref(),
            });
            schemas.map(|schema| schema.map(compile)).collect()
        })
    }
}
