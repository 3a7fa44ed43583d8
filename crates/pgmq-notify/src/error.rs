//! What can go wrong, by what the caller can do about it.

use sqlx::postgres::PgDatabaseError;

/// Why a queue operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A queue or channel name was refused; give it another name.
    #[error("{name:?} is not a valid name: it must match ^[a-z][a-z0-9_]*$ and have at most {max_len} characters")]
    InvalidName {
        /// The name as it was given.
        name: String,
        /// The longest name allowed.
        max_len: usize,
    },
    /// The PGMQ in this database is too old; upgrade it (`ALTER EXTENSION pgmq UPDATE`).
    #[error("PGMQ {found} is installed, 1.5 or later is needed")]
    PgmqTooOld {
        /// The version found, as PostgreSQL names it.
        found: String,
    },
    /// PGMQ's own installer failed; look at the rights of the database user.
    #[error("PGMQ could not be installed")]
    Install(#[source] Box<pgmq::PgmqError>),
    /// A queue does not exist (or was dropped); create it and run the transaction again.
    #[error("a queue does not exist")]
    QueueMissing(#[source] sqlx::Error),
    /// Deadlock, serialization failure or a lock or statement timeout: run the transaction again, after a moment.
    #[error("other transactions were in the way")]
    Conflict(#[source] sqlx::Error),
    /// The database could not be reached or has no room, or the connection broke: the outcome of a commit in flight is
    /// unknown.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// The database refused the statement: trying again won't help.
    #[error("the database refused a statement")]
    Refused(#[source] sqlx::Error),
}

impl Error {
    /// Whether the same transaction may succeed when it is run again later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Unavailable(_))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let code = match &error {
            sqlx::Error::Database(database) => {
                database.try_downcast_ref::<PgDatabaseError>().map_or("", PgDatabaseError::code)
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => return Self::Unavailable(error),
            _ => return Self::Refused(error),
        };
        match code {
            "40001" | "40P01" | "55P03" | "57014" => Self::Conflict(error),
            // A server that shuts down or ends the session, a broken connection, a lack of resources.
            code if code.starts_with("57P") || code.starts_with("08") || code.starts_with("53") => {
                Self::Unavailable(error)
            }
            "42P01" | "42883" => Self::QueueMissing(error),
            _ => Self::Refused(error),
        }
    }
}

impl From<pgmq::PgmqError> for Error {
    fn from(error: pgmq::PgmqError) -> Self {
        match error {
            pgmq::PgmqError::DatabaseError(error) => error.into(),
            error => Self::Install(Box::new(error)),
        }
    }
}
