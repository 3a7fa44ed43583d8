//! The folder of a cluster: `data` (PostgreSQL's own), `server.log`, `lock` (one starts at a time), `users` (locked
//! shared by everyone who uses the server), `alive` (the watcher's FIFO), `run` (the watcher's answers).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::binaries::Binaries;
use super::error::{EmbeddedError, io};
use super::owner::Owner;
use super::{GREETING_LIMIT, wait_until};

#[derive(Debug)]
pub(super) struct Cluster {
    root: PathBuf,
    data: PathBuf,
    owner: Owner,
}

/// What `postmaster.pid` says of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) pid: u32,
    pub(super) port: u16,
    pub(super) socket_dir: PathBuf,
    pub(super) is_ready: bool,
}

impl Cluster {
    pub(super) fn open(folder: &Path) -> Result<Self, EmbeddedError> {
        fs::create_dir_all(folder).map_err(io("create", folder))?;
        let root = folder.canonicalize().map_err(io("open", folder))?;
        let data = root.join("data");
        let owner = Owner::find(&data)?;
        if !data.exists() {
            owner.give(&root)?;
        }
        owner.check_reach(&root)?;
        Ok(Self { root, data, owner })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// The major version of the data, if there are any.
    pub(super) fn major(&self) -> Result<Option<(&Path, u32)>, EmbeddedError> {
        let path = self.data.join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(version) => Ok(version.trim().parse().ok().map(|major| (self.data.as_path(), major))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read", &path)(error)),
        }
    }

    /// Waits for the right to start or join; it ends with the file, also when this process dies.
    pub(super) fn lock(&self) -> Result<File, EmbeddedError> {
        let (file, path) = self.lock_file("lock")?;
        file.lock().map_err(io("lock", path))?;
        Ok(file)
    }

    pub(super) fn lock_as_user(&self) -> Result<File, EmbeddedError> {
        let (file, path) = self.lock_file("users")?;
        file.lock_shared().map_err(io("lock", path))?;
        Ok(file)
    }

    fn lock_file(&self, name: &str) -> Result<(File, PathBuf), EmbeddedError> {
        let path = self.root.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io("open", &path))?;
        self.owner.give(&path)?;
        Ok((file, path))
    }

    /// Makes the data, unless they exist. They get their name when they are complete, so that a death on the way
    /// leaves nothing half made.
    pub(super) fn create(&self, binaries: &Binaries) -> Result<(), EmbeddedError> {
        if self.data.join("PG_VERSION").exists() {
            return Ok(());
        }
        let new = self.root.join("data.new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(io("remove", &new))?;
        }
        fs::create_dir(&new).map_err(io("create", &new))?;
        self.owner.give(&new)?;
        let mut initdb = Command::new(binaries.program("initdb"));
        initdb.args(["-A", "trust", "--locale=C", "-E", "UTF8", "-U", "tasker", "-D"]).arg(&new);
        self.run_to_end(initdb, "")?;
        let mut single = Command::new(binaries.program("postgres"));
        single.args(["--single", "-D"]).arg(&new).arg("postgres");
        self.run_to_end(single, "CREATE DATABASE tasker;\n")?;
        fs::rename(&new, &self.data).map_err(io("create", &self.data))?;
        File::open(&self.root).and_then(|folder| folder.sync_all()).map_err(io("write", &self.root))
    }

    fn run_to_end(&self, mut command: Command, input: &str) -> Result<(), EmbeddedError> {
        let failed = |output: String| EmbeddedError::InitFailed { folder: self.root.clone(), output };
        self.owner.run_as(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = Path::new(command.get_program()).to_owned();
        let mut child = command.spawn().map_err(io("run", &program))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ended before it read says why in its output.
            drop(stdin.write_all(input.as_bytes()));
        }
        let output = child.wait_with_output().map_err(io("run", &program))?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // In single-user mode the server ends well also when its statement failed.
        if output.status.success() && !said.contains("ERROR:") { Ok(()) } else { Err(failed(said)) }
    }

    /// Joins a server that runs already. One that nobody answers for is most likely stopping, so its end is awaited;
    /// if it stays for `limit`, something else started it, and it is used as it is.
    pub(super) fn join(&self, limit: Duration) -> Result<Option<(Postmaster, Option<File>)>, EmbeddedError> {
        let deadline = Instant::now() + limit;
        let mut joined = None;
        wait_until(deadline, || {
            let Some(postmaster) = self.live_postmaster() else { return true };
            if postmaster.is_ready {
                joined = self.greet().map(|alive| (postmaster, Some(alive)));
            }
            joined.is_some()
        });
        Ok(joined.or_else(|| self.ready_postmaster().map(|postmaster| (postmaster, None))))
    }

    /// The write end of the watcher's FIFO, if the watcher answers: from then on it waits for us.
    fn greet(&self) -> Option<File> {
        static GREETINGS: AtomicU64 = AtomicU64::new(0);
        let path = self.root.join("alive");
        if !path.metadata().ok()?.file_type().is_fifo() {
            return None;
        }
        let mut alive = OpenOptions::new().read(true).write(true).open(path).ok()?;
        let greeting = format!("{}-{}", std::process::id(), GREETINGS.fetch_add(1, Ordering::Relaxed));
        let answer = self.root.join("run").join(&greeting);
        writeln!(alive, "{greeting}").ok()?;
        let answered = wait_until(Instant::now() + GREETING_LIMIT, || answer.exists());
        // An answer left behind is swept away by the next start.
        drop(fs::remove_file(answer));
        answered.then_some(alive)
    }

