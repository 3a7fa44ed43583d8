//! A storm: every kind of fault, at random and many a second, while the load goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tasker_client::Client;
use tasker_shared::embedded::Embedded;

use super::{Process, World, eventually, free_address};

/// Longer than a lease.
const PAUSE: Duration = Duration::from_millis(2_200);

#[derive(Clone, Copy)]
enum Fault {
    KillWorker,
    PauseWorker,
    KillServer,
    PauseServer,
    KillPostgres,
    EndConnection,
}

/// How often each comes in a hundred faults.
const DECK: [(Fault, usize); 6] = [
    (Fault::KillWorker, 12),
    (Fault::PauseWorker, 6),
    (Fault::KillServer, 6),
    (Fault::PauseServer, 3),
    (Fault::KillPostgres, 1),
    (Fault::EndConnection, 72),
];

/// The processes that the storm hits, and what it did to them.
pub(crate) struct Storm {
    rng: StdRng,
    /// What is still to come of a shuffled deck, so that the rarest comes as surely as the others.
    deck: Vec<Fault>,
    servers: Vec<Server>,
    workers: Vec<Process>,
    paused: Vec<(Instant, Process)>,
    postgres: Option<Embedded>,
    /// Faults by kind.
    pub(crate) faults: BTreeMap<&'static str, usize>,
}

struct Server {
    role: &'static str,
    address: String,
    process: Process,
    paused: Option<Instant>,
}

impl Storm {
    /// After so many faults there was each kind.
    pub(crate) const EVERY_KIND: usize = 100;

    /// Two servers, one with a worker of its own, and four workers on this PostgreSQL. The seed says which faults come in
    /// which order.
    pub(crate) async fn begin(world: &mut World, postgres: Embedded, seed: u64) -> (Self, Vec<Client>) {
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for role in ["server", "dev"] {
            let address = free_address();
            let process = world.server_unready(role, &address);
            let client = Client::new(&format!("http://{address}")).unwrap();
            eventually("the server answers", async || client.health().await.is_ok()).await;
            servers.push(Server { role, address, process, paused: None });
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
            Fault::KillServer => self.kill_server(world),
            Fault::PauseServer => self.pause_server(),
            Fault::KillPostgres => self.kill_postgres().await,
            Fault::EndConnection => self.end_connection(world).await,
        };
        *self.faults.entry(kind).or_default() += 1;
    }

    fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck.extend(DECK.iter().flat_map(|&(fault, times)| std::iter::repeat_n(fault, times)));
            assert_eq!(self.deck.len(), Self::EVERY_KIND);
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
        for server in &mut self.servers {
            if server.paused.take().is_some() {
                server.process.resume();
            }
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
        for server in &mut self.servers {
            if server.process.has_ended() {
                server.process = world.server_unready(server.role, &server.address);
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
        for server in &mut self.servers {
            if server.paused.take_if(|since| since.elapsed() > PAUSE).is_some() {
                server.process.resume();
            }
        }
        let (over, still): (Vec<_>, Vec<_>) = self.paused.drain(..).partition(|(since, _)| since.elapsed() > PAUSE);
        self.paused = still;
        for (_, process) in over {
            process.resume();
            // One of the others makes room, so that there are never more than four.
            let at = self.rng.random_range(0..self.workers.len());
            drop(std::mem::replace(&mut self.workers[at], process));
        }
    }

    fn kill_server(&mut self, world: &mut World) -> &'static str {
        let at = self.rng.random_range(0..self.servers.len());
        let Server { role, address, process, .. } = self.servers.swap_remove(at);
        drop(process);
        // It need not be ready: PostgreSQL may be away. The clients ask until somebody answers.
        let process = world.server_unready(role, &address);
        self.servers.push(Server { role, address, process, paused: None });
        "server killed"
    }

    /// The one with a worker finds the leases of that worker lost when it goes on.
    fn pause_server(&mut self) -> &'static str {
        let at = self.rng.random_range(0..self.servers.len());
        let server = &mut self.servers[at];
        server.process.pause();
        server.paused = Some(Instant::now());
        "server paused"
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
