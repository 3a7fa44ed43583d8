//! One life: servers, workers, clients and operators, and one scheduler that picks what happens next.

use std::sync::Arc;
use std::task::{Context, Waker};

use pgmq_notify::QueueName;
use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::value::RawValue;
use tasker_lifecycle::template::Template;
use tasker_lifecycle::{Event, StepIndex, StepState, TaskId, Timestamp};
use tasker_shared::store::tasks::Details;
use tasker_shared::store::writes::ByHand;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::checks::{self, Broken};
use super::memory::Memory;
use super::queues::Message;
use super::server::{Outside, Running, Server};
use super::workers::{self, Held, Worker};
use super::world::{Chances, World, requests, tickets};
use super::{LATER_MS, LEASE_MS};
use crate::enqueuer::{Command, Ordered, Repair};
use crate::errors::{CommandError, CreateError};
use crate::requests::{Created, Request, Submission, SubmissionKey};

const SERVERS: usize = 3;
const WORKERS: usize = 4;
const ACTORS: usize = 4;
/// What happens before the faults end.
const ACTIONS: usize = 250;
/// Looks of everybody after that, each followed by a wait.
const ROUNDS: usize = 200;
const HOUR_MS: u64 = 3_600_000;

/// Somebody who waits for an answer.
enum Asker {
    ForTask(Option<String>, oneshot::Receiver<Result<Created, CreateError>>),
    ForCommand(TaskId, bool, oneshot::Receiver<Result<bool, CommandError>>),
}

/// See the module.
pub(super) struct Life<'a> {
    pub(super) memory: Memory,
    outside: &'a Outside,
    template: Arc<Template>,
    queue: QueueName,
    servers: Vec<Server>,
    workers: Vec<Worker>,
    askers: Vec<Asker>,
    asked: usize,
}

impl<'a> Life<'a> {
    pub(super) fn begin(outside: &'a Outside, world: World) -> Self {
        let (template, queue) = (Arc::clone(&world.template), tickets(&world.template));
        let memory = Memory::new(world);
        let workers = (0..WORKERS).map(|_| Worker::default()).collect();
        let (servers, askers) = (Vec::new(), Vec::new());
        let mut life = Self { memory, outside, template, queue, servers, workers, askers, asked: 0 };
        for at in 0..SERVERS {
            let server = life.server(at);
            life.servers.push(server);
        }
        life
    }

    /// The faults end, all comes to rest; or an invariant does not hold.
    pub(super) fn live(&mut self) -> Result<(), Broken> {
        for _ in 0..ACTIONS {
            self.something_happens();
            self.check()?;
        }
        self.comes_to_rest()?;
        self.memory.with(|world| checks::at_end(world))
    }

    fn check(&self) -> Result<(), Broken> {
        self.memory.with(|world| world.broken.take()).map_or(Ok(()), Err)
    }

    fn draw(&self, below: usize) -> usize {
        self.memory.with(|world| world.rng.random_range(0..below))
    }

    fn server(&self, at: usize) -> Server {
        let (slots, is_caching) = (self.draw(3), self.draw(4) > 0);
        self.memory.with(|world| world.believed.retain(|(who, _), _| *who != at));
        Server::start(self.outside, self.memory.of(at), &self.queue, slots, is_caching)
    }

    fn something_happens(&mut self) {
        match self.draw(100) {
            0..40 => self.turns(),
            40..56 => {
                let (server, actor) = (self.draw(SERVERS), self.draw(ACTORS));
                self.servers[server].wake(actor);
            }
            56..70 => {
                let (worker, qty) = (self.draw(WORKERS), self.draw(3) + 1);
                self.take_handed(worker);
                self.claim(worker, qty);
            }
            70..82 => {
                let worker = self.draw(WORKERS);
                self.finish(worker, true);
            }
            82..85 => self.heartbeat_or_release(),
            85..88 if self.asked < 4 => self.ask_for_task(),
            85..89 => self.order(),
            89..95 => {
                let ms = self.draw(if self.draw(8) == 0 { 70_000 } else { 800 });
                self.memory.with(|world| world.now = world.now.plus_ms(ms as u64));
            }
            95..98 => self.memory.with(World::disturb_a_message),
            _ => self.catastrophe(),
        }
        self.hear_answers();
    }

