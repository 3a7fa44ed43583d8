//! Checkpoints: a long step says how far it got, and is run again from there, now or after a failure.

use std::time::{Duration, Instant};

use pgmq_notify::Extension;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tasker_lifecycle::Follows;
use tasker_shared::messages::Claim;
use tasker_shared::store::checkpoints;

use crate::encode;
use crate::handler::{StepContext, StepError, StepOutcome};
use crate::held::Key;
use crate::outage::Pause;
use crate::worker::Shared;

/// How far a step got, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    cursor: Value,
    items_processed: u64,
    accumulated_results: Value,
}

impl Checkpoint {
    /// Where to go on.
    ///
    /// # Errors
    /// A permanent `validation_error` where it is of another type.
    pub fn cursor<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        typed("cursor", &self.cursor)
    }

    /// How many items were processed so far.
    #[must_use]
    pub fn items_processed(&self) -> u64 {
        self.items_processed
    }

    /// What was gathered so far.
    ///
    /// # Errors
    /// A permanent `validation_error` where it is of another type.
    pub fn accumulated_results<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        typed("accumulated_results", &self.accumulated_results)
    }
}

fn typed<T: DeserializeOwned>(what: &str, value: &Value) -> Result<T, StepError> {
    T::deserialize(value).map_err(|error| {
        StepError::permanent(format!("the checkpoint's {what}: {error}")).with_class("validation_error")
    })
}

impl StepContext {
    /// How far an earlier run of this step got; `None` where it is the first, or none stored anything.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.0.checkpoint.as_ref()
    }
}

impl StepOutcome {
    /// Not the end: stores how far the step got, and runs its handler again from there at once, in the same attempt
    /// and with the whole of its timeout. After a failure or a crash the next attempt begins there.
    ///
    /// # Errors
    /// A permanent `result_not_serializable` with the path of a value that JSON can't say.
    pub fn checkpoint_yield(
        cursor: impl Serialize,
        items_processed: u64,
        accumulated_results: impl Serialize,
    ) -> Result<Self, StepError> {
        #[derive(Serialize)]
        struct Said<C, A> {
            cursor: C,
            items_processed: u64,
            accumulated_results: A,
        }
        let checkpoint = encode::to_raw(&Said { cursor, items_processed, accumulated_results }).map_err(|error| {
            StepError::permanent(format!("the checkpoint: {error}")).with_class("result_not_serializable")
        })?;
        let result = RawValue::NULL.to_owned().into();
        Ok(Self {
            result,
            metadata: None,
            follows: Follows::Nothing,
            checkpoint: Some(checkpoint),
            in_transaction: false,
        })
    }

    /// The checkpoint, where this outcome is one.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoint.as_ref().and_then(|json| read(json))
    }
}

/// Reads a stored checkpoint; what somebody else wrote is none.
pub(crate) fn read(json: &RawValue) -> Option<Checkpoint> {
    serde_json::from_str(json.get()).ok()
}

/// Stores a checkpoint under the fence of its claim; answers whether the claim is still ours. Tries until the database
/// answers: only it knows that.
///
/// # Errors
/// The attempt's failure, where the database refuses the checkpoint for good.
pub(crate) async fn store(shared: &Shared, claim: &Claim, checkpoint: &RawValue) -> Result<bool, StepError> {
    /// A heartbeat or a cancel holds the ticket for as long as its statement takes.
    const LOCKED: Duration = Duration::from_millis(5);
    let mut pause = Pause::default();
    loop {
        let asked = Instant::now();
        let stored = async {
            let mut conn = shared.pool.acquire().await?;
            checkpoints::store(&mut conn, claim, shared.lease(), checkpoint).await
        };
        match stored.await {
            Ok(Extension::Extended) => {
                shared.outage.answered(Instant::now());
                shared.held.extended(Key::of(&claim.token), asked);
                return Ok(true);
            }
            Ok(Extension::Lost) => {
                if shared.held.lost(Key::of(&claim.token)) {
                    shared.metrics.heartbeats_lost.inc();
                }
                return Ok(false);
            }
            Ok(Extension::Skipped) => tokio::time::sleep(LOCKED).await,
            Err(error) if error.is_transient() => {
                shared.outage.failed(Instant::now());
                tokio::time::sleep(pause.next(&error, "checkpoint")).await;
            }
            Err(error) => {
                let message = format!("the checkpoint could not be stored: {error}");
                return Err(StepError::permanent(message).with_class("checkpoint_refused"));
            }
        }
    }
}
