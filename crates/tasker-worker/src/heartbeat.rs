//! Heartbeats: one statement extends the leases of all claims that are held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgmq_notify::Extension;
use tasker_shared::messages::Report;
use tasker_shared::store::StoreError;

use crate::attempt;
use crate::completion::Reporter;
use crate::events;
use crate::held::{Key, Overdue};
use crate::outage::Pause;
use crate::worker::Shared;

/// The most leases of one statement.
const BATCH: usize = 1_000;

/// Extends leases until the worker has stopped.
pub(crate) async fn run(shared: Arc<Shared>, reporter: Reporter) {
    let interval = Duration::from_millis(shared.config.worker.heartbeat_ms);
    let mut next = Instant::now() + interval;
    let mut failures = Pause::default();
    loop {
        tokio::time::sleep_until(next.into()).await;
        next = Instant::now() + interval;
        give_up_hanging(&shared, &reporter, interval);
        match beat(&shared, interval / 2).await {
            Ok(()) => failures.reset("heartbeat"),
            Err(error) => {
                shared.outage.failed(Instant::now());
                next = next.min(Instant::now() + failures.next(&error, "heartbeat"));
            }
        }
    }
}

/// Extends every lease that is older than `age`: a step that is shorter costs no heartbeat.
async fn beat(shared: &Shared, age: Duration) -> Result<(), StoreError> {
    let due = shared.held.due(Instant::now(), age);
    for tokens in due.chunks(BATCH) {
        let asked = Instant::now();
        let mut conn = shared.pool.acquire().await?;
        let extensions = pgmq_notify::extend_fenced(&mut conn, tokens, shared.lease()).await?;
        drop(conn);
        shared.outage.answered(Instant::now());
        for (token, extension) in tokens.iter().zip(extensions) {
            match extension {
                Extension::Extended => shared.held.extended(Key::of(token), asked),
                Extension::Lost if shared.held.lost(Key::of(token)) => shared.metrics.heartbeats_lost.inc(),
                // One that is gone because our own report was taken is no loss, and one that someone has locked at
                // this moment is extended by the next heartbeat.
                Extension::Lost | Extension::Skipped => {}
            }
        }
    }
    Ok(())
}

/// A handler that blocks its thread can't be dropped at its timeout. It is reported as timed out, its lease ends with
/// that, and only its slot stays taken until it comes back.
fn give_up_hanging(shared: &Arc<Shared>, reporter: &Reporter, margin: Duration) {
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
        tokio::spawn(async move { reporter.report(&shared, report).await });
    }
}
