//! The schema itself: which version it has, and how to take it away.

use sqlx::PgConnection;

use super::StoreError;

/// How many migrations this version has.
#[must_use]
pub fn known() -> usize {
    sqlx::migrate!().migrations.len()
}

/// The database's name and the server's version.
///
/// # Errors
/// Where the database is away.
pub async fn server(conn: &mut PgConnection) -> Result<(String, String), StoreError> {
    let row =
        sqlx::query!(r#"SELECT current_database()::text AS "name!", current_setting('server_version') AS "version!""#)
            .fetch_one(conn)
            .await?;
    Ok((row.name, row.version))
}

/// How many migrations were applied; `None` where there is no schema of ours.
///
/// # Errors
/// Where the database is away.
pub async fn applied(conn: &mut PgConnection) -> Result<Option<i64>, StoreError> {
    let there = sqlx::query_scalar!(r#"SELECT to_regclass('tasker._sqlx_migrations') IS NOT NULL AS "there!""#)
        .fetch_one(&mut *conn)
        .await?;
    if !there {
        return Ok(None);
    }
    // The table is made by the migrator, after the schema that queries are checked against.
    let applied = sqlx::query_scalar("SELECT count(*) FROM tasker._sqlx_migrations WHERE success");
    Ok(Some(applied.fetch_one(conn).await?))
}

/// How many tasks have not ended; stops counting at 100,000.
///
/// # Errors
/// Where the database is away.
pub async fn live_tasks(conn: &mut PgConnection) -> Result<i64, StoreError> {
    let live = sqlx::query_scalar!(
        r#"SELECT count(*) AS "live!" FROM (SELECT FROM tasker.tasks WHERE ended_at IS NULL LIMIT 100000) t"#
    )
    .fetch_one(conn)
    .await?;
    Ok(live)
}

/// Drops our schema with every task, and the queues it knows of.
///
/// # Errors
/// Where the database refuses or is away.
pub async fn drop_everything(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        "SELECT count(pgmq.drop_queue(queue_name)) FROM pgmq.list_queues()
         WHERE queue_name IN (SELECT queue FROM tasker.queues
                              UNION ALL SELECT namespace || '_domain_events' FROM tasker.namespaces)"
    )
    .fetch_one(&mut *conn)
    .await?;
    for queue in [crate::messages::TASK_REQUESTS, crate::messages::STEP_RESULTS] {
        sqlx::query!("SELECT pgmq.drop_queue($1)", queue).fetch_one(&mut *conn).await?;
    }
    sqlx::query!("DROP SCHEMA tasker CASCADE").execute(conn).await?;
    Ok(())
}
