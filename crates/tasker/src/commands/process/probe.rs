//! The probe of the fault tests: a handler that keeps a log of its own, beside the database's history.
//!
//! It is registered only where `TASKER_BODY_LOG` names a file. Each start and each end of an attempt is one line,
//! written by one append, so that the lines of all processes stand in the order in which things happened:
//! `task position attempt start|resume|end|failed pid`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tasker_worker::{Cursor, HandlerRegistry, StepContext, StepError, StepOutcome};

const HANDLER: &str = "faults.Probe";

/// Registers the probe where its log is named.
///
/// # Panics
/// Where the log can't be opened: a test without its log would prove nothing.
pub(crate) fn register(registry: &mut HandlerRegistry) {
    let Some(path) = std::env::var_os("TASKER_BODY_LOG") else { return };
    let opened = OpenOptions::new().create(true).append(true).open(&path);
    let log = Arc::new(opened.unwrap_or_else(|error| panic!("TASKER_BODY_LOG={}: {error}", path.display())));
    registry.register_fn(HANDLER, move |ctx| probe(Arc::clone(&log), ctx));
}

/// Sleeps for the input's `sleep_ms`, and fails in the first `fail_attempts` attempts of its settings. A decision
/// chooses the steps of its setting `choose`, a batchable step makes as many batches as `batches` says, and a batch
/// worker stops once on the way. With the setting `poison` it does what no handler should.
async fn probe(log: Arc<File>, ctx: StepContext) -> Result<StepOutcome, StepError> {
    note(&log, &ctx, if ctx.checkpoint().is_none() { "start" } else { "resume" })?;
    let sleep_ms: Option<u64> = ctx.get_input("sleep_ms")?;
    let fail_attempts: Option<u32> = ctx.get_config("fail_attempts")?;
    if let Some(ms) = sleep_ms {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    if let Some(way) = ctx.get_config::<Option<String>>("poison")? {
        return poison(&way);
    }
    if ctx.attempt() <= fail_attempts.unwrap_or(0) {
        note(&log, &ctx, "failed")?;
        return Err(StepError::retryable("the probe was told to fail"));
    }
    if ctx.batch().is_ok() && ctx.checkpoint().is_none() {
        return StepOutcome::checkpoint_yield(1, 1, json!([]));
    }
    let choose: Option<Vec<String>> = ctx.get_config("choose")?;
    let batches: Option<u64> = ctx.get_config("batches")?;
    let result = json!({ "step": position(&ctx), "attempt": ctx.attempt(), "pid": std::process::id() });
    let outcome = match (choose, batches) {
        (Some(steps), _) => StepOutcome::decision_with(steps, result),
        (None, Some(batches)) => StepOutcome::batches(Cursor::ranges(batches, 1), result),
        (None, None) => StepOutcome::success(result),
    };
    note(&log, &ctx, "end")?;
    outcome
}

/// What a handler can do wrong, by its name in the settings.
fn poison(way: &str) -> Result<StepOutcome, StepError> {
    match way {
        "panic" => panic!("the probe was told to panic"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "nan" => StepOutcome::success(BTreeMap::from([("ratio", f64::NAN)])),
        "nul" => StepOutcome::success(json!({ "text": "a\0b" })),
        "deep" => StepOutcome::success((0..1_000).fold(json!(0), |inner, _| json!([inner]))),
        "large" => StepOutcome::success("x".repeat(2 << 20)),
        _ => Err(StepError::permanent(format!("the probe knows no poison {way}"))),
    }
}

/// The step's place in its task: the lowest 20 bits of its id, less one.
fn position(ctx: &StepContext) -> u128 {
    (ctx.step_uuid().as_u128() & 0xf_ffff) - 1
}

fn note(log: &File, ctx: &StepContext, what: &str) -> Result<(), StepError> {
    let (task, step, attempt, pid) = (ctx.task_uuid(), position(ctx), ctx.attempt(), std::process::id());
    let line = format!("{task} {step} {attempt} {what} {pid}\n");
    let mut log = log;
    log.write_all(line.as_bytes()).map_err(|error| StepError::permanent(format!("the body log: {error}")))
}
