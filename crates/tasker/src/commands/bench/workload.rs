//! The five shapes that the benchmark runs, as templates.

use std::fmt::Write as _;

use clap::ValueEnum;

/// A shape of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// A chain of four
    Linear4,
    /// One, two beside each other, one
    Diamond4,
    /// One, a hundred beside each other, one
    Fan100,
    /// A mixed graph of seven
    Dag7,
    /// A tree of eight
    Tree8,
}

/// Namespace and name of the handler that does nothing.
pub(crate) const NAMESPACE: &str = "bench";
pub(crate) const HANDLER: &str = "bench.nothing";

impl Workload {
    /// The template's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linear4 => "linear4",
            Self::Diamond4 => "diamond4",
            Self::Fan100 => "fan100",
            Self::Dag7 => "dag7",
            Self::Tree8 => "tree8",
        }
    }

    /// Per step: the positions of its parents.
    pub(crate) fn parents(self) -> Vec<Vec<usize>> {
        match self {
            Self::Linear4 => vec![vec![], vec![0], vec![1], vec![2]],
            Self::Diamond4 => vec![vec![], vec![0], vec![0], vec![1, 2]],
            Self::Fan100 => {
                let leaves = std::iter::repeat_n(vec![0], 100);
                std::iter::once(vec![]).chain(leaves).chain([(1..=100).collect()]).collect()
            }
            Self::Dag7 => vec![vec![], vec![0], vec![0], vec![1, 2], vec![1], vec![2], vec![3, 4, 5]],
            Self::Tree8 => vec![vec![], vec![0], vec![0], vec![1], vec![1], vec![2], vec![2], vec![3, 4, 5, 6]],
        }
    }

    /// The template, YAML.
    pub(crate) fn template(self) -> String {
        let mut yaml = format!("name: {}\nnamespace_name: {NAMESPACE}\nversion: 1.0.0\nsteps:\n", self.name());
        for (at, parents) in self.parents().iter().enumerate() {
            let names: Vec<String> = parents.iter().map(|parent| format!("s{parent}")).collect();
            writeln!(yaml, "  - {{name: s{at}, handler: {HANDLER}, dependencies: [{}]}}", names.join(", "))
                .expect("a String takes all that is written");
        }
        yaml
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_a_template_of_its_shape() {
        for workload in Workload::value_variants() {
            let (template, _) = tasker_lifecycle::template::parse(&workload.template(), None).expect("valid");
            assert_eq!(template.steps.len(), workload.parents().len());
        }
    }
}
