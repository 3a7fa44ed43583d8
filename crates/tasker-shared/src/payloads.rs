//! A bounded cache of payloads: task contexts and step results.
//!
//! Both never change once they were accepted, so a cached value is never wrong, only absent. It saves the
//! round trip that would fetch what this process has just written.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde_json::value::RawValue;
use tasker_lifecycle::{StepIndex, TaskId};

/// See the module. Oldest tasks leave first.
#[derive(Debug)]
pub struct Payloads {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: usize,
    order: VecDeque<TaskId>,
    tasks: HashMap<TaskId, Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    bytes: usize,
    context: Option<Arc<RawValue>>,
    results: HashMap<StepIndex, Arc<RawValue>>,
}

/// Bytes that an entry costs beside its text.
const OVERHEAD: usize = 160;

impl Payloads {
    /// An empty cache of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    /// Remembers a task's context.
    pub fn put_context(&self, task: TaskId, context: Arc<RawValue>) {
        self.put(task, context, |cached, value| cached.context = Some(value));
    }

    /// Remembers an accepted result.
    pub fn put_result(&self, task: TaskId, step: StepIndex, result: Arc<RawValue>) {
        self.put(task, result, |cached, value| {
            cached.results.insert(step, value);
        });
    }

    fn put(&self, task: TaskId, value: Arc<RawValue>, set: impl FnOnce(&mut Cached, Arc<RawValue>)) {
        let size = value.get().len() + OVERHEAD;
        if size > self.limit / 16 {
            return;
        }
        let mut inner = self.inner.lock().expect("no panic while held");
        inner.bytes += size;
        if !inner.tasks.contains_key(&task) {
            inner.order.push_back(task);
        }
        let cached = inner.tasks.entry(task).or_default();
        cached.bytes += size;
        set(cached, value);
        while inner.bytes > self.limit {
            let Some(oldest) = inner.order.pop_front() else { break };
            if let Some(gone) = inner.tasks.remove(&oldest) {
                inner.bytes -= gone.bytes;
            }
        }
        // Ended tasks leave their place in the order behind; drop those places before they pile up.
        if inner.order.len() > 64 + 2 * inner.tasks.len() {
            let Inner { order, tasks, .. } = &mut *inner;
            order.retain(|task| tasks.contains_key(task));
        }
    }

    /// The context of a task and those of its steps' results that are here.
    #[must_use]
    pub fn get(&self, task: TaskId, steps: &[StepIndex]) -> (Option<Arc<RawValue>>, Vec<Option<Arc<RawValue>>>) {
        let inner = self.inner.lock().expect("no panic while held");
        match inner.tasks.get(&task) {
            Some(cached) => {
                (cached.context.clone(), steps.iter().map(|step| cached.results.get(step).cloned()).collect())
            }
            None => (None, vec![None; steps.len()]),
        }
    }

    /// Forgets a task that has ended.
    pub fn forget(&self, task: TaskId) {
        let mut inner = self.inner.lock().expect("no panic while held");
        if let Some(gone) = inner.tasks.remove(&task) {
            inner.bytes -= gone.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(len: usize) -> Arc<RawValue> {
        let text = format!("\"{}\"", "x".repeat(len));
        Arc::from(RawValue::from_string(text).expect("a string"))
    }

    #[test]
    fn the_oldest_task_leaves_when_the_bytes_are_used_up() {
        let payloads = Payloads::new(10_000);
        let tasks: Vec<TaskId> = (0..100).map(|i| TaskId::new(i, 1)).collect();
        for task in &tasks {
            payloads.put_context(*task, raw(100));
        }
        assert!(payloads.get(tasks[0], &[]).0.is_none());
        assert!(payloads.get(tasks[99], &[]).0.is_some());
        assert!(payloads.inner.lock().expect("held").bytes <= 10_000);
        payloads.forget(tasks[99]);
        assert!(payloads.get(tasks[99], &[StepIndex(0)]).1[0].is_none());
    }
}
