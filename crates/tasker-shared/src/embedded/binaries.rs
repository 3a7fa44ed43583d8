//! Finds the server binaries of PostgreSQL on this machine.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::EmbeddedError;

/// The oldest major version that works.
const OLDEST: u32 = 15;

/// Folders where packages put server binaries; `*` stands for one folder name, the newest version goes first.
const USUAL_FOLDERS: [&str; 9] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/opt/local/lib/postgresql*/bin",
];

/// The server binaries that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// Their folder.
    pub folder: PathBuf,
    /// Their major version.
    pub major: u32,
    /// How they were found.
    pub origin: Origin,
}

/// How the server binaries were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Named by the caller.
    Given,
    /// Named by TASKER_PG_BIN.
    Variable,
    /// By `pg_config --bindir`.
    PgConfig,
    /// On the PATH.
    Path,
    /// In a folder where packages put them.
    UsualFolder,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "as named",
            Self::Variable => "by TASKER_PG_BIN",
            Self::PgConfig => "by pg_config",
            Self::Path => "on the PATH",
            Self::UsualFolder => "in a usual folder",
        })
    }
}

impl Binaries {
    /// Looks in `given`, else in TASKER_PG_BIN, else where `pg_config` says, on the PATH and in the usual folders; takes the first of
    /// version 15 or newer, and of the version `data` if there are data already.
    ///
    /// # Errors
    /// [`EmbeddedError::NoBinaries`], [`EmbeddedError::BadBinaries`] or [`EmbeddedError::OtherVersion`].
    pub fn find(given: Option<&Path>, data: Option<(&Path, u32)>) -> Result<Self, EmbeddedError> {
        let variable = std::env::var_os("TASKER_PG_BIN").filter(|value| !value.is_empty()).map(PathBuf::from);
        let named = given.map(|folder| (folder.to_owned(), Origin::Given));
        if let Some((folder, origin)) = named.or_else(|| variable.map(|folder| (folder, Origin::Variable))) {
            let major =
                major_in(&folder).map_err(|reason| EmbeddedError::BadBinaries { folder: folder.clone(), reason })?;
            return choose(std::iter::once(Self { folder, major, origin }), data);
        }
        let usable = candidates().filter_map(|(folder, origin)| {
            let major = major_in(&folder).ok()?;
            Some(Self { folder, major, origin })
        });
        choose(usable, data)
    }

    /// One program of them.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn choose(found: impl Iterator<Item = Binaries>, data: Option<(&Path, u32)>) -> Result<Binaries, EmbeddedError> {
    let mut others = BTreeSet::new();
    for binaries in found {
        match data {
            Some((_, major)) if major != binaries.major => others.insert(binaries.major),
            _ => return Ok(binaries),
        };
    }
    match data {
        Some((data_dir, data)) if !others.is_empty() => {
            let found = others.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            Err(EmbeddedError::OtherVersion { data_dir: data_dir.to_owned(), data, found })
        }
        _ => Err(EmbeddedError::NoBinaries { install: install_command() }),
    }
}

fn candidates() -> impl Iterator<Item = (PathBuf, Origin)> {
    let by_pg_config = std::iter::once_with(pg_config_folder).flatten().map(|folder| (folder, Origin::PgConfig));
    let on_path = path_folders().into_iter().map(|folder| (folder, Origin::Path));
    let usual = USUAL_FOLDERS.into_iter().flat_map(expand).map(|folder| (folder, Origin::UsualFolder));
    by_pg_config.chain(on_path).chain(usual)
}

fn pg_config_folder() -> Option<PathBuf> {
    let answer = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let folder = String::from_utf8(answer.stdout).ok()?;
    answer.status.success().then(|| PathBuf::from(folder.trim()))
}

fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// The folders that a pattern with at most one `*` stands for, the highest version first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or((".", before));
    let mut names: Vec<String> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort_by_key(|name| std::cmp::Reverse(first_number(name)));
    names.into_iter().map(|name| PathBuf::from(format!("{parent}/{name}{after}"))).collect()
}

/// The major version of the server in this folder, or why it can't be used.
fn major_in(folder: &Path) -> Result<u32, String> {
    for program in ["postgres", "initdb"] {
        if !folder.join(program).is_file() {
            return Err(format!("it has no `{program}`"));
        }
    }
    let server = Command::new(folder.join("postgres")).arg("--version").stdin(Stdio::null()).output();
    let answer = server.map_err(|error| error.to_string())?;
    let version = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    match first_number(&version) {
        Some(major) if major >= OLDEST => Ok(major),
        Some(major) => Err(format!("it is version {major}, {OLDEST} or newer is needed")),
        None => Err(format!("`postgres --version` says `{version}`")),
    }
}

fn first_number(text: &str) -> Option<u32> {
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn install_command() -> &'static str {
    let is_there = |program: &str| path_folders().iter().any(|folder| folder.join(program).is_file());
    const COMMANDS: [(&str, &str); 6] = [
        ("apt-get", "sudo apt-get install -y postgresql"),
        ("dnf", "sudo dnf install -y postgresql-server"),
        ("apk", "sudo apk add postgresql"),
        ("pacman", "sudo pacman -S postgresql"),
        ("zypper", "sudo zypper install postgresql-server"),
        ("brew", "brew install postgresql@17"),
    ];
    let known = COMMANDS.into_iter().find(|(program, _)| is_there(program));
    known.map_or("the package `postgresql` of your system", |(_, command)| command)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn of(major: u32) -> Binaries {
        Binaries { folder: PathBuf::from(format!("/pg/{major}/bin")), major, origin: Origin::UsualFolder }
    }

    #[test]
    fn data_choose_the_binaries_of_their_own_version() {
        let data = Some((Path::new("/data"), 16));
        assert_eq!(choose([of(17), of(16), of(15)].into_iter(), data).unwrap().major, 16);
        let error = choose([of(17), of(15)].into_iter(), data).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 16") && error.contains("found: 15, 17"), "{error}");
        assert_eq!(choose([of(17), of(16)].into_iter(), None).unwrap().major, 17);
    }

    #[test]
    fn without_binaries_the_error_names_a_command() {
        let error = choose(std::iter::empty(), None).unwrap_err().to_string();
        assert!(error.contains("Install one:\n    "), "{error}");
    }

    #[test]
    fn the_newest_of_the_usual_folders_goes_first() {
        let parent = tempfile::tempdir().unwrap();
        for version in ["9", "15", "17"] {
            std::fs::create_dir_all(parent.path().join(version).join("bin")).unwrap();
        }
        let found = expand(&format!("{}/*/bin", parent.path().display()));
        let expected = ["17", "15", "9"].map(|version| parent.path().join(version).join("bin"));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_named_folder_without_a_server_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = Binaries::find(Some(folder.path()), None).unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()) && error.contains("no `postgres`"), "{error}");
    }
}
