//! Names and dependencies of steps: from words to positions, and the rules between steps.

use std::collections::HashMap;

use super::document::{Data, Node};
use super::model::{StepKind, StepTemplate};
use super::problem::{Findings, Path, did_you_mean};
use super::table::{self, Table};
use crate::dag::{Cycle, Dag};
use crate::ids::StepIndex;
use crate::state::StepState;

/// The most steps of a cycle that are named.
const MAX_NAMED: usize = 10;

/// The steps' nodes and where each name is.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    nodes: &'a [Node],
    by_name: HashMap<&'a str, StepIndex>,
}

impl<'a> Steps<'a> {
    /// Collects the names; one that comes twice is a problem.
    pub(super) fn new(nodes: &'a [Node], out: &mut Findings) -> Self {
        let mut by_name = HashMap::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let Some(Data::Text(name)) = node.get("name").map(|name| &name.data) else { continue };
            let index = StepIndex::from(index);
            let first = *by_name.entry(name.as_str()).or_insert(index);
            if first != index {
                let message = format!("steps[{first}] is called `{name}` too");
                problem(nodes, index, "name", "duplicate_name", message, "rename one of them", out);
            }
        }
        Self { nodes, by_name }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The remedy for a name that no step has.
    pub(super) fn did_you_mean(&self, name: &str) -> String {
        let names = self.nodes.iter().filter_map(|node| match &node.get("name")?.data {
            Data::Text(name) => Some(name.as_str()),
            _ => None,
        });
        did_you_mean(name, names)
    }

    pub(super) fn into_names(self) -> HashMap<String, StepIndex> {
        self.by_name.into_iter().map(|(name, index)| (name.to_owned(), index)).collect()
    }

    /// Resolves the dependencies; `None` where they form no graph.
    pub(super) fn dag(&self, out: &mut Findings) -> Option<Dag> {
        let root = Path::Key(&Path::Root, "steps");
        let mut parents = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            parents.push(self.parents(node, Path::Item(&root, index), out));
        }
        Dag::new(&parents).map_err(|cycle| self.report(&cycle, out)).ok()
    }

    fn parents(&self, node: &Node, at: Path<'_>, out: &mut Findings) -> Vec<StepIndex> {
        let Some(table) = Table::known(node, at) else { return Vec::new() };
        let Some((key, node)) = table.get_either("dependencies", "depends_on", out) else {
            return Vec::new();
        };
        let at = Path::Key(&at, key);
        let items = table::list(node, &at, out);
        let mut parents = Vec::with_capacity(items.len());
        for (index, name) in table::texts(items, &at, out) {
            if let Some(parent) = self.by_name.get(name) {
                parents.push(*parent);
            } else if !out.full() {
                let place = Path::Item(&at, index);
                let message = format!("there is no step `{name}`");
                out.add("unknown_dependency", (&place, items[index].line), message, self.did_you_mean(name));
            }
        }
        parents
    }

    fn report(&self, cycle: &Cycle, out: &mut Findings) {
        let name = |step: &StepIndex| match self.nodes[step.at()].get("name").map(|node| &node.data) {
            Some(Data::Text(name)) => name.clone(),
            _ => format!("steps[{step}]"),
        };
        let mut names: Vec<String> = cycle.steps.iter().take(MAX_NAMED).map(name).collect();
        if cycle.steps.len() > MAX_NAMED {
            names.push(format!("… ({} more)", cycle.steps.len() - MAX_NAMED));
        }
        names.push(name(&cycle.steps[0]));
        let message = format!("steps wait for each other: {}", names.join(" → "));
        let key =
            if self.nodes[cycle.steps[0].at()].get("dependencies").is_some() { "dependencies" } else { "depends_on" };
        let remedy = "remove one of these dependencies";
        problem(self.nodes, cycle.steps[0], key, "cycle", message, remedy, out);
    }

    /// Checks what the kinds of steps ask of each other.
    pub(super) fn check_kinds(&self, steps: &[StepTemplate], dag: &Dag, out: &mut Findings) {
        for (index, step) in steps.iter().enumerate() {
            let index = StepIndex::from(index);
            if step.kind == StepKind::Decision && dag.children(index).is_empty() {
                let message = "no step depends on this decision";
                let remedy = "add the steps that it decides on, or make it a standard step";
                problem(self.nodes, index, "type", "decision_without_dependants", message, remedy, out);
            }
            if step.kind == StepKind::BatchWorker {
                self.check_worker(steps, dag, index, out);
            }
            if step.kind == StepKind::Batchable {
                self.check_batchable(steps, dag, index, out);
            } else if step.batch_config.is_some() {
                let message = format!("a step of type {} is not split into batches", step.kind);
                let remedy = "remove it, or make the step batchable";
                problem(self.nodes, index, "batch_config", "misplaced_batch_config", message, remedy, out);
            }
        }
    }

    fn check_worker(&self, steps: &[StepTemplate], dag: &Dag, index: StepIndex, out: &mut Findings) {
        let split = |parent: &&StepIndex| steps[parent.at()].kind == StepKind::Batchable;
        let message = match dag.parents(index).iter().filter(split).count() {
            1 => return,
            0 => "it depends on no batchable step".to_owned(),
            more => format!("it depends on {more} batchable steps"),
        };
        let remedy = "let it depend on the one step that is split into it";
        problem(self.nodes, index, "type", "worker_without_batchable", message, remedy, out);
    }

    fn check_batchable(&self, steps: &[StepTemplate], dag: &Dag, index: StepIndex, out: &mut Findings) {
        let is_worker = |at: StepIndex| steps[at.at()].kind == StepKind::BatchWorker;
        let config = steps[index.at()].batch_config.as_ref();
        let message = match config.and_then(|config| config.worker_template.as_deref()) {
            None if dag.children(index).iter().any(|child| is_worker(*child)) => return,
            None => "no step of type batch_worker depends on this step".to_owned(),
            Some(name) => match self.by_name.get(name) {
                Some(worker) if is_worker(*worker) && dag.parents(*worker).contains(&index) => return,
                Some(worker) if is_worker(*worker) => format!("its worker `{name}` does not depend on it"),
                Some(_) => format!("its worker `{name}` is not a step of type batch_worker"),
                None => format!("its worker `{name}` is not a step; {}", self.did_you_mean(name)),
            },
        };
        let remedy = "add a step of type batch_worker that depends on it";
        problem(self.nodes, index, "type", "batchable_without_worker", message, remedy, out);
    }
}

/// The state of each step before a task starts: what a decision comes before is not created, nor are the patterns of
/// batch workers.
pub(super) fn initial_states(steps: &[StepTemplate], dag: &Dag) -> Vec<StepState> {
    let mut conditional = vec![false; steps.len()];
    for step in dag.topological() {
        conditional[step.at()] = dag
            .parents(*step)
            .iter()
            .any(|parent| conditional[parent.at()] || steps[parent.at()].kind == StepKind::Decision);
    }
    let absent = |(step, conditional): (&StepTemplate, bool)| conditional || step.kind == StepKind::BatchWorker;
    let state = |absent| if absent { StepState::NotCreated } else { StepState::Pending };
    steps.iter().zip(conditional).map(absent).map(state).collect()
}

/// Adds a problem with a key of a step.
fn problem(
    nodes: &[Node],
    step: StepIndex,
    key: &str,
    code: &'static str,
    message: impl Into<String>,
    remedy: &str,
    out: &mut Findings,
) {
    let root = Path::Key(&Path::Root, "steps");
    if let Some(table) = Table::known(&nodes[step.at()], Path::Item(&root, step.at())) {
        table.problem(key, code, message, remedy, out);
    }
}
