//! The laws of the lifecycle: on every small graph in every order of events, and on random large ones.
//!
//! [`World::apply`] holds the laws that are about one moment; here are those about whole lives: every life ends, and
//! steps do not disturb each other. `PROPTEST_CASES` sets how many random lives are tried.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proptest::prelude::*;
use tasker_lifecycle::template::{StepKind, Template};
use tasker_lifecycle::{Cause, Event, Follows, Outcome, StepIndex, StepState, TaskState};
use world::plans::{plans, random_plans};
use world::{LATER_MS, Policy, World, template, template_of};

const SOON: Outcome = Outcome::Failure { retryable: true, retry_after_ms: None };
const LATER: Outcome = Outcome::Failure { retryable: true, retry_after_ms: Some(LATER_MS) };
const PERMANENT: Outcome = Outcome::Failure { retryable: false, retry_after_ms: None };
const SUCCESS: Outcome = Outcome::Success(Follows::Nothing);
const OUTCOMES: [Outcome; 4] = [SUCCESS, SOON, LATER, PERMANENT];

/// What may happen next without an operator's repair.
#[derive(Debug, Clone)]
enum Move {
    Lose(StepIndex),
    Happen(Event),
}

impl Move {
    fn make(&self, world: &World) -> World {
        let mut next = world.clone();
        match self {
            Self::Lose(step) => next.lose(*step),
            Self::Happen(event) => {
                next.happen(event).expect("what is held can happen");
                next.changes_nothing(event);
            }
        }
        next
    }

    fn step(&self) -> Option<StepIndex> {
        match self {
            Self::Lose(step) | Self::Happen(Event::Reported { step, .. } | Event::Due { step, .. }) => Some(*step),
            Self::Happen(_) => None,
        }
    }

    /// Whether it makes steps, whose numbers depend on what was made before.
    fn splits(&self) -> bool {
        let Self::Happen(Event::Reported { outcome, .. }) = self else { return false };
        matches!(outcome, Outcome::Success(Follows::Batches { .. }))
    }
}

fn moves(world: &World) -> Vec<Move> {
    let mut moves = Vec::new();
    for (step, _) in world.held() {
        moves.extend(world.come_due(step).map(Move::Happen));
        let Some((_, may_run)) = world.claim(step) else { continue };
        if may_run {
            moves.extend(outcomes(world, step).into_iter().filter_map(|o| world.report(step, o)).map(Move::Happen));
            moves.push(Move::Lose(step));
        } else {
            moves.extend(world.report(step, Outcome::LeaseLost).map(Move::Happen));
        }
    }
    moves
}

/// What may come of a step of its kind: every choice of a decision, every split into up to three batches.
fn outcomes(world: &World, step: StepIndex) -> Vec<Outcome> {
    let template = world.task.template();
    let children = template.dag.children(world.task.pattern(step));
    let successes: Vec<Follows> = match template.step(world.task.pattern(step)).kind {
        StepKind::Decision => {
            let choices = 0_u32..1 << children.len().min(4);
            let chosen = |choice: u32| children.iter().enumerate().filter(move |(at, _)| choice >> at & 1 == 1);
            choices.map(|choice| Follows::Branches(chosen(choice).map(|(_, step)| *step).collect())).collect()
        }
        StepKind::Batchable => {
            let worker = template.worker_of(step).expect("a batchable step has a worker");
            (1..=3).map(|count| Follows::Batches { worker, count }).collect()
        }
        StepKind::Standard | StepKind::DeferredConvergence | StepKind::BatchWorker => vec![Follows::Nothing],
    };
    successes.into_iter().map(Outcome::Success).chain([SOON, LATER, PERMANENT]).collect()
}

fn started(template: &Arc<Template>) -> World {
    let mut world = World::new(template);
    world.apply(Event::Started).expect("a start always applies");
    world
}

