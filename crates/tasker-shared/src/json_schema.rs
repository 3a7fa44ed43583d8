//! JSON Schemas at work: compiled once, and every offence told with its place.
//!
//! What may stand in a schema at all is for the reader of templates to say.

use jsonschema::PatternOptions;
pub use jsonschema::Validator;
use serde_json::Value;

/// Offences told at once.
pub const VIOLATIONS_MAX: usize = 100;
/// Bytes of an offence's place and of its words: keys of a document may be as long as the document.
const TEXT_BYTES: usize = 512;

/// One offence in a document, with the place.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// JSON pointer (RFC 6901) or field name.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Compiles a schema of draft 2020-12. Formats are checked, because who writes one means it. Patterns run in linear time.
///
/// # Errors
/// What is wrong with the schema.
pub fn compile(schema: &Value) -> Result<Validator, String> {
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| error.to_string())
}

/// What in the document offends against the schema, at most [`VIOLATIONS_MAX`]; `root` is the pointer to the document. The
/// document's values are not repeated.
#[must_use]
pub fn violations(validator: &Validator, document: &Value, root: &str) -> Vec<Violation> {
    let told = validator.iter_errors(document).take(VIOLATIONS_MAX).map(|error| Violation {
        path: cut(format!("{root}{}", error.instance_path()), TEXT_BYTES),
        message: cut(error.masked().to_string(), TEXT_BYTES),
    });
    told.collect()
}

/// The text, or as much of it as fits with a mark that something is missing.
#[must_use]
pub fn cut(mut text: String, most_bytes: usize) -> String {
    if text.len() > most_bytes {
        let end = (0..=most_bytes - '…'.len_utf8()).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_that_do_not_compile_are_told() {
        assert!(compile(&json!({"type": "object", "properties": {"mail": {"format": "email"}}})).is_ok());
        assert!(compile(&json!({"type": "thing"})).is_err());
        assert!(compile(&json!({"pattern": "(a)\\1"})).is_err());
    }

    #[test]
    fn offences_are_bounded_in_number_and_length_and_repeat_no_values() {
        let validator = compile(&json!({"additionalProperties": {"type": "integer"}})).unwrap();
        let many: serde_json::Map<String, Value> = (0..500).map(|n| (format!("k{n}"), json!("secret"))).collect();
        let told = violations(&validator, &Value::Object(many), "/context");
        assert_eq!(told.len(), VIOLATIONS_MAX);
        assert_eq!(told[0].path, "/context/k0");
        assert!(told.iter().all(|violation| !violation.message.contains("secret")), "{told:?}");
        let long = violations(&validator, &json!({ "é".repeat(100_000): "secret" }), "");
        assert!(long[0].path.len() <= TEXT_BYTES && long[0].path.ends_with('…'), "{long:?}");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("ééé".to_owned(), 6), "ééé");
        assert_eq!(cut("éééé".to_owned(), 7), "éé…");
        assert_eq!(cut("aéé".to_owned(), 4), "a…");
    }
}
