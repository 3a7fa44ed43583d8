//! Every state of a step with every event, and the rule for a task's state: printed as docs/states.md.
//!
//! The page is what was reviewed, so a change of the lifecycle shows as a difference in it. `UPDATE_DOCS=1` writes it
//! anew.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tasker_lifecycle::template::{self, Template};
use tasker_lifecycle::{
    Cause, DeadLetterReason, Decision, Effect, Event, Follows, Holder, MAX_TICKET_DELAY_MS, Nonce, Outcome, Refused,
    StepIndex, StepState, StoredTask, Task, TaskId, TaskState, Timestamp, decide, passing_states,
};
use uuid::Uuid;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);
const PRESENT: Nonce = Nonce(Uuid::from_u128(1));
const OTHER: Nonce = Nonce(Uuid::from_u128(2));

/// A step in some state, with a parent before it, a child behind it, and a neighbour that keeps the task going.
struct Given {
    /// In the heads of columns.
    short: &'static str,
    name: &'static str,
    /// The stored letters of parent, step, child, neighbour.
    steps: &'static str,
    /// The sparse entry of the step.
    entry: &'static str,
    task: TaskState,
}

const TICKET: &str = r#"{"a":1,"m":5,"n":"00000000-0000-0000-0000-000000000001"}"#;
const DUE: &str = r#"{"a":1,"r":1,"n":"00000000-0000-0000-0000-000000000001"}"#;
const HOLD: &str = r#"{"a":1,"n":"00000000-0000-0000-0000-000000000001"}"#;
const TRIED: &str = r#"{"a":3}"#;
const NONE: &str = "{}";

const fn given(
    short: &'static str,
    name: &'static str,
    steps: &'static str,
    entry: &'static str,
    task: TaskState,
) -> Given {
    Given { short, name, steps, entry, task }
}

const RUNS: TaskState = TaskState::StepsInProcess;
const GIVENS: [Given; 12] = [
    given("P₀", "`pending`, the task has not started", "PPPP", NONE, TaskState::Pending),
    given("P", "`pending`", "QPPQ", NONE, RUNS),
    given("H", "`held`", "CHPQ", HOLD, RUNS),
    given("Q", "`enqueued`", "CQPQ", TICKET, RUNS),
    given("I", "`in_progress`", "CIPQ", TICKET, RUNS),
    given("Wₜ", "`waiting_for_retry` with a delayed ticket", "CWPQ", TICKET, RUNS),
    given("W", "`waiting_for_retry` in the due-time table", "CWPQ", DUE, RUNS),
    given("C", "`complete`", "CCQQ", NONE, RUNS),
    given("E", "`error`", "CEPQ", TRIED, RUNS),
    given("R", "`resolved_manually`", "CRQQ", TRIED, RUNS),
    given("X", "`cancelled`", "CXXX", NONE, TaskState::Cancelled),
    given("Eₓ", "`error` in a cancelled task", "CEXX", TRIED, TaskState::Cancelled),
];

/// The step under test; the parent comes before it, the child behind it.
const STEP: StepIndex = StepIndex(1);

const fn reported(attempt: u32, nonce: Nonce, outcome: Outcome) -> Event {
    Event::Reported { step: STEP, attempt, nonce, outcome }
}

const fn failure(retryable: bool, retry_after_ms: u64) -> Outcome {
    Outcome::Failure { retryable, retry_after_ms: Some(retry_after_ms) }
}

