//! From JSON Schemas to types that every language can say, and to values that fit.

use serde_json::{Map, Value, json};

/// Schemas may refer to themselves.
const DEPTH: usize = 8;

/// Words that some of the languages keep for themselves, or that what is generated uses.
pub(super) const RESERVED: [&str; 125] = [
    "abstract",
    "alias",
    "and",
    "any",
    "arguments",
    "as",
    "assert",
    "async",
    "await",
    "batch_analyzer",
    "batch_context",
    "batch_worker",
    "become",
    "begin",
    "box",
    "break",
    "case",
    "catch",
    "class",
    "const",
    "context",
    "continue",
    "crate",
    "ctx",
    "debugger",
    "decision_handler",
    "def",
    "default",
    "defined",
    "del",
    "delete",
    "depends_on",
    "do",
    "dyn",
    "elif",
    "else",
    "elsif",
    "end",
    "ensure",
    "enum",
    "eval",
    "except",
    "export",
    "extends",
    "extern",
    "false",
    "final",
    "finally",
    "fn",
    "for",
    "from",
    "function",
    "gen",
    "global",
    "if",
    "impl",
    "implements",
    "import",
    "in",
    "inputs",
    "instanceof",
    "interface",
    "is",
    "json",
    "lambda",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "module",
    "move",
    "mut",
    "new",
    "next",
    "nil",
    "none",
    "nonlocal",
    "not",
    "null",
    "or",
    "override",
    "package",
    "pass",
    "print",
    "priv",
    "private",
    "protected",
    "pub",
    "public",
    "raise",
    "redo",
    "ref",
    "register",
    "rescue",
    "retry",
    "return",
    "self",
    "static",
    "step_handler",
    "struct",
    "super",
    "switch",
    "then",
    "this",
    "throw",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "undef",
    "unless",
    "unsafe",
    "unsized",
    "until",
    "use",
    "var",
    "virtual",
    "void",
    "when",
    "where",
    "while",
    "with",
    "yield",
];

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    Any,
    Null,
    Bool,
    Integer,
    Number,
    Text,
    /// One of these texts.
    Texts(Vec<String>),
    List(Box<Type>),
    /// An object with whatever keys.
    Map(Box<Type>),
    /// One of the program's records, by its name.
    Record(String),
    Union(Vec<Type>),
}

/// An object with known keys.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) doc: Option<String>,
    pub(super) fields: Vec<Field>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) key: String,
    pub(super) doc: Option<String>,
    pub(super) ty: Type,
    pub(super) required: bool,
}

/// The records of a program, each after those that it has in it.
#[derive(Debug, Default)]
pub(super) struct Types {
    pub(super) records: Vec<Record>,
}

impl Types {
    /// The type of what fits the schema. Records in it are named after `name`.
    pub(super) fn of(&mut self, schema: &Value, name: &str) -> Type {
        self.read(schema, schema, name, 0)
    }

    /// The keys of an object's schema, without a record for it.
    pub(super) fn fields(&mut self, schema: &Value, name: &str) -> Vec<Field> {
        self.fields_of(schema, schema, name, 0)
    }

    fn read(&mut self, schema: &Value, root: &Value, name: &str, depth: usize) -> Type {
        let schema = resolved(schema, root);
        let Some(keys) = schema.as_object().filter(|_| depth < DEPTH) else { return Type::Any };
        if let Some(values) = keys.get("enum").and_then(Value::as_array) {
            return union(values.iter().map(type_of).collect());
        }
        if let Some(value) = keys.get("const") {
            return type_of(value);
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(of) = keys.get(key).and_then(Value::as_array) {
                let each = of.iter().enumerate();
                return union(
                    each.map(|(at, each)| self.read(each, root, &format!("{name}{}", at + 1), depth + 1)).collect(),
                );
            }
        }
        match keys.get("type") {
            Some(Value::String(kind)) => self.plain(kind, keys, root, name, depth),
            Some(Value::Array(kinds)) => {
                let kinds = kinds.iter().filter_map(Value::as_str);
                union(kinds.map(|kind| self.plain(kind, keys, root, name, depth)).collect())
            }
            _ if keys.contains_key("properties") => self.plain("object", keys, root, name, depth),
            _ => Type::Any,
        }
    }

    fn plain(&mut self, kind: &str, keys: &Map<String, Value>, root: &Value, name: &str, depth: usize) -> Type {
        match kind {
            "null" => Type::Null,
            "boolean" => Type::Bool,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "string" => Type::Text,
            "array" => {
                let items = keys.get("items").unwrap_or(&Value::Bool(true));
                Type::List(Box::new(self.read(items, root, &format!("{name}Item"), depth + 1)))
            }
            "object" => self.object(keys, root, name, depth),
            _ => Type::Any,
        }
    }

