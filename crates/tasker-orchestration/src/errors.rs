//! What can go wrong at the server, by what the caller can do.

use tasker_lifecycle::TaskId;
pub use tasker_shared::json_schema::Violation;
use tasker_shared::store::{MigrateError, StoreError};

/// Why a task was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// No such template.
    #[error("there is no template {namespace}/{name}{}", version.as_ref().map(|v| format!(" in version {v}")).unwrap_or_default())]
    UnknownTemplate {
        /// As asked for.
        namespace: String,
        /// As asked for.
        name: String,
        /// As asked for.
        version: Option<String>,
    },
    /// Every version of the template is deprecated, and none was named.
    #[error("every version of {namespace}/{name} is deprecated; name the one that is meant")]
    AllDeprecated {
        /// As asked for.
        namespace: String,
        /// As asked for.
        name: String,
    },
    /// The input does not match the template's schema.
    #[error("the context does not match the template's input schema")]
    InputSchema(Vec<Violation>),
    /// The request itself is not valid.
    #[error("the request is not valid")]
    Invalid(Vec<Violation>),
    /// The idempotency key was used with another body.
    #[error("this idempotency key was used for task {task} with another body")]
    KeyConflict {
        /// The task that holds the key.
        task: TaskId,
    },
    /// The template allows one task per input, and there is one.
    #[error("task {task} has the same input")]
    Duplicate {
        /// The task that is there.
        task: TaskId,
    },
    /// The database refuses it for good.
    #[error("the request can't be stored; the server's log says why")]
    NotStorable,
    /// More requests wait than may; nothing was done.
    #[error("too many requests are waiting")]
    Overloaded {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The database is away; nothing was done.
    #[error("the database can't be reached")]
    Unavailable,
    /// The answer of the commit got lost: the task may or may not exist.
    #[error("whether the task was created is not known")]
    OutcomeUnknown,
    /// The server is stopping; nothing was done.
    #[error("the server is stopping")]
    Stopping,
}

impl CreateError {
    /// The stable name of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownTemplate { .. } => "TEMPLATE_NOT_FOUND",
            Self::AllDeprecated { .. } => "TEMPLATE_DEPRECATED",
            Self::InputSchema(_) => "INPUT_SCHEMA",
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::KeyConflict { .. } => "IDEMPOTENCY_CONFLICT",
            Self::Duplicate { .. } => "DUPLICATE_TASK",
            Self::NotStorable => "NOT_STORABLE",
            Self::Overloaded { .. } => "OVERLOADED",
            Self::Unavailable => "UNAVAILABLE",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::Stopping => "STOPPING",
        }
    }

    /// What belongs to the code, as JSON.
    #[must_use]
    pub fn details(&self) -> serde_json::Value {
        match self {
            Self::InputSchema(violations) | Self::Invalid(violations) => {
                serde_json::json!({ "violations": violations })
            }
            Self::KeyConflict { task } | Self::Duplicate { task } => serde_json::json!({ "task_uuid": task }),
            Self::UnknownTemplate { .. }
            | Self::AllDeprecated { .. }
            | Self::NotStorable
            | Self::Overloaded { .. }
            | Self::Unavailable
            | Self::OutcomeUnknown
            | Self::Stopping => serde_json::json!({}),
        }
    }
}

/// Why a command on a task was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such task.
    #[error("there is no such task")]
    NotFound,
    /// The command itself is not valid.
    #[error("the request is not valid")]
    Invalid(Vec<Violation>),
    /// The task has no such step.
    #[error("there is no such step")]
    NoSuchStep,
    /// The task is in a state that the command does not apply to.
    #[error(transparent)]
    Refused(#[from] tasker_lifecycle::Refused),
    /// More commands wait than may.
    #[error("too many commands are waiting")]
    Overloaded {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The database is away, or the answer of the commit got lost: the same command may be sent again.
    #[error("the database can't be reached")]
    Unavailable,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database refused, or is away.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought to this version.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}
