//! Documents as trees that know their lines: from YAML text or from JSON.
//!
//! Scalars follow the core schema of YAML 1.2. A plain scalar that YAML 1.1 reads differently (`no`, `017`,
//! `0o17`, `1_000`, `12:30`) is refused: whoever wrote it may have meant either.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use super::canonical;
use super::problem::{Findings, Path, Place};

/// The longest text that is read.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Deeper documents would need deep stacks wherever they are walked.
pub(super) const MAX_DEPTH: usize = 64;
/// How much aliases and merges may copy, in bytes: some times what could be written out.
const MAX_EXPANSION: usize = 4 * MAX_BYTES;
/// What a node costs beside its text, in bytes.
const NODE_COST: usize = 64;

/// A value with its line.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Counted from 1; unknown for JSON.
    pub(super) line: Option<u32>,
    pub(super) data: Data,
}

#[derive(Debug, Clone)]
pub(super) enum Data {
    Null,
    Flag(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    /// A scalar that a problem was added for; it fits everywhere, so that it is not refused twice.
    Refused,
}

impl Node {
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.data, Data::Null)
    }

    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "null",
            Data::Flag(_) => "a boolean",
            Data::Number(_) => "a number",
            Data::Text(_) => "a string",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
            Data::Refused => "nothing usable",
        }
    }

    pub(super) fn to_value(&self) -> Value {
        match &self.data {
            Data::Null | Data::Refused => Value::Null,
            Data::Flag(flag) => Value::Bool(*flag),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => items.iter().map(Node::to_value).collect(),
            Data::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| (key.clone(), node.to_value()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// Roughly the memory that a copy takes, in bytes.
    pub(super) fn cost(&self) -> usize {
        NODE_COST
            + match &self.data {
                Data::Text(text) => text.len(),
                Data::List(items) => items.iter().map(Node::cost).sum(),
                Data::Map(entries) => entries.iter().map(|(key, node)| key.len() + node.cost()).sum(),
                _ => 0,
            }
    }

    fn depth(&self) -> usize {
        match &self.data {
            Data::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Data::Map(entries) => 1 + entries.iter().map(|(_, node)| node.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }
}

/// The tree of a JSON value, which is as large as its sender was allowed to make it.
pub(super) fn from_json(value: &Value, at: &Path<'_>, depth: usize, out: &mut Findings) -> Node {
    let data = match value {
        Value::Null => Data::Null,
        Value::Bool(flag) => Data::Flag(*flag),
        Value::Number(number) => {
            let float = number.as_f64().filter(|_| number.is_f64());
            Data::Number(float.and_then(canonical::number).unwrap_or_else(|| number.clone()))
        }
        Value::String(text) => {
            if text.contains('\0') {
                nul((at, None), out);
            }
            Data::Text(text.clone())
        }
        Value::Array(_) | Value::Object(_) if depth == MAX_DEPTH => {
            too_deep((at, None), out);
            Data::Null
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            Data::List(items.map(|(i, v)| from_json(v, &Path::Item(at, i), depth + 1, out)).collect())
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| {
                let at = Path::Key(at, key);
                if key.contains('\0') {
                    nul((&at, None), out);
                }
                (key.clone(), from_json(value, &at, depth + 1, out))
            });
            Data::Map(entries.collect())
        }
    };
    Node { line: None, data }
}

/// The tree of a YAML text; `None` where its structure can't be trusted.
pub(super) fn from_yaml(text: &str, out: &mut Findings) -> Option<Node> {
    if text.len() > MAX_BYTES {
        let message = format!("the document has {} bytes; at most {MAX_BYTES} are read", text.len());
        out.add("too_large", (&Path::Root, None), message, "split the template");
        return None;
    }
    let options = granit_parser::options! { emit_comments: false };
    let mut tree = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let done = match event {
            Ok((event, span)) => tree.take(event, &span, out),
            Err(error) => {
                let line = u32::try_from(error.marker().line()).ok();
                out.add("syntax", (&Path::Root, line), error.info(), "correct the YAML");
                None
            }
        };
        done?;
    }
    if tree.root.is_none() {
        out.add("syntax", (&Path::Root, None), "the document is empty", "write a template into it");
    }
    tree.root
}

/// Builds a tree from a parser's events.
#[derive(Debug, Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    copied: usize,
}

/// A list or mapping whose end has not come yet.
#[derive(Debug)]
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next.
    key: Option<String>,
    seen: HashSet<String>,
    merges: Vec<Node>,
}

