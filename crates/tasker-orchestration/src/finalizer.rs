//! `TaskFinalizerActor`: what follows a terminal state or a given-up step and may be slow. Today that is the
//! snapshot of a dead letter entry.

use std::sync::Arc;

use tasker_shared::store::StoreError;

use crate::actor::{Actor, Handled, Work};
use crate::engine::Parts;
use crate::session::Session;

/// Somewhere an entry lacks its snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntriesFiled;

/// See the module.
#[derive(Debug)]
pub(crate) struct TaskFinalizer {
    pub(crate) parts: Arc<Parts>,
}

impl Actor for TaskFinalizer {
    type Event = EntriesFiled;
    type After = ();

    const NAME: &'static str = "finalizer";

    fn batch_max(&self) -> usize {
        self.parts.config.actor.batch_max
    }

    /// Whoever woke it, it describes what lacks a description.
    async fn handle(&self, conn: &mut impl Session, work: Work<'_, EntriesFiled>) -> Result<Handled<()>, StoreError> {
        let limit = match work {
            Work::Inbox { .. } => self.batch_max(),
            Work::Source(max) => max,
        };
        let described = conn.describe_dead_letters(i64::try_from(limit).unwrap_or(i64::MAX)).await?;
        Ok(Handled { after: (), taken: usize::try_from(described).unwrap_or(usize::MAX), next: None })
    }

    fn committed(&self, (): (), _events: Vec<EntriesFiled>) {}

    fn offends(&self, _event: EntriesFiled, error: StoreError) {
        tracing::error!(%error, "dead letter entries can't be described");
    }

    async fn file_offender(&self, conn: &mut impl Session, error: &StoreError) -> Result<(), StoreError> {
        conn.give_up_describing(&error.to_string()).await
    }

    fn abandoned(&self, _events: Vec<EntriesFiled>) {}
}
