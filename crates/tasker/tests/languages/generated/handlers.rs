//! The handlers of insurance/claim_settlement 1.2.0. They run as they are: fill them in.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tasker_worker::{Cursor, HandlerRegistry, StepContext, StepError, StepOutcome};

/// Adds them to a worker's registry.
pub(crate) fn register(registry: &mut HandlerRegistry) {
    registry.register_fn("claims.Assess", assess);
    registry.register_fn("claims.Route", route);
    registry.register_fn("claims.Ask", ask);
    registry.register_fn("claims.Split", split);
    registry.register_fn("claims.pay-position", pay_position);
    registry.register_fn("claims.import", import_);
    registry.register_fn("claims.Import", import__);
    registry.register_fn("claims.Close", close);
}

/// What a schema of the template describes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct AssessResultBy {
    /// `name`.
    pub(crate) name: String,
}

/// What a schema of the template describes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct AssessResultPartsItem {
    /// `name`.
    pub(crate) name: String,
    /// `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
}

/// What a schema of the template describes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct AssessResult {
    /// `by`.
    pub(crate) by: AssessResultBy,
    /// `cents`.
    pub(crate) cents: i64,
    /// `either`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) either: Option<serde_json::Value>,
    /// `labels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<std::collections::BTreeMap<String, String>>,
    /// `odd-key`.
    #[serde(rename = "odd-key", default, skip_serializing_if = "Option::is_none")]
    pub(crate) odd_key: Option<i64>,
    /// `parts`.
    pub(crate) parts: Vec<AssessResultPartsItem>,
    /// How sure we are.
    pub(crate) risk: String,
}

/// What a schema of the template describes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct ImportResult {
    /// `said`.
    pub(crate) said: String,
}

/// What a schema of the template describes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct ApproveResult {
    /// `said`.
    pub(crate) said: String,
}

/// What a schema of the template describes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct ClaimSettlementInputPositionsItem {
    /// `cents`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cents: Option<i64>,
    /// `new`.
    #[serde(rename = "new", default, skip_serializing_if = "Option::is_none")]
    pub(crate) new_: Option<bool>,
    /// `text`.
    pub(crate) text: String,
}

/// Says what the claim is worth, "all in all".
async fn assess(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let _amount: f64 = ctx.get_input("amount")?;
    let _claim_id: String = ctx.get_input("claim_id")?;
    let _note: Option<String> = ctx.get_input("note")?;
    let _positions: Option<Vec<ClaimSettlementInputPositionsItem>> = ctx.get_input("positions")?;
    StepOutcome::success(json!({"by":{"name":"xx"},"cents":1,"parts":[{"name":""}],"risk":"low"}))
}

/// Handles `claims.Route`.
async fn route(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let _assess: AssessResult = ctx.dependency("assess")?;
    StepOutcome::decision_with(["import", "approve"], json!({}))
}

/// Handles `claims.Ask`.
async fn ask(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let _route: serde_json::Value = ctx.dependency("route")?;
    StepOutcome::success(json!({"said":"it is #{fine}"}))
}

/// Handles `claims.Split`.
async fn split(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let _assess: AssessResult = ctx.dependency("assess")?;
    StepOutcome::batches(Cursor::ranges(0, 25), json!({}))
}

/// Handles `claims.pay-position`.
async fn pay_position(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let _split: serde_json::Value = ctx.dependency("split")?;
    if ctx.batch()?.is_no_op() {
        return StepOutcome::success(json!({"no_op": true}));
    }
    StepOutcome::success(json!({}))
}

/// Handles `claims.import`.
async fn import_(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let _assess: AssessResult = ctx.dependency("assess")?;
    StepOutcome::success(json!({}))
}

/// Handles `claims.Import`.
async fn import__(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let _retry_: serde_json::Value = ctx.dependency("retry")?;
    StepOutcome::success(json!({}))
}

/// Handles `claims.Close`.
async fn close(ctx: StepContext) -> Result<StepOutcome, StepError> {
    let _import_: Option<ImportResult> = ctx.dependency("import").ok();
    let _approve: Option<ApproveResult> = ctx.dependency("approve").ok();
    StepOutcome::success(json!({}))
}
