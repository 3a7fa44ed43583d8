//! Snapshots of live tasks, bounded in bytes.
//!
//! A snapshot is taken out for a batch and put back only after a known commit, so a failed or unknown
//! commit can't leave a wrong one behind. What is taken is used only where its version equals the locked
//! row's.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use tasker_lifecycle::TaskId;

use super::tasks::Snapshot;

/// See the module. The tasks that were put back longest ago leave first.
#[derive(Debug)]
pub struct Snapshots {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: usize,
    next: u64,
    order: VecDeque<(u64, TaskId)>,
    tasks: HashMap<TaskId, (u64, Snapshot)>,
}

impl Snapshots {
    /// An empty cache of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    /// Takes out the snapshot of `task` if it is the one at `version`; another one is dropped.
    #[must_use]
    pub fn take(&self, task: TaskId, version: i64) -> Option<Snapshot> {
        let mut inner = self.inner.lock().expect("no panic while held");
        let (_, snapshot) = inner.tasks.remove(&task)?;
        inner.bytes -= snapshot.task.weight();
        (snapshot.version == version).then_some(snapshot)
    }

    /// Takes out the snapshots of all these tasks, at whatever version they are; none where one of them is missing or is
    /// not wanted.
    #[must_use]
    pub fn take_all(&self, tasks: &[TaskId], is_wanted: impl Fn(&Snapshot) -> bool) -> Option<Vec<Snapshot>> {
        let mut inner = self.inner.lock().expect("no panic while held");
        if !tasks.iter().all(|task| inner.tasks.get(task).is_some_and(|(_, snapshot)| is_wanted(snapshot))) {
            return None;
        }
        let taken: Vec<Snapshot> = tasks.iter().filter_map(|task| Some(inner.tasks.remove(task)?.1)).collect();
        inner.bytes -= taken.iter().map(|snapshot| snapshot.task.weight()).sum::<usize>();
        Some(taken)
    }

    /// Puts a snapshot back after its commit is known.
    pub fn put(&self, snapshot: Snapshot) {
        let weight = snapshot.task.weight();
        if weight > self.limit {
            return;
        }
        let mut inner = self.inner.lock().expect("no panic while held");
        let stamp = inner.next;
        inner.next += 1;
        let id = snapshot.task.id();
        inner.bytes += weight;
        inner.order.push_back((stamp, id));
        if let Some((_, old)) = inner.tasks.insert(id, (stamp, snapshot)) {
            inner.bytes -= old.task.weight();
        }
        inner.shrink(self.limit);
    }

    /// How many snapshots there are, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let inner = self.inner.lock().expect("no panic while held");
        (inner.tasks.len(), inner.bytes)
    }
}

impl Inner {
    fn shrink(&mut self, limit: usize) {
        while self.bytes > limit {
            let Some((stamp, task)) = self.order.pop_front() else { break };
            if self.tasks.get(&task).is_some_and(|(newest, _)| *newest == stamp) {
                let (_, gone) = self.tasks.remove(&task).expect("just found");
                self.bytes -= gone.task.weight();
            }
        }
        // Every put leaves a place in the order; drop those that a later put or a take made void.
        if self.order.len() > 64 + 2 * self.tasks.len() {
            let tasks = &self.tasks;
            self.order.retain(|(stamp, task)| tasks.get(task).is_some_and(|(newest, _)| newest == stamp));
        }
    }
}
