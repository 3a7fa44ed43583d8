//! Which steps became ready? Measured in Rust (`decide` and `evolve`) and in SQL on PostgreSQL, on the same graphs.
//!
//! Both answer for the same successes in the middle of a task, and must name the same steps. SQL is timed inside of
//! the server, around the function alone: no round trip, no commit and no write count against it. Two functions are
//! measured: one that works out the readiness of the whole task from its rows and edges, as a dependency resolver in
//! SQL does, and one that looks only at the children of the step that ended, which is the least that SQL can do.
//!
//! `cargo run --release -p tasker-shared --example resolution`

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use sqlx::{Connection, PgConnection};
use tasker_lifecycle::template::{self, Template};
use tasker_lifecycle::{
    Effect, Event, Follows, Holder, Nonce, Outcome, StepIndex, StepState, Task, TaskId, TicketRef, Timestamp, decide,
};
use tasker_shared::testing::TestDatabase;
use uuid::Uuid;

/// Successes in one run, and runs of which the median is told.
const EVENTS: usize = 20;
const RUNS: usize = 21;
/// Steps, and how many times faster than SQL over the whole task we mean to be.
const SIZES: [(usize, f64); 4] = [(10, 10.0), (100, 30.0), (1_000, 100.0), (10_000, 100.0)];

const SCHEMA: &str = "
CREATE TABLE steps (task uuid, step integer, state \"char\" NOT NULL, PRIMARY KEY (task, step)) WITH (fillfactor = 50);
CREATE TABLE edges (task uuid, child integer, parent integer, PRIMARY KEY (task, child, parent));
CREATE INDEX edges_by_parent ON edges (task, parent, child);

CREATE FUNCTION ready_in_task(of uuid) RETURNS SETOF integer LANGUAGE sql STABLE AS $$
    WITH RECURSIVE reached (step) AS (
        SELECT s.step FROM steps s
        WHERE s.task = of AND NOT EXISTS (SELECT FROM edges e WHERE e.task = of AND e.child = s.step)
        UNION
        SELECT e.child FROM reached r
        JOIN steps s ON s.task = of AND s.step = r.step AND s.state IN ('C', 'R')
        JOIN edges e ON e.task = of AND e.parent = r.step
    )
    SELECT s.step FROM reached r JOIN steps s ON s.task = of AND s.step = r.step
    WHERE s.state = 'P' AND NOT EXISTS (
        SELECT FROM edges e JOIN steps p ON p.task = of AND p.step = e.parent
        WHERE e.task = of AND e.child = s.step AND p.state NOT IN ('C', 'R'))
$$;

CREATE FUNCTION ready_behind(of uuid, ended integer) RETURNS SETOF integer LANGUAGE sql STABLE AS $$
    SELECT s.step FROM edges c JOIN steps s ON s.task = of AND s.step = c.child
    WHERE c.task = of AND c.parent = ended AND s.state = 'P' AND NOT EXISTS (
        SELECT FROM edges e JOIN steps p ON p.task = of AND p.step = e.parent
        WHERE e.task = of AND e.child = s.step AND p.state NOT IN ('C', 'R'))
$$;

CREATE FUNCTION measure(of uuid, ending integer[], whole boolean, OUT micros double precision, OUT named integer[])
LANGUAGE plpgsql AS $$
DECLARE
    ended integer;
    ready integer[];
    began timestamptz;
    spent interval := '0';
BEGIN
    named := '{}';
    FOREACH ended IN ARRAY ending LOOP
        UPDATE steps SET state = 'C' WHERE task = of AND step = ended;
        began := clock_timestamp();
        IF whole THEN
            SELECT array_agg(r) INTO ready FROM ready_in_task(of) r;
        ELSE
            SELECT array_agg(r) INTO ready FROM ready_behind(of, ended) r;
        END IF;
        spent := spent + (clock_timestamp() - began);
        UPDATE steps SET state = 'Q' WHERE task = of AND step = ANY (ready);
        named := named || coalesce(ready, '{}');
    END LOOP;
    micros := extract(epoch FROM spent) * 1e6 / cardinality(ending);
END $$;
";

/// Microseconds per success.
struct Measured {
    rust: f64,
    rust_from_row: f64,
    sql_whole: f64,
    sql_children: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), sqlx::Error> {
    let db = TestDatabase::empty().await;
    let mut conn = PgConnection::connect(&db.url).await?;
    sqlx::raw_sql(SCHEMA).execute(&mut conn).await?;
    println!("| steps | edges | Rust | Rust, read from its row | SQL, children | SQL, whole task | ratio | required |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (steps, required) in SIZES {
        let template = layered(steps);
        let edges: usize = (0..steps).map(|at| template.dag.parents(StepIndex::from(at)).len()).sum();
        let m = measure(&mut conn, &template).await?;
        let ratio = m.sql_whole / m.rust;
        println!(
            "| {steps} | {edges} | {:.2} µs | {:.1} µs | {:.0} µs | {:.0} µs | {ratio:.0} × | ≥ {required} × |",
            m.rust, m.rust_from_row, m.sql_children, m.sql_whole
        );
        assert!(ratio >= required, "{steps} steps: {ratio:.1} is less than {required}");
    }
    conn.close().await
}

/// Layers as wide as there are layers; each step waits for three of the layer before.
fn layered(steps: usize) -> Arc<Template> {
    let width = (1..).find(|width| width * width >= steps).expect("a root exists");
    let parents = |at: usize| -> Vec<String> {
        let Some(before) = (at / width).checked_sub(1) else { return Vec::new() };
        let mut parents: Vec<usize> = [0, 1, width / 2].iter().map(|by| before * width + (at + by) % width).collect();
        parents.sort_unstable();
        parents.dedup();
        parents.into_iter().map(|parent| format!("s{parent}")).collect()
    };
    let steps: Vec<_> =
        (0..steps).map(|at| json!({"name": format!("s{at}"), "handler": "h", "dependencies": parents(at)})).collect();
    let document = json!({"name": "layered", "namespace_name": "bench", "version": "1.0.0", "steps": steps});
    Arc::new(template::from_json(&document, None).expect("a valid template").0)
}

async fn measure(conn: &mut PgConnection, template: &Arc<Template>) -> Result<Measured, sqlx::Error> {
    let order = template.dag.topological();
    let middle = order.len() / 2;
    let ending = &order[middle..order.len().min(middle + EVENTS)];
    let mut task = Task::new(TaskId::new(1, 7), Arc::clone(template));
    happen(&mut task, Event::Started);
    for step in &order[..middle] {
        let event = success(&task, *step);
        happen(&mut task, event);
    }
    insert(conn, &task).await?;
    let (mut rust, mut rust_from_row, mut whole, mut children) = (vec![], vec![], vec![], vec![]);
    for _ in 0..RUNS {
        let (micros, found) = in_rust(&task, ending);
        rust.push(micros);
        rust_from_row.push(micros + reading(&task));
        for (whole_task, times) in [(true, &mut whole), (false, &mut children)] {
            let (micros, found_there) = in_sql(conn, &task, ending, whole_task).await?;
            assert_eq!(found, found_there, "the same steps became ready");
            times.push(micros);
        }
    }
    let [rust, rust_from_row, sql_whole, sql_children] = [rust, rust_from_row, whole, children].map(median);
    Ok(Measured { rust, rust_from_row, sql_whole, sql_children })
}

/// Decides on the successes one after the other; the numbers of tickets are the store's to give and not counted.
fn in_rust(task: &Task, ending: &[StepIndex]) -> (f64, Vec<i32>) {
    let mut task = task.clone();
    let mut found = Vec::new();
    let mut micros = 0.0;
    for step in ending {
        let event = success(&task, *step);
        let began = Instant::now();
        let decision = decide(&task, &event, Timestamp(0)).expect("a success applies");
        decision.evolve(&mut task);
        micros += began.elapsed().as_secs_f64() * 1e6;
        for effect in &decision.effects {
            found.extend(hold(&mut task, effect).map(number));
        }
    }
    found.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "some dozens")]
    (micros / ending.len() as f64, found)
}

