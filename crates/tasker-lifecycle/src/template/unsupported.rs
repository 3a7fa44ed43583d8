//! What a template may say and this version of the engine does not act on.

use super::model::{StepTemplate, Template};
use super::problem::{Findings, Path, Problem};

pub(super) fn find(template: &Template) -> Vec<Problem> {
    let mut out = Findings::default();
    let root = Path::Root;
    let steps = Path::Key(&root, "steps");
    for (index, step) in template.steps.iter().enumerate() {
        if out.full() {
            break;
        }
        find_in_step(step, &Path::Item(&steps, index), &mut out);
    }
    out.problems
}

fn find_in_step(step: &StepTemplate, at: &Path<'_>, out: &mut Findings) {
    if !step.uses.is_empty() {
        refuse(&Path::Key(at, "uses"), "shared resources are not limited yet", out);
    }
}

fn refuse(at: &Path<'_>, message: &str, out: &mut Findings) {
    out.add("unsupported", (at, None), message, "remove it");
}
