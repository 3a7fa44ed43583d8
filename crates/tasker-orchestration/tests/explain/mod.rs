//! Every reason why a step has not ended well, as a table.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use serde_json::json;
use tasker_lifecycle::resource::Resource;
use tasker_lifecycle::template::{self, Template};
use tasker_lifecycle::{StoredTask, TaskId, Timestamp};

use super::*;

const QUEUE: &str = "worker_shop_queue";
const TICKET: &str = r#""m":5,"n":"00000000-0000-0000-0000-000000000007""#;
const NOW_US: i64 = 1_700_000_000_000_000;

/// `a` → `b` → `c`, and `d` beside them. What is asked about is `a` (0) unless the case says otherwise.
fn template() -> Arc<Template> {
    let step = |name: &str, parents: &[&str]| {
        let uses: &[&str] = if name == "a" { &["bank", "mail"] } else { &[] };
        json!({"name": name, "handler": "h", "dependencies": parents, "uses": uses})
    };
    let steps = [step("a", &[]), step("b", &["a"]), step("c", &["b", "d"]), step("d", &[])];
    let document = json!({"name": "t", "namespace_name": "shop", "version": "1.0.0", "steps": steps});
    Arc::new(template::from_json(&document, None).unwrap().0)
}

struct Case {
    state: TaskState,
    steps: &'static str,
    /// The sparse entry of `a`.
    entry: String,
    /// Was read, its attempt, seconds until it can be claimed.
    ticket: Option<(bool, i64, i64)>,
    /// Live workers with queue and handler, with the handler, with the queue.
    able: (i64, i64, i64),
    /// Outcome and whether retryable.
    failed: Option<(&'static str, Option<bool>)>,
    /// The limit of `bank`, whether it is paused, and its breaker; three of its steps are in flight.
    bank: (Option<u32>, bool, Breaker),
    step: usize,
    code: StepReason,
    says: &'static str,
}

fn case(state: TaskState, steps: &'static str, code: StepReason, says: &'static str) -> Case {
    let entry = if "QW".contains(&steps[..1]) { format!("{{{TICKET}}}") } else { "{}".to_owned() };
    Case {
        state,
        steps,
        entry,
        ticket: None,
        able: (1, 1, 1),
        failed: None,
        bank: (None, false, CLOSED),
        step: 0,
        code,
        says,
    }
}

const CLOSED: Breaker = Breaker::Closed { failures: 0 };

fn held(bank: (Option<u32>, bool, Breaker), code: StepReason, says: &'static str) -> Case {
    let entry = format!("{{{}}}", &TICKET[TICKET.find("\"n\"").unwrap()..]);
    Case { entry, bank, ..case(TaskState::WaitingForDependencies, "HPPC", code, says) }
}

fn enqueued(ticket: (bool, i64, i64), able: (i64, i64, i64), code: StepReason, says: &'static str) -> Case {
    Case { ticket: Some(ticket), able, ..case(TaskState::StepsInProcess, "QPPC", code, says) }
}

fn given_up(attempts: u32, failed: (&'static str, Option<bool>), code: StepReason, says: &'static str) -> Case {
    let entry = format!(r#"{{"a":{attempts}}}"#);
    Case { entry, failed: Some(failed), ..case(TaskState::BlockedByFailures, "EPPC", code, says) }
}

fn retry(in_ms: i64, due: bool, ticket: Option<(bool, i64, i64)>, code: StepReason, says: &'static str) -> Case {
    let holder = if due { &TICKET[TICKET.find("\"n\"").unwrap()..] } else { TICKET };
    let entry = format!(r#"{{"a":1,"r":{},{holder}}}"#, NOW_US + in_ms * 1_000);
    Case { entry, ticket, ..case(TaskState::WaitingForRetry, "WPPC", code, says) }
}

fn cases() -> Vec<Case> {
    use StepReason as R;
    let blocked = TaskState::BlockedByFailures;
    vec![
        enqueued((false, 0, -9), (2, 2, 2), R::WaitingForWorker, "waited in worker_shop_queue for 9 s; 2 live workers"),
        enqueued((true, 1, -9), (1, 1, 1), R::WaitingForWorker, "for 9 s"),
        enqueued((true, 1, 20), (1, 1, 1), R::Claimed, "at least until 2023-11-14T22:13:40.000Z"),
        enqueued((true, 0, 20), (1, 1, 1), R::WaitingForWorker, "1 live workers can run it"),
        enqueued(
            (false, 0, -9),
            (0, 0, 0),
            R::NoLiveWorker,
            "no live worker knows its handler h, and none claims from worker_shop_queue",
        ),
        enqueued(
            (true, 0, 5),
            (0, 0, 3),
            R::NoLiveWorker,
            "knows its handler h; workers of worker_shop_queue give it back",
        ),
        enqueued((false, 0, -9), (0, 1, 0), R::NoLiveWorker, "that knows its handler h claims from worker_shop_queue"),
        enqueued((true, 1, 20), (0, 0, 0), R::NoLiveWorker, "a claim on it may still run"),
        case(TaskState::StepsInProcess, "QPPC", R::Reported, "is about to be decided on"),
        retry(5_000, false, Some((false, 1, 5)), R::RetryDue, "due at 2023-11-14T22:13:25.000Z"),
        retry(-5_000, false, Some((false, 1, -5)), R::WaitingForWorker, "for 5 s"),
        retry(-5_000, false, Some((true, 2, 20)), R::Claimed, "a worker has claimed it"),
        retry(90_000, true, None, R::RetryDue, "due at 2023-11-14T22:14:50.000Z"),
        retry(-1, true, None, R::RetryDue, "about to send its ticket"),
        given_up(
            3,
            ("failure", Some(true)),
            R::AttemptsExhausted,
            "all 3 attempts failed, the last one: bank: no money",
        ),
        given_up(1, ("failure", Some(false)), R::PermanentFailure, "attempt 1 failed for good: bank: no money"),
        given_up(4, ("lease_lost", None), R::LeaseLost, "workers that were lost (3 allowed)"),
        held((Some(3), false, CLOSED), R::ResourceFull, "bank 3/3: as many of its steps run as may at once"),
        held((None, false, CLOSED), R::ResourceFull, "others wait for bank; a server is about to let them through"),
        held((Some(3), true, CLOSED), R::ResourcePaused, "bank is paused by an operator"),
        held(
            (None, false, Breaker::Open { until: Timestamp(NOW_US + 5_000_000), times: 2 }),
            R::BreakerOpen,
            "the breaker of bank is open until 2023-11-14T22:13:25.000Z, 2 times in a row now",
        ),
        held((None, false, Breaker::HalfOpen { allowed: 3, times: 1 }), R::BreakerOpen, "half open: 3 of 3 are being"),
        Case { step: 1, ..case(blocked, "EPPC", R::ParentFailed, "its parent a failed for good") },
        Case { step: 2, ..case(blocked, "EPPC", R::ParentPending, "its parent b is pending; further up a failed") },
        Case { step: 2, ..case(blocked, "EPPE", R::ParentFailed, "its parent d failed for good, and 1 more") },
        Case { step: 1, ..case(TaskState::StepsInProcess, "QPPQ", R::ParentPending, "its parent a is enqueued") },
        Case { step: 1, ..case(TaskState::Cancelled, "CXXC", R::Cancelled, "cancelled with its task") },
        case(TaskState::Pending, "PPPP", R::ParentPending, "has not started"),
    ]
}

fn explained(case: &Case) -> Explanation {
    let mut sparse = vec![format!(r#""0":{}"#, case.entry)];
    if case.steps.ends_with('Q') {
        sparse.push(format!(r#""3":{{{TICKET}}}"#));
    }
    let sparse = format!("{{{}}}", sparse.join(","));
    let stored = StoredTask { state: case.state, steps: case.steps.to_owned(), sparse, expansions: None };
    let task = Task::from_stored(TaskId::new(1, 7), template(), &stored).unwrap();
    let now = DateTime::from_timestamp_micros(NOW_US).unwrap();
    let second = chrono::TimeDelta::seconds;
    let mut facts = Facts { now, ..Facts::default() };
    if let Some((was_read, attempt, seconds)) = case.ticket {
        let fact = TicketFact { was_read, attempt, sent_at: now - second(60), visible_at: now + second(seconds) };
        facts.tickets.insert(StepIndex(0), fact);
    }
    facts.queues.insert(StepIndex(0), QUEUE.to_owned());
    for (name, (max_in_flight, paused, breaker)) in [("mail", (None, false, CLOSED)), ("bank", case.bank)] {
        let resource = Resource { max_in_flight, failures_to_open: 5, open_ms: 1, max_open_ms: 1, paused, breaker };
        facts.resources.insert(name.to_owned(), Gate { resource, in_flight: 3, waiting: true });
    }
    let (both, handler, queue) = case.able;
    facts.able.insert((QUEUE.to_owned(), "h".to_owned()), Able { both, handler, queue });
    if let Some((outcome, retryable)) = case.failed {
        let error = (outcome == "failure").then(|| r#"{"error_type":"bank","message":"no money"}"#.to_owned());
        let failed = Failed { step: StepIndex(0), outcome: outcome.to_owned(), retryable, error, at: now };
        facts.failures.insert(StepIndex(0), failed);
    }
    explain(&task, &facts)
}

#[test]
fn every_reason_is_told_for_what_it_is() {
    for case in cases() {
        let found = explained(&case);
        let name = ["a", "b", "c", "d"][case.step];
        let step = found.steps.iter().find(|step| step.name == name).unwrap();
        assert_eq!(step.code, case.code, "{}: {step:?}", case.says);
        assert!(step.message.contains(case.says), "should say `{}`: {step:?}", case.says);
        assert!(found.steps.iter().all(|step| !step.message.is_empty()), "{found:?}");
    }
}

#[test]
fn every_reason_has_a_case() {
    let seen: std::collections::HashSet<StepReason> = cases().iter().map(|case| case.code).collect();
    assert_eq!(seen.len(), 14, "{seen:?}");
}

#[test]
fn what_ended_well_needs_no_explanation_and_the_task_is_told_in_one_sentence() {
    let all = Case { entry: "{}".to_owned(), ..case(TaskState::Complete, "CCRC", StepReason::Claimed, "") };
    let found = explained(&all);
    assert!(found.steps.is_empty() && found.message == "every step has ended well", "{found:?}");
    let running = explained(&case(TaskState::StepsInProcess, "QPPC", StepReason::Reported, ""));
    assert_eq!(running.message, "steps: 1 running");
    let blocked = explained(&case(TaskState::BlockedByFailures, "EPPE", StepReason::ParentFailed, ""));
    assert_eq!(blocked.message, "nothing can move until a, d is repaired or the task is cancelled");
    let c = blocked.steps.iter().find(|step| step.name == "c").unwrap();
    assert_eq!(c.blocked_by, ["a", "d"], "a failed above its pending parent counts, too");
}
