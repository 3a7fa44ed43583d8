//! Why a task does not go on, as text for people.

use tasker_client::types::{Explanation, StepExplanation};

use crate::output::table;

pub(super) fn text(explanation: &Explanation) -> String {
    let head = format!("{} {}: {}\n", explanation.task_uuid, explanation.status, explanation.message);
    if explanation.steps.is_empty() {
        return head;
    }
    let rows = explanation.steps.iter().map(|step| {
        [
            step.name.clone(),
            step.current_state.to_string(),
            format!("{}/{}", step.attempts, step.max_attempts),
            code(step),
            step.message.clone(),
        ]
    });
    format!("{head}\n{}", table(["STEP", "STATE", "ATTEMPTS", "CODE", "WHY"], rows, "no steps"))
}

/// The word of the reason as it goes over the wire.
fn code(step: &StepExplanation) -> String {
    let code = serde_json::to_value(step.code).ok();
    code.as_ref().and_then(|code| code.as_str()).unwrap_or_default().to_owned()
}