    /// A few turns of something that runs.
    fn turns(&mut self) {
        let count = self.draw(8) + 1;
        let memory = self.memory.clone();
        let mut running: Vec<&mut Option<Running>> = Vec::new();
        running.extend(self.servers.iter_mut().flat_map(|server| &mut server.running).filter(|r| r.is_some()));
        let actors = running.len();
        let reports: usize = self.workers.iter().map(|worker| worker.running.len()).sum();
        if actors + reports == 0 {
            return;
        }
        let at = memory.with(|world| world.rng.random_range(0..actors + reports));
        if at < actors {
            if (0..count).any(|_| is_done(running[at].as_mut().unwrap())) {
                *running[at] = None;
            }
            return;
        }
        let mut at = at - actors;
        for worker in &mut self.workers {
            if at < worker.running.len() {
                if (0..count).any(|_| is_done(&mut worker.running[at])) {
                    drop(worker.running.swap_remove(at));
                }
                return;
            }
            at -= worker.running.len();
        }
    }

    /// The worker in a server's process starts what was handed over.
    fn take_handed(&mut self, worker: usize) {
        let Some(handed) = self.servers.get_mut(worker).and_then(|server| server.handed.as_mut()) else { return };
        while let Ok(claim) = handed.try_recv() {
            self.memory.with(|world| {
                world.saw("a step was handed over");
                workers::start(world, &claim.claim, false);
            });
            self.workers[worker].held.push(Held { claim: claim.claim, slot: Some(claim.slot) });
        }
    }

    fn is_paused(&self, worker: usize) -> bool {
        self.memory.with(|world| world.now) < self.workers[worker].paused_until
    }

    fn claim(&mut self, worker: usize, qty: usize) {
        if !self.is_paused(worker) {
            let claims = self.memory.with(|world| workers::claim(world, qty));
            self.workers[worker].held.extend(claims.into_iter().map(|claim| Held { claim, slot: None }));
        }
    }

    /// Some handlers of a worker come to their end, or it says again what it said before.
    fn finish(&mut self, worker: usize, may_fail: bool) {
        if self.is_paused(worker) {
            return;
        }
        let mut reports = Vec::new();
        let most = if may_fail { self.draw(3) + 1 } else { usize::MAX };
        while reports.len() < most && !self.workers[worker].held.is_empty() {
            let at = self.draw(self.workers[worker].held.len());
            let Held { claim, slot } = self.workers[worker].held.swap_remove(at);
            drop(slot);
            reports.push(self.memory.with(|world| workers::report(world, claim, may_fail)));
        }
        let is_again = may_fail && self.draw(6) == 0;
        let past = &self.workers[worker].past;
        reports.extend(self.memory.with(|world| past.choose(&mut world.rng).cloned()).filter(|_| is_again));
        if reports.is_empty() {
            return;
        }
        self.workers[worker].past.extend(reports.iter().cloned());
        match self.servers.get_mut(worker).filter(|server| server.handed.is_some()) {
            Some(server) => server.report_inbox.extend(reports),
            None => self.workers[worker].running.push(workers::reporting(self.memory.clone(), reports)),
        }
    }

    fn heartbeat_or_release(&mut self) {
        let worker = self.draw(WORKERS);
        if self.is_paused(worker) || self.workers[worker].held.is_empty() {
            return;
        }
        let at = self.draw(self.workers[worker].held.len());
        let is_release = self.draw(2) == 0;
        let token = self.workers[worker].held[at].claim.token.clone();
        let is_current = !is_release && self.memory.with(|world| world.extend(&token));
        if is_release {
            // A claim that is given back never ran: the handler of this one did not get to do anything.
            self.memory.with(|world| world.release(&token));
        }
        if !is_current {
            self.workers[worker].held.swap_remove(at);
        }
    }

