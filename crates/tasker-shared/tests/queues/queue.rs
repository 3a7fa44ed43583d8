//! Sending, reading, popping and looking after queues.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{on_database, queue};
use pgmq_notify::{
    Error, IdBlocks, Outgoing, QueueName, archive, clamp_vt, create_queues, depth, next_vt_ms, pop, read, reserve_ids,
    send,
};
use sqlx::{Connection, PgConnection};

const LEASE: Duration = Duration::from_secs(60);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

async fn outgoing(conn: &mut PgConnection, queue: &QueueName, n: u32) -> Vec<Outgoing> {
    let ids = reserve_ids(conn, queue, n).await.unwrap();
    ids.into_iter().map(|id| Outgoing::new(queue.clone(), id, format!("{{\"n\": {id}}}"))).collect()
}

async fn sent(conn: &mut PgConnection, queue: &QueueName, n: u32) -> Vec<i64> {
    let messages = outgoing(conn, queue, n).await;
    send(conn, &messages).await.unwrap();
    messages.into_iter().map(|message| message.msg_id).collect()
}

#[tokio::test]
async fn concurrent_readers_never_get_the_same_message_and_miss_none() {
    on_database(async |pool| {
        let ids = sent(&mut pool.acquire().await.unwrap(), &queue("a"), 1000).await;
        let reader = async || {
            let mut conn = pool.acquire().await.unwrap();
            let mut got = Vec::new();
            loop {
                let claimed = read(&mut conn, &[queue("a")], LEASE, 7).await.unwrap();
                if claimed.is_empty() {
                    return got;
                }
                got.extend(claimed.into_iter().map(|message| message.msg_id));
            }
        };
        let (one, two, three) = tokio::join!(reader(), reader(), reader());
        let mut all: Vec<i64> = [one, two, three].concat();
        all.sort_unstable();
        assert_eq!(all, ids);
    })
    .await;
}

#[tokio::test]
async fn messages_come_in_the_order_sent_with_their_bodies() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let mut ids = sent(&mut conn, &queue("a"), 30).await;
        ids.extend(sent(&mut conn, &queue("a"), 30).await);
        let mut got = Vec::new();
        for qty in [1, 39, 20] {
            for message in read(&mut conn, &[queue("a")], LEASE, qty).await.unwrap() {
                assert_eq!(message.body, format!("{{\"n\": {}}}", message.msg_id));
                assert!(message.vt > message.enqueued_at);
                got.push(message.msg_id);
            }
        }
        assert_eq!(got, ids);
    })
    .await;
}

#[tokio::test]
async fn a_read_stops_at_its_quantity_over_all_queues() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        sent(&mut conn, &queue("a"), 3).await;
        sent(&mut conn, &queue("b"), 3).await;
        let got = read(&mut conn, &[queue("b"), queue("a")], LEASE, 4).await.unwrap();
        assert_eq!(got.iter().map(|m| m.queue.as_str()).collect::<String>(), "bbba");
    })
    .await;
}