impl Builder {
    /// Takes the next event; `None` where going on makes no sense.
    fn take(&mut self, event: Event<'_>, span: &Span, out: &mut Findings) -> Option<()> {
        let line = u32::try_from(span.start.line()).ok();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let data = self.scalar(&text, style, tag.as_deref(), line, out);
                self.put(Node { line, data }, anchor, out)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(Data::List(Vec::new()), anchor, tag.as_deref(), line, out)
            }
            Event::MappingStart(_, anchor, tag) => self.open(Data::Map(Vec::new()), anchor, tag.as_deref(), line, out),
            Event::SequenceEnd | Event::MappingEnd => self.close(out),
            Event::Alias(anchor) => self.alias(anchor, line, out),
            Event::DocumentStart(..) if self.root.is_some() => {
                let message = "a second document begins here";
                self.problem("multiple_documents", line, message, "put one template into a file", out);
                None
            }
            _ => Some(()),
        }
    }

    fn open(
        &mut self,
        data: Data,
        anchor: usize,
        tag: Option<&Tag>,
        line: Option<u32>,
        out: &mut Findings,
    ) -> Option<()> {
        self.check_tag(tag, line, out);
        if self.awaits_key() {
            let remedy = "use a string as the key";
            self.problem("complex_key", line, "a list or mapping can't be a key", remedy, out);
            return None;
        }
        if self.open.len() == MAX_DEPTH {
            too_deep((&self.at(), line), out);
            return None;
        }
        let node = Node { line, data };
        self.open.push(Open { node, anchor, key: None, seen: HashSet::new(), merges: Vec::new() });
        Some(())
    }

    fn close(&mut self, out: &mut Findings) -> Option<()> {
        let mut closed = self.open.pop()?;
        if let Data::Map(entries) = &mut closed.node.data {
            for (key, node) in closed.merges.into_iter().flat_map(merged_entries) {
                if closed.seen.insert(key.clone()) {
                    entries.push((key, node));
                }
            }
        }
        self.put(closed.node, closed.anchor, out)
    }

    fn alias(&mut self, anchor: usize, line: Option<u32>, out: &mut Findings) -> Option<()> {
        let Some(target) = self.anchors.get(&anchor) else {
            let message = "the alias is part of what it stands for";
            self.problem("alias_cycle", line, message, "write the value out", out);
            return None;
        };
        self.copied += target.cost();
        if self.copied > MAX_EXPANSION {
            let message = format!("aliases copy more than {MAX_EXPANSION} bytes");
            self.problem("alias_expansion", line, message, "use fewer or smaller aliases", out);
            return None;
        }
        if self.open.len() + target.depth() > MAX_DEPTH {
            too_deep((&self.at(), line), out);
            return None;
        }
        self.put(target.clone(), 0, out)
    }

    /// Puts a complete node where it belongs.
    fn put(&mut self, node: Node, anchor: usize, out: &mut Findings) -> Option<()> {
        if anchor != 0 {
            // An anchored copy is memory that aliases did not ask for yet, but each level may be anchored.
            self.copied += node.cost();
            if self.copied > MAX_EXPANSION {
                let message = format!("anchors and aliases copy more than {MAX_EXPANSION} bytes");
                self.problem("alias_expansion", node.line, message, "use fewer anchors", out);
                return None;
            }
            self.anchors.insert(anchor, node.clone());
        }
        if self.awaits_key() {
            return self.put_key(node, out);
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        match &mut parent.node.data {
            Data::List(items) => items.push(node),
            Data::Map(entries) => {
                let key = parent.key.take()?;
                if key != "<<" {
                    entries.push((key, node));
                } else if is_mergeable(&node) {
                    parent.merges.push(node);
                } else {
                    let message = format!("`<<` takes mappings, not {}", node.kind());
                    self.problem("wrong_type", node.line, message, "name an anchor of a mapping", out);
                }
            }
            _ => unreachable!("only lists and mappings are opened"),
        }
        Some(())
    }

    fn put_key(&mut self, node: Node, out: &mut Findings) -> Option<()> {
        let (Data::Text(key), Some(parent)) = (node.data, self.open.last_mut()) else {
            let remedy = "use a string as the key";
            self.problem("complex_key", node.line, "an alias can't be a key", remedy, out);
            return None;
        };
        let again = !parent.seen.insert(key.clone());
        let message = format!("the key `{key}` is given twice");
        parent.key = Some(key);
        if again {
            self.problem("duplicate_key", node.line, message, "keep one of them", out);
        }
        Some(())
    }

    fn awaits_key(&self) -> bool {
        self.open.last().is_some_and(|open| open.key.is_none() && matches!(open.node.data, Data::Map(_)))
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, line: Option<u32>, out: &mut Findings) -> Data {
        self.check_tag(tag, line, out);
        if style != ScalarStyle::Plain || tag.is_some() || self.awaits_key() {
            if text.contains('\0') {
                nul((&self.at(), line), out);
            }
            return Data::Text(text.into());
        }
        match plain(text) {
            Plain::Data(data) => data,
            Plain::Ambiguous(remedy) => {
                let message = format!("`{text}` means different things to YAML 1.1 and 1.2");
                self.problem("ambiguous_scalar", line, message, remedy, out);
                Data::Refused
            }
            Plain::NotPortable => {
                let message = format!("`{text}` is a number that can't be kept exactly");
                self.problem("number", line, message, format!("quote it: \"{text}\""), out);
                Data::Refused
            }
        }
    }

    /// The one tag with a meaning here is `!!str`, which quotes.
    fn check_tag(&self, tag: Option<&Tag>, line: Option<u32>, out: &mut Findings) {
        if let Some(tag) = tag.filter(|tag| tag.core_suffix() != Some("str")) {
            let message = format!("the tag `{}` has no meaning here", tag.original());
            self.problem("tag", line, message, "remove it", out);
        }
    }

    fn problem(
        &self,
        code: &'static str,
        line: Option<u32>,
        message: impl Into<String>,
        remedy: impl Into<String>,
        out: &mut Findings,
    ) {
        out.add(code, (&self.at(), line), message, remedy);
    }

    /// The path of the node that comes next.
    fn at(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match (&open.node.data, &open.key) {
                (Data::List(items), _) => path.push_str(&format!("[{}]", items.len())),
                (_, Some(key)) if path.is_empty() => path.push_str(key),
                (_, Some(key)) => path.push_str(&format!(".{key}")),
                _ => (),
            }
        }
        path
    }
}

