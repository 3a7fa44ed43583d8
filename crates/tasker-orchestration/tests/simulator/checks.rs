//! The invariants, each by its number in `docs/reliability.md`.

use std::collections::BTreeSet;

use tasker_lifecycle::template::StepKind;
use tasker_lifecycle::{DeadLetterReason, Holder, StepIndex, StepState, Task, TaskId, TaskState};
use tasker_shared::messages::Claim;

use super::ledger::Moved;
use super::rows::nonce;
use super::world::{Told, World};

/// The invariant that does not hold, and why.
pub(super) type Broken = (&'static str, String);

fn holds(invariant: &'static str, is_so: bool, why: impl FnOnce() -> String) -> Result<(), Broken> {
    if is_so { Ok(()) } else { Err((invariant, why())) }
}

/// A commit touched this task.
pub(super) fn after_commit(world: &World, id: TaskId) -> Result<(), Broken> {
    let Some(task) = world.task(id) else {
        return Err(("I20", "rows are there and the task is not".to_owned()));
    };
    let told: &[Told] = world.history.get(&id).map_or(&[], Vec::as_slice);
    history_folds(&task, world.tasks[&id].seq, told)?;
    steps_are_held(world, &task)?;
    permits_are_of_tickets(world, &task)?;
    for step in (0..task.steps().len()).map(StepIndex::from) {
        attempts_are_counted(world, &task, step)?;
        given_up_once(world, &task, step)?;
        enabled_once(world, &task, step, told)?;
    }
    events_are_published_once(world, id)
}

/// I20, and with it I8: no row follows the one that ended the task.
fn history_folds(task: &Task, seq: i32, told: &[Told]) -> Result<(), Broken> {
    let mut steps: Vec<(StepState, u32)> = task.template().initial_states().iter().map(|state| (*state, 0)).collect();
    steps.resize(task.steps().len(), (StepState::NotCreated, 0));
    let mut state = TaskState::Pending;
    for (row, number) in told.iter().zip(1..) {
        holds("I8", !state.is_terminal(), || format!("{row:?} follows the end"))?;
        holds("I20", (row.seq, row.from) == (number, state), || {
            format!("{row:?} is row {number} and follows {state}")
        })?;
        state = row.to;
        for Moved { step, from, to, attempts } in row.moves.iter().copied() {
            let Some(folded) = steps.get_mut(step.at()) else {
                return Err(("I20", format!("{row:?} moves step {step}, which is none")));
            };
            holds("I20", folded.0 == from, || format!("{row:?} moves step {step}, which is {}", folded.0))?;
            *folded = (to, attempts);
        }
    }
    let is_whole = usize::try_from(seq) == Ok(told.len()) && state == task.state();
    holds("I20", is_whole, || format!("{} rows up to {state}, and the task is {} at {seq}", told.len(), task.state()))?;
    let stored = task.steps().iter().enumerate().map(|(at, state)| (*state, task.attempts(StepIndex::from(at))));
    let stored: Vec<_> = stored.collect();
    holds("I20", steps == stored, || format!("{steps:?} is folded and {stored:?} is stored"))
}

/// I10. Copies of tickets do not count: they are nobody's.
fn steps_are_held(world: &World, task: &Task) -> Result<(), Broken> {
    let id = task.id();
    for (at, state) in task.steps().iter().enumerate() {
        let step = StepIndex::from(at);
        let holder = task.live(step).holder;
        let tickets = tickets_of(world, id).filter(|(msg_id, of, of_nonce)| {
            *of == step && matches!(holder, Holder::Ticket(t) if t.msg_id == *msg_id && t.nonce.0 == *of_nonce)
        });
        let due = world.due.get(&(id, step)).filter(|(of, _)| nonce(holder) == Some(of.0));
        let undecided =
            world.attempts_of(id, step).filter(|(_, a)| nonce(holder) == Some(a.nonce) && a.outcome != "lost");
        let held = (tickets.count(), usize::from(due.is_some()), undecided.count());
        let sum = held.0 + held.1 + held.2;
        holds("I10", sum == usize::from(state.is_live()), || {
            format!("step {step} is {state}, held by (tickets, due times, undecided attempts) {held:?}")
        })?;
    }
    for (msg_id, step, of_nonce) in tickets_of(world, id) {
        let named = step.at() < task.steps().len()
            && matches!(task.live(step).holder,
            Holder::Ticket(t) if t.msg_id == msg_id && t.nonce.0 == of_nonce);
        holds("I10", named, || format!("ticket {msg_id} of step {step} is named by nobody"))?;
    }
    for ((_, step), (of, _)) in world.due.range((id, StepIndex(0))..=(id, StepIndex(u32::MAX))) {
        let named = nonce(task.live(*step).holder) == Some(of.0);
        holds("I10", named, || format!("the due time of step {step} is named by nobody"))?;
    }
    Ok(())
}

/// A step has permits of what it uses exactly while it is enqueued.
fn permits_are_of_tickets(world: &World, task: &Task) -> Result<(), Broken> {
    for (at, state) in task.steps().iter().enumerate() {
        let step = StepIndex::from(at);
        let uses = task.template().step(task.pattern(step)).uses.len();
        let wanted = if *state == StepState::Enqueued { uses } else { 0 };
        let given = world.permits.iter().filter(|(_, of, of_step)| (*of, *of_step) == (task.id(), step)).count();
        holds("permits", given == wanted, || format!("step {step} is {state} and has {given} permits of {uses}"))?;
    }
    Ok(())
}

fn tickets_of(world: &World, id: TaskId) -> impl Iterator<Item = (i64, StepIndex, uuid::Uuid)> + '_ {
    let messages = world.queues.values().flatten().filter(|(_, message)| !message.is_copy);
    let tickets = messages.filter_map(|(msg_id, message)| message.ticket.map(|ticket| (*msg_id, ticket)));
    tickets.filter(move |(_, ticket)| ticket.task == id).map(|(msg_id, ticket)| (msg_id, ticket.step, ticket.nonce))
}

