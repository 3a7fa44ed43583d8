//! The registration of a user at several services.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

#[derive(Deserialize)]
struct Input {
    email: String,
    plan: String,
}

pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("accounts.Create", create);
    registry.register_fn("billing.SetUp", set_up_billing);
    registry.register_fn("preferences.SetDefaults", set_preferences);
    registry.register_fn("mail.SendWelcome", send_welcome);
    registry.register_fn("accounts.Activate", activate);
}

async fn create(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let email = input.email.trim().to_lowercase();
    match email.split_once('@') {
        Some((name, host)) if !name.is_empty() && host.contains('.') => {
            StepOutcome::success(json!({"user_id": format!("user:{email}"), "email": email}))
        }
        _ => Err(StepError::permanent(format!("{email} is no address")).with_class("validation_error")),
    }
}

async fn set_up_billing(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    let prices: BTreeMap<String, i64> = ctx.get_config("price_cents")?;
    let price = prices.get(&input.plan).copied();
    let price = price.ok_or_else(|| StepError::permanent(format!("the plan {} has no price", input.plan)))?;
    let user: String = ctx.dependency_field("create_account", &["user_id"])?;
    StepOutcome::success(json!({"account": (price > 0).then(|| format!("billing:{user}")), "price_cents": price}))
}

async fn set_preferences(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let input: Input = ctx.input()?;
    StepOutcome::success(json!({"newsletter": false, "theme": "light", "reports": input.plan == "pro"}))
}

async fn send_welcome(ctx: StepContext) -> Result<StepOutcome, StepError> {
    if !ctx.is_retry() {
        return Err(StepError::retryable("the mail server is busy").with_class("service_unavailable"));
    }
    let email: String = ctx.dependency_field("create_account", &["email"])?;
    let reports: bool = ctx.dependency_field("set_preferences", &["reports"])?;
    let template = if reports { "welcome_pro" } else { "welcome" };
    StepOutcome::success(json!({"to": email, "template": template}))
}

async fn activate(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let user: String = ctx.dependency_field("create_account", &["user_id"])?;
    let price: i64 = ctx.dependency_field("set_up_billing", &["price_cents"])?;
    let sent: String = ctx.dependency_field("send_welcome", &["to"])?;
    StepOutcome::success(json!({"user_id": user, "status": "active", "welcomed": sent, "price_cents": price}))
}
