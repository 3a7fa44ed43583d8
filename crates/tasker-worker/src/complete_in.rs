//! Completing a step inside a transaction of its handler's, so that what the handler does in the database and the
//! outcome of its attempt are stored together or not at all.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Serialize;
use sqlx::PgConnection;
use tasker_shared::config::Config;
use tasker_shared::events::Published;
use tasker_shared::messages::{Claim, Report, Verdict};
use tasker_shared::store::reports;

use crate::attempt;
use crate::events::{self, Publication};
use crate::handler::{StepContext, StepError, StepOutcome};
use crate::held::Clock;
use crate::plans::Plan;

/// The class of the failure of an attempt whose handler said that it is completed although its transaction was not
/// committed.
const NOT_COMMITTED: &str = "not_committed";

/// What it takes to report an attempt from within its handler.
pub(crate) struct Completion {
    pub(crate) claim: Claim,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) worker: Arc<str>,
    pub(crate) config: Arc<Config>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) publication: Option<Arc<Publication>>,
    /// Whether it was, in a transaction that may have been committed.
    pub(crate) tried: AtomicBool,
    /// The events of that transaction.
    pub(crate) stored: Mutex<Vec<Published>>,
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").field("claim", &self.claim).field("tried", &self.tried).finish_non_exhaustive()
    }
}

impl StepContext {
    /// Completes the step with this result inside the transaction that is open on `conn`, a connection to Tasker's own
    /// database. Commit, then return the outcome that this answers:
    ///
    /// ```no_run
    /// # use tasker_worker::{StepContext, StepError, StepOutcome};
    /// async fn book(ctx: StepContext, pool: sqlx::PgPool) -> Result<StepOutcome, StepError> {
    ///     let amount: i64 = ctx.get_input("amount")?;
    ///     let mut tx = pool.begin().await?;
    ///     sqlx::query("INSERT INTO bookings (amount) VALUES ($1)").bind(amount).execute(&mut *tx).await?;
    ///     let outcome = ctx.complete_in(&mut tx, amount).await?;
    ///     tx.commit().await?;
    ///     Ok(outcome)
    /// }
    /// ```
    ///
    /// The booking is there if and only if the step is complete: an attempt whose lease was lost meanwhile can't commit,
    /// and one that did commit is never run again, whatever the handler returns after that. Where the transaction is
    /// not committed the attempt fails with what the handler returns, or as `not_committed` if that is the outcome.
    ///
    /// Call it last: the ticket stays locked until the end of the transaction.
    ///
    /// # Errors
    /// A result that would be refused from a handler is refused as there, and the transaction is still good. A retryable
    /// `claim_lost` where the attempt no longer counts, a permanent `already_completed` where an earlier transaction of
    /// this attempt was committed, and a retryable `handler_error` where the database fails: the transaction is lost.
    pub async fn complete_in(&self, conn: &mut PgConnection, result: impl Serialize) -> Result<StepOutcome, StepError> {
        let outcome = StepOutcome::success(result)?;
        // A handler that is tested alone has no claim; its transaction is its own affair.
        let Some(completion) = &self.0.completion else { return Ok(outcome) };
        let outcome = attempt::checked(&completion.config.limits, &completion.plan, self.0.pattern, Ok(outcome))?;
        let report = completion.report(outcome.clone());
        // Said before, because whether it was is not known where the connection breaks now.
        completion.tried.store(true, Ordering::Release);
        match reports::complete(conn, &report).await? {
            Verdict::Accepted => {
                *completion.stored.lock().expect("no panic while held") = report.events;
                Ok(StepOutcome { in_transaction: true, ..outcome })
            }
            Verdict::Duplicate => {
                let message = "an earlier transaction of this attempt has completed the step";
                Err(StepError::permanent(message).with_class("already_completed"))
            }
            Verdict::Refused => {
                let message = "the attempt does not count any more: its lease was lost, or the task was cancelled";
                Err(StepError::retryable(message).with_class("claim_lost"))
            }
        }
    }

    /// The events of the transaction of the handler's that may have completed the attempt; none where there was no such
    /// transaction.
    pub(crate) fn may_be_completed(&self) -> Option<Vec<Published>> {
        let completion = self.0.completion.as_ref().filter(|completion| completion.tried.load(Ordering::Acquire))?;
        Some(completion.stored.lock().expect("no panic while held").clone())
    }
}

impl Completion {
    fn report(&self, outcome: StepOutcome) -> Report {
        let outcome = attempt::outcome(Ok(outcome));
        let (started_at, ended_at) = (Some(self.clock.at(self.started)), self.clock.at(Instant::now()));
        let (claim, worker) = (self.claim.clone(), Arc::clone(&self.worker));
        let events = events::of(self.publication.as_deref(), &claim, &outcome, ended_at);
        Report { claim, outcome, started_at, ended_at, worker, events }
    }
}

/// What is reported after the handler has come back. Where its transaction was committed that is a duplicate and changes
/// nothing; where it was not, the attempt has failed.
pub(crate) fn unless_committed(returned: Result<StepOutcome, StepError>) -> Result<StepOutcome, StepError> {
    match returned {
        Ok(StepOutcome { in_transaction: true, .. }) => {
            let message = "the handler completed the step in a transaction that was not committed";
            Err(StepError::retryable(message).with_class(NOT_COMMITTED))
        }
        other => other,
    }
}