    /// A client asks for a task: over HTTP, with or without a key, or by SQL.
    fn ask_for_task(&mut self) {
        self.asked += 1;
        let id = self.memory.with(World::new_task_id);
        if self.draw(3) == 0 {
            self.memory.with(|world| {
                let request = format!(r#"{{"namespace":"test","name":"lives","context":{{"n":"{id}"}}}}"#);
                let body = format!(r#"{{"task_uuid":"{id}","request":{request}}}"#);
                let (msg_id, now) = (world.next_id(), world.now);
                world.queues.get_mut(&requests()).unwrap().insert(msg_id, Message::new(body, now, 0));
                world.ledger.submitted.insert(id);
            });
            return;
        }
        let key = (self.draw(2) == 0).then(|| format!("key{}", self.asked % 2));
        self.request(id, key);
    }

    fn request(&mut self, id: TaskId, key: Option<String>) {
        let (reply, answer) = oneshot::channel();
        let submission = Submission {
            template: Arc::clone(&self.template),
            context: RawValue::from_string("{}".to_owned()).unwrap().into(),
            priority: 0,
            correlation_id: None,
            details: Details::default(),
            key: key.clone().map(|key| SubmissionKey { key, body_hash: [1; 32], strict: false }),
            reply,
        };
        let server = self.draw(SERVERS);
        self.servers[server].request_inbox.push(Request { id, submission });
        self.askers.push(Asker::ForTask(key, answer));
    }

    /// An operator's order on a task, on a failed step rather than on another.
    fn order(&mut self) {
        let ids: Vec<TaskId> = self.memory.with(|world| world.tasks.keys().copied().collect());
        if ids.is_empty() {
            return;
        }
        let id = ids[self.draw(ids.len())];
        let task = self.memory.with(|world| world.task(id)).unwrap();
        let failed = task.steps().iter().position(|state| *state == StepState::Error);
        let step = StepIndex::from(failed.unwrap_or(self.draw(task.steps().len())));
        let (event, by_hand) = match self.draw(12) {
            0 => (Event::Cancelled, None),
            1..6 => (Event::StepReset { step }, None),
            6..9 => (Event::StepResolved { step }, None),
            _ => {
                let follows = workers::follows(&task, step, self.draw(16) as u64);
                let result = RawValue::from_string("2".to_owned()).unwrap().into();
                let by_hand = ByHand { result, metadata: None, by: "somebody".to_owned() };
                (Event::StepCompleted { step, follows }, Some((step, by_hand)))
            }
        };
        let is_cancel = event == Event::Cancelled;
        let action = Uuid::from_u128(self.memory.with(|world| world.rng.random()));
        let detail = format!(r#"{{"action_uuid":"{action}"}}"#);
        let repair = (!is_cancel).then_some(Repair { action, by_hand });
        let (reply, answer) = oneshot::channel();
        let server = self.draw(SERVERS);
        let command = Command { task: id, ordered: Ordered { event, detail, repair }, reply };
        self.servers[server].command_inbox.push(command);
        self.askers.push(Asker::ForCommand(id, is_cancel, answer));
    }

    /// What was answered is held against the database. Who was answered by nobody asks again where he has a key.
    fn hear_answers(&mut self) {
        let mut again = Vec::new();
        let memory = self.memory.clone();
        self.askers.retain_mut(|asker| match asker {
            Asker::ForTask(key, answer) => match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => true,
                Ok(Ok(created)) => {
                    memory.with(|world| told_of_task(world, key.take(), created.task));
                    false
                }
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => {
                    again.extend(key.take());
                    false
                }
            },
            Asker::ForCommand(task, is_cancel, answer) => match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => true,
                Ok(answer) => {
                    memory.with(|world| told_of_command(world, *task, *is_cancel, &answer));
                    false
                }
                Err(oneshot::error::TryRecvError::Closed) => false,
            },
        });
        for key in again {
            let id = self.memory.with(World::new_task_id);
            self.request(id, Some(key));
        }
    }

    fn catastrophe(&mut self) {
        match self.draw(5) {
            0 | 1 => {
                let at = self.draw(SERVERS);
                self.kill_server(at);
            }
            2 => {
                let worker = self.draw(WORKERS);
                self.workers[worker] = Worker::default();
                self.memory.with(|world| world.saw("a worker died"));
            }
            3 => {
                let worker = self.draw(WORKERS);
                let ms = LEASE_MS + self.draw(60_000) as u64;
                self.memory.with(|world| world.saw("a worker was paused beyond its lease"));
                self.workers[worker].paused_until = self.memory.with(|world| world.now.plus_ms(ms));
            }
            _ => {
                let ms = i64::try_from(self.draw(usize::try_from(HOUR_MS).unwrap())).unwrap();
                let ms = if self.draw(2) == 0 { ms } else { -ms };
                self.memory.with(|world| {
                    world.saw("the clock jumped");
                    world.ledger.clock_jumped = true;
                    world.now = Timestamp(world.now.0 + ms * 1000);
                });
            }
        }
    }

    /// Everything that a server process knew is gone, and the worker in it.
    fn kill_server(&mut self, at: usize) {
        self.memory.with(|world| world.saw("a server died"));
        let in_transaction = self.servers[at].running.iter().any(Option::is_some);
        if in_transaction {
            self.memory.with(|world| world.saw("a server died between two statements"));
        }
        let is_home = self.servers[at].handed.is_some();
        self.servers[at] = self.server(at);
        if is_home {
            self.workers[at] = Worker::default();
        }
    }

    /// No more faults; only one server and the workers are left.
    fn comes_to_rest(&mut self) -> Result<(), Broken> {
        self.memory.with(|world| world.chances = Chances::default());
        let alive = self.draw(SERVERS);
        for at in (0..SERVERS).filter(|at| *at != alive) {
            self.kill_server(at);
        }
        for _ in 0..ROUNDS {
            for actor in 0..ACTORS {
                self.servers[alive].wake(actor);
                self.run_all()?;
            }
            for worker in 0..WORKERS {
                self.take_handed(worker);
                // A process without an actor takes no reports.
                if worker < SERVERS && worker != alive {
                    continue;
                }
                self.claim(worker, 10);
                self.finish(worker, false);
            }
            self.run_all()?;
            self.hear_answers();
            self.check()?;
            let is_idle = self.servers[alive].report_inbox.is_empty();
            if is_idle && self.memory.with(|world| checks::is_at_rest(world)) {
                return Ok(());
            }
            self.memory.with(|world| world.now = world.now.plus_ms(LATER_MS + LEASE_MS));
        }
        Ok(())
    }

    /// Runs everything to its end, in turns.
    fn run_all(&mut self) -> Result<(), Broken> {
        for _ in 0..10_000 {
            let mut is_idle = true;
            for running in self.servers.iter_mut().flat_map(|server| &mut server.running) {
                if running.as_mut().is_some_and(is_done) {
                    *running = None;
                }
                is_idle &= running.is_none();
            }
            for worker in &mut self.workers {
                worker.running.retain_mut(|running| !is_done(running));
                is_idle &= worker.running.is_empty();
            }
            if is_idle {
                return self.check();
            }
        }
        Err(("I11", "somebody goes round in circles".to_owned()))
    }
}

fn is_done(running: &mut Running) -> bool {
    running.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn told_of_task(world: &mut World, key: Option<String>, task: TaskId) {
    world.saw("a task was answered");
    world.ledger.promised.insert(task);
    if !world.tasks.contains_key(&task) {
        world.breaks("I1", format!("{task} was answered and is not there"));
    }
    if let Some(key) = key {
        let first = *world.ledger.keyed.entry(key.clone()).or_insert(task);
        if first != task {
            world.breaks("I2", format!("{key} was answered with {first} and with {task}"));
        }
    }
}

fn told_of_command(world: &mut World, task: TaskId, is_cancel: bool, answer: &Result<bool, CommandError>) {
    match answer {
        Ok(_) => world.saw("a command was carried out"),
        Err(CommandError::Unavailable) => world.saw("a command was given up"),
        Err(_) => world.saw("a command was refused"),
    }
    if is_cancel && answer.is_ok() {
        world.ledger.cancelled.insert(task);
    }
}
