//! A database per test.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::{
    env,
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering},
};

use pgmq_notify::{QueueName, create_queues, install};
use sqlx::{Connection, Executor, PgConnection, PgPool, postgres::PgConnectOptions};

/// Runs a test on an empty database of its own. A test that fails leaves it behind, under the name it printed.
pub async fn on_empty_database(test: impl AsyncFnOnce(PgPool)) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let url = ["TASKER_TEST_DATABASE_URL", "DATABASE_URL"]
        .into_iter()
        .find_map(|name| env::var(name).ok())
        .unwrap_or_else(|| "postgres://tasker@127.0.0.1:54329/tasker_dev".to_owned());
    let options = PgConnectOptions::from_str(&url).unwrap();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("pgmq_notify_test_{}_{count}", std::process::id());
    println!("database {name}");
    let mut admin = PgConnection::connect_with(&options).await.unwrap();
    admin.execute(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)").as_str()).await.unwrap();
    admin.execute(format!("CREATE DATABASE {name}").as_str()).await.unwrap();
    let pool = PgPool::connect_with(options.database(&name)).await.unwrap();
    test(pool.clone()).await;
    pool.close().await;
    admin.execute(format!("DROP DATABASE {name} WITH (FORCE)").as_str()).await.unwrap();
}

/// The same with PGMQ, the functions and the queues `a` and `b`.
pub async fn on_database(test: impl AsyncFnOnce(PgPool)) {
    on_empty_database(async |pool| {
        install(&pool).await.unwrap();
        let mut conn = pool.acquire().await.unwrap();
        assert_eq!(create_queues(&mut conn, &[queue("a"), queue("b")]).await.unwrap(), 2);
        drop(conn);
        test(pool).await;
    })
    .await;
}

pub fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}
