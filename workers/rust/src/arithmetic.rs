//! Arithmetic on one number: the workflows here show the shapes of graphs, not what handlers can do.
//!
//! Every operation names its operands in its configuration, because a step sees the results of all its
//! ancestors, not of its parents alone.

use serde::{Deserialize, Serialize};
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Number {
    value: i64,
}

#[derive(Deserialize)]
struct Input {
    number: i64,
}

/// The result is beyond 64 bits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the result of `{operation}` does not fit into 64 bits")]
struct Overflow {
    operation: &'static str,
}

impl From<Overflow> for StepError {
    fn from(overflow: Overflow) -> Self {
        Self::permanent(overflow.to_string()).with_class("validation_error").with_code("OVERFLOW")
    }
}

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("arithmetic.Read", read);
    registry.register_fn("arithmetic.Add", add);
    registry.register_fn("arithmetic.Multiply", multiply);
    registry.register_fn("arithmetic.Square", square);
    registry.register_fn("arithmetic.Sum", sum);
    registry.register_fn("arithmetic.Product", product);
}

async fn read(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    StepOutcome::success(Number { value: input.number })
}

async fn add(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let amount: i64 = ctx.get_config("amount")?;
    answer(total(&[operand(&ctx)?, amount]))
}

async fn multiply(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let factor: i64 = ctx.get_config("factor")?;
    answer(multiplied(&[operand(&ctx)?, factor]))
}

async fn square(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let number = operand(&ctx)?;
    answer(multiplied(&[number, number]))
}

async fn sum(ctx: StepContext) -> Result<StepOutcome, StepError> {
    answer(total(&operands(&ctx)?))
}

async fn product(ctx: StepContext) -> Result<StepOutcome, StepError> {
    answer(multiplied(&operands(&ctx)?))
}

fn operand(ctx: &StepContext) -> Result<i64, StepError> {
    let step: String = ctx.get_config("of")?;
    Ok(ctx.dependency::<Number>(&step)?.value)
}

fn operands(ctx: &StepContext) -> Result<Vec<i64>, StepError> {
    let steps: Vec<String> = ctx.get_config("of")?;
    steps.iter().map(|step| Ok(ctx.dependency::<Number>(step)?.value)).collect()
}

fn answer(value: Result<i64, Overflow>) -> Result<StepOutcome, StepError> {
    StepOutcome::success(Number { value: value? })
}

fn total(numbers: &[i64]) -> Result<i64, Overflow> {
    let total = numbers.iter().try_fold(0_i64, |sum, number| sum.checked_add(*number));
    total.ok_or(Overflow { operation: "sum" })
}

fn multiplied(numbers: &[i64]) -> Result<i64, Overflow> {
    let product = numbers.iter().try_fold(1_i64, |product, number| product.checked_mul(*number));
    product.ok_or(Overflow { operation: "product" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_beyond_64_bits_are_refused_not_wrapped() {
        assert_eq!(total(&[i64::MAX - 1, 1]), Ok(i64::MAX));
        assert_eq!(total(&[i64::MAX, 1]), Err(Overflow { operation: "sum" }));
        assert_eq!(multiplied(&[-3, 4, 5]), Ok(-60));
        assert_eq!(multiplied(&[i64::MIN, -1]), Err(Overflow { operation: "product" }));
    }
}
