//! `ResultProcessorActor`: an attempt's outcome becomes transitions, and newly ready steps get their tickets,
//! in the same commit. One lane of it never meets another one's tasks in its inbox.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tasker_lifecycle::{Event, Nonce, Refused, TaskId};
use tasker_shared::crash_point;
use tasker_shared::events;
use tasker_shared::messages::{Report, ReportedOutcome, STEP_RESULTS, Verdict};
use tasker_shared::store::StoreError;
use tasker_shared::store::tasks::Snapshot;
use tasker_shared::store::writes::Expected;

use crate::actor::{Actor, Handled, Work};
use crate::advance::{Advance, After, snapshots};
use crate::engine::Parts;
use crate::session::Session;

/// One lane.
#[derive(Debug)]
pub(crate) struct ResultProcessor {
    pub(crate) parts: Arc<Parts>,
    /// Only one lane looks into the queue: two would wake for the same message, and meet at the same tasks.
    pub(crate) reads_queue: bool,
}

/// What follows a commit of results.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    after: After,
    /// Positions of the reports that were accepted.
    accepted: Vec<usize>,
    refused: usize,
}

impl Actor for ResultProcessor {
    type Event = Report;
    type After = Decided;

    const NAME: &'static str = "results";

    fn batch_max(&self) -> usize {
        self.parts.config.actor.batch_max
    }

    async fn handle(&self, conn: &mut impl Session, work: Work<'_, Report>) -> Result<Handled<Decided>, StoreError> {
        match work {
            Work::Inbox { events, .. } => {
                Ok(Handled { after: self.reports(conn, events).await?, taken: 0, next: None })
            }
            Work::Source(_) if !self.reads_queue => Ok(Handled { after: Decided::default(), taken: 0, next: None }),
            Work::Source(max) => self.messages(conn, max).await,
        }
    }

    /// Where the cache knows the tasks, and each step's success makes only others ready. It is decided before anything is
    /// locked; the statement sees to it that the tasks are still those that were decided on.
    async fn handle_at_once(&self, conn: &mut impl Session, reports: &[Report]) -> Result<Option<Decided>, StoreError> {
        if !reports.iter().all(|report| matches!(report.outcome, ReportedOutcome::Success { .. })) {
            return Ok(None);
        }
        let is_simple = |snapshot: &Snapshot| !snapshot.task.template().uses_resources;
        let Some(snapshots) = self.parts.snapshots.take_all(&tasks_of(reports), is_simple) else { return Ok(None) };
        let expected = Expected {
            tasks: snapshots.iter().map(|snapshot| (snapshot.task.id(), snapshot.version)).collect(),
            tokens: reports.iter().map(|report| report.claim.token.clone()).collect(),
        };
        let known = snapshots.len() as u64;
        let mut advance = Advance::new(self.parts.now(), snapshots);
        advance.writes.expected = expected;
        let mut accepted: Vec<usize> = (0..reports.len()).collect();
        // What the cache has may be older than the steps that are reported on.
        let refused = decide_on(&mut advance, reports, &mut accepted);
        if !refused.is_empty() || !advance.is_one_statement() {
            return Ok(None);
        }
        self.parts.metrics.cache_hits.inc_by(known);
        advance.publish(conn, &self.parts, reports.iter().flat_map(|report| &report.events)).await?;
        let after = advance.write(conn, &self.parts).await?;
        Ok(Some(Decided { after, accepted, refused: 0 }))
    }

    fn committed(&self, decided: Decided, reports: Vec<Report>) {
        let metrics = &self.parts.metrics;
        metrics.fences_refused.inc_by(decided.refused as u64);
        for position in decided.accepted {
            let report = &reports[position];
            metrics.steps_reported.with_label_values(&[report.outcome.name()]).inc();
            if let (ReportedOutcome::Success { result, .. }, Some(local)) = (&report.outcome, &self.parts.local) {
                local.payloads().put_result(report.claim.task, report.claim.step, Arc::clone(result));
            }
            events::count(&report.events, metrics);
            if let Some(local) = &self.parts.local {
                local.subscribers().deliver(&report.events);
            }
        }
        decided.after.committed(&self.parts);
    }

    fn offends(&self, report: Report, error: StoreError) {
        let Report { claim, .. } = report;
        tracing::error!(task = %claim.task, step = %claim.step, attempt = claim.attempt, %error,
            "a report can't be stored; its lease will end");
    }

    /// What the message names beside the offender is stored, and so found by the sweep.
    async fn file_offender(&self, conn: &mut impl Session, error: &StoreError) -> Result<(), StoreError> {
        let queue = pgmq_notify::QueueName::new(STEP_RESULTS).expect("a valid queue name");
        for message in conn.pop(&queue, 1).await? {
            conn.file_message(STEP_RESULTS, message.msg_id, &message.body, &error.to_string()).await?;
        }
        Ok(())
    }

