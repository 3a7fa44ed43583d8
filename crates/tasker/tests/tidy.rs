//! The rules of the house that a compiler does not know. Each rule is a function from text to offences, and each is
//! also tried on text that breaks it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may depend on whom among our own crates. Anything else would turn an arrow of the architecture around.
const ARROWS: [(&str, &[&str]); 11] = [
    ("pgmq-notify", &[]),
    ("tasker-lifecycle", &[]),
    ("tasker-client", &["tasker-lifecycle"]),
    ("tasker-shared", &["pgmq-notify", "tasker-lifecycle"]),
    ("tasker-orchestration", &["pgmq-notify", "tasker-client", "tasker-lifecycle", "tasker-shared"]),
    ("tasker-worker", &["pgmq-notify", "tasker-lifecycle", "tasker-shared"]),
    (
        "tasker",
        &[
            "pgmq-notify",
            "tasker-client",
            "tasker-examples",
            "tasker-lifecycle",
            "tasker-orchestration",
            "tasker-shared",
            "tasker-worker",
        ],
    ),
    ("tasker-examples", &["tasker-client", "tasker-worker"]),
    ("tasker-python", &["tasker-client", "tasker-worker"]),
    ("tasker-ruby", &["tasker-client", "tasker-worker"]),
    ("tasker-typescript", &["tasker-client", "tasker-worker"]),
];

/// What would make a decision depend on more than its arguments.
const IMPURE_CRATES: [&str; 9] =
    ["tokio", "sqlx", "rand", "tracing", "log", "chrono", "reqwest", "futures", "tracing-subscriber"];
const IMPURE_CODE: [&str; 10] = [
    "std::time",
    "SystemTime",
    "Instant::",
    "std::env",
    "std::fs",
    "std::net",
    "std::thread",
    "println!",
    "now_v7",
    "new_v4",
];

/// Folders and files that may speak SQL. Of the files outside, `testing.rs` makes and drops databases, `database.rs`
/// too, and `signals.rs` asks two servers whether they are the same; neither knows any of our tables. The ledger
/// of the examples has tables of its own.
const SQL_HOMES: [&str; 6] = [
    "crates/tasker-shared/src/store/",
    "crates/tasker-shared/src/signals.rs",
    "crates/tasker-shared/src/testing.rs",
    "crates/tasker/src/database.rs",
    "workers/rust/src/ledger.rs",
    "crates/pgmq-notify/src/",
];

/// Words that must not stay in the tree, with the reason. In lower case.
const BANNED: [(&str, &str); 17] = [
    ("todo!", "unfinished"),
    ("unimplemented!", "unfinished"),
    ("fixme", "unfinished"),
    ("dbg!(", "left over from debugging"),
    ("legacy", "say what it is, not how old"),
    ("tas-1", "a ticket number"),
    ("tas-2", "a ticket number"),
    ("issue #", "a ticket number"),
    ("(#1", "a ticket number"),
    ("/work/", "a path of one machine"),
    ("/tmp/spec", "a path of one machine"),
    ("/root/", "a path of one machine"),
    ("crates.io", "a registry's host"),
    ("npmjs.org", "a registry's host"),
    ("pypi.org", "a registry's host"),
    ("rubygems.org", "a registry's host"),
    ("deb.debian.org", "a registry's host"),
];

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

/// What is longer than it should be, with its present length. The numbers may only go down.
const LONG_FILES: [(&str, usize); 0] = [];
const LONG_FUNCTIONS: [(&str, usize); 0] = [];

#[test]
fn crates_depend_in_one_direction() {
    let mut offences = Vec::new();
    for (path, text) in files(|path| path.ends_with("Cargo.toml")) {
        if path != "Cargo.toml" {
            offences.extend(wrong_arrows(&path, &text));
        }
    }
    none(&offences);
    none(&wrong_arrows("x", "[package]\nname = \"tasker-lifecycle\"\n[dev-dependencies]\nproptest.workspace = true"));
    one_found(&wrong_arrows(
        "x",
        "[package]\nname = \"tasker-worker\"\n[dependencies]\ntasker-orchestration.workspace = true",
    ));
    one_found(&wrong_arrows("x", "[package]\nname = \"tasker-new\""));
}