#[tokio::test]
async fn a_pop_in_a_transaction_that_fails_gives_the_messages_back() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let ids = sent(&mut conn, &queue("a"), 3).await;
        let mut tx = conn.begin().await.unwrap();
        assert_eq!(pop(&mut tx, &queue("a"), 2).await.unwrap().len(), 2);
        // Another one gets what is not locked meanwhile, and nothing of what is.
        let mut other = pool.acquire().await.unwrap();
        let mut looking = other.begin().await.unwrap();
        let rest = pop(&mut looking, &queue("a"), 10).await.unwrap();
        assert_eq!(rest.iter().map(|message| message.msg_id).collect::<Vec<_>>(), [ids[2]]);
        looking.rollback().await.unwrap();
        tx.rollback().await.unwrap();
        let again = pop(&mut conn, &queue("a"), 10).await.unwrap();
        assert_eq!(again.iter().map(|message| message.msg_id).collect::<Vec<_>>(), ids);
        assert!(again.iter().all(|message| message.read_ct == 0));
        assert!(pop(&mut conn, &queue("a"), 10).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_became_visible_since_the_transaction_began_is_due_now() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        assert_eq!(next_vt_ms(&mut conn, &[queue("a")]).await.unwrap(), None);
        let mut tx = conn.begin().await.unwrap();
        assert!(read(&mut tx, &[queue("a")], LEASE, 1).await.unwrap().is_empty());
        let mut other = pool.acquire().await.unwrap();
        sent(&mut other, &queue("a"), 1).await;
        assert_eq!(next_vt_ms(&mut tx, &[queue("a")]).await.unwrap(), Some(0));
        tx.commit().await.unwrap();
        // A later transaction could have read it, and is told only of what it could not.
        assert_eq!(next_vt_ms(&mut conn, &[queue("a")]).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn hidden_messages_are_counted_apart_and_clamped_by_their_kind() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let mut messages = outgoing(&mut conn, &queue("a"), 6).await;
        messages[1] = messages[1].clone().claimed(secs(100));
        messages[2] = messages[2].clone().delayed(secs(100));
        // What a clock that jumped back by an hour leaves behind.
        messages[3] = messages[3].clone().claimed(secs(3700));
        messages[4] = messages[4].clone().delayed(secs(3700));
        send(&mut conn, &messages).await.unwrap();
        let later = "UPDATE pgmq.q_a SET enqueued_at = enqueued_at + interval '1 hour', vt = vt + interval '1 hour'
                     WHERE msg_id = $1";
        sqlx::query(later).bind(messages[5].msg_id).execute(&mut *conn).await.unwrap();

        let before = depth(&mut conn, &[queue("b"), queue("a")]).await.unwrap();
        assert_eq!(before.iter().map(|d| (d.visible, d.hidden)).collect::<Vec<_>>(), [(0, 0), (1, 5)]);
        assert_eq!(before[0].oldest, None);
        assert!(before[1].oldest.is_some_and(|age| age < secs(10)));

        assert_eq!(clamp_vt(&mut conn, &[queue("a")], secs(600), secs(200)).await.unwrap(), 3);
        assert_eq!(clamp_vt(&mut conn, &[queue("a")], secs(600), secs(200)).await.unwrap(), 0);
        let got = read(&mut conn, &[queue("a")], secs(1000), 10).await.unwrap();
        let expected = [&messages[0], &messages[3], &messages[5]].map(|message| message.msg_id);
        assert_eq!(got.iter().map(|message| message.msg_id).collect::<Vec<_>>(), expected);
        let waiting: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT msg_id, round(extract(epoch FROM vt - clock_timestamp()) / 100)::bigint FROM pgmq.q_a
            WHERE read_ct = 0",
        )
        .fetch_all(&mut *conn)
        .await
        .unwrap();
        assert_eq!(
            waiting.into_iter().collect::<BTreeSet<_>>(),
            [(messages[2].msg_id, 1), (messages[4].msg_id, 2)].into_iter().collect()
        );
    })
    .await;
}

#[tokio::test]
async fn counting_stops_at_its_bound() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        sqlx::query("INSERT INTO pgmq.q_a (vt, message) SELECT clock_timestamp(), '{}' FROM generate_series(1, 10001)")
            .execute(&mut *conn)
            .await
            .unwrap();
        assert_eq!(depth(&mut conn, &[queue("a")]).await.unwrap()[0].visible, 10_000);
    })
    .await;
}

#[tokio::test]
async fn archived_messages_keep_their_content_and_tell_the_reason() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let ids = sent(&mut conn, &queue("a"), 3).await;
        read(&mut conn, &[queue("a")], LEASE, 1).await.unwrap();
        let named = [ids[0], ids[1], ids[1], -7];
        assert_eq!(archive(&mut conn, &queue("a"), &named, "stranger").await.unwrap(), 2);
        let archived: Vec<(i64, i32, bool, String, String)> = sqlx::query_as(
            "SELECT msg_id, read_ct, last_read_at IS NOT NULL, message::text, headers->>'reason' FROM pgmq.a_a
            ORDER BY msg_id",
        )
        .fetch_all(&mut *conn)
        .await
        .unwrap();
        let row = |id: i64, read_ct: i32| (id, read_ct, read_ct > 0, format!("{{\"n\": {id}}}"), "stranger".to_owned());
        assert_eq!(archived, [row(ids[0], 1), row(ids[1], 0)]);
        assert_eq!(depth(&mut conn, &[queue("a")]).await.unwrap()[0].visible, 1);
    })
    .await;
}

