//! One attempt: the handler runs once, within its time, and whatever it does becomes one outcome.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::value::RawValue;
use tasker_lifecycle::StepIndex;
use tasker_shared::config::Limits;
use tasker_shared::json_schema::{Violation, cut, violations};
use tasker_shared::messages::{Claim, Report, ReportedOutcome, StepFailure};
use tasker_shared::{follows, portable};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::checkpoints;
use crate::complete_in::{self, Completion};
use crate::completion::Reporter;
use crate::events::{self, Publication};
use crate::handler::{Attempt, StepContext, StepError, StepHandler, StepOutcome};
use crate::held::{Clock, Key, Running};
use crate::inputs::Input;
use crate::plans::Plan;
use crate::worker::Shared;

/// Bytes of an error's message that are kept: enough for a stack, too little to make a task's row heavy.
const MESSAGE_BYTES: usize = 8 * 1024;
/// Bytes of a class or a code.
const NAME_BYTES: usize = 128;

/// A claim with all that its attempt needs.
pub(crate) struct Ready {
    pub(crate) claim: Claim,
    /// `claim.claimed_at` on our monotonic clock.
    pub(crate) claimed: Instant,
    pub(crate) cancelled: CancellationToken,
    pub(crate) slot: OwnedSemaphorePermit,
    pub(crate) plan: Arc<Plan>,
    /// The step of the template that says how this one is run.
    pub(crate) pattern: StepIndex,
    pub(crate) handler: Arc<dyn StepHandler>,
    /// The last attempt that the step may have.
    pub(crate) limit: u32,
    pub(crate) input: Input,
}

/// Starts the attempt on a task of its own.
pub(crate) fn start(shared: &Arc<Shared>, reporter: &Reporter, ready: Ready) {
    tokio::spawn(run(Arc::clone(shared), reporter.clone(), ready));
}

async fn run(shared: Arc<Shared>, reporter: Reporter, ready: Ready) {
    let Ready { claim, claimed, cancelled, slot, plan, pattern, handler, limit, input } = ready;
    let key = Key::of(&claim.token);
    let clock = Clock { claimed_at: claim.claimed_at, claimed };
    let timeout = Duration::from_millis(plan.template.step(pattern).timeout_ms);
    let started = Instant::now();
    let name = input.batches.iter().find_map(|batches| batches.name(claim.step));
    let name = name.unwrap_or(&plan.template.step(pattern).name);
    let publication = Publication::new(&shared.publishing, &plan, (pattern, limit), name);
    if let Some(publication) = &publication {
        shared.held.publishes(key, Arc::clone(publication));
    }
    let mut ctx = StepContext(Arc::new(Attempt {
        task: claim.task,
        step: claim.step,
        pattern,
        template: Arc::clone(&plan.template),
        correlation_id: claim.correlation_id,
        number: claim.attempt,
        limit,
        deadline: started + timeout,
        cancelled: cancelled.clone(),
        input: input.context,
        results: input.results,
        failures: input.failures,
        batches: input.batches,
        checkpoint: input.checkpoint,
        completion: Some(Arc::new(Completion {
            claim: claim.clone(),
            clock,
            started,
            worker: Arc::clone(&shared.id),
            config: Arc::clone(&shared.config),
            plan: Arc::clone(&plan),
            publication: publication.clone(),
            tried: AtomicBool::new(false),
            stored: Mutex::default(),
        })),
    }));
    let Some(returned) = run_to_the_end(&shared, &claim, &*handler, &mut ctx, timeout).await else {
        return shared.held.forget(key);
    };
    // Whatever the handler has started on its own learns that its time is over.
    cancelled.cancel();
    if !shared.held.end(key) {
        // It had been given up as hanging, and reported as that.
        return;
    }
    let returned = complete_in::unless_committed(returned);
    let outcome = outcome(checked(&shared.config.limits, &plan, pattern, returned));
    let ended_at = clock.at(Instant::now());
    let started_at = Some(clock.at(started));
    let events = events::of(publication.as_deref(), &claim, &outcome, ended_at);
    let report = Report { claim, outcome, started_at, ended_at, worker: Arc::clone(&shared.id), events };
    match ctx.may_be_completed() {
        Some(events) => reporter.confirm(&shared, report, events).await,
        None => reporter.report(&shared, report).await,
    }
    // The slot is free once the report is handed in, so that free slots mean no handler's result is loose.
    drop(slot);
}

/// Runs the handler, and again from each checkpoint that it stops at. `None` where what it says counts no more: its
/// claim is somebody else's, or the worker has no time left.
async fn run_to_the_end(
    shared: &Shared,
    claim: &Claim,
    handler: &dyn StepHandler,
    ctx: &mut StepContext,
    timeout: Duration,
) -> Option<Result<StepOutcome, StepError>> {
    let started = Instant::now();
    loop {
        shared.held.run(Key::of(&claim.token), Running { started, deadline: ctx.deadline() });
        let returned = tokio::select! {
            returned = call(handler, ctx.clone(), timeout) => returned,
            () = shared.stop.attempts.cancelled() => return None,
        };
        match stop_on_the_way(&shared.config.limits, &returned) {
            None => return Some(returned),
            Some(Err(refused)) => return Some(Err(refused)),
            Some(Ok(checkpoint)) => {
                let stored = tokio::select! {
                    // On the heap: it would double what is copied and kept for every attempt that has none.
                    stored = Box::pin(checkpoints::store(shared, claim, checkpoint)) => stored,
                    () = shared.stop.attempts.cancelled() => return None,
                };
                match stored {
                    Ok(true) => {
                        let next = Arc::make_mut(&mut ctx.0);
                        next.checkpoint = checkpoints::read(checkpoint);
                        next.deadline = Instant::now() + timeout;
                    }
                    Ok(false) => return None,
                    Err(refused) => return Some(Err(refused)),
                }
            }
        }
    }
}

