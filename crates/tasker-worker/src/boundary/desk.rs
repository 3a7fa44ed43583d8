//! Where attempts wait for their outcomes, and the other side fetches them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tasker_shared::events::DomainEvent;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::handler::{StepContext, StepError, StepOutcome};
use crate::mapped::Mapping;

use super::resolvers::{Found, Known, Question};

/// The most steps, notices and events of one poll: what they carry is in memory twice while it is handed over.
pub(super) const BATCH: usize = 64;
/// How long more steps are waited for where many are on their way.
const REST: Duration = Duration::from_micros(200);

/// What the other side says of an attempt.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) returned: Result<StepOutcome, StepError>,
    /// What its publishers made of the outcome.
    pub(super) events: Vec<Mapping>,
}

/// A domain event for one subscription.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) glob: Arc<str>,
    pub(super) event: Arc<DomainEvent>,
    /// Its place among those that wait, free once it is fetched.
    pub(super) _place: OwnedSemaphorePermit,
}

/// Names one run of a handler for ever: numbers are not used again, and each boundary has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id {
    boundary: u32,
    number: u64,
}

impl Id {
    /// A run of a simulation, which no boundary has: they count from 1.
    pub(super) fn simulated(number: u64) -> Self {
        Self { boundary: 0, number }
    }

    pub(super) fn number_of_simulation(self) -> Option<u64> {
        (self.boundary == 0).then_some(self.number)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.boundary, self.number)
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (boundary, number) = text.split_once('.')?;
            Some(Self { boundary: boundary.parse().ok()?, number: number.parse().ok()? })
        };
        read().ok_or("an id is two numbers with a dot between them")
    }
}

/// What became of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its attempt waited for it.
    Accepted,
    /// Its attempt has ended: it has its outcome, or its time was over.
    Over,
    /// There was never such an attempt here.
    Unknown,
}

/// What is to be known of an attempt that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// Its outcome will count no more, and is waited for all the same.
    Cancelled,
    /// Its time is over; its outcome is not waited for.
    TimedOut,
    /// The worker stops; its outcome is not waited for.
    Dropped,
}

/// How an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Its outcome is waited for, and there is this much time left.
    Running(Duration),
    /// See [`Notice::Cancelled`].
    Cancelled(Duration),
    /// See [`Verdict::Over`].
    Over,
    /// See [`Verdict::Unknown`].
    Unknown,
}

/// What one poll brings.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) steps: Vec<Taken>,
    pub(super) notices: Vec<(Id, Notice)>,
    pub(super) events: Vec<Told>,
    pub(super) questions: Vec<Question>,
}

/// A step that was handed out.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) id: Id,
    pub(super) ctx: StepContext,
    /// Who found its handler, where it is not registered by its name.
    pub(super) resolver: Option<Arc<str>>,
}

/// The desk of one boundary.
#[derive(Debug)]
pub(super) struct Desk {
    boundary: u32,
    inner: Mutex<Inner>,
    news: Condvar,
    /// What resolvers know.
    pub(super) known: Known,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    closed: bool,
    /// Those that nobody has fetched yet, in their order.
    waiting: VecDeque<Id>,
    seats: HashMap<Id, Seated>,
    notices: VecDeque<(Id, Notice)>,
    events: VecDeque<Told>,
    questions: VecDeque<Question>,
}

impl Inner {
    fn has_news(&self) -> bool {
        let Self { waiting, notices, events, questions, .. } = self;
        !(waiting.is_empty() && notices.is_empty() && events.is_empty() && questions.is_empty())
    }

    fn next_events(&mut self) -> Vec<Told> {
        let most = self.events.len().min(BATCH);
        self.events.drain(..most).collect()
    }
}

#[derive(Debug)]
struct Seated {
    ctx: StepContext,
    resolver: Option<Arc<str>>,
    answer: oneshot::Sender<Answer>,
    fetched: bool,
}

impl Desk {
    pub(super) fn new(boundary: u32) -> Self {
        Self { boundary, inner: Mutex::default(), news: Condvar::new(), known: Known::default() }
    }

    /// An attempt sits down. Dropping the seat is standing up: the outcome is then waited for no more.
    pub(super) fn take_seat(
        desk: &Arc<Self>,
        ctx: StepContext,
        resolver: Option<Arc<str>>,
    ) -> (Seat, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        let mut inner = desk.lock();
        inner.last += 1;
        let id = Id { boundary: desk.boundary, number: inner.last };
        let deadline = ctx.deadline();
        if !inner.closed {
            inner.seats.insert(id, Seated { ctx, resolver, answer, fetched: false });
            inner.waiting.push_back(id);
        }
        drop(inner);
        desk.news.notify_one();
        (Seat { desk: Arc::clone(desk), id, deadline }, receiver)
    }

    /// Whether a resolver of the other side has this handler, as far as it was asked; it is asked now if it was not.
    pub(super) fn resolves(&self, question: Question) -> bool {
        match self.known.find(&question) {
            Found::Yes => true,
            Found::No => false,
            Found::Ask => {
                self.lock().questions.push_back(question);
                self.news.notify_one();
                false
            }
        }
    }

