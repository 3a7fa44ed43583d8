//! A server or a worker as a process of its own, and what can be done to it.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::eventually;

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// Killed with the value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `tasker ROLE` with these variables and no others of ours; what it says goes to `log`.
    pub(crate) fn start(role: &str, settings: &[(&str, &str)], folder: &Path, log: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
        command.arg(role);
        Self::spawn(command, settings, folder, log)
    }

    /// The same for a line of the shell.
    pub(crate) fn run(line: &str, settings: &[(&str, &str)], folder: &Path, log: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {line}")]);
        Self::spawn(command, settings, folder, log)
    }

    fn spawn(mut command: Command, settings: &[(&str, &str)], folder: &Path, log: &Path) -> Self {
        let log = File::create(log).unwrap();
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("TASKER_") || name.ends_with("DATABASE_URL") {
                command.env_remove(name.as_ref());
            }
        }
        command.current_dir(folder).envs(settings.iter().copied()).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { child }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as the kernel does when memory is short.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(SIGKILL), "it had ended before it was killed: {status}");
    }

    /// Whether it has ended by itself, as a process does whose database is away while it starts.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Holds it wherever it is.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill {signal}");
    }

    /// Waits for it to die at its crash point.
    pub(crate) async fn aborted(mut self, point: &str) {
        let mut ended: Option<ExitStatus> = None;
        eventually(&format!("the process passes {point}"), async || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        assert_eq!(ended.unwrap().signal(), Some(SIGABRT), "at {point}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