#[tokio::test]
async fn no_operation_scans_a_whole_queue_that_was_never_analysed() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        for n in [1, 2000] {
            sent(&mut tx, &queue("a"), n).await;
            let claimed = read(&mut tx, &[queue("a")], LEASE, 1000).await.unwrap();
            let tokens: Vec<_> = claimed.iter().map(|message| message.token(uuid::Uuid::nil())).collect();
            pgmq_notify::extend_fenced(&mut tx, &tokens, LEASE).await.unwrap();
            pgmq_notify::release_fenced(&mut tx, &tokens, LEASE).await.unwrap();
            pgmq_notify::delete_fenced(&mut tx, &tokens).await.unwrap();
            pgmq_notify::delete_any(&mut tx, &tokens).await.unwrap();
            archive(&mut tx, &queue("a"), &[claimed[0].msg_id], "test").await.unwrap();
            next_vt_ms(&mut tx, &[queue("a")]).await.unwrap();
            depth(&mut tx, &[queue("a")]).await.unwrap();
            clamp_vt(&mut tx, &[queue("a")], LEASE, LEASE).await.unwrap();
            pop(&mut tx, &queue("a"), 10).await.unwrap();
        }
        let (table, indexes): (i64, i64) = sqlx::query_as(
            "SELECT pg_stat_get_xact_numscans('pgmq.q_a'::regclass), pg_stat_get_xact_numscans('pgmq.q_a_pkey'::regclass)",
        )
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        assert_eq!(table, 0, "scans of the whole table");
        assert!(indexes > 0, "the counters count");
    })
    .await;
}

#[tokio::test]
async fn ids_come_in_blocks_and_never_twice() {
    on_database(async |pool| {
        let blocks = IdBlocks::default();
        let taker = async |sizes: &[u32]| {
            let mut conn = pool.acquire().await.unwrap();
            let mut got = Vec::new();
            for &n in sizes {
                let ids = blocks.take(&mut conn, &queue("a"), n).await.unwrap();
                assert_eq!(ids.len(), n as usize);
                got.extend(ids);
            }
            got
        };
        let (one, other) = tokio::join!(taker(&[1, 300, 0, 7]), taker(&[100, 100, 100]));
        let all: BTreeSet<i64> = one.iter().chain(&other).copied().collect();
        assert_eq!(all.len(), 608);
        // Next to those in use, at most two blocks are reserved: the rest of a block is used up first.
        let (last,): (i64,) =
            sqlx::query_as("SELECT last_value FROM pgmq.q_a_msg_id_seq").fetch_one(&pool).await.unwrap();
        assert!(last <= 608 + 2 * 256, "{last} ids reserved");
    })
    .await;
}

#[tokio::test]
async fn queues_are_created_once_by_many_at_once() {
    on_database(async |pool| {
        let names = [queue("n"), queue("a"), queue("m")];
        let create = async || create_queues(&mut pool.acquire().await.unwrap(), &names).await.unwrap();
        let (one, two, three) = tokio::join!(create(), create(), create());
        assert_eq!(one + two + three, 2);
        let mut conn = pool.acquire().await.unwrap();
        sent(&mut conn, &queue("m"), 1).await;
        let listed: (i64,) = sqlx::query_as("SELECT count(*) FROM pgmq.meta").fetch_one(&pool).await.unwrap();
        assert_eq!(listed.0, 4);
    })
    .await;
}

#[tokio::test]
async fn errors_say_what_the_caller_can_do() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let missing = read(&mut conn, &[queue("nowhere")], LEASE, 1).await.unwrap_err();
        assert!(matches!(missing, Error::QueueMissing(_)), "{missing:?}");
        let ids = sent(&mut conn, &queue("a"), 1).await;
        let taken = send(&mut conn, &[Outgoing::new(queue("a"), ids[0], "{}".to_owned())]).await.unwrap_err();
        assert!(matches!(taken, Error::Refused(_)) && !taken.is_transient(), "{taken:?}");
        let ended = sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())").execute(&mut *conn).await.unwrap_err();
        assert!(Error::from(ended).is_transient());
    })
    .await;
}
