//! The database's clock jumps. libfaketime stands between PostgreSQL and the clock of the machine.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tasker_client::Client;
use tasker_client::types::{RegisterRequest, TaskRequest};
use tasker_shared::embedded::{Binaries, Embedded, Options};

use super::{STORED, scaled, skip};
use crate::support::{self, Shape, World};

const LIMIT: Duration = Duration::from_mins(2);
/// What the database's clock is set off by, one after the other: an hour forward and back, and back and forward.
const OFFSETS: [i64; 4] = [3_600, 0, -3_600, 0];
/// A retry that is kept in the table of due times. It comes because an hour passes at once.
const DUE: &str = "{name: apart_due, namespace_name: faults, version: 1.0.0, steps: [{name: only,
    handler: {callable: faults.Probe, initialization: {fail_attempts: 1}},
    publishes_events: [{name: attempted, condition: always}],
    retry: {max_attempts: 15, backoff: linear, backoff_base_ms: 1800000, max_backoff_ms: 1800000}}]}";

/// With each jump a worker dies, so that leases are left behind whose times have moved.
#[tokio::test(flavor = "multi_thread")]
async fn faults_a_clock_that_jumps_by_an_hour_loses_nothing_and_holds_nobody_up() {
    let Some(library) = libfaketime() else { return skip("libfaketime is not installed") };
    let folder = std::env::temp_dir().join(format!("tasker-clock-{:016x}", rand::random::<u64>()));
    let clock = Clock::behind(&folder, &library);
    let options = Options { binaries: Some(folder.join("bin")), ..Options::new(folder.join("cluster")) };
    let postgres = tokio::task::spawn_blocking(|| Embedded::start(options)).await.unwrap().unwrap();
    let mut world = World::new(&postgres.url());
    world.clock_jumps = true;
    world.set("TASKER__QUEUE__MAX_LEASE_MS", "3000");
    let (server, client) = world.server().await;
    let mut worker = world.worker(None);
    late_retry(&world, &client).await;
    let orders = support::orders(scaled(400), 10, Shape::mixed);
    let submitted = tokio::spawn(support::submit_all(vec![client.clone()], orders));
    for (at, offset) in (1..).zip(OFFSETS) {
        world.until(STORED, at * 250).await;
        let held = world.count("SELECT count(*) FROM pgmq.q_worker_faults_queue WHERE read_ct > 0").await.unwrap();
        worker.kill();
        clock.set(offset);
        let there: f64 = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::double precision")
            .fetch_one(&world.pool)
            .await
            .unwrap();
        let ahead = there - chrono::Utc::now().timestamp_millis() as f64 / 1e3;
        assert!((ahead - offset as f64).abs() < 10.0, "the database's clock is {ahead} s ahead instead of {offset}");
        println!("the clock jumps to {offset:+} s, with {held} claimed tickets");
        worker = world.worker(None);
    }
    world.answered = submitted.await.unwrap();
    world.all_end(LIMIT).await;
    world.until("SELECT count(*) FROM tasker.tasks WHERE name = 'apart_due' AND state = 'complete'", 1).await;
    let seen = world.check(&client).await;
    println!("{} tasks, four jumps of the clock: {seen:?}", world.answered.len());
    assert!(seen.lost > 0, "no lease was left behind: {seen:?}");
    drop((server, worker));
    world.pool.close().await;
    postgres.stop().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

/// A task whose second attempt is due in half an hour.
async fn late_retry(world: &World, client: &Client) {
    client.register_template(&RegisterRequest::Yaml(DUE.to_owned())).await.unwrap();
    client.create_task(&TaskRequest::new("faults", "apart_due")).await.unwrap();
    world.until("SELECT count(*) FROM tasker.due_times", 1).await;
}

/// What sets a server's clock off.
struct Clock(PathBuf);

impl Clock {
    /// Makes `folder/bin`, whose programs see the clock of the machine through the library.
    fn behind(folder: &Path, library: &Path) -> Self {
        let real = Binaries::find(None, None).unwrap();
        let bin = folder.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let clock = Self(folder.join("clock"));
        clock.set(0);
        for name in ["postgres", "initdb"] {
            let script = format!(
                "#!/bin/sh\nexport LD_PRELOAD='{}' FAKETIME_TIMESTAMP_FILE='{}' FAKETIME_NO_CACHE=1\n\
                 export FAKETIME_DONT_FAKE_MONOTONIC=1\nexec '{}' \"$@\"\n",
                library.display(),
                clock.0.display(),
                real.program(name).display(),
            );
            let path = bin.join(name);
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        clock
    }

    /// Seconds ahead of the machine's clock.
    fn set(&self, offset: i64) {
        let next = self.0.with_extension("next");
        std::fs::write(&next, format!("{offset:+}\n")).unwrap();
        // At once: a reader sees the one or the other.
        std::fs::rename(next, &self.0).unwrap();
    }
}

fn libfaketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut found = folders.chain([PathBuf::from("/usr/lib"), PathBuf::from("/usr/local/lib")]);
    found.find_map(|folder| Some(folder.join("faketime/libfaketime.so.1")).filter(|library| library.exists()))
}
