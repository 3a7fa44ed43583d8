//! Steps that nobody stored, handed out as fast as they come back: what the other side can bear, measured without a
//! database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::desk::Desk;
use super::{Beyond, BoundaryError, not_started};
use crate::handler::StepHandler as _;
use crate::testkit::Attempt;

/// What a rehearsal consists of.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rehearsal {
    /// How many steps there are.
    steps: u64,
}

impl Rehearsal {
    /// Keeps `concurrency` steps of this handler on the desk until all have come back, and closes it.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub(super) fn start(self, handler: &str, desk: &Arc<Desk>, concurrency: usize) -> Result<Runtime, BoundaryError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| not_started("no threads can be started", error))?;
        let step = json!({"name": "step", "handler": handler});
        let template = json!({"name": "rehearsal", "namespace_name": "rehearsal", "version": "1.0.0", "steps": [step]});
        let attempt = Attempt::of(&template.to_string(), "step").input(json!({"number": 6}));
        let (desk, left) = (Arc::clone(desk), Arc::new(AtomicU64::new(self.steps)));
        runtime.spawn(async move {
            let mut attempts = JoinSet::new();
            for _ in 0..concurrency {
                let (left, attempt) = (Arc::clone(&left), attempt.clone());
                let beyond = Beyond { desk: Arc::clone(&desk), methods: Vec::new(), resolver: None };
                attempts.spawn(async move {
                    let one_less = |left: u64| left.checked_sub(1);
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                        // What a handler makes of it is its own affair here.
                        _ = beyond.call(attempt.context()).await;
                    }
                });
            }
            while attempts.join_next().await.is_some() {}
            desk.close();
        });
        Ok(runtime)
    }
}
