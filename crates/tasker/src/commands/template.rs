//! `tasker template`: check, register and show templates.

mod files;
mod generate;

use std::path::{Path, PathBuf};

use serde::Serialize;
use tasker_client::types::{
    DeprecateRequest, Deprecation, ErrorDetail, RegisterRequest, RegisterResponse, TemplateDetail, TemplateList,
    TemplateListQuery, TemplateSummary,
};
use tasker_client::{Client, ClientError, Graph};
use tasker_lifecycle::StepIndex;
use tasker_lifecycle::template::{Problem, Template, Warning, parse};

use super::drawing;
use crate::cli::{Drawing, Page, TemplateCommand, TemplateFiles};
use crate::failure::{Failure, Status};
use crate::output::{Output, fields, or_dash, table, time};

/// What was found in one file.
#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    valid: bool,
    template: Option<Identity>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

/// Which template a file holds.
#[derive(Serialize)]
struct Identity {
    namespace: String,
    name: String,
    version: String,
    hash: String,
    steps: usize,
}

/// What the server said to one file.
#[derive(Serialize)]
struct Registered {
    file: PathBuf,
    registered: Option<RegisterResponse>,
    error: Option<ErrorDetail>,
}

pub(super) async fn run(
    command: TemplateCommand,
    connect: impl FnOnce() -> Result<Client, Failure>,
    output: &Output,
) -> Result<Status, Failure> {
    match command {
        TemplateCommand::List { namespace, name, page } => {
            let Page { limit, cursor } = page;
            let query = TemplateListQuery { namespace, name, limit: Some(limit), cursor };
            output.value(&connect()?.list_templates(&query).await?, list_text)?;
            Ok(Status::Done)
        }
        TemplateCommand::Info { namespace, name, version } => {
            info(&namespace, &name, version, &connect()?, output).await
        }
        TemplateCommand::Validate(files) => validate(&files, output),
        TemplateCommand::Register { paths } => register(&paths, &connect()?, output).await,
        TemplateCommand::Deprecate { namespace, name, version, reason, by, undo: _ } => {
            let (client, id) = (connect()?, (namespace.as_str(), name.as_str(), version.as_str()));
            let template = match reason.zip(by) {
                Some((reason, by)) => client.deprecate_template(id, &DeprecateRequest { reason, by }).await?,
                None => client.undeprecate_template(id).await?,
            };
            output.value(&template, deprecation_text)?;
            Ok(Status::Done)
        }
        TemplateCommand::Generate { file, language, environment, out } => {
            let text = generate::generate(&valid(&file, environment.as_deref())?, language)?;
            match out {
                Some(out) => write_new(&out, &text)?,
                None => output.text(&text)?,
            }
            Ok(Status::Done)
        }
        TemplateCommand::Visualize { file, environment, drawing } => {
            visualize(&file, environment.as_deref(), &drawing, output)
        }
    }
}

/// Checks every file; the problems are the answer.
fn validate(wanted: &TemplateFiles, output: &Output) -> Result<Status, Failure> {
    let checked: Vec<Checked> =
        files::find(&wanted.paths)?.into_iter().map(|file| check(file, wanted.environment.as_deref())).collect();
    output.value(&checked, |checked| checked.iter().map(checked_text).collect())?;
    Ok(Status::done_if(checked.iter().all(|checked| checked.valid)))
}

fn check(file: PathBuf, environment: Option<&str>) -> Checked {
    match read(&file, environment) {
        Ok((template, warnings)) => {
            let problems = tasker_orchestration::schema_problems(&template);
            let identity = Identity {
                namespace: template.namespace.to_string(),
                name: template.name.clone(),
                version: template.version.to_string(),
                hash: template.hash.to_string(),
                steps: template.steps.len(),
            };
            Checked { file, valid: problems.is_empty(), template: Some(identity), problems, warnings }
        }
        Err(problems) => Checked { file, valid: false, template: None, problems, warnings: Vec::new() },
    }
}

fn read(file: &Path, environment: Option<&str>) -> Result<(Template, Vec<Warning>), Vec<Problem>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        vec![Problem {
            code: "unreadable",
            path: String::new(),
            line: None,
            message: format!("the file can't be read: {error}"),
            remedy: "give the path of a readable text file in UTF-8".to_owned(),
        }]
    })?;
    // A server that nobody told its environment takes the same one.
    let environment = environment.filter(|name| !name.is_empty()).unwrap_or("development");
    parse(&text, Some(environment))
}

fn checked_text(checked: &Checked) -> String {
    let file = checked.file.display();
    let mut text = match &checked.template {
        Some(found) if checked.valid => {
            format!("{file}: valid: {}/{} {}, {} steps\n", found.namespace, found.name, found.version, found.steps)
        }
        Some(_) | None => String::new(),
    };
    for problem in &checked.problems {
        text.push_str(&format!("{file}: {problem}\n"));
    }
    for warning in &checked.warnings {
        text.push_str(&format!("{file}: warning: {warning}\n"));
    }
    text
}

