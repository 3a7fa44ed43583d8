//! Overrides by environment. All of them are checked; those of one environment are applied.

use std::collections::{HashMap, HashSet};

use super::document::{Data, Node};
use super::graph::Steps;
use super::problem::{Findings, Path};
use super::read;
use super::table::{self, Table};

/// How much one environment may add to all steps together, in bytes.
const MAX_ADDED: usize = 32 << 20;

/// The name that means every step.
pub(super) const ALL: &str = "ALL";

/// Takes the environments out of the document and applies the overrides of the named one: first those for
/// all steps, then those for single ones. Mappings are merged, other values replaced.
pub(super) fn apply(root: &mut Node, environment: Option<&str>, out: &mut Findings) {
    let Data::Map(entries) = &mut root.data else { return };
    let Some(at) = entries.iter().position(|(key, _)| key == "environments") else { return };
    let (_, environments) = entries.remove(at);
    if environments.is_null() {
        return;
    }
    let before = out.problems.len();
    let nodes = match root.get("steps").map(|steps| &steps.data) {
        Some(Data::List(nodes)) => nodes.as_slice(),
        _ => &[],
    };
    let steps = Steps::new(nodes, &mut Findings::default());
    check(&environments, &steps, out);
    let chosen = environment.and_then(|name| environments.get(name)).and_then(|node| node.get("steps"));
    if let (Some(Data::List(changes)), true) = (chosen.map(|node| &node.data), before == out.problems.len()) {
        change_steps(root, changes, out);
    }
}

fn check(environments: &Node, steps: &Steps<'_>, out: &mut Findings) {
    let root = Path::Key(&Path::Root, "environments");
    let Data::Map(entries) = &environments.data else {
        return table::wrong_type(environments, &root, "a mapping", out);
    };
    for (name, node) in entries.iter().filter(|(_, node)| !node.is_null()) {
        let at = Path::Key(&root, name);
        let Some(table) = Table::open(node, at, &["steps", "task_handler"], out) else { continue };
        if let Some(old) = table.get("task_handler") {
            let place = Path::Key(&at, "task_handler");
            out.warn((&place, old.line), "`task_handler` is not used any more and has no effect; remove it");
        }
        let at = Path::Key(&at, "steps");
        let mut seen = HashSet::new();
        for (index, node) in table.list("steps", out).iter().enumerate() {
            check_override(node, Path::Item(&at, index), steps, &mut seen, out);
        }
    }
}

fn check_override<'a>(
    node: &'a Node,
    at: Path<'_>,
    steps: &Steps<'_>,
    seen: &mut HashSet<&'a str>,
    out: &mut Findings,
) {
    read::override_of_step(node, at, out);
    let Some(table) = Table::known(node, at) else { return };
    if table.get("name").is_none() {
        table.missing("name", out);
    }
    table.text("name", out);
    let Some(name) = name_of(node) else { return };
    if name != ALL && !steps.has(name) && !out.full() {
        let message = format!("there is no step `{name}`");
        table.problem("name", "unknown_step", message, steps.did_you_mean(name), out);
    }
    if !seen.insert(name) {
        let message = format!("`{name}` is overridden twice");
        table.problem("name", "duplicate_name", message, "merge them into one", out);
    }
}

fn name_of(node: &Node) -> Option<&str> {
    match node.get("name").map(|name| &name.data) {
        Some(Data::Text(name)) => Some(name),
        _ => None,
    }
}

fn change_steps(root: &mut Node, changes: &[Node], out: &mut Findings) {
    let Data::Map(entries) = &mut root.data else { return };
    let steps = entries.iter_mut().find(|(key, _)| key == "steps").map(|(_, node)| &mut node.data);
    let Some(Data::List(steps)) = steps else { return };
    let by_name: HashMap<&str, (&Node, usize)> =
        changes.iter().filter_map(|change| Some((name_of(change)?, (change, change.cost())))).collect();
    let mut added = 0;
    for step in steps {
        let own = name_of(step).and_then(|name| by_name.get(name));
        for (change, cost) in by_name.get(ALL).into_iter().chain(own) {
            added += cost;
            if added > MAX_ADDED {
                let message = format!("the overrides add more than {MAX_ADDED} bytes to the steps");
                let at = Path::Key(&Path::Root, "environments");
                return out.add("too_large", (&at, change.line), message, "override fewer steps or with less");
            }
            merge_step(step, change);
        }
    }
}

fn merge_step(step: &mut Node, change: &Node) {
    let (Data::Map(entries), Data::Map(changes)) = (&mut step.data, &change.data) else { return };
    for (key, change) in changes.iter().filter(|(key, _)| key != "name") {
        let mut change = change.clone();
        let old = entries.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node);
        if key == "handler" {
            name_to_mapping(&mut change);
        }
        match old {
            Some(old) => {
                if key == "handler" {
                    name_to_mapping(old);
                }
                merge(old, change);
            }
            None => entries.push((key.clone(), change)),
        }
    }
}

fn merge(old: &mut Node, change: Node) {
    match (&mut old.data, change) {
        (Data::Map(entries), Node { data: Data::Map(changes), .. }) => {
            let places: HashMap<String, usize> =
                entries.iter().enumerate().map(|(place, (key, _))| (key.clone(), place)).collect();
            for (key, change) in changes {
                match places.get(&key) {
                    Some(place) => merge(&mut entries[*place].1, change),
                    None => entries.push((key, change)),
                }
            }
        }
        (_, change) => *old = change,
    }
}

/// A handler that is only a name, as the mapping that it is short for.
fn name_to_mapping(handler: &mut Node) {
    if let Data::Text(_) = handler.data {
        let name = handler.clone();
        handler.data = Data::Map(vec![("callable".into(), name)]);
    }
}
