//! Approval of expenses: a decision that creates the approvals that an amount needs, and a payment that waits for those.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::money::Cents;

#[derive(Deserialize)]
struct Expense {
    amount_cents: Cents,
    purpose: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Class {
    kind: String,
    limit_cents: Cents,
}

#[derive(Serialize, Deserialize)]
struct Approval {
    by: String,
}

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("expenses.Classify", classify);
    registry.register_fn("expenses.Route", route);
    registry.register_fn("expenses.ApproveAutomatically", approve_automatically);
    registry.register_fn("expenses.Ask", ask);
    registry.register_fn("expenses.Pay", pay);
}

async fn classify(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let expense: Expense = ctx.input()?;
    let limits: BTreeMap<String, Cents> = ctx.get_config("limits_cents")?;
    StepOutcome::success(class(&expense.purpose, &limits)?)
}

/// The kind whose name the purpose mentions, else `other`.
fn class(purpose: &str, limits: &BTreeMap<String, Cents>) -> Result<Class, StepError> {
    let purpose = purpose.to_lowercase();
    let kind = limits.keys().find(|kind| purpose.contains(kind.as_str())).map_or("other", String::as_str);
    let limit = limits.get(kind).ok_or_else(|| StepError::permanent("there is no limit for other expenses"))?;
    Ok(Class { kind: kind.to_owned(), limit_cents: *limit })
}

async fn route(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let expense: Expense = ctx.input()?;
    let class: Class = ctx.dependency("classify")?;
    let factor: i64 = ctx.get_config("finance_factor")?;
    let approvals = approvals(expense.amount_cents, class.limit_cents, factor);
    StepOutcome::decision_with(approvals, json!({"kind": class.kind, "limit_cents": class.limit_cents}))
}

fn approvals(amount: Cents, limit: Cents, finance_factor: i64) -> &'static [&'static str] {
    if amount <= limit {
        &["approve_automatically"]
    } else if amount <= limit.times(finance_factor) {
        &["ask_manager"]
    } else {
        &["ask_manager", "ask_finance"]
    }
}

async fn approve_automatically(_: StepContext) -> Result<StepOutcome, StepError> {
    StepOutcome::success(Approval { by: "the limit".to_owned() })
}

/// In earnest this would send a message and be completed by hand; here everybody says yes.
async fn ask(ctx: StepContext) -> Result<StepOutcome, StepError> {
    StepOutcome::success(Approval { by: ctx.get_config("who")? })
}

async fn pay(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let expense: Expense = ctx.input()?;
    let mut approved_by = Vec::new();
    for (step, result) in ctx.dependencies() {
        if step.starts_with("ask_") || step == "approve_automatically" {
            let approval: Approval = serde_json::from_str(result.get())?;
            approved_by.push(approval.by);
        }
    }
    if approved_by.is_empty() {
        return Err(StepError::permanent("nobody approved this expense"));
    }
    approved_by.sort_unstable();
    StepOutcome::success(json!({"paid_cents": expense.amount_cents, "approved_by": approved_by}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn approvals_begin_above_their_limits() {
        let limit = Cents(10_000);
        for (amount, expected) in [
            (1, &["approve_automatically"][..]),
            (10_000, &["approve_automatically"]),
            (10_001, &["ask_manager"]),
            (100_000, &["ask_manager"]),
            (100_001, &["ask_manager", "ask_finance"]),
        ] {
            assert_eq!(approvals(Cents(amount), limit, 10), expected, "{amount}");
        }
    }

    #[test]
    fn a_purpose_is_classified_by_what_it_mentions() {
        let limits = BTreeMap::from([("travel".to_owned(), Cents(5)), ("other".to_owned(), Cents(1))]);
        let of = |purpose| class(purpose, &limits).unwrap();
        assert_eq!(of("Travel to Brno"), Class { kind: "travel".to_owned(), limit_cents: Cents(5) });
        assert_eq!(of("Flowers"), Class { kind: "other".to_owned(), limit_cents: Cents(1) });
    }
}
