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
    let handler = Path::Key(at, "handler");
    if let Some(method) = &step.handler.method {
        let message = format!("the method `{method}` is not called; every handler's `call` is");
        refuse(&Path::Key(&handler, "method"), &message, out);
    }
    if let Some(resolver) = &step.handler.resolver {
        let message = format!("the resolver `{resolver}` is not asked; handlers are found by their names");
        refuse(&Path::Key(&handler, "resolver"), &message, out);
    }
}

fn refuse(at: &Path<'_>, message: &str, out: &mut Findings) {
    out.add("unsupported", (at, None), message, "remove it");
}
