//! From what an actor gathered to rows, and from rows to what the store's functions answer.

use pgmq_notify::Popped;
use tasker_lifecycle::{Event, Holder, StepIndex, TaskId, Timestamp};
use tasker_shared::follows;
use tasker_shared::messages::{Report, ReportedOutcome, Verdict};
use tasker_shared::store::from_sql;
use tasker_shared::store::resources::{HeldStep, ResourceKey};
use tasker_shared::store::tasks::StoredResult;
use tasker_shared::store::writes::{AttemptColumns, Writes};

use super::Mutant;
use super::ledger::moves;
use super::queues::{Hint, Message};
use super::world::{Attempt, AttemptKey, Change, Told, World, results};

/// The attempt that a report stores, and the lost ones before it.
pub(super) fn attempts_of(report: &Report) -> ((AttemptKey, Attempt), Vec<(AttemptKey, Attempt)>) {
    let claim = &report.claim;
    let (nonce, ended_at) = (claim.token.nonce, report.ended_at);
    let mut attempt = Attempt {
        nonce,
        outcome: report.outcome.name(),
        retryable: None,
        retry_after_ms: None,
        follows: None,
        ended_at,
    };
    let lost = Attempt { outcome: "lost", ..attempt.clone() };
    match &report.outcome {
        ReportedOutcome::Success { follows, .. } => attempt.follows = follows::to_json(follows),
        ReportedOutcome::Failure { retryable, retry_after_ms, .. } => {
            attempt.retryable = Some(*retryable);
            attempt.retry_after_ms = retry_after_ms.map(|ms| i64::try_from(ms).unwrap());
        }
        ReportedOutcome::LeaseLost => {}
    }
    let key = |number: u32| (claim.task, claim.step, number);
    let first = u32::try_from(claim.base_attempt.max(0)).unwrap() + 1;
    let lost = (first..claim.attempt).map(|number| (key(number), lost.clone())).collect();
    ((key(claim.attempt), attempt), lost)
}