/// A life without an operator is over exactly where the task is complete, cancelled or blocked.
fn check_rest(world: &World) {
    let state = world.task.state();
    let ends = [TaskState::Complete, TaskState::Error, TaskState::Cancelled, TaskState::BlockedByFailures];
    let is_end = ends.contains(&state);
    assert_eq!(world.is_at_rest(), is_end, "{state}: {:?}", world.task.steps());
    if state == TaskState::BlockedByFailures {
        assert!(world.task.count(StepState::Error) > 0, "blocked without a failure");
    }
    if !state.is_terminal() {
        return;
    }
    for at in 0..world.task.steps().len() {
        let step = StepIndex::from(at);
        for event in [
            Event::Started,
            Event::Cancelled,
            Event::Expired,
            Event::Counted { step, attempts: 9 },
            Event::StepReset { step },
            Event::StepResolved { step },
            Event::StepCompleted { step, follows: Follows::Nothing },
        ] {
            world.changes_nothing(&event);
        }
    }
}

/// Walks through every state that can be reached, each once.
struct Search {
    /// The states that were seen; `true` once everything behind them was.
    seen: HashMap<Vec<u32>, bool>,
    ends: BTreeSet<TaskState>,
    /// Whether steps do not disturb each other. In a batch that fails as a whole they do.
    commutes: bool,
}

impl Search {
    fn visit(&mut self, world: &World) {
        let key = world.key();
        match self.seen.get(&key) {
            Some(true) => return,
            Some(false) => panic!("a life that goes in a circle: {key:?}"),
            None => self.seen.insert(key.clone(), false),
        };
        world.laws();
        check_rest(world);
        for event in world.stale() {
            world.changes_nothing(&event);
        }
        let moves = moves(world);
        let after: Vec<World> = moves.iter().map(|step| step.make(world)).collect();
        if self.commutes {
            check_commute(&moves, &after);
        }
        for next in &after {
            self.visit(next);
        }
        if moves.is_empty() {
            self.ends.insert(world.task.state());
        }
        let mut cancelled = world.clone();
        if cancelled.apply(Event::Cancelled).is_ok_and(|decision| !decision.is_empty()) {
            self.visit(&cancelled);
        }
        let mut expired = world.clone();
        if !expired.apply(Event::Expired).expect("it never is refused").is_empty() {
            assert_eq!(expired.task.state(), TaskState::Error);
            self.visit(&expired);
        }
        self.seen.insert(key, true);
    }
}

/// Two moves of different steps lead to the same place in either order.
fn check_commute(moves: &[Move], after: &[World]) {
    for (a, after_a) in moves.iter().zip(after) {
        for (b, after_b) in moves.iter().zip(after) {
            if a.step() < b.step() && !(a.splits() && b.splits()) {
                assert_eq!(b.make(after_a).key(), a.make(after_b).key(), "{a:?} and {b:?}");
            }
        }
    }
}

/// Every graph of `steps` steps once: those that only differ in the names of their steps are one.
fn graphs(steps: usize) -> Vec<Vec<Vec<usize>>> {
    let pairs: Vec<(usize, usize)> =
        (0..steps).flat_map(|child| (0..child).map(move |parent| (parent, child))).collect();
    let mut known = BTreeSet::new();
    let mut graphs = Vec::new();
    for chosen in 0_u32..1 << pairs.len() {
        let edges: Vec<_> = pairs.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1).map(|(_, e)| *e).collect();
        let renamed = permutations(steps).into_iter().map(|names| {
            let edges = edges.iter().map(|(parent, child)| (names[*parent], names[*child]));
            edges.collect::<BTreeSet<_>>()
        });
        if known.insert(renamed.min().expect("one renaming at least")) {
            let parents_of = |child| edges.iter().filter(|(_, c)| *c == child).map(|(parent, _)| *parent).collect();
            graphs.push((0..steps).map(parents_of).collect());
        }
    }
    graphs
}

fn permutations(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(of - 1);
    let inserted = |rest: &Vec<usize>, at| [&rest[..at], &[of - 1], &rest[at..]].concat();
    shorter.iter().flat_map(|rest| (0..of).map(move |at| inserted(rest, at))).collect()
}

fn search(steps: usize, max_attempts: u32) -> usize {
    let policy = Policy { retryable: true, max_attempts, uses: false };
    let mut states = 0;
    for parents in graphs(steps) {
        let steps: Vec<_> = parents.into_iter().map(|parents| (parents, policy)).collect();
        let mut search = Search { seen: HashMap::new(), ends: BTreeSet::new(), commutes: true };
        search.visit(&started(&template(&steps)));
        let ends = [TaskState::BlockedByFailures, TaskState::Complete, TaskState::Error, TaskState::Cancelled];
        assert_eq!(search.ends, BTreeSet::from(ends), "every end is reached");
        states += search.seen.len();
    }
    states
}

