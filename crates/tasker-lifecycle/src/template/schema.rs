//! JSON Schemas inside templates: what would reach out to the network or never come back is refused.
//!
//! Whether a schema is valid is for the validator to say; here no schema is compiled.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::Value;

use super::document::{Data, Node};
use super::problem::{Findings, Path};
use super::table::Table;

/// Reads a schema, which must be a mapping.
pub(super) fn read(table: &Table<'_>, key: &str, out: &mut Findings) -> Option<Value> {
    let node = table.get(key)?;
    let schema = table.object(key, out)?;
    check(node, &Path::Key(&table.at, key), out);
    Some(Value::Object(schema))
}

fn check(schema: &Node, at: &Path<'_>, out: &mut Findings) {
    match &schema.data {
        Data::List(items) => {
            for (index, item) in items.iter().enumerate() {
                check(item, &Path::Item(at, index), out);
            }
        }
        Data::Map(entries) => {
            for (key, value) in entries {
                keyword(key, value, &Path::Key(at, key), out);
            }
        }
        _ => (),
    }
}

fn keyword(key: &str, value: &Node, at: &Path<'_>, out: &mut Findings) {
    match (key, &value.data) {
        ("enum" | "const" | "default" | "examples", _) => (),
        ("$ref" | "$dynamicRef", Data::Text(target)) if !target.starts_with('#') => {
            let message = format!("`{target}` lies outside this schema, and nothing is fetched");
            out.add("schema_remote_ref", (at, value.line), message, "copy it into `$defs`");
        }
        ("pattern", Data::Text(pattern)) => check_pattern(pattern, value, at, out),
        ("properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas", Data::Map(entries)) => {
            for (name, schema) in entries {
                let at = Path::Key(at, name);
                if key == "patternProperties" {
                    check_pattern(name, schema, &at, out);
                }
                check(schema, &at, out);
            }
        }
        _ => check(value, at, out),
    }
}

fn check_pattern(pattern: &str, node: &Node, at: &Path<'_>, out: &mut Findings) {
    if may_backtrack_for_ever(pattern) {
        let message = format!("matching `{pattern}` may take exponential time");
        let remedy = "let no repeated group consist of repeated parts, as in `(a+)+`";
        out.add("schema_pattern", (at, node.line), message, remedy);
    }
}

/// What one alternative of a group is made of.
#[derive(Debug, Clone, Copy, Default)]
struct Branch {
    /// Something in it repeats a varying number of times.
    varies: bool,
    /// Something in it must match just so: it separates one round from the next.
    fixed: bool,
    /// What varies matches anything, so that nothing separates.
    any: bool,
}

impl Branch {
    fn is_ambiguous(self) -> bool {
        self.varies && (!self.fixed || self.any)
    }
}

/// A heuristic: a repeated group whose rounds can be told apart in more than one way, such as `(a+)+`,
/// `(\w+\s?)*` or `(.*x){10,}`, but not `(-[a-z]+)*`.
fn may_backtrack_for_ever(pattern: &str) -> bool {
    let mut chars = pattern.chars().peekable();
    let mut open = vec![Branch::default()];
    let mut group_is_ambiguous = vec![false];
    while let Some(c) = chars.next() {
        let mut atom = Branch { fixed: true, any: c == '.', varies: false };
        match c {
            '^' | '$' => continue,
            '\\' if matches!(chars.next(), Some('b' | 'B')) => continue,
            '[' => skip_class(&mut chars),
            '(' => {
                skip_group_kind(&mut chars);
                open.push(Branch::default());
                group_is_ambiguous.push(false);
                continue;
            }
            '|' => {
                let ended = open.last_mut().map(std::mem::take).unwrap_or_default();
                if let Some(ambiguous) = group_is_ambiguous.last_mut() {
                    *ambiguous |= ended.is_ambiguous();
                }
                continue;
            }
            ')' if open.len() > 1 => {
                let ended = open.pop().unwrap_or_default();
                let ambiguous = group_is_ambiguous.pop().unwrap_or_default() || ended.is_ambiguous();
                atom = Branch { varies: ambiguous, fixed: !ambiguous, any: ambiguous && ended.any };
            }
            _ => (),
        }
        let (min, max) = quantifier(&mut chars);
        let loops = max.is_none_or(|max| max >= 10);
        if loops && c == ')' && atom.varies {
            return true;
        }
        let varies = atom.varies || (loops && max != Some(min));
        if let Some(branch) = open.last_mut() {
            branch.varies |= varies;
            branch.any |= varies && atom.any;
            branch.fixed |= min > 0 && !varies && atom.fixed;
        }
    }
    false
}

/// The least and greatest number of times that the atom before may match.
fn quantifier(chars: &mut Peekable<Chars<'_>>) -> (u32, Option<u32>) {
    let bounds = match chars.peek() {
        Some('*') => (0, None),
        Some('+') => (1, None),
        Some('?') => (0, Some(1)),
        Some('{') => {
            let text: String = chars.clone().skip(1).take_while(|c| *c != '}').collect();
            let (min, max) = text.split_once(',').unwrap_or((&text, &text));
            let Ok(min) = min.parse() else { return (1, Some(1)) };
            chars.nth(text.chars().count());
            (min, if max.is_empty() { None } else { max.parse().ok() })
        }
        _ => return (1, Some(1)),
    };
    chars.next();
    chars.next_if(|c| matches!(c, '?' | '+'));
    bounds
}

/// Skips what makes a group special: `?:`, `?=`, `?<name>` and the like.
fn skip_group_kind(chars: &mut Peekable<Chars<'_>>) {
    if chars.next_if_eq(&'?').is_some() {
        while chars.next_if(|c| !":=!>)".contains(*c)).is_some() {}
        chars.next_if(|c| *c != ')');
    }
}

fn skip_class(chars: &mut Peekable<Chars<'_>>) {
    chars.next_if_eq(&'^');
    chars.next_if_eq(&']');
    while let Some(c) = chars.next() {
        match c {
            ']' => return,
            '\\' => drop(chars.next()),
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::may_backtrack_for_ever;

    #[test]
    fn ambiguous_repetition_is_found_and_separated_repetition_is_not() {
        let bad = [
            "(a+)+",
            "^(a*)*$",
            r"(\w+\s?)*",
            "(.*x){10,}",
            "((a+))+",
            "(?:[a-z]+)*",
            "(x|a+)*",
            "(a{1,20})+",
            r"(?<n>\d+)+",
            "((-[a-z]+)*)*",
            "(a*b*)*",
        ];
        let good = [
            "^[a-z]+(-[a-z]+)*$",
            r"^\d{3}-\d{4}$",
            r"^(\d+,)*\d+$",
            "(a+)?",
            "(ab)+",
            "a+b+c*",
            "[(a+)+]",
            r"\(a+\)+",
            "^(?i)abc$",
            "(a|b)*",
            "x{",
            "(a{3})+",
            ")+",
            "",
        ];
        for pattern in bad {
            assert!(may_backtrack_for_ever(pattern), "{pattern}");
        }
        for pattern in good {
            assert!(!may_backtrack_for_ever(pattern), "{pattern}");
        }
    }
}
