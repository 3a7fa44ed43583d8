//! Typed access to the mappings of a document; whatever does not fit becomes a problem.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::document::{Data, Node};
use super::problem::{Findings, Path, Place, did_you_mean};

/// A mapping, its place, and the keys that it may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    node: &'a Node,
    entries: &'a [(String, Node)],
    pub(super) at: Path<'a>,
}

impl<'a> Table<'a> {
    /// Opens a mapping; keys beside the `known` ones are problems.
    pub(super) fn open(node: &'a Node, at: Path<'a>, known: &[&str], out: &mut Findings) -> Option<Self> {
        let Data::Map(entries) = &node.data else {
            wrong_type(node, &at, "a mapping", out);
            return None;
        };
        for (key, value) in entries {
            if !known.contains(&key.as_str()) && !out.full() {
                let place = Path::Key(&at, key);
                let message = format!("`{key}` is not a key of this mapping");
                let remedy = did_you_mean(key, known.iter().copied());
                out.add("unknown_key", (&place, value.line), message, remedy);
            }
        }
        Some(Self { node, entries, at })
    }

    /// A mapping whose keys were checked before.
    pub(super) fn known(node: &'a Node, at: Path<'a>) -> Option<Self> {
        match &node.data {
            Data::Map(entries) => Some(Self { node, entries, at }),
            _ => None,
        }
    }

    /// The value of a key; null is the same as nothing.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        let found = self.entries.iter().find(|(name, _)| name == key)?;
        Some(&found.1).filter(|node| !node.is_null())
    }

    /// Like [`get`](Self::get), for a key that had another name before.
    pub(super) fn get_either(&self, key: &'a str, alias: &'a str, out: &mut Findings) -> Option<(&'a str, &'a Node)> {
        let (first, second) = (self.get(key), self.get(alias));
        if let (Some(_), Some(second)) = (first, second) {
            let message = format!("`{alias}` is another name of `{key}`, which is given too");
            let place = Path::Key(&self.at, alias);
            out.add("duplicate_key", (&place, second.line), message, "keep one of them");
        }
        first.map(|node| (key, node)).or_else(|| second.map(|node| (alias, node)))
    }

    /// Adds a problem with the value of `key`.
    pub(super) fn problem(
        &self,
        key: &str,
        code: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
        out: &mut Findings,
    ) {
        let line = self.get(key).map_or(self.node.line, |node| node.line);
        out.add(code, (&Path::Key(&self.at, key), line), message, remedy);
    }

    /// Says that `key` must be there.
    pub(super) fn missing(&self, key: &str, out: &mut Findings) {
        let place = Path::Key(&self.at, key);
        out.add("missing_key", (&place, self.node.line), format!("`{key}` is missing"), "add it");
    }

    pub(super) fn text(&self, key: &str, out: &mut Findings) -> Option<&'a str> {
        text(self.get(key)?, &Path::Key(&self.at, key), out)
    }

    pub(super) fn owned_text(&self, key: &str, out: &mut Findings) -> Option<String> {
        self.text(key, out).map(str::to_owned)
    }

    /// A text that must be there: visible characters, at most `max` bytes.
    pub(super) fn name(&self, key: &str, max: usize, out: &mut Findings) -> Option<&'a str> {
        if self.get(key).is_none() {
            self.missing(key, out);
        }
        let name = self.text(key, out)?;
        let fault = if name.is_empty() {
            "is empty".to_owned()
        } else if name.len() > max {
            format!("has {} bytes, more than {max}", name.len())
        } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            "contains a space or control character".to_owned()
        } else {
            return Some(name);
        };
        self.problem(key, "bad_name", format!("this name {fault}"), "choose another name", out);
        None
    }

    /// A name of letters, digits, `_`, `-` and `.`: it may become part of a path or another name.
    pub(super) fn identifier(&self, key: &str, max: usize, out: &mut Findings) -> Option<&'a str> {
        let name = self.name(key, max, out)?;
        let word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && name.chars().all(word) {
            return Some(name);
        }
        let remedy = "use letters, digits, `_`, `-` and `.`, beginning with a letter, a digit or `_`";
        self.problem(key, "bad_name", format!("`{name}` is not a name"), remedy, out);
        None
    }

    pub(super) fn flag(&self, key: &str, default: bool, out: &mut Findings) -> bool {
        match self.get(key).map(|node| &node.data) {
            None => default,
            Some(Data::Flag(flag)) => *flag,
            Some(_) => {
                self.wrong_type(key, "a boolean", out);
                default
            }
        }
    }

    pub(super) fn whole(&self, key: &str, range: RangeInclusive<u64>, out: &mut Findings) -> Option<u64> {
        let Data::Number(number) = &self.get(key)?.data else {
            self.wrong_type(key, "a whole number", out);
            return None;
        };
        let value = number.as_u64().filter(|value| range.contains(value));
        if value.is_none() {
            let message = format!("{number} is not a whole number from {} to {}", range.start(), range.end());
            self.problem(key, "out_of_range", message, "choose a number in this range", out);
        }
        value
    }

    /// Seconds, with fractions down to a millisecond, as milliseconds.
    pub(super) fn seconds(&self, key: &str, max_ms: u64, out: &mut Findings) -> Option<u64> {
        let Data::Number(number) = &self.get(key)?.data else {
            self.wrong_type(key, "a number of seconds", out);
            return None;
        };
        let ms = number.as_f64().map(|seconds| (seconds * 1000.0).round());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
        #[expect(clippy::cast_precision_loss, reason = "bounds are far below 2^53")]
        let ms = ms.filter(|ms| (1.0..=max_ms as f64).contains(ms)).map(|ms| ms as u64);
        if ms.is_none() {
            let message = format!("{number} is not a number of seconds from 0.001 to {}", max_ms / 1000);
            self.problem(key, "out_of_range", message, "choose a number in this range", out);
        }
        ms
    }

    pub(super) fn choice<T: Copy + Default>(&self, key: &str, spellings: &[(&str, T)], out: &mut Findings) -> T {
        let Some(word) = self.text(key, out) else { return T::default() };
        if let Some((_, value)) = spellings.iter().find(|(spelling, _)| *spelling == word) {
            return *value;
        }
        let remedy = did_you_mean(word, spellings.iter().map(|(spelling, _)| *spelling));
        self.problem(key, "unknown_value", format!("`{word}` is not a value of `{key}`"), remedy, out);
        T::default()
    }

    /// The items of a list; nothing is an empty list.
    pub(super) fn list(&self, key: &str, out: &mut Findings) -> &'a [Node] {
        self.get(key).map_or(&[], |node| list(node, &Path::Key(&self.at, key), out))
    }

    /// The texts of a list, each once.
    pub(super) fn texts(&self, key: &str, out: &mut Findings) -> Vec<String> {
        let at = Path::Key(&self.at, key);
        texts(self.list(key, out), &at, out).into_iter().map(|(_, text)| text.to_owned()).collect()
    }

    /// Free data: an object.
    pub(super) fn object(&self, key: &str, out: &mut Findings) -> Option<Map<String, Value>> {
        match self.get(key)?.to_value() {
            Value::Object(map) => Some(map),
            _ => {
                self.wrong_type(key, "a mapping", out);
                None
            }
        }
    }

    fn wrong_type(&self, key: &str, expected: &str, out: &mut Findings) {
        if let Some(node) = self.get(key) {
            wrong_type(node, &Path::Key(&self.at, key), expected, out);
        }
    }
}

