//! Poison: handlers that nobody should have written, and messages that nobody can read. Each is given up once, with all
//! that is known of it, and what waits beside it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::Value;
use tasker_client::Client;
use tasker_client::types::{RegisterRequest, TaskRequest};
use tasker_shared::testing::TestDatabase;
use uuid::Uuid;

use super::scaled;
use crate::support::{Process, World, eventually};

const TICKETS: &str = "worker_faults_queue";
const RESULTS: &str = "orchestration_step_results";
const REQUESTS: &str = "orchestration_task_requests";

const GIVEN_UP: &str = "SELECT count(*) FROM tasker.dead_letters WHERE step IS NOT NULL AND snapshot IS NOT NULL";

/// How often each poison is asked for.
const OF_EACH: usize = 3;

/// A poison as the probe knows it, why its step is given up, and what the entry says of each attempt: its outcome, and
/// the class of its error.
type Poison = (&'static str, &'static str, &'static [(&'static str, Option<&'static str>)]);

const LOST: (&str, Option<&str>) = ("lost", None);
const UNUSABLE: &[(&str, Option<&str>)] = &[("failure", Some("result_not_serializable"))];
const USED_UP: &[(&str, Option<&str>)] = &[LOST, LOST, LOST, ("lease_lost", None)];

const HARMLESS: &[Poison] = &[
    ("fail", "attempts_exhausted", &[("failure", Some("retryable_error")); 3]),
    ("panic", "permanent_failure", &[("failure", Some("panic"))]),
    ("nan", "permanent_failure", UNUSABLE),
    ("nul", "permanent_failure", UNUSABLE),
    ("deep", "permanent_failure", UNUSABLE),
    ("large", "permanent_failure", UNUSABLE),
];
/// Those that take their worker with them, and the other attempts that it had begun.
const DEADLY: &[Poison] = &[("abort", "lease_lost", USED_UP), ("exit", "lease_lost", USED_UP)];

/// What is no message of ours, wherever it is found.
const RUBBISH: &[&str] = &[
    "{}",
    "null",
    "7",
    "[]",
    "[1, 2]",
    "[[{}], {}, null, {\"task_uuid\": \"01890000-0000-7000-8000-000000000000\", \"step\": 0, \"attempt\": 1}]",
    "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
    "\"text\"",
    "{\"hello\": 1}",
    "{\"task_uuid\": 5, \"step\": [], \"attempt\": {}}",
    "{\"task_uuid\": \"not a uuid\", \"step\": 0, \"attempt\": 1, \"nonce\": 1}",
    "{\"task_uuid\": \"01890000-0000-7000-8000-000000000000\", \"step\": 0, \"attempt\": 1}",
    "{\"task_uuid\": \"01890000-0000-7000-8000-000000000000\", \"step\": 1e9, \"attempt\": 1e99}",
];

#[tokio::test(flavor = "multi_thread")]
async fn faults_poison_is_filed_once_with_every_attempt_and_holds_nobody_up() {
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    let (_server, client) = world.server().await;
    let mut poisoned = ask_for(HARMLESS, &client).await;
    let mut rubbish = throw(&world).await;
    let (mut workers, mut deaths) = (vec![world.worker(None), world.worker(None)], 0);
    restarting(&mut world, &mut workers, &mut deaths, GIVEN_UP, poisoned.len()).await;
    assert_eq!(deaths, 0, "a worker died of what a handler may do");
    let began = Instant::now();
    poisoned.extend(ask_for(DEADLY, &client).await);
    world.submit(std::slice::from_ref(&client), scaled(60), 10).await;
    for (queue, ids) in throw(&world).await {
        rubbish.entry(queue).or_default().extend(ids);
    }
    const OPEN: &str = "SELECT count(*) FROM tasker.tasks WHERE ended_at IS NULL AND name NOT LIKE 'apart%'";
    restarting(&mut world, &mut workers, &mut deaths, OPEN, 0).await;
    let neighbours = began.elapsed();
    restarting(&mut world, &mut workers, &mut deaths, GIVEN_UP, poisoned.len()).await;
    println!("neighbours were done after {neighbours:?}, all poison after {:?}; {deaths} deaths", began.elapsed());
    assert!(deaths >= 3, "a deadly handler kills its worker in each of its attempts: {deaths}");
    every_step_was_filed(&world, &poisoned).await;
    every_message_was_filed(&world, &rubbish).await;
    let seen = world.check(&client).await;
    assert!(seen.lost > 0, "no worker died: {seen:?}");
}

/// Poisoned tasks, by id.
async fn ask_for(poisons: &'static [Poison], client: &Client) -> BTreeMap<Uuid, &'static Poison> {
    let mut poisoned = BTreeMap::new();
    for poison in poisons {
        let way = poison.0;
        let setting = if way == "fail" { "fail_attempts: 99".to_owned() } else { format!("poison: {way}") };
        let template = format!(
            "{{name: apart_{way}, namespace_name: faults, version: 1.0.0, steps: [{{name: only,
              handler: {{callable: faults.Probe, initialization: {{{setting}}}}},
              publishes_events: [{{name: attempted, condition: always}}],
              retry: {{max_attempts: 3, backoff: linear, backoff_base_ms: 20, max_backoff_ms: 100}}}}]}}"
        );
        client.register_template(&RegisterRequest::Yaml(template)).await.unwrap();
        for _ in 0..OF_EACH {
            let task = client.create_task(&TaskRequest::new("faults", format!("apart_{way}"))).await.unwrap();
            poisoned.insert(task.task_uuid, poison);
        }
    }
    poisoned
}