/// I9: 1, 2, 3 … within the budget; I14: none after a permanent failure, unless an operator granted it.
fn attempts_are_counted(world: &World, task: &Task, step: StepIndex) -> Result<(), Broken> {
    let budget = world.ledger.budget(task.id(), step, granted(task, step));
    let mut permanent = None;
    for (((_, _, number), attempt), expected) in world.attempts_of(task.id(), step).zip(1..) {
        holds("I9", *number == expected, || format!("step {step} has attempt {number} in place of {expected}"))?;
        let ran = matches!(attempt.outcome, "success" | "failure");
        holds("I9", !ran || *number <= budget, || format!("step {step} made attempt {number} of {budget}"))?;
        if let Some(failed) = permanent {
            let is_allowed = attempt.outcome == "by_hand" || world.ledger.was_reset_at(task.id(), step, failed);
            holds("I14", is_allowed, || format!("step {step} failed for good at {failed} and made attempt {number}"))?;
        }
        permanent = (attempt.outcome == "failure" && attempt.retryable == Some(false)).then_some(*number);
    }
    Ok(())
}

/// I14: a step that failed for good has its entry; I5: not before its attempts were used.
fn given_up_once(world: &World, task: &Task, step: StepIndex) -> Result<(), Broken> {
    let id = task.id();
    if task.step(step) == Some(StepState::Error) {
        let key = (id, step, task.attempts(step));
        holds("I14", world.dead.contains_key(&key), || format!("step {step} failed without a dead letter entry"))?;
    }
    let budget = world.ledger.budget(id, step, granted(task, step));
    let range = (id, step, 0)..=(id, step, u32::MAX);
    for ((_, _, made), (reason, _)) in world.dead.range(range) {
        let used = matches!(reason, DeadLetterReason::PermanentFailure | DeadLetterReason::BadOutcome)
            || *made >= budget
            || world.ledger.was_reset_at(id, step, *made);
        holds("I5", used, || format!("step {step} was given up after {made} of {budget} attempts"))?;
    }
    Ok(())
}

/// I6: as many tickets as times that the step became ready.
fn enabled_once(world: &World, task: &Task, step: StepIndex, told: &[Told]) -> Result<(), Broken> {
    let moved = told.iter().flat_map(|told| &told.moves).filter(|moved| moved.step == step);
    let times = moved.filter(|moved| moved.to.is_live()).count();
    let sent = world.ledger.tickets(task.id(), step);
    holds("I6", sent <= times, || format!("step {step} became ready {times} times and had {sent} tickets"))
}

