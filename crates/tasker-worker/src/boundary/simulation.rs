//! A task in memory with a time of its own: for tests of whole workflows without a database, in every language.
//!
//! What follows from outcomes is decided as in the server, and outcomes are checked, batches named and events published
//! as in the worker. Time stands still while handlers run and goes on to the next retry where there is nothing else to do.
//! Deliberately absent: timeouts, lost leases, cancels and limits of resources.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pgmq_notify::{QueueName, Token};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tasker_lifecycle::template::{self, Template};
use tasker_lifecycle::{
    Effect, Event, Holder, Nonce, StepIndex, StepState, Task, TaskId, TaskState, TicketRef, Timestamp, decide,
};
use tasker_shared::config::Config;
use tasker_shared::events::{Published, Subscribers, Subscription};
use tasker_shared::json_schema::{compile, violations};
use tasker_shared::messages::{Claim, ReportedOutcome, StepFailure};
use tasker_shared::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::BoundaryError;
use super::desk::{Answer, Batch, Id, Taken, Verdict};
use super::message::{self, Complete};
use crate::attempt;
use crate::batches::Batches;
use crate::checkpoints::{self, Checkpoint};
use crate::complete_in::Completion;
use crate::events::{self, Publication, Publisher, Publishing};
use crate::handler::{Attempt, StepContext, StepError, StepOutcome};
use crate::held::Clock;
use crate::inputs::Wanted;
use crate::mapped::Kind;
use crate::plans::{Plan, Plans};

/// A simulated task. Functions answer as those of the boundary do.
pub struct Simulation(Mutex<World>);

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Simulation").field(&self.world().task.id()).finish()
    }
}

/// What is simulated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    /// The template's YAML.
    template: String,
    input: Option<Box<RawValue>>,
    /// Whose overrides of the template count.
    environment: Option<String>,
    #[serde(default)]
    publishers: BTreeSet<String>,
}

struct World {
    task: Task,
    plan: Arc<Plan>,
    input: Arc<RawValue>,
    config: Arc<Config>,
    publishing: Arc<Publishing>,
    now: Timestamp,
    /// Numbers nonces and runs.
    last: u64,
    /// What holds steps, in the order in which it comes due.
    waiting: BTreeMap<(Timestamp, u64), (StepIndex, Wait)>,
    /// The runs that were handed out.
    running: BTreeMap<u64, Run>,
    results: HashMap<StepIndex, Arc<RawValue>>,
    errors: HashMap<StepIndex, Arc<RawValue>>,
    checkpoints: HashMap<StepIndex, Checkpoint>,
    attempts: Vec<Tried>,
    events: Vec<Published>,
}

#[derive(Debug, Clone, Copy)]
enum Wait {
    Ticket { attempt: u32, nonce: Nonce },
    Due { nonce: Nonce },
    Held { nonce: Nonce },
}

struct Run {
    claim: Claim,
    ctx: StepContext,
}

/// An attempt that has ended.
#[derive(Debug, Serialize)]
struct Tried {
    step: String,
    attempt: u32,
    at_ms: i64,
    outcome: &'static str,
    result: Option<Arc<RawValue>>,
    error: Option<Failed>,
}

/// Its error, as the HTTP API shows it.
#[derive(Debug, Serialize)]
struct Failed {
    message: String,
    error_type: String,
    error_code: Option<String>,
    retryable: bool,
}

/// How the task is.
#[derive(Serialize)]
struct Said<'a> {
    status: TaskState,
    /// Nothing of it will move any more.
    ended: bool,
    now_ms: i64,
    steps: Vec<SaidStep<'a>>,
    attempts: &'a [Tried],
    events: Vec<SaidEvent<'a>>,
}

#[derive(Serialize)]
struct SaidStep<'a> {
    name: String,
    state: StepState,
    attempts: u32,
    result: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct SaidEvent<'a> {
    delivery_mode: template::DeliveryMode,
    event: &'a tasker_shared::events::DomainEvent,
}

impl Simulation {
    /// Starts a task: `{"template": YAML, "input": {…}, "environment": …, "publishers": […]}`.
    ///
    /// # Errors
    /// Where the message, the template or the input is refused.
    pub fn start(message: &str) -> Result<Self, BoundaryError> {
        super::contained(|| Ok(Self(Mutex::new(World::new(message::read(message)?)?))))
    }

