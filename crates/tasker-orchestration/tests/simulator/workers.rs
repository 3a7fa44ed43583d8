//! Workers: what they claim, what their handlers come to, and how they report. All of it is scripted by the seed.

use std::sync::Arc;

use pgmq_notify::Token;
use rand::Rng;
use serde_json::value::RawValue;
use tasker_lifecycle::template::{DeliveryMode, StepKind};
use tasker_lifecycle::{Follows, Holder, StepIndex, Task, Timestamp};
use tasker_shared::events::{DomainEvent, EventOutcome, Published};
use tasker_shared::messages::{Claim, Report, ReportedOutcome, StepFailure, Verdict};
use tasker_shared::store::{from_sql, to_sql};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::LATER_MS;
use super::checks;
use super::memory::Memory;
use super::server::Running;
use super::world::World;
use crate::session::Database;

/// A claim whose handler runs.
pub(super) struct Held {
    pub(super) claim: Claim,
    /// The slot in the server's process.
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

/// A worker. The first ones live in the process of the server with the same number, where it has room for one.
#[derive(Default)]
pub(super) struct Worker {
    pub(super) held: Vec<Held>,
    /// What was reported, for what comes again.
    pub(super) past: Vec<Report>,
    /// It does nothing until then.
    pub(super) paused_until: Timestamp,
    /// Reports on their way.
    pub(super) running: Vec<Running>,
}

/// Claims tickets and starts the handlers of those that are tickets of live steps. Where the answer gets lost, the
/// claims are there all the same.
pub(super) fn claim(world: &mut World, qty: usize) -> Vec<Claim> {
    let messages = world.claim(qty);
    for message in &messages {
        world.tell(|| format!("claim {} for the time {}: {}", message.msg_id, message.read_ct, message.body));
    }
    if world.chance(world.chances.outcome_unknown, "the answer to a claim was lost") {
        return Vec::new();
    }
    let mut claims = Vec::new();
    for message in messages {
        let claim = Claim::from_message(&message, from_sql(message.enqueued_at)).unwrap();
        if is_ours(world, &claim.token, &claim) {
            start(world, &claim, true);
            claims.push(claim);
        } else {
            world.archive(&claim.token);
            world.saw("a ticket of no live step");
        }
    }
    claims
}

/// Whether the task names this ticket.
fn is_ours(world: &World, token: &Token, claim: &Claim) -> bool {
    let Some(task) = world.task(claim.task) else { return false };
    let holder = task.live(claim.step).holder;
    !task.state().is_terminal()
        && matches!(holder, Holder::Ticket(ticket) if ticket.msg_id == token.msg_id && ticket.nonce.0 == token.nonce)
}

/// A handler starts, unless the attempts were used up by claims that were lost.
pub(super) fn start(world: &mut World, claim: &Claim, is_claimed: bool) {
    if is_used_up(world, claim) {
        return;
    }
    if let Err((invariant, why)) = checks::at_start(world, claim, is_claimed) {
        world.breaks(invariant, why);
    }
    let key = (claim.task, claim.step, claim.attempt);
    if claim.attempt > 1 && world.ledger.started.contains(&(claim.task, claim.step, claim.attempt - 1)) {
        world.saw("a step ran again");
    }
    if !world.ledger.started.insert(key) {
        world.saw("an attempt was given back and started again");
    }
}

fn is_used_up(world: &World, claim: &Claim) -> bool {
    world.task(claim.task).is_some_and(|task| claim.attempt > task.limit(claim.step))
}

/// What a worker says of a claim. Without `may_fail` every handler succeeds.
pub(super) fn report(world: &mut World, claim: Claim, may_fail: bool) -> Report {
    let task = world.task(claim.task).unwrap();
    let failure = |retryable, retry_after_ms| ReportedOutcome::Failure {
        error: StepFailure { message: "no".to_owned(), error_type: "test".to_owned(), error_code: None },
        retryable,
        retry_after_ms,
        metadata: None,
    };
    let drawn = if may_fail { world.rng.random_range(0..20) } else { 0 };
    let outcome = match drawn {
        _ if is_used_up(world, &claim) => ReportedOutcome::LeaseLost,
        0..13 => success(follows(&task, claim.step, world.rng.random())),
        13..16 => failure(true, None),
        16 | 17 => failure(true, Some(LATER_MS)),
        18 => failure(false, None),
        _ => success(Follows::Nothing),
    };
    let events = match outcome {
        ReportedOutcome::Success { .. } => vec![event(world, &claim)],
        _ => Vec::new(),
    };
    let now = world.now;
    Report { claim, outcome, started_at: Some(now), ended_at: now, worker: "simulated".into(), events }
}

fn success(follows: Follows) -> ReportedOutcome {
    let result = RawValue::from_string("1".to_owned()).unwrap().into();
    ReportedOutcome::Success { result, metadata: None, follows }
}

/// What a success leads to: one of the choices or splits that `seed` picks.
pub(super) fn follows(task: &Task, step: StepIndex, seed: u64) -> Follows {
    let (template, pattern) = (task.template(), task.pattern(step));
    match template.step(pattern).kind {
        StepKind::Decision => {
            let children = template.dag.children(pattern).iter().enumerate();
            Follows::Branches(children.filter(|(at, _)| seed >> at & 1 == 1).map(|(_, step)| *step).collect())
        }
        StepKind::Batchable => {
            let worker = template.worker_of(pattern).unwrap();
            Follows::Batches { worker, count: u32::try_from(seed % 4).unwrap() + 1 }
        }
        StepKind::Standard | StepKind::DeferredConvergence | StepKind::BatchWorker => Follows::Nothing,
    }
}

fn event(world: &World, claim: &Claim) -> Published {
    let event = DomainEvent {
        event_id: Uuid::nil(),
        name: "done".to_owned(),
        namespace: "test".to_owned(),
        template: "lives".to_owned(),
        version: "1.0.0".to_owned(),
        task_uuid: claim.task.uuid(),
        step_uuid: claim.task.step(claim.step).uuid(),
        step_name: claim.step.to_string(),
        attempt: claim.attempt,
        correlation_id: claim.correlation_id,
        outcome: EventOutcome::Success,
        error_type: None,
        occurred_at: to_sql(world.now),
        payload: RawValue::from_string("1".to_owned()).unwrap(),
        metadata: None,
    };
    Published { event: Arc::new(event), delivery: DeliveryMode::Durable }
}

/// Reports from a process of its own, again and again until it is answered.
pub(super) fn reporting(memory: Memory, reports: Vec<Report>) -> Running {
    Box::pin(async move {
        loop {
            let Ok(mut open) = memory.begin().await else { continue };
            let Ok(verdicts) = open.report(&reports).await else { continue };
            if Memory::commit(open).await.is_ok() {
                let accepted = verdicts.iter().filter(|verdict| **verdict == Verdict::Accepted).count();
                memory.with(|world| (0..accepted).for_each(|_| world.saw("a report was accepted")));
                return;
            }
        }
    })
}
