//! `tasker template generate`: stubs of a template's handlers, which run as they are, with types made of its schemas.

mod python;
mod ruby;
mod rust;
mod types;
mod typescript;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tasker_lifecycle::template::{HandlerRef, StepKind, StepTemplate, Template};
use tasker_shared::json_schema;

use self::types::{Type, Types};
use crate::cli::GenerateLanguage;
use crate::failure::Failure;

/// What a program in some language is made of.
struct Program {
    /// `shop/order_fulfillment 1.0.0`
    title: String,
    types: Types,
    handlers: Vec<Handler>,
}

/// One handler; several steps may call it.
struct Handler {
    callable: String,
    /// Its last part in `snake_case`, unique in the program.
    function: String,
    kind: StepKind,
    doc: Vec<String>,
    /// Results of earlier steps; none where its steps do not have the same.
    depends: Vec<Argument>,
    inputs: Vec<Argument>,
    result: Type,
    /// Something that fits the result's schema; none where nothing simple does.
    sample: Option<Value>,
    /// The steps that a decision can create.
    branches: Vec<String>,
    batch_size: u64,
}

/// What a handler is given.
struct Argument {
    /// A word in every language.
    name: String,
    /// The step or the key of the task's context.
    of: String,
    ty: Type,
    required: bool,
}

/// The text of a file with a handler for each callable of the template.
///
/// # Errors
/// Where a step calls a method other than `call`: only a class has several.
pub(super) fn generate(template: &Template, language: GenerateLanguage) -> Result<String, Failure> {
    let with_method =
        |step: &&StepTemplate| step.handler.method.as_deref().is_some_and(|name| name != HandlerRef::CALL);
    if let Some(StepTemplate { name, handler, .. }) = template.steps.iter().find(with_method) {
        let (callable, method) = (&handler.callable, handler.method.as_deref().unwrap_or_default());
        return Err(Failure::Failed(format!(
            "the step `{name}` calls the method `{method}` of `{callable}`: write a class for it; what is generated are functions"
        )));
    }
    let program = Program::of(template);
    Ok(match language {
        GenerateLanguage::Python => python::file(&program),
        GenerateLanguage::Ruby => ruby::file(&program),
        GenerateLanguage::Rust => rust::file(&program),
        GenerateLanguage::Typescript => typescript::file(&program),
    })
}

impl Program {
    fn of(template: &Template) -> Self {
        let Template { namespace, name, version, .. } = template;
        let mut types = Types::default();
        let mut results = Vec::new();
        for step in &template.steps {
            let named = format!("{}Result", types::pascal(&step.name));
            results.push(step.result_schema.as_ref().map_or(Type::Any, |schema| types.of(schema, &named)));
        }
        let inputs = inputs(template, &mut types);
        let mut callables: Vec<&str> = Vec::new();
        for step in &template.steps {
            if !callables.contains(&step.handler.callable.as_str()) {
                callables.push(&step.handler.callable);
            }
        }
        let mut taken = BTreeSet::new();
        let handlers = callables.into_iter().map(|callable| {
            let function = word(callable.rsplit(['.', ':', '#']).next().unwrap_or(callable), &mut taken);
            Handler::of(template, callable, function, &results, &inputs)
        });
        let handlers = handlers.collect();
        Self { title: format!("{}/{name} {version}", namespace.as_str()), types, handlers }
    }
}