    /// The steps that can run now, in the form of a poll; time goes on where nothing else is to be done. No steps while
    /// none is out is the end.
    ///
    /// # Errors
    /// A defect of ours.
    pub fn next(&self) -> Result<String, BoundaryError> {
        super::contained(|| Ok(message::batch(&self.world().next())))
    }

    /// Takes outcomes, in the form of the boundary's `complete`.
    ///
    /// # Errors
    /// Where the message as a whole is not understood.
    pub fn complete(&self, message: &str) -> Result<String, BoundaryError> {
        super::contained(|| {
            let Complete { outcomes, .. } = message::read(message)?;
            let mut world = self.world();
            let mut verdicts = Vec::new();
            for outcome in outcomes {
                let (id, answer) = message::outcome(&outcome)?;
                verdicts.push(world.complete(id, answer));
            }
            Ok(message::verdicts(&verdicts))
        })
    }

    /// How the task is: `status`, `ended`, `now_ms`, `steps`, `attempts`, `events`.
    ///
    /// # Errors
    /// A defect of ours.
    pub fn state(&self) -> Result<String, BoundaryError> {
        super::contained(|| Ok(self.world().state()))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl World {
    fn new(start: Start) -> Result<Self, BoundaryError> {
        let parsed = template::parse(&start.template, start.environment.as_deref());
        let (template, _) = parsed.map_err(|problems| BoundaryError::Template(problems[0].to_string()))?;
        let input = start.input.map_or_else(|| raw(&serde_json::json!({})), Arc::from);
        check(&template, &start.publishers, &input)?;
        let (template, config, metrics) = (Arc::new(template), Arc::new(Config::default()), Arc::new(Metrics::new()));
        // Everything is wanted; what comes of it is looked at, and not heard.
        let everything = Subscription { glob: "*".to_owned(), inbox: mpsc::channel(1).0 };
        let publishing = Publishing {
            publishers: start.publishers.into_iter().map(|name| (name, Publisher::Beyond)).collect(),
            subscribers: Subscribers::new(vec![everything], &metrics),
            config: Arc::clone(&config),
            metrics,
        };
        let mut world = Self {
            task: Task::new(TaskId::new(0, 0), Arc::clone(&template)),
            plan: Plans::default().of(&template),
            input,
            config,
            publishing: Arc::new(publishing),
            now: Timestamp(0),
            last: 0,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            results: HashMap::new(),
            errors: HashMap::new(),
            checkpoints: HashMap::new(),
            attempts: Vec::new(),
            events: Vec::new(),
        };
        world.decided(&Event::Started);
        Ok(world)
    }

    /// Decides on an event, and keeps what holds steps because of it.
    fn decided(&mut self, event: &Event) {
        let decision = decide(&self.task, event, self.now).expect("every event is of a step that is there");
        decision.evolve(&mut self.task);
        for effect in decision.effects {
            let number = self.number();
            let nonce = Nonce(Uuid::from_u128(u128::from(number)));
            match effect {
                Effect::Enqueue { step, base_attempt, delay_ms } => {
                    let msg_id = i64::try_from(number).unwrap_or(i64::MAX);
                    self.task.hold(step, Holder::Ticket(TicketRef { msg_id, nonce }));
                    let ticket = Wait::Ticket { attempt: base_attempt + 1, nonce };
                    self.waiting.insert((self.now.plus_ms(delay_ms), number), (step, ticket));
                }
                Effect::Schedule { step, due, .. } => {
                    self.task.hold(step, Holder::Due { nonce });
                    self.waiting.insert((due, number), (step, Wait::Due { nonce }));
                }
                Effect::Hold { step } => {
                    self.task.hold(step, Holder::Due { nonce });
                    self.waiting.insert((self.now, number), (step, Wait::Held { nonce }));
                }
                Effect::Withdraw { step, .. } => {
                    self.waiting.retain(|_, (waiting, _)| *waiting != step);
                    self.running.retain(|_, run| run.claim.step != step);
                }
                Effect::DeadLetter { .. } | Effect::TaskEnded(_) => {}
            }
        }
    }

    fn next(&mut self) -> Batch {
        if self.running.is_empty()
            && let Some(((at, _), _)) = self.waiting.first_key_value()
        {
            self.now = self.now.max(*at);
        }
        let mut steps = Vec::new();
        while let Some(first) = self.waiting.first_entry().filter(|first| first.key().0 <= self.now) {
            match first.remove() {
                (step, Wait::Ticket { attempt, nonce }) => steps.push(self.hand_out(step, attempt, nonce)),
                (step, Wait::Due { nonce }) => self.decided(&Event::Due { step, nonce }),
                (step, Wait::Held { nonce }) => self.decided(&Event::Admitted { step, nonce }),
            }
        }
        Batch { steps, ..Batch::default() }
    }

    fn hand_out(&mut self, step: StepIndex, attempt: u32, nonce: Nonce) -> Taken {
        let number = self.number();
        let token = Token {
            queue: QueueName::new("simulated").expect("a valid queue name"),
            msg_id: i64::try_from(number).unwrap_or(i64::MAX),
            read_ct: 1,
            nonce: nonce.0,
        };
        let (task, base_attempt) = (self.task.id(), i32::try_from(attempt).unwrap_or(i32::MAX) - 1);
        let (correlation_id, claimed_at) = (task.uuid(), self.now);
        let claim = Claim { token, task, step, correlation_id, base_attempt, attempt, claimed_at };
        let ctx = self.context(&claim);
        self.running.insert(number, Run { claim, ctx: ctx.clone() });
        let resolver = self.plan.template.step(self.task.pattern(step)).handler.resolver.as_deref().map(Arc::from);
        Taken { id: Id::simulated(number), ctx, resolver }
    }

    /// What the handler of a claimed step sees.
    fn context(&self, claim: &Claim) -> StepContext {
        let (step, pattern) = (claim.step, self.task.pattern(claim.step));
        let template = Arc::clone(&self.plan.template);
        let limit = self.plan.limit(pattern, self.task.live(step).limit);
        let shape = self.task.shape();
        let Wanted { ancestors, failed, expansions, .. } = Wanted::new(claim, &self.plan, pattern, shape.as_ref());
        let null = || Arc::from(RawValue::NULL.to_owned());
        let result = |step: &StepIndex| (*step, self.results.get(step).cloned().unwrap_or_else(null));
        let failure = |step: &StepIndex| Some((*step, self.errors.get(step)?.clone()));
        let publication = Publication::new(&self.publishing, &self.plan, (pattern, limit), &self.name_of(step));
        let started = Instant::now();
        let completion = Completion {
            claim: claim.clone(),
            clock: Clock { claimed_at: claim.claimed_at, claimed: started },
            started,
            worker: "simulation".into(),
            config: Arc::clone(&self.config),
            plan: Arc::clone(&self.plan),
            publication,
            tried: AtomicBool::new(false),
            stored: Mutex::default(),
        };
        StepContext(Arc::new(Attempt {
            task: claim.task,
            step,
            pattern,
            correlation_id: claim.correlation_id,
            number: claim.attempt,
            limit,
            deadline: started + Duration::from_millis(template.step(pattern).timeout_ms),
            template,
            cancelled: CancellationToken::new(),
            input: Arc::clone(&self.input),
            results: ancestors.iter().map(result).collect(),
            failures: failed.iter().filter_map(failure).collect(),
            batches: expansions.iter().map(|expansion| Arc::new(self.batches(*expansion))).collect(),
            checkpoint: self.checkpoints.get(&step).cloned(),
            completion: Some(Arc::new(completion)),
        }))
    }

    fn complete(&mut self, id: Id, Answer { returned, events }: Answer) -> Verdict {
        let Some(number) = id.number_of_simulation().filter(|number| *number <= self.last) else {
            return Verdict::Unknown;
        };
        let Some(Run { claim, ctx }) = self.running.remove(&number) else { return Verdict::Over };
        if let Some(publication) = ctx.publication() {
            publication.said.say(Kind::of_returned(&returned), events);
        }
        let stop = attempt::stop_on_the_way(&self.config.limits, &returned).map(|stop| stop.map(ToOwned::to_owned));
        match stop {
            None => self.ended(&claim, &ctx, returned),
            Some(Err(refused)) => self.ended(&claim, &ctx, Err(refused)),
            Some(Ok(checkpoint)) => {
                let read = checkpoints::read(&checkpoint);
                self.checkpoints.extend(read.map(|checkpoint| (claim.step, checkpoint)));
                let again = Wait::Ticket { attempt: claim.attempt, nonce: Nonce(claim.token.nonce) };
                let number = self.number();
                self.waiting.insert((self.now, number), (claim.step, again));
            }
        }
        Verdict::Accepted
    }

    /// An attempt has ended, with this.
    fn ended(&mut self, claim: &Claim, ctx: &StepContext, returned: Result<StepOutcome, StepError>) {
        let checked = attempt::checked(&self.config.limits, &self.plan, self.task.pattern(claim.step), returned);
        let outcome = attempt::outcome(checked);
        self.events.extend(events::of(ctx.publication(), claim, &outcome, self.now));
        let (attempt, at_ms) = (claim.attempt, self.now_ms());
        let mut tried =
            Tried { step: self.name_of(claim.step), attempt, at_ms, outcome: "success", result: None, error: None };
        match &outcome {
            ReportedOutcome::Success { result, .. } => {
                self.results.insert(claim.step, Arc::clone(result));
                tried.result = Some(Arc::clone(result));
            }
            ReportedOutcome::Failure { error, retryable, .. } => {
                self.errors.insert(claim.step, raw(error));
                let StepFailure { message, error_type, error_code } = error.clone();
                let error = Failed { message, error_type, error_code, retryable: *retryable };
                tried = Tried { outcome: "failure", error: Some(error), ..tried };
            }
            ReportedOutcome::LeaseLost => unreachable!("no lease is lost here"),
        }
        self.attempts.push(tried);
        let (step, nonce) = (claim.step, Nonce(claim.token.nonce));
        self.decided(&Event::Reported { step, attempt, nonce, outcome: outcome.for_lifecycle() });
    }

    fn state(&self) -> String {
        let steps = (0..self.task.steps().len()).map(StepIndex::from);
        let steps = steps.filter_map(|step| {
            let state = self.task.step(step).filter(|state| state.exists())?;
            let result = self.results.get(&step).filter(|_| state == StepState::Complete).map(|result| &**result);
            Some(SaidStep { name: self.name_of(step), state, attempts: self.task.attempts(step), result })
        });
        let events =
            self.events.iter().map(|Published { event, delivery }| SaidEvent { delivery_mode: *delivery, event });
        let said = Said {
            status: self.task.state(),
            ended: self.running.is_empty() && self.waiting.is_empty(),
            now_ms: self.now_ms(),
            steps: steps.collect(),
            attempts: &self.attempts,
            events: events.collect(),
        };
        serde_json::to_string(&said).expect("strings, numbers and checked JSON always encode")
    }

    fn name_of(&self, step: StepIndex) -> String {
        match self.task.batch_of(step) {
            None => self.plan.template.step(step).name.clone(),
            Some(batch) => self.batches(batch.expansion).name(step).unwrap_or_default().to_owned(),
        }
    }

    fn batches(&self, expansion: tasker_lifecycle::Expansion) -> Batches {
        Batches::new(&self.plan.template, expansion, self.results.get(&expansion.batchable).map(|result| &**result))
    }

    fn now_ms(&self) -> i64 {
        self.now.0 / 1000
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// What a server or a worker would refuse.
fn check(template: &Template, publishers: &BTreeSet<String>, input: &RawValue) -> Result<(), BoundaryError> {
    let named =
        template.steps.iter().flat_map(|step| &step.publishes_events).filter_map(|event| event.publisher.as_ref());
    if let Some(missing) = named.into_iter().find(|name| !publishers.contains(*name)) {
        return Err(BoundaryError::Template(format!("no publisher is registered as `{missing}`")));
    }
    let Some(schema) = &template.input_schema else { return Ok(()) };
    let validator = compile(schema).map_err(|why| BoundaryError::Template(format!("input_schema: {why}")))?;
    let input: Value = serde_json::from_str(input.get()).map_err(|error| BoundaryError::Input(error.to_string()))?;
    match violations(&validator, &input, "").first() {
        None => Ok(()),
        Some(offence) => Err(BoundaryError::Input(format!("{}: {}", offence.path, offence.message))),
    }
}

fn raw(value: &impl Serialize) -> Arc<RawValue> {
    Arc::from(to_raw_value(value).expect("strings and JSON values always encode"))
}
