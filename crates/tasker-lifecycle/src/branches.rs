//! What follows from a decision: which steps of the template become steps of the task, and which never will.
//!
//! A decision creates the steps that it names. What follows from created steps is created with them. A convergence of
//! the deferred kind is created as soon as one of its parents is, or once all that could have created one has ended; it
//! then waits for those that were created. A convergence inside of a branch that was not taken is not created either.

use std::collections::HashSet;

use crate::ids::StepIndex;
use crate::state::StepState;
use crate::task::Task;
use crate::template::StepKind;

/// What a decision leads to for one step that was not created before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is a step of the task now.
    Created,
    /// It never will be.
    Skipped,
}

/// A decision that names a step which it can't create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadBranch;

/// Whether a step of the template is a step of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    Maybe,
    /// `offered`: some decision that did run could have created it, or what comes before it.
    Never {
        offered: bool,
    },
}

/// The fates of the steps behind `decision` once it has chosen, in the order of the graph.
pub(crate) fn follow(
    task: &Task,
    decision: StepIndex,
    chosen: &[StepIndex],
) -> Result<Vec<(StepIndex, Fate)>, BadBranch> {
    let walk = Walk { task, decision, chosen: chosen.iter().copied().collect() };
    let dag = &task.template().dag;
    let mut presence = vec![Presence::Here; dag.len()];
    let mut behind = vec![false; dag.len()];
    let mut fates = Vec::new();
    for step in dag.topological().iter().copied() {
        behind[step.at()] = step == decision || dag.parents(step).iter().any(|parent| behind[parent.at()]);
        let before = task.steps()[step.at()];
        presence[step.at()] = if before.exists() { Presence::Here } else { walk.presence(step, &presence) };
        let is_pattern = task.template().step(step).kind == StepKind::BatchWorker;
        match (before, presence[step.at()]) {
            // A pattern is skipped only once its batches are there, or where its batchable step never is.
            (StepState::NotCreated, Presence::Here) if !is_pattern => fates.push((step, Fate::Created)),
            (StepState::NotCreated, Presence::Never { .. }) => fates.push((step, Fate::Skipped)),
            _ => {}
        }
    }
    let here = |step: &StepIndex| presence[step.at()] == Presence::Here;
    let creatable = |step: &StepIndex| {
        let is_behind = step.at() < dag.len() && behind[step.at()] && *step != decision;
        is_behind
            && match task.template().step(*step).kind {
                StepKind::BatchWorker => false,
                StepKind::DeferredConvergence => true,
                StepKind::Standard | StepKind::Decision | StepKind::Batchable => {
                    here(step) && dag.parents(*step).iter().all(here)
                }
            }
    };
    if chosen.iter().all(creatable) { Ok(fates) } else { Err(BadBranch) }
}

struct Walk<'a> {
    task: &'a Task,
    decision: StepIndex,
    chosen: HashSet<StepIndex>,
}

impl Walk<'_> {
    /// Of a step that was not created before, from what is known of its parents.
    fn presence(&self, step: StepIndex, known: &[Presence]) -> Presence {
        let template = self.task.template();
        let parents = template.dag.parents(step);
        let of = |parent: &StepIndex| known[parent.at()];
        let offered = || parents.iter().any(|parent| of(parent) == Presence::Never { offered: true });
        let (any_here, any_maybe, any_never) = (
            parents.iter().any(|parent| of(parent) == Presence::Here),
            parents.iter().any(|parent| of(parent) == Presence::Maybe),
            parents.iter().any(|parent| matches!(of(parent), Presence::Never { .. })),
        );
        if template.step(step).kind == StepKind::DeferredConvergence {
            return match (any_here, any_maybe) {
                (true, _) => Presence::Here,
                (false, true) => Presence::Maybe,
                (false, false) if offered() => Presence::Here,
                (false, false) => Presence::Never { offered: false },
            };
        }
        let was_skipped = self.task.steps()[step.at()] == StepState::Skipped;
        if self.chosen.contains(&step) && !was_skipped {
            return Presence::Here;
        }
        let is_decision = |parent: &&StepIndex| template.step(**parent).kind == StepKind::Decision;
        let decisions = || parents.iter().filter(is_decision);
        if decisions().next().is_none() {
            return match (any_never, any_maybe) {
                (true, _) => Presence::Never { offered: offered() },
                (false, true) => Presence::Maybe,
                (false, false) => Presence::Here,
            };
        }
        let closed = |parent: &StepIndex| match of(parent) {
            Presence::Here => *parent == self.decision || self.task.steps()[parent.at()].satisfies(),
            Presence::Never { .. } => true,
            Presence::Maybe => false,
        };
        let out_of_reach = |parent: &StepIndex| matches!(of(parent), Presence::Never { .. });
        if decisions().all(closed) {
            Presence::Never { offered: decisions().any(|parent| of(parent) == Presence::Here) }
        } else if parents.iter().filter(|parent| !is_decision(parent)).any(out_of_reach) {
            Presence::Never { offered: offered() }
        } else {
            Presence::Maybe
        }
    }
}
