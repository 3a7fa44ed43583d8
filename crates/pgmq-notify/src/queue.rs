//! The queue operations, each one statement on a connection of the caller's: whether and when they commit is the
//! caller's to decide. The SQL is in sql/functions.sql, with the reasons.

use std::time::Duration;

use sqlx::PgConnection;

use crate::{Depth, Error, Extension, Message, Outgoing, Popped, QueueName, Token};

/// Claims up to `qty` messages in all, trying the queues in the order given, for the time of the lease. Comes back in
/// the order of the claims; empty if nothing is visible.
///
/// # Errors
/// What the database says.
pub async fn read(
    conn: &mut PgConnection,
    queues: &[QueueName],
    lease: Duration,
    qty: u32,
) -> Result<Vec<Message>, Error> {
    let rows = sqlx::query!(
        r#"SELECT queue AS "queue!", msg_id AS "msg_id!", read_ct AS "read_ct!", enqueued_at AS "enqueued_at!",
            vt AS "vt!", body AS "body!"
        FROM pgmq_notify.read($1, $2, $3)"#,
        names(queues) as _,
        millis(lease),
        int(qty)
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Message {
            queue: named(queues, &row.queue),
            msg_id: row.msg_id,
            read_ct: row.read_ct,
            enqueued_at: row.enqueued_at,
            vt: row.vt,
            body: row.body,
        })
        .collect())
}

