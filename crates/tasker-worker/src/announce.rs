//! Telling that this worker is there and what it can run, for whoever asks why a step waits. Nothing is decided on it,
//! so what can't be told is left out until the next time.

use std::sync::Arc;
use std::time::Duration;

use tasker_shared::store::StoreError;
use tasker_shared::store::workers::{self, ANNOUNCE_EVERY, Announcement};
use uuid::Uuid;

use crate::outage::Pause;
use crate::worker::Shared;

/// Announces the worker until it claims no more, then takes its row away.
pub(crate) async fn run(shared: Arc<Shared>) {
    let instance = Uuid::from_u128(rand::random());
    let (mut queues, mut handlers) = (shared.queues.subscribe(), shared.handlers.subscribe());
    let mut failures = Pause::default();
    while !shared.stop.claims.is_cancelled() {
        let names: Vec<String> = queues.borrow_and_update().iter().map(|(queue, _)| queue.to_string()).collect();
        let known: Vec<String> = handlers.borrow_and_update().iter().cloned().collect();
        let next = match announce(&shared, instance, &names, &known).await {
            Ok(()) => {
                failures.reset("announce");
                ANNOUNCE_EVERY
            }
            // An outage is told by those whose work it stops.
            Err(error) => failures.next(&error, "announce").max(Duration::from_secs(1)),
        };
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            _changed = queues.changed() => {}
            _changed = handlers.changed() => {}
            () = shared.stop.claims.cancelled() => {}
        }
    }
    let left = async {
        let mut conn = shared.pool.acquire().await?;
        workers::leave(&mut conn, instance).await
    };
    if let Err(error) = left.await {
        tracing::debug!(%error, "the worker's row stays until it is forgotten");
    }
}

async fn announce(shared: &Shared, instance: Uuid, queues: &[String], handlers: &[String]) -> Result<(), StoreError> {
    let mut conn = shared.pool.acquire().await?;
    workers::announce(&mut conn, &Announcement { instance, worker: &shared.id, queues, handlers }).await
}
