//! Wake-ups: coalesced, not lost between two waits, back after a broken connection.

use std::time::Duration;

use crate::support::{on_empty_database, queue};
use pgmq_notify::{Channel, Mode, Notifier, Wakeups, Woken};
use sqlx::{PgPool, postgres::PgListener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes: a wait that gets this far has failed.
const LONG: Duration = Duration::from_secs(30);
const NONE: Duration = Duration::ZERO;

fn channel(name: &str) -> Channel {
    Channel::for_queue(&queue(name))
}

/// Runs `body` in the background with the pool's options until `shutdown`.
fn spawn_notifier(pool: &PgPool, notifier: &Notifier, shutdown: &CancellationToken) -> JoinHandle<()> {
    let (options, notifier, shutdown) = (pool.connect_options(), notifier.clone(), shutdown.clone());
    tokio::spawn(async move { notifier.run(&options, shutdown).await })
}

fn spawn_wakeups(pool: &PgPool, wakeups: &Wakeups, shutdown: &CancellationToken) -> JoinHandle<()> {
    let (options, wakeups, shutdown) = (pool.connect_options(), wakeups.clone(), shutdown.clone());
    tokio::spawn(async move { wakeups.run(&options, shutdown).await })
}

async fn terminate(pool: &PgPool, application: &str) -> i64 {
    sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = $1",
    )
    .bind(application)
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_wake_up_between_two_waits_is_kept_and_many_are_one() {
    let wakeups = Wakeups::new(Mode::PollingOnly);
    let mut wake = wakeups.subscribe_all([channel("a"), channel("b")]);
    let mut stranger = wakeups.subscribe(channel("c"));
    for name in ["a", "b", "a"] {
        wakeups.local(&channel(name));
    }
    assert_eq!([wake.wait(NONE).await, wake.wait(NONE).await], [Woken::Signal, Woken::Timeout]);
    assert_eq!(stranger.wait(NONE).await, Woken::Timeout);
    let waiting = tokio::spawn(async move { wake.wait(LONG).await });
    tokio::task::yield_now().await;
    wakeups.local(&channel("b"));
    assert_eq!(waiting.await.unwrap(), Woken::Signal);
}

#[tokio::test]
async fn every_subscriber_of_a_channel_is_woken() {
    let wakeups = Wakeups::new(Mode::Hybrid);
    let mut wakes = [wakeups.subscribe(channel("a")), wakeups.subscribe(channel("a"))];
    drop(wakeups.subscribe(channel("a")));
    wakeups.local(&channel("a"));
    for wake in &mut wakes {
        assert_eq!(wake.wait(NONE).await, Woken::Signal);
    }
}

#[tokio::test]
async fn a_notification_from_another_process_wakes() {
    on_empty_database(async |pool| {
        let shutdown = CancellationToken::new();
        let (notifier, wakeups) = (Notifier::new(Mode::EventDrivenOnly), Wakeups::new(Mode::EventDrivenOnly));
        let mut first = wakeups.subscribe(channel("a"));
        let tasks = [spawn_notifier(&pool, &notifier, &shutdown), spawn_wakeups(&pool, &wakeups, &shutdown)];
        assert_eq!(first.wait(LONG).await, Woken::Signal, "the LISTEN itself wakes");
        // A subscriber that comes later is listened for as well.
        let mut second = wakeups.subscribe(channel("b"));
        assert_eq!(second.wait(LONG).await, Woken::Signal);

        notifier.notify(&channel("a"));
        assert_eq!(first.wait(LONG).await, Woken::Signal);
        notifier.notify(&channel("b"));
        assert_eq!(second.wait(LONG).await, Woken::Signal);
        assert_eq!(first.wait(NONE).await, Woken::Timeout, "b is not a");

        shutdown.cancel();
        for task in tasks {
            task.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_terminated_listen_connection_comes_back_and_wakes_every_subscriber() {
    on_empty_database(async |pool| {
        let shutdown = CancellationToken::new();
        let (notifier, wakeups) = (Notifier::new(Mode::Hybrid), Wakeups::new(Mode::Hybrid));
        let mut wakes = [wakeups.subscribe(channel("a")), wakeups.subscribe(channel("b"))];
        let tasks = [spawn_notifier(&pool, &notifier, &shutdown), spawn_wakeups(&pool, &wakeups, &shutdown)];
        for wake in &mut wakes {
            assert_eq!(wake.wait(LONG).await, Woken::Signal);
        }
        for _ in 0..2 {
            assert_eq!(terminate(&pool, "pgmq_notify listen").await, 1);
            for wake in &mut wakes {
                assert_eq!(wake.wait(LONG).await, Woken::Signal, "rescan after the reconnect");
            }
            notifier.notify(&channel("a"));
            assert_eq!(wakes[0].wait(LONG).await, Woken::Signal, "listening again");
        }
        shutdown.cancel();
        for task in tasks {
            task.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn the_notifier_coalesces_and_survives_a_terminated_connection() {
    on_empty_database(async |pool| {
        let mut listener = PgListener::connect_with(&pool).await.unwrap();
        listener.listen_all(["pgmq_a", "pgmq_b", "pgmq_c"]).await.unwrap();
        let notifier = Notifier::new(Mode::Hybrid);
        for _ in 0..1000 {
            notifier.notify(&channel("a"));
        }
        let shutdown = CancellationToken::new();
        let task = spawn_notifier(&pool, &notifier, &shutdown);
        let mut next = async || {
            let notification = tokio::time::timeout(LONG, listener.recv()).await.unwrap().unwrap();
            assert_eq!(notification.payload(), "");
            notification.channel().to_owned()
        };
        assert_eq!(next().await, "pgmq_a");
        notifier.notify(&channel("b"));
        assert_eq!(next().await, "pgmq_b", "a thousand were one");

        assert_eq!(terminate(&pool, "pgmq_notify send").await, 1);
        notifier.notify(&channel("c"));
        assert_eq!(next().await, "pgmq_c", "sent once the connection was back");
        shutdown.cancel();
        task.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_notifier_that_stops_sends_what_waits() {
    on_empty_database(async |pool| {
        let mut listener = PgListener::connect_with(&pool).await.unwrap();
        listener.listen("pgmq_a").await.unwrap();
        let notifier = Notifier::new(Mode::Hybrid);
        notifier.notify(&channel("a"));
        let stopped = CancellationToken::new();
        stopped.cancel();
        notifier.run(&pool.connect_options(), stopped).await;
        assert!(tokio::time::timeout(LONG, listener.recv()).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn polling_only_sends_nothing_and_listens_to_nothing() {
    on_empty_database(async |pool| {
        let mut listener = PgListener::connect_with(&pool).await.unwrap();
        listener.listen_all(["pgmq_a", "pgmq_b"]).await.unwrap();
        let wakeups = Wakeups::new(Mode::PollingOnly);
        let wake = wakeups.subscribe(channel("a"));
        let shutdown = CancellationToken::new();
        let listening = spawn_wakeups(&pool, &wakeups, &shutdown);
        for (mode, name) in [(Mode::PollingOnly, "a"), (Mode::Hybrid, "b")] {
            let notifier = Notifier::new(mode);
            notifier.notify(&channel(name));
            let stopped = CancellationToken::new();
            stopped.cancel();
            notifier.run(&pool.connect_options(), stopped).await;
        }
        let first = tokio::time::timeout(LONG, listener.recv()).await.unwrap().unwrap();
        assert_eq!(first.channel(), "pgmq_b");
        assert_eq!(terminate(&pool, "pgmq_notify listen").await, 0);
        drop(wake);
        shutdown.cancel();
        listening.await.unwrap();
    })
    .await;
}
