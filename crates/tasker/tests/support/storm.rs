//! A storm: every kind of fault, at random and many a second, while the load goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tasker_client::Client;
use tasker_shared::embedded::Embedded;

use super::{Process, World, free_address};

/// Longer than a lease.
const PAUSE: Duration = Duration::from_millis(2_200);

#[derive(Clone, Copy)]
enum Fault {
    KillWorker,
    PauseWorker,
    KillServer,
    KillPostgres,
    EndConnection,
}

/// How often each comes in a hundred faults.
const DECK: [(Fault, usize); 5] = [
    (Fault::KillWorker, 12),
    (Fault::PauseWorker, 6),
    (Fault::KillServer, 6),
    (Fault::KillPostgres, 1),
    (Fault::EndConnection, 75),
];

/// The processes that the storm hits, and what it did to them.
pub(crate) struct Storm {
    rng: StdRng,
    /// What is still to come of a shuffled deck, so that the rarest comes as surely as the others.
    deck: Vec<Fault>,
    servers: Vec<(String, Process)>,
    workers: Vec<Process>,
    paused: Vec<(Instant, Process)>,
    postgres: Option<Embedded>,
    /// Faults by kind.
    pub(crate) faults: BTreeMap<&'static str, usize>,
}

impl Storm {
    /// After so many faults there was each kind.
    pub(crate) const EVERY_KIND: usize = 100;

    /// Two servers and four workers on this server. The seed says which faults come in which order.
    pub(crate) async fn begin(world: &mut World, postgres: Embedded, seed: u64) -> (Self, Vec<Client>) {
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let address = free_address();
            let (process, client) = world.server_at(&address, None).await;
            servers.push((address, process));
            clients.push(client);
        }
        let workers = (0..4).map(|_| world.worker(None)).collect();
        let (rng, paused, postgres) = (StdRng::seed_from_u64(seed), Vec::new(), Some(postgres));
        (Self { rng, deck: Vec::new(), servers, workers, paused, postgres, faults: BTreeMap::new() }, clients)
    }

    /// How many faults there were.
    pub(crate) fn count(&self) -> usize {
        self.faults.values().sum()
    }

    /// One fault.
    pub(crate) async fn strike(&mut self, world: &mut World) {
        self.wake_paused();
        self.restart_ended(world);
        let kind = match self.draw() {
            Fault::KillWorker => self.kill_worker(world),
            Fault::PauseWorker => self.pause_worker(world),
            Fault::KillServer => self.kill_server(world).await,
            Fault::KillPostgres => self.kill_postgres().await,
            Fault::EndConnection => self.end_connection(world).await,
        };
        *self.faults.entry(kind).or_default() += 1;
    }

    fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck.extend(DECK.iter().flat_map(|&(fault, times)| std::iter::repeat_n(fault, times)));
            self.deck.shuffle(&mut self.rng);
        }
        self.deck.pop().unwrap()
    }

    /// The last fault is over: whoever was paused goes on, and everybody runs.
    pub(crate) fn end(&mut self, world: &mut World) {
        self.restart_ended(world);
        for (_, process) in self.paused.drain(..) {
            process.resume();
            self.workers.push(process);
        }
    }

    /// Stops PostgreSQL; the processes are gone before.
    pub(crate) async fn stop(mut self) {
        drop((self.servers, self.workers, self.paused));
        let postgres = self.postgres.take().unwrap();
        tokio::task::spawn_blocking(|| postgres.stop()).await.unwrap().unwrap();
    }

    /// Who finds no database at its start ends with an error; whoever started it starts it again.
    fn restart_ended(&mut self, world: &mut World) {
        for worker in &mut self.workers {
            if worker.has_ended() {
                *worker = world.worker(None);
            }
        }
        for (address, server) in &mut self.servers {
            if server.has_ended() {
                *server = world.server_unready(address);
            }
        }
    }

    fn kill_worker(&mut self, world: &mut World) -> &'static str {
        let at = self.rng.random_range(0..self.workers.len());
        drop(std::mem::replace(&mut self.workers[at], world.worker(None)));
        "worker killed"
    }

    fn pause_worker(&mut self, world: &mut World) -> &'static str {
        let at = self.rng.random_range(0..self.workers.len());
        let process = std::mem::replace(&mut self.workers[at], world.worker(None));
        process.pause();
        self.paused.push((Instant::now(), process));
        "worker paused beyond its lease"
    }

    /// A paused worker that goes on finds its leases lost; it reports all the same, and is killed with the next fault
    /// that hits it.
    fn wake_paused(&mut self) {
        let (over, still): (Vec<_>, Vec<_>) = self.paused.drain(..).partition(|(since, _)| since.elapsed() > PAUSE);
        self.paused = still;
        for (_, process) in over {
            process.resume();
            // One of the others makes room, so that there are never more than four.
            let at = self.rng.random_range(0..self.workers.len());
            drop(std::mem::replace(&mut self.workers[at], process));
        }
    }

    async fn kill_server(&mut self, world: &mut World) -> &'static str {
        let at = self.rng.random_range(0..self.servers.len());
        let (address, process) = self.servers.swap_remove(at);
        drop(process);
        // It need not be ready: PostgreSQL may be away. The clients ask until somebody answers.
        let process = world.server_unready(&address);
        self.servers.push((address, process));
        "server killed"
    }

    async fn kill_postgres(&mut self) -> &'static str {
        let mut postgres = self.postgres.take().unwrap();
        let back = tokio::task::spawn_blocking(move || {
            postgres.crash().unwrap();
            postgres.restart().map(|()| postgres)
        });
        self.postgres = Some(back.await.unwrap().unwrap());
        "PostgreSQL killed"
    }

    /// A connection is reset, whatever it is doing: also between a COMMIT and its answer.
    async fn end_connection(&mut self, world: &World) -> &'static str {
        let some = "SELECT count(pg_terminate_backend(pid)) FROM (
            SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) p";
        let _may_be_away = world.count(some).await;
        "connection reset"
    }
}
