//! The body that all actors share.
//!
//! An actor owns an inbox. It takes all that waits (up to a bound, no artificial delay) and handles the
//! batch in ONE transaction; while that commits, the next batch gathers. What follows a batch happens
//! only once its commit is known. A transient failure repeats the batch, so handling must be idempotent; a
//! data error splits it until the single offender is found. Between batches an actor keeps nothing.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pgmq_notify::{PollTimer, Wake};
use tasker_shared::crash_point;
use tasker_shared::store::StoreError;
use tasker_shared::store::kept::Kept;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::engine::Parts;
use crate::session::{Database, Session};

/// What is handled in one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work<'a, E> {
    /// Events from the inbox. `again` after a try whose outcome is not known.
    Inbox { events: &'a [E], again: bool },
    /// Up to this many items from the actor's table or queue.
    Source(usize),
}

/// What a transaction leads to.
#[derive(Debug)]
pub(crate) struct Handled<A> {
    /// Done once the commit is known.
    pub(crate) after: A,
    /// How many items of the source were handled.
    pub(crate) taken: usize,
    /// When the source has its next item, if that is known.
    pub(crate) next: Option<Duration>,
}

/// An actor's own part.
pub(crate) trait Actor: Send + Sync + 'static {
    /// What its inbox takes.
    type Event: Send + Sync + 'static;
    /// What follows a commit.
    type After: Send;

    /// For metrics and logs.
    const NAME: &'static str;

    /// The most events or items of one transaction.
    fn batch_max(&self) -> usize;

    /// Handles a batch. The caller commits.
    fn handle(
        &self,
        conn: &mut impl Session,
        work: Work<'_, Self::Event>,
    ) -> impl Future<Output = Result<Handled<Self::After>, StoreError>> + Send;

    /// Handles events by one statement, where what is known without asking is enough for that. The database may find
    /// that it was not, and then has done nothing.
    fn handle_at_once(
        &self,
        _conn: &mut impl Session,
        _events: &[Self::Event],
    ) -> impl Future<Output = Result<Option<Self::After>, StoreError>> + Send {
        async { Ok(None) }
    }

    /// The commit is known.
    fn committed(&self, after: Self::After, events: Vec<Self::Event>);

    /// This event alone makes its transaction fail for good.
    fn offends(&self, event: Self::Event, error: StoreError);

    /// The source's next item alone makes its transaction fail for good: files it away.
    fn file_offender(
        &self,
        conn: &mut impl Session,
        error: &StoreError,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The server stops, and whether these events took effect is not known.
    fn abandoned(&self, events: Vec<Self::Event>);
}

/// How an actor learns that its source has something.
pub(crate) trait Signal: Send + 'static {
    /// Waits for a wake-up or for the time that the last look set. Dropping the future loses nothing.
    fn wait(&mut self) -> impl Future<Output = ()> + Send;
    /// The source was looked at: whether it had something, and when it has its next item, if that is known.
    fn looked(&mut self, found: bool, next: Option<Duration>);
}

/// For actors that look into a queue.
#[derive(Debug)]
pub(crate) struct QueueSignal {
    wake: Wake,
    timer: PollTimer,
    until: Instant,
}

impl QueueSignal {
    pub(crate) fn new(wake: Wake, timer: PollTimer) -> Self {
        Self { wake, timer, until: Instant::now() }
    }
}

impl Signal for QueueSignal {
    async fn wait(&mut self) {
        self.wake.wait(self.until.saturating_duration_since(Instant::now())).await;
    }

    fn looked(&mut self, found: bool, _next: Option<Duration>) {
        if found {
            self.timer.found();
        }
        self.until = Instant::now() + self.timer.idle();
    }
}

/// Without a queue there is nothing to look for.
impl Signal for Option<QueueSignal> {
    async fn wait(&mut self) {
        match self {
            Some(signal) => signal.wait().await,
            None => std::future::pending().await,
        }
    }

    fn looked(&mut self, found: bool, next: Option<Duration>) {
        if let Some(signal) = self {
            signal.looked(found, next);
        }
    }
}

