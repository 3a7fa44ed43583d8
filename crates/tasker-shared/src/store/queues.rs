//! Which ticket queues there are, and which queues of events.

use std::collections::BTreeSet;

use pgmq_notify::QueueName;
use sqlx::PgConnection;
use tasker_lifecycle::template::{DeliveryMode, Template};

use super::StoreError;
use crate::events;
use crate::messages::ticket_queue;

/// Every ticket queue.
///
/// # Errors
/// Where the database is away.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<QueueName>, StoreError> {
    let names = sqlx::query_scalar!("SELECT queue FROM tasker.queues ORDER BY queue").fetch_all(conn).await?;
    Ok(names.iter().map(QueueName::new).collect::<Result<_, _>>()?)
}

/// The queues that tickets of a template may go to: each of its pools in each band of priority, with the
/// pool and the band.
///
/// # Errors
/// Where namespace and pool make no valid queue name.
pub fn of_template(template: &Template) -> Result<Vec<(QueueName, &str, i16)>, StoreError> {
    let pools: BTreeSet<&str> = template.steps.iter().map(|step| step.pool.as_str()).collect();
    let mut queues = Vec::new();
    for pool in pools {
        for (band, priority) in [(-1_i16, -100), (0, 0), (1, 100)] {
            queues.push((ticket_queue(template.namespace.as_str(), pool, priority)?, pool, band));
        }
    }
    Ok(queues)
}

/// The queue of the events that a template publishes durably, where it does. It holds no tickets and so is not among the
/// registered ones.
#[must_use]
pub fn of_events(template: &Template) -> Option<QueueName> {
    let mut published = template.steps.iter().flat_map(|step| &step.publishes_events);
    let durable = published.any(|event| event.delivery_mode != DeliveryMode::Fast);
    durable.then(|| events::queue(template.namespace.as_str()))
}

/// Makes known the queues of a template whose namespace is registered. The queues themselves must exist: PGMQ
/// makes them in a transaction of its own.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn register(
    conn: &mut PgConnection,
    namespace: &str,
    queues: &[(QueueName, &str, i16)],
) -> Result<(), StoreError> {
    for (queue, pool, band) in queues {
        sqlx::query!(
            "INSERT INTO tasker.queues (queue, namespace, pool, band) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            queue.as_str(),
            namespace,
            pool,
            band
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
