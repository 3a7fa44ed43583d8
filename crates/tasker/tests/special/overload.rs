//! Ten times more requests at once than a server serves, in little memory: it sheds what it can't take before it asks the
//! database, says when to come again, and keeps every promise that it gave.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use tasker_client::types::TaskResponse;
use tasker_shared::testing::TestDatabase;

use super::scaled;
use crate::support::{self, Order, Process, Shape, World};

const LIMIT: Duration = Duration::from_mins(2);
/// Requests that the server serves at once, and those that wait to become tasks.
const PLACES: usize = 32;
/// What is asked for at once.
const OFFERED: usize = 10 * PLACES;
/// Bytes of each context, so that requests weigh something.
const WEIGHT: usize = 32 * 1_024;
/// Bytes that the server may use. All that is offered at once has a tenth of it, in each form that it takes on its way.
const MEMORY: u64 = 192 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn faults_ten_times_the_load_in_little_memory_is_shed_and_what_was_accepted_completes() {
    let database = TestDatabase::create().await;
    let mut world = World::new(&database.url);
    world.set("TASKER__WEB__MAX_IN_FLIGHT", &PLACES.to_string());
    world.set("TASKER__ACTOR__REQUEST_INBOX", &PLACES.to_string());
    world.set("TASKER__ACTOR__REQUEST_BATCH_MAX", &PLACES.to_string());
    world.set("TASKER__CACHE__SNAPSHOT_BYTES", "16777216");
    let address = support::free_address();
    let (mut server, client) = world.server_at(&address, None).await;
    let group = MemoryGroup::around(&server);
    let _worker = world.worker(None);
    let mut orders = support::orders(scaled(2 * OFFERED), 0, |_| Shape::Single);
    orders.iter_mut().for_each(|order| order.weight = WEIGHT);
    let began = Instant::now();
    let (http, url) = (reqwest::Client::new(), format!("http://{address}/v1/tasks"));
    let asked = orders.into_iter().map(|order| ask(&http, &url, order));
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(OFFERED).collect().await;
    let shed: usize = answers.iter().map(|(.., refusals)| refusals.shed).sum();
    let cut: usize = answers.iter().map(|(.., refusals)| refusals.cut).sum();
    world.answered = answers.into_iter().map(|(order, task, _)| (order, task)).collect();
    let took = began.elapsed();
    world.all_end(LIMIT).await;
    let seen = world.check(&client).await;
    let most = peak(&server);
    let how = group.as_ref().map_or("measured only: no memory group can be made here", |_| "held by the kernel");
    println!(
        "{} tasks accepted, {shed} requests shed and {cut} cut off in {took:?}, at most {} MiB of {} MiB ({how}): {seen:?}",
        world.answered.len(),
        most >> 20,
        MEMORY >> 20
    );
    assert!(!server.has_ended(), "I17: the server did not survive");
    assert!(most < MEMORY, "I17: the server used {most} bytes");
    assert!(cut < shed, "I17: most refusals are not told");
    assert!(shed > OFFERED, "only {shed} requests were shed: that was no overload");
    drop(server);
}

/// How often a request was refused before it was accepted.
#[derive(Default)]
struct Refusals {
    /// With an answer.
    shed: usize,
    /// Without one: a connection whose request was refused unread is closed, and a client that is about to use it again
    /// finds that out by itself.
    cut: usize,
}

/// Asks until the task is accepted.
async fn ask(http: &reqwest::Client, url: &str, order: Order) -> (Order, uuid::Uuid, Refusals) {
    let body = serde_json::to_string(&order.request()).unwrap();
    let deadline = Instant::now() + LIMIT;
    let mut refusals = Refusals::default();
    loop {
        assert!(Instant::now() < deadline, "I1: {} is never accepted", order.key);
        let request = http.post(url).header("content-type", "application/json").body(body.clone());
        let Ok(answer) = request.send().await else {
            refusals.cut += 1;
            continue;
        };
        let status = answer.status().as_u16();
        let again = answer.headers().get("retry-after").map(|after| after.to_str().unwrap().to_owned());
        let Ok(text) = answer.text().await else {
            refusals.cut += 1;
            continue;
        };
        if status == 201 || status == 200 {
            let task: TaskResponse = serde_json::from_str(&text).unwrap();
            return (order, task.task_uuid, refusals);
        }
        assert!(status == 503 || status == 429, "I17: {status}: {text}");
        assert!(text.contains("OVERLOADED"), "I17: not shed at the door: {text}");
        assert!(again.is_some_and(|seconds| seconds.parse::<u32>().unwrap() > 0), "I17: no Retry-After: {text}");
        refusals.shed += 1;
        // Sooner than it was told: this is a rude client.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The most memory that a process has had at once.
fn peak(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

/// A group of processes that the kernel gives no more memory; gone with the value.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// None where this user can't make one.
    fn around(process: &Process) -> Option<Self> {
        let name = format!("tasker-{:016x}", rand::random::<u64>());
        let kinds = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
        kinds.into_iter().find_map(|(root, limit)| {
            let folder = Path::new(root).join(&name);
            std::fs::create_dir(&folder).ok()?;
            let group = Self(folder);
            // Where the kernel has made no such file, memory is not what groups here are about.
            let limit = std::fs::OpenOptions::new().write(true).open(group.0.join(limit));
            std::io::Write::write_all(&mut limit.ok()?, MEMORY.to_string().as_bytes()).ok()?;
            std::fs::write(group.0.join("cgroup.procs"), process.id().to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir(&self.0);
    }
}