/// For actors that look at a table at set times.
#[derive(Debug)]
pub(crate) struct Timer {
    longest: Duration,
    until: Instant,
    /// Who may ring before that.
    bell: Arc<Notify>,
}

impl Timer {
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, until: Instant::now(), bell: Arc::default() }
    }

    /// The same, and it looks whenever `bell` rings.
    pub(crate) fn rung_by(self, bell: Arc<Notify>) -> Self {
        Self { bell, ..self }
    }
}

impl Signal for Timer {
    async fn wait(&mut self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.until.into()) => {}
            () = self.bell.notified() => {}
        }
    }

    fn looked(&mut self, _found: bool, next: Option<Duration>) {
        self.until = Instant::now() + next.map_or(self.longest, |next| next.min(self.longest));
    }
}

/// Runs an actor until `stop`, then drains its inbox until `parts.drain_until`.
pub(crate) async fn run<A: Actor, S: Signal>(
    actor: A,
    mut inbox: mpsc::Receiver<A::Event>,
    mut signal: S,
    parts: Arc<Parts>,
    stop: CancellationToken,
) {
    let body = Body { actor, database: Kept::new(parts.pool.clone()), parts };
    let mut events = Vec::new();
    // The first look at the source comes before the first wait: what was left there is done first.
    body.drain_source(&mut signal).await;
    // Without a worker in this process nobody holds a lane's inbox open: such an actor lives by its source.
    let (mut fed, mut stopping) = (true, false);
    while fed || !stopping {
        let max = body.actor.batch_max();
        tokio::select! {
            received = inbox.recv_many(&mut events, max), if fed => {
                fed = received > 0;
                gather(&mut inbox, &mut events, max).await;
                let depth = i64::try_from(inbox.len()).unwrap_or(i64::MAX);
                body.parts.metrics.inbox_depth.with_label_values(&[A::NAME]).set(depth);
                if fed {
                    body.inbox(std::mem::take(&mut events)).await;
                }
            }
            () = signal.wait(), if !stopping => body.drain_source(&mut signal).await,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                inbox.close();
            }
        }
    }
}

/// Lets those who are about to send do so: what ends at the same moment is decided in one transaction. No
/// time is waited for.
async fn gather<E>(inbox: &mut mpsc::Receiver<E>, events: &mut Vec<E>, max: usize) {
    tokio::task::yield_now().await;
    while events.len() < max
        && let Ok(event) = inbox.try_recv()
    {
        events.push(event);
    }
}

/// What handles batches, wherever the database is.
pub(crate) struct Body<A, D> {
    pub(crate) actor: A,
    pub(crate) database: D,
    pub(crate) parts: Arc<Parts>,
}

impl<A: Actor, D: Database> Body<A, D> {
    /// Handles events from the inbox, halving them where one of them offends.
    pub(crate) async fn inbox(&self, events: Vec<A::Event>) {
        let mut stack = vec![events];
        while let Some(mut events) = stack.pop() {
            let mut again = false;
            let mut pause = Pause::new(&self.parts.refused);
            let outcome = loop {
                match self.transaction(Work::Inbox { events: &events, again }).await {
                    Err(error) if error.is_transient() => {
                        self.parts.metrics.transaction_retries.with_label_values(&[A::NAME]).inc();
                        self.parts.database.failed(Instant::now());
                        if self.parts.must_give_up() {
                            break None;
                        }
                        again = true;
                        pause.sleep(&self.database, &error, A::NAME).await;
                    }
                    other => break Some(other),
                }
            };
            match outcome {
                None => self.actor.abandoned(events),
                Some(Ok(handled)) => self.actor.committed(handled.after, events),
                Some(Err(error)) if events.len() == 1 => {
                    self.actor.offends(events.pop().expect("one"), error);
                }
                Some(Err(_)) => {
                    let half = events.split_off(events.len() / 2);
                    stack.push(half);
                    stack.push(events);
                }
            }
        }
    }

