//! From raw values to typed ones, by the kind of the key.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};
use tracing_subscriber::EnvFilter;

use super::error::{Error, Source};
use super::keys::{self, Key, Kind, Range};
use super::raw::{Layers, Raw, substitute};
use super::secret::parse_database_url;
use super::{Environment, Lookup};

/// The valid values with their sources. Secrets stand in it as they are, hence no Debug.
pub(super) struct Values(BTreeMap<&'static str, (Value, Source)>);

impl Values {
    /// Types every entry; what does not fit is reported and left out.
    pub(super) fn parse(layers: &mut Layers, environment: Environment, env: Lookup<'_>) -> Self {
        let mut values = BTreeMap::new();
        for (name, (raw, at)) in std::mem::take(&mut layers.entries) {
            let key = keys::find(name).expect("entries are made from the table of keys");
            let parsed =
                expand(raw, &at, env).and_then(|raw| typed(key, &raw, environment).ok_or_else(|| refusal(key, &raw)));
            match parsed {
                Ok(value) => _ = values.insert(key.name, (value, at)),
                Err(what) => layers.errors.push(Error::new(at, format!("`{name}` {what}"))),
            }
        }
        Self(values)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).map(|(value, _)| value)
    }

    pub(super) fn source(&self, name: &str) -> Source {
        self.0.get(name).map_or(Source::Default, |(_, at)| at.clone())
    }

    pub(super) fn sources(&self) -> BTreeMap<&'static str, Source> {
        self.0.iter().map(|(name, (_, at))| (*name, at.clone())).collect()
    }

    /// The values as a tree: `a.b` becomes the member `b` of the object `a`.
    pub(super) fn tree(&self) -> Map<String, Value> {
        let mut tree = Map::new();
        for (name, (value, _)) in &self.0 {
            match name.split_once('.') {
                None => _ = tree.insert((*name).to_owned(), value.clone()),
                Some((section, field)) => {
                    tree.entry(section).or_insert_with(|| json!({}))[field] = value.clone();
                }
            }
        }
        tree
    }
}

/// Substitutes in strings; what was substituted is typed by the key, as a variable is.
fn expand(raw: Raw, at: &Source, env: Lookup<'_>) -> Result<Raw, String> {
    match (raw, at) {
        (Raw::Text(text), Source::File(..)) => Ok(match substitute(&text, env)? {
            Some(substituted) => Raw::Untyped(substituted),
            None => Raw::Text(text),
        }),
        (Raw::List(items), _) => {
            let items = items.into_iter().map(|item| expand(item, at, env));
            items.collect::<Result<_, _>>().map(Raw::List)
        }
        // Variables are taken as they are: a password may well contain `${`.
        (other, _) => Ok(other),
    }
}

fn typed(key: &Key, raw: &Raw, environment: Environment) -> Option<Value> {
    let accepts: fn(&str) -> bool = match key.kind {
        Kind::Integer(range) => return integer(raw, range, environment),
        Kind::Flag => return flag(raw),
        Kind::Names { holds, .. } => return names(raw, holds),
        Kind::Choice(words) => {
            return raw.text().filter(|text| words.contains(text)).map(Value::from);
        }
        Kind::Text => |text| text.len() <= 128 && !text.chars().any(char::is_control),
        Kind::Path => |_| true,
        Kind::Address => |text| text.parse::<SocketAddr>().is_ok(),
        Kind::HttpUrl => is_http_url,
        Kind::DatabaseUrl => |text| parse_database_url(text).is_some(),
        Kind::LogFilter => |text| EnvFilter::try_new(text).is_ok(),
    };
    raw.text().filter(|text| !text.is_empty() && accepts(text)).map(Value::from)
}

fn refusal(key: &Key, raw: &Raw) -> String {
    let found = match raw {
        _ if key.is_secret() => "the value given (it is secret and not shown)".to_owned(),
        Raw::Text(text) | Raw::Untyped(text) => format!("{text:?}"),
        Raw::Integer(number) => number.to_string(),
        Raw::Flag(flag) => flag.to_string(),
        Raw::List(_) => "this list".to_owned(),
        Raw::Other(kind) => format!("this {kind}"),
    };
    format!("must be {}, not {found}", key.kind)
}

fn integer(raw: &Raw, range: Range, environment: Environment) -> Option<Value> {
    let number = match raw {
        Raw::Integer(number) => u64::try_from(*number).ok()?,
        Raw::Untyped(text) => text.parse().ok()?,
        _ => return None,
    };
    (range.min_in(environment)..=range.max).contains(&number).then(|| number.into())
}

fn flag(raw: &Raw) -> Option<Value> {
    match raw {
        Raw::Flag(flag) => Some((*flag).into()),
        Raw::Untyped(text) => text.parse::<bool>().ok().map(Value::from),
        _ => None,
    }
}

fn names(raw: &Raw, holds: fn(&str) -> bool) -> Option<Value> {
    let names: Vec<&str> = match raw {
        Raw::Untyped(text) => text.split(',').map(str::trim).collect(),
        Raw::List(items) => items.iter().map(Raw::text).collect::<Option<_>>()?,
        _ => return None,
    };
    (!names.is_empty() && names.iter().all(|name| holds(name))).then(|| names.into())
}

fn is_http_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && !rest.contains(|c: char| c == '@' || c.is_whitespace())
    })
}
