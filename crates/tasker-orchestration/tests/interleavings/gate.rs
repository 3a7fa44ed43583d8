//! A connection whose statements wait until somebody lets them through: what talks to it is the product as it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, PgPool};
use tasker_shared::store;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// Where the one who uses the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    /// Between two statements, or a statement of his runs.
    Busy,
    /// His next statement waits.
    Gate(String),
    /// He has come to his end.
    End,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    is_shut: AtomicBool,
    passes: Semaphore,
    at: watch::Sender<At>,
}

impl Gate {
    /// A pool of one connection through a gate that stands open, and the process at its other end.
    pub(super) async fn connect(url: &str) -> (Arc<Self>, PgPool, i32) {
        let options: PgConnectOptions = url.parse().unwrap();
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = options.host("127.0.0.1").port(listener.local_addr().unwrap().port()).ssl_mode(PgSslMode::Disable);
        let (is_shut, passes) = (AtomicBool::new(false), Semaphore::new(0));
        let gate = Arc::new(Self { is_shut, passes, at: watch::Sender::new(At::End) });
        let gatekeeper = Arc::clone(&gate);
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(server).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let ((asks, mut hears), (mut answers, receives)) = (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut hears).await });
            // Ends with the connection.
            let _closed = gatekeeper.keep(asks, receives).await;
        });
        let pool = store::connect(here.to_url_lossy().as_str(), 1, std::time::Duration::from_secs(30), 60_000).await;
        let pool = pool.unwrap();
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
        (gate, pool, pid)
    }

    /// From now on statements wait. Dropping what is answered opens the gate, and says that the end has come.
    pub(super) fn shut(self: &Arc<Self>) -> Shut {
        self.at.send_replace(At::Busy);
        self.is_shut.store(true, Ordering::SeqCst);
        Shut(Arc::clone(self))
    }

    pub(super) fn at(&self) -> watch::Receiver<At> {
        self.at.subscribe()
    }

    /// Lets the statement through that waits.
    pub(super) fn pass(&self) {
        self.at.send_replace(At::Busy);
        self.passes.add_permits(1);
    }

    /// Passes on what the client says, statement by statement.
    async fn keep(&self, mut asks: OwnedReadHalf, mut receives: OwnedWriteHalf) -> std::io::Result<()> {
        let length = asks.read_i32().await?;
        let mut first = length.to_be_bytes().to_vec();
        read_on(&mut asks, length, &mut first).await?;
        receives.write_all(&first).await?;
        let mut unit = Unit::default();
        loop {
            let kind = asks.read_u8().await?;
            let length = asks.read_i32().await?;
            let start = unit.bytes.len() + 5;
            unit.bytes.push(kind);
            unit.bytes.extend(length.to_be_bytes());
            read_on(&mut asks, length, &mut unit.bytes).await?;
            unit.heard(kind, start);
            // A unit ends with a Sync, a simple query, or what is said before there are any.
            if matches!(kind, b'S' | b'Q' | b'p') {
                if let Some(statement) = unit.statement.take().filter(|_| self.is_shut.load(Ordering::SeqCst)) {
                    self.at.send_replace(At::Gate(statement));
                    self.passes.acquire().await.expect("never closed").forget();
                }
                receives.write_all(&unit.bytes).await?;
                unit.bytes.clear();
            }
        }
    }
}

/// An unfinished message of the client's.
#[derive(Debug, Default)]
struct Unit {
    bytes: Vec<u8>,
    /// The statements that were prepared, by name.
    prepared: HashMap<Vec<u8>, String>,
    /// What the unit executes. Only preparing a statement changes nothing, nor does BEGIN: under READ COMMITTED each
    /// statement sees what is committed when it begins.
    statement: Option<String>,
}

impl Unit {
    fn heard(&mut self, kind: u8, start: usize) {
        let mut words = self.bytes[start..].split(|byte| *byte == 0);
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match kind {
            b'P' => {
                let text = String::from_utf8_lossy(second).split_whitespace().collect::<Vec<_>>().join(" ");
                self.prepared.insert(first.to_vec(), text);
            }
            b'B' => self.statement = Some(self.prepared.get(second).cloned().unwrap_or_default()),
            b'Q' if !first.starts_with(b"BEGIN") => self.statement = Some(String::from_utf8_lossy(first).into_owned()),
            _ => {}
        }
    }
}

async fn read_on(asks: &mut OwnedReadHalf, length: i32, into: &mut Vec<u8>) -> std::io::Result<()> {
    let start = into.len();
    into.resize(start + usize::try_from(length).unwrap() - 4, 0);
    asks.read_exact(&mut into[start..]).await.map(drop)
}

/// See [`Gate::shut`].
#[derive(Debug)]
pub(super) struct Shut(Arc<Gate>);

impl Drop for Shut {
    fn drop(&mut self) {
        self.0.is_shut.store(false, Ordering::SeqCst);
        self.0.at.send_replace(At::End);
    }
}
