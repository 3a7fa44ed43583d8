//! Workers that lost their leases and do not know it yet: whatever they say late is refused.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pgmq_notify::{Extension, Message, QueueName};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tasker_lifecycle::Follows;
use tasker_shared::messages::{Claim, Report, ReportedOutcome, Verdict};
use tasker_shared::store::{checkpoints, from_sql, reports};
use tasker_shared::testing::TestDatabase;

use super::scaled;
use crate::support::{self, Shape, World, eventually};

const QUEUE: &str = "worker_faults_queue";
/// Longer than it takes to claim them all, and to strike once.
const SLEEP_MS: u64 = 2_500;
const LIMIT: Duration = Duration::from_mins(2);

/// A thousand attempts are claimed by a worker that then stands still, and are made again by another. The first claims
/// are used late in every way there is: by a stranger who knows their tokens, while the second claims run and after
/// they were reported, and by the worker itself when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn faults_a_thousand_late_attempts_are_refused_and_kept_and_change_nothing() {
    let attempts = scaled(1_000);
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    for (name, value) in [("CONCURRENCY", attempts), ("CLAIM_BATCH", attempts), ("REPORT_INBOX", 2 * attempts)] {
        world.set(&format!("TASKER__WORKER__{name}"), &value.to_string());
    }
    let (_server, client) = world.server().await;
    let orders = support::orders(attempts, SLEEP_MS, |_| Shape::Single);
    world.submit_orders(std::slice::from_ref(&client), orders).await;
    let paused = world.worker(None);
    let mine = format!("start {}", paused.id());
    eventually("the worker runs all of them", async || world.noted(&mine) == attempts).await;
    paused.pause();
    let late = claims(&world).await;
    assert_eq!(late.len(), attempts, "some were reported before the worker was paused");
    let second = world.worker(None);
    let again = format!("start {}", second.id());
    eventually("another worker runs all of them", async || world.noted(&again) == attempts).await;
    let mut conn = world.pool.acquire().await.unwrap();
    is_refused(&mut conn, &late, "during").await;
    world.all_end(LIMIT).await;
    let before = everything(&mut conn).await;
    is_refused(&mut conn, &late, "after").await;
    paused.resume();
    let refused = |who: &str| format!("SELECT count(*) FROM tasker.discarded_results WHERE worker {who}");
    world.until(&refused("NOT IN ('during', 'after')"), i64::try_from(attempts).unwrap()).await;
    let after = everything(&mut conn).await;
    assert_eq!(before, after, "I4: something that was refused changed something");
    let seen = world.check(&client).await;
    println!("{attempts} late attempts, {} late reports refused and kept: {seen:?}", seen.refused);
    assert_eq!((seen.lost, seen.begun_again), (attempts, attempts));
    assert_eq!(seen.refused, 3 * i64::try_from(attempts).unwrap(), "a late report was not kept, or kept twice");
    let kept = "SELECT count(*) FROM tasker.discarded_results WHERE reason = 'fenced' AND attempt = 1
                  AND outcome = 'success' AND result IS NOT NULL";
    assert_eq!(world.count(kept).await, Some(seen.refused), "a late report was not kept as it was");
}

/// Id, number of claims, when it was sent, when its lease ends, and the body.
type Row = (i64, i32, DateTime<Utc>, DateTime<Utc>, String);

/// The claims as their holder knows them.
async fn claims(world: &World) -> Vec<Claim> {
    let query = format!("SELECT msg_id, read_ct, enqueued_at, vt, message::text FROM pgmq.q_{QUEUE} WHERE read_ct = 1");
    let rows: Vec<Row> = sqlx::query_as(&query).fetch_all(&world.pool).await.unwrap();
    let queue = QueueName::new(QUEUE).unwrap();
    let message = |(msg_id, read_ct, enqueued_at, vt, body)| {
        let message = Message { queue: queue.clone(), msg_id, read_ct, enqueued_at, vt, body };
        Claim::from_message(&message, from_sql(enqueued_at)).unwrap()
    };
    rows.into_iter().map(message).collect()
}

/// Uses lost claims for all that a worker does with a claim.
async fn is_refused(conn: &mut PgConnection, late: &[Claim], who: &str) {
    let lease = Duration::from_secs(60);
    let tokens: Vec<_> = late.iter().map(|claim| claim.token.clone()).collect();
    let extended = pgmq_notify::extend_fenced(conn, &tokens, lease).await.unwrap();
    assert_eq!(extended, vec![Extension::Lost; late.len()], "I4: a late heartbeat was taken ({who})");
    let released = pgmq_notify::release_fenced(conn, &tokens, Duration::ZERO).await.unwrap();
    assert!(released.is_empty(), "I4: a late release was taken ({who}): {released:?}");
    let checkpoint = RawValue::from_string("{\"cursor\": 1}".to_owned()).unwrap();
    for claim in late {
        let stored = checkpoints::store(conn, claim, lease, &checkpoint).await.unwrap();
        assert_eq!(stored, Extension::Lost, "I4: a late checkpoint was stored ({who})");
    }
    let late: Vec<Report> = late.iter().map(|claim| success(claim, who)).collect();
    let completed = reports::complete(conn, &late[0]).await.unwrap();
    assert_eq!(completed, Verdict::Refused, "I4: a late transaction was let through ({who})");
    for batch in late.chunks(500) {
        let verdicts = reports::report(conn, batch).await.unwrap();
        assert_eq!(verdicts, vec![Verdict::Refused; batch.len()], "I4: a late report was taken ({who})");
    }
}

fn success(claim: &Claim, worker: &str) -> Report {
    let result: Arc<RawValue> = RawValue::from_string("{\"late\": true}".to_owned()).unwrap().into();
    let outcome = ReportedOutcome::Success { result, metadata: None, follows: Follows::Nothing };
    let at = claim.claimed_at;
    Report { claim: claim.clone(), outcome, started_at: Some(at), ended_at: at, worker: worker.into(), events: vec![] }
}

/// A fingerprint of all that speaks of tasks.
async fn everything(conn: &mut PgConnection) -> Vec<Option<String>> {
    let mut prints = Vec::new();
    for table in
        ["tasker.tasks", "tasker.attempts", "tasker.history", "tasker.checkpoints", "pgmq.q_faults_domain_events"]
    {
        let query = format!("SELECT md5(string_agg(r::text, '|' ORDER BY r::text)) FROM {table} r");
        prints.push(sqlx::query_scalar(&query).fetch_one(&mut *conn).await.unwrap());
    }
    prints
}
