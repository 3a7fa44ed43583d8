//! The workers of all languages on the same workflows: what has to come of each, and equal results byte by byte. See
//! `conformance/README.md`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
mod generated;
mod handlers;
mod side;

use std::collections::BTreeMap;

use tasker_shared::testing::workers_of_other_languages;

use crate::cases::{Case, During, Found};
use crate::side::Side;

/// The results of a language by case and step, as canonical JSON.
type Results = BTreeMap<(String, String), String>;

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_every_language_make_the_same_of_the_same_workflows() {
    let cases = cases::read();
    let rust = results_of("rust", &handlers::command(), &cases).await;
    for (language, command) in workers_of_other_languages("conformance") {
        let theirs = results_of(&language, &command, &cases).await;
        for (place, expected) in &rust {
            assert_eq!(theirs.get(place), Some(expected), "{language} and rust differ in {place:?}");
        }
        assert_eq!(theirs.len(), rust.len(), "{language} has results that rust has not");
    }
}

/// The worker of the case above, in a process of its own: runs until it is ended.
#[test]
#[ignore = "is started by the test above, as a process of its own"]
fn worker_in_rust() {
    handlers::run();
}

/// Runs all cases with the workers of one language.
async fn results_of(language: &str, command: &str, cases: &[Case]) -> Results {
    let mut side = Side::start(language, command).await;
    let (mut results, mut wrong) = (Results::new(), Vec::new());
    let mut keep = |case: &Case, (found, differs): (BTreeMap<String, Found>, Vec<String>)| {
        wrong.extend(differs);
        let canonical = |(step, found): (String, Found)| Some(((case.name.clone(), step), found.canonical()?));
        results.extend(found.into_iter().filter_map(canonical));
    };
    // Those whose worker dies come last and alone: a step that ends its process uses up an attempt of its neighbours.
    let (alone, together): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.during == Some(During::Restart));
    let mut tasks = Vec::new();
    for case in together {
        tasks.push((case, side.create(case).await));
    }
    for (_, task) in tasks.iter().filter(|(case, _)| case.during == Some(During::Cancel)) {
        side.cancel_when_started(*task).await;
    }
    for (case, task) in tasks {
        keep(case, side.rests(case, task).await);
    }
    assert!(side.completes_generated().await, "{language}: generated handlers do not run: {}", side.log());
    for case in alone {
        let task = side.create(case).await;
        side.restart_when_it_has_ended().await;
        keep(case, side.rests(case, task).await);
    }
    assert!(wrong.is_empty(), "{language}:\n{}\n{}", wrong.join("\n"), side.log());
    side.end().await;
    println!("{language}: {} cases, {} results", cases.len(), results.len());
    results
}