impl Handler {
    fn of(template: &Template, callable: &str, function: String, results: &[Type], inputs: &[Argument]) -> Self {
        let steps = || template.steps.iter().enumerate().filter(|(_, step)| step.handler.callable == callable);
        let (at, first) = steps().next().expect("it is a callable of the template");
        let parents = |step: usize| {
            let step = tasker_lifecycle::StepIndex(u32::try_from(step).expect("a bounded template"));
            template.dag.parents(step).iter().map(|parent| parent.at()).collect::<Vec<_>>()
        };
        let alike = steps().all(|(step, _)| parents(step) == parents(at));
        let mut used = BTreeSet::new();
        let depends = parents(at).into_iter().filter(|parent| {
            // Batch workers are many: their results are got from the context.
            alike && template.steps[*parent].kind != StepKind::BatchWorker
        });
        let depends = depends.map(|parent| {
            let of = template.steps[parent].name.clone();
            let required = first.kind != StepKind::DeferredConvergence;
            Argument { name: word(&of, &mut used), of, ty: results[parent].clone(), required }
        });
        let depends: Vec<Argument> = depends.collect();
        // Others have what they need from the steps before them, and everything from the context.
        let inputs = inputs.iter().filter(|input| parents(at).is_empty() && used.insert(input.name.clone()));
        let inputs = inputs.map(|input| Argument {
            name: input.name.clone(),
            of: input.of.clone(),
            ty: input.ty.clone(),
            required: input.required,
        });
        let doc = steps().filter_map(|(_, step)| step.description.as_deref()).collect::<BTreeSet<_>>();
        let one = steps().count() == 1;
        let children = template.steps.iter().enumerate().filter(|(step, _)| parents(*step).contains(&at));
        Self {
            callable: callable.to_owned(),
            function,
            kind: first.kind,
            doc: doc.into_iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect(),
            depends,
            inputs: inputs.collect(),
            result: if one { results[at].clone() } else { Type::Any },
            sample: sample(first.result_schema.as_ref().filter(|_| one || alike_schemas(steps().map(|(_, s)| s)))),
            branches: children.map(|(_, step)| step.name.clone()).collect(),
            batch_size: first.batch_config.as_ref().map_or(100, |config| config.batch_size),
        }
    }

    /// `greeting.Compose is the handler of …` in the words of every language.
    fn summary(&self) -> String {
        if self.doc.is_empty() { format!("Handles `{}`.", self.callable) } else { self.doc.join(" ") }
    }

    fn arguments(&self) -> impl Iterator<Item = &Argument> {
        self.depends.iter().chain(&self.inputs)
    }
}

fn alike_schemas<'a>(mut steps: impl Iterator<Item = &'a StepTemplate>) -> bool {
    let first = steps.next().and_then(|step| step.result_schema.as_ref());
    steps.all(|step| step.result_schema.as_ref() == first)
}

/// The keys of the task's context that can be arguments.
fn inputs(template: &Template, types: &mut Types) -> Vec<Argument> {
    let Some(schema) = &template.input_schema else { return Vec::new() };
    let name = format!("{}Input", types::pascal(&template.name));
    let (mut used, mut inputs) = (BTreeSet::new(), Vec::new());
    for field in types.fields(schema, &name) {
        if types::is_word(&field.key) {
            let name = word(&field.key, &mut used);
            inputs.push(Argument { name, of: field.key, ty: field.ty, required: field.required });
        }
    }
    inputs
}

/// A name that is a word and no reserved one in each of the languages.
fn word(name: &str, used: &mut BTreeSet<String>) -> String {
    let mut word = types::snake(name);
    if types::RESERVED.contains(&word.as_str()) {
        word.push('_');
    }
    while !used.insert(word.clone()) {
        word.push('_');
    }
    word
}

/// What a stub returns: the simplest value that fits. Where the schema wants more than that, none.
fn sample(schema: Option<&Value>) -> Option<Value> {
    let Some(schema) = schema else { return Some(json!({})) };
    let sample = types::sample(schema, schema, 0);
    json_schema::compile(schema).is_ok_and(|validator| validator.is_valid(&sample)).then_some(sample)
}

/// The texts as a list, as every language has it.
fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
    format!("[{}]", texts.join(", "))
}

/// Lines with this before each.
fn prefixed(lines: &str, prefix: &str) -> String {
    lines.lines().map(|line| format!("{prefix}{line}\n")).collect()
}