    fn object(&mut self, keys: &Map<String, Value>, root: &Value, name: &str, depth: usize) -> Type {
        if keys.get("properties").and_then(Value::as_object).is_none_or(Map::is_empty) {
            let of = keys.get("additionalProperties").unwrap_or(&Value::Bool(true));
            return Type::Map(Box::new(self.read(of, root, &format!("{name}Value"), depth + 1)));
        }
        let fields = self.fields_of(&Value::Object(keys.clone()), root, name, depth);
        let mut unique = name.to_owned();
        while self.records.iter().any(|record| record.name == unique) {
            unique.push('2');
        }
        let doc = keys.get("description").and_then(Value::as_str).map(str::to_owned);
        self.records.push(Record { name: unique.clone(), doc, fields });
        Type::Record(unique)
    }

    fn fields_of(&mut self, schema: &Value, root: &Value, name: &str, depth: usize) -> Vec<Field> {
        let schema = resolved(schema, root);
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        let fields = properties.into_iter().map(|(key, of)| Field {
            ty: self.read(&of, root, &format!("{name}{}", pascal(&key)), depth + 1),
            doc: of["description"].as_str().map(|doc| doc.split_whitespace().collect::<Vec<_>>().join(" ")),
            required: required.contains(&json!(key)),
            key,
        });
        fields.collect()
    }
}

/// What a `$ref` within the schema leads to.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let pointer = schema["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

fn type_of(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Number(number) if number.is_f64() => Type::Number,
        Value::Number(_) => Type::Integer,
        Value::String(text) => Type::Texts(vec![text.clone()]),
        Value::Array(_) => Type::List(Box::new(Type::Any)),
        Value::Object(_) => Type::Map(Box::new(Type::Any)),
    }
}

fn union(of: Vec<Type>) -> Type {
    let (mut all, mut texts): (Vec<Type>, Vec<String>) = (Vec::new(), Vec::new());
    for each in of {
        match each {
            Type::Any => return Type::Any,
            Type::Texts(more) => texts.extend(more),
            other if all.contains(&other) => {}
            other => all.push(other),
        }
    }
    if !texts.is_empty() {
        all.push(Type::Texts(texts));
    }
    if all.len() == 1 {
        all.remove(0)
    } else if all.is_empty() {
        Type::Any
    } else {
        Type::Union(all)
    }
}

/// The simplest value that the schema may want.
pub(super) fn sample(schema: &Value, root: &Value, depth: usize) -> Value {
    let schema = resolved(schema, root);
    let Some(keys) = schema.as_object().filter(|_| depth < DEPTH) else { return json!({}) };
    let given = [keys.get("const"), keys.get("default"), keys.get("enum").and_then(|values| values.get(0))];
    let given = given.into_iter().flatten().next().or_else(|| keys.get("examples").and_then(|values| values.get(0)));
    if let Some(value) = given {
        return value.clone();
    }
    let inner = |schema: &Value| sample(schema, root, depth + 1);
    if let Some(first) = ["oneOf", "anyOf"].into_iter().find_map(|key| keys.get(key)?.get(0)) {
        return inner(first);
    }
    let kind = keys.get("type").map(|kind| if kind.is_array() { &kind[0] } else { kind }).and_then(Value::as_str);
    let size = |key: &str| usize::try_from(keys.get(key).and_then(Value::as_u64).unwrap_or(0)).unwrap_or(0);
    match kind {
        Some("null") => Value::Null,
        Some("boolean") => json!(false),
        Some("integer" | "number") => {
            let above = keys.get("exclusiveMinimum").and_then(Value::as_i64).map(|bound| bound.saturating_add(1));
            json!(keys.get("minimum").and_then(Value::as_i64).or(above).unwrap_or(0))
        }
        Some("string") => json!("x".repeat(size("minLength").min(100))),
        Some("array") => {
            let item = keys.get("items").map_or(json!({}), inner);
            Value::Array(vec![item; size("minItems").min(100)])
        }
        _ => {
            let properties = keys.get("properties").and_then(Value::as_object);
            let required =
                keys.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            let of = |key: &str| properties.and_then(|all| all.get(key)).map_or(json!({}), inner);
            Value::Object(required.map(|key| (key.to_owned(), of(key))).collect())
        }
    }
}

/// Whether it can be the name of a variable as it stands.
pub(super) fn is_word(name: &str) -> bool {
    snake(name) == name && !RESERVED.contains(&name)
}

/// `ChargeCard`, `charge-card` → `charge_card`.
pub(super) fn snake(name: &str) -> String {
    let mut word = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase()
            && word.chars().last().is_some_and(|last| last.is_ascii_lowercase() || last.is_ascii_digit())
        {
            word.push('_');
        }
        word.push(if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' });
    }
    if word.is_empty() || word.starts_with(|first: char| first.is_ascii_digit() || first == '_') {
        word.insert_str(0, "step_");
    }
    word
}

/// `charge_card` → `ChargeCard`.
pub(super) fn pascal(name: &str) -> String {
    let words = snake(name);
    let words = words.split('_').filter(|word| !word.is_empty());
    words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect()
}

/// `charge_card` → `chargeCard`.
pub(super) fn camel(name: &str) -> String {
    let pascal = pascal(name);
    // What makes a word unlike another one stays.
    let end = &name[name.trim_end_matches('_').len()..];
    pascal[..1].to_ascii_lowercase() + &pascal[1..] + end
}