fn events_are_published_once(world: &World, id: TaskId) -> Result<(), Broken> {
    let range = (id, StepIndex(0), 0)..=(id, StepIndex(u32::MAX), u32::MAX);
    let succeeded = world.attempts.range(range.clone()).filter(|(_, attempt)| attempt.outcome == "success");
    let succeeded: BTreeSet<_> = succeeded.map(|(key, _)| *key).collect();
    let published: BTreeSet<_> = world.ledger.published.range(range).copied().collect();
    holds("I6", succeeded == published, || format!("{succeeded:?} succeeded, and {published:?} were published"))
}

fn granted(task: &Task, step: StepIndex) -> u32 {
    task.template().step(task.pattern(step)).retry.max_attempts
}

/// A handler starts. `is_claimed`: its ticket was just claimed, not handed over.
pub(super) fn at_start(world: &World, claim: &Claim, is_claimed: bool) -> Result<(), Broken> {
    let (id, step) = (claim.task, claim.step);
    let Some(task) = world.task(id) else {
        return Err(("I7", format!("a step of {id} is run, which is not there")));
    };
    for parent in task.parents(step) {
        holds("I7", is_settled(&task, parent, step), || {
            format!("step {step} of {id} is run while its parent {parent} is {:?}", task.step(parent))
        })?;
    }
    let budget = world.ledger.budget(id, step, granted(&task, step));
    holds("I9", claim.attempt <= budget, || format!("step {step} of {id} runs attempt {} of {budget}", claim.attempt))?;
    if is_claimed {
        holds("I13", !world.ledger.cancelled.contains(&id), || {
            format!("{id} was cancelled and step {step} is claimed")
        })?;
        let retry_at = task.live(step).retry_at.filter(|_| !world.ledger.clock_jumped);
        holds("I9", retry_at.is_none_or(|at| at <= world.now), || {
            format!("step {step} of {id} runs at {:?}, before {retry_at:?}", world.now)
        })?;
    }
    Ok(())
}

/// Whether a step waits no longer for this parent.
fn is_settled(task: &Task, parent: StepIndex, child: StepIndex) -> bool {
    let kind = |step| task.template().step(task.pattern(step)).kind;
    match task.steps()[parent.at()] {
        state if state.satisfies() => true,
        StepState::Error => task.tolerates(parent),
        StepState::Skipped => kind(parent) == StepKind::BatchWorker || kind(child) == StepKind::DeferredConvergence,
        _ => false,
    }
}

/// Whether everything came to rest.
pub(super) fn is_at_rest(world: &World) -> bool {
    let rests = |state: TaskState| state.is_terminal() || state == TaskState::BlockedByFailures;
    world.tasks.values().all(|row| rests(row.stored.state) && !row.stored.sparse.contains("\"n\""))
        && world.ledger.submitted.iter().all(|id| world.tasks.contains_key(id) || world.refused.contains(id))
        && world.dead.values().all(|(_, told)| told.is_some())
}

/// Nothing happens any more.
pub(super) fn at_end(world: &World) -> Result<(), Broken> {
    for id in &world.ledger.promised {
        holds("I1", world.tasks.contains_key(id), || format!("{id} was answered and is not there"))?;
    }
    for id in &world.ledger.submitted {
        let is_judged = world.tasks.contains_key(id) || world.refused.contains(id);
        holds("I1", is_judged, || format!("{id} was submitted and is neither there nor refused"))?;
    }
    for (key, (told, attempts)) in &world.dead {
        let made = world.attempts_of(key.0, key.1).filter(|((_, _, number), _)| *number <= key.2).count();
        let is_told = *attempts == Some(made) && made == key.2 as usize;
        holds("I14", is_told, || format!("entry {key:?} ({told:?}) tells of {attempts:?} of {made} attempts"))?;
    }
    holds("I11", is_at_rest(world), || {
        let open = world.tasks.iter().map(|(id, row)| (id, row.stored.state, &row.stored.steps, &row.stored.sparse));
        format!("does not come to rest: {:?}", open.collect::<Vec<_>>())
    })
}
