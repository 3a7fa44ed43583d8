//! Installing into an empty database, a ready one, an old one, and by several at once.

use std::time::Duration;

use crate::support::{on_empty_database, queue};
use pgmq_notify::{Error, Installed, Outgoing, Pgmq, archive, create_queues, install, read, reserve_ids, send};
use sqlx::postgres::PgPoolOptions;

#[tokio::test]
async fn a_second_install_finds_all_in_place() {
    on_empty_database(async |pool| {
        let written = Installed { pgmq: Pgmq::ObjectsCreated, functions_written: true };
        assert_eq!(install(&pool).await.unwrap(), written);
        let found = Installed { pgmq: Pgmq::Objects, functions_written: false };
        assert_eq!(install(&pool).await.unwrap(), found);
    })
    .await;
}

#[tokio::test]
async fn processes_that_start_together_install_once_even_with_one_connection_each() {
    on_empty_database(async |pool| {
        let start = async || {
            let options = pool.connect_options().as_ref().clone();
            let own = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
            install(&own).await.unwrap()
        };
        let (a, b, c, d) = tokio::join!(start(), start(), start(), start());
        let created = [&a, &b, &c, &d].into_iter().filter(|one| one.pgmq == Pgmq::ObjectsCreated).count();
        let written = [&a, &b, &c, &d].into_iter().filter(|one| one.functions_written).count();
        assert_eq!((created, written), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn functions_that_differ_are_replaced_unless_a_newer_version_wrote_them() {
    on_empty_database(async |pool| {
        install(&pool).await.unwrap();
        for (mark, replaced) in [("1:other", true), ("0:older", true), ("not ours", true), ("999999:newer", false)] {
            sqlx::query(&format!("COMMENT ON SCHEMA pgmq_notify IS '{mark}'")).execute(&pool).await.unwrap();
            assert_eq!(install(&pool).await.unwrap().functions_written, replaced, "{mark}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_pgmq_without_last_read_at_is_served() {
    on_empty_database(async |pool| {
        install(&pool).await.unwrap();
        let mut conn = pool.acquire().await.unwrap();
        create_queues(&mut conn, &[queue("a")]).await.unwrap();
        // What PGMQ 1.5 to 1.9 look like to us.
        sqlx::raw_sql(
            "ALTER TYPE pgmq.message_record DROP ATTRIBUTE last_read_at;
            ALTER TABLE pgmq.q_a DROP COLUMN last_read_at; ALTER TABLE pgmq.a_a DROP COLUMN last_read_at;",
        )
        .execute(&mut *conn)
        .await
        .unwrap();
        assert!(install(&pool).await.unwrap().functions_written);
        assert!(!install(&pool).await.unwrap().functions_written);

        let ids = reserve_ids(&mut conn, &queue("a"), 1).await.unwrap();
        send(&mut conn, &[Outgoing::new(queue("a"), ids[0], "{}".to_owned())]).await.unwrap();
        let claimed = read(&mut conn, &[queue("a")], Duration::ZERO, 1).await.unwrap();
        assert_eq!(claimed[0].read_ct, 1);
        assert_eq!(archive(&mut conn, &queue("a"), &ids, "test").await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_pgmq_without_headers_is_refused() {
    on_empty_database(async |pool| {
        install(&pool).await.unwrap();
        sqlx::query("ALTER TYPE pgmq.message_record DROP ATTRIBUTE headers").execute(&pool).await.unwrap();
        assert!(matches!(install(&pool).await, Err(Error::PgmqTooOld { .. })));
    })
    .await;
}
