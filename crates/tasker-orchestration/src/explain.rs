//! Why a step has not ended well: a pure function over a task and what is known beside it.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use tasker_client::types::{AttemptError, Explanation, StepExplanation, StepReason, WaitedFor};
use tasker_lifecycle::resource::Breaker;
use tasker_lifecycle::template::HandlerRef;
use tasker_lifecycle::{Batch, Expansion, Holder, StepIndex, StepState, Task, TaskState};
use tasker_shared::messages::StepFailure;
use tasker_shared::store::queries::{Failed, TicketFact};
use tasker_shared::store::resources::Gate;
use tasker_shared::store::workers::Able;
use tasker_shared::store::{from_sql, to_sql};

/// Names in one list.
const NAMES_MAX: usize = 10;

/// What is known beside the task.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) now: DateTime<Utc>,
    /// Of live steps that have one; a step that has a ticket by its task row and none here was reported on.
    pub(crate) tickets: HashMap<StepIndex, TicketFact>,
    /// The queue of each step that is held by a ticket.
    pub(crate) queues: HashMap<StepIndex, String>,
    /// Live workers by queue and handler, also by what it takes to find a handler (see [`parts`]).
    pub(crate) able: HashMap<(String, String), Able>,
    pub(crate) failures: HashMap<StepIndex, Failed>,
    /// The resources of the task's namespace, by name.
    pub(crate) resources: HashMap<String, Gate>,
    /// Of batch workers; the other steps have theirs in the template.
    pub(crate) names: HashMap<StepIndex, String>,
}

impl Facts {
    fn name(&self, task: &Task, step: StepIndex) -> String {
        self.names.get(&step).unwrap_or(&task.template().step(task.pattern(step)).name).clone()
    }
}

/// Explains every step that has not ended well.
pub(crate) fn explain(task: &Task, facts: &Facts) -> Explanation {
    let roots = failed_above(task);
    let open = in_order(task).into_iter().filter(|step| !task.steps()[step.at()].satisfies());
    let steps: Vec<StepExplanation> = open.map(|step| of_step(task, facts, step, &roots)).collect();
    let message = of_task(task, &steps);
    Explanation { task_uuid: task.id().uuid(), status: task.state(), message, steps }
}

/// The steps that the task has, parents before children.
fn in_order(task: &Task) -> Vec<StepIndex> {
    let made = |pattern: StepIndex| task.expansions().iter().filter(move |e| e.worker == pattern);
    let order = task.template().dag.topological().iter();
    let order = order.flat_map(|step| std::iter::once(*step).chain(made(*step).flat_map(Expansion::steps)));
    order.filter(|step| task.steps()[step.at()].exists()).collect()
}

fn of_task(task: &Task, steps: &[StepExplanation]) -> String {
    let count = |codes: &[StepReason]| steps.iter().filter(|step| codes.contains(&step.code)).count();
    match task.state() {
        TaskState::Complete => "every step has ended well".to_owned(),
        TaskState::Cancelled => "it was cancelled".to_owned(),
        TaskState::BlockedByFailures => {
            let failed: Vec<&str> = failed(steps).take(NAMES_MAX).collect();
            format!("nothing can move until {} is repaired or the task is cancelled", failed.join(", "))
        }
        TaskState::WaitingForDependencies => "what could run waits for the resources that it uses".to_owned(),
        TaskState::WaitingForRetry => "what failed is tried again when its time comes".to_owned(),
        _ => {
            let parts = [
                (count(&[StepReason::Claimed, StepReason::Reported]), "running"),
                (count(&[StepReason::WaitingForWorker]), "waiting for a worker"),
                (count(&[StepReason::NoLiveWorker]), "without a live worker"),
                (count(&[StepReason::RetryDue]), "waiting for a retry"),
            ];
            let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
            let parts: Vec<String> = parts.collect();
            if parts.is_empty() { "no step has begun".to_owned() } else { format!("steps: {}", parts.join(", ")) }
        }
    }
}