    /// A fresh FIFO: the write end that we hold, and the read end for the watcher.
    pub(super) fn make_fifo(&self) -> Result<(File, File), EmbeddedError> {
        let run = self.root.join("run");
        drop(fs::remove_dir_all(&run));
        fs::create_dir(&run).map_err(io("create", &run))?;
        self.owner.give(&run)?;
        let path = self.root.join("alive");
        drop(fs::remove_file(&path));
        let made = Command::new("mkfifo").args(["-m", "600"]).arg(&path).status().map_err(io("create", &path))?;
        if !made.success() {
            return Err(io("create", &path)(std::io::Error::other("mkfifo failed")));
        }
        self.owner.give(&path)?;
        // Opened for both, because opening for writing alone would wait for a reader.
        let alive = OpenOptions::new().read(true).write(true).open(&path).map_err(io("open", &path))?;
        let read_end = File::open(&path).map_err(io("open", &path))?;
        Ok((alive, read_end))
    }

    /// A folder with a short name, because the path of a socket may have about a hundred bytes.
    pub(super) fn make_socket_dir(&self) -> Result<PathBuf, EmbeddedError> {
        let folder = tempfile::Builder::new().prefix("tasker-").tempdir_in("/tmp").map_err(io("use", "/tmp"))?;
        self.owner.give(folder.path())?;
        Ok(folder.keep())
    }

    /// An empty log, in two handles; the one before is kept beside it.
    pub(super) fn new_log(&self) -> Result<(File, File), EmbeddedError> {
        let path = self.log_path();
        // Missing before the first start.
        drop(fs::rename(&path, self.root.join("server.log.1")));
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(io("open", &path))?;
        self.owner.give(&path)?;
        let again = log.try_clone().map_err(io("open", &path))?;
        Ok((log, again))
    }

    pub(super) fn log_tail(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// After a crash `postmaster.pid` names a process that may be a stranger by now, and PostgreSQL would refuse to
    /// start. It takes its parent's id, which is ours, for stale, and still checks that the memory of the dead
    /// server is free; removing the file would skip that check.
    pub(super) fn disown_stale_pid(&self) -> Result<(), EmbeddedError> {
        let path = self.data.join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let Some((_, rest)) = text.split_once('\n') else { return Ok(()) };
        fs::write(&path, format!("{}\n{rest}", std::process::id())).map_err(io("write", &path))
    }

    pub(super) fn ready_postmaster(&self) -> Option<Postmaster> {
        self.live_postmaster().filter(|postmaster| postmaster.is_ready)
    }

    pub(super) fn runs(&self, postmaster: &Postmaster) -> bool {
        self.live_postmaster().is_some_and(|live| live.pid == postmaster.pid)
    }

    /// The server that runs on these data, whatever its state.
    pub(super) fn live_postmaster(&self) -> Option<Postmaster> {
        let postmaster = parse(&fs::read_to_string(self.data.join("postmaster.pid")).ok()?)?;
        let command = command_of(postmaster.pid)?;
        let named = format!("-D {}", self.data.display());
        (command.contains("postgres") && command.contains(&named)).then_some(postmaster)
    }
}

/// Whether a failed start is worth another try: a port taken, or the memory of a dead server not yet let go.
pub(super) fn is_passing(log: &str) -> bool {
    ["Address already in use", "is still in use"].iter().any(|sign| log.contains(sign))
}

/// The lines of `postmaster.pid`: process, data folder, start time, port, socket folder, address, memory, state.
fn parse(text: &str) -> Option<Postmaster> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    Some(Postmaster {
        pid: lines.first()?.parse().ok()?,
        port: lines.get(3).and_then(|port| port.parse().ok()).unwrap_or(0),
        socket_dir: lines.get(4).map(PathBuf::from).unwrap_or_default(),
        is_ready: lines.get(7) == Some(&"ready"),
    })
}

/// The command line of a live process; none for one that is gone or only waits to be reaped.
fn command_of(pid: u32) -> Option<String> {
    let command = if Path::new("/proc/self").exists() {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    } else {
        let shown = Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output().ok()?;
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    Some(command).filter(|command| !command.trim().is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_pid_file_is_ready_only_when_it_says_so() {
        let text = "4711\n/data\n1700000000\n54321\n/tmp/tasker-x\n127.0.0.1\n 123 4\nready   \n";
        let ready = parse(text).unwrap();
        assert_eq!((ready.pid, ready.port, ready.is_ready), (4711, 54321, true));
        assert_eq!(ready.socket_dir, Path::new("/tmp/tasker-x"));
        assert!(!parse(&text.replace("ready   ", "starting")).unwrap().is_ready);
        assert!(!parse("4711\n/data\n").unwrap().is_ready);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_process_that_is_gone_has_no_command() {
        assert!(command_of(std::process::id()).is_some());
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(command_of(child.id()), None);
    }
}