    /// An event for the other side.
    pub(super) fn tell(&self, told: Told) {
        self.lock().events.push_back(told);
        self.news.notify_one();
    }

    /// Waits until there is something to fetch or the desk is closed, or until then. Where many attempts are on their way
    /// and few wait here, more are to be expected at once: a short rest lets them be fetched together.
    pub(super) fn wait(&self, until: Instant) {
        let inner = self.news_by(until, || true);
        let waiting = inner.waiting.len();
        // Of those that wait some may have stood up.
        let is_busy = waiting > 0 && inner.seats.len() > 2 * waiting;
        drop(inner);
        if is_busy {
            std::thread::sleep(REST);
        }
    }

    /// What there is by then at the latest, or as soon as waiting is not wanted any more; `None` once the desk is closed
    /// and the last event is fetched.
    pub(super) fn poll(&self, until: Instant, is_wanted: impl Fn() -> bool) -> Option<Batch> {
        let mut inner = self.news_by(until, is_wanted);
        if inner.closed {
            let events = inner.next_events();
            return (!events.is_empty()).then(|| Batch { events, ..Batch::default() });
        }
        let mut batch = Batch { events: inner.next_events(), ..Batch::default() };
        let most = inner.notices.len().min(BATCH);
        batch.notices.extend(inner.notices.drain(..most));
        let most = inner.questions.len().min(BATCH);
        batch.questions.extend(inner.questions.drain(..most));
        while batch.steps.len() < BATCH
            && let Some(id) = inner.waiting.pop_front()
        {
            if let Some(seated) = inner.seats.get_mut(&id) {
                seated.fetched = true;
                let (ctx, resolver) = (seated.ctx.clone(), seated.resolver.clone());
                batch.steps.push(Taken { id, ctx, resolver });
            }
        }
        if inner.has_news() {
            self.news.notify_one();
        }
        Some(batch)
    }

    fn news_by(&self, until: Instant, is_wanted: impl Fn() -> bool) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if inner.closed || inner.has_news() || left.is_zero() || !is_wanted() {
                return inner;
            }
            inner = self.news.wait_timeout(inner, left).expect("no panic while held").0;
        }
    }

    /// Hands an attempt its outcome; `None` once the desk is closed.
    pub(super) fn answer(&self, id: Id, answer: Answer) -> Option<Verdict> {
        let mut inner = self.lock();
        if inner.closed {
            return None;
        }
        match inner.seats.get(&id).map(|seated| seated.fetched) {
            Some(true) => {}
            None if self.was(&inner, id) => return Some(Verdict::Over),
            // Whom nobody was told of, nobody can have an outcome of.
            Some(false) | None => return Some(Verdict::Unknown),
        }
        let seated = inner.seats.remove(&id).expect("it was looked up under the same lock");
        drop(inner);
        let received = seated.answer.send(answer).is_ok();
        Some(if received { Verdict::Accepted } else { Verdict::Over })
    }

    /// Attempts that wait for their outcomes.
    pub(super) fn running(&self) -> usize {
        self.lock().seats.len()
    }

    /// How attempts are; `None` once the desk is closed.
    pub(super) fn pulses(&self, ids: &[Id]) -> Option<Vec<(Id, Pulse)>> {
        let inner = self.lock();
        let pulse = |id: &Id| match inner.seats.get(id) {
            Some(Seated { ctx, .. }) => {
                let left = ctx.deadline().saturating_duration_since(Instant::now());
                if ctx.is_cancelled() { Pulse::Cancelled(left) } else { Pulse::Running(left) }
            }
            None if self.was(&inner, *id) => Pulse::Over,
            None => Pulse::Unknown,
        };
        (!inner.closed).then(|| ids.iter().map(|id| (*id, pulse(id))).collect())
    }

    /// Lets those who wait look again whether they are to. With the lock, so that nobody is between looking and waiting.
    pub(super) fn wake(&self) {
        let _looked = self.lock();
        self.news.notify_all();
    }

    /// Ends every poll, now and later.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_all();
    }

    fn was(&self, inner: &Inner, id: Id) -> bool {
        id.boundary == self.boundary && (1..=inner.last).contains(&id.number)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while held")
    }
}

/// An attempt's place at the desk.
#[derive(Debug)]
pub(super) struct Seat {
    desk: Arc<Desk>,
    id: Id,
    deadline: Instant,
}

impl Seat {
    /// The attempt was cancelled.
    pub(super) fn tell_cancelled(&self) {
        let mut inner = self.desk.lock();
        if inner.seats.get(&self.id).is_some_and(|seated| seated.fetched) {
            inner.notices.push_back((self.id, Notice::Cancelled));
            drop(inner);
            self.desk.news.notify_one();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.desk.lock();
        let Some(seated) = inner.seats.remove(&self.id) else { return };
        if seated.fetched {
            let notice = if Instant::now() >= self.deadline { Notice::TimedOut } else { Notice::Dropped };
            inner.notices.push_back((self.id, notice));
        } else {
            inner.waiting.retain(|id| *id != self.id);
        }
        drop(inner);
        self.desk.news.notify_one();
    }
}