const EVENTS: [(&str, Event); 20] = [
    ("`started`", Event::Started),
    ("`reported`: success", reported(2, PRESENT, Outcome::Success(Follows::Nothing))),
    ("`reported`: retryable failure, wait up to 60 s", reported(2, PRESENT, failure(true, MAX_TICKET_DELAY_MS))),
    ("`reported`: retryable failure, longer wait", reported(2, PRESENT, failure(true, MAX_TICKET_DELAY_MS + 1))),
    ("`reported`: retryable failure of the last attempt", reported(3, PRESENT, failure(true, 0))),
    ("`reported`: permanent failure", reported(2, PRESENT, failure(false, 0))),
    ("`reported`: attempts used up by lost leases", reported(4, PRESENT, Outcome::LeaseLost)),
    ("`reported` of an attempt decided on before", reported(1, PRESENT, Outcome::Success(Follows::Nothing))),
    ("`reported` with another nonce", reported(2, OTHER, Outcome::Success(Follows::Nothing))),
    ("`due`", Event::Due { step: STEP, nonce: PRESENT }),
    ("`due` with another nonce", Event::Due { step: STEP, nonce: OTHER }),
    ("`admitted`", Event::Admitted { step: STEP, nonce: PRESENT }),
    ("`admitted` with another nonce", Event::Admitted { step: STEP, nonce: OTHER }),
    ("`parked`", Event::Parked { step: STEP, nonce: PRESENT }),
    ("`parked` with another nonce", Event::Parked { step: STEP, nonce: OTHER }),
    ("`cancelled`", Event::Cancelled),
    ("`expired`", Event::Expired),
    ("`step_reset`", Event::StepReset { step: STEP }),
    ("`step_resolved`", Event::StepResolved { step: STEP }),
    ("`step_completed`", Event::StepCompleted { step: STEP, follows: Follows::Nothing }),
];

type Rule = (TaskState, &'static str, fn(&[StepState]) -> bool);

/// The task's state at rest: the first that fits. `cancelled` and `pending` come before; they do not follow from steps.
const RULES: [Rule; 5] = [
    (TaskState::StepsInProcess, "some step is enqueued or in progress", |steps| {
        steps.iter().any(|step| matches!(step, StepState::Enqueued | StepState::InProgress))
    }),
    (TaskState::WaitingForRetry, "some step waits for its retry time", |steps| {
        steps.contains(&StepState::WaitingForRetry)
    }),
    (TaskState::WaitingForDependencies, "some step is held by a resource that it uses", |steps| {
        steps.contains(&StepState::Held)
    }),
    (
        TaskState::Complete,
        "every step is complete, resolved by an operator, or left out by a decision; a batch that may fail alone may have",
        |steps| steps.iter().all(|step| step.satisfies() || *step == StepState::Skipped),
    ),
    (TaskState::BlockedByFailures, "otherwise: a step failed for good, and nothing that is left can move", |_| true),
];

#[test]
fn the_page_of_states_is_what_the_lifecycle_does() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/states.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&file).unwrap_or_default();
    let line = page.lines().zip(stored.lines()).find(|(new, old)| new != old);
    assert!(page == stored, "docs/states.md is stale (UPDATE_DOCS=1 writes it). The first difference: {line:#?}");
}

#[test]
fn every_mixture_of_steps_has_the_state_of_the_first_rule_that_fits() {
    for mixture in 1_u32..1 << StepState::ALL.len() {
        let there = StepState::ALL.iter().enumerate().filter(|(at, _)| mixture >> at & 1 == 1);
        let steps: Vec<StepState> = there.map(|(_, state)| *state).collect();
        let (expected, ..) = RULES.iter().find(|(_, _, fits)| fits(&steps)).unwrap();
        let template = template(&vec![""; steps.len()]);
        let computed: Vec<TaskState> =
            TaskState::ALL.iter().copied().filter(|state| loads(&template, &steps, *state)).collect();
        // These two are told by the column alone, where no step contradicts them.
        let all = |states: &[StepState]| steps.iter().all(|step| states.contains(step));
        let mut expected = vec![*expected];
        if steps.iter().all(|step| !step.is_live() && *step != StepState::Pending) {
            expected.extend([TaskState::Error, TaskState::Cancelled]);
        }
        if all(&[StepState::Pending]) {
            expected.insert(0, TaskState::Pending);
        }
        assert_eq!(computed, expected, "{steps:?}");
    }
}

/// Whether a task may be stored with these steps in this state.
fn loads(template: &Arc<Template>, steps: &[StepState], state: TaskState) -> bool {
    let live = steps.iter().enumerate().filter(|(_, step)| step.is_live());
    let entries: Vec<String> = live.map(|(at, _)| format!("\"{at}\":{TICKET}")).collect();
    let letters = steps.iter().map(|step| step.letter()).collect();
    let stored = StoredTask { state, steps: letters, sparse: format!("{{{}}}", entries.join(",")), expansions: None };
    Task::from_stored(TaskId::new(1, 7), Arc::clone(template), &stored).is_ok()
}

