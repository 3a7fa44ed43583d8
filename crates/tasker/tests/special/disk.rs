//! The disks of PostgreSQL fill up: that of its data, and it can store no more; that of its log, and it dies of it. Both
//! times somebody makes room.

use std::process::Command;
use std::time::Duration;

use tasker_client::Client;
use tasker_client::types::CheckStatus;
use tasker_shared::embedded::{Embedded, Options};

use super::{STORED, SmallDisk, scaled, skip};
use crate::support::{self, Shape, World, eventually};

const LIMIT: Duration = Duration::from_mins(2);
const OPEN: &str = "SELECT count(*) FROM tasker.tasks WHERE ended_at IS NULL";

#[tokio::test(flavor = "multi_thread")]
async fn faults_a_full_disk_is_said_and_survived_and_costs_no_task() {
    let (Some(data), Some(wal)) = (SmallDisk::mounted(256), SmallDisk::mounted(256)) else {
        return skip("a file system of its own needs root");
    };
    let mut postgres = on_two_disks(&data, &wal).await;
    let mut world = World::new(&postgres.url());
    world.set("TASKER__DATABASE__ACQUIRE_TIMEOUT_MS", "1000");
    let (mut server, client) = world.server().await;
    let mut worker = world.worker(None);
    let orders = support::orders(scaled(500), 5, Shape::mixed);
    let submitted = tokio::spawn(support::submit_all(vec![client.clone()], orders));

    world.until(STORED, 300).await;
    data.fill();
    let said = says(&client, "answers, but refuses to store").await;
    assert!(world.count(OPEN).await > Some(0), "nothing was left to do");
    data.make_room();
    eventually("the server takes work again", async || status(&client).await == Some(CheckStatus::Healthy)).await;

    let stored = world.count(STORED).await.unwrap();
    world.until(STORED, stored + 200).await;
    wal.fill();
    // The log of PostgreSQL needs another segment, and it can't do without.
    let more_log = "SELECT pg_logical_emit_message(false, 'full', repeat('x', 1000000)), pg_switch_wal()";
    eventually("PostgreSQL dies of its full disk", async || {
        sqlx::query(more_log).execute(&world.pool).await.is_err() && log(&postgres).contains("PANIC")
    })
    .await;
    let died = says(&client, "can't be reached").await;
    assert!(!server.has_ended() && !worker.has_ended(), "a process ended although only the disk was full");
    wal.make_room();
    postgres.crash().unwrap();
    postgres = tokio::task::spawn_blocking(move || postgres.restart().map(|()| postgres)).await.unwrap().unwrap();

    world.answered = submitted.await.unwrap();
    world.all_end(LIMIT).await;
    let seen = world.check(&client).await;
    println!("{} tasks on two disks that were full; health said {said:?}, {died:?}: {seen:?}", world.answered.len());
    assert!(!server.has_ended() && !worker.has_ended(), "a process ended although only the disk was full");
    assert_eq!(world.logged("panicked"), 0, "somebody panicked");
    drop((server, worker));
    world.pool.close().await;
    postgres.stop().unwrap();
}

/// A server with its data on the one disk, and its log on the other.
async fn on_two_disks(data: &SmallDisk, wal: &SmallDisk) -> Embedded {
    let mut options = Options::new(data.path().join("cluster"));
    for (name, value) in [("max_wal_size", "64MB"), ("min_wal_size", "32MB"), ("shared_buffers", "16MB")] {
        options.settings.push((name.to_owned(), value.to_owned()));
    }
    let here = options.data_dir.join("data/pg_wal");
    let there = wal.path().join("pg_wal");
    let made = tokio::task::spawn_blocking(move || {
        Embedded::start(options.clone())?.stop()?;
        let moved = Command::new("mv").args([&here, &there]).status().unwrap();
        assert!(moved.success(), "the log can't be moved");
        std::os::unix::fs::symlink(there, here).unwrap();
        Embedded::start(options)
    });
    made.await.unwrap().unwrap()
}

/// Waits until the server says this of its database, and is alive all the same.
async fn says(client: &Client, what: &str) -> String {
    let mut said = String::new();
    eventually(&format!("the server says of its database: {what}"), async || {
        let Ok(health) = client.detailed_health().await else { return false };
        said = health.checks["database"].message.clone().unwrap();
        // What follows tells of the breaker, once that has opened.
        said.starts_with(what) && health.status == CheckStatus::Unhealthy
    })
    .await;
    said
}

async fn status(client: &Client) -> Option<CheckStatus> {
    client.health().await.ok().map(|health| health.status)
}

fn log(postgres: &Embedded) -> String {
    std::fs::read_to_string(postgres.log_path()).unwrap()
}
