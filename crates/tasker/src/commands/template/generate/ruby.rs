//! Handlers in Ruby.

use serde_json::Value;
use tasker_lifecycle::template::StepKind;

use super::types::{Type, pascal};
use super::{Argument, Handler, Program, list, prefixed};

pub(super) fn file(program: &Program) -> String {
    let module = pascal(program.title.split([' ', '/']).nth(1).unwrap_or("handlers"));
    let mut text = format!(
        "# frozen_string_literal: true\n\nrequire \"tasker_core\"\n\n# The handlers of {}. They run as they are: fill them in.\n\
         module {module}\n  extend TaskerCore::StepHandler::Functional\n",
        program.title
    );
    program.handlers.iter().for_each(|handler| text.push_str(&function(handler)));
    text + "end\n"
}

fn function(handler: &Handler) -> String {
    let define = match handler.kind {
        StepKind::Decision => "decision_handler",
        StepKind::Batchable => "batch_analyzer",
        StepKind::BatchWorker => "batch_worker",
        StepKind::Standard | StepKind::DeferredConvergence => "step_handler",
    };
    let mut about = format!("{}\n", handler.summary());
    for argument in handler.arguments() {
        about.push_str(&format!("@param {} [{}] {}\n", argument.name, kind(argument), argument.of));
    }
    let mut options = vec![literal(&handler.callable.as_str().into())];
    if !handler.depends.is_empty() {
        let each = handler.depends.iter().map(|of| format!("{}: {}", of.name, literal(&of.of.as_str().into())));
        options.push(format!("depends_on: {{ {} }}", each.collect::<Vec<_>>().join(", ")));
    }
    if !handler.inputs.is_empty() {
        let each = handler.inputs.iter().map(|input| format!(":{}", input.of));
        options.push(format!("inputs: [{}]", each.collect::<Vec<_>>().join(", ")));
    }
    let mut given: Vec<String> = handler.arguments().map(parameter).collect();
    if handler.kind == StepKind::BatchWorker {
        given.push("batch_context:".to_owned());
    }
    given.push("context:".to_owned());
    format!(
        "\n{}  {define} {} do |{}|\n{}  end\n",
        prefixed(&about, "  # "),
        options.join(", "),
        given.join(", "),
        prefixed(&body(handler), "    ")
    )
}

fn parameter(argument: &Argument) -> String {
    if argument.required { format!("{}:", argument.name) } else { format!("{}: nil", argument.name) }
}

fn body(handler: &Handler) -> String {
    match (handler.kind, &handler.sample) {
        (StepKind::Decision, _) => {
            format!("TaskerCore::Decision.route({})", list(&handler.branches))
        }
        (StepKind::Batchable, _) => {
            format!("TaskerCore::BatchConfig.new(total_items: 0, batch_size: {})", handler.batch_size)
        }
        (_, Some(sample)) => literal(sample),
        (_, None) => {
            let why = format!("{} is not written yet", handler.callable);
            format!("raise TaskerCore::PermanentError, {}", literal(&why.into()))
        }
    }
}

fn kind(argument: &Argument) -> String {
    let name = name(&argument.ty);
    if argument.required || name.ends_with(", nil") { name } else { format!("{name}, nil") }
}

fn name(ty: &Type) -> String {
    match ty {
        Type::Any => "Object".to_owned(),
        Type::Null => "nil".to_owned(),
        Type::Bool => "Boolean".to_owned(),
        Type::Integer => "Integer".to_owned(),
        Type::Number => "Numeric".to_owned(),
        Type::Text => "String".to_owned(),
        Type::Texts(texts) => texts.iter().map(|text| literal(&text.as_str().into())).collect::<Vec<_>>().join(", "),
        Type::List(of) => format!("Array<{}>", name(of)),
        Type::Map(of) => format!("Hash{{String => {}}}", name(of)),
        Type::Record(record) => format!("Hash ({record})"),
        Type::Union(of) => of.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        // `#` begins code in Ruby's texts; everything else is read as JSON has it.
        Value::String(_) => value.to_string().replace('#', "\\#"),
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(keys) if keys.is_empty() => "{}".to_owned(),
        Value::Object(keys) => {
            let keys =
                keys.iter().map(|(key, value)| format!("{} => {}", literal(&key.as_str().into()), literal(value)));
            format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "))
        }
    }
}
