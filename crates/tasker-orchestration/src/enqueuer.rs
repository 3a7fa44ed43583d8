//! `StepEnqueuerActor`: what changes tasks other than creation and results: commands, due times, and the
//! sweep that feeds what a lost message left undecided.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pgmq_notify::QueueName;
use tasker_lifecycle::{Event, Refused, StepIndex, StepState, Task, TaskId};
use tasker_shared::messages::{STEP_RESULTS, TASK_REQUESTS};
use tasker_shared::store::StoreError;
use tasker_shared::store::resources::{Gate, HeldStep, ResourceKey};
use tasker_shared::store::staleness::Stale;
use tasker_shared::store::writes::ByHand;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::actor::{Actor, Handled, Work};
use crate::advance::{Advance, After, snapshots};
use crate::engine::Parts;
use crate::errors::CommandError;
use crate::session::Session;

/// How many live tasks one look of the sweep covers; it comes back for the rest.
const SWEEP_PAGE: i64 = 2_000;
/// How long a stored attempt may stay undecided before the sweep feeds it: its message is normally decided
/// on within milliseconds.
const UNDECIDED_AGE_MS: f64 = 3_000.0;
/// How often partitions are looked at.
const PARTITIONS_EVERY: Duration = Duration::from_hours(1);
/// Every so many looks sweep, however much is due: what was lost must not wait for the load to end.
const SWEEP_EVERY: u32 = 16;
/// Stale tasks of one look.
const STALE_PAGE: i32 = 100;
/// The most checkpoints of ended tasks that are deleted with them.
const CHECKPOINTS: i64 = 10_000;

/// An event that somebody outside asks for, with who and why.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) task: TaskId,
    pub(crate) ordered: Ordered,
    /// Whether anything changed.
    pub(crate) reply: oneshot::Sender<Result<bool, CommandError>>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Ordered {
    pub(crate) event: Event,
    /// JSON text for the history.
    pub(crate) detail: String,
    /// Where it is an action on a step.
    pub(crate) repair: Option<Repair>,
}

/// An action on a step. Unlike a cancel it is refused where it changes nothing, so that a repetition is told apart
/// from what it repeats.
#[derive(Debug)]
pub(crate) struct Repair {
    /// In the detail, too.
    pub(crate) action: Uuid,
    /// The step with its result, where somebody supplies it.
    pub(crate) by_hand: Option<(StepIndex, ByHand)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct StepEnqueuer {
    pub(crate) parts: Arc<Parts>,
    pub(crate) sweep: Mutex<Sweep>,
}

/// Where the sweep is. Lost with the process, which only means that it begins anew.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    after: Option<TaskId>,
    stale_after: Option<TaskId>,
    /// Behind which step tickets of failed resources are still to be taken back.
    take_back_after: Option<Option<(TaskId, StepIndex)>>,
    partitions_at: Option<Instant>,
    /// Looks since the last page.
    looks: u32,
}

impl Sweep {
    /// Whether this look, which found so much due, sweeps as well.
    fn is_due(&mut self, found: usize) -> bool {
        self.looks += 1;
        let is_due = found == 0 || self.looks >= SWEEP_EVERY;
        if is_due {
            self.looks = 0;
        }
        is_due
    }
}

/// What follows a commit of commands.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    after: After,
    answers: Vec<Result<bool, CommandError>>,
}

impl Actor for StepEnqueuer {
    type Event = Command;
    type After = Carried;

    const NAME: &'static str = "enqueuer";

    fn batch_max(&self) -> usize {
        self.parts.config.sweep.due_batch
    }

    async fn handle(&self, conn: &mut impl Session, work: Work<'_, Command>) -> Result<Handled<Carried>, StoreError> {
        match work {
            Work::Inbox { events, again } => {
                Ok(Handled { after: self.commands(conn, events, again).await?, taken: 0, next: None })
            }
            Work::Source(max) => self.look(conn, max).await,
        }
    }

