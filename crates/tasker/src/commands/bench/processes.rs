//! A server and a worker as processes of their own, for measuring the queue path.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tasker_client::Client;
use tasker_client::types::RegisterRequest;
use tasker_lifecycle::template::Template;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::workload::NAMESPACE;
use crate::failure::Failure;
use crate::languages::Folder;

/// How long a process may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Which processes were started.
#[derive(Debug)]
pub(crate) struct Processes {
    /// The server's address.
    pub(crate) address: String,
    /// The server's process id.
    pub(crate) server: u32,
    /// The worker's process id.
    pub(crate) worker: Option<u32>,
}

/// The running processes, the server first. Dropping them kills them.
#[derive(Debug)]
pub(crate) struct Children(Vec<Child>);

impl Processes {
    /// Starts a server, registers the template, and starts a worker if one is wanted, in another language where its folder is
    /// named.
    pub(crate) async fn start(
        url: &str,
        template: Template,
        worker: bool,
        other: Option<&Folder>,
    ) -> Result<(Self, Children), Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        drop(listener);
        let server = child(url, &["server"], &[("TASKER_WEB_BIND_ADDRESS", &address.to_string())])?;
        let address = format!("http://{address}");
        let client = Client::new(&address)?;
        let deadline = Instant::now() + START_LIMIT;
        while client.health().await.is_err() {
            if Instant::now() > deadline {
                return Err(Failure::Failed("the server process did not become ready".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let content = serde_json::value::to_raw_value(&template.to_json()).expect("JSON always encodes");
        client.register_template(&RegisterRequest::Template(content)).await?;
        let server_id = server.id().unwrap_or_default();
        let mut children = vec![server];
        let mut worker_id = None;
        if worker {
            let folder = other.map(|folder| folder.path.display().to_string()).unwrap_or_default();
            let mut arguments = vec!["worker", "--namespace", NAMESPACE];
            if let Some(folder_of) = other {
                arguments.extend(["--language", folder_of.language.name(), "--handlers", &folder]);
            }
            let worker = child(url, &arguments, &[])?;
            worker_id = worker.id();
            children.push(worker);
        }
        Ok((Self { address, server: server_id, worker: worker_id }, Children(children)))
    }
}

impl Children {
    /// Waits until one of them has ended by itself, without which there is nothing to measure.
    pub(crate) async fn ended(&mut self) -> Failure {
        let ends = self
            .0
            .iter_mut()
            .zip(["server", "worker"])
            .map(|(child, name)| Box::pin(async move { (name, child.wait().await) }));
        let ((name, status), ..) = futures::future::select_all(ends).await;
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Failure::Failed(format!("the {name} process ended: {how}"))
    }

    /// Ends the worker first, then the server.
    pub(crate) async fn stop(mut self) {
        for child in self.0.iter_mut().rev() {
            // A process that is gone already is what is wanted.
            let _gone = child.kill().await;
        }
    }
}

fn child(url: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Child, Failure> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.args(arguments).env("DATABASE_URL", url).env("RUST_LOG", "warn").envs(variables.iter().copied());
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn()?)
}
