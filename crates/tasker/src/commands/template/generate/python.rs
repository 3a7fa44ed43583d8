//! Handlers in Python.

use std::collections::BTreeSet;

use serde_json::Value;
use tasker_lifecycle::template::StepKind;

use super::types::{Field, Record, Type};
use super::{Argument, Handler, Program, list};

/// What no field of a class may be called.
const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
    "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

pub(super) fn file(program: &Program) -> String {
    let mut names = BTreeSet::new();
    let handlers: Vec<String> = program.handlers.iter().map(|handler| function(handler, &mut names)).collect();
    let mut typing = BTreeSet::new();
    let records: Vec<String> = program.types.records.iter().map(|of| record(of, &mut typing)).collect();
    let body = records.concat() + &handlers.concat();
    for name in ["Any", "Dict", "List", "Literal", "Optional", "Union"] {
        if body.contains(&format!("{name}[")) || (name == "Any" && body.contains("Any")) {
            typing.insert(name);
        }
    }
    let mut text = format!("\"\"\"The handlers of {}. They run as they are: fill them in.\"\"\"\n\n", program.title);
    text.push_str("from __future__ import annotations\n\n");
    if !typing.is_empty() {
        text.push_str(&format!("from typing import {}\n\n", Vec::from_iter(typing).join(", ")));
    }
    text.push_str("from tasker_core import ");
    let core = names.iter().filter(|name| name.starts_with(char::is_uppercase) && !FUNCTIONAL.contains(*name));
    text.push_str(&core.copied().collect::<Vec<_>>().join(", "));
    let functional = names.iter().filter(|name| !name.starts_with(char::is_uppercase) || FUNCTIONAL.contains(*name));
    let functional: Vec<&str> = functional.copied().collect();
    let functional: String = functional.iter().map(|name| format!("    {name},\n")).collect();
    text.push_str(&format!("\nfrom tasker_core.step_handler.functional import (\n{functional})\n"));
    text + &body
}

const FUNCTIONAL: [&str; 2] = ["BatchConfig", "Decision"];

fn record(record: &Record, typing: &mut BTreeSet<&'static str>) -> String {
    typing.insert("TypedDict");
    let doc = record.doc.as_deref().unwrap_or("What a schema of the template describes.");
    let doc = format!("    \"\"\"{}\"\"\"\n", doc.replace('\\', "\\\\").replace('"', "'"));
    let line = |field: &Field| {
        let doc = field.doc.as_deref().map(|doc| format!("    # {doc}\n")).unwrap_or_default();
        format!("{doc}    {}: {}\n", field.key, name(&field.ty))
    };
    if record.fields.iter().any(|field| !is_attribute(&field.key)) {
        let fields = record
            .fields
            .iter()
            .map(|field| format!("    {}: {},\n", literal(&field.key.as_str().into()), quoted(&field.ty)));
        let fields: String = fields.collect();
        return format!("\n\n{0} = TypedDict(\"{0}\", {{\n{fields}}}, total=False)\n", record.name);
    }
    let (required, optional): (Vec<_>, Vec<_>) = record.fields.iter().partition(|field| field.required);
    let lines = |fields: Vec<&Field>| fields.into_iter().map(line).collect::<String>();
    match (required.is_empty(), optional.is_empty()) {
        (_, true) => format!("\n\nclass {}(TypedDict):\n{doc}\n{}", record.name, lines(required)),
        (true, false) => format!("\n\nclass {}(TypedDict, total=False):\n{doc}\n{}", record.name, lines(optional)),
        (false, false) => format!(
            "\n\nclass _{0}(TypedDict):\n{1}\n\nclass {0}(_{0}, total=False):\n{doc}\n{2}",
            record.name,
            lines(required),
            lines(optional)
        ),
    }
}

