//! Random templates.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;
use tasker_lifecycle::template::{self, Template};

use super::LATER_MS;

/// A graph of a few steps, some of which are decisions, wait for what was created, or are split.
pub(crate) fn random_template(rng: &mut StdRng) -> Template {
    let count = rng.random_range(1..9);
    let plain = rng.random_bool(0.3);
    let mut parents: Vec<Vec<String>> = Vec::new();
    for at in 0..count {
        parents.push((0..at).filter(|_| rng.random_bool(0.4)).map(|at| format!("s{at}")).collect());
    }
    let mut steps = Vec::new();
    for at in 0..count {
        let name = format!("s{at}");
        let has_children = parents.iter().any(|parents| parents.contains(&name));
        // Some are decisions, wait for what was created, or are split.
        let kind = match rng.random_range(0..6) {
            _ if plain => "standard",
            0 if has_children => "decision",
            1 if at > 0 => "deferred",
            2 => "batchable",
            _ => "standard",
        };
        let retry = json!({"max_attempts": rng.random_range(1..4), "backoff": "none", "max_backoff_ms": LATER_MS * 2});
        let mut step = json!({"name": name, "type": kind, "handler": "h", "dependencies": parents[at], "retry": retry.clone(),
                   "uses": uses(rng)});
        if kind == "batchable" {
            let strategy = ["continue_on_failure", "fail_fast", "isolate"][rng.random_range(0..3)];
            step["batch_config"] = json!({"batch_size": 1, "parallelism": rng.random_range(1..3), "cursor_field": "id",
                                          "failure_strategy": strategy});
            let (worker, convergence) = (format!("w{at}"), format!("c{at}"));
            steps.push(json!({"name": worker, "type": "batch_worker", "handler": "h", "dependencies": [name],
                              "retry": retry, "uses": uses(rng)}));
            steps.push(json!({"name": convergence, "type": "deferred", "handler": "h", "dependencies": [worker]}));
        }
        steps.push(step);
    }
    let document = json!({"name": "lives", "namespace_name": "test", "version": "1.0.0", "steps": steps});
    template::from_json(&document, None).unwrap().0
}

/// Now and then a resource, or two.
fn uses(rng: &mut StdRng) -> &'static [&'static str] {
    match rng.random_range(0..8) {
        0 => &["shop"],
        1 => &["shop", "bank"],
        2 => &["bank"],
        _ => &[],
    }
}