#[test]
fn the_lifecycle_stays_pure() {
    let manifest = fs::read_to_string(root().join("crates/tasker-lifecycle/Cargo.toml")).unwrap();
    let mut offences = impure_manifest(&manifest);
    for (path, text) in files(|path| path.starts_with("crates/tasker-lifecycle/src/") && !path.ends_with("tests.rs")) {
        offences.extend(impure_code(&path, &text));
    }
    none(&offences);
    one_found(&impure_manifest("[dependencies]\nserde = \"1\"\ntokio = \"1\""));
    one_found(&impure_code("x.rs", "fn f() {\n    let now = SystemTime::now();\n}"));
    none(&impure_code("x.rs", "use std::time::Duration;"));
    none(&impure_code("x.rs", "// The caller's SystemTime.\nfn f() {}"));
}

#[test]
fn the_http_contract_compiles_without_a_database() {
    let manifest = fs::read_to_string(root().join("crates/tasker-client/Cargo.toml")).unwrap();
    assert!(!dependencies(&manifest, "dependencies").iter().any(|name| name == "sqlx"));
}

#[test]
fn only_the_store_speaks_sql() {
    let is_home = |path: &str| SQL_HOMES.iter().any(|home| path.starts_with(home));
    let mut offences = Vec::new();
    for (path, text) in files(|path| path.contains("/src/") && path.ends_with(".rs") && !is_home(path)) {
        offences.extend(sql(&path, &text));
    }
    none(&offences);
    one_found(&sql("x.rs", "let rows = sqlx::query_as!(Row, \"SELECT 1\");"));
    one_found(&sql("x.rs", "sqlx::raw_sql(text).execute(conn)"));
    none(&sql("x.rs", "let query = request.query(&[(\"limit\", 5)]);"));
}

#[test]
fn banned_words_stay_out() {
    let mut offences = Vec::new();
    for (path, text) in files(|path| !path.ends_with("tests/tidy.rs")) {
        offences.extend(banned(&path, &text));
    }
    none(&offences);
    one_found(&banned("x.rs", "// A Legacy form."));
    one_found(&banned("x.md", "see /work/x"));
}

#[test]
fn files_and_functions_stay_short() {
    let (mut long_files, mut long_functions) = (BTreeMap::new(), BTreeMap::new());
    for (path, text) in files(is_rust) {
        let lines = text.lines().count();
        if lines > FILE_LINES {
            long_files.insert(path.clone(), lines);
        }
        let long = functions(&text).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES);
        long_functions.extend(long.map(|(name, lines)| (format!("{path} {name}"), lines)));
    }
    let mut offences = ratchet("file", &LONG_FILES, &long_files);
    offences.extend(ratchet("function", &LONG_FUNCTIONS, &long_functions));
    none(&offences);
    let text = "impl X {\n    pub async fn a(\n        self,\n    ) {\n        b();\n    }\n    fn c() {}\n}\n";
    assert_eq!(functions(text), [("a".to_owned(), 5), ("c".to_owned(), 1)]);
    let found = BTreeMap::from([("new".to_owned(), 80), ("grown".to_owned(), 91), ("kept".to_owned(), 80)]);
    let offences = ratchet("function", &[("grown", 90), ("kept", 80), ("gone", 75)], &found);
    assert_eq!(offences.len(), 3, "{offences:?}");
}

#[test]
fn each_module_says_what_it_is() {
    let offences: Vec<String> = files(|path| is_rust(path) && !path.ends_with("/tests.rs"))
        .into_iter()
        .filter_map(|(path, text)| undocumented(&path, &text))
        .collect();
    none(&offences);
    assert!(undocumented("x.rs", "use std::fs;\n").is_some());
    assert!(undocumented("x.rs", "//! What it is.\n").is_none());
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut offences = Vec::new();
    for (path, text) in files(|path| path.ends_with(".md")) {
        offences.extend(dead_links(&root().join(&path), &text));
    }
    none(&offences);
    let here = root().join("crates/tasker/x.md");
    one_found(&dead_links(&here, "see [it](no/such/file.md)"));
    one_found(&dead_links(&here, "# One\nsee [it](#two)"));
    none(&dead_links(&here, "# One `x`\nsee [it](Cargo.toml), [that](#one-x), [web](https://example.com)"));
}

