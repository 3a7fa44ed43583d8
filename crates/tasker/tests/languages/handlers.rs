//! The handlers of `conformance/README.md` in Rust.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tasker_worker::{Cursor, HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::generated;

type Answer = Result<StepOutcome, StepError>;

/// How many items are taken between two checkpoints.
const STRIDE: u64 = 10;

/// The line that starts [`run`] in a process of its own.
pub(crate) fn command() -> String {
    let program = std::env::current_exe().unwrap();
    format!("'{}' --ignored --exact --nocapture worker_in_rust", program.display())
}

/// Runs a worker until it is told to stop.
pub(crate) fn run() {
    assert_eq!(tasker::main_of(["tasker", "worker"], register), ExitCode::SUCCESS);
}

fn register(registry: &mut HandlerRegistry) {
    generated::rust::register(registry);
    registry.register_fn("conformance.echo", echo);
    registry.register_fn("conformance.context", context);
    registry.register_fn("conformance.fail", fail);
    registry.register_fn("conformance.refuse", refuse);
    registry.register_fn("conformance.raise", raise);
    registry.register_fn("conformance.hang", hang);
    registry.register_fn("conformance.watch_cancel", watch_cancel);
    registry.register_fn("conformance.route", route);
    registry.register_fn("conformance.split", split);
    registry.register_fn("conformance.work", work);
    registry.register_fn("conformance.merge", merge);
    registry.register_fn("conformance.resume", resume);
    registry.register_fn("conformance.odd", odd);
    registry.register_fn("conformance.deep", deep);
    registry.register_fn("conformance.large", large);
    registry.register_fn("conformance.die", die);
    registry.register_fn("conformance.block", block);
    registry.register_fn("conformance.churn", churn);
    registry
        .register_fn("conformance.whoami", async |_: StepContext| StepOutcome::success(json!({"language": "rust"})));
}

async fn echo(ctx: StepContext) -> Answer {
    let dependencies: BTreeMap<&str, &RawValue> = ctx.dependencies().collect();
    StepOutcome::success(
        json!({"input": ctx.input_value(), "config": ctx.config::<Value>()?, "dependencies": dependencies}),
    )
}

async fn context(ctx: StepContext) -> Answer {
    StepOutcome::success(json!({
        "namespace": ctx.namespace(), "step_name": ctx.step_name(), "handler_name": ctx.handler_name(),
        "attempt": ctx.attempt(), "max_retries": ctx.max_attempts(), "retry_count": ctx.retry_count(),
        "is_retry": ctx.is_retry(), "is_last_retry": ctx.is_last_retry(), "alive": !ctx.is_cancelled(),
    }))
}

async fn fail(ctx: StepContext) -> Answer {
    if ctx.get_config::<Option<u32>>("until")?.is_some_and(|until| ctx.attempt() >= until) {
        return StepOutcome::success(json!({"attempt": ctx.attempt()}));
    }
    let (kind, message): (String, String) = (ctx.get_config("error")?, ctx.get_config("message")?);
    let after: Option<f64> = ctx.get_config("retry_after")?;
    let error = match (kind.as_str(), after) {
        ("permanent", _) => StepError::permanent(message),
        ("validation", _) => StepError::permanent(message).with_class("validation_error"),
        ("not_found", _) => StepError::permanent(message).with_class("not_found"),
        ("retryable", _) => StepError::retryable(message),
        ("network", _) => StepError::retryable(message).with_class("network_error"),
        ("rate_limit", Some(after)) => {
            StepError::retryable_after(message, Duration::from_secs_f64(after)).with_class("rate_limit")
        }
        other => panic!("no error is called {other:?}"),
    };
    let code: Option<String> = ctx.get_config("error_code")?;
    Err(code.into_iter().fold(error, StepError::with_code))
}

async fn refuse(ctx: StepContext) -> Answer {
    let message: String = ctx.get_config("message")?;
    let error =
        if ctx.get_config("retryable")? { StepError::retryable(message) } else { StepError::permanent(message) };
    let error = error.with_class(ctx.get_config::<String>("error_type")?);
    let error = ctx.get_config::<Option<String>>("error_code")?.into_iter().fold(error, StepError::with_code);
    Err(ctx.get_config::<Option<Value>>("metadata")?.into_iter().fold(error, StepError::with_metadata))
}

async fn raise(ctx: StepContext) -> Answer {
    let message = match ctx.get_config::<String>("kind")?.as_str() {
        "plain" => ctx.get_config("message")?,
        // What has no like here is an error without a message; a panic is for good in Rust.
        "empty" | "unspeakable" | "exit" => String::new(),
        "long" => "long ".repeat(20_000),
        "control" => "a\0b".to_owned(),
        other => panic!("no error is called {other}"),
    };
    Err(Box::<dyn std::error::Error + Send + Sync>::from(message))?
}

async fn hang(ctx: StepContext) -> Answer {
    ctx.cancelled().await;
    StepOutcome::success(json!({}))
}

async fn watch_cancel(ctx: StepContext) -> Answer {
    let file: String = ctx.get_input("file")?;
    std::fs::write(&file, "started")?;
    ctx.cancelled().await;
    std::fs::write(&file, "seen")?;
    StepOutcome::success(json!({}))
}

