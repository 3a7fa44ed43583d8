//! The load: tasks of several shapes, each asked for under a key of its own until somebody answers.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use serde_json::value::RawValue;
use tasker_client::types::TaskRequest;
use tasker_client::{Client, ClientError};
use uuid::Uuid;

use super::{BOUND, World};

/// The shape of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Linear4,
    Diamond4,
    Fan20,
    /// Two of its steps fail at first.
    Dag7,
}

impl Shape {
    pub(crate) const ALL: [Self; 4] = [Self::Linear4, Self::Diamond4, Self::Fan20, Self::Dag7];

    /// The shape of the `at`th task of a mix: half of them chains, few of them wide.
    pub(crate) fn mixed(at: usize) -> Self {
        match at % 20 {
            0 => Self::Fan20,
            1..=3 => Self::Dag7,
            4..=9 => Self::Diamond4,
            _ => Self::Linear4,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linear4 => "linear4",
            Self::Diamond4 => "diamond4",
            Self::Fan20 => "fan20",
            Self::Dag7 => "dag7",
        }
    }

    /// Per step: the positions of its parents.
    pub(crate) fn parents(self) -> Vec<Vec<usize>> {
        match self {
            Self::Linear4 => vec![vec![], vec![0], vec![1], vec![2]],
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
            (Self::Dag7, 5) => 1,
            _ => 0,
        }
    }

    pub(crate) fn template(self) -> String {
        let mut yaml = format!("name: {}\nnamespace_name: faults\nversion: 1.0.0\nsteps:\n", self.name());
        let retry = "{retryable: true, max_attempts: 15, backoff: linear, backoff_base_ms: 20, max_backoff_ms: 100}";
        for (at, parents) in self.parents().iter().enumerate() {
            let names: Vec<String> = parents.iter().map(|parent| format!("s{parent}")).collect();
            let failures = self.failures(at);
            writeln!(
                yaml,
                "  - name: s{at}\n    handler: {{callable: faults.Probe, initialization: {{fail_attempts: {failures}}}}}\
                 \n    dependencies: [{}]\n    retry: {retry}",
                names.join(", ")
            )
            .unwrap();
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
}

impl Order {
    pub(crate) fn request(&self) -> TaskRequest {
        let context = RawValue::from_string(format!(r#"{{"sleep_ms": {}}}"#, self.sleep_ms)).unwrap();
        let idempotency_key = Some(self.key.clone());
        TaskRequest { context, idempotency_key, ..TaskRequest::new("faults", self.shape.name()) }
    }
}

/// Orders of `count` tasks.
pub(crate) fn orders(count: usize, sleep_ms: u64, shape: impl Fn(usize) -> Shape) -> Vec<Order> {
    let key = |at| format!("{:016x}-{at}", rand::random::<u64>());
    (0..count).map(|at| Order { key: key(at), shape: shape(at), sleep_ms }).collect()
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

    /// I11: every task ends, with no human; `limit` is generous.
    pub(crate) async fn all_end(&self, limit: Duration) {
        const OPEN: &str = "SELECT count(*) FROM tasker.tasks WHERE ended_at IS NULL";
        let deadline = Instant::now() + limit;
        loop {
            let open = self.count(OPEN).await;
            if open == Some(0) {
                return;
            }
            let left = format!("I11: {open:?} of {} tasks have not ended after {limit:?}", self.answered.len());
            assert!(Instant::now() < deadline, "{left}: {}", self.stuck().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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
