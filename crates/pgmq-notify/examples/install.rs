//! Installs PGMQ and our functions into the database that `DATABASE_URL` names.

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL")?;
    let pool = sqlx::PgPool::connect(&url).await?;
    println!("{:?}", pgmq_notify::install(&pool).await?);
    Ok(())
}
