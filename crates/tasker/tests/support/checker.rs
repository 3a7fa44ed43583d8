//! The checker: three independent logs (what the client was told, the database's history, what the handlers wrote)
//! must tell one story. Each check names the promise that it is about.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use tasker_client::{Client, ClientError};
use uuid::Uuid;

use super::{Shape, World, eventually};

#[derive(Debug, Clone, FromRow)]
pub(super) struct TaskRow {
    pub(super) task_uuid: Uuid,
    pub(super) name: String,
    pub(super) state: String,
    pub(super) steps: String,
    pub(super) seq: i32,
}

#[derive(Debug, Clone, FromRow)]
pub(super) struct HistoryRow {
    pub(super) task_uuid: Uuid,
    pub(super) seq: i32,
    pub(super) at: DateTime<Utc>,
    pub(super) from_state: String,
    pub(super) to_state: String,
    pub(super) changes: String,
}

#[derive(Debug, Clone, FromRow)]
pub(super) struct AttemptRow {
    pub(super) task_uuid: Uuid,
    pub(super) step: i32,
    pub(super) attempt: i32,
    pub(super) outcome: String,
    pub(super) claimed_at: Option<DateTime<Utc>>,
    pub(super) result: Option<String>,
}

/// A domain event, by whose outcome it tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, FromRow)]
pub(super) struct Told {
    pub(super) task_uuid: Uuid,
    pub(super) step: i32,
    pub(super) attempt: i32,
    pub(super) outcome: String,
}

/// A line of the body log.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) attempt: i32,
    pub(super) what: String,
    pub(super) pid: u32,
    /// Where the line stands: the order in which things happened.
    pub(super) position: usize,
}

/// What a server answers to a key that it knows.
#[derive(Debug, Clone)]
pub(super) struct Again {
    pub(super) task: Uuid,
    /// To the same body.
    pub(super) same: Uuid,
    /// The status of the refusal of another body.
    pub(super) other: Option<u16>,
}

/// What there is to see beside that everything is in order.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Attempts whose worker never reported.
    pub(crate) lost: usize,
    /// Attempts that began although an earlier one of the same step had begun.
    pub(crate) begun_again: usize,
    /// Reports that a fence refused.
    pub(crate) refused: i64,
}

pub(super) type Bodies = HashMap<(Uuid, i32), Vec<Body>>;
pub(super) type Attempts = BTreeMap<(Uuid, i32), Vec<AttemptRow>>;

/// Everything that is checked, as values: what the tests of the checker change.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// What clients were answered, and are answered again.
    pub(super) answered: Vec<Uuid>,
    pub(super) again: Vec<Again>,
    /// Live steps that are not held once, and what holds no live step.
    pub(super) live: Vec<String>,
    pub(super) tasks: Vec<TaskRow>,
    pub(super) history: HashMap<Uuid, Vec<HistoryRow>>,
    pub(super) attempts: Attempts,
    pub(super) bodies: Bodies,
    pub(super) told: Vec<Told>,
    pub(super) refused: i64,
    /// Whether times can't be compared.
    pub(super) clock_jumps: bool,
    /// Reports that were accepted, too.
    pub(super) refused_and_accepted: i64,
}

impl World {
    /// Checks everything, once all tasks have ended. `client` is one of a living server.
    pub(crate) async fn check(&self, client: &Client) -> Seen {
        // At rest without exception; a copy of a ticket may still be on its way to the archive.
        eventually("I10: every live step is held once, and no other", async || {
            self.count("SELECT count(*) FROM tasker.live_step_violations()").await == Some(0)
        })
        .await;
        Record::read(self, client).await.check()
    }

    async fn all<T>(&self, query: &str) -> Vec<T>
    where
        T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        sqlx::query_as(query).fetch_all(&self.pool).await.unwrap()
    }

    /// Asks for some tasks again, with the same body and with another.
    async fn ask_again(&self, client: &Client) -> Vec<Again> {
        let mut again = Vec::new();
        for (order, task) in self.answered.iter().take(10) {
            let same = client.create_task(&order.request()).await.unwrap().task_uuid;
            let mut other = order.request();
            other.priority = 1;
            let other = match client.create_task(&other).await {
                Err(ClientError::Api { status, .. }) => Some(status),
                _ => None,
            };
            again.push(Again { task: *task, same, other });
        }
        again
    }
}