fn template(parents: &[&str]) -> Arc<Template> {
    template_with(parents, &[])
}

fn template_with(parents: &[&str], uses: &[&str]) -> Arc<Template> {
    let steps = parents.iter().enumerate().map(|(at, parent)| {
        let parents: Vec<&str> = parent.split_whitespace().collect();
        let uses = if at == STEP.at() { uses } else { &[] };
        json!({"name": format!("s{at}"), "handler": "h", "dependencies": parents, "uses": uses,
               "retry": {"max_attempts": 3, "max_backoff_ms": MAX_TICKET_DELAY_MS * 2}})
    });
    let steps: Vec<_> = steps.collect();
    let document = json!({"name": "table", "namespace_name": "test", "version": "1.0.0", "steps": steps});
    Arc::new(template::from_json(&document, None).unwrap().0)
}

fn task(given: &Given, uses: &[&str]) -> Task {
    let template = template_with(&["", "s0", "s1", ""], uses);
    let mut entries = vec![format!("\"{}\":{}", STEP, given.entry)];
    for (at, letter) in given.steps.chars().enumerate().filter(|(at, _)| *at != STEP.at()) {
        if StepState::from_letter(letter).unwrap().is_live() {
            entries.push(format!("\"{at}\":{TICKET}"));
        }
    }
    let sparse = format!("{{{}}}", entries.join(","));
    let stored = StoredTask { state: given.task, steps: given.steps.to_owned(), sparse, expansions: None };
    Task::from_stored(TaskId::new(1, 7), template, &stored).unwrap()
}

/// What an event does to the step: one sign for the table, and the words behind it.
fn cell(given: &Given, event: &Event) -> (String, String) {
    // Only the ticket of a step that uses something is ever taken back.
    let uses: &[&str] = if event.cause() == Cause::Parked { &["shop"] } else { &[] };
    let task = task(given, uses);
    let step = if *event == Event::Started { StepIndex(0) } else { STEP };
    match decide(&task, event, NOW) {
        Err(Refused::NotRepairable(..)) => ("✗".to_owned(), "refused: this action does not apply".to_owned()),
        Err(other) => ("✗".to_owned(), format!("refused: {other}")),
        Ok(decision) if decision.is_empty() => ("·".to_owned(), "ignored".to_owned()),
        Ok(decision) => {
            let moved = decision.transitions.iter().find(|t| t.step == step);
            let sign = moved.map_or("·".to_owned(), |t| t.to.letter().to_string());
            (sign, words(&task, &decision, step))
        }
    }
}

fn words(task: &Task, decision: &Decision, step: StepIndex) -> String {
    let child = StepIndex(step.0 + 1);
    let mut said = Vec::new();
    for t in decision.transitions.iter().filter(|t| t.step == step || t.step == child) {
        let who = if t.step == child { "the child → " } else { "→ " };
        let tried =
            if t.attempts == task.attempts(t.step) { String::new() } else { format!(", attempt {}", t.attempts) };
        let limit = t.limit.map(|limit| format!(", at most {limit} attempts")).unwrap_or_default();
        let retry = if t.retry_at.is_some() { ", with a retry time" } else { "" };
        said.push(format!("{who}`{}`{tried}{limit}{retry}", t.to));
    }
    let mut follows = Vec::new();
    for effect in &decision.effects {
        follows.extend(effect_words(effect, step));
    }
    if !follows.is_empty() {
        said.push(follows.join(", "));
    }
    if said.is_empty() { "changes nothing of the step".to_owned() } else { said.join("; ") }
}