/// Registers every file, also after one was refused. Without a server there is no point in going on.
async fn register(paths: &[PathBuf], client: &Client, output: &Output) -> Result<Status, Failure> {
    let mut answers = Vec::new();
    for file in files::find(paths)? {
        let text = std::fs::read_to_string(&file).map_err(|error| Failure::file(&file, error))?;
        let answer = match client.register_template(&RegisterRequest::Yaml(text)).await {
            Ok(registered) => Registered { file, registered: Some(registered), error: None },
            Err(ClientError::Api { body, .. }) => Registered { file, registered: None, error: Some(body.error) },
            Err(error) => return Err(error.into()),
        };
        answers.push(answer);
    }
    output.value(&answers, |answers| answers.iter().map(registered_text).collect())?;
    Ok(Status::done_if(answers.iter().all(|answer| answer.error.is_none())))
}

fn registered_text(answer: &Registered) -> String {
    let file = answer.file.display();
    let mut text = String::new();
    if let Some(done) = &answer.registered {
        let what = if done.created { "registered" } else { "registered before" };
        text.push_str(&format!("{file}: {what}: {}/{} {}\n", done.namespace, done.name, done.version));
        for warning in &done.warnings {
            let line = warning.line.map_or_else(String::new, |line| format!("line {line}: "));
            text.push_str(&format!("{file}: warning: {line}{}: {}\n", warning.path, warning.message));
        }
    }
    if let Some(error) = &answer.error {
        text.push_str(&format!("{file}: refused: {error}\n"));
        if error.details.as_object().is_some_and(|details| !details.is_empty()) {
            text.push_str(&format!("{:#}\n", error.details));
        }
    }
    text
}

fn visualize(file: &Path, environment: Option<&str>, options: &Drawing, output: &Output) -> Result<Status, Failure> {
    let template = valid(file, environment)?;
    let text = drawing::render(&graph(&template), drawing::format(options, output));
    drawing::write(&text, options.out.as_deref(), output)
}

/// The template of a file, or all that is wrong with it.
fn valid(file: &Path, environment: Option<&str>) -> Result<Template, Failure> {
    let (template, _) = read(file, environment).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("{}: {problem}", file.display())).collect();
        Failure::Failed(format!("the template is not valid\n{}", lines.join("\n")))
    })?;
    Ok(template)
}

/// Writes a file that was not there: what somebody filled in is not lost.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let made = std::fs::File::options().write(true).create_new(true).open(path);
    made.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| Failure::file(path, error))
}

fn graph(template: &Template) -> Graph {
    let names = template.steps.iter().map(|step| step.name.as_str());
    let parents = (0_u32..).map(StepIndex).take(template.steps.len()).map(|step| template.dag.parents(step));
    Graph::new(&template.name, names, parents, None)
}

async fn info(
    namespace: &str,
    name: &str,
    version: Option<String>,
    client: &Client,
    output: &Output,
) -> Result<Status, Failure> {
    let version = match version {
        Some(version) => version,
        None => newest(namespace, name, client).await?,
    };
    output.value(&client.get_template(namespace, name, &version).await?, info_text)?;
    Ok(Status::Done)
}

/// The list gives the newest version first. A deprecated one is shown only where there is no other.
async fn newest(namespace: &str, name: &str, client: &Client) -> Result<String, Failure> {
    let query = TemplateListQuery {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        limit: Some(100),
        cursor: None,
    };
    let mut found = client.list_templates(&query).await?.templates;
    found.sort_by_key(|template| template.deprecated.is_some());
    found
        .into_iter()
        .next()
        .map(|template| template.version)
        .ok_or_else(|| Failure::Failed(format!("there is no template {namespace}/{name}; see `tasker template list`")))
}

fn list_text(list: &TemplateList) -> String {
    let rows = list.templates.iter().map(|template| {
        [
            format!("{}/{}", template.namespace, template.name),
            match template.deprecated {
                Some(_) => format!("{} (deprecated)", template.version),
                None => template.version.clone(),
            },
            template.step_count.to_string(),
            time(template.registered_at),
            or_dash(template.description.as_ref()),
        ]
    });
    let text = table(["TEMPLATE", "VERSION", "STEPS", "REGISTERED", "DESCRIPTION"], rows, "no templates");
    match &list.pagination.next_cursor {
        Some(cursor) => format!("{text}\nmore with --cursor {cursor}\n"),
        None => text,
    }
}

fn reason(deprecation: &Deprecation) -> String {
    format!("{} by {}: {}", time(deprecation.at), deprecation.by, deprecation.reason)
}

fn deprecation_text(template: &TemplateSummary) -> String {
    let said = template.deprecated.as_ref().map_or_else(|| "not deprecated".to_owned(), reason);
    format!("{}/{} {}: {said}\n", template.namespace, template.name, template.version)
}

fn info_text(template: &TemplateDetail) -> String {
    let facts = fields([
        ("template", Some(format!("{}/{}", template.namespace, template.name))),
        ("version", Some(template.version.clone())),
        ("description", template.description.clone()),
        ("deprecated", template.deprecated.as_ref().map(reason)),
        ("steps", Some(template.step_count.to_string())),
        ("registered", Some(time(template.registered_at))),
        ("hash", Some(template.hash.clone())),
    ]);
    let content: serde_json::Value = serde_json::from_str(template.template.get()).unwrap_or_default();
    format!("{facts}\n{content:#}\n")
}
