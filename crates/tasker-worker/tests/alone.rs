//! One handler alone, without a database.
#![allow(clippy::unwrap_used, reason = "tests")]

use async_trait::async_trait;
use serde_json::json;
use tasker_worker::testkit::{Attempt, call};
use tasker_worker::{StepContext, StepError, StepHandler, StepOutcome};

const TEMPLATE: &str = "
name: order
namespace_name: shop
version: 1.0.0
steps:
  - {name: price, handler: {callable: price}}
  - name: charge
    handler: {callable: charge, initialization: {currency: EUR}}
    dependencies: [price]
    timeout_seconds: 0.05
    result_schema: {type: object, required: [charged]}";

struct Charge;

#[async_trait]
impl StepHandler for Charge {
    async fn call(&self, ctx: StepContext) -> Result<StepOutcome, StepError> {
        match ctx.attempt() {
            1 => Err(StepError::retryable("card network timeout")),
            2 => std::future::pending().await,
            3 if ctx.is_last_retry() => {
                let cents: u32 = ctx.dependency_field("price", &["cents"])?;
                StepOutcome::success(json!({"charged": format!("{cents} {}", ctx.get_config::<String>("currency")?)}))
            }
            _ => StepOutcome::success("nonsense"),
        }
    }
}

#[tokio::test]
async fn a_handler_is_called_as_a_worker_would_call_it() {
    let attempt = |number| Attempt::of(TEMPLATE, "charge").dependency("price", json!({"cents": 995})).number(number);
    let error = call(&Charge, attempt(1)).await.unwrap_err();
    assert_eq!((error.class(), error.is_retryable()), ("retryable_error", true));
    assert_eq!(call(&Charge, attempt(2)).await.unwrap_err().class(), "timeout");
    assert_eq!(call(&Charge, attempt(3)).await.unwrap().result().get(), r#"{"charged":"995 EUR"}"#);
    assert_eq!(call(&Charge, attempt(4)).await.unwrap_err().class(), "result_schema");
}