fn failed(steps: &[StepExplanation]) -> impl Iterator<Item = &str> {
    steps.iter().filter(|step| step.current_state == StepState::Error).map(|step| step.name.as_str())
}

/// For each step, failed steps above it: those of its parents and of theirs.
fn failed_above(task: &Task) -> Vec<BTreeSet<StepIndex>> {
    let mut above = vec![BTreeSet::new(); task.steps().len()];
    if task.count(StepState::Error) == 0 {
        return above;
    }
    for step in in_order(task) {
        let mut found = BTreeSet::new();
        for parent in task.parents(step) {
            if task.steps()[parent.at()] == StepState::Error && !task.tolerates(parent) {
                found.insert(parent);
            } else {
                found.extend(above[parent.at()].iter().copied());
            }
        }
        above[step.at()] = found.into_iter().take(NAMES_MAX).collect();
    }
    above
}

fn of_step(task: &Task, facts: &Facts, step: StepIndex, roots: &[BTreeSet<StepIndex>]) -> StepExplanation {
    let declared = task.template().step(task.pattern(step));
    let begun = facts.tickets.get(&step).and_then(|ticket| u32::try_from(ticket.attempt).ok()).unwrap_or(0);
    let mut said = StepExplanation {
        step_uuid: task.id().step(step).uuid(),
        name: facts.name(task, step),
        current_state: task.steps()[step.at()],
        code: StepReason::Reported,
        message: String::new(),
        handler: declared.handler.to_string(),
        attempts: task.attempts(step).max(begun),
        max_attempts: task.limit(step),
        waits_for: Vec::new(),
        blocked_by: Vec::new(),
        queue: facts.queues.get(&step).cloned(),
        waiting_since: None,
        until: None,
        last_error: facts.failures.get(&step).and_then(error_of),
    };
    match said.current_state {
        StepState::Pending => pending(task, facts, step, &roots[step.at()], &mut said),
        StepState::Held => held(task, facts, step, &mut said),
        StepState::Enqueued | StepState::InProgress | StepState::WaitingForRetry => live(task, facts, step, &mut said),
        StepState::Error => given_up(facts.failures.get(&step), &mut said),
        StepState::Cancelled => set(&mut said, StepReason::Cancelled, "it was cancelled with its task".to_owned()),
        StepState::Complete | StepState::ResolvedManually | StepState::NotCreated | StepState::Skipped => {}
    }
    said
}

fn set(said: &mut StepExplanation, code: StepReason, message: String) {
    said.code = code;
    said.message = message;
}

fn pending(task: &Task, facts: &Facts, step: StepIndex, roots: &BTreeSet<StepIndex>, said: &mut StepExplanation) {
    let name = |step: &StepIndex| facts.name(task, *step);
    let settled = |parent: &StepIndex| match task.steps()[parent.at()] {
        StepState::Error => task.tolerates(*parent),
        state => state.satisfies() || state == StepState::Skipped,
    };
    let mut open: Vec<StepIndex> = task.parents(step).into_iter().filter(|parent| !settled(parent)).collect();
    if let (true, Some(Batch { expansion, .. })) = (open.is_empty(), task.batch_of(step)) {
        let most = task.parallelism(expansion.batchable);
        let message = format!("parallelism {most}/{most}: as many batches run as may at once");
        return set(said, StepReason::Parallelism, message);
    }
    let is_failed = |step: &StepIndex| task.steps()[step.at()] == StepState::Error;
    // What failed comes first: it is what somebody has to look at.
    open.sort_by_key(|parent| !is_failed(parent));
    said.waits_for = open
        .iter()
        .take(NAMES_MAX)
        .map(|parent| WaitedFor { step: name(parent), state: task.steps()[parent.at()] })
        .collect();
    said.blocked_by = roots.iter().map(name).collect();
    let more = open.len().saturating_sub(1);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    match said.waits_for.first() {
        Some(WaitedFor { step, state: StepState::Error }) => {
            let message = format!("its parent {step} failed for good{more}");
            set(said, StepReason::ParentFailed, message);
        }
        Some(WaitedFor { step, state: StepState::NotCreated }) => {
            let message = format!("a decision may still create its parent {step}{more}");
            set(said, StepReason::ParentPending, message);
        }
        Some(WaitedFor { step, state }) => {
            let mut message = format!("its parent {step} is {state}{more}");
            if !said.blocked_by.is_empty() {
                message = format!("{message}; further up {} failed for good", said.blocked_by.join(", "));
            }
            set(said, StepReason::ParentPending, message);
        }
        None => set(said, StepReason::ParentPending, "its task has not started".to_owned()),
    }
}