#[test]
fn there_are_as_many_graphs_as_mathematics_says() {
    assert_eq!([1, 2, 3, 4].map(|steps| graphs(steps).len()), [1, 2, 6, 31]);
}

#[test]
fn every_life_of_every_graph_of_up_to_three_steps_keeps_the_laws() {
    for steps in 1..=3 {
        assert!(search(steps, 2) > 0);
    }
}

#[test]
fn every_life_of_every_graph_of_four_steps_keeps_the_laws() {
    assert!(search(4, 2) > 50_000, "as many states as branches and retries make");
}

#[test]
fn every_life_of_decisions_and_batches_keeps_the_laws() {
    for (name, steps, commutes) in plans() {
        let mut search = Search { seen: HashMap::new(), ends: BTreeSet::new(), commutes };
        search.visit(&started(&template_of(&steps)));
        let ends = [TaskState::BlockedByFailures, TaskState::Complete, TaskState::Error, TaskState::Cancelled];
        assert_eq!(search.ends, BTreeSet::from(ends), "{name}: every end is reached");
    }
}

/// The steps that a task has once it is complete, by the letters of its template's steps.
#[test]
fn what_is_created_follows_from_what_was_chosen() {
    let plans = plans();
    let steps = |name: &str| &plans.iter().find(|(n, ..)| *n == name).unwrap().1;
    for (name, chosen, expected) in [
        ("branches", &[(0, &[][..])][..], "C..C"),
        ("branches", &[(0, &[1])], "CC.C"),
        ("branches", &[(0, &[1, 2])], "CCCC"),
        ("a branch goes on", &[(0, &[1])], "CCC.C"),
        ("a branch goes on", &[(0, &[3])], "C..CC"),
        ("nested", &[(0, &[])], "C....C"),
        ("nested", &[(0, &[4])], "C...CC"),
        ("nested", &[(0, &[1]), (1, &[])], "CC.C.C"),
        ("nested", &[(0, &[1, 4]), (1, &[2])], "CCCCCC"),
        ("two decisions and a join", &[(0, &[2]), (1, &[])], "CCC..C"),
        ("two decisions and a join", &[(0, &[2]), (1, &[3])], "CCCCCC"),
        ("no convergence", &[(0, &[])], "C."),
    ] {
        let mut world = started(&template_of(steps(name)));
        loop {
            let Some(step) = world.held().map(|(step, _)| step).next() else { break };
            let choice = chosen.iter().find(|(decision, _)| StepIndex(*decision) == step);
            let follows = choice.map_or(Follows::Nothing, |(_, steps)| {
                Follows::Branches(steps.iter().copied().map(StepIndex).collect())
            });
            let event = world.report(step, Outcome::Success(follows)).unwrap();
            world.apply(event).unwrap();
        }
        assert_eq!(world.task.to_stored().steps, expected, "{name}: {chosen:?}");
        assert_eq!(world.task.state(), TaskState::Complete);
    }
}

#[test]
fn a_choice_that_can_t_be_made_fails_the_decision() {
    let plans = plans();
    for (name, chosen) in
        [("branches", 0), ("branches", 9), ("two decisions and a join", 3), ("two decisions and a join", 4)]
    {
        let mut world = started(&template_of(&plans.iter().find(|(n, ..)| *n == name).unwrap().1));
        let follows = Follows::Branches([StepIndex(chosen)].into());
        let event = world.report(StepIndex(0), Outcome::Success(follows)).unwrap();
        world.apply(event).unwrap();
        assert_eq!(world.task.step(StepIndex(0)), Some(StepState::Error), "{name}: {chosen}");
    }
}

#[test]
fn before_the_start_only_a_start_and_a_cancel_change_anything() {
    let policy = Policy { retryable: true, max_attempts: 2, uses: false };
    let world = World::new(&template(&[(vec![], policy), (vec![], policy)]));
    let step = StepIndex(0);
    world.laws();
    for event in [
        Event::StepReset { step },
        Event::StepResolved { step },
        Event::StepCompleted { step, follows: Follows::Nothing },
    ] {
        world.changes_nothing(&event);
    }
    for event in world.stale() {
        world.changes_nothing(&event);
    }
    let mut cancelled = world.clone();
    cancelled.apply(Event::Cancelled).unwrap();
    assert_eq!(cancelled.task.state(), TaskState::Cancelled);
    cancelled.changes_nothing(&Event::Started);
    assert_eq!(started(world.task.template()).task.count(StepState::Enqueued), 2);
}

