//! Claims from several queues that share: by number and by the time that messages have waited.

use std::time::Duration;

use crate::support::{on_database, queue};
use pgmq_notify::{Outgoing, create_queues, reserve_ids, send};
use sqlx::PgConnection;
use tasker_shared::store::claims::{Part, claim};

const LEASE: Duration = Duration::from_secs(60);

async fn sent(conn: &mut PgConnection, name: &str, n: u32) {
    let ids = reserve_ids(conn, &queue(name), n).await.unwrap();
    let messages: Vec<Outgoing> =
        ids.into_iter().map(|id| Outgoing::new(queue(name), id, "{\"n\": 1}".to_owned())).collect();
    send(conn, &messages).await.unwrap();
}

fn part(name: &str, group: i32, waited_ms: u64) -> Part {
    Part { queue: queue(name), group, waited_ms }
}

/// How many of up to `qty` come from each of these queues.
async fn shares<const N: usize>(conn: &mut PgConnection, parts: &[Part], qty: usize, of: [&str; N]) -> [usize; N] {
    let claimed = claim(conn, parts, LEASE, qty).await.unwrap().messages;
    of.map(|name| claimed.iter().filter(|message| message.queue.as_str() == name).count())
}

#[tokio::test]
async fn a_backlog_of_ten_thousand_holds_up_no_neighbour() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        create_queues(&mut conn, &[queue("c"), queue("idle")]).await.unwrap();
        sent(&mut conn, "a", 10_000).await;
        sent(&mut conn, "b", 10_000).await;
        sent(&mut conn, "c", 1).await;
        let parts = ["a", "b", "c", "idle"].map(|name| part(name, 0, 0));
        let names = ["a", "b", "c"];
        assert_eq!(shares(&mut conn, &parts, 64, names).await, [32, 31, 1]);
        assert_eq!(shares(&mut conn, &parts, 64, names).await, [32, 32, 0]);
        assert_eq!(shares(&mut conn, &parts, 3, names).await, [2, 1, 0], "one each, and then the rest");
        // The group that is named first is emptied first.
        sent(&mut conn, "c", 10).await;
        let parts = [part("c", 0, 0), part("a", 1, 0), part("b", 1, 0)];
        assert_eq!(shares(&mut conn, &parts, 20, names).await, [5, 5, 10]);
        assert_eq!(shares(&mut conn, &[], 20, names).await, [0, 0, 0]);
    })
    .await;
}

#[tokio::test]
async fn a_part_for_what_has_waited_takes_nothing_else_and_leases_it_as_long_as_any() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        sent(&mut conn, "a", 5).await;
        let old = "UPDATE pgmq.q_a SET vt = vt - interval '1 minute' WHERE msg_id <= 2";
        sqlx::raw_sql(old).execute(&mut *conn).await.unwrap();
        assert_eq!(shares(&mut conn, &[part("a", 0, 120_000)], 10, ["a"]).await, [0]);
        assert_eq!(shares(&mut conn, &[part("a", 0, 50_000)], 10, ["a"]).await, [2]);
        let hidden = "SELECT count(*) FROM pgmq.q_a WHERE vt BETWEEN clock_timestamp() + interval '30 seconds'
            AND clock_timestamp() + interval '60 seconds' AND msg_id <= 2";
        let hidden: i64 = sqlx::query_scalar(hidden).fetch_one(&mut *conn).await.unwrap();
        assert_eq!(hidden, 2);
        let claimed = claim(&mut conn, &[part("a", 0, 50_000), part("a", 1, 0)], LEASE, 10).await.unwrap();
        assert_eq!(claimed.messages.len(), 3);
        let next = claimed.next_ms.unwrap();
        assert!((30_000..=60_000).contains(&next), "the first of the leases ends next: {next}");
    })
    .await;
}