/// Throws all rubbish into all queues; the ids of the messages.
async fn throw(world: &World) -> BTreeMap<&'static str, BTreeSet<i64>> {
    let mut thrown = BTreeMap::new();
    for queue in [TICKETS, RESULTS, REQUESTS] {
        for body in RUBBISH {
            let sent = sqlx::query_scalar("SELECT pgmq.send($1, $2::jsonb)").bind(queue).bind(body);
            let id: i64 = sent.fetch_one(&world.pool).await.unwrap();
            thrown.entry(queue).or_insert_with(BTreeSet::new).insert(id);
        }
    }
    thrown
}

/// Waits until the count is this, and starts a worker for each that has died.
async fn restarting(world: &mut World, workers: &mut [Process], deaths: &mut usize, query: &str, wanted: usize) {
    eventually(query, async || {
        for worker in workers.iter_mut() {
            if worker.has_ended() {
                *deaths += 1;
                *worker = world.worker(None);
            }
        }
        world.count(query).await == Some(i64::try_from(wanted).unwrap())
    })
    .await;
}

/// I14.
async fn every_step_was_filed(world: &World, poisoned: &BTreeMap<Uuid, &'static Poison>) {
    let query = "SELECT task_uuid, reason, snapshot -> 'attempts' FROM tasker.dead_letters WHERE step IS NOT NULL";
    let filed: Vec<(Uuid, String, Value)> = sqlx::query_as(query).fetch_all(&world.pool).await.unwrap();
    assert_eq!(filed.len(), poisoned.len(), "I14: a step has more than one entry");
    for (task, reason, attempts) in &filed {
        let (way, why, expected) = poisoned[task];
        let told = attempts.as_array().unwrap().iter().map(|attempt| {
            assert_eq!(attempt["outcome"] == "failure", attempt["error"]["message"].is_string(), "I14: {attempt}");
            (attempt["outcome"].as_str().unwrap(), attempt["error"]["error_type"].as_str())
        });
        assert_eq!((reason.as_str(), &*told.collect::<Vec<_>>()), (*why, *expected), "I14: {way}: {attempts:#}");
    }
}

/// I15.
async fn every_message_was_filed(world: &World, rubbish: &BTreeMap<&'static str, BTreeSet<i64>>) {
    for queue in [RESULTS, REQUESTS] {
        let query = "SELECT (snapshot ->> 'msg_id')::bigint FROM tasker.dead_letters
                     WHERE step IS NULL AND snapshot ->> 'queue' = $1 ORDER BY 1";
        eventually("I15: what nobody can read is filed", async || {
            let filed: Vec<i64> = sqlx::query_scalar(query).bind(queue).fetch_all(&world.pool).await.unwrap();
            filed == rubbish[queue].iter().copied().collect::<Vec<_>>()
        })
        .await;
    }
    let query = format!("SELECT msg_id FROM pgmq.a_{TICKETS} WHERE headers ->> 'reason' IS NOT NULL ORDER BY 1");
    eventually("I15: what is no ticket is archived", async || {
        let archived: Vec<i64> = sqlx::query_scalar(&query).fetch_all(&world.pool).await.unwrap();
        archived == rubbish[TICKETS].iter().copied().collect::<Vec<_>>()
    })
    .await;
    for queue in [TICKETS, RESULTS, REQUESTS] {
        let left = world.count(&format!("SELECT count(*) FROM pgmq.q_{queue}")).await;
        assert_eq!(left, Some(0), "I15: something is left in {queue}");
    }
}
