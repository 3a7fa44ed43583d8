//! Decisions: what is chosen is created in the commit that completes the decision, nothing else, and a convergence
//! waits for exactly that.

use serde_json::{Map, Value, json};
use tasker_lifecycle::TaskState;
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::bench::{Bench, value};

const TEMPLATE: &str = "
name: t
namespace_name: test
version: 1.0.0
steps:
  - {name: start, handler: see}
  - {name: route, type: decision, handler: choose, dependencies: [start], retry: {max_attempts: 1}}
  - {name: small, handler: see, dependencies: [route]}
  - {name: large, handler: see, dependencies: [route]}
  - {name: after_large, handler: see, dependencies: [large]}
  - {name: again, type: decision, handler: choose_again, dependencies: [route]}
  - {name: deep, handler: see, dependencies: [again]}
  - {name: join, type: deferred_convergence, handler: see, dependencies: [small, after_large, deep]}
";

/// Answers with what it sees.
async fn see(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let seen: Map<String, Value> = ctx.dependencies().map(|(step, result)| (step.to_owned(), value(result))).collect();
    StepOutcome::success(json!({"name": ctx.step_name(), "sees": seen.keys().collect::<Vec<_>>()}))
}

async fn choose(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let steps: Vec<String> = ctx.get_input("steps")?;
    StepOutcome::decision(steps)
}

async fn choose_again(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let steps: Vec<String> = ctx.get_input("deeper")?;
    StepOutcome::decision(steps)
}

fn handlers(registry: &mut HandlerRegistry) {
    registry.register_fn("see", see);
    registry.register_fn("choose", choose);
    registry.register_fn("choose_again", choose_again);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_chosen_runs_and_the_convergence_sees_exactly_that() {
    Bench::on_both(TEMPLATE, handlers, async |bench| {
        for (chosen, deeper, letters, seen) in [
            (json!(["small"]), json!([]), "CCC....C", &["start", "route", "small"][..]),
            (json!(["large"]), json!([]), "CC.CC..C", &["start", "route", "large", "after_large"]),
            (json!([]), json!([]), "CC.....C", &["start", "route"]),
            (json!(["again"]), json!(["deep"]), "CC...CCC", &["start", "route", "again", "deep"]),
            (json!(["small", "again"]), json!([]), "CCC..C.C", &["start", "route", "small", "again"]),
        ] {
            let task = bench.completes(json!({"steps": chosen, "deeper": deeper})).await;
            assert_eq!(bench.letters(task).await, letters, "{chosen}");
            let mut sees: Vec<String> = serde_json::from_value(bench.result(task, 7).await["sees"].clone()).unwrap();
            // Steps that were not created are no ancestors whose result could be read.
            sees.sort_unstable();
            let mut seen: Vec<&str> = seen.to_vec();
            seen.sort_unstable();
            assert_eq!(sees, seen, "{chosen}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_name_fails_the_decision_and_says_so() {
    Bench::on_both(TEMPLATE, handlers, async |bench| {
        for (wrong, why) in [("nobody", "there is no step `nobody`"), ("start", "does not depend on this decision")] {
            let task = bench.create(json!({"steps": [wrong]})).await;
            assert_eq!(bench.rests(task).await, TaskState::BlockedByFailures);
            assert_eq!(bench.letters(task).await, "CE------");
            let attempts = bench.attempts(task).await;
            assert!(attempts.last().unwrap().contains(why), "{attempts:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_branches_are_created_in_one_commit() {
    let mut template = "name: t\nnamespace_name: test\nversion: 1.0.0\nsteps:\n".to_owned();
    template += "  - {name: route, type: decision, handler: choose}\n";
    let names: Vec<String> = (0..100).map(|at| format!("branch_{at}")).collect();
    for name in &names {
        template += &format!("  - {{name: {name}, handler: see, dependencies: [route]}}\n");
    }
    template += &format!("  - {{name: join, type: deferred, handler: see, dependencies: [{}]}}\n", names.join(", "));
    Bench::on_both(&template, handlers, async |bench| {
        let task = bench.completes(json!({"steps": names})).await;
        let sees = bench.result(task, 101).await["sees"].as_array().unwrap().len();
        assert_eq!(sees, 101);
        let created = "SELECT count(*) FROM tasker.history WHERE changes LIKE '%1:-Q@0%' AND changes LIKE '%100:-Q@0%'";
        assert_eq!(bench.count(created).await, 1, "all of them with the decision");
    })
    .await;
}
