//! What handlers read: contexts and ancestors' results, from the cache where they are there.

use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::PgPool;
use tasker_lifecycle::{StepIndex, TaskId};
use tasker_shared::payloads::Payloads;
use tasker_shared::store::{StoreError, claims};

/// What one attempt reads.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) context: Arc<RawValue>,
    pub(crate) results: Vec<(StepIndex, Arc<RawValue>)>,
}

/// A step whose input is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) task: TaskId,
    pub(crate) ancestors: Arc<[StepIndex]>,
}

/// The inputs of a batch, in its order, with at most one round trip.
pub(crate) async fn gather(pool: &PgPool, payloads: &Payloads, wanted: &[Wanted]) -> Result<Vec<Input>, StoreError> {
    let mut found: Vec<_> = wanted.iter().map(|want| payloads.get(want.task, &want.ancestors)).collect();
    let (mut contexts, mut results) = (Vec::new(), Vec::new());
    for (want, (context, cached)) in wanted.iter().zip(&found) {
        if context.is_none() {
            contexts.push(want.task);
        }
        let missing = want.ancestors.iter().zip(cached).filter(|(_, result)| result.is_none());
        results.extend(missing.map(|(step, _)| (want.task, *step)));
    }
    if !contexts.is_empty() || !results.is_empty() {
        contexts.sort_unstable();
        contexts.dedup();
        results.sort_unstable();
        results.dedup();
        let mut conn = pool.acquire().await?;
        let read = claims::inputs(&mut conn, &contexts, &results).await?;
        drop(conn);
        remember(payloads, &contexts, &results, &read);
        let at = |task: &TaskId| contexts.binary_search(task).ok().and_then(|at| read.contexts[at].clone());
        let of = |key: &(TaskId, StepIndex)| results.binary_search(key).ok().and_then(|at| read.results[at].clone());
        for (want, (context, cached)) in wanted.iter().zip(&mut found) {
            *context = context.take().or_else(|| at(&want.task));
            for (step, result) in want.ancestors.iter().zip(cached.iter_mut()) {
                *result = result.take().or_else(|| of(&(want.task, *step)));
            }
        }
    }
    // A step that was resolved by hand has no result: its dependants read null.
    let or_null = |value: Option<Arc<RawValue>>| value.unwrap_or_else(|| Arc::from(RawValue::NULL.to_owned()));
    let inputs = wanted.iter().zip(found).map(|(want, (context, cached))| Input {
        context: or_null(context),
        results: want.ancestors.iter().copied().zip(cached.into_iter().map(or_null)).collect(),
    });
    Ok(inputs.collect())
}

fn remember(payloads: &Payloads, contexts: &[TaskId], results: &[(TaskId, StepIndex)], read: &claims::Inputs) {
    for (task, context) in contexts.iter().zip(&read.contexts) {
        if let Some(context) = context {
            payloads.put_context(*task, Arc::clone(context));
        }
    }
    for ((task, step), result) in results.iter().zip(&read.results) {
        if let Some(result) = result {
            payloads.put_result(*task, *step, Arc::clone(result));
        }
    }
}
