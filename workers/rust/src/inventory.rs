//! The inventory report: a catalogue is split into lanes, each lane summarised on its own, the lanes joined.
//!
//! `split` hands on row ranges, not rows: a lane reads its part from the file again, which costs less than a
//! thousand products in the results of every step. A fingerprint makes sure that it is still the same file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::catalogue::{self, Product};
use crate::files::{self, FileError};
use crate::money::Cents;

/// How many of the products to order again are listed; all are counted.
const REORDER_LISTED: usize = 10;

#[derive(Deserialize)]
struct Input {
    products_file: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Split {
    fingerprint: String,
    products: usize,
    lanes: Vec<Range>,
}

/// Rows of the catalogue, counted from 0; the end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Range {
    start: usize,
    end: usize,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Summary {
    products: usize,
    units: i64,
    stock_value_cents: Cents,
    categories: BTreeMap<String, Category>,
    reorder_count: usize,
    /// The largest shortage first.
    reorder: Vec<Reorder>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Category {
    products: usize,
    units: i64,
    stock_value_cents: Cents,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Reorder {
    sku: String,
    stock: i64,
    reorder_level: i64,
}

/// The steps of one task do not fit each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum LaneError {
    #[error("there is no lane {lane}: the catalogue was split into {lanes}")]
    NoSuchLane { lane: usize, lanes: usize },
    #[error("the lanes hold {found} products, the catalogue {expected}")]
    Incomplete { expected: usize, found: usize },
}

impl From<LaneError> for StepError {
    fn from(error: LaneError) -> Self {
        Self::permanent(error.to_string()).with_class("validation_error").with_code("LANES_DO_NOT_FIT")
    }
}

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("inventory.Split", split);
    registry.register_fn("inventory.SummarizeLane", summarize_lane);
    registry.register_fn("inventory.Report", report);
}

async fn split(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let lanes: u16 = ctx.get_config("lanes")?;
    let text = files::read_text(&input.products_file).await?;
    let products = parsed(&input, &text)?.len();
    let fingerprint = files::fingerprint(&text);
    StepOutcome::success(Split { fingerprint, products, lanes: ranges(products, usize::from(lanes)) })
}

async fn summarize_lane(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let lane: usize = ctx.get_config("lane")?;
    let split: Split = ctx.dependency("split")?;
    let text = files::read_text(&input.products_file).await?;
    if files::fingerprint(&text) != split.fingerprint {
        return Err(FileError::Changed { path: input.products_file.into() }.into());
    }
    let products = parsed(&input, &text)?;
    StepOutcome::success(summary(rows_of(&products, &split, lane)?))
}

async fn report(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let steps: Vec<String> = ctx.get_config("lanes")?;
    let split: Split = ctx.dependency("split")?;
    let lanes = steps.iter().map(|step| ctx.dependency(step)).collect::<Result<Vec<Summary>, _>>()?;
    StepOutcome::success(joined(lanes, split.products)?)
}

fn parsed(input: &Input, text: &str) -> Result<Vec<Product>, FileError> {
    catalogue::products(text).map_err(|source| FileError::Csv { path: input.products_file.as_str().into(), source })
}

/// As even as can be: no lane is more than one row longer than another.
fn ranges(rows: usize, lanes: usize) -> Vec<Range> {
    (0..lanes).map(|lane| Range { start: rows * lane / lanes, end: rows * (lane + 1) / lanes }).collect()
}

fn rows_of<'a>(products: &'a [Product], split: &Split, lane: usize) -> Result<&'a [Product], LaneError> {
    let no_such_lane = LaneError::NoSuchLane { lane, lanes: split.lanes.len() };
    let range = split.lanes.get(lane).and_then(|range| products.get(range.start..range.end));
    range.ok_or(no_such_lane)
}

fn summary(products: &[Product]) -> Summary {
    let mut summary = Summary { products: products.len(), ..Summary::default() };
    for product in products {
        let value = product.price.times(product.stock);
        summary.units += product.stock;
        summary.stock_value_cents += value;
        let category = summary.categories.entry(product.category.clone()).or_default();
        category.products += 1;
        category.units += product.stock;
        category.stock_value_cents += value;
        if product.stock < product.reorder_level {
            summary.reorder_count += 1;
            summary.reorder.push(Reorder {
                sku: product.sku.clone(),
                stock: product.stock,
                reorder_level: product.reorder_level,
            });
        }
    }
    keep_largest_shortages(&mut summary.reorder);
    summary
}

fn joined(lanes: Vec<Summary>, expected: usize) -> Result<Summary, LaneError> {
    let mut total = Summary::default();
    for lane in lanes {
        total.products += lane.products;
        total.units += lane.units;
        total.stock_value_cents += lane.stock_value_cents;
        total.reorder_count += lane.reorder_count;
        total.reorder.extend(lane.reorder);
        for (name, part) in lane.categories {
            let category = total.categories.entry(name).or_default();
            category.products += part.products;
            category.units += part.units;
            category.stock_value_cents += part.stock_value_cents;
        }
    }
    keep_largest_shortages(&mut total.reorder);
    let found = total.products;
    if found == expected { Ok(total) } else { Err(LaneError::Incomplete { expected, found }) }
}

/// Each lane may drop what is not among its own largest: the largest of all are among them.
fn keep_largest_shortages(list: &mut Vec<Reorder>) {
    let shortage = |entry: &Reorder| entry.stock - entry.reorder_level;
    list.sort_by(|a, b| shortage(a).cmp(&shortage(b)).then_with(|| a.sku.cmp(&b.sku)));
    list.truncate(REORDER_LISTED);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn products() -> Vec<Product> {
        catalogue::products(include_str!("../data/products.csv")).unwrap()
    }

    #[test]
    fn the_shipped_catalogue_has_a_thousand_products() {
        assert_eq!(products().len(), 1_000);
    }

    #[test]
    fn lanes_cover_every_row_once_and_join_to_the_whole() {
        let products = products();
        let whole = summary(&products);
        for lanes in [1, 3, 4, 7, 1_000, 1_500] {
            let split =
                Split { fingerprint: String::new(), products: products.len(), lanes: ranges(products.len(), lanes) };
            let parts = (0..lanes).map(|lane| summary(rows_of(&products, &split, lane).unwrap()));
            assert_eq!(joined(parts.collect(), products.len()).unwrap(), whole, "{lanes} lanes");
        }
    }

    #[test]
    fn a_lane_too_many_or_too_few_is_refused() {
        let products = products();
        let split = Split { fingerprint: String::new(), products: 1_000, lanes: ranges(1_000, 4) };
        let error = rows_of(&products, &split, 4).unwrap_err();
        assert_eq!(error, LaneError::NoSuchLane { lane: 4, lanes: 4 });
        let three = (0..3).map(|lane| summary(rows_of(&products, &split, lane).unwrap())).collect();
        assert_eq!(joined(three, 1_000), Err(LaneError::Incomplete { expected: 1_000, found: 750 }));
    }

    #[test]
    fn an_empty_catalogue_gives_an_empty_report() {
        assert_eq!(ranges(0, 2), [Range { start: 0, end: 0 }; 2]);
        assert_eq!(joined(vec![summary(&[]), summary(&[])], 0), Ok(Summary::default()));
    }
}
