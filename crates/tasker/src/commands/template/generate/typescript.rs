//! Handlers in TypeScript.

use std::collections::BTreeSet;

use serde_json::Value;
use tasker_lifecycle::template::StepKind;

use super::types::{Type, camel};
use super::{Argument, Handler, Program, list, prefixed};

pub(super) fn file(program: &Program) -> String {
    let (mut names, mut body) = (BTreeSet::new(), String::new());
    for record in &program.types.records {
        let doc = record.doc.as_deref().unwrap_or("What a schema of the template describes.");
        body.push_str(&format!("\n/** {} */\nexport type {} = {{\n", comment(doc), record.name));
        for field in &record.fields {
            if let Some(doc) = &field.doc {
                body.push_str(&format!("  /** {} */\n", comment(doc)));
            }
            let optional = if field.required { "" } else { "?" };
            body.push_str(&format!("  {}{optional}: {};\n", key(&field.key), name(&field.ty)));
        }
        body.push_str("};\n");
    }
    let uses_types = program.handlers.iter().flat_map(Handler::arguments).any(|of| of.ty != Type::Any);
    if uses_types {
        names.insert("type Parser");
        body.push_str("\n/** The type of what was checked before: by the task's schema, or by the result's. */\n");
        body.push_str("const as = <T>(): Parser<T> => ({ parse: (value) => value as T });\n");
    }
    program.handlers.iter().for_each(|handler| body.push_str(&function(handler, &mut names)));
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by_key(|name| name.trim_start_matches("type ").to_lowercase());
    let title = format!("/** The handlers of {}. They run as they are: fill them in. */\n\n", comment(&program.title));
    format!(
        "{title}import {{\n{}}} from \"@tasker-systems/tasker\";\n{body}",
        names.iter().map(|n| format!("  {n},\n")).collect::<String>()
    )
}

fn function(handler: &Handler, names: &mut BTreeSet<&'static str>) -> String {
    let define = match handler.kind {
        StepKind::Decision => "defineDecisionHandler",
        StepKind::Batchable => "defineBatchAnalyzer",
        StepKind::BatchWorker => "defineBatchWorker",
        StepKind::Standard | StepKind::DeferredConvergence => "defineHandler",
    };
    names.insert(define);
    let wanted = |arguments: &[Argument]| arguments.iter().map(argument).collect::<Vec<_>>().join(", ");
    let mut options = Vec::new();
    if !handler.depends.is_empty() {
        options.push(format!("depends: {{ {} }}", wanted(&handler.depends)));
    }
    if !handler.inputs.is_empty() {
        options.push(format!("inputs: {{ {} }}", wanted(&handler.inputs)));
    }
    let options = if options.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", options.join(", ")) };
    let mut given: Vec<String> = handler.arguments().map(|argument| camel(&argument.name)).collect();
    if handler.kind == StepKind::BatchWorker {
        given.push("batchContext".to_owned());
    }
    given.push("context".to_owned());
    let (returns, value) = body(handler, names);
    format!(
        "\n/** {} */\nexport const {} = {define}(\n  {},\n  {options},\n  async ({{ {} }}){returns} => {{\n{}    return {value};\n  }},\n);\n",
        comment(&handler.summary()),
        camel(&handler.function),
        json(&handler.callable.as_str().into()),
        given.join(", "),
        prefixed(&format!("void [{}]; // What there is to work with.", given.join(", ")), "    "),
    )
}

/// The type and the value that a stub answers.
fn body(handler: &Handler, names: &mut BTreeSet<&'static str>) -> (String, String) {
    match (handler.kind, &handler.sample) {
        (StepKind::Decision, _) => {
            names.insert("Decision");
            (String::new(), format!("Decision.route({})", list(&handler.branches)))
        }
        (StepKind::Batchable, _) => (String::new(), format!("{{ totalItems: 0, batchSize: {} }}", handler.batch_size)),
        (_, Some(sample)) => {
            let promised = match &handler.result {
                Type::Any => String::new(),
                ty => format!(": Promise<{}>", name(ty)),
            };
            (promised, json(sample))
        }
        (_, None) => {
            names.insert("PermanentError");
            let why = format!("{} is not written yet", handler.callable);
            (String::new(), format!("Promise.reject(new PermanentError({}))", json(&why.into())))
        }
    }
}

fn argument(argument: &Argument) -> String {
    let (of, given) = (json(&argument.of.as_str().into()), camel(&argument.name));
    match (&argument.ty, argument.required) {
        (Type::Any, _) => format!("{given}: {of}"),
        (ty, true) => format!("{given}: [{of}, as<{}>()]", name(ty)),
        (ty, false) => format!("{given}: [{of}, as<{} | undefined>()]", name(&nullable(ty))),
    }
}

fn name(ty: &Type) -> String {
    match ty {
        Type::Any => "unknown".to_owned(),
        Type::Null => "null".to_owned(),
        Type::Bool => "boolean".to_owned(),
        Type::Integer | Type::Number => "number".to_owned(),
        Type::Text => "string".to_owned(),
        Type::Texts(texts) => texts.iter().map(|text| json(&text.as_str().into())).collect::<Vec<_>>().join(" | "),
        Type::List(of) => format!("Array<{}>", name(of)),
        Type::Map(of) => format!("Record<string, {}>", name(of)),
        Type::Record(record) => record.clone(),
        Type::Union(of) => of.iter().map(name).collect::<Vec<_>>().join(" | "),
    }
}

/// What a key that is not there is read as.
fn nullable(ty: &Type) -> Type {
    match ty {
        Type::Union(of) if of.contains(&Type::Null) => ty.clone(),
        Type::Union(of) => Type::Union([of.as_slice(), &[Type::Null]].concat()),
        other => Type::Union(vec![other.clone(), Type::Null]),
    }
}

fn key(key: &str) -> String {
    let plain = !key.is_empty()
        && !key.starts_with(|first: char| first.is_ascii_digit())
        && key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if plain { key.to_owned() } else { json(&key.into()) }
}

fn comment(text: &str) -> String {
    text.replace("*/", "* /")
}

fn json(value: &Value) -> String {
    value.to_string()
}
