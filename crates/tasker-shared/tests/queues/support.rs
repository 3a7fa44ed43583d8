//! A database per test.

use pgmq_notify::{QueueName, create_queues, install};
use sqlx::PgPool;
use tasker_shared::testing::TestDatabase;

/// Runs a test on an empty database of its own, with connections as sqlx makes them.
pub(crate) async fn on_empty_database(test: impl AsyncFnOnce(PgPool)) {
    let database = TestDatabase::empty().await;
    let pool = PgPool::connect(&database.url).await.unwrap();
    test(pool.clone()).await;
    pool.close().await;
}

/// The same with PGMQ, the functions and the queues `a` and `b`.
pub(crate) async fn on_database(test: impl AsyncFnOnce(PgPool)) {
    on_empty_database(async |pool| {
        install(&pool).await.unwrap();
        let mut conn = pool.acquire().await.unwrap();
        assert_eq!(create_queues(&mut conn, &[queue("a"), queue("b")]).await.unwrap(), 2);
        drop(conn);
        test(pool).await;
    })
    .await;
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}