fn function(handler: &Handler, names: &mut BTreeSet<&'static str>) -> String {
    let (decorator, returns) = match handler.kind {
        StepKind::Decision => ("decision_handler", "Decision".to_owned()),
        StepKind::Batchable => ("batch_analyzer", "BatchConfig".to_owned()),
        StepKind::BatchWorker => ("batch_worker", name(&handler.result)),
        StepKind::Standard | StepKind::DeferredConvergence => ("step_handler", name(&handler.result)),
    };
    names.extend([decorator, "StepContext"]);
    let mut text = format!("\n\n@{decorator}({})\n", literal(&handler.callable.as_str().into()));
    if !handler.depends.is_empty() {
        names.insert("depends_on");
        let each = handler.depends.iter().map(|of| format!("{}={}", of.name, literal(&of.of.as_str().into())));
        text.push_str(&format!("@depends_on({})\n", each.collect::<Vec<_>>().join(", ")));
    }
    if !handler.inputs.is_empty() {
        names.insert("inputs");
        let each = handler.inputs.iter().map(|input| literal(&input.of.as_str().into()));
        text.push_str(&format!("@inputs({})\n", each.collect::<Vec<_>>().join(", ")));
    }
    let mut arguments: Vec<String> = handler.arguments().map(argument).collect();
    if handler.kind == StepKind::BatchWorker {
        names.insert("BatchWorkerContext");
        arguments.push("batch_context: BatchWorkerContext".to_owned());
    }
    arguments.push("context: StepContext".to_owned());
    text.push_str(&format!("def {}(\n    *,\n", handler.function));
    arguments.iter().for_each(|argument| text.push_str(&format!("    {argument},\n")));
    text.push_str(&format!(") -> {returns}:\n"));
    text.push_str(&format!("    \"\"\"{}\"\"\"\n", handler.summary().replace('\\', "\\\\").replace('"', "'")));
    text + &body(handler, names)
}

fn argument(argument: &Argument) -> String {
    match argument.required {
        true => format!("{}: {}", argument.name, name(&argument.ty)),
        false => format!("{}: {} = None", argument.name, optional(&argument.ty)),
    }
}

fn body(handler: &Handler, names: &mut BTreeSet<&'static str>) -> String {
    match (handler.kind, &handler.sample) {
        (StepKind::Decision, _) => {
            names.insert("Decision");
            format!("    return Decision.route({})\n", list(&handler.branches))
        }
        (StepKind::Batchable, _) => {
            names.insert("BatchConfig");
            format!("    return BatchConfig(total_items=0, batch_size={})\n", handler.batch_size)
        }
        (_, Some(sample)) => format!("    return {}\n", literal(sample)),
        (_, None) => {
            names.insert("PermanentError");
            let why = format!("{} is not written yet", handler.callable);
            format!("    raise PermanentError({})\n", literal(&why.into()))
        }
    }
}

fn name(ty: &Type) -> String {
    match ty {
        Type::Any => "Any".to_owned(),
        Type::Null => "None".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Integer => "int".to_owned(),
        Type::Number => "float".to_owned(),
        Type::Text => "str".to_owned(),
        Type::Texts(texts) => {
            let texts: Vec<String> = texts.iter().map(|text| literal(&text.as_str().into())).collect();
            format!("Literal[{}]", texts.join(", "))
        }
        Type::List(of) => format!("List[{}]", name(of)),
        Type::Map(of) => format!("Dict[str, {}]", name(of)),
        Type::Record(record) => record.clone(),
        Type::Union(of) if of.contains(&Type::Null) => {
            let rest: Vec<Type> = of.iter().filter(|each| **each != Type::Null).cloned().collect();
            optional(&if rest.len() == 1 { rest[0].clone() } else { Type::Union(rest) })
        }
        Type::Union(of) => format!("Union[{}]", of.iter().map(name).collect::<Vec<_>>().join(", ")),
    }
}

fn optional(ty: &Type) -> String {
    let name = name(ty);
    if name == "Any" || name == "None" || name.starts_with("Optional[") { name } else { format!("Optional[{name}]") }
}

/// A type outside of an annotation: a record may come later.
fn quoted(ty: &Type) -> String {
    if matches!(ty, Type::Record(_)) { format!("\"{}\"", name(ty)) } else { name(ty) }
}

fn is_attribute(key: &str) -> bool {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    !key.is_empty()
        && !key.starts_with(|first: char| first.is_ascii_digit())
        && !key.starts_with("__")
        && key.chars().all(word)
        && !KEYWORDS.contains(&key)
}

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        // What JSON escapes, Python reads alike.
        Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(keys) => {
            let keys = keys.iter().map(|(key, value)| format!("{}: {}", literal(&key.as_str().into()), literal(value)));
            format!("{{{}}}", keys.collect::<Vec<_>>().join(", "))
        }
    }
}
