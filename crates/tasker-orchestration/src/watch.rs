//! Who waits for a task learns of its commits: at once of those made in this process, by a poll of the
//! others'.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::PgPool;
use tasker_lifecycle::{TaskId, TaskState};
use tasker_shared::store::tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often tasks that are waited for are looked at, in case another server moves them. A server that
/// moves them itself needs no look.
const POLL: Duration = Duration::from_millis(250);
/// The most tasks of one look.
const POLL_MAX: usize = 1_000;

/// What was last seen of a task: its history's length and its state.
type Seen = Option<(i32, TaskState)>;

/// The waiting room.
#[derive(Debug, Default)]
pub struct Watch {
    tasks: Mutex<HashMap<TaskId, (watch::Sender<Seen>, usize)>>,
}

/// One who waits for a task.
#[derive(Debug)]
pub struct Watcher {
    task: TaskId,
    seen: watch::Receiver<Seen>,
    room: Arc<Watch>,
}

impl Watch {
    /// Registers for a task. Look at its state after this and before the first wait.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, task: TaskId) -> Watcher {
        let mut tasks = self.tasks.lock().expect("no panic while held");
        let (sender, count) = tasks.entry(task).or_insert_with(|| (watch::Sender::new(None), 0));
        *count += 1;
        Watcher { task, seen: sender.subscribe(), room: Arc::clone(self) }
    }

    pub(crate) fn committed(&self, task: TaskId, seq: i32, state: TaskState) {
        let tasks = self.tasks.lock().expect("no panic while held");
        if let Some((sender, _)) = tasks.get(&task) {
            sender.send_if_modified(|seen| {
                let newer = seen.is_none_or(|(known, _)| known < seq);
                if newer {
                    *seen = Some((seq, state));
                }
                newer
            });
        }
    }

    /// Looks at the tasks that are waited for, until `stop`.
    pub(crate) async fn poll(self: Arc<Self>, pool: PgPool, stop: CancellationToken) {
        let mut from = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = stop.cancelled() => return,
            }
            let mut waited: Vec<TaskId> = self.tasks.lock().expect("no panic while held").keys().copied().collect();
            if waited.is_empty() {
                continue;
            }
            waited.sort_unstable();
            from = if from >= waited.len() { 0 } else { from };
            let page = &waited[from..waited.len().min(from + POLL_MAX)];
            from += page.len();
            let Ok(mut conn) = pool.acquire().await else { continue };
            // A look that fails is repeated by the next one; the actors tell of a database that is away.
            for (task, seq, state) in tasks::progress(&mut conn, page).await.unwrap_or_default() {
                self.committed(task, seq, state);
            }
        }
    }
}

impl Watcher {
    /// Waits for a commit that was not seen yet. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        // The sender lives as long as this watcher is counted.
        let _closed = self.seen.changed().await;
    }

    /// The state in which the task rests if that is terminal or blocked, as far as this process has seen.
    #[must_use]
    pub fn ended(&self) -> Option<TaskState> {
        let (_, state) = (*self.seen.borrow())?;
        (state.is_terminal() || state == TaskState::BlockedByFailures).then_some(state)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut tasks = self.room.tasks.lock().expect("no panic while held");
        if let Some((_, count)) = tasks.get_mut(&self.task) {
            *count -= 1;
            if *count == 0 {
                tasks.remove(&self.task);
            }
        }
    }
}

impl crate::Engine {
    /// Waits until a task is terminal or blocked; `None` where it is neither by then, or is not there.
    pub async fn wait(&self, task: TaskId, longest: Duration) -> Option<TaskState> {
        /// Commits in this process tell at once; the database is asked only where they do not.
        const FIRST_LOOK: Duration = Duration::from_millis(20);
        let end = tokio::time::Instant::now() + longest;
        let mut watcher = self.watch().subscribe(task);
        let mut look_at = tokio::time::Instant::now() + FIRST_LOOK;
        loop {
            if let Some(state) = watcher.ended() {
                return Some(state);
            }
            tokio::select! {
                () = watcher.changed() => {}
                () = tokio::time::sleep_until(look_at.min(end)) => {
                    let mut conn = self.pool().acquire().await.ok()?;
                    let progress = tasks::progress(&mut conn, &[task]).await.ok()?;
                    drop(conn);
                    let (_, seq, state) = progress.first().copied()?;
                    self.watch().committed(task, seq, state);
                    if tokio::time::Instant::now() >= end {
                        return watcher.ended();
                    }
                    look_at = tokio::time::Instant::now() + POLL;
                }
            }
        }
    }
}