#[test]
fn every_option_of_a_template_is_on_the_page_of_patterns() {
    let page = fs::read_to_string(root().join("docs/patterns.md")).unwrap();
    let reader = fs::read_to_string(root().join("crates/tasker-lifecycle/src/template/read.rs")).unwrap();
    let keys = option_keys(&reader);
    assert!(keys.len() > 35, "the lists of keys are read: {keys:?}");
    let tests: BTreeSet<String> = files(is_rust).iter().flat_map(|(_, text)| test_names(text)).collect();
    none(&missing_options(&page, &keys, &tests));
    let known = BTreeSet::from(["it_works".to_owned()]);
    none(&missing_options("| `a.pool` | x | `it_works` |", &["pool".to_owned()], &known));
    one_found(&missing_options("| `a.pool` | x | `it_works` |", &["pool".to_owned(), "type".to_owned()], &known));
    one_found(&missing_options("| `pool` | x | `it_does_not` |", &["pool".to_owned()], &known));
    one_found(&missing_options("| `pool`, `pool` | x | `it_works` |", &["pool".to_owned()], &known));
}

/// The strings of every list of keys in the reader of templates.
fn option_keys(reader: &str) -> Vec<String> {
    let lists = reader.split("_KEYS: &[&str]").skip(1).chain(reader.split("const KEYS: &[&str]").skip(1));
    let mut keys: Vec<String> = lists
        .filter_map(|rest| rest.split_once(';'))
        .flat_map(|(list, _)| list.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn test_names(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| function_name(line.trim_start())).collect()
}

/// Keys without a row, rows without a test, and options that are there twice.
fn missing_options(page: &str, keys: &[String], tests: &BTreeSet<String>) -> Vec<String> {
    let mut offences = Vec::new();
    let mut seen = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        for option in cells[0].split('`').skip(1).step_by(2) {
            if !seen.insert(option.to_owned()) {
                offences.push(format!("docs/patterns.md: `{option}` is there twice"));
            }
        }
        let proof = cells.last().unwrap().trim().trim_matches('`');
        if !tests.contains(proof) {
            offences.push(format!("docs/patterns.md: there is no test {proof}"));
        }
    }
    let last = |option: &String| option.rsplit(['.', ']']).next().unwrap().to_owned();
    let shown: BTreeSet<String> = seen.iter().map(last).collect();
    let missing = keys.iter().filter(|key| !shown.contains(*key));
    offences.extend(missing.map(|key| format!("docs/patterns.md: the option `{key}` is missing")));
    offences
}

fn wrong_arrows(path: &str, manifest: &str) -> Vec<String> {
    let name = manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).unwrap_or_default();
    let Some((_, allowed)) = ARROWS.iter().find(|(crate_name, _)| *crate_name == name) else {
        return vec![format!("{path}: the crate `{name}` has no arrows in this test")];
    };
    let is_ours = |dependency: &String| ARROWS.iter().any(|(crate_name, _)| crate_name == dependency);
    let is_wrong = |dependency: &String| is_ours(dependency) && !allowed.contains(&dependency.as_str());
    let mut wrong: Vec<String> = dependencies(manifest, "dependencies").into_iter().filter(is_wrong).collect();
    // Tests may use the test databases, wherever they are; the pure core needs none.
    let in_tests = dependencies(manifest, "dev-dependencies").into_iter().filter(is_wrong);
    wrong.extend(in_tests.filter(|dependency| dependency != "tasker-shared" || name == "tasker-lifecycle"));
    wrong.iter().map(|dependency| format!("{path}: {name} must not depend on {dependency}")).collect()
}

/// The names in one section of a manifest.
fn dependencies(manifest: &str, section: &str) -> Vec<String> {
    let header = format!("[{section}]");
    let lines = manifest.lines().skip_while(|line| line.trim() != header).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.trim().is_empty() && !line.starts_with(['#', ' ', '}', ']']))
        .filter_map(|line| Some(line.split(['.', '=', ' ']).next()?.to_owned()))
        .collect()
}

fn impure_manifest(manifest: &str) -> Vec<String> {
    let used = dependencies(manifest, "dependencies");
    used.into_iter()
        .filter(|name| IMPURE_CRATES.contains(&name.as_str()))
        .map(|name| format!("tasker-lifecycle must not depend on {name}"))
        .collect()
}

fn impure_code(path: &str, text: &str) -> Vec<String> {
    on_code_lines(path, text, |code| {
        // A length of time is a plain value.
        let code = code.replace("std::time::Duration", "");
        IMPURE_CODE.iter().find(|word| code.contains(**word)).map(ToString::to_string)
    })
}

