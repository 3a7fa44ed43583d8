//! A private PostgreSQL: found on the machine, made once, started on a free port, gone when nobody uses it.
//!
//! Who uses the server holds the write end of a FIFO open. A small watcher beside the server reads the other end, so
//! it learns from the kernel that the last user is gone, however that one died (also by `kill -9`), and stops the
//! server. Any number of processes may use one data folder: the first starts the server, the others join it, the
//! last takes it along. A process joins by writing a word into the FIFO; the watcher answers with a file of that
//! name. That answer is what makes it safe to join at the very moment the last user leaves.
//!
//! Deliberately absent: downloading binaries, replication, tuning by machine size.

mod binaries;
mod cluster;
mod error;
mod owner;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, Postmaster};

pub use binaries::{Binaries, Origin};
pub use error::EmbeddedError;

const POLL: Duration = Duration::from_millis(5);

/// How long one greeting to the watcher may take before it is tried again.
const GREETING_LIMIT: Duration = Duration::from_secs(1);

/// How long a running server that nobody watches is given to go away before it is used as it is.
const UNWATCHED_LIMIT: Duration = Duration::from_secs(10);

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder for the cluster, its log and its lock; made when missing.
    pub data_dir: PathBuf,
    /// The folder of the server binaries; none: the places that [`Binaries::find`] names.
    pub binaries: Option<PathBuf>,
    /// The TCP port on 127.0.0.1; none: a free one.
    pub port: Option<u16>,
    /// How long the server stays when its last user is gone.
    pub linger: Duration,
    /// How long a start, with a recovery after a crash, may take.
    pub start_limit: Duration,
    /// Settings of the server, stronger than the ones built in.
    pub settings: Vec<(String, String)>,
}

impl Options {
    /// Everything by default, in this folder.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            binaries: None,
            port: None,
            linger: Duration::ZERO,
            start_limit: Duration::from_secs(120),
            settings: Vec::new(),
        }
    }

    /// Everything by default, in [`default_data_dir`].
    #[must_use]
    pub fn at_default() -> Self {
        Self::new(default_data_dir())
    }
}

/// A running private PostgreSQL, and the promise to stop it when its last user is gone.
#[derive(Debug)]
pub struct Embedded {
    cluster: Cluster,
    binaries: Binaries,
    options: Options,
    postmaster: Postmaster,
    /// Ours to reap if this process started the server.
    child: Option<Child>,
    hold: Option<Hold>,
}

/// What says that this process uses the server.
#[derive(Debug)]
struct Hold {
    /// The write end of the watcher's FIFO; none for a server that nobody watches.
    _alive: Option<File>,
    /// Locked shared by every user, so that a leaving one can tell whether it was the last.
    users: File,
}

impl Embedded {
    /// Starts the server of this folder or joins it where it runs already. Blocks (the first start of a folder takes
    /// about a second, a join milliseconds): call it through `spawn_blocking` where others wait for the thread.
    ///
    /// # Errors
    /// See [`EmbeddedError`]: each variant says what to do.
    pub fn start(options: Options) -> Result<Self, EmbeddedError> {
        let cluster = Cluster::open(&options.data_dir)?;
        let binaries = Binaries::find(options.binaries.as_deref(), cluster.major()?)?;
        let lock = cluster.lock()?;
        let deadline = Instant::now() + options.start_limit;
        let found = cluster.join(UNWATCHED_LIMIT.min(options.start_limit))?;
        let (postmaster, alive, child) = match found {
            Some((postmaster, alive)) => (postmaster, alive, None),
            None => {
                cluster.create(&binaries)?;
                let started = start_server(&cluster, &binaries, &options, deadline)?;
                (started.postmaster, Some(started.alive), Some(started.child))
            }
        };
        let hold = Some(Hold { _alive: alive, users: cluster.lock_as_user()? });
        drop(lock);
        Ok(Self { cluster, binaries, options, postmaster, child, hold })
    }

    /// Where clients connect: TCP on 127.0.0.1, superuser `tasker`, database `tasker`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("tasker")
    }

    /// The same for another database.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://tasker@127.0.0.1:{}/{database}", self.postmaster.port)
    }

    /// The same through the server's socket, which only the user of the server and root can reach, and which saves
    /// some microseconds a round trip.
    #[must_use]
    pub fn socket_url(&self) -> String {
        let folder = self.postmaster.socket_dir.display().to_string().replace('/', "%2F");
        format!("postgres://tasker@{folder}:{}/tasker", self.postmaster.port)
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.postmaster.port
    }

    /// The process id of the server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.postmaster.pid
    }

    /// Whether this process started the server; else it joined one that ran.
    #[must_use]
    pub fn started_here(&self) -> bool {
        self.child.is_some()
    }

    /// The binaries, and where they were found.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The folder of the cluster.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// The server's log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.cluster.log_path()
    }

    /// Leaves the server. If this was its last user and it does not linger, it is gone when this returns (a fast
    /// shutdown: running transactions are rolled back, what was committed stays).
    ///
    /// # Errors
    /// [`EmbeddedError::StopTimedOut`] when the server does not end.
    pub fn stop(mut self) -> Result<(), EmbeddedError> {
        self.leave()
    }

    /// Kills the server as a power cut would. For tests of what survives; [`Embedded::restart`] brings it back.
    ///
    /// # Errors
    /// [`EmbeddedError::NotOurs`] when another process started it.
    pub fn crash(&mut self) -> Result<(), EmbeddedError> {
        let child = self.child.as_mut().ok_or(EmbeddedError::NotOurs)?;
        let pid = child.id();
        child.kill().and_then(|()| child.wait().map(drop)).map_err(error::io("kill", format!("process {pid}")))?;
        self.hold = None;
        Ok(())
    }

    /// Starts the server again on the port it had, after [`Embedded::crash`].
    ///
    /// # Errors
    /// As [`Embedded::start`]; [`EmbeddedError::NotOurs`] when another process started it.
    pub fn restart(&mut self) -> Result<(), EmbeddedError> {
        if self.child.is_none() {
            return Err(EmbeddedError::NotOurs);
        }
        self.leave()?;
        let options = Options { port: Some(self.postmaster.port), ..self.options.clone() };
        *self = Self::start(options)?;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), EmbeddedError> {
        let Some(hold) = self.hold.take() else { return Ok(()) };
        let Hold { _alive: alive, users } = hold;
        drop(alive);
        let others = users.unlock().is_ok_and(|()| users.try_lock().is_err());
        drop(users);
        if others || !self.options.linger.is_zero() {
            return Ok(());
        }
        let gone = wait_until(Instant::now() + Duration::from_secs(30), || match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => !self.cluster.runs(&self.postmaster),
        });
        if gone { Ok(()) } else { Err(EmbeddedError::StopTimedOut { pid: self.postmaster.pid }) }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            tracing::warn!(%error, "the private PostgreSQL was left running");
        }
    }
}