/// What the commit of a report tells others.
pub(super) fn told_by(world: &mut World, report: &Report) -> (Change, Vec<Change>) {
    let claim = &report.claim;
    let body = format!(r#"{{"task_uuid":"{}","step":{},"attempt":{}}}"#, claim.task, claim.step, claim.attempt);
    let hint = Change::Send(results(), world.next_id(), Message::new(body, world.now, 0));
    let events = report.events.iter().map(|published| {
        let message = Message::new(published.event.to_json(), world.now, 0);
        Change::Send(published.event.queue(), world.next_id(), message)
    });
    (hint, events.collect())
}

/// Of the reports that were not taken: known from before, or too late.
pub(super) fn verdicts(world: &mut World, reports: &[Report], taken: &[usize]) -> Vec<(usize, Verdict)> {
    let mut verdicts = Vec::new();
    for (at, report) in reports.iter().enumerate().filter(|(at, _)| !taken.contains(at)) {
        let claim = &report.claim;
        let stored = world.attempts.get(&(claim.task, claim.step, claim.attempt));
        let is_known = stored.is_some_and(|a| a.nonce == claim.token.nonce && a.outcome != "lost");
        world.saw(if is_known { "a report came again" } else { "a late report was refused" });
        verdicts.push((at, if is_known { Verdict::Duplicate } else { Verdict::Refused }));
    }
    verdicts
}

pub(super) fn attempts(columns: &AttemptColumns) -> Vec<(AttemptKey, Attempt)> {
    let row = |at: usize| {
        let number = |column: i32| u32::try_from(column).unwrap();
        let task = TaskId::try_from(columns.tasks[at]).unwrap();
        let key = (task, StepIndex(number(columns.steps[at])), number(columns.attempts[at]));
        let attempt = Attempt {
            nonce: columns.nonces[at],
            outcome: columns.outcomes[at],
            retryable: columns.retryables[at],
            retry_after_ms: columns.retry_afters[at],
            follows: columns.follows[at].clone(),
            ended_at: from_sql(columns.ended[at]),
        };
        (key, attempt)
    };
    (0..columns.tasks.len()).map(row).collect()
}

/// All but tasks, attempts and withdrawn tickets.
pub(super) fn changes(world: &World, writes: &Writes) -> Vec<Change> {
    let mut changes = Vec::new();
    let h = &writes.history;
    for at in 0..h.tasks.len() {
        let told = Told {
            seq: h.seqs[at],
            cause: h.causes[at],
            from: h.from[at].parse().unwrap(),
            to: h.to[at].parse().unwrap(),
            moves: moves(&h.changes[at]).collect(),
            detail: h.details[at].clone(),
        };
        changes.push(Change::History(TaskId::try_from(h.tasks[at]).unwrap(), told));
    }
    for (at, outgoing) in writes.tickets.iter().enumerate() {
        let message = Message::sent(outgoing, world.now, writes.tickets.len() - 1 - at);
        changes.push(Change::Send(outgoing.queue.clone(), outgoing.msg_id, message));
    }
    changes.extend(writes.undue.iter().map(|(task, step)| Change::Undue(*task, *step)));
    changes.extend(writes.due.values().map(|row| Change::Due(row.task, row.step, row.nonce, row.due)));
    let held = writes.due.values().filter_map(|row| Some((row, row.resource.clone()?)));
    changes.extend(held.map(|(row, key)| Change::Held(row.task, row.step, key)));
    let dead = writes.dead.iter();
    changes.extend(dead.map(|filing| Change::Dead((filing.task, filing.step, filing.attempt), filing.reason)));
    changes
}

/// What result messages name, with their tasks locked.
pub(super) fn stored_results(
    world: &World,
    who: usize,
    popped: Vec<Popped>,
    hints: &[Option<Hint>],
) -> Vec<StoredResult> {
    let told = popped.into_iter().zip(hints);
    told.map(|(message, hint)| {
        let row = hint.as_ref().and_then(|hint| Some((hint, world.tasks.get(&hint.task_uuid)?)));
        let task = row.map(|(hint, row)| {
            let believed = world.believed.get(&(who, hint.task_uuid));
            let believed = believed.filter(|_| world.mutant == Some(Mutant::AnyVersionWillDo));
            (hint.task_uuid, believed.copied().unwrap_or(row.version))
        });
        let attempt = |hint: &Hint| {
            world.attempts.get(&(hint.task_uuid, hint.step, hint.attempt))?.event(hint.step, hint.attempt)
        };
        let event = hint.as_ref().and_then(attempt);
        let body = (task.is_none() || event.is_none()).then_some(message.body);
        StoredResult { msg_id: message.msg_id, body, task, event, now: world.now }
    })
    .collect()
}

/// Of each resource as many held steps as there is room for, those first that wait longest.
pub(super) fn held(world: &World, wanted: &[(ResourceKey, u32)]) -> Vec<HeldStep> {
    let mut found = Vec::new();
    for (key, room) in wanted {
        let held =
            world.holders.iter().filter(|(_, of)| *of == key).map(|(at, _)| (world.due[at].1, *at, world.due[at].0));
        let mut held: Vec<_> = held.collect();
        held.sort_unstable_by_key(|(since, at, _)| (*since, *at));
        let held = held.into_iter().take(*room as usize);
        found.extend(held.map(|(_, (task, step), nonce)| HeldStep { task, step, nonce, key: key.clone() }));
    }
    found
}

pub(super) fn come_due(world: &World, limit: usize) -> (Vec<(TaskId, Event)>, Option<u64>) {
    let timed = world.due.iter().filter(|(key, _)| !world.holders.contains_key(key));
    let mut rows: Vec<_> = timed.map(|((task, step), (nonce, at))| (*at, *task, *step, *nonce)).collect();
    rows.sort_unstable_by_key(|(at, task, step, _)| (*at, *task, *step));
    rows.truncate(limit);
    let next = rows.iter().find(|(at, ..)| *at > world.now).map(|(at, ..)| at.ms_since(world.now));
    let due = rows.into_iter().filter(|(at, ..)| *at <= world.now);
    (due.map(|(_, task, step, nonce)| (task, Event::Due { step, nonce })).collect(), next)
}

/// The sweep's page: all live tasks behind `after`.
pub(super) fn undecided(world: &World, after: Option<TaskId>, age_ms: f64) -> (Vec<(TaskId, Event)>, Option<TaskId>) {
    if world.mutant == Some(Mutant::NothingIsSwept) {
        return (Vec::new(), None);
    }
    #[expect(clippy::cast_possible_truncation, reason = "a few seconds")]
    let before = Timestamp(world.now.0 - age_ms as i64 * 1000);
    let is_behind = |id: &TaskId| after.is_none_or(|after| *id > after);
    let live = world.tasks.iter().filter(|(id, row)| is_behind(id) && !row.stored.state.is_terminal());
    let (mut found, mut last) = (Vec::new(), None);
    for (id, row) in live {
        last = Some(*id);
        if row.updated_at < before {
            let old = world.undecided(*id).into_iter().filter(|(ended_at, _)| *ended_at < before);
            found.extend(old.map(|(_, event)| (*id, event)));
        }
    }
    (found, last)
}

/// Dead letter entries that do not tell of their attempts yet.
pub(super) fn describe(world: &World, limit: usize) -> Vec<Change> {
    let bare = world.dead.iter().filter(|(_, (_, told))| told.is_none()).map(|(key, _)| *key).take(limit);
    bare.map(|key| {
        let attempts = world.attempts_of(key.0, key.1).filter(|((_, _, number), _)| *number <= key.2).count();
        Change::Described(key, attempts)
    })
    .collect()
}

/// The nonce of what holds a step.
pub(super) fn nonce(holder: Holder) -> Option<uuid::Uuid> {
    match holder {
        Holder::None => None,
        Holder::Ticket(ticket) => Some(ticket.nonce.0),
        Holder::Due { nonce } => Some(nonce.0),
    }
}
