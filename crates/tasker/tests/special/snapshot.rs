//! A session holds a snapshot: no row that was deleted since can be removed, and the queues swell.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tasker_client::Client;
use tasker_shared::testing::TestDatabase;

use super::scaled;
use crate::support::{self, Shape, World, eventually};

const LIMIT: Duration = Duration::from_mins(2);
const QUEUE: &str = "pgmq.q_worker_faults_queue";
/// Rounds of load while the snapshot is held.
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn faults_a_held_snapshot_costs_speed_and_nothing_else() {
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    // A busy machine is no reason to begin anything again.
    world.set("TASKER__QUEUE__LEASE_MS", "20000");
    let (_server, client) = world.server().await;
    let _worker = world.worker(None);
    round(&mut world, &client).await;
    let before = round(&mut world, &client).await;
    let mut holder = PgConnection::connect(&database.url).await.unwrap();
    let hold = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tasker.tasks";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..ROUNDS {
        held.push(round(&mut world, &client).await);
    }
    let kept = dead_after_vacuum(&world).await;
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM tasker.tasks").fetch_one(&mut holder).await.unwrap();
    assert!(seen < i64::try_from(world.answered.len()).unwrap(), "the snapshot was not held");
    assert!(kept > 1_000, "only {kept} dead tickets are kept: the snapshot did not swell the queue");
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    eventually("the queue is emptied", async || dead_after_vacuum(&world).await == 0).await;
    let after = round(&mut world, &client).await;
    println!(
        "steps per second: {before:.0} before, {held:.0?} while a snapshot was held ({kept} dead tickets), {after:.0} \
         after; ratios {:.2} and {:.2}",
        held[ROUNDS - 1] / before,
        after / before
    );
    let seen = world.check(&client).await;
    assert_eq!(seen.lost, 0, "a claim was lost to a slow queue: {seen:?}");
}

/// One round of load; the steps per second.
async fn round(world: &mut World, client: &Client) -> f64 {
    let tasks = scaled(150);
    let began = Instant::now();
    let orders = support::orders(tasks, 0, |_| Shape::Linear4);
    world.submit_orders(std::slice::from_ref(client), orders).await;
    world.all_end(LIMIT).await;
    4.0 * tasks as f64 / began.elapsed().as_secs_f64()
}

/// The dead rows that a vacuum of the ticket queue has to leave where they are.
async fn dead_after_vacuum(world: &World) -> i64 {
    sqlx::raw_sql(&format!("VACUUM {QUEUE}")).execute(&world.pool).await.unwrap();
    let dead = format!("SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = '{QUEUE}'::regclass");
    world.count(&dead).await.unwrap()
}