/// The checkpoint that a run ended with; `None` where it was the last run of the attempt.
pub(crate) fn stop_on_the_way<'a>(
    limits: &Limits,
    returned: &'a Result<StepOutcome, StepError>,
) -> Option<Result<&'a RawValue, StepError>> {
    let checkpoint = returned.as_ref().ok()?.checkpoint.as_deref()?;
    Some(acceptable(limits, "the checkpoint", checkpoint).map(|()| checkpoint))
}

/// Runs a handler within its time; a panic is contained, be it in the handler or in what it leaves behind.
pub(crate) async fn call(
    handler: &dyn StepHandler,
    ctx: StepContext,
    timeout: Duration,
) -> Result<StepOutcome, StepError> {
    let within_time = async {
        let run = async { handler.call(ctx).await };
        tokio::time::timeout(timeout, run).await.unwrap_or_else(|_| Err(timed_out(timeout)))
    };
    AssertUnwindSafe(within_time).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("it did not say why");
        Err(StepError::new(format!("the handler panicked: {text}"), "panic", false))
    })
}

/// The failure of an attempt that took too long.
pub(crate) fn timed_out(timeout: Duration) -> StepError {
    StepError::new(format!("no result after {} ms", timeout.as_millis()), "timeout", true)
}

/// A result must be small, portable JSON that matches its schema; what is not fails the step for good.
pub(crate) fn checked(
    limits: &Limits,
    plan: &Plan,
    step: StepIndex,
    returned: Result<StepOutcome, StepError>,
) -> Result<StepOutcome, StepError> {
    match returned {
        Ok(mut outcome) => {
            acceptable(limits, "the result", &outcome.result)?;
            if let Some(metadata) = &outcome.metadata {
                acceptable(limits, "the metadata", metadata)?;
            }
            matches_schema(plan, step, &outcome.result)?;
            outcome.follows = follows::of_result(&plan.template, step, &outcome.result)
                .map_err(|why| StepError::new(why, "invalid_outcome", false))?;
            Ok(outcome)
        }
        Err(mut error) => {
            if let Some(Err(refusal)) = error.metadata.as_ref().map(|json| acceptable(limits, "the metadata", json)) {
                error.message = format!("{} ({})", error.message, refusal.message);
                error.metadata = None;
            }
            Err(error)
        }
    }
}

fn acceptable(limits: &Limits, what: &str, json: &RawValue) -> Result<(), StepError> {
    let refused = |why: String| StepError::new(why, "result_not_serializable", false);
    let bytes = json.get().len();
    if bytes > limits.payload_bytes {
        return Err(refused(format!("{what} has {bytes} bytes, {} are allowed", limits.payload_bytes)));
    }
    portable::check(json.get(), limits.json_depth).map_err(|offence| {
        let separator = if offence.path.is_empty() { "" } else { " at " };
        refused(format!("{what}{separator}{} {}", offence.path, offence.what))
    })
}

fn matches_schema(plan: &Plan, step: StepIndex, result: &RawValue) -> Result<(), StepError> {
    let Some(validator) = plan.validator(step) else { return Ok(()) };
    let refused = |why: String| StepError::new(why, "result_schema", false);
    let validator = validator.as_ref().map_err(|error| refused(format!("the step's result_schema: {error}")))?;
    let value = serde_json::from_str(result.get()).map_err(|error| refused(error.to_string()))?;
    let offences = violations(validator, &value, "");
    if offences.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = offences.iter().map(|Violation { path, message }| format!("{path}: {message}")).collect();
    let error = refused(format!("the result does not match its schema: {}", told.join("; ")));
    // The message is for people and is cut; programs find every offence here.
    Err(error.with_metadata(serde_json::json!({ "violations": offences })))
}

/// What is reported of a checked result.
pub(crate) fn outcome(checked: Result<StepOutcome, StepError>) -> ReportedOutcome {
    match checked {
        Ok(StepOutcome { result, metadata, follows, .. }) => ReportedOutcome::Success { result, metadata, follows },
        Err(StepError { message, class, code, retryable, retry_after, metadata }) => {
            let error = StepFailure {
                message: storable(message, MESSAGE_BYTES),
                error_type: storable(class, NAME_BYTES),
                error_code: code.map(|code| storable(code, NAME_BYTES)),
            };
            let retry_after_ms = retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            ReportedOutcome::Failure { error, retryable, retry_after_ms, metadata }
        }
    }
}

/// PostgreSQL has no text with U+0000, and an endless message helps nobody.
fn storable(mut text: String, most_bytes: usize) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    cut(text, most_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_lose_their_nuls() {
        assert_eq!(storable("a\0b".to_owned(), 10), "a\u{fffd}b");
        assert_eq!(storable("ééé\0".to_owned(), 6), "é…");
    }
}
