//! Identifiers. A step's id contains its task's, so that it can be resolved without an index.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Bits of a task's uuid that are kept zero for the step number: 2^20 − 1 steps at most.
const STEP_BITS: u32 = 20;
const STEP_MASK: u128 = (1 << STEP_BITS) - 1;

/// The most steps that a task may ever have.
pub const MAX_STEPS: usize = 100_000;

/// One run of a template: a `UUIDv7` (RFC 9562) whose lowest 20 bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Uuid", into = "Uuid")]
pub struct TaskId(Uuid);

/// One node of a task: the task's uuid with the step's number (from 1) in the lowest 20 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Uuid", into = "Uuid")]
pub struct StepId(Uuid);

/// The position of a step in its task, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepIndex(pub u32);

/// The random 128 bits that make a claim token unforgeable; one per ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(pub Uuid);

/// Microseconds since the Unix epoch, on the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// A uuid that is not the id of a task or of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{uuid} is not the id of a {what}")]
pub struct NotAnId {
    uuid: Uuid,
    what: &'static str,
}

impl TaskId {
    /// Makes the id for a task created at `unix_ms` from 64 random bits.
    #[must_use]
    pub fn new(unix_ms: u64, random: u64) -> Self {
        let random = u128::from(random);
        let rand_a = (random & 0xfff) << 64;
        let rand_b = ((random >> 12) & ((1 << 42) - 1)) << STEP_BITS;
        let bits = (u128::from(unix_ms) << 80) | (0x7 << 76) | rand_a | (0b10 << 62) | rand_b;
        Self(Uuid::from_u128(bits))
    }

    /// The uuid as it is stored and shown.
    #[must_use]
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// The id of this task's step at `index`.
    #[must_use]
    pub fn step(self, index: StepIndex) -> StepId {
        StepId(Uuid::from_u128(self.0.as_u128() | (u128::from(index.0) + 1)))
    }
}

impl StepId {
    /// The uuid as it is stored and shown.
    #[must_use]
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// The task that this step belongs to.
    #[must_use]
    pub fn task(self) -> TaskId {
        TaskId(Uuid::from_u128(self.0.as_u128() & !STEP_MASK))
    }

    /// The position of this step in its task.
    #[must_use]
    pub fn index(self) -> StepIndex {
        let number = u32::try_from(self.0.as_u128() & STEP_MASK).expect("20 bits fit");
        StepIndex(number - 1)
    }
}

impl StepIndex {
    /// The position as an index into vectors.
    #[must_use]
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl From<usize> for StepIndex {
    fn from(at: usize) -> Self {
        Self(u32::try_from(at).expect("a task has at most 100,000 steps"))
    }
}

impl Timestamp {
    /// This moment plus `ms` milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(i64::try_from(ms.saturating_mul(1000)).unwrap_or(i64::MAX)))
    }

    /// Milliseconds from `earlier` to this moment; 0 if it lies before.
    #[must_use]
    pub fn ms_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0) / 1000).unwrap_or(0)
    }
}

impl TryFrom<Uuid> for TaskId {
    type Error = NotAnId;

    fn try_from(uuid: Uuid) -> Result<Self, NotAnId> {
        if uuid.as_u128() & STEP_MASK == 0 && uuid.get_version_num() == 7 {
            Ok(Self(uuid))
        } else {
            Err(NotAnId { uuid, what: "task" })
        }
    }
}

impl TryFrom<Uuid> for StepId {
    type Error = NotAnId;

    fn try_from(uuid: Uuid) -> Result<Self, NotAnId> {
        if uuid.as_u128() & STEP_MASK != 0 && uuid.get_version_num() == 7 {
            Ok(Self(uuid))
        } else {
            Err(NotAnId { uuid, what: "step" })
        }
    }
}

macro_rules! shown_as_uuid {
    ($id:ident) => {
        impl From<$id> for Uuid {
            fn from(id: $id) -> Uuid {
                id.0
            }
        }
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
shown_as_uuid!(TaskId);
shown_as_uuid!(StepId);

impl fmt::Display for StepIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uuid: Uuid = text.parse().map_err(|_| format!("`{text}` is not a uuid"))?;
        Self::try_from(uuid).map_err(|e| e.to_string())
    }
}

impl FromStr for StepId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uuid: Uuid = text.parse().map_err(|_| format!("`{text}` is not a uuid"))?;
        Self::try_from(uuid).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_id_tells_its_task_and_position() {
        for random in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let task = TaskId::new(1_700_000_000_123, random);
            assert_eq!(TaskId::try_from(task.uuid()), Ok(task));
            for index in [0, 1, 99_999] {
                let step = task.step(StepIndex(index));
                assert_eq!((step.task(), step.index()), (task, StepIndex(index)));
                assert!(TaskId::try_from(step.uuid()).is_err());
                assert_eq!(step.uuid().get_version_num(), 7);
            }
        }
    }

    #[test]
    fn ids_sort_by_their_time() {
        assert!(TaskId::new(1, u64::MAX) < TaskId::new(2, 0));
    }
}
