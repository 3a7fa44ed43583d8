//! What can be wrong with a configuration, each with the place to mend it.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The built-in default.
    Default,
    /// A file, as it was opened, and the line in it, counted from 1.
    File(PathBuf, usize),
    /// A file or folder as a whole.
    Path(PathBuf),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path, line) => write!(f, "{}:{line}", path.display()),
            Source::Path(path) => write!(f, "{}", path.display()),
            Source::Variable(name) => write!(f, "${name}"),
        }
    }
}

/// One thing that is wrong. It has no variants, because there is one thing to do about it: mend the place it
/// names. The value of a secret key never appears in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Error {
    /// The place.
    pub at: Source,
    /// What is wrong there.
    pub what: String,
}

impl Error {
    pub(super) fn new(at: Source, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }

    pub(super) fn unknown(at: Source, what: &str, name: &str, suggestion: Option<&str>) -> Self {
        let hint = suggestion.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        Self { at, what: format!("unknown {what} `{name}`{hint}") }
    }
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Errors(pub Vec<Error>);
