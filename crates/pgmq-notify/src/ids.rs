//! Message ids in blocks, so that most sends know their ids without a round trip.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sqlx::PgConnection;

use crate::{Error, QueueName, reserve_ids};

/// Ids in a block: one round trip for as many messages. A process that stops loses what is left of its blocks, which
/// costs nothing but numbers, and a bigint has enough of them.
const BLOCK: u32 = 256;

/// One process's reserved message ids, by queue. Shared by reference; no lock is held while the database is asked.
#[derive(Debug, Default)]
pub struct IdBlocks {
    blocks: Mutex<HashMap<QueueName, VecDeque<i64>>>,
}

impl IdBlocks {
    /// Takes `n` ids of the queue, ascending within what one block gave. Asks the database only if the block has too
    /// few left. The ids stay taken whatever becomes of the caller's transaction.
    ///
    /// # Errors
    /// What the database says.
    pub async fn take(&self, conn: &mut PgConnection, queue: &QueueName, n: u32) -> Result<Vec<i64>, Error> {
        let wanted = n as usize;
        let mut taken = self.drain(queue, wanted);
        let missing = wanted - taken.len();
        if missing == 0 {
            return Ok(taken);
        }
        let missing_ids = u32::try_from(missing).expect("at most n");
        let mut fresh = match reserve_ids(conn, queue, missing_ids.max(BLOCK)).await {
            Ok(fresh) => fresh,
            Err(error) => {
                self.put_back(queue, taken);
                return Err(error);
            }
        };
        let rest = fresh.split_off(missing);
        taken.append(&mut fresh);
        self.put_back(queue, rest);
        Ok(taken)
    }

    /// Drops what is left of a queue's block: its sequence may have started again because the queue was dropped and
    /// created.
    pub fn forget(&self, queue: &QueueName) {
        self.lock().remove(queue);
    }

    fn drain(&self, queue: &QueueName, n: usize) -> Vec<i64> {
        let mut blocks = self.lock();
        let Some(block) = blocks.get_mut(queue) else { return Vec::new() };
        let n = n.min(block.len());
        block.drain(..n).collect()
    }

    fn put_back(&self, queue: &QueueName, ids: Vec<i64>) {
        if !ids.is_empty() {
            self.lock().entry(queue.clone()).or_default().extend(ids);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, VecDeque<i64>>> {
        // Every change to the map is one call that can't panic half way, so a poisoned map is still sound.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