/// Sends messages under their reserved ids.
///
/// # Errors
/// What the database says; among others, for an id that is taken or a body that is not JSON.
pub async fn send(conn: &mut PgConnection, messages: &[Outgoing]) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let queues: Vec<&str> = messages.iter().map(|message| message.queue.as_str()).collect();
    let ids: Vec<i64> = messages.iter().map(|message| message.msg_id).collect();
    let bodies: Vec<&str> = messages.iter().map(|message| message.body.as_str()).collect();
    let delays: Vec<i64> = messages.iter().map(|message| millis(message.delay)).collect();
    let read_cts: Vec<i32> = messages.iter().map(|message| message.read_ct).collect();
    sqlx::query_scalar!(
        r#"SELECT pgmq_notify.send($1, $2, $3, $4, $5) AS "sent!""#,
        queues as _,
        &ids,
        bodies as _,
        &delays,
        &read_cts
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// Takes up to `qty` visible messages out of a queue for good, if the caller's transaction commits.
///
/// # Errors
/// What the database says.
pub async fn pop(conn: &mut PgConnection, queue: &QueueName, qty: u32) -> Result<Vec<Popped>, Error> {
    let popped = sqlx::query_as!(
        Popped,
        r#"SELECT msg_id AS "msg_id!", read_ct AS "read_ct!", enqueued_at AS "enqueued_at!", body AS "body!"
        FROM pgmq_notify.pop($1, $2)"#,
        queue.as_str(),
        int(qty)
    )
    .fetch_all(conn)
    .await?;
    Ok(popped)
}

/// Deletes the messages whose claim is still the current one; says which tokens matched, as ascending indices.
///
/// # Errors
/// What the database says.
pub async fn delete_fenced(conn: &mut PgConnection, tokens: &[Token]) -> Result<Vec<usize>, Error> {
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(tokens);
    let ordinals = sqlx::query_scalar!(
        r#"SELECT ord AS "ord!" FROM pgmq_notify.delete_fenced($1, $2, $3, $4) AS ord"#,
        columns.queues as _,
        &columns.msg_ids,
        &columns.read_cts,
        &columns.nonces
    )
    .fetch_all(conn)
    .await?;
    Ok(indices(ordinals))
}

/// Deletes messages whoever holds them, where the nonce matches (the tokens' `read_ct` plays no part); says which
/// matched, as ascending indices.
///
/// # Errors
/// What the database says.
pub async fn delete_any(conn: &mut PgConnection, tokens: &[Token]) -> Result<Vec<usize>, Error> {
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(tokens);
    let ordinals = sqlx::query_scalar!(
        r#"SELECT ord AS "ord!" FROM pgmq_notify.delete_any($1, $2, $3) AS ord"#,
        columns.queues as _,
        &columns.msg_ids,
        &columns.nonces
    )
    .fetch_all(conn)
    .await?;
    Ok(indices(ordinals))
}

/// Deletes messages that nobody has ever claimed, where the nonce matches; says which did, as ascending indices.
///
/// # Errors
/// What the database says.
pub async fn delete_unclaimed(conn: &mut PgConnection, tokens: &[Token]) -> Result<Vec<usize>, Error> {
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(tokens);
    let ordinals = sqlx::query_scalar!(
        r#"SELECT ord AS "ord!" FROM pgmq_notify.delete_unclaimed($1, $2, $3) AS ord"#,
        columns.queues as _,
        &columns.msg_ids,
        &columns.nonces
    )
    .fetch_all(conn)
    .await?;
    Ok(indices(ordinals))
}

/// Extends the leases of claims, to end one `lease` from now; says for each token what became of it.
///
/// # Errors
/// What the database says.
pub async fn extend_fenced(
    conn: &mut PgConnection,
    tokens: &[Token],
    lease: Duration,
) -> Result<Vec<Extension>, Error> {
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(tokens);
    let rows = sqlx::query!(
        r#"SELECT ord AS "ord!", state AS "state!" FROM pgmq_notify.extend_fenced($1, $2, $3, $4, $5)"#,
        columns.queues as _,
        &columns.msg_ids,
        &columns.read_cts,
        &columns.nonces,
        millis(lease)
    )
    .fetch_all(conn)
    .await?;
    let mut extensions = vec![Extension::Lost; tokens.len()];
    for row in rows {
        extensions[index(row.ord)] = match row.state.as_str() {
            "extended" => Extension::Extended,
            "skipped" => Extension::Skipped,
            _ => Extension::Lost,
        };
    }
    Ok(extensions)
}

/// Gives claims back that did not run, to be claimed again after the delay as the same attempt; says which tokens
/// matched, as ascending indices. The tokens are void from then on.
///
/// # Errors
/// What the database says.
pub async fn release_fenced(conn: &mut PgConnection, tokens: &[Token], delay: Duration) -> Result<Vec<usize>, Error> {
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(tokens);
    let ordinals = sqlx::query_scalar!(
        r#"SELECT ord AS "ord!" FROM pgmq_notify.release_fenced($1, $2, $3, $4, $5) AS ord"#,
        columns.queues as _,
        &columns.msg_ids,
        &columns.read_cts,
        &columns.nonces,
        millis(delay)
    )
    .fetch_all(conn)
    .await?;
    Ok(indices(ordinals))
}

/// Moves messages to the queue's archive with a reason; returns how many were there.
///
/// # Errors
/// What the database says.
pub async fn archive(conn: &mut PgConnection, queue: &QueueName, msg_ids: &[i64], reason: &str) -> Result<u64, Error> {
    let archived = sqlx::query_scalar!(
        r#"SELECT pgmq_notify.archive($1, $2, $3) AS "archived!""#,
        queue.as_str(),
        msg_ids,
        reason
    )
    .fetch_one(conn)
    .await?;
    Ok(archived.unsigned_abs())
}

/// How long until the next hidden message of these queues becomes visible, in milliseconds by the database's clock,
/// rounded up; none if nothing is hidden. Ask in the transaction of the empty [`read`]: a message that became visible
/// since that transaction began counts, with 0.
///
/// # Errors
/// What the database says.
pub async fn next_vt_ms(conn: &mut PgConnection, queues: &[QueueName]) -> Result<Option<u64>, Error> {
    let ms = sqlx::query_scalar!(
        "SELECT ceil(extract(epoch FROM pgmq_notify.next_vt($1) - clock_timestamp()) * 1000)::bigint AS ms",
        names(queues) as _
    )
    .fetch_one(conn)
    .await?;
    Ok(ms.map(|ms| u64::try_from(ms).unwrap_or(0)))
}

/// Brings times back into reach that a jump of the database's clock has moved away: a lease longer than `max_lease`
/// counts as expired, a delay that ends further away than `max_delay` starts again. Returns how many there were.
///
/// # Errors
/// What the database says.
pub async fn clamp_vt(
    conn: &mut PgConnection,
    queues: &[QueueName],
    max_lease: Duration,
    max_delay: Duration,
) -> Result<u64, Error> {
    let clamped = sqlx::query_scalar!(
        r#"SELECT pgmq_notify.clamp_vt($1, $2, $3) AS "clamped!""#,
        names(queues) as _,
        millis(max_lease),
        millis(max_delay)
    )
    .fetch_one(conn)
    .await?;
    Ok(clamped.unsigned_abs())
}

/// How much waits in each queue, in the order given.
///
/// # Errors
/// What the database says.
pub async fn depth(conn: &mut PgConnection, queues: &[QueueName]) -> Result<Vec<Depth>, Error> {
    let rows = sqlx::query!(
        r#"SELECT queue AS "queue!", visible AS "visible!", hidden AS "hidden!", oldest_ms
        FROM pgmq_notify.depth($1)"#,
        names(queues) as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Depth {
            queue: named(queues, &row.queue),
            visible: row.visible.unsigned_abs(),
            hidden: row.hidden.unsigned_abs(),
            oldest: row.oldest_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))),
        })
        .collect())
}

