//! The graph of a template: who waits for whom.
//!
//! Immutable and flat (compressed rows), so that a graph of 100,000 steps costs a handful of allocations
//! and a look-up costs two array reads. Names live in the template; here are only positions.

use std::collections::HashSet;

use crate::ids::StepIndex;

/// A directed acyclic graph over the steps 0, 1, 2, …
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dag {
    parents: Rows,
    children: Rows,
    order: Vec<StepIndex>,
    rank: Vec<u32>,
}

/// Steps that wait for each other: each waits for the next, and the last for the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("steps {steps:?} wait for each other")]
pub struct Cycle {
    /// The steps of one cycle, each once.
    pub steps: Vec<StepIndex>,
}

impl Dag {
    /// Builds the graph from the parents of each step, kept in the given order.
    ///
    /// # Errors
    /// One cycle, where there is any.
    ///
    /// # Panics
    /// Where a parent is not a step: names are resolved to positions before.
    pub fn new(parents: &[Vec<StepIndex>]) -> Result<Self, Cycle> {
        let parents = Rows::new(parents);
        let children = parents.reversed();
        let order = topological(&parents, &children);
        if order.len() < parents.len() {
            return Err(find_cycle(&parents, &order));
        }
        let mut rank = vec![0; order.len()];
        for (step, place) in order.iter().zip(0_u32..) {
            rank[step.at()] = place;
        }
        Ok(Self { parents, children, order, rank })
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there is no step at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The steps that `step` waits for, as declared.
    #[must_use]
    pub fn parents(&self, step: StepIndex) -> &[StepIndex] {
        self.parents.row(step)
    }

    /// The steps that wait for `step`, in ascending order.
    #[must_use]
    pub fn children(&self, step: StepIndex) -> &[StepIndex] {
        self.children.row(step)
    }

    /// The steps that wait for nothing, in ascending order.
    pub fn roots(&self) -> impl Iterator<Item = StepIndex> + '_ {
        (0..self.len()).map(StepIndex::from).filter(|step| self.parents(*step).is_empty())
    }

    /// Every step, parents before children.
    #[must_use]
    pub fn topological(&self) -> &[StepIndex] {
        &self.order
    }

    /// Every step that `step` waits for, directly or not, parents before children.
    #[must_use]
    pub fn ancestors(&self, step: StepIndex) -> Vec<StepIndex> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut next = 0;
        let mut at = Some(step);
        while let Some(child) = at {
            found.extend(self.parents(child).iter().filter(|parent| seen.insert(**parent)));
            at = found.get(next).copied();
            next += 1;
        }
        found.sort_unstable_by_key(|ancestor| self.rank[ancestor.at()]);
        found
    }
}

/// Lists of steps by step, in one vector: row `i` lies between `starts[i]` and `starts[i + 1]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rows {
    starts: Vec<u32>,
    steps: Vec<StepIndex>,
}

