//! Templates: the documents that users write, checked and resolved into what the engine runs.
//!
//! A document passes three stages: a tree that knows its lines, the overrides of one environment, and
//! one reader for YAML and JSON alike that collects every problem. What comes out is immutable and named
//! by the hash of its canonical content. Whether schemas are valid is left to the validator of who uses them.

mod canonical;
mod document;
mod environment;
mod graph;
mod model;
mod problem;
mod read;
mod schema;
mod table;

#[cfg(test)]
mod tests;

use serde_json::Value;

pub use model::{
    Backoff, BadName, BatchConfig, DeliveryMode, DomainEvent, FailureStrategy, HandlerRef, IdentityStrategy, Lifecycle,
    Namespace, NotAHash, Pool, PublishCondition, PublishedEvent, ResourceName, RetryPolicy, StalenessAction, StepKind,
    StepTemplate, SystemDependencies, Template, TemplateHash,
};
pub use problem::{Problem, Warning};

use document::Node;
use graph::Steps;
use problem::{Findings, Path};

/// Reads a template from YAML (or from JSON text, which is YAML) and applies the overrides of
/// `environment`, where the document has any.
///
/// # Errors
/// Every problem of the document, at most 100, each with its line.
pub fn parse(yaml: &str, environment: Option<&str>) -> Result<(Template, Vec<Warning>), Vec<Problem>> {
    let mut out = Findings::default();
    let root = document::from_yaml(yaml, &mut out);
    finish(root, environment, out)
}

/// Reads a template from a JSON value; otherwise like [`parse`]. The value may be larger than a file may
/// be: the canonical content of a large template, with all its defaults written out, is.
///
/// # Errors
/// Every problem of the document, at most 100.
pub fn from_json(document: &Value, environment: Option<&str>) -> Result<(Template, Vec<Warning>), Vec<Problem>> {
    let mut out = Findings::default();
    let root = document::from_json(document, &Path::Root, 0, &mut out);
    finish(Some(root), environment, out)
}

fn finish(
    root: Option<Node>,
    environment: Option<&str>,
    mut out: Findings,
) -> Result<(Template, Vec<Warning>), Vec<Problem>> {
    let template = root.and_then(|root| read_template(root, environment, &mut out));
    template.map(|template| (template, out.warnings)).ok_or(out.problems)
}

/// Reads on after a problem wherever it can; `None` exactly where a problem was added.
fn read_template(mut root: Node, environment: Option<&str>, out: &mut Findings) -> Option<Template> {
    environment::apply(&mut root, environment, out);
    let head = read::head(&root, out);
    let nodes = read::step_nodes(&root, out);
    let names = Steps::new(nodes, out);
    let at = Path::Key(&Path::Root, "steps");
    let steps: Vec<Option<StepTemplate>> =
        nodes.iter().enumerate().map(|(index, node)| read::step(node, Path::Item(&at, index), out)).collect();
    let dag = names.dag(out);
    let steps: Vec<StepTemplate> = steps.into_iter().collect::<Option<_>>()?;
    let dag = dag?;
    names.check_kinds(&steps, &dag, out);
    let head = head.filter(|_| out.problems.is_empty())?;
    let initial = graph::initial_states(&steps, &dag);
    let mut template = Template {
        initial,
        uses_resources: steps.iter().any(|step| !step.uses.is_empty()),
        steps,
        dag,
        hash: TemplateHash([0; 32]),
        namespace: head.namespace,
        name: head.name,
        version: head.version,
        description: head.description,
        metadata: head.metadata,
        input_schema: head.input_schema,
        identity_strategy: head.identity_strategy,
        lifecycle: head.lifecycle,
        domain_events: head.domain_events,
        system_dependencies: head.system_dependencies,
        by_name: names.into_names(),
    };
    template.hash = canonical::hash(&template.to_json());
    Some(template)
}