    fn abandoned(&self, reports: Vec<Report>) {
        tracing::warn!(reports = reports.len(), "stopped before these reports were stored; their leases will end");
    }
}

impl ResultProcessor {
    /// Reports of the worker in this process.
    async fn reports(&self, conn: &mut impl Session, reports: &[Report]) -> Result<Decided, StoreError> {
        let ids = tasks_of(reports);
        let tokens: Vec<_> = reports.iter().map(|report| &report.claim.token).collect();
        let mut locked = conn.lock_and_take(&ids, &tokens).await?;
        crash_point::pass("advance.after_lock").await?;
        let snapshots = snapshots(conn, &self.parts, &locked.versions).await?;
        let mut advance = Advance::new(locked.now, snapshots);
        for (task, refused) in decide_on(&mut advance, reports, &mut locked.taken) {
            tracing::warn!(%task, %refused, "a report that never could apply is kept as an attempt only");
        }
        let events = locked.taken.iter().flat_map(|position| &reports[*position].events);
        advance.publish(conn, &self.parts, events).await?;
        let refused = self.discard(conn, reports, &locked.taken).await?;
        let after = advance.write(conn, &self.parts).await?;
        Ok(Decided { after, accepted: locked.taken, refused })
    }

    /// Reports whose ticket was not theirs any more.
    async fn discard(&self, conn: &mut impl Session, reports: &[Report], taken: &[usize]) -> Result<usize, StoreError> {
        if taken.len() == reports.len() {
            return Ok(0);
        }
        let verdicts = conn.discard(reports, taken).await?;
        let refused = verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Refused);
        Ok(refused
            .map(|(position, _)| {
                let claim = &reports[*position].claim;
                tracing::info!(task = %claim.task, step = %claim.step, attempt = claim.attempt, "late report refused");
            })
            .count())
    }

    /// Result messages of workers in other processes.
    async fn messages(&self, conn: &mut impl Session, max: usize) -> Result<Handled<Decided>, StoreError> {
        let qty = i32::try_from(max).unwrap_or(i32::MAX);
        let mut results = conn.take_results(qty).await?;
        let taken = results.len();
        let Some(now) = results.first().map(|result| result.now) else {
            return Ok(Handled { after: Decided::default(), taken: 0, next: None });
        };
        crash_point::pass("advance.after_lock").await?;
        let versions: HashMap<TaskId, i64> = results.iter().filter_map(|result| result.task).collect();
        let mut advance = Advance::new(now, snapshots(conn, &self.parts, &versions).await?);
        results.sort_by_key(|result| result.task);
        let mut strange = BTreeMap::new();
        for result in results {
            match (result.task, &result.event) {
                (Some((task, _)), Some(event)) => {
                    if let Err(refused) = advance.event(task, event) {
                        tracing::warn!(%task, %refused, "a stored attempt that never could apply");
                    }
                }
                _ => _ = strange.insert(result.msg_id, result.body.unwrap_or_default()),
            }
        }
        for (msg_id, body) in strange {
            tracing::warn!(msg_id, "a message in the result queue names no attempt and is filed away");
            conn.file_message(STEP_RESULTS, msg_id, &body, "names no stored attempt").await?;
        }
        let after = advance.write(conn, &self.parts).await?;
        Ok(Handled { after: Decided { after, ..Decided::default() }, taken, next: None })
    }
}

fn tasks_of(reports: &[Report]) -> Vec<TaskId> {
    let mut ids: Vec<TaskId> = reports.iter().map(|report| report.claim.task).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Decides on those of the reports that are accepted: by task, so that the changes of one task share a history row, and
/// what was said first first. Answers what was refused.
fn decide_on(advance: &mut Advance, reports: &[Report], accepted: &mut [usize]) -> Vec<(TaskId, Refused)> {
    let mut all_refused = Vec::new();
    accepted.sort_by_key(|position| (reports[*position].claim.task, *position));
    for position in accepted {
        let report = &reports[*position];
        let claim = &report.claim;
        let known = advance.snapshot(claim.task).filter(|snapshot| snapshot.task.step(claim.step).is_some());
        let decided = known.map_or(0, |snapshot| snapshot.task.attempts(claim.step));
        advance.writes.attempt(report, decided);
        let event = Event::Reported {
            step: claim.step,
            attempt: claim.attempt,
            nonce: Nonce(claim.token.nonce),
            outcome: report.outcome.for_lifecycle(),
        };
        if let Err(refused) = advance.event(claim.task, &event) {
            all_refused.push((claim.task, refused));
        }
    }
    all_refused
}
