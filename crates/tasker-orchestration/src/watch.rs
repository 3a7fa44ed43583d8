//! Who waits for a task learns of its commits: at once of those made in this process, by a poll of the
//! others'.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::PgPool;
use tasker_lifecycle::{TaskId, TaskState};
use tasker_shared::store::kept::Kept;
use tasker_shared::store::tasks;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often tasks that are waited for are looked at, in case another server moves them. A server that
/// moves them itself needs no look.
const POLL: Duration = Duration::from_millis(250);
/// The most tasks of one look.
const LOOK_MAX: usize = 1_000;
/// The pause after a look, in which those who ask for the next one gather.
const PAUSE: Duration = Duration::from_millis(10);

/// What was last seen of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// That there is none.
    Missing,
    /// Its history's length and its state.
    At(i32, TaskState),
}

/// The waiting room.
#[derive(Debug, Default)]
pub struct Watch {
    tasks: Mutex<HashMap<TaskId, (watch::Sender<Seen>, usize)>>,
    asked: Mutex<Vec<TaskId>>,
    bell: Notify,
}

/// One who waits for a task.
#[derive(Debug)]
pub struct Watcher {
    task: TaskId,
    seen: watch::Receiver<Seen>,
    room: Arc<Watch>,
}

impl Watch {
    /// Registers for a task. Look at its state, or have it looked at, after this.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, task: TaskId) -> Watcher {
        let mut tasks = self.tasks.lock().expect("no panic while held");
        let (sender, count) = tasks.entry(task).or_insert_with(|| (watch::Sender::new(Seen::Nothing), 0));
        *count += 1;
        Watcher { task, seen: sender.subscribe(), room: Arc::clone(self) }
    }

    pub(crate) fn committed(&self, task: TaskId, seq: i32, state: TaskState) {
        self.saw(task, Seen::At(seq, state));
    }

    fn saw(&self, task: TaskId, now: Seen) {
        let tasks = self.tasks.lock().expect("no panic while held");
        if let Some((sender, _)) = tasks.get(&task) {
            sender.send_if_modified(|seen| {
                let newer = match (*seen, now) {
                    (Seen::At(known, _), Seen::At(seq, _)) => known < seq,
                    (Seen::At(..), _) => false,
                    (known, now) => known != now,
                };
                if newer {
                    *seen = now;
                }
                newer
            });
        }
    }

    /// Those who asked and to whom nothing was told meanwhile.
    fn asked(&self) -> Vec<TaskId> {
        let mut asked = std::mem::take(&mut *self.asked.lock().expect("no panic while held"));
        let tasks = self.tasks.lock().expect("no panic while held");
        asked.retain(|task| tasks.get(task).is_some_and(|(sender, _)| *sender.borrow() == Seen::Nothing));
        asked
    }

    /// The next of all tasks, from the place `from` on, which moves on.
    fn page(&self, from: &mut usize) -> Vec<TaskId> {
        let mut all: Vec<TaskId> = self.tasks.lock().expect("no panic while held").keys().copied().collect();
        all.sort_unstable();
        let first = if *from < all.len() { *from } else { 0 };
        *from = all.len().min(first + LOOK_MAX);
        all[first..*from].to_vec()
    }

    /// Looks at the tasks that are waited for, until `stop`: soon at those that somebody asks for, and at all of them
    /// now and then.
    pub(crate) async fn look(self: Arc<Self>, pool: PgPool, stop: CancellationToken) {
        let database = Kept::new(pool);
        let mut from = 0;
        let mut round = Instant::now() + POLL;
        loop {
            let page = tokio::select! {
                () = stop.cancelled() => return,
                () = self.bell.notified() => self.asked(),
                () = tokio::time::sleep_until(round) => {
                    round = Instant::now() + POLL;
                    self.page(&mut from)
                }
            };
            if page.is_empty() {
                continue;
            }
            if let Ok(mut conn) = database.acquire().await
                && let Ok(found) = tasks::progress(&mut conn, &page).await
            {
                conn.keep();
                let found: HashMap<TaskId, Seen> =
                    found.into_iter().map(|(task, seq, state)| (task, Seen::At(seq, state))).collect();
                for task in page {
                    self.saw(task, found.get(&task).copied().unwrap_or(Seen::Missing));
                }
            }
            // A look that failed is repeated by the next round; the actors tell of a database that is away.
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Watcher {
    /// Waits for a commit that was not seen yet. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        // The sender lives as long as this watcher is counted.
        let _closed = self.seen.changed().await;
    }

    /// Has the task looked at soon, unless a commit in this process is told first.
    pub fn ask(&self) {
        let mut asked = self.room.asked.lock().expect("no panic while held");
        // Who finds no place is looked at with all the others.
        if asked.len() < LOOK_MAX {
            asked.push(self.task);
            self.room.bell.notify_one();
        }
    }

    /// The state in which the task rests if that is terminal or blocked, as far as this process has seen.
    #[must_use]
    pub fn ended(&self) -> Option<TaskState> {
        let Seen::At(_, state) = *self.seen.borrow() else { return None };
        state.rests().then_some(state)
    }

    /// Whether it was looked for and there is none.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        *self.seen.borrow() == Seen::Missing
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
        let end = Instant::now() + longest;
        let mut watcher = self.watch().subscribe(task);
        let mut look_at = Some(Instant::now() + FIRST_LOOK);
        loop {
            if let Some(state) = watcher.ended() {
                return Some(state);
            }
            if watcher.is_missing() {
                return None;
            }
            tokio::select! {
                () = watcher.changed() => {}
                () = tokio::time::sleep_until(look_at.unwrap_or(end).min(end)) => {
                    if Instant::now() >= end {
                        let mut conn = self.pool().acquire().await.ok()?;
                        let (_, _, state) = tasks::progress(&mut conn, &[task]).await.ok()?.first().copied()?;
                        return state.rests().then_some(state);
                    }
                    watcher.ask();
                    look_at = None;
                }
            }
        }
    }
}
