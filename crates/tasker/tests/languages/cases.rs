//! The list of workflows, and what has to come of each.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

/// One workflow.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The template's.
    pub(crate) steps: Vec<Value>,
    #[serde(default = "nothing")]
    pub(crate) input: Value,
    /// What the task ends as.
    pub(crate) state: String,
    pub(crate) during: Option<During>,
    /// What a failed attempt asked for.
    pub(crate) retry_after_ms: Option<i64>,
    expect: BTreeMap<String, Expected>,
}

/// What the test does while the task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum During {
    /// Cancels it once its handler has begun.
    Cancel,
    /// Starts another worker once the first has ended.
    Restart,
}

/// What has to come of a step.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// `absent` where the task has no such step.
    #[serde(default = "complete")]
    state: String,
    attempts: Option<Vec<ExpectedAttempt>>,
    /// The last result, whole.
    result: Option<Value>,
}

/// What a stored attempt has to show; what is not named may be anything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedAttempt {
    outcome: String,
    retryable: Option<bool>,
    message: Option<String>,
    error_type: Option<String>,
    error_code: Option<String>,
    metadata: Option<Value>,
    /// A part of the message.
    names: Option<String>,
}

/// What became of a step.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: String,
    pub(crate) attempts: Vec<FoundAttempt>,
}

/// A stored attempt, of what the API says of it.
#[derive(Debug, Deserialize)]
pub(crate) struct FoundAttempt {
    outcome: String,
    error: Option<Value>,
    metadata: Option<Value>,
    result: Option<Value>,
}

impl Found {
    fn result(&self) -> Option<&Value> {
        self.attempts.iter().rev().find_map(|attempt| attempt.result.as_ref())
    }

    /// The last result as canonical JSON.
    pub(crate) fn canonical(&self) -> Option<String> {
        Some(serde_json_canonicalizer::to_string(self.result()?).unwrap())
    }
}

impl Case {
    /// The workflow's template, JSON, which is YAML too.
    pub(crate) fn template(&self) -> String {
        json!({"name": self.name, "namespace_name": "conformance", "version": "1.0.0", "steps": self.steps}).to_string()
    }

    /// Where what was found is not what has to come.
    pub(crate) fn differences(&self, found: &BTreeMap<String, Found>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (step, expected) in &self.expect {
            let absent = Found { state: "absent".to_owned(), attempts: Vec::new() };
            let found = found.get(step).unwrap_or(&absent);
            if let Some(why) = expected.difference(found) {
                wrong.push(format!("{}: {step}: {why}; it is {found:#?}", self.name));
            }
        }
        wrong
    }
}

impl Expected {
    fn difference(&self, found: &Found) -> Option<String> {
        if found.state != self.state {
            return Some(format!("its state is not {}", self.state));
        }
        if let Some(expected) = &self.attempts {
            if expected.len() != found.attempts.len() {
                return Some(format!("it has {} attempts and not {}", found.attempts.len(), expected.len()));
            }
            let mut pairs = expected.iter().zip(&found.attempts).enumerate();
            let differs = pairs.find(|(_, (expected, found))| !expected.fits(found));
            if let Some((at, (expected, _))) = differs {
                return Some(format!("attempt {} is not {expected:?}", at + 1));
            }
        }
        let result = self.result.as_ref()?;
        (found.result() != Some(result)).then(|| format!("its result is not {result}"))
    }
}

impl ExpectedAttempt {
    fn fits(&self, found: &FoundAttempt) -> bool {
        let told = |key: &str| found.error.as_ref().and_then(|error| error.get(key));
        let said = |key: &str| told(key).and_then(Value::as_str);
        let is = |key: &str, expected: &Option<String>| expected.is_none() || said(key) == expected.as_deref();
        let metadata =
            |(key, value): (&String, &Value)| found.metadata.as_ref().and_then(|all| all.get(key)) == Some(value);
        self.outcome == found.outcome
            && (self.retryable.is_none() || self.retryable == told("retryable").and_then(Value::as_bool))
            && is("message", &self.message)
            && is("error_type", &self.error_type)
            && is("error_code", &self.error_code)
            && self
                .names
                .as_ref()
                .is_none_or(|part| said("message").is_some_and(|message| message.contains(part.as_str())))
            && self.metadata.as_ref().and_then(Value::as_object).is_none_or(|all| all.iter().all(metadata))
    }
}

/// The list.
pub(crate) fn read() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/cases.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn nothing() -> Value {
    json!({})
}

fn complete() -> String {
    "complete".to_owned()
}
