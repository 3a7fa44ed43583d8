//! Claims: never more than there are free slots, from the queues and from the server in this process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgmq_notify::{Channel, Message, PollTimer, QueueName, Wake, Woken};
use tasker_lifecycle::template::TemplateHash;
use tasker_lifecycle::{Shape, StepIndex, Timestamp};
use tasker_shared::crash_point;
use tasker_shared::local::LocalClaim;
use tasker_shared::messages::{Claim, NEW_QUEUES, Report, ReportedOutcome};
use tasker_shared::store::claims::{self, Claimed, Loaded};
use tasker_shared::store::{self, StoreError, from_sql};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::attempt::{self, Ready};
use crate::completion::Reporter;
use crate::events::{self, Publication};
use crate::handler::StepHandler;
use crate::held::Key;
use crate::inputs::{self, Wanted};
use crate::outage::Pause;
use crate::plans::Plan;
use crate::turns::Turns;
use crate::worker::Shared;

/// How long a ticket whose handler is another worker's waits at first.
const FIRST_ROUND: Duration = Duration::from_millis(50);

/// Claims from the queues until the worker stops.
pub(crate) async fn run(shared: Arc<Shared>, reporter: Reporter) {
    let mut look = Look::new(&shared);
    let mut failures = Pause::default();
    loop {
        if let Some(wait) = shared.outage.claims_wait(Instant::now()) {
            tokio::time::timeout(wait, shared.stop.claims.cancelled()).await.unwrap_or_default();
        }
        let Some(mut slots) = free_slots(&shared, &reporter).await else { return };
        match look.claim(&shared, slots.num_permits()).await {
            Ok(Claimed { messages, next_ms }) => {
                failures.reset("claim");
                let (found, full) = (!messages.is_empty(), messages.len() == slots.num_permits());
                start_messages(&shared, &reporter, messages, &mut slots).await;
                drop(slots);
                if found {
                    look.timer.found();
                }
                // Never sleep after a full batch: there may be more, and nobody will say so again.
                if !full {
                    look.pause(&shared, next_ms).await;
                }
            }
            Err(error) => {
                drop(slots);
                if error.is_transient() {
                    shared.outage.failed(Instant::now());
                }
                let wait = failures.next(&error, "claim");
                tokio::time::timeout(wait, shared.stop.claims.cancelled()).await.unwrap_or_default();
            }
        }
    }
}

/// Waits for a free slot and takes what is free, up to a batch; none once the worker stops. Beside a server in this
/// process it takes half of them, so that the server can go on handing over while the database is asked.
async fn free_slots(shared: &Shared, reporter: &Reporter) -> Option<OwnedSemaphorePermit> {
    let first = tokio::select! {
        biased;
        () = shared.stop.claims.cancelled() => return None,
        first = Arc::clone(&shared.slots).acquire_owned() => first,
    };
    let mut slots = first.expect("the semaphore is never closed");
    let free = shared.slots.available_permits();
    let free = if reporter.is_local() { free / 2 } else { free };
    for _ in 0..free.min(shared.config.worker.claim_batch - 1) {
        let Ok(another) = Arc::clone(&shared.slots).try_acquire_owned() else { break };
        slots.merge(another);
    }
    Some(slots)
}

/// What the loop knows between two looks.
struct Look {
    queues: watch::Receiver<Arc<Vec<(QueueName, i16)>>>,
    /// Of all queues as they were last seen.
    wake: Wake,
    new_queues: Wake,
    timer: PollTimer,
    turns: Turns,
    /// None once there is a reason to look again.
    refreshed: Option<Instant>,
}

impl Look {
    /// How often the list of queues is read without being told that it changed.
    const REFRESH: Duration = Duration::from_secs(30);

    fn new(shared: &Shared) -> Self {
        let queue = &shared.config.queue;
        let (min, max) = (Duration::from_millis(queue.poll_min_ms), Duration::from_millis(queue.poll_max_ms));
        let channel = Channel::new(NEW_QUEUES).expect("a valid channel");
        let mut queues = shared.queues.subscribe();
        queues.mark_changed();
        Self {
            queues,
            wake: shared.wakeups.subscribe_all([]),
            new_queues: shared.wakeups.subscribe(channel),
            timer: PollTimer::for_mode(shared.config.deployment_mode, min, max),
            turns: Turns::new(shared.config.worker.aging_ms),
            refreshed: Some(Instant::now()),
        }
    }

