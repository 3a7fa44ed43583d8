//! Names of queues and of the channels on which their wake-ups travel.

use std::{fmt, str::FromStr, sync::Arc};

use crate::Error;

/// The name of a queue: `^[a-z][a-z0-9_]*$`, at most 47 characters (PGMQ's own limit). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// The longest name, in characters.
    pub const MAX_LEN: usize = 47;

    /// # Errors
    /// [`Error::InvalidName`] if the name does not match.
    pub fn new(name: impl AsRef<str>) -> Result<Self, Error> {
        checked(name.as_ref(), Self::MAX_LEN).map(|name| Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A LISTEN/NOTIFY channel of ours: `pgmq_` and a name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

impl Channel {
    const PREFIX: &str = "pgmq_";

    /// The longest name without the prefix: PostgreSQL's identifiers have at most 63 bytes.
    pub const MAX_LEN: usize = 63 - Self::PREFIX.len();

    /// The channel `pgmq_<name>`.
    ///
    /// # Errors
    /// [`Error::InvalidName`] if the name does not match `^[a-z][a-z0-9_]*$` or is longer than [`Self::MAX_LEN`].
    pub fn new(name: impl AsRef<str>) -> Result<Self, Error> {
        checked(name.as_ref(), Self::MAX_LEN).map(Self::prefixed)
    }

    /// The channel on which a queue's wake-ups travel.
    #[must_use]
    pub fn for_queue(queue: &QueueName) -> Self {
        const { assert!(QueueName::MAX_LEN <= Self::MAX_LEN) };
        Self::prefixed(queue.as_str())
    }

    /// The channel's name in the database.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn prefixed(name: &str) -> Self {
        Self(format!("{}{name}", Self::PREFIX).into())
    }
}

impl std::borrow::Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn checked(name: &str, max_len: usize) -> Result<&str, Error> {
    let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    let goes_on_well = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if starts_well && goes_on_well && name.len() <= max_len {
        return Ok(name);
    }
    // The name comes from outside and goes to a log: what doesn't fit the limit by far is not repeated in full.
    Err(Error::InvalidName { name: name.chars().take(2 * max_len).collect(), max_len })
}

impl TryFrom<String> for QueueName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl FromStr for QueueName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl From<QueueName> for String {
    fn from(name: QueueName) -> Self {
        name.as_str().to_owned()
    }
}

impl AsRef<str> for QueueName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_names_that_are_safe_as_identifiers_pass() {
        let longest = "q".repeat(QueueName::MAX_LEN);
        for good in ["a", "orders_default_2", &longest] {
            assert_eq!(QueueName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "_a", "1a", "A", "a-b", "a b", "é", "a\"b", &format!("{longest}q")] {
            assert!(matches!(QueueName::new(bad), Err(Error::InvalidName { .. })), "{bad:?} passed");
        }
        assert!(serde_json::from_str::<QueueName>("\"a;b\"").is_err());
    }

    #[test]
    fn the_longest_channel_fits_an_identifier() {
        let channel = Channel::new("c".repeat(Channel::MAX_LEN)).unwrap();
        assert_eq!(channel.as_str().len(), 63);
        assert!(Channel::new("c".repeat(Channel::MAX_LEN + 1)).is_err());
        assert_eq!(Channel::for_queue(&QueueName::new("orders").unwrap()), Channel::new("orders").unwrap());
    }
}