pub(super) fn text<'a>(node: &'a Node, at: &Path<'_>, out: &mut Findings) -> Option<&'a str> {
    let Data::Text(text) = &node.data else {
        wrong_type(node, at, "a string", out);
        return None;
    };
    Some(text)
}

pub(super) fn list<'a>(node: &'a Node, at: &Path<'_>, out: &mut Findings) -> &'a [Node] {
    let Data::List(items) = &node.data else {
        wrong_type(node, at, "a list", out);
        return &[];
    };
    items
}

/// The texts among `items` with their places in the list; one that comes twice is a problem.
pub(super) fn texts<'a>(items: &'a [Node], at: &Path<'_>, out: &mut Findings) -> Vec<(usize, &'a str)> {
    let mut seen = std::collections::HashSet::new();
    let mut found = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let at = Path::Item(at, index);
        let Some(word) = text(item, &at, out) else { continue };
        if seen.insert(word) {
            found.push((index, word));
        } else {
            out.add("duplicate_item", (&at, item.line), format!("`{word}` is listed twice"), "keep one");
        }
    }
    found
}

pub(super) fn wrong_type(node: &Node, at: &Path<'_>, expected: &str, out: &mut Findings) {
    if let Data::Refused = node.data {
        return;
    }
    let place: Place<'_> = (at, node.line);
    let message = format!("expected {expected}, found {}", node.kind());
    let remedy = match &node.data {
        Data::Null | Data::Flag(_) | Data::Number(_) if expected == "a string" => {
            format!("quote it: \"{}\"", node.to_value())
        }
        _ => format!("write {expected}"),
    };
    out.add("wrong_type", place, message, remedy);
}
