//! An order whose placing and payment other programs are told of.

use serde::Deserialize;
use serde_json::{Value, json};
use tasker_worker::{DomainEvent, HandlerRegistry, StepContext, StepError, StepOutcome};

#[derive(Deserialize)]
struct Order {
    order_id: String,
    amount_cents: i64,
}

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("events.Place", place);
    registry.register_fn("events.Pay", pay);
    registry.register_publisher("events.Receipt", receipt);
}

async fn place(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let order: Order = ctx.input()?;
    StepOutcome::success(json!({"order_id": order.order_id, "status": "placed"}))
}

async fn pay(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let order: Order = ctx.input()?;
    StepOutcome::success(json!({"order_id": order.order_id, "paid_cents": order.amount_cents}))
}

/// What others see of a payment: an amount as people write it, and nothing else.
fn receipt(event: &DomainEvent) -> Option<Value> {
    let result: Value = event.payload().ok()?;
    let cents = result["paid_cents"].as_i64()?;
    Some(json!({"order_id": result["order_id"], "amount": format!("{}.{:02}", cents / 100, cents % 100)}))
}
