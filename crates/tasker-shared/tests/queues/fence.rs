//! Claims, and what a stale one may not do.

use std::time::Duration;

use crate::support::{on_database, queue};
use pgmq_notify::{
    Extension, Message, Outgoing, QueueName, Token, delete_any, delete_fenced, extend_fenced, next_vt_ms, read,
    release_fenced, reserve_ids, send,
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;

/// The nonce of message number `i`.
fn nonce(i: u128) -> Uuid {
    Uuid::from_u128(i)
}

fn body(i: u128) -> String {
    format!(r#"{{"nonce": "{}", "base_attempt": 3}}"#, nonce(i))
}

async fn sent(conn: &mut PgConnection, queue: &QueueName, i: u128) -> i64 {
    let msg_id = reserve_ids(conn, queue, 1).await.unwrap()[0];
    send(conn, &[Outgoing::new(queue.clone(), msg_id, body(i))]).await.unwrap();
    msg_id
}

async fn claimed(conn: &mut PgConnection, queues: &[QueueName], lease: Duration) -> Vec<Message> {
    read(conn, queues, lease, 100).await.unwrap()
}

fn nonce_of(message: &Message) -> Uuid {
    let body: serde_json::Value = serde_json::from_str(&message.body).unwrap();
    body["nonce"].as_str().unwrap().parse().unwrap()
}

fn tokens(messages: &[Message]) -> Vec<Token> {
    messages.iter().map(|message| message.token(nonce_of(message))).collect()
}

fn attempt(message: &Message) -> i64 {
    let body: serde_json::Value = serde_json::from_str(&message.body).unwrap();
    body["base_attempt"].as_i64().unwrap() + i64::from(message.read_ct)
}

#[tokio::test]
async fn a_delete_with_a_stale_read_ct_or_a_foreign_nonce_deletes_nothing() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        sent(&mut conn, &queue("a"), 1).await;
        // A lease of no length stands for a holder that was paused past its lease.
        let stale = tokens(&claimed(&mut conn, &[queue("a")], NOW).await);
        let current = tokens(&claimed(&mut conn, &[queue("a")], LEASE).await);
        assert_eq!((stale[0].read_ct, current[0].read_ct), (1, 2));

        let foreign = Token { nonce: nonce(2), ..current[0].clone() };
        assert_eq!(delete_fenced(&mut conn, &[stale[0].clone(), foreign]).await.unwrap(), [0_usize; 0]);
        assert_eq!(delete_fenced(&mut conn, &current).await.unwrap(), [0]);
        assert_eq!(delete_fenced(&mut conn, &current).await.unwrap(), [0_usize; 0]);
    })
    .await;
}

#[tokio::test]
async fn a_batch_over_two_queues_says_which_tokens_matched() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        for (name, i) in [("a", 1), ("b", 2), ("a", 3), ("b", 4)] {
            sent(&mut conn, &queue(name), i).await;
        }
        // The queues are read in the order given.
        let claimed = tokens(&claimed(&mut conn, &[queue("b"), queue("a")], LEASE).await);
        assert_eq!(claimed.iter().map(|token| token.nonce).collect::<Vec<_>>(), [2, 4, 1, 3].map(nonce));
        let mut batch = claimed.clone();
        batch[1].read_ct += 1;
        assert_eq!(
            extend_fenced(&mut conn, &batch, LEASE).await.unwrap(),
            [Extension::Extended, Extension::Lost, Extension::Extended, Extension::Extended]
        );
        assert_eq!(delete_fenced(&mut conn, &batch).await.unwrap(), [0, 2, 3]);
        assert_eq!(delete_fenced(&mut conn, &claimed).await.unwrap(), [1]);
    })
    .await;
}

#[tokio::test]
async fn a_release_keeps_the_attempt_number_and_ends_the_token() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let msg_id = sent(&mut conn, &queue("a"), 1).await;
        let first = claimed(&mut conn, &[queue("a")], LEASE).await;
        assert_eq!(attempt(&first[0]), 4);
        assert_eq!(release_fenced(&mut conn, &tokens(&first), NOW).await.unwrap(), [0]);
        // The answer got lost and the release is repeated; then a late report comes.
        assert_eq!(release_fenced(&mut conn, &tokens(&first), NOW).await.unwrap(), [0_usize; 0]);
        assert_eq!(extend_fenced(&mut conn, &tokens(&first), LEASE).await.unwrap(), [Extension::Lost]);
        assert_eq!(delete_fenced(&mut conn, &tokens(&first)).await.unwrap(), [0_usize; 0]);

        let second = claimed(&mut conn, &[queue("a")], NOW).await;
        assert_eq!((second[0].msg_id, attempt(&second[0])), (msg_id, 4));
        // A lease that ran out counts as an attempt.
        assert_eq!(attempt(&claimed(&mut conn, &[queue("a")], LEASE).await[0]), 5);
    })
    .await;
}

