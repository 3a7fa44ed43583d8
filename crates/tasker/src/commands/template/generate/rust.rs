//! Handlers in Rust.

use std::collections::BTreeSet;

use serde_json::Value;
use tasker_lifecycle::template::StepKind;

use super::types::{Record, Type};
use super::{Argument, Handler, Program, list, prefixed};

pub(super) fn file(program: &Program) -> String {
    let mut body = String::new();
    let mut names = BTreeSet::from(["HandlerRegistry", "StepContext", "StepError", "StepOutcome"]);
    body.push_str(
        "\n/// Adds them to a worker's registry.\npub(crate) fn register(registry: &mut HandlerRegistry) {\n",
    );
    for handler in &program.handlers {
        let callable = Value::from(handler.callable.as_str());
        body.push_str(&format!("    registry.register_fn({callable}, {});\n", handler.function));
    }
    body.push_str("}\n");
    program.types.records.iter().for_each(|of| body.push_str(&record(of)));
    program.handlers.iter().for_each(|handler| body.push_str(&function(handler, &mut names)));
    let mut text = format!("//! The handlers of {}. They run as they are: fill them in.\n\n", program.title);
    if !program.types.records.is_empty() {
        text.push_str("use serde::{Deserialize, Serialize};\n");
    }
    let names: Vec<&str> = names.into_iter().collect();
    text + "use serde_json::json;\n" + &format!("use tasker_worker::{{{}}};\n", names.join(", ")) + &body
}

fn record(record: &Record) -> String {
    let doc = record.doc.as_deref().unwrap_or("What a schema of the template describes.");
    let mut text = format!(
        "\n/// {doc}\n#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]\npub(crate) struct {} {{\n",
        record.name
    );
    let mut used = BTreeSet::new();
    for field in &record.fields {
        let word = super::word(&field.key, &mut used);
        text.push_str(&format!("    /// {}\n", field.doc.as_deref().unwrap_or(&format!("`{}`.", field.key))));
        let mut serde = Vec::new();
        if word != field.key {
            serde.push(format!("rename = {}", Value::from(field.key.as_str())));
        }
        if !field.required {
            serde.push("default".to_owned());
            serde.push("skip_serializing_if = \"Option::is_none\"".to_owned());
        }
        if !serde.is_empty() {
            text.push_str(&format!("    #[serde({})]\n", serde.join(", ")));
        }
        text.push_str(&format!(
            "    pub(crate) {word}: {},\n",
            if field.required { name(&field.ty) } else { optional(&field.ty) }
        ));
    }
    text + "}\n"
}

fn function(handler: &Handler, names: &mut BTreeSet<&'static str>) -> String {
    let mut lines = String::new();
    for argument in &handler.depends {
        // Of what a decision did not create there is no result.
        let end = if argument.required { "?" } else { ".ok()" };
        lines.push_str(&binding(argument, &format!("ctx.dependency({}){end}", Value::from(argument.of.as_str()))));
    }
    for argument in &handler.inputs {
        lines.push_str(&binding(argument, &format!("ctx.get_input({})?", Value::from(argument.of.as_str()))));
    }
    lines.push_str(&body(handler, names));
    let given = if lines.contains("ctx") { "ctx" } else { "_" };
    format!(
        "\n/// {}\nasync fn {}({given}: StepContext) -> Result<StepOutcome, StepError> {{\n{}}}\n",
        handler.summary(),
        handler.function,
        prefixed(&lines, "    ")
    )
}

fn binding(argument: &Argument, read: &str) -> String {
    let ty = if argument.required { name(&argument.ty) } else { optional(&argument.ty) };
    format!("let _{}: {ty} = {read};\n", argument.name)
}

fn body(handler: &Handler, names: &mut BTreeSet<&'static str>) -> String {
    match (handler.kind, &handler.sample) {
        (StepKind::Decision, _) => {
            format!("StepOutcome::decision_with({}, json!({{}}))", list(&handler.branches))
        }
        (StepKind::Batchable, _) => {
            names.insert("Cursor");
            format!("StepOutcome::batches(Cursor::ranges(0, {}), json!({{}}))", handler.batch_size)
        }
        (kind, Some(sample)) => {
            let no_op = "if ctx.batch()?.is_no_op() {\n    return StepOutcome::success(json!({\"no_op\": true}));\n}\n";
            let no_op = if kind == StepKind::BatchWorker { no_op } else { "" };
            format!("{no_op}StepOutcome::success(json!({sample}))")
        }
        (_, None) => {
            let why = format!("{} is not written yet", handler.callable);
            format!("Err(StepError::permanent({}))", Value::from(why))
        }
    }
}

fn name(ty: &Type) -> String {
    match ty {
        Type::Any | Type::Union(_) => match ty {
            Type::Union(of) if of.len() == 2 && of.contains(&Type::Null) => {
                let other = of.iter().find(|each| **each != Type::Null).expect("two different types");
                optional(other)
            }
            _ => "serde_json::Value".to_owned(),
        },
        Type::Null => "()".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Integer => "i64".to_owned(),
        Type::Number => "f64".to_owned(),
        Type::Text | Type::Texts(_) => "String".to_owned(),
        Type::List(of) => format!("Vec<{}>", name(of)),
        Type::Map(of) => format!("std::collections::BTreeMap<String, {}>", name(of)),
        Type::Record(record) => record.clone(),
    }
}

fn optional(ty: &Type) -> String {
    let name = name(ty);
    if name.starts_with("Option<") { name } else { format!("Option<{name}>") }
}