/// One thing that happens in a random life. Numbers choose among what is there.
#[derive(Debug, Clone, Copy)]
enum Act {
    Report(usize, usize),
    Lose(usize),
    Due(usize),
    Park(usize),
    Again(usize),
    Stale(usize),
    Reset(usize),
    Resolve(usize),
    ByHand(usize),
    Cancel,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let any = any::<u16>().prop_map(usize::from);
    // Successes are half of the outcomes, so that large graphs are not blocked at once.
    let outcome = prop_oneof![4 => Just(0_usize), 2 => Just(1), 1 => Just(2), 1 => Just(3)];
    let act = prop_oneof![
        24 => (any.clone(), outcome).prop_map(|(at, outcome)| Act::Report(at, outcome)),
        4 => any.clone().prop_map(Act::Lose),
        4 => any.clone().prop_map(Act::Due),
        2 => any.clone().prop_map(Act::Park),
        4 => any.clone().prop_map(Act::Again),
        4 => any.clone().prop_map(Act::Stale),
        2 => any.clone().prop_map(Act::Reset),
        2 => any.clone().prop_map(Act::Resolve),
        1 => any.prop_map(Act::ByHand),
    ];
    // At most one cancel, in one life of four: nothing moves after it.
    let cancel = prop_oneof![3 => Just(None), 1 => (0_usize..120).prop_map(Some)];
    (prop::collection::vec(act, 0..120), cancel).prop_map(|(mut acts, cancel)| {
        if let Some(at) = cancel {
            acts.insert(at.min(acts.len()), Act::Cancel);
        }
        acts
    })
}

fn templates() -> impl Strategy<Value = Arc<Template>> {
    let policy = (prop::bool::weighted(0.9), 1_u32..=4, prop::bool::weighted(0.2));
    let policy = policy.prop_map(|(retryable, max_attempts, uses)| Policy { retryable, max_attempts, uses });
    (1_usize..=40).prop_flat_map(move |steps| {
        let edges = prop::collection::btree_set((0..steps, 0..steps), 0..=steps * 2);
        (prop::collection::vec(policy.clone(), steps), edges).prop_map(|(policies, edges)| {
            let parents_of = |child| edges.iter().filter(|(a, b)| a < b && *b == child).map(|(a, _)| *a).collect();
            let steps: Vec<_> = policies.into_iter().enumerate().map(|(at, policy)| (parents_of(at), policy)).collect();
            template(&steps)
        })
    })
}

/// The event that an act means now; `None` where there is nothing for it to happen to.
fn event(act: Act, world: &World, past: &[Event]) -> Option<Event> {
    let steps = world.task.steps().len();
    let held: Vec<StepIndex> = world.held().map(|(step, _)| step).collect();
    let one_held = |at: usize| held.get(at.checked_rem(held.len())?).copied();
    match act {
        Act::Report(at, outcome) => {
            let step = one_held(at)?;
            world.report(step, one_outcome(world, step, at, outcome))
        }
        Act::Lose(_) => None,
        Act::Due(at) => world.come_due(one_held(at)?),
        Act::Park(at) => world.park(one_held(at)?),
        Act::Again(at) => past.get(at.checked_rem(past.len())?).cloned(),
        Act::Stale(at) => {
            let stale = world.stale();
            stale.get(at.checked_rem(stale.len())?).cloned()
        }
        Act::Reset(at) => Some(Event::StepReset { step: failed(world, at)? }),
        Act::Resolve(at) => Some(Event::StepResolved { step: failed(world, at)? }),
        Act::ByHand(at) => {
            let step = StepIndex::from(at % steps);
            let Outcome::Success(follows) = one_outcome(world, step, at, 0) else { return None };
            Some(Event::StepCompleted { step, follows })
        }
        Act::Cancel => Some(Event::Cancelled),
    }
}

/// One of the successes where `outcome` is 0, else one of the failures.
fn one_outcome(world: &World, step: StepIndex, at: usize, outcome: usize) -> Outcome {
    let mut all = outcomes(world, step);
    let failures = all.split_off(all.len() - 3);
    if outcome == 0 { all.swap_remove(at % all.len()) } else { failures[outcome - 1].clone() }
}

