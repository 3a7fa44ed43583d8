//! PostgreSQL dies again and again.

use std::time::{Duration, Instant};

use tasker_shared::embedded::{Embedded, Options};

use super::{STORED, SmallDisk, scaled};
use crate::support::{self, Shape, World};

const LIMIT: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn faults_postgres_killed_ten_times_under_load_loses_nothing() {
    let kills = scaled(10);
    let folder = std::env::temp_dir().join(format!("tasker-kills-{:016x}", rand::random::<u64>()));
    // What was written survives the death of a process wherever it is; only a slow disk would make the recoveries long.
    let disk = SmallDisk::mounted(2_048);
    let options = Options::new(disk.as_ref().map_or(&*folder, SmallDisk::path).join("cluster"));
    let mut postgres = tokio::task::spawn_blocking(|| Embedded::start(options)).await.unwrap().unwrap();
    let mut world = World::new(&postgres.url());
    let (server, client) = world.server().await;
    let worker = world.worker(None);
    let began = Instant::now();
    let orders = support::orders(50 * kills, 5, Shape::mixed);
    let submitted = tokio::spawn(support::submit_all(vec![client.clone()], orders));
    for kill in 1..=kills {
        world.until(STORED, i64::try_from(kill).unwrap() * 150).await;
        let open = world.count("SELECT count(*) FROM tasker.tasks WHERE ended_at IS NULL").await.unwrap();
        assert!(open > 0, "nothing was left to do at kill {kill}");
        postgres.crash().unwrap();
        postgres = tokio::task::spawn_blocking(move || postgres.restart().map(|()| postgres)).await.unwrap().unwrap();
    }
    world.answered = submitted.await.unwrap();
    world.all_end(LIMIT).await;
    let seen = world.check(&client).await;
    println!("{kills} kills of PostgreSQL, {} tasks in {:?}: {seen:?}", world.answered.len(), began.elapsed());
    drop((server, worker));
    world.pool.close().await;
    postgres.stop().unwrap();
    if disk.is_none() {
        std::fs::remove_dir_all(folder).unwrap();
    }
}
