//! `tasker system`: how a server is.

use serde::Serialize;
use tasker_client::Client;
use tasker_client::types::{CheckStatus, DetailedHealth, HandlerList};

use crate::cli::SystemCommand;
use crate::failure::{Failure, Status};
use crate::output::{Output, fields, or_dash, table, time};

/// The versions at both ends.
#[derive(Serialize)]
struct Info<'a> {
    client_version: &'static str,
    server_version: String,
    address: &'a str,
    environment: String,
    uptime_ms: u64,
    status: CheckStatus,
}

pub(super) async fn run(command: SystemCommand, client: &Client, output: &Output) -> Result<Status, Failure> {
    match command {
        SystemCommand::Health => {
            let health = client.detailed_health().await?;
            output.value(&health, health_table)?;
            Ok(Status::done_if(health.status != CheckStatus::Unhealthy))
        }
        SystemCommand::Handlers { namespace } => {
            output.value(&client.handlers(namespace.as_deref()).await?, handlers_table)?;
            Ok(Status::Done)
        }
        SystemCommand::Info => {
            let health = client.detailed_health().await?;
            let info = Info {
                client_version: env!("CARGO_PKG_VERSION"),
                server_version: health.version,
                address: client.address(),
                environment: health.environment,
                uptime_ms: health.uptime_ms,
                status: health.status,
            };
            output.value(&info, info_fields)?;
            Ok(Status::Done)
        }
    }
}

fn health_table(health: &DetailedHealth) -> String {
    let rows = health.checks.iter().map(|(part, check)| {
        [
            part.clone(),
            word(check.status).to_owned(),
            format!("{:.1}", check.duration_ms),
            or_dash(check.message.as_ref()),
        ]
    });
    let checks = table(["PART", "STATUS", "MS", "MESSAGE"], rows, "no checks");
    format!("the server is {}\n\n{checks}", word(health.status))
}

fn handlers_table(list: &HandlerList) -> String {
    let rows = list.handlers.iter().map(|handler| {
        let namespace = or_dash(handler.namespace.as_ref());
        [namespace, handler.name.clone(), handler.workers.join(", "), time(handler.last_seen)]
    });
    table(["NAMESPACE", "HANDLER", "WORKERS", "LAST SEEN"], rows, "no live worker has a handler")
}

fn info_fields(info: &Info<'_>) -> String {
    fields([
        ("command", Some(info.client_version.to_owned())),
        ("server", Some(info.server_version.clone())),
        ("address", Some(info.address.to_owned())),
        ("environment", Some(info.environment.clone())),
        ("up for", Some(format!("{} s", info.uptime_ms / 1000))),
        ("status", Some(word(info.status).to_owned())),
    ])
}

fn word(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Healthy => "healthy",
        CheckStatus::Degraded => "degraded",
        CheckStatus::Unhealthy => "unhealthy",
    }
}
