//! How a command ends: its exit status, and what is said about a failure.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use tasker_client::ClientError;

use crate::output::Output;

/// How a command that ran to its end turned out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    /// What was asked for is done.
    Done,
    /// It is not, and the output says why.
    Failed,
}

impl Status {
    pub(crate) fn done_if(done: bool) -> Self {
        if done { Self::Done } else { Self::Failed }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        match status {
            Status::Done => Self::SUCCESS,
            Status::Failed => Self::from(1),
        }
    }
}

/// Why a command could not run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The server could not do it, or there is none.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The arguments are wrong; the message names the remedy.
    #[error("{0}")]
    Usage(String),
    /// It failed; the message names the remedy.
    #[error("{0}")]
    Failed(String),
    /// The configuration is wrong, and without it there is no way to go on.
    #[error("the configuration is wrong:\n{0}")]
    Config(#[source] tasker_shared::config::Errors),
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The answer can't be written.
    #[error("the answer can't be written: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub(crate) fn file(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File { path: path.into(), source }
    }

    /// Says on standard error what went wrong and gives the exit status.
    pub(crate) fn report(&self, output: &Output) -> ExitCode {
        // `tasker … | head` is no failure.
        if matches!(self, Self::Output(error) if error.kind() == ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        if output.json() {
            eprintln!("{}", self.as_json());
        } else {
            match self.remedy() {
                Some(remedy) => eprintln!("error: {self}; {remedy}"),
                None => eprintln!("error: {self}"),
            }
            if let Some(details) = self.details() {
                eprintln!("{details:#}");
            }
        }
        let usage = matches!(self, Self::Usage(_) | Self::Client(ClientError::Address { .. }));
        ExitCode::from(if usage { 2 } else { 1 })
    }

    /// The body of a server's refusal, or one of the same shape.
    fn as_json(&self) -> Value {
        if let Self::Client(ClientError::Api { body, .. }) = self {
            return json!(body);
        }
        let code = match self {
            Self::Client(ClientError::Unreachable { .. }) => "UNREACHABLE",
            Self::Client(ClientError::Timeout { .. }) => "TIMEOUT",
            Self::Client(ClientError::Decode { .. }) => "DECODE",
            Self::Client(ClientError::Address { .. }) | Self::Usage(_) => "USAGE",
            Self::Client(ClientError::Api { .. }) | Self::Failed(_) => "FAILED",
            Self::Config(_) => "CONFIG",
            Self::File { .. } => "FILE",
            Self::Output(_) => "OUTPUT",
        };
        json!({"error": {"code": code, "message": self.to_string(), "details": {"remedy": self.remedy()}}})
    }

    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Client(ClientError::Unreachable { .. }) => {
                Some("start one with `tasker server`, or name another with --url or TASKER_ORCHESTRATION_URL")
            }
            Self::Client(ClientError::Timeout { .. }) => Some("see how it is with `tasker system health`"),
            Self::Client(ClientError::Address { .. }) => Some("correct --url or TASKER_ORCHESTRATION_URL"),
            Self::Client(ClientError::Decode { .. }) => {
                Some("is --url that of a Tasker server, and of about the version of this command?")
            }
            Self::Client(ClientError::Api { .. })
            | Self::Usage(_)
            | Self::Failed(_)
            | Self::Config(_)
            | Self::File { .. }
            | Self::Output(_) => None,
        }
    }

    fn details(&self) -> Option<&Value> {
        let Self::Client(ClientError::Api { body, .. }) = self else { return None };
        let details = &body.error.details;
        details.as_object().is_some_and(|details| !details.is_empty()).then_some(details)
    }
}
