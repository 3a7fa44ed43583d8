//! A database of its own for each test, cloned in some milliseconds from one that is migrated once.
//!
//! The server is the one that TASKER_TEST_DATABASE_URL names (a superuser's URL), else a private PostgreSQL that all
//! test processes of this user share: the first starts it, and it is gone some seconds after the last. It is as
//! durable as in production, because some tests pull its plug.
//!
//! Everything here panics where it fails, because only tests call it.

use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::embedded::{Embedded, Options, user_name};
use crate::store;

/// One makes the template while the others wait for it.
const LOCK_KEY: i64 = 0x7461_736b_7465_7374;

/// The functions that are in the template beside the migrations.
const FUNCTIONS: &str = include_str!("../../pgmq-notify/src/sql/functions.sql");

/// How long the shared server waits for another test process.
const LINGER: Duration = Duration::from_secs(10);

/// Longer than anything that a test waits for, also on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until the answer is yes: for what another process or the database does, and says to nobody.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same database behind a way that can be cut.
pub async fn through_a_proxy(url: &str) -> (String, CancellationToken) {
    let (head, rest) = url.rsplit_once('@').expect("a URL with a user");
    let (address, database) = rest.split_once('/').expect("a URL with a database");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxied = format!("{head}@{}/{database}", listener.local_addr().expect("it is bound"));
    let (address, cut) = (address.to_owned(), CancellationToken::new());
    let token = cut.clone();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = token.cancelled() => return,
            };
            let (mut near, _) = accepted.expect("the listener is open");
            let mut far = TcpStream::connect(&address).await.expect("the test server answers");
            let token = token.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = token.cancelled() => {}
                }
            });
        }
    });
    (proxied, cut)
}

/// A database of its own, dropped with this value; kept, and named on standard error, when the test panicked.
#[derive(Debug)]
pub struct TestDatabase {
    /// Connections as the product makes them.
    pub pool: PgPool,
    /// For whoever connects by himself.
    pub url: String,
    /// Its name.
    pub name: String,
    admin: PgConnectOptions,
}

impl TestDatabase {
    /// One that is migrated: PGMQ, our functions and our tables.
    pub async fn create() -> Self {
        Self::of(Content::Migrated).await
    }

    /// One with nothing in it.
    pub async fn empty() -> Self {
        Self::of(Content::Nothing).await
    }

    async fn of(content: Content) -> Self {
        let admin = server().await;
        let mut conn = PgConnection::connect_with(&admin).await.expect("the test server answers");
        let server_start = server_start(&mut conn).await;
        let template = match content {
            Content::Migrated => migrated_template(&admin, &mut conn, server_start).await,
            Content::Nothing => "template0".to_owned(),
        };
        let name = format!("t_{server_start}_{:016x}", rand::random::<u64>());
        clone(&mut conn, &name, &template).await;
        drop(conn.close().await);
        let url = admin.clone().database(&name).to_url_lossy().to_string();
        let pool = store::connect(&url, 10, Duration::from_secs(30), 60_000).await.expect("the new database answers");
        Self { pool, url, name, admin }
    }
}

enum Content {
    Migrated,
    Nothing,
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let url = &self.url;
            eprintln!("the database of the failed test is kept until the next run: {url}\n{}", how_to_look());
            return;
        }
        let statement = format!(r#"DROP DATABASE IF EXISTS "{}" WITH (FORCE)"#, self.name);
        let admin = self.admin.clone();
        // A thread of its own, because the test's runtime is busy with this very drop.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut conn = PgConnection::connect_with(&admin).await?;
                sqlx::raw_sql(&statement).execute(&mut conn).await?;
                conn.close().await
            })
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("the test database {} was not dropped: {error}", self.name);
        }
    }
}

fn how_to_look() -> String {
    if std::env::var_os("TASKER_TEST_DATABASE_URL").is_some() {
        return String::new();
    }
    let folder = shared_options().data_dir;
    format!("its server: cargo run -p tasker-shared --example private_postgres -- {}", folder.display())
}

/// The server's administrator; starts the shared server where none is named.
async fn server() -> PgConnectOptions {
    static SHARED: OnceCell<Embedded> = OnceCell::const_new();
    let url = match std::env::var("TASKER_TEST_DATABASE_URL") {
        Ok(url) => url,
        Err(_) => SHARED.get_or_init(start_shared).await.url(),
    };
    url.parse().expect("TASKER_TEST_DATABASE_URL is a URL of PostgreSQL")
}

/// Never dropped: the server lives as long as some test process does.
async fn start_shared() -> Embedded {
    let started = tokio::task::spawn_blocking(|| Embedded::start(shared_options())).await;
    match started.expect("a start does not panic") {
        Ok(server) => server,
        Err(error) => panic!("no server for the tests: {error}"),
    }
}

fn shared_options() -> Options {
    // Not below the build folder: that may lie where the user who runs the server for root cannot enter.
    let folder = std::env::temp_dir().join(format!("tasker-tests-{}", user_name()));
    Options { linger: LINGER, ..Options::new(folder) }
}