impl Rows {
    fn new(rows: &[Vec<StepIndex>]) -> Self {
        let mut starts = Vec::with_capacity(rows.len() + 1);
        let mut steps = Vec::with_capacity(rows.iter().map(Vec::len).sum());
        starts.push(0);
        for row in rows {
            assert!(row.iter().all(|step| step.at() < rows.len()), "a parent is a step");
            steps.extend_from_slice(row);
            starts.push(count(steps.len()));
        }
        Self { starts, steps }
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn row(&self, step: StepIndex) -> &[StepIndex] {
        &self.steps[self.starts[step.at()] as usize..self.starts[step.at() + 1] as usize]
    }

    /// The same edges, seen from the other end.
    fn reversed(&self) -> Self {
        let mut starts = vec![0_u32; self.len() + 1];
        for step in &self.steps {
            starts[step.at() + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut free = starts.clone();
        let mut steps = vec![StepIndex(0); self.steps.len()];
        for from in (0..self.len()).map(StepIndex::from) {
            for to in self.row(from) {
                steps[free[to.at()] as usize] = from;
                free[to.at()] += 1;
            }
        }
        Self { starts, steps }
    }
}

fn count(edges: usize) -> u32 {
    u32::try_from(edges).expect("documents are limited to far fewer than 2^32 dependencies")
}

/// Kahn's algorithm. Steps on a cycle, and what follows from them, are missing from the result.
fn topological(parents: &Rows, children: &Rows) -> Vec<StepIndex> {
    let mut waiting: Vec<usize> = (0..parents.len()).map(|at| parents.row(StepIndex::from(at)).len()).collect();
    let mut order: Vec<StepIndex> = (0..parents.len()).filter(|at| waiting[*at] == 0).map(StepIndex::from).collect();
    let mut next = 0;
    while let Some(step) = order.get(next).copied() {
        next += 1;
        for child in children.row(step) {
            waiting[child.at()] -= 1;
            if waiting[child.at()] == 0 {
                order.push(*child);
            }
        }
    }
    order
}

/// Walks from a step that could not be ordered to parents that could not either, until one comes again.
fn find_cycle(parents: &Rows, ordered: &[StepIndex]) -> Cycle {
    let mut is_ordered = vec![false; parents.len()];
    for step in ordered {
        is_ordered[step.at()] = true;
    }
    let first = is_ordered.iter().position(|ordered| !ordered).expect("a step is missing");
    let mut place = vec![None; parents.len()];
    let mut walk: Vec<StepIndex> = Vec::new();
    let mut step = StepIndex::from(first);
    while place[step.at()].is_none() {
        place[step.at()] = Some(walk.len());
        walk.push(step);
        let mut blocked = parents.row(step).iter().filter(|parent| !is_ordered[parent.at()]);
        step = *blocked.next().expect("an unordered step has an unordered parent");
    }
    Cycle { steps: walk.split_off(place[step.at()].expect("the loop ended here")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dag(parents: &[&[u32]]) -> Result<Dag, Cycle> {
        let rows: Vec<Vec<StepIndex>> =
            parents.iter().map(|row| row.iter().copied().map(StepIndex).collect()).collect();
        Dag::new(&rows)
    }

    fn numbers(steps: impl IntoIterator<Item = StepIndex>) -> Vec<u32> {
        steps.into_iter().map(|step| step.0).collect()
    }

    #[test]
    fn a_diamond_is_seen_from_both_ends() {
        let dag = dag(&[&[], &[0], &[0], &[2, 1], &[]]).expect("acyclic");
        assert_eq!(dag.len(), 5);
        assert_eq!(numbers(dag.parents(StepIndex(3)).to_vec()), [2, 1]);
        assert_eq!(numbers(dag.children(StepIndex(0)).to_vec()), [1, 2]);
        assert_eq!(numbers(dag.roots()), [0, 4]);
        assert_eq!(numbers(dag.ancestors(StepIndex(3))), [0, 1, 2]);
        assert_eq!(numbers(dag.ancestors(StepIndex(4))), [0; 0]);
    }

    #[test]
    fn a_cycle_is_named_without_what_merely_follows_it() {
        for (parents, expected) in [
            (&[&[0][..]][..], &[0][..]),
            (&[&[][..], &[0, 3], &[1], &[2], &[3]], &[1, 3, 2]),
            (&[&[1][..], &[2], &[3], &[2]], &[2, 3]),
        ] {
            let cycle = dag(parents).expect_err("cyclic");
            assert_eq!(numbers(cycle.steps), expected, "{parents:?}");
        }
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let rows: Vec<Vec<StepIndex>> =
            (0..100_000_usize).map(|at| at.checked_sub(1).map(StepIndex::from).into_iter().collect()).collect();
        let dag = Dag::new(&rows).expect("acyclic");
        assert_eq!(dag.ancestors(StepIndex(99_999)).len(), 99_999);
    }

    proptest! {
        #[test]
        fn ancestors_are_the_transitive_parents(edges in prop::collection::vec((0_u32..12, 0_u32..12), 0..30)) {
            let mut rows = vec![Vec::new(); 12];
            for (a, b) in edges {
                let (parent, child) = (a.min(b), a.max(b));
                if parent != child && !rows[child as usize].contains(&StepIndex(parent)) {
                    rows[child as usize].push(StepIndex(parent));
                }
            }
            let dag = Dag::new(&rows).expect("edges go up");
            let place = |step: StepIndex| dag.topological().iter().position(|s| *s == step);
            for child in (0..12).map(StepIndex) {
                let found = dag.ancestors(child);
                let mut expected: HashSet<StepIndex> = rows[child.at()].iter().copied().collect();
                for parent in &rows[child.at()] {
                    expected.extend(dag.ancestors(*parent));
                    prop_assert!(place(*parent) < place(child));
                    prop_assert!(dag.children(*parent).contains(&child));
                }
                prop_assert_eq!(found.iter().copied().collect::<HashSet<_>>(), expected);
                prop_assert!(found.is_sorted_by_key(|step| place(*step)));
            }
        }
    }
}
