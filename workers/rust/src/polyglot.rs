//! Rust's part of a task that four languages work on.

use serde_json::json;
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("polyglot.CountLetters", count_letters);
}

async fn count_letters(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let text: String = ctx.get_input("text")?;
    let letters = text.chars().filter(|letter| letter.is_alphabetic()).count();
    StepOutcome::success(json!({"language": "rust", "letters": letters}))
}
