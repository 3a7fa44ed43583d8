//! The laws of the lifecycle: on every small graph in every order of events, and on random large ones.
//!
//! [`World::apply`] holds the laws that are about one moment; here are those about whole lives: every life ends, and
//! steps do not disturb each other. `PROPTEST_CASES` sets how many random lives are tried.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proptest::prelude::*;
use tasker_lifecycle::template::Template;
use tasker_lifecycle::{Event, Outcome, StepIndex, StepState, TaskState};
use world::{LATER_MS, Policy, World, template};

const SOON: Outcome = Outcome::Failure { retryable: true, retry_after_ms: None };
const LATER: Outcome = Outcome::Failure { retryable: true, retry_after_ms: Some(LATER_MS) };
const PERMANENT: Outcome = Outcome::Failure { retryable: false, retry_after_ms: None };
const OUTCOMES: [Outcome; 4] = [Outcome::Success, SOON, LATER, PERMANENT];

/// What may happen next without an operator's repair.
#[derive(Debug, Clone, Copy)]
enum Move {
    Lose(StepIndex),
    Happen(Event),
}

impl Move {
    fn make(self, world: &World) -> World {
        let mut next = world.clone();
        match self {
            Self::Lose(step) => next.lose(step),
            Self::Happen(event) => {
                next.apply(event).expect("what is held can happen");
            }
        }
        next
    }

    fn step(self) -> Option<StepIndex> {
        match self {
            Self::Lose(step) | Self::Happen(Event::Reported { step, .. } | Event::Due { step, .. }) => Some(step),
            Self::Happen(_) => None,
        }
    }
}

fn moves(world: &World) -> Vec<Move> {
    let mut moves = Vec::new();
    for (step, _) in world.held() {
        moves.extend(world.come_due(step).map(Move::Happen));
        let Some((_, may_run)) = world.claim(step) else { continue };
        if may_run {
            moves.extend(OUTCOMES.into_iter().filter_map(|outcome| world.report(step, outcome)).map(Move::Happen));
            moves.push(Move::Lose(step));
        } else {
            moves.extend(world.report(step, Outcome::LeaseLost).map(Move::Happen));
        }
    }
    moves
}

fn started(template: &Arc<Template>) -> World {
    let mut world = World::new(template);
    world.apply(Event::Started).expect("a start always applies");
    world
}

/// A life without an operator is over exactly where the task is complete, cancelled or blocked.
fn check_rest(world: &World) {
    let state = world.task.state();
    let is_end = matches!(state, TaskState::Complete | TaskState::Cancelled | TaskState::BlockedByFailures);
    assert_eq!(world.is_at_rest(), is_end, "{state}: {:?}", world.task.steps());
    if state == TaskState::BlockedByFailures {
        assert!(world.task.count(StepState::Error) > 0, "blocked without a failure");
    }
    if !state.is_terminal() {
        return;
    }
    for at in 0..world.task.steps().len() {
        let step = StepIndex::from(at);
        for event in
            [Event::Started, Event::Cancelled, Event::StepReset { step }, Event::StepResolved { step }, Event::StepCompleted { step }]
        {
            world.changes_nothing(event);
        }
    }
}

/// Walks through every state that can be reached, each once.
struct Search {
    /// The states that were seen; `true` once everything behind them was.
    seen: HashMap<String, bool>,
    ends: BTreeSet<TaskState>,
}

impl Search {
    fn visit(&mut self, world: &World) {
        let key = world.key();
        match self.seen.get(&key) {
            Some(true) => return,
            Some(false) => panic!("a life that goes in a circle: {key}"),
            None => self.seen.insert(key.clone(), false),
        };
        check_rest(world);
        for event in world.stale() {
            world.changes_nothing(event);
        }
        let moves = moves(world);
        let after: Vec<World> = moves.iter().map(|step| step.make(world)).collect();
        check_commute(&moves, &after);
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
        self.seen.insert(key, true);
    }
}

/// Two moves of different steps lead to the same place in either order.
fn check_commute(moves: &[Move], after: &[World]) {
    for (a, after_a) in moves.iter().zip(after) {
        for (b, after_b) in moves.iter().zip(after) {
            if a.step() < b.step() {
                assert_eq!(b.make(after_a).key(), a.make(after_b).key(), "{a:?} and {b:?}");
            }
        }
    }
}

/// Every graph of `steps` steps once: those that only differ in the names of their steps are one.
fn graphs(steps: usize) -> Vec<Vec<Vec<usize>>> {
    let pairs: Vec<(usize, usize)> = (0..steps).flat_map(|child| (0..child).map(move |parent| (parent, child))).collect();
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
    let policy = Policy { retryable: true, max_attempts };
    let mut states = 0;
    for parents in graphs(steps) {
        let steps: Vec<_> = parents.into_iter().map(|parents| (parents, policy)).collect();
        let mut search = Search { seen: HashMap::new(), ends: BTreeSet::new() };
        search.visit(&started(&template(&steps)));
        let ends = [TaskState::BlockedByFailures, TaskState::Complete, TaskState::Cancelled];
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
    let n = search(4, 2);
    eprintln!("{n}");
}
