//! Reports, and claims that are given back: all that wait go out together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgmq_notify::{Channel, QueueName, Token};
use tasker_shared::crash_point;
use tasker_shared::events::{self as domain_events, Published};
use tasker_shared::local::LocalServer;
use tasker_shared::messages::{Report, ReportedOutcome, STEP_RESULTS, StepFailure, Verdict};
use tasker_shared::store::kept::Kept;
use tasker_shared::store::{StoreError, reports};
use tokio::sync::mpsc;

use crate::events;
use crate::held::Key;
use crate::outage::Pause;
use crate::worker::Shared;

/// The class of the failure that is reported where the database refuses the real outcome.
const REFUSED: &str = "report_refused";

/// What is to be said of a claim.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are reports, and a box for each would cost more")]
pub(crate) enum Completion {
    /// Its attempt is over.
    Report(Report),
    /// It did not run. It may be claimed again after the delay, as the same attempt.
    Release(Token, Duration),
}

/// Where claims are handed in.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    server: Option<LocalServer>,
    outbox: mpsc::Sender<Completion>,
}

impl Reporter {
    /// Reports go to the server in this process while there is one, else through the outbox to the database.
    pub(crate) fn new(server: Option<LocalServer>, outbox: mpsc::Sender<Completion>) -> Self {
        Self { server, outbox }
    }

    /// Whether there is a server in this process.
    pub(crate) fn is_local(&self) -> bool {
        self.server.is_some()
    }

    /// Hands a report in; waits while the inbox is full.
    pub(crate) async fn report(&self, shared: &Shared, report: Report) {
        let key = Key::of(&report.claim.token);
        shared.held.end(key);
        if let Some(server) = &self.server {
            // A server that has stopped keeps what it is given; the database still takes it.
            if server.report(report.clone()).await.is_ok() {
                return shared.held.forget(key);
            }
        }
        self.send(shared, key, Completion::Report(report)).await;
    }

    /// Reports an attempt whose outcome may be stored already, by a transaction of its handler's. Only the database can
    /// tell, so that a server in this process is not asked. `events` are those of that transaction.
    pub(crate) async fn confirm(&self, shared: &Shared, report: Report, events: Vec<Published>) {
        let key = Key::of(&report.claim.token);
        shared.held.end(key);
        shared.held.may_be_stored(key, events);
        self.send(shared, key, Completion::Report(report)).await;
    }

    /// Gives a claim back unrun; waits while the inbox is full.
    pub(crate) async fn release(&self, shared: &Shared, token: Token, delay: Duration) {
        let key = Key::of(&token);
        shared.held.end(key);
        self.send(shared, key, Completion::Release(token, delay)).await;
    }

    async fn send(&self, shared: &Shared, key: Key, completion: Completion) {
        if self.outbox.send(completion).await.is_err() {
            tracing::warn!("the worker stopped before a report was taken; a lease will end");
            shared.held.forget(key);
        }
    }
}

/// Writes what comes in until the worker stops, then what is left.
pub(crate) async fn run(shared: Arc<Shared>, mut inbox: mpsc::Receiver<Completion>) {
    let results = Channel::for_queue(&QueueName::new(STEP_RESULTS).expect("a valid queue name"));
    let database = Kept::new(shared.pool.clone());
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            received = inbox.recv_many(&mut batch, shared.config.worker.report_batch_max) => {
                if received == 0 { return; }
            }
            () = shared.stop.reports.cancelled(), if !inbox.is_closed() => {
                inbox.close();
                continue;
            }
        }
        // Handlers that end at this very moment hand in first: one turn for them makes larger batches.
        tokio::task::yield_now().await;
        while batch.len() < shared.config.worker.report_batch_max
            && let Ok(completion) = inbox.try_recv()
        {
            batch.push(completion);
        }
        let mut reports = Vec::with_capacity(batch.len());
        let mut given_back: HashMap<Duration, Vec<Token>> = HashMap::new();
        for completion in batch.drain(..) {
            match completion {
                Completion::Report(report) => reports.push(report),
                Completion::Release(token, delay) => given_back.entry(delay).or_default().push(token),
            }
        }
        if !reports.is_empty() {
            report(&shared, &database, reports, &results).await;
        }
        for (delay, tokens) in given_back {
            release(&shared, &tokens, delay).await;
        }
    }
}

/// Stores reports, halving them where one of them offends.
async fn report(shared: &Shared, database: &Kept, reports: Vec<Report>, results: &Channel) {
    let mut stack = vec![reports];
    while let Some(mut reports) = stack.pop() {
        match patiently(shared, "report", || write(shared, database, &reports)).await {
            Ok(verdicts) => {
                // A duplicate's result message may be one that nobody was told of.
                if verdicts.iter().any(|verdict| *verdict != Verdict::Refused) {
                    shared.notifier.notify(results);
                }
                written(shared, reports, &verdicts);
            }
            Err(error) if error.is_transient() => abandoned(shared, &reports, &error),
            Err(error) if reports.len() == 1 => {
                let report = reports.pop().expect("one");
                match instead_of(shared, &report, &error) {
                    Some(instead) => stack.push(vec![instead]),
                    None => abandoned(shared, &[report], &error),
                }
            }
            Err(_) => {
                let half = reports.split_off(reports.len() / 2);
                stack.push(half);
                stack.push(reports);
            }
        }
    }
}

