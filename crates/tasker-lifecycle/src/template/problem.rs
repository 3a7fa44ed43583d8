//! What is wrong with a document: all of it at once, each with its place and its remedy.

use std::fmt;

use serde::Serialize;

/// The most problems that are listed; a document with more is broken as a whole.
pub(super) const MAX_PROBLEMS: usize = 100;

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of problem it is; stable.
    pub code: &'static str,
    /// Where, such as `steps[2].retry.max_attempts`; empty for the document as a whole.
    pub path: String,
    /// Counted from 1; unknown for JSON.
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Something that is accepted but may not be what the author meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Where, such as `task_handler`.
    pub path: String,
    /// Counted from 1; unknown for JSON.
    pub line: Option<u32>,
    /// What to know.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} [{}]; {}", self.message, self.code, self.remedy)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The problems and warnings found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

impl Findings {
    /// Whether more problems are worth looking for.
    pub(super) fn full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    pub(super) fn add(
        &mut self,
        code: &'static str,
        (at, line): Place<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if !self.full() {
            let (message, remedy) = (message.into(), remedy.into());
            self.problems.push(Problem { code, path: at.to_string(), line, message, remedy });
        }
    }

    pub(super) fn warn(&mut self, (at, line): Place<'_>, message: &str) {
        if self.warnings.len() < MAX_PROBLEMS {
            self.warnings.push(Warning { path: at.to_string(), line, message: message.into() });
        }
    }
}

/// A path and a line.
pub(super) type Place<'a> = (&'a dyn fmt::Display, Option<u32>);

/// A path in a document: links up the call stack, written out only when something is wrong there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// The remedy for a word that is none of `known`: the nearest one, else the list.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    /// Comparing with more words costs more time than a hint is worth.
    const MAX_COMPARED: usize = 2000;
    let known: Vec<&str> = known.into_iter().take(MAX_COMPARED).collect();
    let near = known
        .iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= (word.chars().count() / 3).max(1));
    match near {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None if known.is_empty() => "remove it".into(),
        None if known.len() <= 16 => format!("use one of: {}", known.join(", ")),
        None => format!("use one of the {} that are there", known.len()),
    }
}