impl Record {
    pub(super) async fn read(world: &World, client: &Client) -> Self {
        // The last five digits of a step's id are its position, counted from 1.
        const TOLD: &str = "SELECT (message ->> 'task_uuid')::uuid AS task_uuid,
                ('x000' || right(message ->> 'step_uuid', 5))::bit(32)::integer - 1 AS step,
                (message ->> 'attempt')::integer AS attempt, message ->> 'outcome' AS outcome
            FROM pgmq.q_faults_domain_events";
        const HISTORY: &str = "SELECT task_uuid, seq, at, from_state, to_state, changes FROM tasker.history
            ORDER BY task_uuid, seq";
        const ATTEMPTS: &str = "SELECT task_uuid, step, attempt, outcome, claimed_at, result::text FROM tasker.attempts
            ORDER BY task_uuid, step, attempt";
        const BOTH: &str = "SELECT count(*) FROM tasker.discarded_results d JOIN tasker.attempts a
            USING (task_uuid, step, attempt, nonce, worker, outcome) WHERE a.outcome <> 'lost'";
        const LIVE: &str = "SELECT v::text FROM tasker.live_step_violations() v
            UNION ALL SELECT p::text FROM tasker.permit_violations() p";
        const OURS: &str = "SELECT task_uuid, name, state, steps, seq FROM tasker.tasks WHERE name NOT LIKE 'apart%'";
        let mut history: HashMap<Uuid, Vec<HistoryRow>> = HashMap::new();
        for row in world.all::<HistoryRow>(HISTORY).await {
            history.entry(row.task_uuid).or_default().push(row);
        }
        let mut attempts = Attempts::new();
        for row in world.all::<AttemptRow>(ATTEMPTS).await {
            attempts.entry((row.task_uuid, row.step)).or_default().push(row);
        }
        let live = world.all::<(String,)>(LIVE).await;
        Self {
            answered: world.answered.iter().map(|(_, task)| *task).collect(),
            again: world.ask_again(client).await,
            live: live.into_iter().map(|(violation,)| violation).collect(),
            tasks: world.all(OURS).await,
            clock_jumps: world.clock_jumps,
            history,
            attempts,
            bodies: bodies(&world.bodies()),
            told: world.all(TOLD).await,
            refused: world.count("SELECT count(*) FROM tasker.discarded_results").await.unwrap(),
            refused_and_accepted: world.count(BOTH).await.unwrap(),
        }
    }

    /// Panics with the promise that is broken.
    pub(super) fn check(&self) -> Seen {
        assert!(self.live.is_empty(), "I10: a live step is not held once, or another one is: {:?}", self.live);
        self.tasks_are_those_asked_for();
        assert_eq!(self.refused_and_accepted, 0, "I4: a report was accepted and refused");
        for task in &self.tasks {
            let history = self.history.get(&task.task_uuid).map_or(&[][..], Vec::as_slice);
            history_folds_to_the_task(task, history);
            steps_ran_as_they_should(task, history, &self.attempts, &self.bodies);
            if !self.clock_jumps {
                none_ran_before_its_time(task, history, &self.attempts);
            }
        }
        self.every_outcome_was_published_once();
        let lost = self.attempts.values().flatten().filter(|row| row.outcome == "lost").count();
        let starts = |bodies: &Vec<Body>| bodies.iter().filter(|body| body.what == "start").count();
        let begun_again =
            self.bodies.values().filter(|of| of.iter().all(|body| body.what != "failed") && starts(of) > 1).count();
        Seen { lost, begun_again, refused: self.refused }
    }