fn failed(world: &World, at: usize) -> Option<StepIndex> {
    let states = world.task.steps().iter().enumerate();
    let failed: Vec<usize> = states.filter(|(_, state)| **state == StepState::Error).map(|(at, _)| at).collect();
    failed.get(at.checked_rem(failed.len())?).copied().map(StepIndex::from)
}

/// Lives through the acts. Reports and timers of the past come again as they were.
fn live(world: &mut World, acts: &[Act]) {
    let mut past = Vec::new();
    for act in acts {
        if let Act::Lose(at) = act {
            let claimable: Vec<StepIndex> = world.held().map(|(step, _)| step).collect();
            let step = at.checked_rem(claimable.len()).map(|at| claimable[at]);
            if let Some(step) = step.filter(|step| world.claim(*step).is_some_and(|(_, may_run)| may_run)) {
                world.lose(step);
            }
            continue;
        }
        let Some(event) = event(*act, world, &past) else { continue };
        let old = matches!(act, Act::Again(_) | Act::Stale(_));
        match world.apply(event.clone()) {
            Ok(decision) => assert!(!old || decision.is_empty(), "{event:?} came late: {decision:?}"),
            Err(_) => world.laws(),
        }
        // A forged nonce may be the true one later, so only what was heard is said again.
        if !old && matches!(event.cause(), Cause::Reported | Cause::Due | Cause::Admitted | Cause::Parked) {
            past.push(event);
        }
    }
}

/// Lets everything that is held happen, with outcomes from `outcome`, until nothing is.
fn run_to_rest(world: &mut World, mut outcome: impl FnMut() -> usize) {
    // A failed attempt may be followed by a timer, and a batchable step by three more steps.
    let most = |world: &World| (0..world.task.steps().len()).map(|at| world.task.limit(StepIndex::from(at)) + 1).sum();
    let attempts: u32 = most(world);
    for at in 0..=8 * attempts as usize {
        let Some((step, _)) = world.held().next() else { break };
        let report = |outcome| world.report(step, one_outcome(world, step, at, outcome));
        let event = world.come_due(step).or_else(|| report(outcome())).unwrap();
        world.apply(event).unwrap();
    }
    assert!(world.is_at_rest(), "a life without an operator ends");
    check_rest(world);
}

/// An operator resolves what failed, until the task is complete.
fn step_over_failures(world: &mut World) {
    while world.task.state() == TaskState::BlockedByFailures {
        let step = failed(world, 0).expect("a blocked task has a failed step");
        world.apply(Event::StepResolved { step }).unwrap();
        run_to_rest(world, || 0);
    }
}

/// Lives through the acts, then to the end. Whatever failed, an operator who steps over it lets the task complete.
fn lives_and_ends(template: &Arc<Template>, acts: &[Act], last: &[usize]) {
    let mut world = started(template);
    live(&mut world, acts);
    let mut last = last.iter().copied().cycle();
    run_to_rest(&mut world, || last.next().unwrap());
    let cancelled = world.task.state() == TaskState::Cancelled;
    step_over_failures(&mut world);
    assert_eq!(world.task.state(), if cancelled { TaskState::Cancelled } else { TaskState::Complete });
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(512, |cases| cases.parse().expect("PROPTEST_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_random_life_keeps_the_laws_and_ends(
        template in templates(),
        acts in acts(),
        last in prop::collection::vec(0..OUTCOMES.len(), 1..40),
    ) {
        lives_and_ends(&template, &acts, &last);
    }

    #[test]
    fn every_random_life_with_decisions_and_batches_keeps_the_laws_and_ends(
        template in random_plans(),
        acts in acts(),
        last in prop::collection::vec(0..OUTCOMES.len(), 1..40),
    ) {
        lives_and_ends(&template, &acts, &last);
    }

    #[test]
    fn events_of_different_steps_commute_in_random_lives(template in templates(), acts in acts()) {
        let mut world = started(&template);
        live(&mut world, &acts);
        let moves = moves(&world);
        // Two outcomes of some steps are enough: the small graphs try them all.
        let moves: Vec<Move> = moves.into_iter().step_by(3).take(12).collect();
        let after: Vec<World> = moves.iter().map(|step| step.make(&world)).collect();
        check_commute(&moves, &after);
    }
}
