//! A transfer between two accounts: postings that are written once each, because each commits together with the
//! completion of its step.
//!
//! Nothing here looks whether a posting is there already, and no key forbids a second one. A worker that dies before the
//! commit has posted nothing, one that dies after it has completed the step, and one that was paused for too long cannot
//! commit at all.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tasker_worker::sqlx::{self, Executor, PgPool};
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepOutcome};

use crate::money::Cents;

const TABLES: &str = "
    CREATE SCHEMA IF NOT EXISTS examples;
    CREATE TABLE IF NOT EXISTS examples.accounts (account text PRIMARY KEY, balance_cents bigint NOT NULL DEFAULT 0);
    CREATE TABLE IF NOT EXISTS examples.ledger (
        entry bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        transfer uuid NOT NULL,
        account text NOT NULL REFERENCES examples.accounts,
        amount_cents bigint NOT NULL,
        posted_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX IF NOT EXISTS ledger_transfer ON examples.ledger (transfer);
";

#[derive(Deserialize)]
struct Transfer {
    from: String,
    to: String,
    amount_cents: Cents,
    pause_ms: Option<u64>,
}

pub(crate) fn register(registry: &mut HandlerRegistry, pool: &PgPool) {
    let (opens, debits, credits, proves) = (pool.clone(), pool.clone(), pool.clone(), pool.clone());
    registry.register_fn("ledger.Open", move |ctx| open(ctx, opens.clone()));
    registry.register_method("ledger.Account", "debit", move |ctx| debit(ctx, debits.clone()));
    registry.register_method("ledger.Account", "credit", move |ctx| credit(ctx, credits.clone()));
    registry.register_fn("ledger.Prove", move |ctx| prove(ctx, proves.clone()));
}

/// May run any number of times: it makes what is missing.
async fn open(ctx: StepContext, pool: PgPool) -> Result<StepOutcome, StepError> {
    let Transfer { from, to, .. } = ctx.input()?;
    if from == to {
        return Err(StepError::permanent("an account can't pay itself").with_class("validation_error"));
    }
    let mut tx = pool.begin().await?;
    // PostgreSQL lets only one of two that make the same table at once succeed.
    tx.execute("SELECT pg_advisory_xact_lock(hashtextextended('examples.ledger', 0))").await?;
    tx.execute(sqlx::raw_sql(TABLES)).await?;
    let opened = "INSERT INTO examples.accounts (account) VALUES ($1), ($2) ON CONFLICT DO NOTHING";
    let opened = sqlx::query(opened).bind(from).bind(to).execute(&mut *tx).await?;
    tx.commit().await?;
    StepOutcome::success(json!({"accounts_opened": opened.rows_affected()}))
}

async fn debit(ctx: StepContext, pool: PgPool) -> Result<StepOutcome, StepError> {
    let Transfer { from, amount_cents, pause_ms, .. } = ctx.input()?;
    post(&ctx, &pool, &from, amount_cents.times(-1), pause_ms).await
}

async fn credit(ctx: StepContext, pool: PgPool) -> Result<StepOutcome, StepError> {
    let Transfer { to, amount_cents, pause_ms, .. } = ctx.input()?;
    post(&ctx, &pool, &to, amount_cents, pause_ms).await
}

async fn post(
    ctx: &StepContext,
    pool: &PgPool,
    account: &str,
    amount: Cents,
    pause_ms: Option<u64>,
) -> Result<StepOutcome, StepError> {
    let mut tx = pool.begin().await?;
    let book = "WITH booked AS (
                    UPDATE examples.accounts SET balance_cents = balance_cents + $3 WHERE account = $2 RETURNING account
                )
                INSERT INTO examples.ledger (transfer, account, amount_cents) SELECT $1, account, $3 FROM booked";
    sqlx::query(book).bind(ctx.task_uuid()).bind(account).bind(amount.0).execute(&mut *tx).await?;
    if let Some(pause_ms) = pause_ms {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
    // The last statement, so that the time in which others wait for the step's ticket is short.
    let outcome = ctx.complete_in(&mut tx, json!({"account": account, "amount_cents": amount.0})).await?;
    tx.commit().await?;
    Ok(outcome)
}

async fn prove(ctx: StepContext, pool: PgPool) -> Result<StepOutcome, StepError> {
    let Transfer { from, to, amount_cents, .. } = ctx.input()?;
    let posted = "SELECT count(*), coalesce(sum(amount_cents), 0)::bigint,
                         coalesce(sum(amount_cents) FILTER (WHERE account = $2), 0)::bigint
                  FROM examples.ledger WHERE transfer = $1";
    let posted = sqlx::query_as(posted).bind(ctx.task_uuid()).bind(&to);
    let (entries, sum, paid): (i64, i64, i64) = posted.fetch_one(&pool).await?;
    if (entries, sum, paid) != (2, 0, amount_cents.0) {
        let found = format!("{entries} entries of {sum} cents in all, {paid} of them to {to}");
        return Err(StepError::permanent(found).with_class("ledger_is_wrong"));
    }
    StepOutcome::success(json!({"from": from, "to": to, "paid_cents": paid, "entries": entries, "sum_cents": sum}))
}