/// What `<<` brings: the entries of a mapping or of each mapping in a list; earlier ones win.
fn merged_entries(node: Node) -> Vec<(String, Node)> {
    match node.data {
        Data::Map(entries) => entries,
        Data::List(items) => items.into_iter().flat_map(merged_entries).collect(),
        _ => Vec::new(),
    }
}

fn is_mergeable(node: &Node) -> bool {
    let is_map = |node: &Node| matches!(node.data, Data::Map(_));
    is_map(node) || matches!(&node.data, Data::List(items) if items.iter().all(is_map))
}

fn too_deep(place: Place<'_>, out: &mut Findings) {
    let message = format!("the document is nested more than {MAX_DEPTH} levels deep");
    out.add("too_deep", place, message, "flatten it");
}

/// PostgreSQL keeps no NUL.
fn nul(place: Place<'_>, out: &mut Findings) {
    out.add("nul", place, "the text contains a NUL character", "remove it");
}

/// What an unquoted scalar means.
enum Plain {
    Data(Data),
    /// YAML 1.1 and 1.2 disagree; what to write instead.
    Ambiguous(String),
    /// A number that no float or 64 bit integer holds.
    NotPortable,
}

fn plain(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Data(Data::Null),
        "true" | "True" | "TRUE" => return Plain::Data(Data::Flag(true)),
        "false" | "False" | "FALSE" => return Plain::Data(Data::Flag(false)),
        _ => (),
    }
    let lower = text.to_ascii_lowercase();
    if let Some(flag) = match lower.as_str() {
        "yes" | "on" => Some(true),
        "no" | "off" => Some(false),
        _ => None,
    } {
        return Plain::Ambiguous(format!("write {flag}, or quote it: \"{text}\""));
    }
    if matches!(lower.trim_start_matches(['+', '-']), ".inf" | ".nan") {
        return Plain::NotPortable;
    }
    let digits = lower.trim_start_matches(['+', '-']);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || lower.len() > digits.len() + 1 {
        return Plain::Data(Data::Text(text.into()));
    }
    if reads_otherwise_in_1_1(digits) {
        return Plain::Ambiguous(format!("quote it: \"{text}\", or write a plain decimal number"));
    }
    number(text, digits)
}

/// Octals, digits grouped by `_` and base 60 numbers.
fn reads_otherwise_in_1_1(digits: &str) -> bool {
    let all = |text: &str, also: &[char]| text.chars().all(|c| c.is_ascii_digit() || also.contains(&c));
    let octal = digits.len() > 1 && digits.starts_with('0') && all(digits, &[]);
    let new_octal = digits.strip_prefix("0o").is_some_and(|rest| !rest.is_empty() && all(rest, &[]));
    let grouped = digits.contains('_') && all(digits, &['_', '.']);
    let mut groups = digits.split(':');
    let leading = groups.next().is_some_and(|group| !group.is_empty() && all(group, &[]));
    let sixty = |group: &str| {
        matches!(group.split('.').next(), Some(whole) if (1..=2).contains(&whole.len()))
            && group.parse::<f64>().is_ok_and(|value| (0.0..60.0).contains(&value))
    };
    let base_60 = digits.contains(':') && leading && groups.all(sixty);
    octal || new_octal || grouped || base_60
}

/// A number of the core schema, else text.
fn number(text: &str, digits: &str) -> Plain {
    let negative = text.starts_with('-');
    if let Some(hex) = digits.strip_prefix("0x").filter(|hex| hex.chars().all(|c| c.is_ascii_hexdigit())) {
        return match u64::from_str_radix(hex, 16) {
            Ok(value) if !negative => Plain::Data(Data::Number(value.into())),
            _ => Plain::NotPortable,
        };
    }
    if digits.chars().all(|c| c.is_ascii_digit()) {
        let text = text.trim_start_matches('+');
        let whole = text.parse::<u64>().map(Number::from);
        return match whole.or_else(|_| text.parse::<i64>().map(Number::from)) {
            Ok(number) => Plain::Data(Data::Number(number)),
            Err(_) => Plain::NotPortable,
        };
    }
    let is_float = digits.chars().all(|c| c.is_ascii_digit() || ".e+-".contains(c));
    match text.parse::<f64>() {
        Ok(value) if is_float => match canonical::number(value) {
            Some(number) => Plain::Data(Data::Number(number)),
            None => Plain::NotPortable,
        },
        _ => Plain::Data(Data::Text(text.into())),
    }
}
