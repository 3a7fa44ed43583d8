//! The one spelling of a template's content, and its hash.

use std::fmt::Write;

use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

use super::model::{Template, TemplateHash};
use crate::ids::StepIndex;

/// The template as a document, with every default written out.
pub(super) fn to_json(template: &Template) -> Value {
    let mut content = serde_json::to_value(template).expect("the model has only string keys");
    let steps = content.get_mut("steps").and_then(Value::as_array_mut).expect("steps are a list");
    for (at, step) in steps.iter_mut().enumerate() {
        let parents = template.dag.parents(StepIndex::from(at)).iter();
        let names: Vec<Value> = parents.map(|parent| template.step(*parent).name.clone().into()).collect();
        if !names.is_empty() {
            step.as_object_mut().expect("a step is an object").insert("dependencies".into(), names.into());
        }
    }
    content
}

/// The hash of a document in canonical form.
pub(super) fn hash(content: &Value) -> TemplateHash {
    let mut text = String::new();
    write(content, &mut text);
    TemplateHash(Sha256::digest(text.as_bytes()).into())
}

/// JSON without spaces and with sorted keys. Sorting here does not rely on how `serde_json` keeps maps,
/// which features of other crates may change.
fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => write_object(map, text),
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { "," });
                write(item, text);
            }
            text.push(']');
        }
        leaf => write!(text, "{leaf}").expect("writing to a string can't fail"),
    }
}

fn write_object(map: &Map<String, Value>, text: &mut String) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    text.push('{');
    for (at, (key, value)) in entries.into_iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(text, "{comma}{}:", Value::from(key.as_str())).expect("writing to a string can't fail");
        write(value, text);
    }
    text.push('}');
}

/// The form of a number that survives PostgreSQL's `jsonb`, which forgets exponents and negative zero.
pub(super) fn number(value: f64) -> Option<Number> {
    /// From here on floats are printed with an exponent.
    const EXPONENT_FROM: f64 = 1e16;
    if value == 0.0 {
        return Number::from_f64(0.0);
    }
    if value.abs() < EXPONENT_FROM {
        return Number::from_f64(value);
    }
    // `{:.0}` writes a float without an exponent; what is too large for an integer stays a float.
    let digits = format!("{value:.0}");
    let whole = digits.parse::<u64>().map(Number::from);
    whole.or_else(|_| digits.parse::<i64>().map(Number::from)).ok().or_else(|| Number::from_f64(value))
}
