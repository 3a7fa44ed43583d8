//! What one process runs: a server, a worker, or both beside each other.

use std::net::SocketAddr;
use std::sync::Arc;

use tasker_orchestration::{Engine, Running};
use tasker_shared::config::Config;
use tasker_shared::signals::Signals;
use tasker_shared::telemetry::Metrics;
use tasker_worker::{HandlerRegistry, RunningWorker, Server, Worker};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::failure::Failure;
use crate::status;

/// A running process.
#[derive(Debug)]
pub(crate) struct Node {
    /// The server's handle, where there is a server.
    pub(crate) engine: Option<Engine>,
    server: Option<Running>,
    worker: Option<RunningWorker>,
    http: Option<(CancellationToken, JoinHandle<std::io::Result<()>>)>,
    metrics: Arc<Metrics>,
    signals: Signals,
}

impl Node {
    /// Starts a server, a worker with these handlers and those of the examples that need the database, or both. Both hand work to each other without a detour.
    pub(crate) async fn start(
        config: Arc<Config>,
        database: &Database,
        server: bool,
        handlers: Option<HandlerRegistry>,
    ) -> Result<Self, Failure> {
        let signals = Signals::start(&config, &database.url, &database.pool).await.map_err(failed)?;
        let metrics = Arc::new(Metrics::new());
        let (wakeups, notifier) = (signals.wakeups.clone(), signals.notifier.clone());
        let pool = database.pool.clone();
        let of_handlers = database.for_handlers()?;
        let worker = handlers.map(|mut handlers| {
            tasker_examples::register_with_database(&mut handlers, &of_handlers);
            let (config, metrics) = (Arc::clone(&config), Arc::clone(&metrics));
            Worker::builder(pool.clone(), config, metrics, wakeups.clone(), notifier.clone()).registry(handlers).build()
        });
        let mut node =
            Self { engine: None, server: None, worker: None, http: None, metrics: Arc::clone(&metrics), signals };
        let mut side = Server::Elsewhere;
        if server {
            let local = worker.as_ref().map(Worker::local);
            let (engine, running, reports) =
                Engine::start(config, pool, metrics, wakeups, notifier, local).await.map_err(failed)?;
            node.engine = Some(engine);
            node.server = Some(running);
            side = Server::Here(reports);
        }
        if let Some(worker) = worker {
            node.worker = Some(worker.start(side).await.map_err(failed)?);
        }
        Ok(node)
    }

    /// Serves what a worker tells about itself; answers with the address.
    pub(crate) async fn serve_status(&mut self, listener: TcpListener) -> Result<SocketAddr, Failure> {
        let address = listener.local_addr()?;
        let worker = self.worker.as_ref().expect("only a node with a worker has a status of its own").status();
        let router = status::router(status::Told { worker, metrics: Arc::clone(&self.metrics) });
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(stopped).into_future());
        self.http = Some((stop, serving));
        Ok(address)
    }

    /// Serves the HTTP API; answers with its address.
    pub(crate) async fn serve(&mut self, listener: TcpListener) -> Result<SocketAddr, Failure> {
        let address = listener.local_addr()?;
        let engine = self.engine.clone().expect("only a node with a server serves");
        let stop = CancellationToken::new();
        let serving = tokio::spawn(tasker_orchestration::http::serve(engine, listener, stop.clone()));
        self.http = Some((stop, serving));
        Ok(address)
    }

    /// The worker learns of queues that were made since it looked last.
    pub(crate) async fn find_queues(&self) -> Result<(), Failure> {
        match &self.worker {
            Some(worker) => worker.find_queues().await.map_err(failed),
            None => Ok(()),
        }
    }

    /// Stops in the order in which nothing is lost: no new requests, then the worker, whose last reports the
    /// server still takes, then the server.
    pub(crate) async fn stop(self) {
        if let Some((stop, serving)) = self.http {
            stop.cancel();
            if let Ok(Err(error)) = serving.await {
                tracing::warn!(%error, "the HTTP server ended badly");
            }
        }
        if let Some(worker) = self.worker {
            worker.stop().await;
        }
        if let Some(server) = self.server {
            server.stop().await;
        }
        self.signals.stop().await;
    }
}

/// Takes the address of the HTTP API. Done before anything is started, so that a port that is taken costs no more
/// than a message.
pub(crate) async fn listen(config: &Config) -> Result<TcpListener, Failure> {
    listen_on(config.web.bind_address, "TASKER_WEB_BIND_ADDRESS").await
}

/// Takes an address that `key` named.
pub(crate) async fn listen_on(address: SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = format!("name another address in {key}, such as 127.0.0.1:0 for any free port");
        Failure::Failed(format!("{address} can't be listened on: {error}; {remedy}"))
    })
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn interrupted() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}
