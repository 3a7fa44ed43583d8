//! Templates in which steps are made at run time or left out.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use tasker_lifecycle::template::Template;

use super::{LATER_MS, template_of};

/// Small enough for every life of theirs: a name, the steps, and whether steps do not disturb each other.
pub(crate) fn plans() -> Vec<(&'static str, Value, bool)> {
    let mut plans = decisions();
    plans.extend(resources());
    plans.extend(batches());
    plans
}

fn step(name: &str, kind: &str, parents: &[&str]) -> Value {
    json!({"name": name, "type": kind, "handler": "h", "dependencies": parents,
           "retry": {"max_attempts": 1, "backoff": "none", "max_backoff_ms": LATER_MS * 2}})
}

fn batch(strategy: &str, parallelism: u32) -> Value {
    let mut split = step("b", "batchable", &[]);
    split["batch_config"] = json!({"batch_size": 1, "parallelism": parallelism, "cursor_field": "id",
                                   "failure_strategy": strategy});
    json!([split, step("w", "batch_worker", &["b"]), step("c", "deferred", &["w"])])
}

fn decisions() -> Vec<(&'static str, Value, bool)> {
    vec![
        (
            "branches",
            json!([
                step("d", "decision", &[]),
                step("x", "standard", &["d"]),
                step("y", "standard", &["d"]),
                step("c", "deferred", &["x", "y"])
            ]),
            true,
        ),
        (
            "a branch goes on",
            json!([
                step("d", "decision", &[]),
                step("x", "standard", &["d"]),
                step("z", "standard", &["x"]),
                step("y", "standard", &["d"]),
                step("c", "deferred", &["z", "y"])
            ]),
            true,
        ),
        (
            "nested",
            json!([
                step("d", "decision", &[]),
                step("e", "decision", &["d"]),
                step("x", "standard", &["e"]),
                step("c", "deferred", &["x"]),
                step("y", "standard", &["d"]),
                step("f", "deferred", &["c", "y"])
            ]),
            true,
        ),
        (
            "two decisions and a join",
            json!([
                step("d", "decision", &[]),
                step("e", "decision", &[]),
                step("x", "standard", &["d"]),
                step("y", "standard", &["e"]),
                step("j", "standard", &["x", "y"]),
                step("c", "deferred", &["x", "y", "j"])
            ]),
            true,
        ),
        ("no convergence", json!([step("d", "decision", &[]), step("x", "standard", &["d"])]), true),
    ]
}

/// Steps that use a resource: tried twice, behind a decision, and in a batch.
fn resources() -> Vec<(&'static str, Value, bool)> {
    let using = |mut step: Value| {
        step["uses"] = json!(["shop"]);
        step
    };
    let mut twice = using(step("a", "standard", &[]));
    twice["retry"]["max_attempts"] = json!(2);
    let mut batch = batch("isolate", 2);
    batch[1] = using(batch[1].take());
    vec![
        ("a resource", json!([twice, step("b", "standard", &["a"])]), true),
        (
            "a resource in a branch",
            json!([step("d", "decision", &[]), using(step("x", "standard", &["d"])), step("c", "deferred", &["x"])]),
            true,
        ),
        ("a resource in a batch", batch, true),
    ]
}

fn batches() -> Vec<(&'static str, Value, bool)> {
    vec![
        ("one after the other", batch("continue_on_failure", 1), true),
        ("two at once", batch("isolate", 2), true),
        ("all or none", batch("fail_fast", 2), false),
        (
            "a batch in a branch",
            json!([
                step("d", "decision", &[]),
                step("b", "batchable", &["d"]),
                step("w", "batch_worker", &["b"]),
                step("c", "deferred", &["w"]),
                step("y", "standard", &["d"]),
                step("f", "deferred", &["c", "y"])
            ]),
            false,
        ),
    ]
}

/// Graphs in which steps are decisions, wait for what was created, or are split into batches.
pub(crate) fn random_plans() -> impl Strategy<Value = Arc<Template>> {
    let kinds = prop::collection::vec(0_u8..8, 1..=24);
    let edges = prop::collection::btree_set((0_usize..24, 0_usize..24), 0..=48);
    (kinds, edges, 1_u32..=3, 0_usize..3).prop_map(|(kinds, edges, parallelism, strategy)| {
        let last = kinds.len();
        let edge = |a: &usize, b: &usize| a < b && *b < last;
        let parents = |child: usize| edges.iter().filter(move |(a, b)| edge(a, b) && *b == child).map(|(a, _)| *a);
        let has_children = |step: usize| edges.iter().any(|(a, b)| edge(a, b) && *a == step);
        let strategy = ["continue_on_failure", "fail_fast", "isolate"][strategy];
        let mut steps = Vec::new();
        for (at, kind) in kinds.iter().enumerate() {
            let named: Vec<String> = parents(at).map(|parent| format!("s{parent}")).collect();
            let kind = match kind {
                0 | 1 if has_children(at) => "decision",
                2 | 3 if !named.is_empty() => "deferred",
                4 => "batchable",
                _ => "standard",
            };
            let uses: &[&str] = if at % 3 == 2 { &["shop"] } else { &[] };
            let mut step = json!({"name": format!("s{at}"), "type": kind, "handler": "h", "dependencies": named, "uses": uses,
                "retry": {"max_attempts": 2, "backoff": "none", "max_backoff_ms": LATER_MS * 2}});
            if kind == "batchable" {
                step["batch_config"] = json!({"batch_size": 1, "parallelism": parallelism, "cursor_field": "id",
                                              "failure_strategy": strategy});
                let worker = json!({"name": format!("w{at}"), "type": "batch_worker", "handler": "h",
                    "dependencies": [format!("s{at}")], "uses": uses,
                    "retry": {"max_attempts": 1, "backoff": "none"}});
                let convergence = json!({"name": format!("c{at}"), "type": "deferred", "handler": "h",
                    "dependencies": [format!("w{at}")]});
                steps.extend([worker, convergence]);
            }
            steps.push(step);
        }
        template_of(&json!(steps))
    })
}
