//! The test databases: apart from each other, gone after a success, kept after a failure.

#![allow(clippy::unwrap_used, reason = "tests")]

use sqlx::{Connection, PgConnection, PgPool};
use tasker_shared::testing::TestDatabase;

async fn tables(pool: &PgPool) -> i64 {
    let counted = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname IN ('tasker', 'public')");
    counted.fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn each_test_has_the_migrated_tables_to_itself() {
    let (one, other) = tokio::join!(TestDatabase::create(), TestDatabase::create());
    let before = tables(&other.pool).await;
    assert!(before > 0, "nothing was migrated");
    sqlx::query("CREATE TABLE public.mine ()").execute(&one.pool).await.unwrap();
    assert_eq!(tables(&one.pool).await, before + 1);
    assert_eq!(tables(&other.pool).await, before);
}

#[tokio::test]
async fn an_empty_one_has_no_tables() {
    let database = TestDatabase::empty().await;
    assert_eq!(tables(&database.pool).await, 0);
}

#[tokio::test]
async fn it_is_dropped_after_a_success_although_connections_are_open() {
    let database = TestDatabase::empty().await;
    let url = database.url.clone();
    let mut open = PgConnection::connect(&url).await.unwrap();
    drop(database);
    assert!(open.ping().await.is_err());
    assert!(PgConnection::connect(&url).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_after_a_failure() {
    let database = TestDatabase::empty().await;
    let url = database.url.clone();
    let failed = tokio::spawn(async move {
        let _database = database;
        panic!("as a failing test would");
    });
    assert!(failed.await.unwrap_err().is_panic());
    let mut kept = PgConnection::connect(&url).await.unwrap();
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut kept).await.unwrap();
    kept.close().await.unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    let mut admin = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    sqlx::raw_sql(&format!("DROP DATABASE {name}")).execute(&mut admin).await.unwrap();
}
