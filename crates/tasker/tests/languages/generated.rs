//! Handlers that `tasker template generate` writes: they pass the lints of their language, and run as they are.

#[path = "generated/handlers.rs"]
pub(crate) mod rust;

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A template with all that a generator has to cope with.
pub(crate) const TEMPLATE: &str = include_str!("../../../../conformance/generated.yaml");

/// The command of a worker that runs generated handlers too. Rust's are compiled into this program.
pub(crate) fn with_handlers(language: &str, command: &str, folder: &TempDir) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let handlers = match language {
        "rust" => {
            let text = generate(language, None);
            let kept = root.join("crates/tasker/tests/languages/generated/handlers.rs");
            if std::env::var_os("UPDATE_DOCS").is_some() {
                std::fs::write(&kept, &text).unwrap();
            }
            assert_eq!(std::fs::read_to_string(&kept).unwrap(), text, "run again with UPDATE_DOCS=1");
            return command.to_owned();
        }
        "python" => {
            let file = folder.path().join("generated.py");
            generate(language, Some(&file));
            let tools = Path::new(command.split_whitespace().next().unwrap()).parent().unwrap();
            passes(Command::new(tools.join("ruff")).args(["check", "--no-cache", "--line-length=120"]).arg(&file));
            let cache = folder.path().join("mypy");
            passes(Command::new(tools.join("mypy")).arg("--strict").arg("--cache-dir").arg(cache).arg(&file));
            file
        }
        "ruby" => {
            let file = folder.path().join("generated.rb");
            generate(language, Some(&file));
            passes(Command::new("ruby").arg("-wc").arg(&file));
            file
        }
        "typescript" => typescript(&root.join("workers/typescript"), folder),
        other => panic!("nothing is generated for {other}"),
    };
    let of_its_own = folder.path().join("handlers");
    std::fs::create_dir(&of_its_own).unwrap();
    std::fs::rename(&handlers, of_its_own.join(handlers.file_name().unwrap())).unwrap();
    format!("{command} --handlers '{}'", of_its_own.display())
}

/// Compiled, because not every Node reads types. It lies where the package's own name leads to the package.
fn typescript(package: &Path, folder: &TempDir) -> PathBuf {
    let place = tempfile::Builder::new().prefix("generated-").tempdir_in(package.join("tests")).unwrap();
    let file = place.path().join("generated.ts");
    generate("typescript", Some(&file));
    let options = [
        "--ignoreConfig",
        "--strict",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--types",
        "node",
        "--skipLibCheck",
    ];
    passes(Command::new(package.join("node_modules/.bin/tsc")).args(options).arg(&file).current_dir(package));
    let compiled = std::fs::read_to_string(file.with_extension("js")).unwrap();
    let entry = format!("file://{}/dist/index.js", package.display());
    let handlers = folder.path().join("generated.mjs");
    std::fs::write(&handlers, compiled.replace("@tasker-systems/tasker", &entry)).unwrap();
    handlers
}

/// What the command writes.
fn generate(language: &str, out: Option<&Path>) -> String {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/generated.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
    command.args(["template", "generate", "--language", language]).arg(template);
    if let Some(out) = out {
        command.arg("--out").arg(out);
    }
    passes(&mut command)
}

/// What it says; it has to succeed.
fn passes(command: &mut Command) -> String {
    let said = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&said.stderr));
    text
}
