//! Valuing a stock with checkpoints: what was counted before a failure is not counted again.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::catalogue;
use crate::files;
use crate::money::Cents;

#[derive(Deserialize)]
struct Input {
    products_file: String,
    fail_at: Option<usize>,
}

/// The totals so far.
#[derive(Default, Serialize, Deserialize)]
struct Counted {
    units: i64,
    stock_value_cents: Cents,
    /// The row that each attempt began with.
    began_at: Vec<usize>,
}

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("stock.Value", value);
}

async fn value(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let (input, stride): (Input, usize) = (ctx.input()?, ctx.get_config("stride")?);
    let products = files::read_csv(&input.products_file, catalogue::products).await?;
    let (start, mut counted) = match ctx.checkpoint() {
        Some(checkpoint) => (checkpoint.cursor()?, checkpoint.accumulated_results()?),
        None => (0, Counted::default()),
    };
    if counted.began_at.len() < usize::try_from(ctx.attempt())? {
        counted.began_at.push(start);
    }
    if input.fail_at == Some(start) && !ctx.is_retry() {
        return Err(StepError::retryable(format!("interrupted at row {start}")));
    }
    let end = (start + stride).min(products.len());
    for product in &products[start..end] {
        counted.units += product.stock;
        counted.stock_value_cents += product.price.times(product.stock);
    }
    if end < products.len() {
        return StepOutcome::checkpoint_yield(end, u64::try_from(end)?, counted);
    }
    let Counted { units, stock_value_cents, began_at } = counted;
    StepOutcome::success(json!({"products": products.len(), "units": units, "stock_value_cents": stock_value_cents,
                                "began_at": began_at}))
}
