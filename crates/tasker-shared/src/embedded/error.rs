//! What can go wrong with the private PostgreSQL, by what its user can do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the private PostgreSQL does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// No server binaries on this machine.
    #[error(
        "no PostgreSQL server (15 or newer) found on this machine. Install one:\n    {install}\nor name the folder of its binaries in TASKER_PG_BIN, or a running server in DATABASE_URL"
    )]
    NoBinaries {
        /// The command that installs them here.
        install: &'static str,
    },
    /// The folder that was named holds no usable server.
    #[error("{folder} holds no usable PostgreSQL server: {reason}. Correct TASKER_PG_BIN or leave it out")]
    BadBinaries {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data belong to another major version than the binaries found.
    #[error(
        "the data in {data_dir} were made by PostgreSQL {data}, which is not on this machine (found: {found}). Install postgresql-{data}, or move the folder away to begin with an empty one"
    )]
    OtherVersion {
        /// The folder of the data.
        data_dir: PathBuf,
        /// Their major version.
        data: u32,
        /// The versions that were found.
        found: String,
    },
    /// Root needs an unprivileged user to run the server, and there is none.
    #[error(
        "PostgreSQL refuses to run as root, and neither the user `postgres` nor `nobody` exists. Create one: useradd --system postgres"
    )]
    NoUser,
    /// The user of the server cannot enter the data folder.
    #[error(
        "PostgreSQL refuses to run as root, and the user with id {uid}, who runs it instead, cannot enter {folder}. Choose another folder with TASKER_DATA_DIR, for example /var/lib/tasker/postgres"
    )]
    NotReachable {
        /// The folder.
        folder: PathBuf,
        /// The user who runs the server.
        uid: u32,
    },
    /// The cluster could not be made.
    #[error("initdb failed in {folder}:\n{output}")]
    InitFailed {
        /// The folder.
        folder: PathBuf,
        /// What initdb said.
        output: String,
    },
    /// The server ended before it was ready.
    #[error("PostgreSQL did not start; the end of {log_path}:\n{log}")]
    StartFailed {
        /// The last lines of its log.
        log: String,
        /// The log.
        log_path: PathBuf,
    },
    /// The server is not ready in time.
    #[error("PostgreSQL was not ready within {limit:?}; see {log_path}")]
    StartTimedOut {
        /// The limit.
        limit: Duration,
        /// The log.
        log_path: PathBuf,
    },
    /// The server does not end.
    #[error("PostgreSQL (process {pid}) did not stop within 30 s")]
    StopTimedOut {
        /// The process that still runs.
        pid: u32,
    },
    /// Only the process that started a server may crash or restart it.
    #[error("this PostgreSQL was started by another process")]
    NotOurs,
    /// The operating system refused something.
    #[error("cannot {action} {target}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        target: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// Names what was tried, for `map_err`.
pub(super) fn io(action: &'static str, target: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> EmbeddedError {
    move |source| EmbeddedError::Io { action, target: target.as_ref().display().to_string(), source }
}
