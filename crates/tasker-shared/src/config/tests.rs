#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::keys::{KEYS, Kind, Preset, Range};
use super::*;

/// A configuration folder, and the variables to read it with.
struct Given {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Given {
    fn new(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("base")).unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut given = Self { folder, variables: Vec::new() };
        given.set("TASKER_CONFIG_ROOT", &given.folder.path().display().to_string());
        for (name, value) in variables {
            given.set(name, value);
        }
        given
    }

    fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    fn load(&self) -> Result<Config, Errors> {
        let lookup = |name: &str| {
            let found = self.variables.iter().rev().find(|(have, _)| have == name);
            found.map(|(_, value)| value.clone())
        };
        let names: Vec<String> = self.variables.iter().map(|(name, _)| name.clone()).collect();
        Config::load(&lookup, &names)
    }

    /// The errors, with the folder's path taken out.
    fn errors(&self) -> Vec<String> {
        let root = format!("{}/", self.folder.path().display());
        match self.load() {
            Ok(config) => panic!("accepted: {:#}", config.redacted()),
            Err(errors) => errors.0.iter().map(|error| error.to_string().replace(&root, "")).collect(),
        }
    }
}

#[track_caller]
fn check_errors(files: &[(&str, &str)], variables: &[(&str, &str)], expect: &[&str]) {
    assert_eq!(Given::new(files, variables).errors(), expect, "files {files:?}, variables {variables:?}");
}

