//! What publishers in other languages made of an outcome. It comes with the outcome, because nothing calls them.

use std::sync::Mutex;

use serde::Serialize;
use serde_json::value::RawValue;
use tasker_lifecycle::template::{DeliveryMode, PublishCondition};
use tasker_shared::messages::ReportedOutcome;

use crate::handler::{StepError, StepOutcome};

/// What an outcome is to the conditions of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Success,
    /// A failure after which another attempt may be made, as far as it says.
    Retryable,
    Permanent,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Success, Self::Retryable, Self::Permanent];

    pub(crate) fn of(outcome: &ReportedOutcome) -> Self {
        match outcome {
            ReportedOutcome::Success { .. } => Self::Success,
            ReportedOutcome::Failure { retryable: true, .. } => Self::Retryable,
            ReportedOutcome::Failure { .. } | ReportedOutcome::LeaseLost => Self::Permanent,
        }
    }

    pub(crate) fn of_returned(returned: &Result<StepOutcome, StepError>) -> Self {
        match returned {
            Ok(_) => Self::Success,
            Err(error) if error.is_retryable() => Self::Retryable,
            Err(_) => Self::Permanent,
        }
    }
}

/// An event that a publisher in another language is asked about.
#[derive(Debug, Serialize)]
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a str,
    pub(crate) publisher: &'a str,
    pub(crate) condition: PublishCondition,
    pub(crate) delivery_mode: DeliveryMode,
    /// The outcomes after which it is published.
    pub(crate) on: Vec<Kind>,
}

/// What a publisher made of one event.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    pub(crate) name: String,
    pub(crate) publisher: String,
    pub(crate) mapped: Mapped,
}

#[derive(Debug, Clone)]
pub(crate) enum Mapped {
    Payload { payload: Box<RawValue>, metadata: Option<Box<RawValue>> },
    Nothing,
    Failed(String),
}

/// What was made of the events of an attempt's outcome, as soon as it is there.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<Option<(Kind, Vec<Mapping>)>>);

impl Said {
    pub(crate) fn say(&self, outcome: Kind, mappings: Vec<Mapping>) {
        *self.0.lock().expect("no panic while held") = Some((outcome, mappings));
    }

    /// What was made of this event. The outcome may be another one than the handler's: its time was over, or what it
    /// returned was refused.
    pub(crate) fn of(&self, outcome: Kind, name: &str, publisher: &str) -> Result<Mapped, String> {
        let said = self.0.lock().expect("no panic while held");
        let (_, mappings) = said.as_ref().filter(|(kind, _)| *kind == outcome).ok_or_else(|| {
            format!("the outcome is not the handler's, so the publisher `{publisher}` was not asked about it")
        })?;
        let found = mappings.iter().find(|mapping| mapping.name == name && mapping.publisher == publisher);
        let found = found.ok_or_else(|| format!("the outcome came without a word of the publisher `{publisher}`"))?;
        Ok(found.mapped.clone())
    }
}