    fn tasks_are_those_asked_for(&self) {
        let there: HashSet<Uuid> = self.tasks.iter().map(|task| task.task_uuid).collect();
        for task in &self.answered {
            assert!(there.contains(task), "I1: somebody was answered with {task}, which does not exist");
        }
        let distinct: HashSet<Uuid> = self.answered.iter().copied().collect();
        assert_eq!(distinct.len(), self.answered.len(), "I2: two keys were answered with the same task");
        assert_eq!(self.tasks.len(), self.answered.len(), "I2: there are tasks that nobody was told of");
        for again in &self.again {
            assert_eq!(again.same, again.task, "I2: the same key and body give another task");
            assert_eq!(again.other, Some(422), "I2: the same key with another body is not refused: {again:?}");
        }
    }

    /// Every step publishes an event with every outcome.
    fn every_outcome_was_published_once(&self) {
        let tried = self.attempts.values().flatten().filter(|row| row.outcome != "lost").map(|row| {
            let outcome = if row.outcome == "success" { "success" } else { "failure" }.to_owned();
            Told { task_uuid: row.task_uuid, step: row.step, attempt: row.attempt, outcome }
        });
        let (mut tried, mut told): (Vec<Told>, _) = (tried.collect(), self.told.clone());
        tried.sort_unstable();
        told.sort_unstable();
        assert!(tried == told, "I6: an event is missing, or there is one too many");
    }
}

fn bodies(log: &str) -> Bodies {
    let mut bodies = Bodies::new();
    for (position, line) in log.lines().enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let [task, step, attempt, what, pid] = words[..] else { panic!("the body log is torn: {line}") };
        let key = (task.parse().unwrap(), step.parse().unwrap());
        let body =
            Body { attempt: attempt.parse().unwrap(), what: what.to_owned(), pid: pid.parse().unwrap(), position };
        bodies.entry(key).or_default().push(body);
    }
    bodies
}

pub(super) fn shape_of(task: &TaskRow) -> Shape {
    Shape::ALL.into_iter().find(|shape| shape.name() == task.name).unwrap()
}

/// I8 and I20.
fn history_folds_to_the_task(task: &TaskRow, history: &[HistoryRow]) {
    // Batch workers come behind the steps of the template.
    let mut letters: Vec<char> = shape_of(task).initial().chars().collect();
    letters.resize(task.steps.len(), '-');
    let mut state = "pending";
    for (at, row) in history.iter().enumerate() {
        let here = format!("task {} at {row:?}", task.task_uuid);
        assert_eq!(row.seq, i32::try_from(at).unwrap() + 1, "I20: the history has a gap: {here}");
        assert_eq!(row.from_state, state, "I20: the history jumps: {here}");
        assert_ne!(state, "complete", "I8: the task had ended: {here}");
        for (step, from, to, _) in changes(row) {
            assert_eq!(letters[step], from, "I20: step {step} was not there: {here}");
            letters[step] = to;
        }
        state = &row.to_state;
    }
    let folded: String = letters.into_iter().collect();
    assert_eq!((folded.as_str(), state), (task.steps.as_str(), task.state.as_str()), "I20: {history:#?}");
    assert_eq!(task.seq, i32::try_from(history.len()).unwrap(), "I20: {task:?}");
    assert_eq!(task.state, "complete", "I8: {task:?} {history:#?}");
}

/// A history row's changes: `step:FROM TO@attempts`, without the space.
pub(super) fn changes(row: &HistoryRow) -> impl Iterator<Item = (usize, char, char, i32)> {
    row.changes.split_whitespace().map(|change| {
        let (step, rest) = change.split_once(':').unwrap();
        let (letters, attempts) = rest.split_once('@').unwrap();
        let letters: Vec<char> = letters.chars().collect();
        (step.parse().unwrap(), letters[0], letters[1], attempts.parse().unwrap())
    })
}

