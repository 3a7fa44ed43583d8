//! Importing a catalogue in batches: a step says how to split the file, a worker step is made for each batch, and a
//! convergence joins what they counted.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tasker_worker::{Cursor, HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::catalogue::{self, Product};
use crate::files::{self, FileError};
use crate::money::Cents;

#[derive(Deserialize)]
struct Input {
    products_file: String,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Imported {
    products: usize,
    units: i64,
    stock_value_cents: Cents,
}

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("catalogue.Split", split);
    registry.register_fn("catalogue.ImportBatch", import_batch);
    registry.register_fn("catalogue.Totals", totals);
}

async fn split(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let text = files::read_text(&input.products_file).await?;
    let products = parsed(&input, &text)?.len();
    let cursors = Cursor::ranges(u64::try_from(products)?, ctx.batch_config()?.batch_size);
    StepOutcome::batches(cursors, json!({"products": products, "fingerprint": files::fingerprint(&text)}))
}

async fn import_batch(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let batch = ctx.batch()?;
    if batch.is_no_op() {
        return StepOutcome::success(Imported::default());
    }
    let input: Input = ctx.input()?;
    let text = files::read_text(&input.products_file).await?;
    let fingerprint: String = ctx.dependency_field("split", &["fingerprint"])?;
    if files::fingerprint(&text) != fingerprint {
        return Err(FileError::Changed { path: input.products_file.into() }.into());
    }
    let products = parsed(&input, &text)?;
    let (start, end): (usize, usize) = (batch.start()?, batch.end()?);
    let rows = products.get(start..end).ok_or_else(|| StepError::permanent("the batch lies outside of the file"))?;
    StepOutcome::success(imported(rows))
}

fn imported(rows: &[Product]) -> Imported {
    let mut total = Imported { products: rows.len(), ..Imported::default() };
    for product in rows {
        total.units += product.stock;
        total.stock_value_cents += product.price.times(product.stock);
    }
    total
}

async fn totals(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let expected: usize = ctx.dependency_field("split", &["products"])?;
    let mut total = Imported::default();
    let batches = ctx.batch_results::<Imported>("import_batch")?;
    let count = batches.len();
    for (_, batch) in batches {
        total.products += batch.products;
        total.units += batch.units;
        total.stock_value_cents += batch.stock_value_cents;
    }
    if total.products != expected {
        return Err(StepError::permanent(format!("{} of {expected} products were imported", total.products)));
    }
    StepOutcome::success(json!({"batches": count, "products": total.products, "units": total.units,
                                "stock_value_cents": total.stock_value_cents}))
}

fn parsed(input: &Input, text: &str) -> Result<Vec<Product>, FileError> {
    catalogue::products(text).map_err(|source| FileError::Csv { path: input.products_file.as_str().into(), source })
}
