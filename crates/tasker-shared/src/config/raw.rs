//! Reading: files and variables become one raw value per key, the last one named winning.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::{Error, Source};
use super::keys::{self, KEYS, Key, Preset, Role};
use super::{Environment, Lookup};

/// A value as it was written. Secrets may stand in it, hence no Debug.
pub(super) enum Raw {
    /// A TOML string, not yet substituted.
    Text(String),
    /// Text whose type the key decides: a variable, a default, or a string with a substitution in it.
    Untyped(String),
    Integer(i128),
    Flag(bool),
    List(Vec<Raw>),
    /// Nothing any key takes; the TOML name of its type.
    Other(&'static str),
}

impl Raw {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Raw::Text(text) | Raw::Untyped(text) => Some(text),
            Raw::Integer(_) | Raw::Flag(_) | Raw::List(_) | Raw::Other(_) => None,
        }
    }
}

/// One raw value per key that has one, and what went wrong on the way.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) entries: BTreeMap<&'static str, (Raw, Source)>,
    pub(super) errors: Vec<Error>,
    /// A file could not be read or parsed, so values may be missing and must not be compared.
    pub(super) incomplete: bool,
}

impl Layers {
    /// Defaults, then base files, the environment's files, `TASKER__…` variables, short variables.
    pub(super) fn read(environment: Environment, env: Lookup<'_>, names: &[String]) -> Self {
        let mut layers = Self::default();
        layers.read_defaults();
        if let Some(path) = set(env, "TASKER_CONFIG_PATH") {
            layers.read_file(Path::new(&path), None, true);
        } else {
            layers.read_folder(environment, set(env, "TASKER_CONFIG_ROOT"));
        }
        layers.read_variables(env, names);
        layers
    }

    pub(super) fn read_defaults(&mut self) {
        for key in KEYS {
            if let Preset::Value(text) = key.default {
                self.entries.insert(key.name, (Raw::Untyped(text.to_owned()), Source::Default));
            }
        }
    }

    fn read_folder(&mut self, environment: Environment, root: Option<String>) {
        let required = root.is_some();
        let root = PathBuf::from(root.unwrap_or_else(|| "config/tasker".to_owned()));
        let base = root.join("base");
        if required && !base.is_dir() {
            let what = "is no folder; TASKER_CONFIG_ROOT must hold base/ and environments/";
            self.fail(Error::new(Source::Path(base), what));
            return;
        }
        for folder in [base, root.join("environments").join(environment.name())] {
            self.refuse_unread_files(&folder);
            for role in Role::ALL {
                self.read_file(&folder.join(role.file_name()), Some(role), false);
            }
        }
    }

    /// A misspelt file name would silently switch all its keys back to their defaults.
    fn refuse_unread_files(&mut self, folder: &Path) {
        let Ok(files) = fs::read_dir(folder) else { return };
        let mut names: Vec<String> =
            files.flatten().map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        for name in names {
            let known = Role::ALL.iter().any(|role| role.file_name() == name);
            if known || Path::new(&name).extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let files = Role::ALL.map(Role::file_name);
            let nearest = files.into_iter().min_by_key(|file| strsim::damerau_levenshtein(file, &name));
            self.errors.push(Error::unknown(Source::Path(folder.join(&name)), "file", &name, nearest));
        }
    }

    fn read_file(&mut self, path: &Path, role: Option<Role>, required: bool) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return,
            Err(error) => {
                self.fail(Error::new(Source::Path(path.to_owned()), error.to_string()));
                return;
            }
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        let file = File { path, text: &text, role };
        if errors.is_empty() {
            self.flatten(&file, "", table.get_ref());
        }
        for error in errors {
            // Only the message: the parser's full display quotes the line, which may hold a password.
            let at = file.at(error.span().map_or(0, |span| span.start));
            self.fail(Error::new(at, error.message().trim().replace('\n', ", ")));
        }
    }

    fn flatten(&mut self, file: &File<'_>, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            let at = file.at(key.span().start);
            match (value.get_ref(), keys::find(&name)) {
                (value, Some(key)) => self.insert(file, key, raw(value), at),
                (DeValue::Table(inner), None) if !inner.is_empty() => {
                    self.flatten(file, &format!("{name}."), inner);
                }
                (DeValue::Table(_), None) if is_section(&name) => {}
                (DeValue::Table(_), None) => {
                    self.errors.push(Error::unknown(at, "section", &name, keys::suggest(&name)));
                }
                (_, None) => {
                    self.errors.push(Error::unknown(at, "key", &name, keys::suggest(&name)));
                }
            }
        }
    }

    fn insert(&mut self, file: &File<'_>, key: &'static Key, raw: Raw, at: Source) {
        if file.role.is_some_and(|role| role != key.role) {
            let what = format!("`{}` belongs in {}", key.name, key.role.file_name());
            self.errors.push(Error::new(at, what));
        } else {
            self.entries.insert(key.name, (raw, at));
        }
    }

    fn read_variables(&mut self, env: Lookup<'_>, names: &[String]) {
        for key in KEYS {
            let long = key.override_variable();
            let found = key.variable.and_then(|short| Some((set(env, short)?, short.to_owned())));
            if let Some((text, name)) = found.or_else(|| Some((env(&long)?, long))) {
                self.entries.insert(key.name, (Raw::Untyped(text), Source::Variable(name)));
            }
        }
        for name in names.iter().filter(|name| name.starts_with("TASKER__")) {
            if KEYS.iter().any(|key| key.override_variable() == *name) {
                continue;
            }
            let meant = name["TASKER__".len()..].to_lowercase().replace("__", ".");
            let suggestion = keys::suggest(&meant).and_then(keys::find).map(Key::override_variable);
            let at = Source::Variable(name.clone());
            self.errors.push(Error::unknown(at, "variable", name, suggestion.as_deref()));
        }
    }

    fn fail(&mut self, error: Error) {
        self.incomplete = true;
        self.errors.push(error);
    }
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
    role: Option<Role>,
}

impl File<'_> {
    fn at(&self, offset: usize) -> Source {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Source::File(self.path.to_owned(), line)
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(digits) => {
            i128::from_str_radix(digits.as_str(), digits.radix()).map_or(Raw::Other("integer"), Raw::Integer)
        }
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Raw::Other(value.type_str()),
    }
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The variable, where an empty one counts as not set: compose files pass `DATABASE_URL=` on like that.
pub(super) fn set(env: Lookup<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

/// Replaces `${VAR}` and `${VAR:-default}`; `$${` stands for a literal `${`. `None` where there is nothing to
/// replace. As in a shell, an empty variable takes the default; a default ends at the first `}`.
pub(super) fn substitute(text: &str, env: Lookup<'_>) -> Result<Option<String>, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let (inside, after) = rest[start + 2..].split_once('}').ok_or("has a `${` without `}`")?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err("has a `${…}` that does not hold `VAR` or `VAR:-default`".to_owned());
        }
        match (set(env, name), default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "needs the variable {name}, which is not set; `${{{name}:-…}}` gives it a default"
                ));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok((rest.len() != text.len()).then_some(out))
}