/// What a server pays beside it, where it has no snapshot: the row's columns become a task.
fn reading(task: &Task) -> f64 {
    let stored = task.to_stored();
    let began = Instant::now();
    let read = Task::from_stored(task.id(), Arc::clone(task.template()), &stored).expect("what was stored can be read");
    let micros = began.elapsed().as_secs_f64() * 1e6;
    assert_eq!(read.steps(), task.steps());
    micros
}

async fn in_sql(
    conn: &mut PgConnection,
    task: &Task,
    ending: &[StepIndex],
    whole: bool,
) -> Result<(f64, Vec<i32>), sqlx::Error> {
    let ending: Vec<i32> = ending.iter().copied().map(number).collect();
    let mut tx = conn.begin().await?;
    let (micros, mut found): (f64, Vec<i32>) = sqlx::query_as("SELECT * FROM measure($1, $2, $3)")
        .bind(task.id().uuid())
        .bind(ending)
        .bind(whole)
        .fetch_one(&mut *tx)
        .await?;
    tx.rollback().await?;
    found.sort_unstable();
    Ok((micros, found))
}

async fn insert(conn: &mut PgConnection, task: &Task) -> Result<(), sqlx::Error> {
    let letters: String = task.steps().iter().map(|state| state.letter()).collect();
    let dag = &task.template().dag;
    let steps = (0..dag.len()).map(StepIndex::from);
    let (children, parents): (Vec<i32>, Vec<i32>) =
        steps.flat_map(|child| dag.parents(child).iter().map(move |parent| (number(child), number(*parent)))).unzip();
    sqlx::raw_sql("TRUNCATE steps, edges").execute(&mut *conn).await?;
    sqlx::query("INSERT INTO steps SELECT $1, ord - 1, c::\"char\" FROM string_to_table($2, NULL) WITH ORDINALITY AS t (c, ord)")
        .bind(task.id().uuid())
        .bind(letters)
        .execute(&mut *conn)
        .await?;
    sqlx::query("INSERT INTO edges SELECT $1, * FROM unnest($2::integer[], $3::integer[])")
        .bind(task.id().uuid())
        .bind(children)
        .bind(parents)
        .execute(&mut *conn)
        .await?;
    sqlx::raw_sql("VACUUM ANALYZE steps").execute(&mut *conn).await?;
    sqlx::raw_sql("VACUUM ANALYZE edges").execute(conn).await?;
    Ok(())
}

fn success(task: &Task, step: StepIndex) -> Event {
    assert_eq!(task.step(step), Some(StepState::Enqueued), "parents come first");
    Event::Reported { step, attempt: 1, nonce: Nonce(Uuid::nil()), outcome: Outcome::Success(Follows::Nothing) }
}

fn happen(task: &mut Task, event: Event) {
    let decision = decide(task, &event, Timestamp(0)).expect("it applies");
    decision.evolve(task);
    for effect in &decision.effects {
        hold(task, effect);
    }
}

fn hold(task: &mut Task, effect: &Effect) -> Option<StepIndex> {
    let Effect::Enqueue { step, .. } = *effect else { return None };
    task.hold(step, Holder::Ticket(TicketRef { msg_id: 1, nonce: Nonce(Uuid::nil()) }));
    Some(step)
}

fn number(step: StepIndex) -> i32 {
    i32::try_from(step.0).expect("at most 100,000 steps")
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of[of.len() / 2]
}