    /// Claims up to `qty` tickets.
    async fn claim(&mut self, shared: &Shared, qty: usize) -> Result<Claimed, StoreError> {
        if self.refreshed.is_none_or(|at| at.elapsed() >= Self::REFRESH) {
            shared.find_queues().await?;
            self.refreshed = Some(Instant::now());
        }
        // Whoever waits registers first: what comes between this claim and the next wait is not missed.
        if self.queues.has_changed().is_ok_and(|changed| changed) {
            let queues = Arc::clone(&self.queues.borrow_and_update());
            self.wake = shared.wakeups.subscribe_all(queues.iter().map(|(queue, _)| Channel::for_queue(queue)));
            self.turns.keep(&queues);
        }
        let mut conn = shared.kept.acquire().await?;
        if shared.outage.lasts() {
            // A first sign of life is no claim: it may be that claims have to wait.
            store::clock_offset(&mut conn).await?;
            shared.outage.answered(Instant::now());
            return Ok(Claimed { messages: Vec::new(), next_ms: Some(0) });
        }
        let parts = self.turns.next(&self.queues.borrow());
        if parts.is_empty() {
            return Ok(Claimed { messages: Vec::new(), next_ms: None });
        }
        crash_point::pass("claim.before_read").await?;
        let claimed = claims::claim(&mut conn, &parts, shared.lease(), qty).await?;
        conn.keep();
        self.turns.claimed(&claimed.messages, qty);
        crash_point::pass("claim.after_read").await?;
        shared.metrics.claims.inc_by(claimed.messages.len() as u64);
        Ok(claimed)
    }

    /// Waits for a wake-up, the next hidden ticket or the next poll, whichever comes first.
    async fn pause(&mut self, shared: &Shared, next_ms: Option<u64>) {
        let poll = self.timer.idle();
        let longest = next_ms.map_or(poll, |ms| poll.min(Duration::from_millis(ms)));
        tokio::select! {
            _ = self.wake.wait(longest) => {}
            woken = self.new_queues.wait(longest) => {
                if woken == Woken::Signal {
                    self.refreshed = None;
                }
            }
            _ = self.queues.changed() => self.queues.mark_changed(),
            () = shared.stop.claims.cancelled() => {}
        }
    }
}

/// A claim whose handler does not run yet.
struct Open {
    claim: Claim,
    claimed: Instant,
    slot: OwnedSemaphorePermit,
    cancelled: CancellationToken,
}

impl Open {
    fn new(shared: &Shared, claim: Claim, claimed: Instant, slot: OwnedSemaphorePermit) -> Self {
        let cancelled = shared.held.take(&claim, claimed);
        Self { claim, claimed, slot, cancelled }
    }

    async fn give_back(self, shared: &Shared, reporter: &Reporter, delay: Duration) {
        reporter.release(shared, self.claim.token, delay).await;
    }
}

/// A claim that is current, with what runs it.
struct Runnable {
    open: Open,
    plan: Arc<Plan>,
    shape: Option<Shape>,
    pattern: StepIndex,
    handler: Arc<dyn StepHandler>,
    limit: u32,
}

/// Starts what was claimed from the queues; `slots` holds at least one slot for each message.
async fn start_messages(
    shared: &Arc<Shared>,
    reporter: &Reporter,
    messages: Vec<Message>,
    slots: &mut OwnedSemaphorePermit,
) {
    let claimed = Instant::now();
    let lease_us = i64::try_from(shared.lease().as_micros()).unwrap_or(i64::MAX);
    let mut open = Vec::with_capacity(messages.len());
    for message in &messages {
        let claimed_at = Timestamp(from_sql(message.vt).0.saturating_sub(lease_us));
        match Claim::from_message(message, claimed_at) {
            Ok(claim) => {
                let slot = slots.split(1).expect("one slot was taken for each message");
                open.push(Open::new(shared, claim, claimed, slot));
            }
            Err(error) => archive(shared, &message.queue, message.msg_id, &error.to_string()).await,
        }
    }
    if !open.is_empty() {
        look_up(shared, reporter, open).await;
    }
}

