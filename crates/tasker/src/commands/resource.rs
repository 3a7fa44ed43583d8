//! `tasker resource`: what steps share, and what it may bear.

use tasker_client::Client;
use tasker_client::types::{BreakerState, ResourceInfo, ResourceList, ResourceQuery, ResourceUpdate};

use crate::cli::{Account, ResourceCommand, Which};
use crate::failure::{Failure, Status};
use crate::output::{Output, fields, table, time};

pub(super) async fn run(command: ResourceCommand, client: &Client, output: &Output) -> Result<Status, Failure> {
    let (which, account, update) = match command {
        ResourceCommand::List { namespace } => {
            output.value(&client.resources(&ResourceQuery { namespace }).await?, list)?;
            return Ok(Status::Done);
        }
        ResourceCommand::Get { which: Which { namespace, name } } => {
            output.value(&client.resource(&namespace, &name).await?, details)?;
            return Ok(Status::Done);
        }
        ResourceCommand::Set { which, max_in_flight, failures_to_open, open_ms, max_open_ms, account } => {
            let update = ResourceUpdate::default();
            (which, account, ResourceUpdate { max_in_flight, failures_to_open, open_ms, max_open_ms, ..update })
        }
        ResourceCommand::Pause { which, account } => (which, account, paused(true)),
        ResourceCommand::Resume { which, account } => (which, account, paused(false)),
        ResourceCommand::Close { which, account } => {
            (which, account, ResourceUpdate { close: true, ..ResourceUpdate::default() })
        }
    };
    let Account { reason, by } = account;
    let update = ResourceUpdate { reason: Some(reason), set_by: Some(by), ..update };
    output.value(&client.update_resource(&which.namespace, &which.name, &update).await?, details)?;
    Ok(Status::Done)
}

fn paused(paused: bool) -> ResourceUpdate {
    ResourceUpdate { paused: Some(paused), ..ResourceUpdate::default() }
}

fn list(list: &ResourceList) -> String {
    let rows = list.resources.iter().map(|resource| {
        [
            format!("{}/{}", resource.namespace, resource.name),
            state(resource),
            flight(resource),
            resource.held.to_string(),
            time(resource.changed_at),
        ]
    });
    table(["RESOURCE", "STATE", "IN FLIGHT", "HELD", "CHANGED"], rows, "no template uses a resource")
}

fn state(resource: &ResourceInfo) -> String {
    let breaker = match resource.breaker {
        BreakerState::Closed => "closed".to_owned(),
        BreakerState::Open => resource.open_until.map_or("open".to_owned(), |at| format!("open until {}", time(at))),
        BreakerState::HalfOpen => "half open".to_owned(),
    };
    if resource.paused { format!("paused, {breaker}") } else { breaker }
}

fn flight(resource: &ResourceInfo) -> String {
    let limits = [resource.max_in_flight, resource.allowed_in_flight];
    match limits.into_iter().flatten().min() {
        Some(limit) => format!("{}/{limit}", resource.in_flight),
        None => resource.in_flight.to_string(),
    }
}

fn details(resource: &ResourceInfo) -> String {
    let failures = match resource.failures_to_open {
        0 => "never".to_owned(),
        most => format!("after {most} failures in a row, {} so far", resource.failures),
    };
    fields([
        ("resource", Some(format!("{}/{}", resource.namespace, resource.name))),
        ("state", Some(state(resource))),
        ("in flight", Some(flight(resource))),
        ("held", Some(resource.held.to_string())),
        ("opens", Some(failures)),
        ("open for", Some(format!("{} ms at first, at most {} ms", resource.open_ms, resource.max_open_ms))),
        ("set by", resource.set_by.clone()),
        ("reason", resource.reason.clone()),
        ("changed", Some(time(resource.changed_at))),
    ])
}