/// `$TASKER_DATA_DIR`, else `tasker/postgres` in `$XDG_DATA_HOME` or `~/.local/share`; for root `/var/lib/tasker`,
/// because the user that runs the server cannot enter root's home.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(chosen) = folder("TASKER_DATA_DIR") {
        return chosen;
    }
    if owner::is_root() {
        return PathBuf::from("/var/lib/tasker/postgres");
    }
    folder("XDG_DATA_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(std::env::temp_dir)
        .join("tasker/postgres")
}

/// The user of this process as a short word for file names: its number.
pub(crate) fn user_name() -> String {
    owner::user_id().map_or_else(|| "unknown".to_owned(), |id| id.to_string())
}

struct Started {
    postmaster: Postmaster,
    alive: File,
    child: Child,
}

/// Starts until it works: a port may be taken between our look and the server's, and after a crash the old server's
/// last process may need a moment to let go of its shared memory.
fn start_server(
    cluster: &Cluster,
    binaries: &Binaries,
    options: &Options,
    deadline: Instant,
) -> Result<Started, EmbeddedError> {
    let mut tries = 0;
    loop {
        match start_once(cluster, binaries, options, deadline) {
            Err(EmbeddedError::StartFailed { log, .. }) if tries < 20 && cluster::is_passing(&log) => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            result => return result,
        }
    }
}

fn start_once(
    cluster: &Cluster,
    binaries: &Binaries,
    options: &Options,
    deadline: Instant,
) -> Result<Started, EmbeddedError> {
    cluster.disown_stale_pid()?;
    let port = options.port.map_or_else(free_port, Ok)?;
    let socket_dir = cluster.make_socket_dir()?;
    let (alive, read_end) = cluster.make_fifo()?;
    let (log, log_again) = cluster.new_log()?;
    let mut command = Command::new("sh");
    command.args(["-c", include_str!("embedded/watch.sh"), "tasker-postgres"]);
    command.arg(cluster.root()).arg(&socket_dir).arg(options.linger.as_millis().div_ceil(100).to_string());
    command.arg(binaries.program("postgres")).arg("-D").arg(cluster.data()).args(arguments(options, port, &socket_dir));
    cluster.owner().run_as(&mut command);
    command.stdin(Stdio::from(read_end)).stdout(Stdio::from(log)).stderr(Stdio::from(log_again));
    let mut child = command.spawn().map_err(error::io("start", binaries.program("postgres")))?;
    let mut ready = None;
    let ended = wait_until(deadline, || {
        ready = cluster.ready_postmaster().filter(|postmaster| postmaster.pid == child.id());
        ready.is_some() || !matches!(child.try_wait(), Ok(None))
    });
    if let Some(postmaster) = ready {
        return Ok(Started { postmaster, alive, child });
    }
    drop(std::fs::remove_dir(&socket_dir));
    let log_path = cluster.log_path();
    if ended {
        return Err(EmbeddedError::StartFailed { log: cluster.log_tail(), log_path });
    }
    // The watcher stops the server when `alive` closes; this process need not reap it to go on.
    Err(EmbeddedError::StartTimedOut { limit: options.start_limit, log_path })
}

/// The settings are durable and named here only where the server's default would be wrong for us.
fn arguments(options: &Options, port: u16, socket_dir: &Path) -> Vec<String> {
    let built_in = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", socket_dir.display().to_string()),
        ("fsync", "on".to_owned()),
        ("synchronous_commit", "on".to_owned()),
        ("shared_buffers", "256MB".to_owned()),
        // A server, a worker and some tests at once; an unused one costs nothing.
        ("max_connections", "200".to_owned()),
        // Fewer checkpoints under load; each one makes every page write itself to the log in full again.
        ("max_wal_size", "2GB".to_owned()),
        // The statements are short: compiling one takes longer than running it.
        ("jit", "off".to_owned()),
    ];
    let given = options.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    built_in.into_iter().chain(given).flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

fn free_port() -> Result<u16, EmbeddedError> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(error::io("find a free port on", "127.0.0.1"))
}

/// Looks every few milliseconds: a process's end and a file's arrival have no signal that works everywhere.
fn wait_until(deadline: Instant, mut is_so: impl FnMut() -> bool) -> bool {
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