fn effect_words(effect: &Effect, step: StepIndex) -> Option<String> {
    let child = StepIndex(step.0 + 1);
    let whose = |of: StepIndex| match of {
        of if of == step => Some("its"),
        of if of == child => Some("the child's"),
        _ => None,
    };
    match *effect {
        Effect::Enqueue { step: of, delay_ms: 0, .. } => Some(format!("send {} ticket", whose(of)?)),
        Effect::Enqueue { step: of, .. } => Some(format!("send {} ticket with a delay", whose(of)?)),
        Effect::Schedule { step: of, .. } => Some(format!("write {} due time", whose(of)?)),
        Effect::Hold { step: of } => Some(format!("hold {} ticket back", whose(of)?)),
        Effect::Withdraw { step: of, holder: Holder::Ticket(_) } => Some(format!("delete {} ticket", whose(of)?)),
        Effect::Withdraw { step: of, .. } => Some(format!("delete {} due time", whose(of)?)),
        Effect::DeadLetter { reason, .. } => Some(format!("file a dead letter entry (`{}`)", reason_name(reason))),
        Effect::TaskEnded(_) => None,
    }
}

fn reason_name(reason: DeadLetterReason) -> String {
    serde_json::to_value(reason).unwrap().as_str().unwrap().to_owned()
}

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    page += "\n## Steps\n\n| Letter | State | Meaning | Frees its children | Live |\n| --- | --- | --- | --- | --- |\n";
    for state in StepState::ALL {
        let yes = |it: bool| if it { "yes" } else { "" };
        let (satisfies, live) = (yes(state.satisfies()), yes(state.is_live()));
        writeln!(page, "| `{}` | `{state}` | {} | {satisfies} | {live} |", state.letter(), step_meaning(*state))
            .unwrap();
    }
    page += STEP_NOTES;
    matrix(&mut page);
    page += "\n## What follows\n\n";
    page += FOLLOWS_NOTES;
    for (name, event) in EVENTS {
        follows(&mut page, name, &event);
    }
    tasks(&mut page);
    page += LAWS;
    page
}

fn matrix(page: &mut String) {
    let heads: Vec<&str> = GIVENS.iter().map(|given| given.short).collect();
    writeln!(page, "| Event | {} |", heads.join(" | ")).unwrap();
    writeln!(page, "| --- |{}", " --- |".repeat(GIVENS.len())).unwrap();
    for (name, event) in EVENTS {
        let cells: Vec<String> = GIVENS.iter().map(|given| cell(given, &event).0).collect();
        writeln!(page, "| {name} | {} |", cells.join(" | ")).unwrap();
    }
}

/// One list for each event: where steps in different states come to the same, they share a line.
fn follows(page: &mut String, name: &str, event: &Event) {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for given in &GIVENS {
        let (_, words) = cell(given, event);
        match lines.iter_mut().find(|(known, _)| *known == words) {
            Some((_, names)) => names.push(given.name),
            None => lines.push((words, vec![given.name])),
        }
    }
    let moves: Vec<_> = lines.iter().filter(|(words, _)| words != "ignored" && !words.starts_with("refused")).collect();
    if moves.is_empty() {
        return;
    }
    writeln!(page, "**{name}**\n").unwrap();
    for (words, names) in moves {
        writeln!(page, "- {}: {words}.", names.join(" · ")).unwrap();
    }
    page.push('\n');
}

fn tasks(page: &mut String) {
    *page += "## Tasks\n\nThe state of a task is computed from its steps: the first line that fits.\n\n";
    *page += "| Letter | State | When | Ended |\n| --- | --- | --- | --- |\n";
    let flags = [
        (TaskState::Cancelled, "it was cancelled; no step moves any more"),
        (TaskState::Error, "it passed a bound of its life; no step moves any more"),
        (TaskState::Pending, "it has not started; seen only inside the commit that creates it"),
    ];
    let rules = RULES.iter().map(|(state, when, _)| (*state, *when));
    for (state, when) in flags.into_iter().chain(rules) {
        let ended = if state.is_terminal() { "yes" } else { "" };
        writeln!(page, "| `{}` | `{state}` | {when} | {ended} |", state.letter()).unwrap();
    }
    *page += TASK_NOTES;
    *page += "| Cause | Passes through | When |\n| --- | --- | --- |\n";
    for (cause, when) in CAUSES {
        let passed: Vec<String> = passing_states(cause).iter().map(|state| format!("`{state}`")).collect();
        let name = serde_json::to_value(cause).unwrap();
        writeln!(page, "| `{}` | {} | {when} |", name.as_str().unwrap(), passed.join(", ")).unwrap();
    }
}