fn sql(path: &str, text: &str) -> Vec<String> {
    const SIGNS: [&str; 8] = [
        "query!(",
        "query_as!(",
        "query_scalar!(",
        "query_file",
        "sqlx::query(",
        "sqlx::query_as",
        "sqlx::query_scalar",
        "raw_sql(",
    ];
    on_code_lines(path, text, |code| {
        SIGNS.iter().find(|sign| code.contains(**sign)).map(|_| "SQL outside the store".into())
    })
}

fn banned(path: &str, text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        if let Some((word, reason)) = BANNED.iter().find(|(word, _)| line.contains(word)) {
            offences.push(format!("{path}:{}: `{word}`: {reason}", number + 1));
        }
    }
    offences
}

/// The name and length of each function, by the shape that rustfmt gives it: it ends at the first line that is only
/// a closing brace in the column where it began.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let is_one_line = line.ends_with('}') || line.ends_with(';');
        let end = if is_one_line { Some(start) } else { (start..lines.len()).find(|at| lines[*at] == closing) };
        if let Some(end) = end {
            found.push((name, end - start + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    const BEFORE: [&str; 5] = ["pub", "async", "const", "extern", "unsafe"];
    let (before, after) =
        line.trim_start().strip_prefix("fn ").map_or_else(|| line.split_once(" fn "), |a| Some(("", a)))?;
    let is_qualifier = |word: &str| BEFORE.iter().any(|known| word.starts_with(known));
    let name = after.split(['(', '<']).next()?;
    before.split_whitespace().all(is_qualifier).then(|| name.to_owned())
}

fn ratchet(kind: &str, allowed: &[(&str, usize)], found: &BTreeMap<String, usize>) -> Vec<String> {
    let mut offences = Vec::new();
    for (name, lines) in found {
        match allowed.iter().find(|(known, _)| known == name) {
            None => offences.push(format!("the {kind} {name} has {lines} lines: divide it")),
            Some((_, limit)) if lines > limit => offences.push(format!("the {kind} {name} grew to {lines} lines")),
            Some((_, limit)) if lines < limit => {
                offences.push(format!("the {kind} {name} shrank to {lines} lines: lower its number in this test"));
            }
            Some(_) => {}
        }
    }
    let gone = allowed.iter().filter(|(name, _)| !found.contains_key(*name));
    offences.extend(gone.map(|(name, _)| format!("the {kind} {name} is short now: remove it from this test")));
    offences
}

fn undocumented(path: &str, text: &str) -> Option<String> {
    let first = text.lines().find(|line| !line.trim().is_empty())?;
    (!first.starts_with("//!")).then(|| format!("{path}: begins without a `//!` line that says what it is"))
}

fn dead_links(document: &Path, text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if link.contains("://") || link.starts_with("mailto:") || link.contains(char::is_whitespace) {
            continue;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { document.to_owned() } else { document.parent().unwrap().join(file) };
        let headings = if file.is_empty() { Some(text.to_owned()) } else { fs::read_to_string(&target).ok() };
        let is_there = file.is_empty() || target.exists();
        let has_anchor = anchor.is_empty() || headings.is_some_and(|text| anchors(&text).any(|found| found == anchor));
        if !is_there || !has_anchor {
            offences.push(format!("{}: the link {link} leads nowhere", document.display()));
        }
    }
    offences
}

/// The anchors that a Markdown page's headings get.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings.map(|heading| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    })
}

/// Offences on lines that are not comments.
fn on_code_lines(path: &str, text: &str, rule: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.filter_map(|(number, line)| Some(format!("{path}:{}: {}", number + 1, rule(line)?))).collect()
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

/// The text files of the repository that this test is about, with their paths from its root.
fn files(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                let is_made = [".git", ".sqlx", ".tasker", "target", "node_modules", "data"];
                if !is_made.iter().any(|made| path.ends_with(made)) {
                    folders.push(path);
                }
            } else if ![".env", ".git", "Cargo.lock"].contains(&name.as_str()) && wanted(&name) {
                // What is not text is none of our business.
                found.extend(fs::read_to_string(&path).ok().map(|text| (name, text)));
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[track_caller]
fn none(offences: &[String]) {
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

#[track_caller]
fn one_found(offences: &[String]) {
    assert_eq!(offences.len(), 1, "the rule finds what breaks it: {offences:?}");
}