/// Seconds; part of every name, so that what an earlier run left behind is known by it.
async fn server_start(conn: &mut PgConnection) -> i64 {
    sqlx::query_scalar!(r#"SELECT extract(epoch FROM pg_postmaster_start_time())::bigint AS "start!""#)
        .fetch_one(conn)
        .await
        .expect("the server knows when it started")
}

/// The name of the migrated template, made if need be. Its name holds a hash of what is in it.
async fn migrated_template(admin: &PgConnectOptions, conn: &mut PgConnection, server_start: i64) -> String {
    let mut hash = Sha256::new_with_prefix(FUNCTIONS);
    for migration in sqlx::migrate!().iter() {
        hash.update(&migration.checksum);
    }
    let hash = hash.finalize();
    let name = format!("template_{server_start}_{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
    if exists(conn, &name).await {
        return name;
    }
    sqlx::query!("SELECT pg_advisory_lock($1)", LOCK_KEY).execute(&mut *conn).await.expect("a lock can be awaited");
    if !exists(conn, &name).await {
        drop_what_is_left(conn, server_start).await;
        make_template(admin, conn, &name).await;
    }
    sqlx::query_scalar!("SELECT pg_advisory_unlock($1)", LOCK_KEY)
        .fetch_one(conn)
        .await
        .expect("a lock can be released");
    name
}

async fn exists(conn: &mut PgConnection, name: &str) -> bool {
    sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1) AS "exists!""#, name)
        .fetch_one(conn)
        .await
        .expect("the server knows its databases")
}

/// Made under another name first: a template that exists is complete.
async fn make_template(admin: &PgConnectOptions, conn: &mut PgConnection, name: &str) {
    let unfinished = format!("{name}_unfinished");
    run(conn, &format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
    clone(conn, &unfinished, "template0").await;
    let pool = PgPool::connect_with(admin.clone().database(&unfinished)).await.expect("the template answers");
    if let Err(error) = store::migrate(&pool).await {
        panic!("the migrations fail on an empty database: {error}");
    }
    pool.close().await;
    // A connection that the pool has not let go of would hold the name, and every other test with it.
    sqlx::query!(
        r#"SELECT pg_terminate_backend(pid) AS "terminated!" FROM pg_stat_activity WHERE datname = $1"#,
        unfinished
    )
    .fetch_all(&mut *conn)
    .await
    .expect("connections to the template can be ended");
    run_unused(conn, &format!("ALTER DATABASE {unfinished} RENAME TO {name}")).await;
}

/// Databases of earlier starts of this server. One that is still in use stays.
async fn drop_what_is_left(conn: &mut PgConnection, server_start: i64) {
    let left = sqlx::query_scalar!(
        r#"SELECT datname AS "name!" FROM pg_database
           WHERE datname ~ '^(t|template)_[0-9]+_' AND split_part(datname, '_', 2) <> $1::bigint::text"#,
        server_start
    )
    .fetch_all(&mut *conn)
    .await
    .expect("the server knows its databases");
    for name in left {
        drop(sqlx::raw_sql(&format!(r#"DROP DATABASE IF EXISTS "{name}""#)).execute(&mut *conn).await);
    }
}

async fn clone(conn: &mut PgConnection, name: &str, template: &str) {
    run_unused(conn, &format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")).await;
}

/// Retries while a process that just left, or the autovacuum, still has the database open.
async fn run_unused(conn: &mut PgConnection, statement: &str) {
    for _ in 0..50 {
        match sqlx::raw_sql(statement).execute(&mut *conn).await {
            Ok(_) => return,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55006") => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{statement}: {error}"),
        }
    }
    panic!("{statement}: the database is always in use");
}

async fn run(conn: &mut PgConnection, statement: &str) {
    if let Err(error) = sqlx::raw_sql(statement).execute(conn).await {
        panic!("{statement}: {error}");
    }
}

/// The variable that names workers of languages other than Rust for the tests that run them:
/// `python=COMMAND;ruby=COMMAND`, each a line of the shell to which `--handlers DIR` is added.
pub const WORKERS: &str = "TASKER_WORKERS";

/// Language and command of each such worker, for the handlers in `workers/LANGUAGE/tests/HANDLERS`.
///
/// # Panics
/// Where the variable can't be read.
#[must_use]
pub fn workers_of_other_languages(handlers: &str) -> Vec<(String, String)> {
    let said = std::env::var(WORKERS).unwrap_or_default();
    let workers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workers").canonicalize().expect("a checkout");
    let each = said.split(';').filter(|each| !each.trim().is_empty()).map(|each| {
        let (language, command) =
            each.split_once('=').unwrap_or_else(|| panic!("{WORKERS}: {each} is no NAME=COMMAND"));
        let folder = workers.join(language.trim()).join("tests").join(handlers);
        (language.trim().to_owned(), format!("{} --handlers '{}'", command.trim(), folder.display()))
    });
    each.collect()
}
