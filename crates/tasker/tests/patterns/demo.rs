//! `tasker demo`, as a newcomer runs it: every example gives what its input gives.

use std::process::Command;

use serde_json::Value;
use tasker_shared::testing::TestDatabase;

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_ends_as_expected() {
    let database = TestDatabase::empty().await;
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
    command.args(["demo", "--json", "--data-dir"]).arg(folder.path()).env("DATABASE_URL", &database.url);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{said}");
    let examples: Vec<Value> = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(examples.len(), tasker_examples::templates().len());
    for example in &examples {
        assert_eq!((&example["status"], &example["as_expected"]), (&"complete".into(), &true.into()), "{example:#}");
    }
}
