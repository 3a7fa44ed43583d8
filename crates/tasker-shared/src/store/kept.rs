//! A connection that is kept between two uses.
//!
//! The pool tries what it is given back with a round trip of its own. Loops that ask the database every few milliseconds
//! keep their connection instead, as long as the pool has others to give.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

/// How long one is kept before the pool sees it again, which ends those that are old.
const LONGEST: Duration = Duration::from_mins(1);

/// Where the connection of one loop is kept. Clones share it.
#[derive(Clone)]
pub struct Kept(Arc<Place>);

struct Place {
    pool: PgPool,
    spare: Mutex<Spare>,
}

enum Spare {
    None,
    Some(PoolConnection<Postgres>, Instant),
    /// Nothing is kept any more.
    Ended,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("pool", &self.0.pool).finish_non_exhaustive()
    }
}

impl Kept {
    /// A place for a connection of this pool, empty at first.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self(Arc::new(Place { pool, spare: Mutex::new(Spare::None) }))
    }

    /// The kept connection, or one of the pool where there is none.
    ///
    /// # Errors
    /// Where none can be had in time.
    pub async fn acquire(&self) -> Result<InUse, sqlx::Error> {
        let spare = self.0.take(Spare::None);
        let (conn, since) = match spare {
            Some(kept) => kept,
            None => (self.0.pool.acquire().await?, Instant::now()),
        };
        Ok(InUse { conn: Some(conn), since, place: Arc::clone(&self.0) })
    }

    /// Gives the pool its connection back, for good.
    pub fn end(&self) {
        drop(self.0.take(Spare::Ended));
    }
}

impl Place {
    fn take(&self, then: Spare) -> Option<(PoolConnection<Postgres>, Instant)> {
        let mut spare = self.spare.lock().expect("no panic while held");
        let then = if matches!(*spare, Spare::Ended) { Spare::Ended } else { then };
        match std::mem::replace(&mut *spare, then) {
            Spare::Some(conn, since) => Some((conn, since)),
            Spare::None | Spare::Ended => None,
        }
    }
}

/// A connection in use. Dropped, it goes back to the pool, which finds out whether it still works.
pub struct InUse {
    conn: Option<PoolConnection<Postgres>>,
    since: Instant,
    place: Arc<Place>,
}

impl fmt::Debug for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InUse").finish_non_exhaustive()
    }
}

impl InUse {
    /// Keeps the connection for the next use: it worked to the end. A pool that has given all it has gets it back, so that
    /// nobody waits for what another one keeps.
    pub fn keep(mut self) {
        let pool = &self.place.pool;
        let exhausted = pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections();
        if exhausted || pool.is_closed() || self.since.elapsed() > LONGEST {
            return;
        }
        let mut spare = self.place.spare.lock().expect("no panic while held");
        if matches!(*spare, Spare::None)
            && let Some(conn) = self.conn.take()
        {
            *spare = Spare::Some(conn, self.since);
        }
    }
}

impl Deref for InUse {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_deref().expect("only keeping takes it out")
    }
}

impl DerefMut for InUse {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_deref_mut().expect("only keeping takes it out")
    }
}
