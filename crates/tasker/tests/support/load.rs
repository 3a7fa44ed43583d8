//! The load: tasks of several shapes, each asked for under a key of its own until somebody answers.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use serde_json::value::RawValue;
use tasker_client::types::{ResourceUpdate, TaskRequest};
use tasker_client::{Client, ClientError};
use uuid::Uuid;

use super::{BOUND, World};

/// The shape of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One step.
    Single,
    Linear4,
    Diamond4,
    Fan20,
    /// Two of its steps fail at first.
    Dag7,
    /// A decision that takes one of two branches.
    Branch,
    /// A step that is split into five batches, two of them at once.
    Batch,
    /// A chain whose middle step uses a resource that few steps may use at once, and that fails at first.
    Limited,
}

impl Shape {
    pub(crate) const ALL: [Self; 8] = [
        Self::Single,
        Self::Linear4,
        Self::Diamond4,
        Self::Fan20,
        Self::Dag7,
        Self::Branch,
        Self::Batch,
        Self::Limited,
    ];

    /// The shape of the `at`th task of a mix: half of them chains, few of them wide.
    pub(crate) fn mixed(at: usize) -> Self {
        match at % 20 {
            0 => Self::Fan20,
            1..=3 => Self::Dag7,
            4..=7 => Self::Diamond4,
            8 | 9 => Self::Branch,
            10 => Self::Batch,
            _ => Self::Linear4,
        }
    }

    /// The same, and one in forty of them uses the resource that [`World::make_scarce`] sets up: as it is by default its
    /// breaker would stay open for longer than a test. All of them fail at first, so each is a probe, one after the other.
    pub(crate) fn mixed_and_limited(at: usize) -> Self {
        if at % 40 == 39 { Self::Limited } else { Self::mixed(at) }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Linear4 => "linear4",
            Self::Diamond4 => "diamond4",
            Self::Fan20 => "fan20",
            Self::Dag7 => "dag7",
            Self::Branch => "branch",
            Self::Batch => "batch",
            Self::Limited => "limited",
        }
    }

    /// Every step that the task has in the end, with the positions of its parents.
    pub(crate) fn steps(self) -> Vec<(usize, Vec<usize>)> {
        match self {
            Self::Branch => vec![(0, vec![]), (1, vec![0]), (3, vec![1])],
            Self::Batch => {
                let workers = (3..8).map(|at| (at, vec![0]));
                std::iter::once((0, vec![])).chain(workers).chain([(2, (3..8).collect())]).collect()
            }
            _ => self.parents().into_iter().enumerate().collect(),
        }
    }

    /// The letters of a task's steps before it starts.
    pub(crate) fn initial(self) -> String {
        match self {
            Self::Branch => "P---".to_owned(),
            Self::Batch => "P-P".to_owned(),
            _ => "P".repeat(self.parents().len()),
        }
    }

    /// Per step of the template: the positions of its parents.
    fn parents(self) -> Vec<Vec<usize>> {
        match self {
            Self::Branch => vec![vec![], vec![0], vec![0], vec![1, 2]],
            Self::Batch => vec![vec![], vec![0], vec![1]],
            Self::Single => vec![vec![]],
            Self::Linear4 => vec![vec![], vec![0], vec![1], vec![2]],
            Self::Limited => vec![vec![], vec![0], vec![1]],
            Self::Diamond4 => vec![vec![], vec![0], vec![0], vec![1, 2]],
            Self::Fan20 => {
                let leaves = std::iter::repeat_n(vec![0], 20);
                std::iter::once(vec![]).chain(leaves).chain([(1..=20).collect()]).collect()
            }
            Self::Dag7 => vec![vec![], vec![0], vec![0], vec![1, 2], vec![1], vec![2], vec![3, 4, 5]],
        }
    }

    /// How many first attempts of a step fail.
    pub(crate) fn failures(self, step: usize) -> u32 {
        match (self, step) {
            (Self::Dag7, 3) => 2,
            (Self::Dag7, 5) | (Self::Limited, 1) => 1,
            _ => 0,
        }
    }

    /// Whether the step uses the resource `scarce`.
    pub(crate) fn is_limited(self, step: usize) -> bool {
        (self, step) == (Self::Limited, 1)
    }

    /// What makes a step of the template other than standard: its type and settings.
    fn kind(self, step: usize) -> (&'static str, &'static str) {
        match (self, step) {
            (Self::Branch, 0) => ("decision", "choose: [s1]"),
            (Self::Branch, 3) | (Self::Batch, 2) => ("deferred", ""),
            (Self::Batch, 0) => ("batchable", "batches: 5"),
            (Self::Batch, 1) => ("batch_worker", ""),
            _ => ("standard", ""),
        }
    }

    pub(crate) fn template(self) -> String {
        let mut yaml = format!("name: {}\nnamespace_name: faults\nversion: 1.0.0\nsteps:\n", self.name());
        let retry = "{retryable: true, max_attempts: 15, backoff: linear, backoff_base_ms: 20, max_backoff_ms: 100}";
        for (at, parents) in self.parents().iter().enumerate() {
            let names: Vec<String> = parents.iter().map(|parent| format!("s{parent}")).collect();
            let (failures, (kind, settings), names) = (self.failures(at), self.kind(at), names.join(", "));
            writeln!(
                yaml,
                "  - name: s{at}\n    type: {kind}\n    handler: {{callable: faults.Probe, \
                 initialization: {{fail_attempts: {failures}, {settings}}}}}\n    dependencies: [{names}]\n    retry: {retry}\n    \
                 publishes_events: [{{name: attempted, condition: always}}]",
            )
            .unwrap();
            if self.is_limited(at) {
                writeln!(yaml, "    uses: [scarce]").unwrap();
            }
            if kind == "batchable" {
                let config = "{batch_size: 1, parallelism: 2, cursor_field: id, failure_strategy: fail_fast}";
                writeln!(yaml, "    batch_config: {config}").unwrap();
            }
        }
        yaml
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) key: String,
    pub(crate) shape: Shape,
    pub(crate) sleep_ms: u64,
    /// Bytes that its context has beside.
    pub(crate) weight: usize,
}

