//! What can go wrong with a call, and what a handler says of it.

use std::time::Duration;

use serde_json::json;
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("scenarios.Call", call);
    registry.register_fn("scenarios.Tell", tell);
}

async fn call(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let scenario: String = ctx.get_input("scenario")?;
    match (scenario.as_str(), ctx.attempt()) {
        ("flaky", 1 | 2) => Err(StepError::retryable("the other side is away").with_class("network_error")),
        ("rate_limited", 1) => {
            Err(StepError::retryable_after("too many calls", Duration::from_millis(200)).with_class("rate_limit"))
        }
        ("invalid", _) => {
            Err(StepError::permanent("the amount is negative").with_class("validation_error").with_code("NEGATIVE"))
        }
        // As any error that a handler passes on: nobody said that trying again is useless, so it is tried.
        ("broken", _) => Err(Box::<dyn std::error::Error + Send + Sync>::from("nobody thought of this"))?,
        _ => StepOutcome::success(json!({"scenario": scenario, "attempts": ctx.attempt()})),
    }
}

async fn tell(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let (scenario, attempts): (String, u32) =
        (ctx.dependency_field("call", &["scenario"])?, ctx.dependency_field("call", &["attempts"])?);
    StepOutcome::success(json!({"told": format!("{scenario}: came through at attempt {attempts}")}))
}
