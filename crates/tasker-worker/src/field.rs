//! One key of a JSON object, without reading the others into memory.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The value under `key`; none where `value` is no object or has no such key.
pub(crate) fn field<'a>(value: &'a RawValue, key: &str) -> Option<&'a RawValue> {
    let mut json = serde_json::Deserializer::from_str(value.get());
    Field(key).deserialize(&mut json).ok().flatten()
}

struct Field<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_key_is_found_whatever_its_spelling_and_place() {
        let object = RawValue::from_string(r#"{"a": [1, {"b": 2}], "\u0062": "x", "c": null}"#.to_owned()).unwrap();
        assert_eq!(field(&object, "a").unwrap().get(), r#"[1, {"b": 2}]"#);
        assert_eq!(field(&object, "b").unwrap().get(), "\"x\"");
        assert_eq!(field(&object, "c").unwrap().get(), "null");
        assert!(field(&object, "d").is_none());
        assert!(field(field(&object, "a").unwrap(), "b").is_none());
    }
}
