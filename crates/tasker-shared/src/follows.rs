//! What a result leads to: the choice of a decision, the split of a batchable step. Read once, where the result comes
//! in, and stored beside it, so that whoever decides need not know how results are written.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tasker_lifecycle::template::{StepKind, Template};
use tasker_lifecycle::{Follows, StepIndex};

/// The id of the batch that stands for none, so that a convergence runs all the same.
pub const NO_BATCH: &str = "000";
/// Characters of a batch's id.
const ID_CHARS: usize = 64;

/// The key of a decision's result, and what is under it.
#[derive(Deserialize)]
struct DecisionResult {
    decision_point_outcome: DecisionOutcome,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum DecisionOutcome {
    NoBranches,
    CreateSteps { step_names: Vec<String> },
}

/// The key of a batchable step's result, and what is under it.
#[derive(Deserialize)]
struct BatchResult {
    batch_processing_outcome: BatchOutcome,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum BatchOutcome {
    NoBatches,
    CreateBatches { worker_template_name: Option<String>, worker_count: Option<u64>, cursor_configs: Vec<Cursor> },
}

/// One batch, as a batchable step's result says it: from `start_cursor` up to and without `end_cursor`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Cursor {
    /// Unique among the batches; part of the worker step's name.
    pub batch_id: String,
    /// Where it begins: whatever the handlers agree on.
    #[serde(default)]
    pub start_cursor: Value,
    /// Where it ends, exclusive.
    #[serde(default)]
    pub end_cursor: Value,
    /// How many items it has, where that is known.
    #[serde(default)]
    pub batch_size: Option<u64>,
}

impl Cursor {
    /// Splits `0..total` into batches of `size` numbered `001`, `002`, …; the last one may be smaller.
    #[must_use]
    pub fn ranges(total: u64, size: u64) -> Vec<Self> {
        let size = size.max(1);
        (0..total.div_ceil(size))
            .map(|at| {
                let (start, end) = (at * size, total.min((at + 1) * size));
                let batch_id = format!("{:03}", at + 1);
                Self { batch_id, start_cursor: start.into(), end_cursor: end.into(), batch_size: Some(end - start) }
            })
            .collect()
    }
}

/// What the result of a step of the template leads to.
///
/// # Errors
/// What is wrong with the result of a decision or a batchable step.
pub fn of_result(template: &Template, step: StepIndex, result: &RawValue) -> Result<Follows, String> {
    match template.step(step).kind {
        StepKind::Standard | StepKind::DeferredConvergence | StepKind::BatchWorker => Ok(Follows::Nothing),
        StepKind::Decision => branches(template, step, result),
        StepKind::Batchable => batches(template, step, result),
    }
}

fn branches(template: &Template, step: StepIndex, result: &RawValue) -> Result<Follows, String> {
    let read: DecisionResult = serde_json::from_str(result.get())
        .map_err(|error| format!("a decision's result needs `decision_point_outcome`: {error}"))?;
    let DecisionOutcome::CreateSteps { step_names } = read.decision_point_outcome else {
        return Ok(Follows::Branches([].into()));
    };
    let behind = |name: &String| {
        let named = template.step_by_name(name).ok_or_else(|| format!("there is no step `{name}` to create"))?;
        if template.dag.ancestors(named).contains(&step) {
            Ok(named)
        } else {
            Err(format!("the step `{name}` does not depend on this decision"))
        }
    };
    let mut chosen = step_names.iter().map(behind).collect::<Result<Vec<_>, _>>()?;
    chosen.sort_unstable();
    chosen.dedup();
    if chosen.is_empty() {
        return Err("no step is named: say `no_branches` to create none".to_owned());
    }
    Ok(Follows::Branches(chosen.into()))
}

fn batches(template: &Template, step: StepIndex, result: &RawValue) -> Result<Follows, String> {
    let read: BatchResult = serde_json::from_str(result.get())
        .map_err(|error| format!("a batchable step's result needs `batch_processing_outcome`: {error}"))?;
    let default_worker = || template.worker_of(step).ok_or_else(|| "the template has no batch worker".to_owned());
    let BatchOutcome::CreateBatches { worker_template_name, worker_count, cursor_configs } =
        read.batch_processing_outcome
    else {
        return Ok(Follows::Batches { worker: default_worker()?, count: 1 });
    };
    let worker = match worker_template_name {
        None => default_worker()?,
        Some(name) => template
            .step_by_name(&name)
            .filter(|worker| template.is_worker_of(*worker, step))
            .ok_or_else(|| format!("`{name}` is no batch worker of this step"))?,
    };
    let count = u32::try_from(cursor_configs.len()).unwrap_or(u32::MAX);
    if count == 0 {
        return Err("no batch is given: say `no_batches` to create none".to_owned());
    }
    if let Some(said) = worker_count.filter(|said| *said != u64::from(count)) {
        return Err(format!("worker_count is {said}, but there are {count} cursor_configs"));
    }
    let mut ids = HashSet::new();
    for Cursor { batch_id, .. } in &cursor_configs {
        if !(1..=ID_CHARS).contains(&batch_id.chars().count()) || batch_id.chars().any(char::is_control) {
            return Err(format!("a batch_id has 1 to {ID_CHARS} characters, none of them control characters"));
        }
        if !ids.insert(batch_id.as_str()) {
            return Err(format!("the batch_id `{batch_id}` comes twice"));
        }
        let name = worker_name(template, worker, batch_id);
        if template.step_by_name(&name).is_some() {
            return Err(format!("the batch_id `{batch_id}` gives a worker the name of the step `{name}`"));
        }
    }
    Ok(Follows::Batches { worker, count })
}

/// The name of a batch worker.
#[must_use]
pub fn worker_name(template: &Template, worker: StepIndex, batch_id: &str) -> String {
    format!("{}_{batch_id}", template.step(worker).name)
}

/// The batches in a batchable step's result, in the order of their workers; none where it gave none.
#[must_use]
pub fn cursors(result: &RawValue) -> Vec<Cursor> {
    match serde_json::from_str(result.get()) {
        Ok(BatchResult { batch_processing_outcome: BatchOutcome::CreateBatches { cursor_configs, .. } }) => {
            cursor_configs
        }
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// The stored form of [`Follows`].
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Branches { branches: Arc<[StepIndex]> },
    Batches { worker: StepIndex, count: u32 },
}

/// What is stored beside a result; nothing where nothing follows.
#[must_use]
pub fn to_json(follows: &Follows) -> Option<String> {
    let stored = match follows {
        Follows::Nothing => return None,
        Follows::Branches(branches) => Stored::Branches { branches: Arc::clone(branches) },
        Follows::Batches { worker, count } => Stored::Batches { worker: *worker, count: *count },
    };
    Some(serde_json::to_string(&stored).expect("numbers always encode"))
}

/// Reads what was stored. What somebody else wrote is taken for nothing, and fails a step that needs it.
#[must_use]
pub fn from_json(stored: Option<&str>) -> Follows {
    match stored.and_then(|stored| serde_json::from_str(stored).ok()) {
        None => Follows::Nothing,
        Some(Stored::Branches { branches }) => Follows::Branches(branches),
        Some(Stored::Batches { worker, count }) => Follows::Batches { worker, count },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Template {
        let step = |name: &str, kind: &str, parents: &[&str]| json!({"name": name, "type": kind, "handler": "h", "dependencies": parents});
        let steps = [
            step("d", "decision", &[]),
            step("x", "standard", &["d"]),
            step("alone", "standard", &[]),
            step("b", "batchable", &[]),
            step("w", "batch_worker", &["b"]),
            step("w_taken", "deferred", &["w"]),
        ];
        let document = json!({"name": "t", "namespace_name": "n", "version": "1.0.0", "steps": steps});
        tasker_lifecycle::template::from_json(&document, None).expect("a valid template").0
    }

    fn read(step: u32, result: &Value) -> Result<Follows, String> {
        let result = serde_json::value::to_raw_value(result).expect("JSON");
        of_result(&template(), StepIndex(step), &result)
    }

    fn create(ids: &[&str]) -> Value {
        let cursors: Vec<_> =
            ids.iter().map(|id| json!({"batch_id": id, "start_cursor": 0, "end_cursor": 5})).collect();
        json!({"batch_processing_outcome": {"type": "create_batches", "worker_template_name": "w",
               "worker_count": ids.len(), "cursor_configs": cursors, "total_items": 10}, "rows": 10})
    }

    #[test]
    fn results_say_what_follows() {
        let decided = |names: Value| json!({"decision_point_outcome": {"type": "create_steps", "step_names": names}});
        let none = json!({"decision_point_outcome": {"type": "no_branches"}, "why": "small"});
        assert_eq!(read(0, &none), Ok(Follows::Branches([].into())));
        assert_eq!(read(0, &decided(json!(["x", "x"]))), Ok(Follows::Branches([StepIndex(1)].into())));
        assert_eq!(read(3, &create(&["001", "002"])), Ok(Follows::Batches { worker: StepIndex(4), count: 2 }));
        let none = json!({"batch_processing_outcome": {"type": "no_batches"}});
        assert_eq!(read(3, &none), Ok(Follows::Batches { worker: StepIndex(4), count: 1 }));
        assert_eq!(read(1, &json!(7)), Ok(Follows::Nothing));
    }

    #[test]
    fn what_can_not_be_followed_is_refused_with_its_reason() {
        let decided = |names: Value| json!({"decision_point_outcome": {"type": "create_steps", "step_names": names}});
        let mut miscounted = create(&["a"]);
        miscounted["batch_processing_outcome"]["worker_count"] = json!(2);
        let mut stranger = create(&["a"]);
        stranger["batch_processing_outcome"]["worker_template_name"] = json!("x");
        for (step, result, reason) in [
            (0, json!({"approved": true}), "needs `decision_point_outcome`"),
            (0, json!({"decision_point_outcome": {"type": "maybe"}}), "needs `decision_point_outcome`"),
            (0, decided(json!([])), "say `no_branches`"),
            (0, decided(json!(["nobody"])), "no step `nobody`"),
            (0, decided(json!(["alone"])), "`alone` does not depend on this decision"),
            (0, decided(json!(["d"])), "`d` does not depend on this decision"),
            (3, json!([]), "needs `batch_processing_outcome`"),
            (3, create(&[]), "say `no_batches`"),
            (3, create(&["a", "a"]), "`a` comes twice"),
            (3, create(&[""]), "1 to 64 characters"),
            (3, create(&["taken"]), "the name of the step `w_taken`"),
            (3, miscounted, "worker_count is 2"),
            (3, stranger, "`x` is no batch worker"),
        ] {
            let refused = read(step, &result).expect_err("refused");
            assert!(refused.contains(reason), "{result}: {refused}");
        }
    }

    #[test]
    fn what_is_stored_is_read_again() {
        for follows in [
            Follows::Nothing,
            Follows::Branches([].into()),
            Follows::Branches([StepIndex(3), StepIndex(9)].into()),
            Follows::Batches { worker: StepIndex(4), count: 1000 },
        ] {
            assert_eq!(from_json(to_json(&follows).as_deref()), follows);
        }
        assert_eq!(from_json(Some("{}")), Follows::Nothing);
    }
}