fn steps_ran_as_they_should(task: &TaskRow, history: &[HistoryRow], attempts: &Attempts, bodies: &Bodies) {
    for (step, parents) in &shape_of(task).steps() {
        let step = *step;
        let key = (task.task_uuid, i32::try_from(step).unwrap());
        let none = Vec::new();
        let (tried, ran) = (attempts.get(&key).unwrap_or(&none), &bodies[&key]);
        let here = format!("task {} step {step}: {tried:#?} {ran:#?} {history:#?}", task.task_uuid);
        let moved = |from: char, to: char| {
            let all = history.iter().flat_map(changes);
            all.filter(|(of, a, b, _)| (*of, *a, *b) == (step, from, to)).count()
        };
        let enabled = moved('P', 'Q') + moved('-', 'Q') + moved('P', 'H');
        assert_eq!(enabled, 1, "I6: enabled more or less than once: {here}");
        if shape_of(task).is_limited(step) {
            let (held, let_through) =
                (moved('P', 'H') + moved('Q', 'H') + moved('W', 'H'), moved('H', 'Q') + moved('H', 'W'));
            assert!(held > 0 && held == let_through, "I6: held {held} and let through {let_through} times: {here}");
        }
        assert_eq!(moved('Q', 'C') + moved('W', 'C'), 1, "I6: completed more or less than once: {here}");
        attempts_are_in_order(tried, &here);
        let accepted = tried.last().unwrap();
        result_is_the_handlers(accepted, ran, &here);
        for body in ran {
            let known = tried.iter().any(|row| row.attempt == body.attempt);
            // A claim ends the one before it: what that one comes to is refused from then on.
            assert!(body.attempt <= accepted.attempt, "I4: a later attempt than the accepted one was claimed: {here}");
            assert!(known, "I9: a handler ran an attempt that is not on record: {here}");
        }
        let begun = ran.iter().filter(|body| body.what == "start").map(|body| body.position).min().unwrap();
        for parent in parents {
            let of_parent = (task.task_uuid, i32::try_from(*parent).unwrap());
            let accepted = attempts[&of_parent].last().unwrap().attempt;
            let ended = bodies[&of_parent].iter().filter(|b| b.what == "end" && b.attempt == accepted);
            let ended = ended.map(|body| body.position).min().unwrap();
            assert!(ended < begun, "I7: a handler began before its parent {parent} had ended: {here}");
        }
    }
}

/// I4, I5 and the numbers of I9.
fn attempts_are_in_order(tried: &[AttemptRow], here: &str) {
    let numbers: Vec<i32> = tried.iter().map(|row| row.attempt).collect();
    let gapless: Vec<i32> = (1..=i32::try_from(tried.len()).unwrap()).collect();
    assert_eq!(numbers, gapless, "I9: attempts with a gap or a repeat: {here}");
    assert!(tried.len() <= 15, "I9: over the budget: {here}");
    let successes = tried.iter().filter(|row| row.outcome == "success").count();
    assert_eq!(successes, 1, "I4: more or less than one result was accepted: {here}");
    assert_eq!(tried.last().unwrap().outcome, "success", "I5: an attempt was the last although it failed: {here}");
}

/// I9. The wait begins at the decision, on the database's clock, and is jittered by 15 %.
fn none_ran_before_its_time(task: &TaskRow, history: &[HistoryRow], attempts: &Attempts) {
    for row in history {
        for (step, _, _, attempt) in changes(row).filter(|(_, _, to, _)| *to == 'W') {
            let tried = &attempts[&(task.task_uuid, i32::try_from(step).unwrap())];
            let here = format!("task {} step {step}: {tried:#?} {history:#?}", task.task_uuid);
            let next = tried.iter().find(|next| next.attempt > attempt && next.claimed_at.is_some()).unwrap();
            let waited = (next.claimed_at.unwrap() - row.at).num_milliseconds();
            assert!(waited >= i64::from((20 * attempt).min(100)) * 85 / 100, "I9: {waited} ms is early: {here}");
        }
    }
}

/// I3: what is stored is what the handler of that attempt returned.
fn result_is_the_handlers(accepted: &AttemptRow, ran: &[Body], here: &str) {
    let result: serde_json::Value = serde_json::from_str(accepted.result.as_ref().unwrap()).unwrap();
    assert_eq!(result["attempt"], accepted.attempt, "I3: another attempt's result: {here}");
    assert_eq!(result["step"], accepted.step, "I3: another step's result: {here}");
    let returned = |body: &&Body| body.what == "end" && body.attempt == accepted.attempt && result["pid"] == body.pid;
    assert_eq!(ran.iter().filter(returned).count(), 1, "I3: nobody returned this result: {here}");
}
