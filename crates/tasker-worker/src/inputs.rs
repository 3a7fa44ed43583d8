//! What handlers read: contexts and ancestors' results, from the cache where they are there.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::PgPool;
use tasker_lifecycle::template::Template;
use tasker_lifecycle::{Expansion, Shape, StepIndex, TaskId};
use tasker_shared::messages::Claim;
use tasker_shared::payloads::Payloads;
use tasker_shared::store::{StoreError, checkpoints as stored, claims};

use crate::batches::Batches;
use crate::checkpoints::{self, Checkpoint};
use crate::plans::Plan;
use crate::worker::Shared;

/// What one attempt reads.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) context: Arc<RawValue>,
    pub(crate) results: Vec<(StepIndex, Arc<RawValue>)>,
    /// The errors of batch workers before it that failed alone.
    pub(crate) failures: Vec<(StepIndex, Arc<RawValue>)>,
    pub(crate) batches: Vec<Arc<Batches>>,
    /// How far an earlier attempt got.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// A step whose input is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) task: TaskId,
    step: StepIndex,
    /// A first attempt has no checkpoint.
    is_retry: bool,
    pub(crate) ancestors: Arc<[StepIndex]>,
    /// Those of them that failed alone: batch workers.
    pub(crate) failed: Vec<StepIndex>,
    /// The batches whose workers it sees, itself among them.
    pub(crate) expansions: Vec<Expansion>,
    template: Arc<Template>,
}

impl Wanted {
    /// What a claimed step reads.
    pub(crate) fn new(claim: &Claim, plan: &Plan, pattern: StepIndex, shape: Option<&Shape>) -> Self {
        let (task, step, is_retry) = (claim.task, claim.step, claim.attempt > 1);
        let (template, ancestors) = (Arc::clone(&plan.template), plan.ancestors(pattern));
        let Some(shape) = shape else {
            let (failed, expansions) = (Vec::new(), Vec::new());
            return Self { task, step, is_retry, ancestors, failed, expansions, template };
        };
        let seen = |expansion: &&Expansion| ancestors.contains(&expansion.worker) || expansion.worker == pattern;
        let expansions = shape.expansions().iter().filter(seen).copied().collect();
        let (failed, present) = shape.present(&ancestors).into_iter().partition(|step| shape.has_failed(*step));
        Self { task, step, is_retry, ancestors: Vec::into(present), failed, expansions, template }
    }
}

/// The inputs of a batch, in its order, with at most one round trip.
pub(crate) async fn gather(shared: &Shared, wanted: &[Wanted]) -> Result<Vec<Input>, StoreError> {
    let (pool, payloads) = (&shared.pool, &*shared.payloads);
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
        let mut conn = shared.kept.acquire().await?;
        let read = claims::inputs(&mut conn, &contexts, &results).await?;
        conn.keep();
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
    let reached = checkpoints(pool, wanted).await?;
    let mut inputs = Vec::with_capacity(wanted.len());
    for (want, (context, cached)) in wanted.iter().zip(found) {
        let results: Vec<_> = want.ancestors.iter().copied().zip(cached.into_iter().map(or_null)).collect();
        let of = |step: StepIndex| results.iter().find(|(at, _)| *at == step).map(|(_, result)| &**result);
        let known = |e: &Expansion| shared.batches.of(want.task, &want.template, *e, of(e.batchable));
        let batches = want.expansions.iter().map(known).collect();
        let failures = failures(pool, want).await?;
        let checkpoint = reached.get(&(want.task, want.step)).and_then(|json| checkpoints::read(json));
        inputs.push(Input { context: or_null(context), results, failures, batches, checkpoint });
    }
    Ok(inputs)
}

/// How far earlier attempts got.
async fn checkpoints(
    pool: &PgPool,
    wanted: &[Wanted],
) -> Result<HashMap<(TaskId, StepIndex), Arc<RawValue>>, StoreError> {
    let steps: Vec<_> = wanted.iter().filter(|want| want.is_retry).map(|want| (want.task, want.step)).collect();
    if steps.is_empty() {
        return Ok(HashMap::new());
    }
    let mut conn = pool.acquire().await?;
    Ok(stored::load(&mut conn, &steps).await?.into_iter().collect())
}

/// The errors of the batch workers that failed alone, where the step is one that sees any.
async fn failures(pool: &PgPool, want: &Wanted) -> Result<Vec<(StepIndex, Arc<RawValue>)>, StoreError> {
    if want.failed.is_empty() {
        return Ok(Vec::new());
    }
    let steps: Vec<_> = want.failed.iter().map(|step| (want.task, *step)).collect();
    let mut conn = pool.acquire().await?;
    let errors = claims::failures(&mut conn, &steps).await?;
    Ok(want.failed.iter().copied().zip(errors).filter_map(|(step, error)| Some((step, error?))).collect())
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