#[tokio::test]
async fn a_release_with_a_delay_stays_hidden_that_long() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        sent(&mut conn, &queue("a"), 1).await;
        let first = claimed(&mut conn, &[queue("a")], LEASE).await;
        release_fenced(&mut conn, &tokens(&first), Duration::from_secs(20)).await.unwrap();
        assert!(claimed(&mut conn, &[queue("a")], LEASE).await.is_empty());
        let ms = next_vt_ms(&mut conn, &[queue("a"), queue("b")]).await.unwrap().unwrap();
        assert!((15_000..=20_000).contains(&ms), "{ms}");
    })
    .await;
}

#[tokio::test]
async fn an_extension_says_lost_and_skipped() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        for i in 1..=3 {
            sent(&mut conn, &queue("a"), i).await;
        }
        let held = tokens(&claimed(&mut conn, &[queue("a")], LEASE).await);
        let mut stale = held.clone();
        stale[1].read_ct = 0;

        let mut other = pool.acquire().await.unwrap();
        let mut locking = other.begin().await.unwrap();
        sqlx::query("SELECT FROM pgmq.q_a WHERE msg_id = $1 FOR UPDATE")
            .bind(held[2].msg_id)
            .execute(&mut *locking)
            .await
            .unwrap();
        assert_eq!(
            extend_fenced(&mut conn, &stale, 10 * LEASE).await.unwrap(),
            [Extension::Extended, Extension::Lost, Extension::Skipped]
        );
        locking.rollback().await.unwrap();
        assert_eq!(extend_fenced(&mut conn, &held, 10 * LEASE).await.unwrap(), [Extension::Extended; 3]);
        let ms = next_vt_ms(&mut conn, &[queue("a")]).await.unwrap().unwrap();
        assert!(ms > 590_000, "the leases end in {ms} ms");
    })
    .await;
}

#[tokio::test]
async fn an_expired_lease_that_nobody_took_can_still_be_extended() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        sent(&mut conn, &queue("a"), 1).await;
        let expired = tokens(&claimed(&mut conn, &[queue("a")], NOW).await);
        assert_eq!(extend_fenced(&mut conn, &expired, LEASE).await.unwrap(), [Extension::Extended]);
        assert!(claimed(&mut conn, &[queue("a")], LEASE).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn delete_any_takes_a_claimed_message_from_its_holder() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let msg_id = sent(&mut conn, &queue("a"), 1).await;
        let held = tokens(&claimed(&mut conn, &[queue("a")], LEASE).await);
        let known = Token { queue: queue("a"), msg_id, read_ct: 0, nonce: nonce(1) };
        let foreign = Token { nonce: nonce(2), ..known.clone() };
        assert_eq!(delete_any(&mut conn, &[foreign, known]).await.unwrap(), [1]);
        assert_eq!(extend_fenced(&mut conn, &held, LEASE).await.unwrap(), [Extension::Lost]);
        assert_eq!(delete_fenced(&mut conn, &held).await.unwrap(), [0_usize; 0]);
    })
    .await;
}

#[tokio::test]
async fn a_message_sent_as_claimed_belongs_to_its_sender() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let msg_id = reserve_ids(&mut conn, &queue("a"), 1).await.unwrap()[0];
        let outgoing = Outgoing::new(queue("a"), msg_id, body(1)).claimed(LEASE);
        send(&mut conn, &[outgoing]).await.unwrap();
        assert!(claimed(&mut conn, &[queue("a")], LEASE).await.is_empty());
        let token = Token { queue: queue("a"), msg_id, read_ct: 1, nonce: nonce(1) };
        assert_eq!(delete_fenced(&mut conn, &[token]).await.unwrap(), [0]);
    })
    .await;
}

#[tokio::test]
async fn deletes_in_opposite_orders_do_not_deadlock() {
    on_database(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let ids = reserve_ids(&mut conn, &queue("a"), 500).await.unwrap();
        for _ in 0..10 {
            let batch: Vec<_> = ids.iter().map(|&id| Outgoing::new(queue("a"), id, body(1))).collect();
            send(&mut conn, &batch).await.unwrap();
            let forward: Vec<_> =
                ids.iter().map(|&msg_id| Token { queue: queue("a"), msg_id, read_ct: 0, nonce: nonce(1) }).collect();
            let backward: Vec<_> = forward.iter().rev().cloned().collect();
            let delete = async |tokens: &[Token]| {
                let mut conn = pool.acquire().await.unwrap();
                delete_fenced(&mut conn, tokens).await.unwrap().len()
            };
            let (one, other) = tokio::join!(delete(&forward), delete(&backward));
            assert_eq!(one + other, 500);
        }
    })
    .await;
}
