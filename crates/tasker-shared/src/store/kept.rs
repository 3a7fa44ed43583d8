//! A connection that is kept between two uses.
//!
//! The pool tries what it is given back with a round trip of its own. Loops that ask the database every few milliseconds
//! keep their connection instead, while the pool has others to give and for as long as they go on asking.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::runtime::Handle;

/// How long one may lie unused. Who does not ask any more gives it back, so that the pool ends it when it is old or not needed.
const UNUSED: Duration = Duration::from_secs(1);
/// How long one is kept by somebody who goes on asking.
const LONGEST: Duration = Duration::from_mins(1);

/// Where the connection of one loop is kept.
pub struct Kept(Arc<Place>);

struct Place {
    pool: PgPool,
    kept: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    spare: Option<Spare>,
    /// Nothing is kept any more.
    ended: bool,
    /// Somebody sees to it that the spare one does not lie unused for long.
    reaped: bool,
}

struct Spare {
    conn: PoolConnection<Postgres>,
    /// When the pool gave it away.
    since: Instant,
    /// When it was used last.
    used: Instant,
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
        Self(Arc::new(Place { pool, kept: Mutex::default() }))
    }

    /// The kept connection, or one of the pool where there is none.
    ///
    /// # Errors
    /// Where none can be had in time.
    pub async fn acquire(&self) -> Result<InUse, sqlx::Error> {
        let spare = self.0.lock().spare.take();
        let (conn, since) = match spare {
            Some(Spare { conn, since, .. }) => (conn, since),
            None => (self.0.pool.acquire().await?, Instant::now()),
        };
        Ok(InUse { conn: Some(conn), since, place: Arc::clone(&self.0) })
    }

    /// Gives the pool its connection back, for good.
    pub fn end(&self) {
        let mut kept = self.0.lock();
        kept.ended = true;
        let spare = kept.spare.take();
        drop(kept);
        give_back(spare);
    }
}

impl Place {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.kept.lock().expect("no panic while held")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        give_back(self.lock().spare.take());
    }
}

/// Gives a connection back to the pool, which needs a runtime for that; without one it is closed.
fn give_back(spare: Option<Spare>) {
    let Some(Spare { conn, .. }) = spare else { return };
    if Handle::try_current().is_err() {
        drop(conn.detach());
    }
}

/// Waits until the spare connection has lain unused for too long, and gives it back.
async fn reap(place: Weak<Place>) {
    loop {
        tokio::time::sleep(UNUSED).await;
        let Some(place) = place.upgrade() else { return };
        let mut kept = place.lock();
        if kept.spare.as_ref().is_some_and(|spare| spare.used.elapsed() < UNUSED) {
            continue;
        }
        // One that is in use starts this again when it is kept.
        kept.reaped = false;
        let spare = kept.spare.take();
        drop(kept);
        return give_back(spare);
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
    /// Keeps the connection for the next use: it worked to the end. A pool that has given all it has gets it back.
    pub fn keep(mut self) {
        let pool = &self.place.pool;
        let exhausted = pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections();
        if exhausted || pool.is_closed() || self.since.elapsed() > LONGEST {
            return;
        }
        let mut kept = self.place.lock();
        if kept.ended || kept.spare.is_some() {
            return;
        }
        let Some(conn) = self.conn.take() else { return };
        kept.spare = Some(Spare { conn, since: self.since, used: Instant::now() });
        if !std::mem::replace(&mut kept.reaped, true) {
            drop(tokio::spawn(reap(Arc::downgrade(&self.place))));
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