    fn committed(&self, carried: Carried, commands: Vec<Command>) {
        carried.after.committed(&self.parts);
        for (command, answer) in commands.into_iter().zip(carried.answers) {
            // Who asked may have gone away meanwhile.
            let _gone = command.reply.send(answer);
        }
    }

    fn offends(&self, command: Command, error: StoreError) {
        tracing::error!(task = %command.task, %error, "a command can't be carried out");
        let _gone = command.reply.send(Err(CommandError::Unavailable));
    }

    async fn file_offender(&self, _conn: &mut impl Session, error: &StoreError) -> Result<(), StoreError> {
        // The task that can't be read stays as it is for an operator; the sweep goes on behind it.
        tracing::error!(%error, "the sweep met a task that it can't handle");
        let mut sweep = self.sweep.lock().expect("no panic while held");
        sweep.after = sweep.after.or(Some(self.parts.new_task_id()));
        Ok(())
    }

    fn abandoned(&self, commands: Vec<Command>) {
        for command in commands {
            let _gone = command.reply.send(Err(CommandError::Unavailable));
        }
    }
}

impl StepEnqueuer {
    /// What workers had stored before the command came is decided first, then the command.
    async fn commands(
        &self,
        conn: &mut impl Session,
        commands: &[Command],
        again: bool,
    ) -> Result<Carried, StoreError> {
        let ids: BTreeSet<TaskId> = commands.iter().map(|command| command.task).collect();
        let ids: Vec<TaskId> = ids.into_iter().collect();
        let mut advance = self.locked(conn, &ids).await?;
        let done = if again { done_before(conn, &ids, commands).await? } else { Vec::new() };
        for (task, event) in conn.undecided_of(&ids).await? {
            if let Err(refused) = advance.event(task, &event) {
                tracing::warn!(%task, %refused, "a stored attempt that never could apply");
            }
        }
        count_cancelled(conn, &mut advance, commands).await?;
        advance.settle(conn, &self.parts).await?;
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            let is_done = command.ordered.repair.as_ref().is_some_and(|repair| done.contains(&repair.action));
            answers.push(if is_done { Ok(true) } else { carry_out(&mut advance, command) });
            advance.settle(conn, &self.parts).await?;
        }
        Ok(Carried { after: advance.write(conn, &self.parts).await?, answers })
    }

    /// Due times first, and what resources have room for; when there is nothing, and now and then besides, a page of
    /// the sweep.
    async fn look(&self, conn: &mut impl Session, max: usize) -> Result<Handled<Carried>, StoreError> {
        let (mut events, next_ms) = conn.come_due(i64::try_from(max).unwrap_or(i64::MAX)).await?;
        let (asks, opens_ms) = self.asks(conn, max).await?;
        let lost = if events.is_empty() { self.to_take_back(conn, max).await? } else { Vec::new() };
        let taken = events.len().max(asks.len()).max(lost.len());
        let mut stale = Vec::new();
        let sweeps = self.sweep.lock().expect("no panic while held").is_due(taken);
        if sweeps {
            events.extend(self.sweep_page(conn).await?);
            stale = self.stale(conn).await?;
            events.extend(stale.iter().filter(|stale| stale.fails).map(|stale| (stale.task, Event::Expired)));
        }
        // All of them are locked at once, in the order of their ids.
        let filed = stale.iter().filter(|stale| stale.files && !stale.is_filed).map(|stale| stale.task);
        let held = asks.iter().map(|held| held.task).chain(lost.iter().map(|(task, _)| *task));
        let ids: BTreeSet<TaskId> = events.iter().map(|(task, _)| *task).chain(filed.clone()).chain(held).collect();
        let mut carried = Carried::default();
        if !ids.is_empty() {
            let ids: Vec<TaskId> = ids.into_iter().collect();
            let mut advance = self.locked(conn, &ids).await?;
            for task in filed {
                conn.file_task(task, "stale", &self.parts.name).await?;
            }
            for (task, event) in events {
                if let Err(refused) = advance.event(task, &event) {
                    tracing::warn!(%task, %refused, "a stored event that never could apply");
                }
            }
            advance.take_back(conn, &lost).await?;
            asks.into_iter().for_each(|held| advance.ask_again(held));
            carried.after = advance.write(conn, &self.parts).await?;
        }
        let next = next_ms.into_iter().chain(opens_ms).min();
        Ok(Handled { after: carried, taken, next: next.map(Duration::from_millis) })
    }

    /// Held steps that may have room, up to `max` for each resource, and in how many milliseconds a resource may be
    /// probed that is open now.
    async fn asks(&self, conn: &mut impl Session, max: usize) -> Result<(Vec<HeldStep>, Option<u64>), StoreError> {
        let (gates, now) = conn.holding().await?;
        let opens = gates.iter().filter_map(|(_, gate)| gate.resource.opens_in(now)).min();
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let room = |gate: Gate| gate.resource.room(gate.in_flight, now).min(max);
        let rooms: Vec<(ResourceKey, u32)> =
            gates.into_iter().map(|(key, gate)| (key, room(gate))).filter(|(_, room)| *room > 0).collect();
        let held = if rooms.is_empty() { Vec::new() } else { conn.held(&rooms).await? };
        Ok((held, opens))
    }

    /// A page of the steps that have a ticket although a resource that they use has failed.
    async fn to_take_back(&self, conn: &mut impl Session, max: usize) -> Result<Vec<(TaskId, StepIndex)>, StoreError> {
        let after = {
            let mut sweep = self.sweep.lock().expect("no panic while held");
            if self.parts.doorbell.is_to_take_back() {
                sweep.take_back_after = Some(None);
            }
            sweep.take_back_after
        };
        let Some(after) = after else { return Ok(Vec::new()) };
        let page = conn.revocable(after, i64::try_from(max).unwrap_or(i64::MAX)).await?;
        let last = page.last().copied().filter(|_| page.len() == max);
        self.sweep.lock().expect("no panic while held").take_back_after = last.map(Some);
        Ok(page)
    }

    async fn sweep_page(&self, conn: &mut impl Session) -> Result<Vec<(TaskId, Event)>, StoreError> {
        let (after, partitions) = {
            let mut sweep = self.sweep.lock().expect("no panic while held");
            let due = sweep.partitions_at.is_none_or(|at| at.elapsed() > PARTITIONS_EVERY);
            if due {
                sweep.partitions_at = Some(Instant::now());
            }
            (sweep.after, due)
        };
        // Whoever opened a breaker may have died before it could take the tickets back.
        self.parts.doorbell.look_for_open();
        if partitions {
            conn.ensure_partitions().await?;
            conn.delete_checkpoints(CHECKPOINTS).await?;
        }
        let mut queues = self.parts.queues();
        queues.extend([STEP_RESULTS, TASK_REQUESTS].map(|name| QueueName::new(name).expect("a valid queue name")));
        let queue = &self.parts.config.queue;
        let longest_delay = tasker_lifecycle::MAX_TICKET_DELAY_MS;
        let clamped = conn
            .clamp_vt(&queues, Duration::from_millis(queue.max_lease_ms), Duration::from_millis(longest_delay))
            .await?;
        if clamped > 0 {
            tracing::warn!(clamped, "messages were hidden for longer than any lease; the clock must have jumped");
        }
        let (found, last) = conn.undecided(after, SWEEP_PAGE, UNDECIDED_AGE_MS).await?;
        if !found.is_empty() {
            tracing::info!(attempts = found.len(), "the sweep found attempts whose message was lost");
        }
        self.sweep.lock().expect("no panic while held").after = last;
        Ok(found)
    }

    /// A page of the tasks that have passed a bound of their life.
    async fn stale(&self, conn: &mut impl Session) -> Result<Vec<Stale>, StoreError> {
        let after = self.sweep.lock().expect("no panic while held").stale_after;
        let found = conn.stale(after, STALE_PAGE).await?;
        for Stale { task, bound, minutes, .. } in found.iter().filter(|stale| stale.fails) {
            tracing::warn!(%task, bound, minutes, "a task has passed a bound of its life and ends in error");
        }
        let full = found.len() == usize::try_from(STALE_PAGE).unwrap_or(usize::MAX);
        self.sweep.lock().expect("no panic while held").stale_after =
            found.last().map(|stale| stale.task).filter(|_| full);
        Ok(found)
    }

    async fn locked(&self, conn: &mut impl Session, ids: &[TaskId]) -> Result<Advance, StoreError> {
        let locked = conn.lock_and_take(ids, &[]).await?;
        Ok(Advance::new(locked.now, snapshots(conn, &self.parts, &locked.versions).await?))
    }
}

