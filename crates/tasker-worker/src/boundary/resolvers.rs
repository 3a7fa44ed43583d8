//! What resolvers on the other side know. Nothing calls them: a worker that meets a handler it was never asked for puts
//! the question on the desk, knows nothing until it is answered, and looks again then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

/// Handlers that a worker remembers answers about. They are those that templates call.
const MOST: usize = 10_000;

/// Whether a resolver has a handler with this method.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Question {
    pub(super) resolver: Arc<str>,
    pub(super) callable: String,
    pub(super) method: String,
}

/// The answer to a question.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answered {
    resolver: String,
    callable: String,
    method: String,
    found: bool,
}

/// What was asked, each with its answer once it is there.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<Question, Option<bool>>>);

/// What is known about a handler.
pub(super) enum Found {
    Yes,
    No,
    /// Nobody has asked: this has to be.
    Ask,
}

impl Known {
    /// Whether the resolver has it; what is asked and not answered is not there yet.
    pub(super) fn find(&self, question: &Question) -> Found {
        let mut known = self.0.lock().expect("no panic while held");
        match known.get(question) {
            Some(answer) if answer.unwrap_or(false) => Found::Yes,
            Some(_) => Found::No,
            None if known.len() >= MOST => Found::No,
            None => {
                known.insert(question.clone(), None);
                Found::Ask
            }
        }
    }

    /// Takes answers to what was asked; answers whether there is a handler more.
    pub(super) fn answer(&self, answers: Vec<Answered>) -> bool {
        let mut known = self.0.lock().expect("no panic while held");
        let mut more = false;
        for Answered { resolver, callable, method, found } in answers {
            let question = Question { resolver: resolver.into(), callable, method };
            if let Some(answer @ None) = known.get_mut(&question) {
                *answer = Some(found);
                more |= found;
            }
        }
        more
    }
}