impl Order {
    pub(crate) fn request(&self) -> TaskRequest {
        let weight = "x".repeat(self.weight);
        let context = format!(r#"{{"sleep_ms": {}, "weight": "{weight}"}}"#, self.sleep_ms);
        let context = RawValue::from_string(context).unwrap();
        let idempotency_key = Some(self.key.clone());
        TaskRequest { context, idempotency_key, ..TaskRequest::new("faults", self.shape.name()) }
    }
}

/// Orders of `count` tasks.
pub(crate) fn orders(count: usize, sleep_ms: u64, shape: impl Fn(usize) -> Shape) -> Vec<Order> {
    let key = |at| format!("{:016x}-{at}", rand::random::<u64>());
    (0..count).map(|at| Order { key: key(at), shape: shape(at), sleep_ms, weight: 0 }).collect()
}

/// Asks the servers in turn, each task again until it is answered: a server may be away for a while.
pub(crate) async fn submit(clients: Vec<Client>, orders: Vec<Order>) -> Vec<(Order, Uuid)> {
    let asked = orders.into_iter().enumerate().map(|(at, order)| {
        let client = clients[at % clients.len()].clone();
        async move {
            let task = answered(&client, &order).await;
            (order, task)
        }
    });
    stream::iter(asked).buffer_unordered(32).collect().await
}

async fn answered(client: &Client, order: &Order) -> Uuid {
    let deadline = Instant::now() + BOUND;
    loop {
        match client.create_task(&order.request()).await {
            Ok(task) => return task.task_uuid,
            Err(error @ ClientError::Api { .. }) if !is_unavailable(&error) => panic!("{order:?}: {error}"),
            Err(error) => assert!(Instant::now() < deadline, "I1: {order:?} is never answered: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_unavailable(error: &ClientError) -> bool {
    matches!(error, ClientError::Api { status, .. } if *status == 429 || *status == 503)
}

impl World {
    /// Submits a mix and remembers the answers.
    pub(crate) async fn submit(&mut self, clients: &[Client], count: usize, sleep_ms: u64) {
        self.submit_orders(clients, orders(count, sleep_ms, Shape::mixed)).await;
    }

    pub(crate) async fn submit_orders(&mut self, clients: &[Client], orders: Vec<Order>) {
        self.answered.extend(submit(clients.to_vec(), orders).await);
    }

    /// I11: every task ends, with no human; `limit`, in which none of them does, is generous. Those that the checker
    /// leaves apart do not.
    pub(crate) async fn all_end(&self, limit: Duration) {
        const OPEN: &str = "SELECT count(*) FROM tasker.tasks WHERE ended_at IS NULL AND name NOT LIKE 'apart%'";
        let mut least = i64::MAX;
        let mut deadline = Instant::now() + limit;
        loop {
            let open = self.count(OPEN).await;
            if open == Some(0) {
                return;
            }
            if let Some(fewer) = open.filter(|open| *open < least) {
                (least, deadline) = (fewer, Instant::now() + limit);
            }
            let left = format!("I11: {open:?} of {} tasks are open, none ended for {limit:?}", self.answered.len());
            assert!(Instant::now() < deadline, "{left}: {}", self.stuck().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets three steps use the resource `scarce` at once, and opens its breaker after three failures for a short time.
    pub(crate) async fn make_scarce(client: &Client) {
        let update = ResourceUpdate {
            max_in_flight: Some(3),
            failures_to_open: Some(3),
            open_ms: Some(50),
            max_open_ms: Some(100),
            set_by: Some("tester".to_owned()),
            reason: Some("a test".to_owned()),
            ..ResourceUpdate::default()
        };
        client.update_resource("faults", "scarce", &update).await.unwrap();
    }

    async fn stuck(&self) -> String {
        let rows: Result<Vec<(Uuid, String, String, String)>, _> = sqlx::query_as(
            "SELECT task_uuid, state, steps, sparse::text FROM tasker.tasks WHERE ended_at IS NULL LIMIT 5",
        )
        .fetch_all(&self.pool)
        .await;
        format!("{rows:#?}")
    }
}