/// Which actions an earlier try of the same commands has carried out: its commit may have succeeded although its
/// answer got lost.
async fn done_before(conn: &mut impl Session, ids: &[TaskId], commands: &[Command]) -> Result<Vec<Uuid>, StoreError> {
    let repairs = commands.iter().filter_map(|command| command.ordered.repair.as_ref());
    let wanted: Vec<Uuid> = repairs.map(|repair| repair.action).collect();
    if wanted.is_empty() { Ok(wanted) } else { conn.carried_out(ids, &wanted).await }
}

/// A batch worker that was cancelled with its batch may have been reported on before it knew. An action that takes it
/// up again must not use the numbers of those attempts.
async fn count_cancelled(
    conn: &mut impl Session,
    advance: &mut Advance,
    commands: &[Command],
) -> Result<(), StoreError> {
    let repaired: BTreeSet<TaskId> = commands.iter().filter(|c| c.ordered.repair.is_some()).map(|c| c.task).collect();
    let live = repaired.iter().filter_map(|task| advance.snapshot(*task)).filter(|s| !s.task.state().is_terminal());
    let cancelled: Vec<(TaskId, StepIndex)> = live.flat_map(|snapshot| cancelled(&snapshot.task)).collect();
    if cancelled.is_empty() {
        return Ok(());
    }
    let attempts = conn.attempts_of(&cancelled).await?;
    for ((task, step), attempts) in cancelled.into_iter().zip(attempts) {
        advance.event(task, &Event::Counted { step, attempts }).expect("the task has this step");
    }
    Ok(())
}

