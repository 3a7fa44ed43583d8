//! Heartbeats: one statement extends the leases of all claims that are held.
//!
//! They have a thread and a connection of their own. A handler that blocks its thread, and as many of them as there are
//! threads, stop everything else that the worker does, but lose no lease.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgmq_notify::{Extension, Token};
use sqlx::{Connection, PgConnection};
use tasker_shared::messages::Report;
use tasker_shared::store::StoreError;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::attempt;
use crate::completion::Reporter;
use crate::events;
use crate::held::{Key, Overdue};
use crate::outage::Pause;
use crate::worker::Shared;

/// The most leases of one statement.
const BATCH: usize = 1_000;
/// How often a thread of the runtime is stirred. The one that was to wait for the network and for timers may be blocked by a
/// handler, and the others sleep until there is more to do than they know of.
const STIR: Duration = Duration::from_millis(200);
/// How long the connection is kept while nothing is to be extended.
const IDLE: Duration = Duration::from_mins(1);

/// Extends leases until `stop.beats`; the answer is cancelled once the thread has ended.
///
/// # Errors
/// Where no thread or no timer can be had.
pub(crate) fn start(shared: Arc<Shared>, reporter: Reporter) -> io::Result<CancellationToken> {
    let ended = CancellationToken::new();
    let at_end = ended.clone().drop_guard();
    let everybody = Handle::current();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("tasker-heartbeat".to_owned()).spawn(move || {
        let _at_end = at_end;
        let stop = shared.stop.beats.clone();
        runtime.block_on(stop.run_until_cancelled(async {
            tokio::join!(look_after(&shared, &reporter, &everybody), beat(&shared));
        }));
    })?;
    Ok(ended)
}

/// Stirs a thread of the runtime, whatever the database does, and gives up handlers that hang.
async fn look_after(shared: &Arc<Shared>, reporter: &Reporter, everybody: &Handle) {
    let interval = Duration::from_millis(shared.config.worker.heartbeat_ms);
    let mut next = Instant::now() + interval;
    loop {
        tokio::time::sleep(STIR.min(interval)).await;
        drop(everybody.spawn(async {}));
        if Instant::now() >= next {
            next = Instant::now() + interval;
            give_up_hanging(shared, reporter, interval, everybody);
        }
    }
}

async fn beat(shared: &Arc<Shared>) {
    let interval = Duration::from_millis(shared.config.worker.heartbeat_ms);
    let mut line = Line { shared: Arc::clone(shared), conn: None, used: Instant::now() };
    let mut next = Instant::now() + interval;
    let mut failures = Pause::default();
    loop {
        tokio::time::sleep_until(next.into()).await;
        next = Instant::now() + interval;
        match line.beat(interval / 2).await {
            Ok(()) => failures.reset("heartbeat"),
            Err(error) => {
                shared.outage.failed(Instant::now());
                next = next.min(Instant::now() + failures.next(&error, "heartbeat"));
            }
        }
    }
}

/// The heartbeat's own line to the database.
struct Line {
    shared: Arc<Shared>,
    conn: Option<PgConnection>,
    used: Instant,
}

impl Line {
    /// Extends every lease that is older than `age`: a step that is shorter costs no heartbeat.
    async fn beat(&mut self, age: Duration) -> Result<(), StoreError> {
        let due = self.shared.held.due(Instant::now(), age);
        if due.is_empty() {
            if self.used.elapsed() > IDLE {
                self.conn = None;
            }
            return Ok(());
        }
        for tokens in due.chunks(BATCH) {
            let asked = Instant::now();
            // An answer that takes longer has to leave time for another try.
            let patience = self.shared.lease() / 3;
            let extending = tokio::time::timeout(patience, self.extend(tokens));
            let extensions = extending.await.map_err(|_late| sqlx::Error::PoolTimedOut)??;
            self.shared.outage.answered(Instant::now());
            self.extended(tokens, extensions, asked);
        }
        Ok(())
    }

    /// Our connection is not there while it is in use: one that failed, or whose answer was not waited for, is gone.
    async fn extend(&mut self, tokens: &[Token]) -> Result<Vec<Extension>, StoreError> {
        let lease = self.shared.lease();
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => match self.open().await {
                Ok(conn) => conn,
                // A server that has no room for one more may still answer on those that are open.
                Err(_full) => {
                    let mut conn = self.shared.pool.acquire().await?;
                    return Ok(pgmq_notify::extend_fenced(&mut conn, tokens, lease).await?);
                }
            },
        };
        let extensions = pgmq_notify::extend_fenced(&mut conn, tokens, lease).await?;
        (self.conn, self.used) = (Some(conn), Instant::now());
        Ok(extensions)
    }

    async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        let options = self.shared.pool.connect_options();
        PgConnection::connect_with(&(*options).clone().application_name("tasker heartbeat")).await
    }

    fn extended(&self, tokens: &[Token], extensions: Vec<Extension>, asked: Instant) {
        let Shared { held, metrics, .. } = &*self.shared;
        for (token, extension) in tokens.iter().zip(extensions) {
            match extension {
                Extension::Extended => held.extended(Key::of(token), asked),
                Extension::Lost if held.lost(Key::of(token)) => metrics.heartbeats_lost.inc(),
                // One that is gone because our own report was taken is no loss, and one that someone has locked at
                // this moment is extended by the next heartbeat.
                Extension::Lost | Extension::Skipped => {}
            }
        }
    }
}

/// A handler that blocks its thread can't be dropped at its timeout. It is reported as timed out, its lease ends with
/// that, and only its slot stays taken until it comes back.
fn give_up_hanging(shared: &Arc<Shared>, reporter: &Reporter, margin: Duration, everybody: &Handle) {
    let now = Instant::now();
    for Overdue { claim, clock, running, publication } in shared.held.overdue(now, margin) {
        tracing::warn!(task = %claim.task, step = %claim.step, attempt = claim.attempt,
            "a handler blocks its thread beyond its timeout");
        let outcome = attempt::outcome(Err(attempt::timed_out(running.deadline - running.started)));
        let (started_at, ended_at) = (Some(clock.at(running.started)), clock.at(now));
        let events = events::of(publication.as_deref(), &claim, &outcome, ended_at);
        let report = Report { claim, outcome, started_at, ended_at, worker: Arc::clone(&shared.id), events };
        // A full inbox must not hold up the heartbeat.
        let (shared, reporter) = (Arc::clone(shared), reporter.clone());
        drop(everybody.spawn(async move { reporter.report(&shared, report).await }));
    }
}