/// Looks claims up in their tasks and starts those that are current.
async fn look_up(shared: &Arc<Shared>, reporter: &Reporter, open: Vec<Open>) {
    if shared.stop.claims.is_cancelled() {
        return give_back(shared, reporter, open, Duration::ZERO).await;
    }
    match load(shared, &open).await {
        Ok((loaded, plans)) => {
            let runnable = sort(shared, reporter, open, loaded, &plans).await;
            start(shared, reporter, runnable).await;
        }
        Err(error) => {
            tracing::warn!(%error, claims = open.len(), "claims can't be looked up and are given back");
            let delay = if error.is_transient() { Duration::ZERO } else { later(shared) };
            give_back(shared, reporter, open, delay).await;
        }
    }
}

type PlansByHash = HashMap<TemplateHash, Result<Arc<Plan>, String>>;

async fn load(shared: &Shared, open: &[Open]) -> Result<(Vec<Loaded>, PlansByHash), StoreError> {
    let claims: Vec<Claim> = open.iter().map(|open| open.claim.clone()).collect();
    let mut conn = shared.kept.acquire().await?;
    let loaded = claims::load(&mut conn, &claims).await?;
    let mut plans = PlansByHash::new();
    for loaded in &loaded {
        let Loaded::Current { template, .. } = loaded else { continue };
        if plans.contains_key(template) {
            continue;
        }
        let plan = match shared.plans.by_hash(&mut conn, template).await {
            Ok(plan) => Ok(plan),
            Err(StoreError::Template(what)) => Err(what),
            Err(error) => return Err(error),
        };
        plans.insert(*template, plan);
    }
    conn.keep();
    crash_point::pass("claim.after_load").await?;
    Ok((loaded, plans))
}

/// Settles the claims that are not to be run and answers the others.
async fn sort(
    shared: &Shared,
    reporter: &Reporter,
    open: Vec<Open>,
    loaded: Vec<Loaded>,
    plans: &PlansByHash,
) -> Vec<Runnable> {
    let mut runnable = Vec::with_capacity(open.len());
    for (open, loaded) in open.into_iter().zip(loaded) {
        let (template, moved_limit, shape) = match loaded {
            Loaded::Current { template, limit, shape } => (template, limit, shape),
            Loaded::Stranger(reason) => {
                let token = &open.claim.token;
                archive(shared, &token.queue, token.msg_id, reason).await;
                shared.held.forget(Key::of(token));
                continue;
            }
        };
        match &plans[&template] {
            Ok(plan) => {
                let steps = plan.template.steps.len();
                let read = |(letters, batches): (String, Option<String>)| {
                    Shape::from_stored(steps, letters, batches.as_deref())
                };
                match shape.map(read).transpose() {
                    Ok(shape) => {
                        runnable.extend(runnable_or_settled(shared, reporter, open, plan, moved_limit, shape).await);
                    }
                    Err(error) => {
                        tracing::warn!(task = %open.claim.task, %error, "batches can't be read; the ticket is given back");
                        open.give_back(shared, reporter, later(shared)).await;
                    }
                }
            }
            Err(what) => {
                tracing::warn!(task = %open.claim.task, "template {what}; the ticket is given back");
                open.give_back(shared, reporter, later(shared)).await;
            }
        }
    }
    runnable
}

/// A step whose attempts are used up is reported without being run; one whose handler is not registered here is
/// given back, because another worker may have it.
async fn runnable_or_settled(
    shared: &Shared,
    reporter: &Reporter,
    open: Open,
    plan: &Arc<Plan>,
    moved_limit: Option<u32>,
    shape: Option<Shape>,
) -> Option<Runnable> {
    let pattern = shape.as_ref().map_or(open.claim.step, |shape| shape.pattern(open.claim.step));
    let limit = plan.limit(pattern, moved_limit);
    if open.claim.attempt > limit {
        let (ended_at, worker) = (open.claim.claimed_at, Arc::clone(&shared.id));
        let outcome = ReportedOutcome::LeaseLost;
        let name = &plan.template.step(pattern).name;
        let publication = Publication::new(&shared.publishing, plan, (pattern, limit), name);
        let events = events::of(publication.as_deref(), &open.claim, &outcome, ended_at);
        let report = Report { claim: open.claim, outcome, started_at: None, ended_at, worker, events };
        reporter.report(shared, report).await;
        return None;
    }
    let handler = match plan.handler(pattern, &shared.registry) {
        Ok(handler) => handler,
        Err(missing) => {
            if shared.missing.lock().expect("no panic while held").insert(missing.to_string()) {
                tracing::warn!("steps call for {missing}; they are given back");
            }
            let delay = elsewhere(shared, &open.claim);
            open.give_back(shared, reporter, delay).await;
            return None;
        }
    };
    Some(Runnable { open, plan: Arc::clone(plan), shape, pattern, handler, limit })
}

