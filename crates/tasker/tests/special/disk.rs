//! The disk of PostgreSQL fills up: first it can store no more, then it dies of it. Both times somebody makes room.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tasker_client::Client;
use tasker_client::types::CheckStatus;
use tasker_shared::embedded::{Embedded, Options};

use super::{STORED, scaled, skip};
use crate::support::{self, Shape, World, eventually};

const LIMIT: Duration = Duration::from_mins(2);
const OPEN: &str = "SELECT count(*) FROM tasker.tasks WHERE ended_at IS NULL";

#[tokio::test(flavor = "multi_thread")]
async fn faults_a_full_disk_is_said_and_survived_and_costs_no_task() {
    let Some(disk) = Disk::mounted() else { return skip("a file system of its own needs root") };
    let mut options = Options::new(disk.0.join("cluster"));
    for (name, value) in [("max_wal_size", "64MB"), ("min_wal_size", "32MB"), ("shared_buffers", "16MB")] {
        options.settings.push((name.to_owned(), value.to_owned()));
    }
    let mut postgres = tokio::task::spawn_blocking(|| Embedded::start(options)).await.unwrap().unwrap();
    let mut world = World::new(&postgres.url());
    let (mut server, client) = world.server().await;
    let mut worker = world.worker(None);
    let orders = support::orders(scaled(500), 5, Shape::mixed);
    let submitted = tokio::spawn(support::submit_all(vec![client.clone()], orders));

    world.until(STORED, 300).await;
    disk.fill();
    let said = says(&client, "answers, but refuses to store").await;
    assert!(world.count(OPEN).await > Some(0), "nothing was left to do");
    disk.make_room();
    eventually("the server takes work again", async || status(&client).await == Some(CheckStatus::Healthy)).await;

    let stored = world.count(STORED).await.unwrap();
    world.until(STORED, stored + 200).await;
    disk.fill();
    // The log of PostgreSQL needs another segment, and it can't do without.
    let more_log = "SELECT pg_logical_emit_message(false, 'full', repeat('x', 1000000)), pg_switch_wal()";
    eventually("PostgreSQL dies of its full disk", async || {
        sqlx::query(more_log).execute(&world.pool).await.is_err() && log(&postgres).contains("PANIC")
    })
    .await;
    let died = says(&client, "can't be reached").await;
    assert!(!server.has_ended() && !worker.has_ended(), "a process ended although only the disk was full");
    disk.make_room();
    postgres.crash().unwrap();
    postgres = tokio::task::spawn_blocking(move || postgres.restart().map(|()| postgres)).await.unwrap().unwrap();

    world.answered = submitted.await.unwrap();
    world.all_end(LIMIT).await;
    let seen = world.check(&client).await;
    println!("{} tasks on a disk that was full twice; health said {said:?}, {died:?}: {seen:?}", world.answered.len());
    assert!(!server.has_ended() && !worker.has_ended(), "a process ended although only the disk was full");
    assert_eq!(world.logged("panicked"), 0, "somebody panicked");
    drop((server, worker));
    world.pool.close().await;
    postgres.stop().unwrap();
}

/// Waits until the server says this of its database, and is alive all the same.
async fn says(client: &Client, what: &str) -> String {
    let mut said = String::new();
    eventually(&format!("the server says of its database: {what}"), async || {
        let Ok(health) = client.detailed_health().await else { return false };
        said = health.checks["database"].message.clone().unwrap();
        said == what && health.status == CheckStatus::Unhealthy
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

/// A small file system, gone with the value.
struct Disk(PathBuf);

impl Disk {
    const SIZE: &str = "size=256m";

    fn mounted() -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("tasker-disk-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", Self::SIZE, "tmpfs"]).arg(&folder).output();
        if mount.is_ok_and(|done| done.status.success()) {
            return Some(Self(folder));
        }
        std::fs::remove_dir(folder).unwrap();
        None
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        let block = vec![0; 1 << 20];
        let mut size = block.len();
        while size > 0 {
            if file.write(&block[..size]).is_err() {
                size /= 2;
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn unmount(folder: &Path) {
    // Lazily: a process that was killed may still have a file open there.
    let _gone = Command::new("umount").arg("-l").arg(folder).status();
    let _removed = std::fs::remove_dir(folder);
}