/// The first resource without room is named, else the first that others wait for.
fn held(task: &Task, facts: &Facts, step: StepIndex, said: &mut StepExplanation) {
    let uses = &task.template().step(task.pattern(step)).uses;
    let mut gates: Vec<(&str, &Gate)> =
        uses.iter().filter_map(|name| Some((name.as_str(), facts.resources.get(name.as_str())?))).collect();
    let now = from_sql(facts.now);
    gates.sort_by_key(|(_, gate)| gate.resource.room(gate.in_flight, now) > 0);
    let Some((name, gate)) = gates.first() else {
        return set(said, StepReason::ResourceFull, "a server is about to look for room in what it uses".to_owned());
    };
    let in_flight = gate.in_flight;
    let (code, message) = match (gate.resource.breaker, gate.resource.max_in_flight) {
        _ if gate.resource.paused => (StepReason::ResourcePaused, format!("{name} is paused by an operator")),
        (Breaker::Open { until, times }, _) => {
            said.until = Some(to_sql(until));
            let again = if times > 1 { format!(", {times} times in a row now") } else { String::new() };
            let until = time(to_sql(until));
            (StepReason::BreakerOpen, format!("the breaker of {name} is open until {until}{again}"))
        }
        (Breaker::HalfOpen { allowed, .. }, _) => {
            let message = format!("the breaker of {name} is half open: {in_flight} of {allowed} are being tried");
            (StepReason::BreakerOpen, message)
        }
        (Breaker::Closed { .. }, Some(limit)) => {
            (StepReason::ResourceFull, format!("{name} {in_flight}/{limit}: as many of its steps run as may at once"))
        }
        (Breaker::Closed { .. }, None) => {
            (StepReason::ResourceFull, format!("others wait for {name}; a server is about to let them through"))
        }
    };
    set(said, code, message);
}

fn live(task: &Task, facts: &Facts, step: StepIndex, said: &mut StepExplanation) {
    let live = task.live(step);
    let retry_at = live.retry_at.map(to_sql).filter(|at| *at > facts.now);
    if let (StepState::WaitingForRetry, Some(at)) = (said.current_state, retry_at) {
        said.until = Some(at);
        return set(said, StepReason::RetryDue, format!("its retry is due at {}", time(at)));
    }
    let ticket = match (live.holder, facts.tickets.get(&step)) {
        (Holder::Due { .. }, _) => {
            return set(
                said,
                StepReason::RetryDue,
                "its retry is due; a server is about to send its ticket".to_owned(),
            );
        }
        (_, None) => {
            return set(
                said,
                StepReason::Reported,
                "its attempt was reported and is about to be decided on".to_owned(),
            );
        }
        (_, Some(ticket)) => ticket,
    };
    let able = said.queue.as_ref().and_then(|queue| facts.able.get(&(queue.clone(), said.handler.clone())));
    let able = able.copied().unwrap_or_default();
    let hidden = ticket.visible_at > facts.now;
    // A claim that was given back is hidden, too, but has begun no attempt beyond those that are known.
    let claimed = hidden && ticket.was_read && ticket.attempt > i64::from(task.attempts(step));
    if claimed && (able.both > 0 || able.handler > 0) {
        said.current_state = StepState::InProgress;
        said.until = Some(ticket.visible_at);
        let message = format!("a worker has claimed it, at least until {}", time(ticket.visible_at));
        return set(said, StepReason::Claimed, message);
    }
    let unknown = unknown(facts, &task.template().step(task.pattern(step)).handler, said);
    waiting(facts.now, (ticket, claimed, hidden), (able, &unknown), said);
}