/// Creates the queues that are missing; one cheap query if none is. Give it a transaction of its own: it holds a lock
/// to the end, and ids reserved from a queue whose creation is rolled back would be handed out again.
///
/// # Errors
/// What the database says.
pub async fn create_queues(conn: &mut PgConnection, queues: &[QueueName]) -> Result<u64, Error> {
    let created = sqlx::query_scalar!(r#"SELECT pgmq_notify.create_queues($1) AS "created!""#, names(queues) as _)
        .fetch_one(conn)
        .await?;
    Ok(created.unsigned_abs())
}

/// Takes `n` message ids of a queue that no other message will have, ascending. They stay taken even if the
/// transaction is rolled back.
///
/// # Errors
/// What the database says.
pub async fn reserve_ids(conn: &mut PgConnection, queue: &QueueName, n: u32) -> Result<Vec<i64>, Error> {
    let ids =
        sqlx::query_scalar!(r#"SELECT id AS "id!" FROM pgmq_notify.reserve_ids($1, $2) AS id"#, queue.as_str(), int(n))
            .fetch_all(conn)
            .await?;
    Ok(ids)
}

/// Tokens, turned into parallel arrays.
#[derive(Debug)]
struct Columns<'a> {
    queues: Vec<&'a str>,
    msg_ids: Vec<i64>,
    read_cts: Vec<i32>,
    nonces: Vec<uuid::Uuid>,
}

impl<'a> Columns<'a> {
    fn of(tokens: &'a [Token]) -> Self {
        Self {
            queues: tokens.iter().map(|token| token.queue.as_str()).collect(),
            msg_ids: tokens.iter().map(|token| token.msg_id).collect(),
            read_cts: tokens.iter().map(|token| token.read_ct).collect(),
            nonces: tokens.iter().map(|token| token.nonce).collect(),
        }
    }
}

fn names(queues: &[QueueName]) -> Vec<&str> {
    queues.iter().map(QueueName::as_str).collect()
}

fn named(queues: &[QueueName], name: &str) -> QueueName {
    queues.iter().find(|queue| queue.as_str() == name).expect("the functions name only queues they were given").clone()
}

fn indices(ordinals: Vec<i32>) -> Vec<usize> {
    let mut indices: Vec<usize> = ordinals.into_iter().map(index).collect();
    indices.sort_unstable();
    indices
}

fn index(ordinal: i32) -> usize {
    usize::try_from(ordinal - 1).expect("ordinals count from 1")
}

/// A length of time for SQL. What exceeds a century is cut there: added to a time it must stay in PostgreSQL's range.
fn millis(duration: Duration) -> i64 {
    const CENTURY_MS: i64 = 100 * 365 * 24 * 3600 * 1000;
    i64::try_from(duration.as_millis()).unwrap_or(CENTURY_MS).min(CENTURY_MS)
}

fn int(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