const fn step_meaning(state: StepState) -> &'static str {
    match state {
        StepState::Pending => "waits for its parents",
        StepState::Held => "may run as far as its parents go, but a resource that it uses has no room",
        StepState::Enqueued => "has a ticket that a worker may claim",
        StepState::InProgress => "its ticket is claimed; read from the ticket and never stored",
        StepState::WaitingForRetry => "an attempt failed; the next one has a time",
        StepState::Complete => "succeeded, or was completed by hand",
        StepState::Error => "failed for good: permanently, or no attempt is left",
        StepState::Cancelled => "was cancelled with its task",
        StepState::ResolvedManually => "failed, and an operator stepped over it",
        StepState::NotCreated => "no step of the task yet: a decision may create it, or batches take its place",
        StepState::Skipped => "no step of the task: no decision created it, or batches took its place",
    }
}

const CAUSES: [(Cause, &str); 10] = [
    (Cause::Started, "the task was created"),
    (Cause::Reported, "the report on an attempt was accepted"),
    (Cause::Due, "a row of the due-time table came due"),
    (Cause::Admitted, "the resources that a held step uses had room"),
    (Cause::Parked, "a resource failed, and a ticket that nobody had claimed was taken back"),
    (Cause::Cancelled, "somebody cancelled the task"),
    (Cause::Expired, "the task passed a bound of its life, and its template lets it end in error then"),
    (Cause::StepReset, "an operator gave a failed step a new budget of attempts"),
    (Cause::StepResolved, "an operator stepped over a failed step"),
    (Cause::StepCompleted, "an operator supplied the result of a step"),
];

const INTRODUCTION: &str = "\
# States

What a step and a task can be in, and what each event makes of it. This page is printed by a test from what the
lifecycle does (`crates/tasker-lifecycle/tests/table.rs`); `UPDATE_DOCS=1` writes it anew. The words are those of
[concepts.md](concepts.md).
";

const STEP_NOTES: &str = "
A *live* step has exactly one ticket, one row in the due-time table, or one attempt that was reported and is not yet
decided on. Any other step has none of them. A step that `uses` a resource is `held` first, and becomes `enqueued` in the
same commit where there is room for it; it waits for its retries without a ticket.

## Steps and events

Each column is a step as it is; each cell is what it becomes. `·` means that nothing follows: duplicates and late
messages are normal. `✗` means that the event is refused, with a reason, because it makes no sense there.

P₀ is a root of a task that has not started. Wₜ waits with a delayed ticket, W in the due-time table. Eₓ is a failed
step of a cancelled task. The other columns are the letters from above. One event is not in the table: where a batch that
fails as a whole cancelled a worker that ran, what that worker had stored is counted before somebody acts on the batch
(`Event::Counted`), so that no attempt's number is used twice.

";

const FOLLOWS_NOTES: &str = "\
For a step that had one attempt, of three that its template allows (an `error` has had all three), with a child that
waits for it alone. All of it is written in one transaction.

";

const TASK_NOTES: &str = "
`blocked_by_failures` is not an end: an operator's repair lets the task go on by itself, and it can be cancelled.
`resolved_manually` is a state that no event leads to in this version.
`initializing`, `enqueuing_steps` and `evaluating_results` are passed through inside one commit and never seen at rest:

";

const LAWS: &str = "
## Laws

Each is tested on every graph of up to four steps, with every outcome in every order, and on random graphs of up to
forty steps (`crates/tasker-lifecycle/tests/laws.rs`).

- No step is live before all its parents are complete or resolved, and no step whose parents are is left pending.
- The same event a second time changes nothing; nor does a report with an old attempt or another nonce.
- Attempts are numbered 1, 2, 3 … without a gap and end with the budget: the template's `max_attempts`, and as many
  again with each reset. The claim that finds the budget used up by lost leases runs nothing, and is told as one more.
- A step that is complete, resolved or cancelled never moves again; nor does a task that is complete or cancelled.
- Without an operator, every task comes to an end or is blocked.
- Events of different steps lead to the same place in either order.
- What is stored is what is computed: reading a stored task gives the same task.
";
