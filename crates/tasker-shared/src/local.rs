//! The fast path between a server and a worker in the same process.
//!
//! The server claims newly ready steps for the worker in the commit that makes them ready, and hands them
//! over by channel; the worker's reports come back the same way. The tickets exist all the same, so a
//! crash loses nothing.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::Instant;

use pgmq_notify::QueueName;
use tasker_lifecycle::template::{HandlerRef, Template};
use tasker_lifecycle::{Shape, TaskId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::events::Subscribers;
use crate::messages::{Claim, Report};
use crate::payloads::Payloads;

/// A claim made for the worker, with the slot that was reserved for it.
#[derive(Debug)]
pub struct LocalClaim {
    /// The claim.
    pub claim: Claim,
    /// The template of its task.
    pub template: Arc<Template>,
    /// Which steps the task has, where that is not simply those of its template.
    pub shape: Option<Shape>,
    /// The worker's slot.
    pub slot: OwnedSemaphorePermit,
    /// The moment of `claim.claimed_at` on this process's monotonic clock.
    pub claimed: Instant,
}

/// Whether a worker can run what a step calls for.
pub type Knows = Arc<dyn Fn(&HandlerRef) -> bool + Send + Sync>;

/// The worker, as the server in the same process sees it.
#[derive(Clone)]
pub struct LocalWorker {
    slots: Arc<Semaphore>,
    queues: Arc<RwLock<HashSet<QueueName>>>,
    knows: Knows,
    claims: mpsc::Sender<LocalClaim>,
    payloads: Arc<Payloads>,
    subscribers: Subscribers,
    lease_ms: u64,
}

impl fmt::Debug for LocalWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalWorker").field("slots", &self.slots).field("queues", &self.queues).finish_non_exhaustive()
    }
}

impl LocalWorker {
    /// A worker that runs what it `knows` for tickets of `queues`, which it keeps up to date. `claims` must hold as many claims as there are slots.
    #[must_use]
    pub fn new(
        slots: Arc<Semaphore>,
        queues: Arc<RwLock<HashSet<QueueName>>>,
        knows: Knows,
        claims: mpsc::Sender<LocalClaim>,
        payloads: Arc<Payloads>,
        subscribers: Subscribers,
        lease_ms: u64,
    ) -> Self {
        Self { slots, queues, knows, claims, payloads, subscribers, lease_ms }
    }

    /// A free slot for a step with this queue and handler.
    #[must_use]
    pub fn reserve(&self, queue: &QueueName, handler: &HandlerRef) -> Option<OwnedSemaphorePermit> {
        let claims_from = self.queues.read().expect("no panic while held").contains(queue);
        if !claims_from || self.claims.is_closed() || !(self.knows)(handler) {
            return None;
        }
        self.slots.clone().try_acquire_owned().ok()
    }

    /// Hands over a claim whose ticket is committed. A worker that has stopped meanwhile lets the lease end.
    pub fn hand_over(&self, claim: LocalClaim) {
        if let Err(error) = self.claims.try_send(claim) {
            tracing::warn!(%error, "the local worker takes no claims; the lease will end");
        }
    }

    /// How long its claims are hidden.
    #[must_use]
    pub fn lease_ms(&self) -> u64 {
        self.lease_ms
    }

    /// What the worker reads inputs from before it asks the database.
    #[must_use]
    pub fn payloads(&self) -> &Payloads {
        &self.payloads
    }

    /// Who hears events in this process.
    #[must_use]
    pub fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }
}

/// The server, as the worker in the same process sees it: one inbox per lane.
#[derive(Debug, Clone)]
pub struct LocalServer {
    lanes: Arc<[mpsc::Sender<Report>]>,
}

impl LocalServer {
    /// A server with these lanes.
    ///
    /// # Panics
    /// Without a lane.
    #[must_use]
    pub fn new(lanes: Vec<mpsc::Sender<Report>>) -> Self {
        assert!(!lanes.is_empty(), "a server has at least one lane");
        Self { lanes: lanes.into() }
    }

    /// Sends a report to the lane that alone touches its task in this process; waits while that lane's
    /// inbox is full.
    ///
    /// # Errors
    /// Where the server has stopped.
    pub async fn report(&self, report: Report) -> Result<(), Stopped> {
        let lane = lane_of(report.claim.task, self.lanes.len());
        self.lanes[lane].send(report).await.map_err(|_| Stopped)
    }
}

/// The server in this process has stopped; the lease of the claim will end.
#[derive(Debug, thiserror::Error)]
#[error("the server in this process has stopped")]
pub struct Stopped;

/// The lane of a task among `lanes`.
#[must_use]
pub fn lane_of(task: TaskId, lanes: usize) -> usize {
    let bits = task.uuid().as_u128() >> 20;
    usize::try_from(bits % lanes as u128).expect("less than the number of lanes")
}