    /// Handles the source until it is empty.
    pub(crate) async fn drain_source(&self, signal: &mut impl Signal) {
        let mut max = self.actor.batch_max();
        let mut pause = Pause::new(&self.parts.refused);
        let mut found = false;
        loop {
            match self.transaction(Work::Source(max)).await {
                Ok(handled) => {
                    pause.reset();
                    self.actor.committed(handled.after, Vec::new());
                    found |= handled.taken > 0;
                    if handled.taken < max || self.parts.must_give_up() {
                        return signal.looked(found, handled.next);
                    }
                    max = self.actor.batch_max();
                }
                Err(error) if error.is_transient() => {
                    self.parts.metrics.transaction_retries.with_label_values(&[A::NAME]).inc();
                    self.parts.database.failed(Instant::now());
                    if self.parts.is_stopping() {
                        return signal.looked(found, None);
                    }
                    pause.sleep(&self.database, &error, A::NAME).await;
                }
                Err(error) if max == 1 => {
                    tracing::error!(actor = A::NAME, %error, "an item can't be handled and is filed away");
                    if let Err(error) = self.file(&error).await {
                        pause.sleep(&self.database, &error, A::NAME).await;
                    }
                    max = self.actor.batch_max();
                }
                Err(_) => max /= 2,
            }
        }
    }

    async fn transaction(&self, work: Work<'_, A::Event>) -> Result<Handled<A::After>, StoreError> {
        let started = Instant::now();
        let size = match work {
            Work::Inbox { events, .. } => events.len(),
            Work::Source(_) => 0,
        };
        let handled = match self.at_once(&work).await? {
            Some(after) => Handled { after, taken: 0, next: None },
            None => {
                let mut tx = self.database.begin().await?;
                let handled = self.actor.handle(&mut *tx, work).await?;
                crash_point::pass("advance.before_commit").await?;
                D::commit(tx).await?;
                handled
            }
        };
        self.parts.database.answered();
        crash_point::pass("advance.after_commit").await?;
        let size = size + handled.taken;
        if size > 0 {
            self.parts.metrics.batch_size.with_label_values(&[A::NAME]).observe(size as f64);
            let seconds = started.elapsed().as_secs_f64();
            self.parts.metrics.commit_seconds.with_label_values(&[A::NAME]).observe(seconds);
        }
        Ok(handled)
    }

    /// After a try whose outcome is not known there is something to ask first.
    async fn at_once(&self, work: &Work<'_, A::Event>) -> Result<Option<A::After>, StoreError> {
        let Work::Inbox { events, again: false } = *work else { return Ok(None) };
        let mut one = self.database.begin_one().await?;
        crash_point::pass("advance.before_commit").await?;
        match self.actor.handle_at_once(&mut *one, events).await {
            Ok(after) => {
                D::commit(one).await?;
                Ok(after)
            }
            Err(StoreError::Overtaken) => {
                self.parts.metrics.transaction_retries.with_label_values(&[A::NAME]).inc();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn file(&self, error: &StoreError) -> Result<(), StoreError> {
        let mut tx = self.database.begin().await?;
        self.actor.file_offender(&mut *tx, error).await?;
        D::commit(tx).await?;
        Ok(())
    }
}

/// Growing, jittered waits between tries.
#[derive(Debug)]
struct Pause<'a> {
    tries: u32,
    /// How many actors are refused again and again; we are counted from our `TELLING`th try on.
    refused: &'a AtomicUsize,
}

impl<'a> Pause<'a> {
    const FIRST_MS: u64 = 5;
    const LONGEST_MS: u64 = 1000;
    /// A deadlock or one lost connection is normal; only what lasts is worth a line, once, and a word in the health.
    const TELLING: u32 = 4;

    fn new(refused: &'a AtomicUsize) -> Self {
        Self { tries: 0, refused }
    }

    async fn sleep(&mut self, database: &impl Database, error: &StoreError, actor: &'static str) {
        let longest = (Self::FIRST_MS << self.tries.min(8)).min(Self::LONGEST_MS);
        self.tries += 1;
        if self.tries == Self::TELLING {
            tracing::warn!(actor, %error, "the database refuses again and again; trying on");
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        let ms = longest / 2 + rand::random::<u64>() % (longest / 2 + 1);
        database.pause(Duration::from_millis(ms)).await;
    }

    /// It worked.
    fn reset(&mut self) {
        if std::mem::take(&mut self.tries) >= Self::TELLING {
            self.refused.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.reset();
    }
}