/// Reads the inputs and starts the attempts.
async fn start(shared: &Arc<Shared>, reporter: &Reporter, runnable: Vec<Runnable>) {
    if runnable.is_empty() {
        return;
    }
    let wanted = runnable.iter().map(|r| Wanted::new(&r.open.claim, &r.plan, r.pattern, r.shape.as_ref()));
    match inputs::gather(shared, &wanted.collect::<Vec<_>>()).await {
        Ok(inputs) => {
            for (Runnable { open, plan, pattern, handler, limit, .. }, input) in runnable.into_iter().zip(inputs) {
                let Open { claim, claimed, slot, cancelled } = open;
                let ready = Ready { claim, claimed, cancelled, slot, plan, pattern, handler, limit, input };
                attempt::start(shared, reporter, ready);
            }
        }
        Err(error) => {
            tracing::warn!(%error, claims = runnable.len(), "inputs can't be read; the claims are given back");
            let delay = if error.is_transient() { Duration::ZERO } else { later(shared) };
            give_back(shared, reporter, runnable.into_iter().map(|runnable| runnable.open), delay).await;
        }
    }
}

/// Takes what the server in this process hands over. When the worker stops, what comes in is given back, until
/// nothing can come any more.
pub(crate) async fn run_handed_over(shared: Arc<Shared>, reporter: Reporter, mut claims: mpsc::Receiver<LocalClaim>) {
    let mut batch = Vec::new();
    let most = shared.config.worker.claim_batch;
    loop {
        tokio::select! {
            received = claims.recv_many(&mut batch, most) => {
                if received == 0 { return; }
                start_handed_over(&shared, &reporter, &mut batch).await;
            }
            () = shared.stop.handed_over.cancelled(), if !claims.is_closed() => claims.close(),
        }
    }
}

/// Claims made in the commit that made their steps ready are current. Where an operator may have moved the limit of
/// attempts, they are looked up all the same.
async fn start_handed_over(shared: &Arc<Shared>, reporter: &Reporter, batch: &mut Vec<LocalClaim>) {
    let (mut runnable, mut again) = (Vec::with_capacity(batch.len()), Vec::new());
    for LocalClaim { claim, template, shape, slot, claimed } in batch.drain(..) {
        let first = claim.base_attempt == 0;
        let open = Open::new(shared, claim, claimed, slot);
        if first && !shared.stop.claims.is_cancelled() {
            let plan = shared.plans.of(&template);
            runnable.extend(runnable_or_settled(shared, reporter, open, &plan, None, shape).await);
        } else {
            again.push(open);
        }
    }
    start(shared, reporter, runnable).await;
    if !again.is_empty() {
        look_up(shared, reporter, again).await;
    }
}

async fn give_back(shared: &Shared, reporter: &Reporter, open: impl IntoIterator<Item = Open>, delay: Duration) {
    for open in open {
        open.give_back(shared, reporter, delay).await;
    }
}

/// How long a ticket waits that this worker can't run although another one may.
fn later(shared: &Shared) -> Duration {
    Duration::from_millis(shared.config.worker.unregistered_delay_ms)
}

/// How long a ticket waits whose handler is another worker's: not long at first, since that worker may be waiting for it,
/// and twice as long with every round.
fn elsewhere(shared: &Shared, claim: &Claim) -> Duration {
    let rounds = u32::try_from(claim.token.read_ct.saturating_sub(1)).unwrap_or(0).min(20);
    later(shared).min(FIRST_ROUND * 2_u32.pow(rounds))
}

/// Takes a message out of its queue that no attempt can come of. One that can't be archived now comes again when its
/// lease ends.
async fn archive(shared: &Shared, queue: &QueueName, msg_id: i64, reason: &str) {
    tracing::info!(%queue, msg_id, reason, "a ticket that is not to be run is archived");
    let archived = async {
        let mut conn = shared.pool.acquire().await?;
        pgmq_notify::archive(&mut conn, queue, &[msg_id], reason).await
    };
    if let Err(error) = archived.await {
        tracing::warn!(%queue, msg_id, %error, "a ticket can't be archived; it will come again");
    }
}
