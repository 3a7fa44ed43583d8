//! The workers of `tasker dev --worker`.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher};
use tasker_shared::config::Config;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Folder, not_started};
use crate::failure::Failure;

/// Editors write a file in several steps; a worker is started again when they have been quiet for so long.
const QUIET: Duration = Duration::from_millis(300);

/// Between two starts of a worker that ends by itself; each is twice as long as the one before.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What a worker that has ended has to say is waited for so long.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Folders that a worker's own work, or its package manager, writes into.
const NOT_WATCHED: [&str; 6] = ["node_modules", ".venv", "__pycache__", ".git", "target", "vendor"];

/// All of them. Each is a task that ends with the token.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    workers: JoinSet<()>,
    stop: CancellationToken,
}

impl Watched {
    /// Starts a worker for each folder; `settings` are the variables that lead it to the server and its database. Where
    /// they are `told`, what they say is shown. Each takes from the pool of its language too.
    ///
    /// # Errors
    /// Where a folder can't be watched, or the first start of its worker fails at once.
    pub(crate) fn start(
        folders: &[Folder],
        config: &Arc<Config>,
        settings: &[(&str, String)],
        told: bool,
    ) -> Result<Self, Failure> {
        let mut all = Self::default();
        for folder in folders {
            let changed = Arc::new(Notify::new());
            let watcher = watch(&folder.path, Arc::clone(&changed))?;
            let language = folder.language.name().to_owned();
            let pools = [config.worker.pools.clone(), vec![language]].concat().join(",");
            let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
            let worker = One {
                folder: folder.clone(),
                config: Arc::clone(config),
                settings: settings.chain([("TASKER__WORKER__POOLS".to_owned(), pools)]).collect(),
                told,
                changed,
                stop: all.stop.clone(),
            };
            let first = worker.spawn()?;
            all.workers.spawn(async move {
                worker.run(first).await;
                drop(watcher);
            });
        }
        Ok(all)
    }

    /// Stops them, each within the grace that its configuration gives its handlers.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.workers.join_next().await.is_some() {}
    }
}

/// Tells when something below the folder was written, made or removed.
fn watch(folder: &Path, changed: Arc<Notify>) -> Result<impl Watcher + use<>, Failure> {
    let failed = |error: notify::Error| Failure::Failed(format!("{} can't be watched: {error}", folder.display()));
    let root = folder.to_path_buf();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_))
            && event.paths.iter().any(|path| is_watched(path.strip_prefix(&root).unwrap_or(path)))
        {
            changed.notify_one();
        }
    })
    .map_err(failed)?;
    watcher.watch(folder, RecursiveMode::Recursive).map_err(failed)?;
    Ok(watcher)
}

fn is_watched(path: &Path) -> bool {
    !path.components().any(|part| NOT_WATCHED.iter().any(|name| part.as_os_str() == *name))
}

struct One {
    folder: Folder,
    config: Arc<Config>,
    settings: Vec<(String, String)>,
    told: bool,
    changed: Arc<Notify>,
    stop: CancellationToken,
}

/// A worker's process. It stops when its standard input is closed.
struct Running {
    child: Child,
    input: ChildStdin,
    lines: JoinSet<()>,
}

impl One {
    /// Keeps a worker running until it is told to stop.
    async fn run(self, first: Running) {
        let (mut running, mut pause) = (Some(first), PAUSES.0);
        loop {
            if let Some(mut worker) = running.take() {
                tokio::select! {
                    () = self.stop.cancelled() => return self.end(worker).await,
                    () = self.changed() => {
                        self.say("a file changed: starts again");
                        self.end(worker).await;
                        pause = PAUSES.0;
                    }
                    ended = worker.child.wait() => {
                        self.end(worker).await;
                        self.say(&format!("{}; starts again when a file changes, or in {pause:?}", self.said(ended)));
                        if self.waits(&mut pause).await.is_break() {
                            return;
                        }
                    }
                }
            } else if self.waits(&mut pause).await.is_break() {
                return;
            }
            match self.spawn() {
                Ok(started) => running = Some(started),
                Err(failure) => self.say(&failure.to_string()),
            }
        }
    }

    /// Waits for a change or for so long, and longer the next time; breaks off where the worker is not wanted any more.
    async fn waits(&self, pause: &mut Duration) -> ControlFlow<()> {
        tokio::select! {
            () = self.stop.cancelled() => return ControlFlow::Break(()),
            () = self.changed() => *pause = PAUSES.0,
            () = tokio::time::sleep(*pause) => *pause = (*pause * 2).min(PAUSES.1),
        }
        ControlFlow::Continue(())
    }

    /// Waits for a change, and until no other follows.
    async fn changed(&self) {
        self.changed.notified().await;
        while tokio::time::timeout(QUIET, self.changed.notified()).await.is_ok() {}
    }

    fn spawn(&self) -> Result<Running, Failure> {
        let worker = self.folder.command(&self.config);
        let mut command = Command::new("sh");
        command.args(["-c", include_str!("start.sh"), "tasker-worker"]);
        command.arg(worker.get_program()).args(worker.get_args()).current_dir(&self.folder.path);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for us: we stop them. Their group is what is killed where they do not.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| not_started(self.folder.language, &worker, &error))?;
        let (input, mut lines) = (child.stdin.take().expect("it is piped"), JoinSet::new());
        lines.spawn(show(self.folder.language.name(), self.told, child.stdout.take().expect("it is piped")));
        lines.spawn(show(self.folder.language.name(), self.told, child.stderr.take().expect("it is piped")));
        Ok(Running { child, input, lines })
    }

    /// Lets its handlers end, and kills what has not ended then.
    async fn end(&self, mut worker: Running) {
        let group = worker.child.id();
        drop(worker.input);
        let grace = Duration::from_millis(self.config.worker.stop_grace_ms) + Duration::from_secs(2);
        let ended = tokio::time::timeout(grace, worker.child.wait()).await.is_ok();
        if let (false, Some(group)) = (ended, group) {
            self.say("has not ended in time and is killed");
            let killed = Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status().await;
            if let Err(error) = killed {
                self.say(&format!("can't be killed: {error}"));
            }
        }
        // A process that it left behind may hold the other ends.
        let rest = async { while worker.lines.join_next().await.is_some() {} };
        _ = tokio::time::timeout(LAST_LINES, rest).await;
    }

    fn said(&self, ended: std::io::Result<ExitStatus>) -> String {
        match ended {
            // The shell's word for a program that is not there.
            Ok(status) if status.code() == Some(127) => {
                let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
                not_started(self.folder.language, &self.folder.command(&self.config), &missing).to_string()
            }
            Ok(status) => format!("ended ({status})"),
            Err(error) => error.to_string(),
        }
    }

    fn say(&self, text: &str) {
        eprintln!("{}", line(self.folder.language.name(), text));
    }
}

/// Reads the lines of a worker, and shows them where they are to be told.
async fn show(language: &'static str, told: bool, from: impl AsyncRead + Unpin) {
    let mut from = BufReader::new(from);
    let mut bytes = Vec::new();
    // Not `lines`: what is no UTF-8 is shown all the same.
    while from.read_until(b'\n', &mut bytes).await.is_ok_and(|read| read > 0) {
        if told {
            eprintln!("{}", line(language, String::from_utf8_lossy(&bytes).trim_end()));
        }
        bytes.clear();
    }
}

fn line(language: &str, text: &str) -> String {
    format!("{language:>10} | {text}")
}
