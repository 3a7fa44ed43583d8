//! Workers in other languages: the command that starts one, and those of `tasker dev --worker`, which are watched,
//! started again when their files change, and whose lines are shown with the language before them.

mod watched;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use clap::ValueEnum;
use tasker_shared::config::Config;

use crate::failure::Failure;

pub(crate) use watched::Watched;

/// A language with a worker package of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Language {
    /// The package `tasker_core`
    Python,
    /// The gem `tasker-rb`
    Ruby,
    /// The package `@tasker-systems/tasker`
    Typescript,
}

/// What a worker runs: `python:DIR` on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub(crate) language: Language,
    /// Its `handlers` and `templates` where it has such folders, else itself and none.
    pub(crate) path: PathBuf,
}

impl Language {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Ruby => "ruby",
            Self::Typescript => "typescript",
        }
    }

    /// The words that start its worker: the configuration's, else what is installed in the project's folder, else what
    /// is on the path.
    fn words(self, config: &Config, folder: &Path) -> Vec<String> {
        let configured = match self {
            Self::Python => &config.worker.python_command,
            Self::Ruby => &config.worker.ruby_command,
            Self::Typescript => &config.worker.typescript_command,
        };
        if let Some(command) = configured {
            return command.split_whitespace().map(str::to_owned).collect();
        }
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self {
            Self::Python => {
                let active = std::env::var_os("VIRTUAL_ENV").map(|path| Path::new(&path).join("bin/python"));
                let python = above(folder, ".venv/bin/python").or(active).filter(|python| python.exists());
                let python = python.map_or("python3".to_owned(), |python| python.display().to_string());
                words(&[python.as_str(), "-m", "tasker_core", "worker"])
            }
            Self::Ruby if above(folder, "Gemfile").is_some() => words(&["bundle", "exec", "tasker-worker-ruby"]),
            Self::Ruby => words(&["tasker-worker-ruby"]),
            Self::Typescript => match above(folder, "node_modules/.bin/tasker-worker") {
                Some(program) => words(&[&program.display().to_string()]),
                None => words(&["tasker-worker"]),
            },
        }
    }
}

impl FromStr for Folder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (language, path) = text.split_once(':').ok_or("say it as LANGUAGE:DIR, such as python:./handlers")?;
        let language = Language::from_str(language, true).map_err(|_| {
            let names: Vec<&str> = Language::value_variants().iter().map(|language| language.name()).collect();
            format!("`{language}` is none of {}", names.join(", "))
        })?;
        let path = Path::new(path).canonicalize().map_err(|error| format!("{path}: {error}"))?;
        if path.is_dir() { Ok(Self { language, path }) } else { Err(format!("{} is no folder", path.display())) }
    }
}

impl Folder {
    /// The command of a worker for the handlers of this folder, in it.
    pub(crate) fn command(&self, config: &Config) -> Command {
        let inside = |name: &str| Some(self.path.join(name)).filter(|path| path.is_dir());
        let handlers = inside("handlers").unwrap_or_else(|| self.path.clone());
        let mut command = command(self.language, config, &self.path, &handlers, inside("templates").as_deref());
        command.current_dir(&self.path);
        command
    }
}

/// The command of a worker in this language. `folder` is where its package is looked for first.
pub(crate) fn command(
    language: Language,
    config: &Config,
    folder: &Path,
    handlers: &Path,
    templates: Option<&Path>,
) -> Command {
    let words = language.words(config, folder);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("--handlers").arg(handlers);
    if let Some(templates) = templates {
        command.arg("--templates").arg(templates);
    }
    command
}

/// Why a worker can't be started, and what to do.
pub(crate) fn not_started(language: Language, command: &Command, error: &std::io::Error) -> Failure {
    let (program, name) = (command.get_program().display(), language.name());
    Failure::Failed(format!(
        "the worker in {name} can't be started: {program}: {error}; install its package, or say how it is started in \
         worker.{name}_command"
    ))
}

/// The nearest such file in this folder or one above it.
fn above(folder: &Path, name: &str) -> Option<PathBuf> {
    folder.ancestors().map(|folder| folder.join(name)).find(|path| path.exists())
}
