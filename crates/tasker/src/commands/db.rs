//! `tasker db`: bring the schema to this version, look at it, take it away.

use std::io::IsTerminal;

use serde::Serialize;
use sqlx::Connection;
use tasker_shared::config::Config;
use tasker_shared::store;

use crate::cli::DbCommand;
use crate::database::Database;
use crate::failure::{Failure, Status};
use crate::output::Output;

/// What `db status` tells.
#[derive(Debug, Serialize)]
struct Schema {
    database: String,
    server_version: String,
    migrations_applied: i64,
    migrations_known: usize,
    up_to_date: bool,
    live_tasks: i64,
}

pub(crate) async fn run(command: &DbCommand, config: &Config, output: &Output) -> Result<Status, Failure> {
    match command {
        DbCommand::Setup | DbCommand::Migrate => {
            let database = Database::open(config, None).await?;
            output.line(&format!("{} is up to date", database.what))?;
            database.close().await;
            Ok(Status::Done)
        }
        DbCommand::Check => check(config, output, true).await,
        DbCommand::Status => check(config, output, false).await,
        DbCommand::Reset { yes } => reset(config, *yes, output).await,
    }
}

/// Looks without changing anything. `strict` makes an old schema a failure.
async fn check(config: &Config, output: &Output, strict: bool) -> Result<Status, Failure> {
    let Some(url) = &config.database.url else {
        return Err(Failure::Usage("no database is named; set DATABASE_URL".to_owned()));
    };
    let mut conn = sqlx::PgConnection::connect(url.expose()).await.map_err(failed)?;
    let (database, server_version) = store::schema::server(&mut conn).await.map_err(failed)?;
    let applied = store::schema::applied(&mut conn).await.map_err(failed)?;
    let known = store::schema::known();
    let up_to_date = usize::try_from(applied.unwrap_or(0)) == Ok(known);
    let live_tasks = match up_to_date {
        true => store::schema::live_tasks(&mut conn).await.map_err(failed)?,
        false => 0,
    };
    let migrations_applied = applied.unwrap_or(0);
    let schema =
        Schema { database, server_version, migrations_applied, migrations_known: known, up_to_date, live_tasks };
    output.value(&schema, |schema| {
        let Schema { database, server_version, live_tasks, .. } = schema;
        let state = if schema.up_to_date { "up to date" } else { "not at this version; run `tasker db migrate`" };
        format!(
            "{database} (PostgreSQL {server_version}): {migrations_applied} of {known} migrations, {state}; {live_tasks} live tasks"
        )
    })?;
    Ok(Status::done_if(up_to_date || !strict))
}

async fn reset(config: &Config, yes: bool, output: &Output) -> Result<Status, Failure> {
    if !yes && !confirmed()? {
        return Ok(Status::Failed);
    }
    let database = Database::open(config, None).await?;
    let mut conn = database.pool.acquire().await.map_err(failed)?;
    store::schema::drop_everything(&mut conn).await.map_err(failed)?;
    drop(conn);
    store::migrate(&database.pool).await.map_err(failed)?;
    output.line(&format!("{} is empty and up to date", database.what))?;
    database.close().await;
    Ok(Status::Done)
}

fn confirmed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let message = "this deletes every task, template and queue; say --yes to do it without being asked";
        return Err(Failure::Usage(message.to_owned()));
    }
    eprint!("This deletes every task, template and queue. Type `reset` to go on: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "reset")
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("database: {error}"))
}