/// One statement, and so one transaction, for a whole batch. After a commit whose outcome is not known the same is done again: what was
/// stored is known by its nonce.
async fn write(shared: &Shared, database: &Kept, batch: &[Report]) -> Result<Vec<Verdict>, StoreError> {
    let began = Instant::now();
    crash_point::pass("report.before").await?;
    let mut conn = database.acquire().await?;
    let verdicts = reports::report(&mut conn, batch).await?;
    conn.keep();
    crash_point::pass("report.after_commit").await?;
    shared.metrics.batch_size.with_label_values(&["reports"]).observe(batch.len() as f64);
    shared.metrics.commit_seconds.with_label_values(&["reports"]).observe(began.elapsed().as_secs_f64());
    Ok(verdicts)
}

fn written(shared: &Shared, reports: Vec<Report>, verdicts: &[Verdict]) {
    for (report, verdict) in reports.into_iter().zip(verdicts) {
        let Report { claim, outcome, events, .. } = report;
        let key = Key::of(&claim.token);
        // What the handler's transaction stored is a success, whatever was reported after it.
        let stored = shared.held.maybe_stored(key).filter(|_| *verdict == Verdict::Duplicate);
        shared.held.forget(key);
        if *verdict == Verdict::Refused {
            shared.metrics.fences_refused.inc();
            tracing::info!(task = %claim.task, step = %claim.step, attempt = claim.attempt, "late report refused");
            continue;
        }
        let name = if stored.is_some() { "success" } else { outcome.name() };
        shared.metrics.steps_reported.with_label_values(&[name]).inc();
        if let ReportedOutcome::Success { result, .. } = outcome
            && stored.is_none()
        {
            shared.payloads.put_result(claim.task, claim.step, result);
        }
        published(shared, &stored.unwrap_or(events));
    }
}

/// The report was accepted, so its events are there.
fn published(shared: &Shared, events: &[Published]) {
    domain_events::count(events, &shared.metrics);
    if let Some(durable) = events.iter().find(|published| published.is_durable()) {
        shared.notifier.notify(&Channel::for_queue(&durable.event.queue()));
    }
    shared.publishing.subscribers.deliver(events);
}

/// What is reported instead of an outcome that the database refuses; nothing where that is refused too.
fn instead_of(shared: &Shared, report: &Report, error: &StoreError) -> Option<Report> {
    let claim = &report.claim;
    if matches!(&report.outcome, ReportedOutcome::Failure { error, .. } if error.error_type == REFUSED) {
        if report.events.is_empty() {
            return None;
        }
        tracing::error!(task = %claim.task, step = %claim.step, attempt = claim.attempt, %error,
            "the database refuses the events of a failed attempt; they are lost");
        return Some(Report { events: Vec::new(), ..report.clone() });
    }
    tracing::error!(task = %claim.task, step = %claim.step, attempt = claim.attempt, %error,
        "the database refuses a report; the attempt fails");
    let why = match error {
        StoreError::Database(sqlx::Error::Database(error)) => error.message().to_owned(),
        _ => "it can't be written".to_owned(),
    };
    let error = StepFailure {
        message: format!("the outcome could not be stored: {why}"),
        error_type: REFUSED.to_owned(),
        error_code: None,
    };
    let outcome = ReportedOutcome::Failure { error, retryable: false, retry_after_ms: None, metadata: None };
    let publication = shared.held.publication(Key::of(&claim.token));
    let events = events::of(publication.as_deref(), claim, &outcome, report.ended_at);
    Some(Report { outcome, events, ..report.clone() })
}

fn abandoned(shared: &Shared, reports: &[Report], error: &StoreError) {
    tracing::error!(reports = reports.len(), %error, "reports can't be stored; their leases will end");
    for report in reports {
        shared.held.forget(Key::of(&report.claim.token));
    }
}

/// Gives claims back. One that is not ours any more has been claimed by somebody else, which is as good.
async fn release(shared: &Shared, tokens: &[Token], delay: Duration) {
    let released = patiently(shared, "release", || async {
        let mut conn = shared.pool.acquire().await?;
        Ok(pgmq_notify::release_fenced(&mut conn, tokens, delay).await?)
    });
    match released.await {
        Ok(released) => shared.metrics.claims_released.inc_by(released.len() as u64),
        Err(error) => tracing::error!(%error, "claims can't be given back; their leases will end"),
    }
    for token in tokens {
        shared.held.forget(Key::of(token));
    }
}

/// Tries until the database takes it or refuses it for good, or the worker has no time left.
async fn patiently<T, Fut>(shared: &Shared, doing: &'static str, work: impl Fn() -> Fut) -> Result<T, StoreError>
where
    Fut: Future<Output = Result<T, StoreError>>,
{
    let mut pause = Pause::default();
    loop {
        let result = work().await;
        match &result {
            Err(error) if error.is_transient() => {
                shared.outage.failed(Instant::now());
                shared.metrics.transaction_retries.with_label_values(&[doing]).inc();
                tokio::select! {
                    () = tokio::time::sleep(pause.next(error, doing)) => {}
                    () = shared.stop.retries.cancelled() => return result,
                }
            }
            _ => {
                shared.outage.answered(Instant::now());
                pause.reset(doing);
                return result;
            }
        }
    }
}