async fn route(ctx: StepContext) -> Answer {
    let steps: Vec<String> = ctx.get_input("route")?;
    let more = if steps.is_empty() { json!({"reason": "nothing"}) } else { json!({}) };
    StepOutcome::decision_with(steps, more)
}

async fn split(ctx: StepContext) -> Answer {
    let (items, size): (u64, u64) = (ctx.get_input("items")?, ctx.get_input("batch_size")?);
    let cursors = Cursor::ranges(items, size);
    let more = match cursors.is_empty() {
        true => json!({"reason": "nothing to split"}),
        false => json!({"worker_count": cursors.len(), "total_items": items}),
    };
    StepOutcome::batches(cursors, more)
}

async fn work(ctx: StepContext) -> Answer {
    let batch = ctx.batch()?;
    if batch.is_no_op() {
        return StepOutcome::success(json!({"no_op": true, "items_processed": 0}));
    }
    let (start, end): (u64, u64) = (batch.start()?, batch.end()?);
    let (from, sum) = match ctx.checkpoint() {
        Some(checkpoint) => (checkpoint.cursor()?, checkpoint.accumulated_results()?),
        None => (start, 0_u64),
    };
    let to = (from + STRIDE).min(end);
    let sum = sum + (from..to).sum::<u64>();
    if to < end {
        return StepOutcome::checkpoint_yield(to, to - start, sum);
    }
    StepOutcome::success(json!({
        "items_processed": end - start, "items_succeeded": end - start, "items_failed": 0, "items_skipped": 0,
        "results": [sum], "errors": [], "last_cursor": null, "batch_metadata": {},
    }))
}

async fn merge(ctx: StepContext) -> Answer {
    let results: Vec<(String, Value)> = ctx.batch_results("work")?;
    let done: Vec<&Value> =
        results.iter().map(|(_, result)| result).filter(|result| result["no_op"].is_null()).collect();
    let total: u64 = done.iter().filter_map(|result| result["results"][0].as_u64()).sum();
    let scenario = if done.is_empty() { "no_batches" } else { "with_batches" };
    StepOutcome::success(json!({"total": total, "worker_count": done.len(), "scenario": scenario}))
}

/// What [`resume`] keeps.
#[derive(Default, Serialize, Deserialize)]
struct Counted {
    sum: u64,
    resumed_at: u64,
    attempt: u32,
}

async fn resume(ctx: StepContext) -> Answer {
    let items: u64 = ctx.get_input("items")?;
    let (from, mut counted) = match ctx.checkpoint() {
        Some(checkpoint) => (checkpoint.cursor()?, checkpoint.accumulated_results()?),
        None => (0, Counted::default()),
    };
    if counted.attempt != ctx.attempt() {
        counted = Counted { attempt: ctx.attempt(), resumed_at: from, ..counted };
    }
    if ctx.attempt() == 1 && from == ctx.get_input::<u64>("fail_at")? {
        return Err(StepError::retryable("not beyond this"));
    }
    let to = (from + STRIDE).min(items);
    counted.sum += (from..to).sum::<u64>();
    if to < items {
        return StepOutcome::checkpoint_yield(to, to, counted);
    }
    StepOutcome::success(counted)
}

async fn odd(ctx: StepContext) -> Answer {
    match ctx.get_config::<String>("kind")?.as_str() {
        "nan" => StepOutcome::success(BTreeMap::from([("a", [f64::NAN])])),
        "infinity" => StepOutcome::success(BTreeMap::from([("a", [f64::INFINITY])])),
        "nul" => StepOutcome::success(json!({"a": ["x\0"]})),
        // Text in Rust has no halves of pairs, so it can only come as JSON.
        "surrogate" => StepOutcome::success(RawValue::from_string(r#"{"a": ["\ud800"]}"#.to_owned())?),
        "big" => StepOutcome::success(json!({"a": [9_007_199_254_740_993_u64]})),
        "not_json" => StepOutcome::success(BTreeMap::from([("a", [BTreeMap::from([((1, 2), 3)])])])),
        // What holds itself can't be made; what is deeper than any stack stands for it.
        "circular" => StepOutcome::success(lists(5_000)?),
        other => panic!("nothing is called {other}"),
    }
}

async fn deep(ctx: StepContext) -> Answer {
    StepOutcome::success(lists(ctx.get_config("levels")?)?)
}

/// As text, because reading it back as a tree has a bound of its own.
fn lists(levels: usize) -> Result<Box<RawValue>, serde_json::Error> {
    let text = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    RawValue::from_string(text)
}

async fn large(ctx: StepContext) -> Answer {
    StepOutcome::success(json!({"text": "é".repeat(ctx.get_config("n")?)}))
}

async fn die(ctx: StepContext) -> Answer {
    if ctx.attempt() == 1 {
        let killed = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status()?;
        assert!(killed.success());
        std::future::pending::<()>().await;
    }
    StepOutcome::success(json!({"attempt": ctx.attempt()}))
}

async fn block(ctx: StepContext) -> Answer {
    std::thread::sleep(Duration::from_millis(ctx.get_config("ms")?));
    StepOutcome::success(json!({"attempt": ctx.attempt()}))
}

async fn churn(ctx: StepContext) -> Answer {
    let objects: usize = ctx.get_config("objects")?;
    let made: Vec<Map<String, Value>> = (0..objects).map(|at| Map::from_iter([(at.to_string(), json!(at))])).collect();
    StepOutcome::success(json!({"objects": made.len()}))
}