#[track_caller]
fn load(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Config {
    Given::new(files, variables).load().unwrap_or_else(|errors| panic!("refused:\n{errors}"))
}

const COMMON: &str = "base/common.toml";
const ORCHESTRATION: &str = "base/orchestration.toml";
const WORKER: &str = "base/worker.toml";

#[test]
fn a_wrong_value_is_named_with_its_file_and_line() {
    let text = "deployment_mode = \"hybrid\"\n\n[queue]\nlease_ms = \"long\"\npoll_max_ms = 0\npoll_min_ms = 1.5\n";
    check_errors(
        &[(COMMON, text)],
        &[],
        &[
            "base/common.toml:1: `deployment_mode` must be one of PollingOnly, EventDrivenOnly, Hybrid, not \"hybrid\"",
            "base/common.toml:4: `queue.lease_ms` must be an integer from 2000 to 3600000 (in the test environment from 50), not \"long\"",
            "base/common.toml:5: `queue.poll_max_ms` must be an integer from 1 to 600000, not 0",
            "base/common.toml:6: `queue.poll_min_ms` must be an integer from 1 to 60000, not this float",
        ],
    );
}

#[test]
fn every_kind_of_key_refuses_what_it_does_not_take() {
    let port = "base/orchestration.toml:1: `web.bind_address` must be an IP address and port such as 127.0.0.1:8080, not \"localhost\"";
    check_errors(&[(ORCHESTRATION, "web.bind_address = \"localhost\"")], &[], &[port]);
    let pools = "base/worker.toml:1: `worker.pools` must be a list of one or more names, each 1 to 12 of a-z and 0-9, not this list";
    check_errors(&[(WORKER, "worker.pools = []")], &[], &[pools]);
    check_errors(&[(WORKER, "worker.pools = [\"GPU\"]")], &[], &[pools]);
    check_errors(&[(WORKER, "worker.pools = [1]")], &[], &[pools]);
    let url = "$TASKER_ORCHESTRATION_URL: `client.url` must be an http:// or https:// URL without credentials, not \"ftp://x\"";
    check_errors(&[], &[("TASKER_ORCHESTRATION_URL", "ftp://x")], &[url]);
    let log = "$RUST_LOG: `telemetry.log` must be a log filter such as info or info,tasker_worker=debug, not \"a=b=c\"";
    check_errors(&[], &[("RUST_LOG", "a=b=c")], &[log]);
    let flag = "base/orchestration.toml:2: `web.allow_unauthenticated_public` must be true or false, not 1";
    check_errors(&[(ORCHESTRATION, "[web]\nallow_unauthenticated_public = 1")], &[], &[flag]);
    let id = "$TASKER_WORKER_ID: `worker.id` must be 1 to 128 bytes of printable text, not \"a\\nb\"";
    check_errors(&[], &[("TASKER_WORKER_ID", "a\nb")], &[id]);
    let database = "$DATABASE_URL: `database.url` must be a URL such as postgres://user:password@host:5432/database, not the value given (it is secret and not shown)";
    for wrong in ["mysql://u@h/d", "postgres://u:pa/ss@h/d", "postgres://u@h/d?sslmod=require", "tasker"] {
        check_errors(&[], &[("DATABASE_URL", wrong)], &[database]);
    }
}

#[test]
fn unknown_keys_sections_files_and_variables_are_refused_with_the_nearest_name() {
    check_errors(
        &[
            (COMMON, "[queue]\nleas_ms = 1\n[databse]\n[quite_another]\nthing = 1\n"),
            (WORKER, "[runner]\nheartbeat_ms = 100\n"),
            ("base/workers.toml", ""),
            ("environments/development/common.toml", "[queue.lease]\nms = 5\n"),
        ],
        &[("TASKER__QUEUE__LEASEMS", "1"), ("TASKER__queue__lease_ms", "1")],
        &[
            "base/workers.toml: unknown file `workers.toml`; did you mean `worker.toml`?",
            "base/common.toml:3: unknown section `databse`; did you mean `database`?",
            "base/common.toml:2: unknown key `queue.leas_ms`; did you mean `queue.lease_ms`?",
            "base/common.toml:5: unknown key `quite_another.thing`",
            "base/worker.toml:2: unknown key `runner.heartbeat_ms`; did you mean `worker.heartbeat_ms`?",
            "environments/development/common.toml:2: unknown key `queue.lease.ms`; did you mean `queue.lease_ms`?",
            "$TASKER__QUEUE__LEASEMS: unknown variable `TASKER__QUEUE__LEASEMS`; did you mean `TASKER__QUEUE__LEASE_MS`?",
            "$TASKER__queue__lease_ms: unknown variable `TASKER__queue__lease_ms`; did you mean `TASKER__QUEUE__LEASE_MS`?",
        ],
    );
}

#[test]
fn a_key_in_the_file_of_another_role_is_refused() {
    check_errors(
        &[(COMMON, "\nworker.concurrency = 1"), ("environments/development/worker.toml", "[web]\nbody_bytes = 9")],
        &[],
        &[
            "base/common.toml:2: `worker.concurrency` belongs in worker.toml",
            "environments/development/worker.toml:2: `web.body_bytes` belongs in orchestration.toml",
        ],
    );
}

#[test]
fn pairs_that_contradict_each_other_are_named_with_both_places() {
    check_errors(
        &[(COMMON, "[queue]\nlease_ms = 9999\npoll_min_ms = 900\npoll_max_ms = 800\n")],
        &[("TASKER__ACTOR__BATCH_MAX", "2000")],
        &[
            "base/common.toml:2: `queue.lease_ms` = 9999 must be at least 2 × `worker.heartbeat_ms` = 5000 (default), else one late heartbeat would lose every claim",
            "base/common.toml:4: `queue.poll_max_ms` = 800 must be at least `queue.poll_min_ms` = 900 (base/common.toml:3), else the pause between polls grows from the one to the other",
            "default: `actor.inbox` = 1024 must be at least `actor.batch_max` = 2000 ($TASKER__ACTOR__BATCH_MAX), else a batch is taken from the inbox and can't be larger",
        ],
    );
    load(&[(COMMON, "[queue]\nlease_ms = 10000\npoll_min_ms = 800\npoll_max_ms = 800\n")], &[]);
}

#[test]
fn a_broken_file_does_not_hide_the_errors_of_the_others() {
    let errors = Given::new(&[(COMMON, "[queue]\nlease_ms = = 5\n"), (WORKER, "worker.concurrency = 0")], &[]).errors();
    assert!(errors[0].starts_with("base/common.toml:2: "), "{errors:#?}");
    assert!(errors.iter().any(|line| line.starts_with("base/worker.toml:1: `worker.concurrency`")), "{errors:#?}");
    let errors = Given::new(&[(COMMON, "[queue]\nlease_ms = 5000\nlease_ms = 6000\n")], &[]).errors();
    assert_eq!(errors, ["base/common.toml:3: duplicate key"]);
}

#[test]
fn the_last_place_that_names_a_key_wins() {
    let base = (COMMON, "[telemetry]\nlog = \"a\"\n[queue]\npoll_min_ms = 10\npoll_max_ms = 20\n");
    let environment = ("environments/test/common.toml", "[telemetry]\nlog = \"b\"\n[queue]\npoll_max_ms = 30\n");
    let files = [base, environment];
    let long = ("TASKER__TELEMETRY__LOG", "c");
    let check = |variables: &[(&str, &str)], log: &str, poll_max_ms: u64, source: &str| {
        let given = Given::new(&files, variables);
        let config = given.load().unwrap();
        let settings = config.sources();
        let setting = settings.iter().find(|setting| setting.name == "telemetry.log").unwrap();
        let root = format!("{}/", given.folder.path().display());
        let have = (&*config.telemetry.log, config.queue.poll_max_ms, setting.source.to_string().replace(&root, ""));
        assert_eq!(have, (log, poll_max_ms, source.to_owned()), "{variables:?}");
        assert_eq!(setting.value, log);
        assert_eq!(config.queue.poll_min_ms, 10, "a table is merged, not replaced");
    };
    check(&[], "a", 20, "base/common.toml:2");
    check(&[("TASKER_ENV", "test")], "b", 30, "environments/test/common.toml:2");
    check(&[("TASKER_ENV", "test"), long], "c", 30, "$TASKER__TELEMETRY__LOG");
    check(&[("TASKER_ENV", "test"), long, ("RUST_LOG", "d")], "d", 30, "$RUST_LOG");
    check(&[("RUST_LOG", "")], "a", 20, "base/common.toml:2");
    assert_eq!(load(&[], &[]).sources()[0].source, Source::Default);
}

#[test]
fn one_single_file_takes_the_place_of_the_folder() {
    let mut given =
        Given::new(&[(COMMON, "nonsense"), ("one.toml", "[queue]\npoll_min_ms = 7\n[worker]\nconcurrency = 3\n")], &[]);
    given.set("TASKER_CONFIG_PATH", &given.folder.path().join("one.toml").display().to_string());
    let config = given.load().unwrap();
    assert_eq!((config.queue.poll_min_ms, config.worker.concurrency), (7, 3));
    given.set("TASKER_CONFIG_PATH", &given.folder.path().join("none.toml").display().to_string());
    assert_eq!(given.errors(), ["none.toml: No such file or directory (os error 2)"]);
}

#[test]
fn a_folder_and_an_environment_that_do_not_exist_are_refused() {
    let mut given = Given::new(&[], &[("TASKER_ENV", "staging")]);
    assert_eq!(given.errors(), ["$TASKER_ENV: must be one of test, development, production, not \"staging\""]);
    given.set("TASKER_ENV", "");
    given.set("TASKER_CONFIG_ROOT", &given.folder.path().join("nowhere").display().to_string());
    assert_eq!(given.errors(), ["nowhere/base: is no folder; TASKER_CONFIG_ROOT must hold base/ and environments/"]);
}

#[test]
fn variables_in_strings_are_replaced_and_typed_by_the_key() {
    let text = "[telemetry]\nlog = \"${LEVEL:-warn},x=${X}\"\n[limits]\njson_depth = \"${READS:-7}\"\n[client]\nurl = \"http://h/$${a}\"\n";
    let config = load(&[(COMMON, text)], &[("X", "debug"), ("LEVEL", "")]);
    assert_eq!((&*config.telemetry.log, config.limits.json_depth), ("warn,x=debug", 7));
    assert_eq!(config.client.url, "http://h/${a}");
    let config = load(&[(COMMON, text)], &[("X", "debug"), ("READS", "9"), ("LEVEL", "info")]);
    assert_eq!((&*config.telemetry.log, config.limits.json_depth), ("info,x=debug", 9));
    let list = (WORKER, "worker.namespaces = [\"${A:-shop}\", \"b\"]");
    assert_eq!(load(&[list], &[]).worker.namespaces.unwrap(), ["shop", "b"]);

    check_errors(
        &[
            (COMMON, "client.url = \"${NOWHERE}\"\ntelemetry.log = \"${LEVEL\"\nlimits.json_depth = \"7\"\n"),
            (WORKER, "worker.id = \"${a b}\""),
        ],
        &[],
        &[
            "base/common.toml:1: `client.url` needs the variable NOWHERE, which is not set; `${NOWHERE:-…}` gives it a default",
            "base/common.toml:3: `limits.json_depth` must be an integer from 4 to 512, not \"7\"",
            "base/common.toml:2: `telemetry.log` has a `${` without `}`",
            "base/worker.toml:1: `worker.id` has a `${…}` that does not hold `VAR` or `VAR:-default`",
        ],
    );
}

#[test]
fn the_value_of_a_variable_is_not_substituted_again() {
    let config = load(&[], &[("TASKER_WORKER_ID", "w-${HOME}")]);
    assert_eq!(config.worker.id, "w-${HOME}");
}

#[test]
fn a_public_address_needs_the_explicit_word() {
    let refused = "`web.bind_address` = ADDRESS can be reached from other machines, and the API has no authentication: bind to 127.0.0.1 or say `web.allow_unauthenticated_public = true`";
    for address in ["0.0.0.0:80", "10.0.0.1:80", "[::]:80"] {
        let message = format!("$TASKER_WEB_BIND_ADDRESS: {}", refused.replace("ADDRESS", address));
        check_errors(&[], &[("TASKER_WEB_BIND_ADDRESS", address)], &[&message]);
        load(&[(ORCHESTRATION, "web.allow_unauthenticated_public = true")], &[("TASKER_WEB_BIND_ADDRESS", address)]);
    }
    for address in ["127.0.0.1:80", "127.9.9.9:0", "[::1]:80"] {
        load(&[], &[("TASKER_WEB_BIND_ADDRESS", address)]);
    }
}

#[test]
fn durability_can_not_be_switched_off_in_production() {
    let url = |options: &str| format!("postgres://u@h/d?{options}");
    for off in [
        "options=-c%20synchronous_commit%3Doff",
        "options=-csynchronous_commit%3DOFF%20-c%20geqo=off",
        "options=--synchronous-commit%3Dfalse",
        "options[synchronous_commit]=off",
        "options%5Bsynchronous_commit%5D=0",
    ] {
        let off = url(off);
        let message = "$DATABASE_URL: `database.url` (or PGOPTIONS) sets synchronous_commit = off; in production no answer may outrun the disk";
        check_errors(&[], &[("TASKER_ENV", "production"), ("DATABASE_URL", &off)], &[message]);
        let message =
            message.replace("$DATABASE_URL", "$PGMQ_DATABASE_URL").replace("database.url", "database.pgmq_url");
        check_errors(&[], &[("TASKER_ENV", "production"), ("PGMQ_DATABASE_URL", &off)], &[&message]);
        load(&[], &[("DATABASE_URL", &off)]);
    }
    for on in ["options=-c%20synchronous_commit%3Don", "options=-c%20geqo%3Doff", "options[synchronous_commit]=local"] {
        load(&[], &[("TASKER_ENV", "production"), ("DATABASE_URL", &url(on))]);
    }
}

#[test]
fn short_leases_are_for_tests() {
    let short = [("TASKER__QUEUE__LEASE_MS", "200"), ("TASKER__WORKER__HEARTBEAT_MS", "50")];
    let config = load(&[], &[short[0], short[1], ("TASKER_ENV", "test")]);
    assert_eq!((config.queue.lease_ms, config.worker.heartbeat_ms), (200, 50));
    for environment in ["development", "production"] {
        let errors = Given::new(&[], &[short[0], short[1], ("TASKER_ENV", environment)]).errors();
        assert_eq!(errors.len(), 2, "{errors:#?}");
    }
    load(
        &[],
        &[("TASKER_ENV", "production"), ("TASKER__QUEUE__LEASE_MS", "2000"), ("TASKER__WORKER__HEARTBEAT_MS", "1000")],
    );
}

#[test]
fn secrets_appear_in_no_output() {
    let canary = "canary7f3a";
    let good = format!("postgres://tasker:{canary}@db.example:5433/shop?options=-c%20geqo%3Doff");
    let config = load(&[], &[("DATABASE_URL", &good), ("PGMQ_DATABASE_URL", &good)]);
    assert_eq!(config.database.url.as_ref().unwrap().expose(), good);
    assert_eq!(config.redacted()["database"]["url"], "postgres://tasker:***@db.example:5433/shop");
    let shown = format!("{config:?} {config:#?} {} {:?}", config.redacted(), config.sources());
    assert!(!shown.contains(canary), "{shown}");

    let syntax = format!("[database]\nurl = \"postgres://u:{canary}@h/d\n");
    let unknown = format!("database.urll = \"postgres://u:{canary}@h/d\"");
    let list = format!("database.url = [\"{canary}\"]");
    for text in [&*syntax, &*unknown, &*list] {
        let errors = Given::new(&[(COMMON, text)], &[]).errors().join("\n");
        assert!(errors.contains("base/common.toml:") && !errors.contains(canary), "{errors}");
    }
    for wrong in [
        format!("postgres://u:{canary}/x@h/d"),
        format!("postgres://u:12/{canary}@h/d"),
        format!("postgres://u@h/d?sslpassword={canary}"),
        canary.to_owned(),
    ] {
        let errors = Given::new(&[], &[("DATABASE_URL", &wrong)]).errors().join("\n");
        assert!(!errors.contains(canary), "{errors}");
        assert_eq!(Secret::new(&*wrong).redacted(), "***");
    }
}

/// A valid value of the key that is not its default.
fn another_value(key: &keys::Key) -> (String, Value) {
    match (key.kind, key.default) {
        (Kind::Integer(Range { min, .. }), Preset::Value(default)) => {
            let value = default.parse::<u64>().unwrap() + 1;
            assert!(value > min);
            (value.to_string(), value.into())
        }
        (Kind::Flag, _) => ("true".to_owned(), true.into()),
        (Kind::Choice(words), Preset::Value(default)) => {
            let word = words.iter().find(|word| **word != default).unwrap();
            ((*word).to_owned(), (*word).into())
        }
        (Kind::Names { .. }, _) => ("a,b".to_owned(), vec!["a", "b"].into()),
        (Kind::Address, _) => ("127.0.0.1:9".to_owned(), "127.0.0.1:9".into()),
        (Kind::HttpUrl, _) => ("https://h".to_owned(), "https://h".into()),
        (Kind::DatabaseUrl, _) => ("postgres://u@h:1/d".to_owned(), "postgres://u:***@h:1/d".into()),
        (Kind::Text | Kind::Path | Kind::LogFilter, _) => ("debug".to_owned(), "debug".into()),
        (kind, default) => panic!("{kind:?} with {default:?}"),
    }
}

#[test]
fn every_key_reaches_the_field_of_its_name_and_every_field_has_a_key() {
    for key in KEYS {
        let (text, value) = another_value(key);
        // Neighbours that a pair compares with are moved along.
        let wide = [("TASKER__DATABASE__MAX_CONNECTIONS", "900"), ("TASKER__WEB__BODY_BYTES", "9000000")];
        let variable = key.override_variable();
        let variables: Vec<_> = wide.into_iter().chain([(&*variable, &*text)]).collect();
        let config = load(&[], &variables);
        let pointer = format!("/{}", key.name.replace('.', "/"));
        assert_eq!(config.redacted().pointer(&pointer), Some(&value), "{}", key.name);
    }
    let mut fields = BTreeSet::new();
    let all = Config::default().redacted();
    for (section, value) in all.as_object().unwrap() {
        match value {
            Value::Object(inner) => fields.extend(inner.keys().map(|field| format!("{section}.{field}"))),
            _ => _ = fields.insert(section.clone()),
        }
    }
    assert!(fields.remove("environment"));
    assert_eq!(fields, KEYS.iter().map(|key| key.name.to_owned()).collect());
}

#[test]
fn the_built_in_defaults_are_what_an_empty_folder_gives() {
    let (mut built_in, mut empty) = (Config::default().redacted(), load(&[], &[]).redacted());
    for config in [&mut built_in, &mut empty] {
        let id = config["worker"]["id"].take();
        assert!(id.as_str().unwrap().contains(&format!("-{}-", std::process::id())), "{id}");
    }
    assert_eq!(built_in, empty);
    assert_ne!(Config::default().worker.id, Config::default().worker.id);
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_files_we_ship_are_valid_in_every_environment() {
    for environment in ["test", "development", "production"] {
        let mut given = Given::new(&[], &[("TASKER_ENV", environment)]);
        given.set("TASKER_CONFIG_ROOT", &repository().join("config/tasker").display().to_string());
        let config = given.load().unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.environment.to_string(), environment);
        let from_files = config.sources().iter().filter(|setting| matches!(setting.source, Source::File(..))).count();
        assert!(from_files >= 5, "{environment} takes only {from_files} values from files");
    }
}

#[test]
fn the_documentation_page_is_the_generated_one() {
    let path = repository().join("docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, docs()).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap();
    assert!(page == docs(), "docs/configuration.md is stale: run this test with UPDATE_DOCS=1 or `tasker config docs`");
}

#[test]
fn explain_tells_default_range_variables_and_reason() {
    let text = explain("queue.lease_ms").unwrap();
    for part in ["`30000` ms", "2000 to 3600000", "TASKER__QUEUE__LEASE_MS", "claimed ticket"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(explain("database.url").unwrap().contains("`DATABASE_URL`"));
    assert!(explain("queue.lease").is_none());
    assert_eq!(keys::suggest("queue.lease"), Some("queue.lease_ms"));
}