/// What workers announce that have a part of what it takes to run a step with this handler: the handler whatever its
/// methods, and the resolver.
pub(crate) fn parts(handler: &HandlerRef) -> impl Iterator<Item = String> {
    let plain = handler.method.as_ref().map(|_| handler.callable.clone());
    plain.into_iter().chain(handler.resolver.as_ref().map(|resolver| format!("@{resolver}")))
}

/// What live workers lack that know no such handler.
fn unknown(facts: &Facts, handler: &HandlerRef, said: &StepExplanation) -> String {
    let queue = said.queue.clone().unwrap_or_default();
    let known = |name: String| facts.able.get(&(queue.clone(), name)).is_some_and(|able| able.handler > 0);
    match (&handler.resolver, &handler.method) {
        (Some(resolver), _) if !known(format!("@{resolver}")) => {
            format!("no live worker has the resolver {resolver} of its handler {handler}")
        }
        (None, Some(method)) if known(handler.callable.clone()) => {
            format!("the handler {} of live workers has no method {method}", handler.callable)
        }
        _ => format!("no live worker knows its handler {handler}"),
    }
}

fn waiting(
    now: DateTime<Utc>,
    (ticket, claimed, hidden): (&TicketFact, bool, bool),
    (able, unknown): (Able, &str),
    said: &mut StepExplanation,
) {
    let since = if hidden { ticket.sent_at } else { ticket.visible_at.max(ticket.sent_at) };
    said.waiting_since = Some(since);
    let queue = said.queue.clone().unwrap_or_default();
    let seconds = (now - since).num_seconds().max(0);
    if able.both > 0 {
        let workers = able.both;
        let message = format!("it has waited in {queue} for {seconds} s; {workers} live workers can run it");
        return set(said, StepReason::WaitingForWorker, message);
    }
    let handler = &said.handler;
    let why = match (able.handler, able.queue) {
        (0, 0) => format!("{unknown}, and none claims from {queue}"),
        (0, _) => format!("{unknown}; workers of {queue} give it back"),
        (_, _) => format!("no live worker that knows its handler {handler} claims from {queue}"),
    };
    let claim = if claimed { ", and a claim on it may still run" } else { "" };
    set(said, StepReason::NoLiveWorker, format!("{why}; it has waited for {seconds} s{claim}"));
}

fn given_up(failure: Option<&Failed>, said: &mut StepExplanation) {
    let told = said.last_error.as_ref().map(|error| format!(": {}: {}", error.error_type, error.message));
    let told = told.unwrap_or_default();
    let (attempts, limit) = (said.attempts, said.max_attempts);
    match failure {
        Some(failed) if failed.outcome != "failure" => {
            let message = format!("its attempts were used up by workers that were lost ({limit} allowed)");
            set(said, StepReason::LeaseLost, message);
        }
        Some(failed) if failed.retryable == Some(true) && attempts >= limit => {
            let message = format!("all {attempts} attempts failed, the last one{told}");
            set(said, StepReason::AttemptsExhausted, message);
        }
        _ => set(said, StepReason::PermanentFailure, format!("attempt {attempts} failed for good{told}")),
    }
}

fn error_of(failed: &Failed) -> Option<AttemptError> {
    let error: StepFailure = serde_json::from_str(failed.error.as_deref()?).ok()?;
    Some(AttemptError {
        error_type: error.error_type,
        message: error.message,
        retryable: failed.retryable.unwrap_or(false),
        error_code: error.error_code,
    })
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
#[path = "../tests/explain/mod.rs"]
mod tests;
