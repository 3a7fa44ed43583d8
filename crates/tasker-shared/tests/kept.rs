//! Connections that are kept: the same one again, back to a pool that has no other, and from who does not ask any more.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, PgPool};
use tasker_shared::store;
use tasker_shared::store::kept::Kept;
use tasker_shared::testing::{TestDatabase, eventually};

async fn pool(database: &TestDatabase, most: u32) -> PgPool {
    // Less than a connection may lie unused: what comes back only then comes too late for whoever waits.
    store::connect(&database.url, most, Duration::from_millis(900), 0).await.unwrap()
}

/// A place whose connection was used once and is kept, with the process behind it.
async fn kept(pool: &PgPool) -> (Kept, i32) {
    let kept = Kept::new(pool.clone());
    let mut conn = kept.acquire().await.unwrap();
    let process = backend(&mut conn).await;
    conn.keep();
    (kept, process)
}

async fn backend(conn: &mut PgConnection) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(conn).await.unwrap()
}

#[tokio::test]
async fn a_kept_connection_is_used_again_and_not_given_to_others() {
    let database = TestDatabase::empty().await;
    let pool = pool(&database, 3).await;
    let (kept, first) = kept(&pool).await;
    let mut other = pool.acquire().await.unwrap();
    assert_ne!(backend(&mut other).await, first);
    for _ in 0..3 {
        let mut conn = kept.acquire().await.unwrap();
        assert_eq!(backend(&mut conn).await, first);
        conn.keep();
    }
}

#[tokio::test]
async fn an_exhausted_pool_gets_its_connection_back() {
    let database = TestDatabase::empty().await;
    let pool = pool(&database, 2).await;
    let (one, two) = (Kept::new(pool.clone()), Kept::new(pool.clone()));
    let conn = one.acquire().await.unwrap();
    let other = two.acquire().await.unwrap();
    conn.keep();
    other.keep();
    // Both were given back, since neither left the pool another one: so two more users find theirs at once.
    let _both = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
}

#[tokio::test]
async fn what_died_while_it_lay_in_the_pool_is_not_given_away() {
    let database = TestDatabase::empty().await;
    let pool = pool(&database, 2).await;
    let mut both = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let processes = [backend(&mut both[0]).await, backend(&mut both[1]).await];
    drop(both);
    eventually("both are back", async || pool.num_idle() == 2).await;
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    let end = sqlx::query("SELECT pg_terminate_backend(p) FROM unnest($1::int[]) AS p").bind(processes.as_slice());
    end.execute(&mut other).await.unwrap();
    // The pool goes by the machine's clock.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for _ in 0..2 {
        assert!(!processes.contains(&backend(&mut pool.acquire().await.unwrap()).await));
    }
}

#[tokio::test]
async fn a_connection_that_is_dropped_or_whose_place_has_ended_goes_back() {
    let database = TestDatabase::empty().await;
    let pool = pool(&database, 2).await;
    let kept = Kept::new(pool.clone());
    drop(kept.acquire().await.unwrap());
    let conn = kept.acquire().await.unwrap();
    kept.end();
    conn.keep();
    // Nothing is held any more, or this would wait for ever.
    tokio::time::timeout(Duration::from_mins(1), pool.close()).await.unwrap();
    assert!(kept.acquire().await.is_err());
}

#[tokio::test]
async fn who_does_not_ask_any_more_keeps_nothing() {
    let database = TestDatabase::empty().await;
    let pool = pool(&database, 2).await;
    let (kept, _) = kept(&pool).await;
    assert_eq!(pool.num_idle(), 0);
    eventually("the connection is given back", async || pool.num_idle() == 1).await;
    // It is kept again by whoever asks again.
    kept.acquire().await.unwrap().keep();
    assert_eq!(pool.num_idle(), 0);
}

#[test]
fn it_ends_without_a_runtime_too() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (database, ended, dropped) = runtime.block_on(async {
        let database = TestDatabase::empty().await;
        let pool = pool(&database, 4).await;
        let ((ended, _), (dropped, _)) = (kept(&pool).await, kept(&pool).await);
        (database, ended, dropped)
    });
    runtime.shutdown_background();
    ended.end();
    drop(dropped);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { drop(database) });
}

#[tokio::test]
async fn a_connection_that_broke_is_replaced() {
    let database = TestDatabase::empty().await;
    let pool = pool(&database, 3).await;
    let (kept, first) = kept(&pool).await;
    let mut other = pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_terminate_backend($1)").bind(first).execute(&mut *other).await.unwrap();
    let mut conn = kept.acquire().await.unwrap();
    assert!(sqlx::query("SELECT 1").execute(&mut *conn).await.is_err());
    drop(conn);
    let mut conn = kept.acquire().await.unwrap();
    assert_ne!(backend(&mut conn).await, first);
}