fn cancelled(task: &Task) -> impl Iterator<Item = (TaskId, StepIndex)> + '_ {
    let cancelled = task.steps().iter().enumerate().filter(|(_, state)| **state == StepState::Cancelled);
    cancelled.map(|(at, _)| (task.id(), StepIndex::from(at)))
}

fn carry_out(advance: &mut Advance, command: &Command) -> Result<bool, CommandError> {
    let Command { task, ordered: Ordered { event, detail, repair }, .. } = command;
    let snapshot = advance.snapshot(*task).ok_or(CommandError::NotFound)?;
    let before = snapshot.task.state();
    let changed = advance.event(*task, event).map_err(|refused: Refused| refused)?;
    if !changed && repair.is_some() {
        return Err(Refused::AlreadyEnded(before).into());
    }
    if changed {
        advance.writes.explain(detail.clone());
    }
    if let Some(Repair { by_hand: Some((step, by_hand)), .. }) = repair {
        let attempt = advance.snapshot(*task).map_or(1, |snapshot| snapshot.task.attempts(*step));
        let now = advance.now();
        advance.writes.by_hand((*task, *step, attempt), by_hand, now);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_is_due_every_sixteenth_look_sweeps() {
        let mut sweep = Sweep::default();
        let busy: Vec<bool> = (0..48).map(|_| sweep.is_due(100)).collect();
        assert_eq!(busy.iter().filter(|swept| **swept).count(), 3);
        assert!(sweep.is_due(0), "a look that finds nothing sweeps at once");
        assert!((1..SWEEP_EVERY).all(|_| !sweep.is_due(1)) && sweep.is_due(1), "and counting begins anew");
    }
}
