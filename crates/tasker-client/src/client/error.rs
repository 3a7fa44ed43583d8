//! Why a call failed, by what the caller can do about it.

use std::error::Error;
use std::time::Duration;

use crate::types::{ErrorBody, ErrorDetail};

/// Why a call failed, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none that this client can talk to: correct it.
    #[error("`{address}` is not the address of a server: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server refused the request: read its code and message.
    #[error("{}", body.error)]
    Api {
        /// The HTTP status.
        status: u16,
        /// The server's reasons.
        body: Box<ErrorBody>,
        /// When it asks to be asked again.
        retry_after: Option<Duration>,
    },
    /// No server answered: start it, or correct the address.
    #[error("no server answers at {address}: {cause}")]
    Unreachable {
        /// The server's address.
        address: String,
        /// The innermost reason.
        cause: String,
        /// The failure in full.
        #[source]
        source: reqwest::Error,
    },
    /// The server took too long: ask again, later.
    #[error("the server at {address} took too long to answer")]
    Timeout {
        /// The server's address.
        address: String,
    },
    /// The answer is not what this client understands: their versions are too far apart, or something else answered.
    #[error("the answer to {what} can't be read: {cause}")]
    Decode {
        /// The path that was asked for.
        what: String,
        /// What is wrong with the answer.
        cause: String,
    },
}

impl ClientError {
    /// Whether the server's code is this one.
    #[must_use]
    pub fn is_code(&self, code: &str) -> bool {
        matches!(self, Self::Api { body, .. } if body.error.code == code)
    }

    /// Whether the request may have taken effect although it failed, so that only a repeatable one may be sent again.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. }) || self.is_code("OUTCOME_UNKNOWN")
    }

    pub(super) fn transport(address: &str, error: reqwest::Error) -> Self {
        let address = address.to_owned();
        if error.is_timeout() && !error.is_connect() {
            return Self::Timeout { address };
        }
        Self::Unreachable { address, cause: innermost(&error), source: error }
    }

    /// Reads the body of a refusal. What is not ours, such as a proxy's page, is told by its status alone.
    pub(super) fn refusal(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let body = serde_json::from_slice(body).unwrap_or_else(|_| ErrorBody {
            error: ErrorDetail {
                code: format!("HTTP_{status}"),
                message: format!("the server answered with status {status}"),
                details: serde_json::Value::Object(serde_json::Map::new()),
                request_id: String::new(),
            },
        });
        Self::Api { status, body: Box::new(body), retry_after }
    }
}

fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
