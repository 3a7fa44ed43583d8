//! `tasker config`: check and explain the configuration.

use std::ffi::OsStr;

use serde_json::{Value, json};
use tasker_shared::config::keys::{self, KEYS, Key, Preset};
use tasker_shared::config::{Config, Error, Errors, Setting, Source, docs, explain};

use crate::cli::{ConfigCommand, ConfigFiles};
use crate::failure::{Failure, Status};
use crate::output::{Output, table};

pub(super) fn run(command: &ConfigCommand, output: &Output) -> Result<Status, Failure> {
    match command {
        ConfigCommand::Show(files) => show(files, output),
        ConfigCommand::Validate(files) => validate(files, output),
        ConfigCommand::Explain { key } => explain_key(key, output),
        ConfigCommand::Docs => {
            let keys: Vec<Value> = KEYS.iter().map(key_json).collect();
            output.value(&keys, |_| docs())?;
            Ok(Status::Done)
        }
    }
}

/// Checks the configuration; the errors are the answer.
pub(crate) fn validate(files: &ConfigFiles, output: &Output) -> Result<Status, Failure> {
    let result = load(files);
    let errors = result.as_ref().err().map_or(&[][..], |errors| &errors.0);
    let answer = json!({"valid": result.is_ok(), "errors": errors.iter().map(error_json).collect::<Vec<_>>()});
    output.value(&answer, |_| match &result {
        Ok(config) => format!("the configuration for {} is valid\n", config.environment),
        Err(errors) => format!("{errors}\n"),
    })?;
    Ok(Status::done_if(result.is_ok()))
}

fn show(files: &ConfigFiles, output: &Output) -> Result<Status, Failure> {
    let config = load(files).map_err(Failure::Config)?;
    let settings = config.sources();
    let answer = json!({
        "environment": config.environment.name(),
        "settings": settings.iter().map(setting_json).collect::<Vec<_>>(),
    });
    output.value(&answer, |_| {
        let rows = settings
            .iter()
            .map(|setting| [setting.name.to_owned(), value_text(&setting.value), setting.source.to_string()]);
        format!("environment: {}\n\n{}", config.environment, table(["KEY", "VALUE", "FROM"], rows, "no keys"))
    })?;
    Ok(Status::Done)
}

fn explain_key(name: &str, output: &Output) -> Result<Status, Failure> {
    let (Some(key), Some(text)) = (keys::find(name), explain(name)) else {
        let hint = keys::suggest(name)
            .map_or_else(|| "`tasker config docs` lists them all".to_owned(), |near| format!("did you mean `{near}`?"));
        return Err(Failure::Usage(format!("there is no key `{name}`; {hint}")));
    };
    output.value(&key_json(key), |_| format!("{name}\n\n{text}"))?;
    Ok(Status::Done)
}

/// Reads the configuration as a process with these options in its environment would.
fn load(files: &ConfigFiles) -> Result<Config, Errors> {
    let given = [
        ("TASKER_ENV", files.environment.as_deref().map(OsStr::new)),
        ("TASKER_CONFIG_ROOT", files.root.as_deref().map(AsRef::as_ref)),
        ("TASKER_CONFIG_PATH", files.file.as_deref().map(AsRef::as_ref)),
    ];
    let names: Vec<String> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    let lookup = |name: &str| {
        if name == "TASKER_CONFIG_PATH" && files.root.is_some() {
            // A single file would win over the folder that was asked for.
            return None;
        }
        let option = given.iter().find(|(variable, _)| *variable == name).and_then(|(_, value)| *value);
        let value = option.map(OsStr::to_owned).or_else(|| std::env::var_os(name));
        value.map(|value| value.to_string_lossy().into_owned())
    };
    Config::load(&lookup, &names)
}

fn key_json(key: &Key) -> Value {
    let default = match key.default {
        Preset::Value(value) => Some(value),
        Preset::Absent(_) => None,
    };
    json!({
        "name": key.name,
        "file": key.role.file_name(),
        "takes": key.kind.to_string(),
        "unit": key.unit,
        "default": default,
        "variable": key.variable,
        "override": key.override_variable(),
        "reason": key.reason,
    })
}

fn setting_json(setting: &Setting) -> Value {
    json!({"name": setting.name, "value": setting.value, "source": setting.source.to_string()})
}

fn error_json(error: &Error) -> Value {
    let (file, line) = match &error.at {
        Source::File(path, line) => (Some(path.display().to_string()), Some(*line)),
        Source::Path(path) => (Some(path.display().to_string()), None),
        Source::Default | Source::Variable(_) => (None, None),
    };
    json!({"file": file, "line": line, "message": error.to_string()})
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
