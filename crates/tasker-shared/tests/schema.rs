//! The migrated schema as one file: what a change of the migrations means shows as a difference in schema.sql.
//!
//! PostgreSQL itself prints it. Its spelling changes with its major version, so one version's is compared.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

use tasker_shared::testing::TestDatabase;

const MAJOR: i32 = 15;

#[tokio::test]
async fn the_schema_file_is_what_the_migrations_make() {
    let db = TestDatabase::create().await;
    let version: String = sqlx::query_scalar("SHOW server_version_num").fetch_one(&db.pool).await.unwrap();
    if version.parse::<i32>().unwrap() / 10_000 != MAJOR {
        eprintln!("not compared: the server is {version}, schema.sql is of PostgreSQL {MAJOR}");
        return;
    }
    let schema = normalised(&dump(&db.url));
    assert!(schema.contains("CREATE TABLE tasker.tasks") && schema.contains("CREATE FUNCTION tasker.lock_and_take"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.sql");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &schema).unwrap();
    }
    let stored = std::fs::read_to_string(&file).unwrap_or_default();
    let line = schema.lines().zip(stored.lines()).find(|(new, old)| new != old);
    assert!(schema == stored, "schema.sql is stale (UPDATE_DOCS=1 writes it). The first difference: {line:#?}");
}

#[test]
fn what_changes_from_run_to_run_is_left_out() {
    let dumped =
        "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\nSET x = 1;\n\n\n--\n-- Name: f; Type: FUNCTION\n--\n
CREATE FUNCTION tasker.f() AS $$\n    -- Why.\n-- Said at the margin.\n    SET y = 2;\n$$;\n\n\\unrestrict abc\n";
    let kept = "CREATE FUNCTION tasker.f() AS $$\n    -- Why.\n-- Said at the margin.\n    SET y = 2;\n$$;\n";
    assert_eq!(normalised(dumped), format!("{HEAD}\n{kept}"));
}

const HEAD: &str =
    "-- The schema that the migrations make, for reading and for differences. A test prints it; nothing runs it.
-- Left out: the monthly partitions, and the migrator's own table.
";

fn dump(url: &str) -> String {
    let bin = format!("/usr/lib/postgresql/{MAJOR}/bin/pg_dump");
    let program = if Path::new(&bin).exists() { bin.as_str() } else { "pg_dump" };
    // The server takes only the part of the URL that it knows.
    let url = url.split('?').next().unwrap();
    let output = Command::new(program)
        .args(["--schema-only", "--no-owner", "--schema=tasker", "--exclude-table=tasker._sqlx_migrations"])
        .args(["--exclude-table=tasker.*_[0-9][0-9][0-9][0-9]_[0-9][0-9]", url])
        .output()
        .unwrap_or_else(|error| panic!("pg_dump of PostgreSQL {MAJOR} or newer is needed: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Without the dump's own remarks and settings, and without the blank lines that they leave.
fn normalised(dumped: &str) -> String {
    const NOISE: [&str; 8] = [
        "-- Name: ",
        "-- Dumped ",
        "-- PostgreSQL database",
        "\\restrict",
        "\\unrestrict",
        "SET ",
        "SELECT pg_catalog.set_config",
        "--\n",
    ];
    let mut schema = HEAD.to_owned();
    let mut blank = true;
    for line in dumped.lines().filter(|line| !NOISE.iter().any(|noise| format!("{line}\n").starts_with(noise))) {
        if line.trim().is_empty() {
            blank = true;
            continue;
        }
        if std::mem::take(&mut blank) {
            schema.push('\n');
        }
        schema.push_str(line.trim_end());
        schema.push('\n');
    }
    schema
}
