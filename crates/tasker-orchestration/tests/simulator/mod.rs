//! Lives in which everything goes wrong: the actors themselves over a database and queues in memory, several servers
//! and workers, and one scheduler that may let any of them die, wait or be misled between any two statements.
//!
//! One seed is one life. `SIMULATOR_SEED=N` lives that one alone and tells of it, `SIMULATOR_LIVES=N` more of them than usual.
//! A part of the crate, so that the actors' own transactions run.

#![allow(clippy::unwrap_used, reason = "tests")]

mod checks;
mod ledger;
mod life;
mod memory;
mod queues;
mod rows;
mod server;
mod workers;
mod world;

use std::collections::BTreeMap;

use checks::Broken;
use life::Life;
use rand::SeedableRng;
use rand::rngs::StdRng;
use server::Outside;
use world::World;

use crate::advance::conformance::random_template;

const LEASE_MS: u64 = 60_000;
/// A wait that goes to the due-time table.
const LATER_MS: u64 = 100_000;
const LIVES: u64 = 2_000;

/// What is left out of the world to see that the checks see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// A report deletes the ticket of its message number, whoever holds it.
    FenceKnowsOnlyTheMessage,
    /// Messages are sent although their transaction is rolled back.
    MessagesGoBeforeTheCommit,
    /// A snapshot is used whatever the locked row's version is.
    AnyVersionWillDo,
    /// Tasks are read without a lock.
    TasksAreNotLocked,
    /// Nobody looks for attempts whose message was lost.
    NothingIsSwept,
}

/// What must have happened in the lives of one run.
const EVERYTHING: [&str; 25] = [
    "a resource held a step",
    "a breaker opened",
    "a ticket was taken back",
    "a statement failed",
    "a commit that failed was not known to",
    "a commit that succeeded was not known to",
    "a task was not as it was expected",
    "a ticket was not as it was expected",
    "a server died",
    "a server died between two statements",
    "a worker died",
    "a worker was paused beyond its lease",
    "the clock jumped",
    "the answer to a claim was lost",
    "a message came late",
    "a message came twice",
    "a result message was lost",
    "a stranger in the result queue",
    "a message that nobody can read",
    "a late report was refused",
    "a report came again",
    "a report was accepted",
    "a step ran again",
    "a step was handed over",
    "a command was carried out",
];

#[test]
fn whatever_goes_wrong_every_task_comes_to_rest_and_no_invariant_breaks() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let outside = Outside::new();
    let one = number("SIMULATOR_SEED");
    let seeds = one.map_or(0..number("SIMULATOR_LIVES").unwrap_or(LIVES), |seed| seed..seed + 1);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in seeds {
        let (lived, saw, _) = live(&outside, seed, None, one.is_some());
        lived.unwrap_or_else(|broken| panic!("{}", said(seed, &broken)));
        for (what, times) in saw {
            *seen.entry(what).or_default() += times;
        }
    }
    println!("{seen:#?}");
    let missing: Vec<_> = EVERYTHING.iter().filter(|what| !seen.contains_key(**what)).collect();
    assert!(one.is_some() || missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn a_seed_brings_the_same_life_again() {
    let outside = Outside::new();
    for seed in 0..20 {
        let life = || {
            let (_, seen, story) = live(&outside, seed, None, false);
            (seen, story)
        };
        assert_eq!(life(), life(), "seed {seed}");
    }
}

#[test]
fn a_fence_that_knows_only_the_message_is_seen() {
    breaks(Mutant::FenceKnowsOnlyTheMessage, &["I4"]);
}

#[test]
fn messages_that_go_before_the_commit_are_seen() {
    breaks(Mutant::MessagesGoBeforeTheCommit, &["I10", "I20"]);
}

#[test]
fn a_cache_that_compares_no_versions_is_seen() {
    breaks(Mutant::AnyVersionWillDo, &["I20", "I11", "I10"]);
}

#[test]
fn tasks_that_are_not_locked_are_seen() {
    breaks(Mutant::TasksAreNotLocked, &["I20", "I10"]);
}

#[test]
fn a_result_message_that_nobody_looks_for_is_seen() {
    breaks(Mutant::NothingIsSwept, &["I11"]);
}

/// Of the first lives with this mutant one breaks one of these invariants first.
fn breaks(mutant: Mutant, invariants: &[&str]) {
    let outside = Outside::new();
    let first = (0..300).find_map(|seed| live(&outside, seed, Some(mutant), false).0.err());
    let (invariant, why) = first.unwrap_or_else(|| panic!("{mutant:?} was not seen"));
    println!("{mutant:?}: {invariant}: {why}");
    assert!(invariants.contains(&invariant), "{mutant:?} was seen as {invariant}: {why}");
}

/// How a life ended, how often what happened in it, and what was told of its tasks.
type Lived = (Result<(), Broken>, BTreeMap<&'static str, usize>, String);

fn said(seed: u64, (invariant, why): &Broken) -> String {
    format!("{invariant} does not hold: {why}\nThe same life again: SIMULATOR_SEED={seed} cargo nextest run simulator")
}

fn live(outside: &Outside, seed: u64, mutant: Option<Mutant>, is_told: bool) -> Lived {
    let _entered = outside.runtime.enter();
    let template = random_template(&mut StdRng::seed_from_u64(seed));
    let mut world = World::new(seed, template.into(), mutant);
    world.is_told = is_told;
    let mut life = Life::begin(outside, world);
    let lived = life.live();
    life.memory.with(|world| (lived, std::mem::take(&mut world.seen), world.story()))
}
