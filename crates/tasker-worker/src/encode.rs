//! To JSON text without changing a value: serde_json writes NaN and the infinities as `null`; here they are
//! refused, with their path.

use std::cell::RefCell;
use std::fmt;

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use serde_json::value::RawValue;
use tasker_shared::portable::pointer_token;

/// A value that can't be said in JSON.
#[derive(Debug, thiserror::Error)]
#[error("{path}{separator}{source}", separator = if path.is_empty() { "" } else { ": " })]
pub(crate) struct NotJson {
    /// JSON pointer to the value; empty for the whole.
    path: String,
    source: serde_json::Error,
}

/// The value as JSON text.
pub(crate) fn to_raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, NotJson> {
    let trail = Trail::default();
    serde_json::value::to_raw_value(&Checked { value, trail: &trail })
        .map_err(|source| NotJson { path: trail.pointer(), source })
}

/// The keys and positions around the value that failed, the innermost first; empty as long as nothing fails.
#[derive(Debug, Default)]
struct Trail(RefCell<Vec<String>>);

impl Trail {
    fn pointer(&self) -> String {
        self.0.borrow().iter().rev().fold(String::new(), |path, key| path + "/" + &pointer_token(key))
    }

    fn below<T, E>(&self, result: Result<T, E>, key: impl FnOnce() -> String) -> Result<T, E> {
        if result.is_err() {
            self.0.borrow_mut().push(key());
        }
        result
    }
}

/// A value that is serialized through [`Finite`].
struct Checked<'a, T: ?Sized> {
    value: &'a T,
    trail: &'a Trail,
}

impl<T: Serialize + ?Sized> Serialize for Checked<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Finite { to, trail: self.trail })
    }
}

/// Passes everything on but numbers that are none.
struct Finite<'a, S> {
    to: S,
    trail: &'a Trail,
}

struct Parts<'a, C> {
    to: C,
    trail: &'a Trail,
    /// The enum variant around these parts, which is a key in JSON.
    variant: Option<&'static str>,
    place: usize,
}

impl<'a, S> Finite<'a, S> {
    fn parts<C, E>(
        self,
        variant: Option<&'static str>,
        open: impl FnOnce(S) -> Result<C, E>,
    ) -> Result<Parts<'a, C>, E> {
        Ok(Parts { to: open(self.to)?, trail: self.trail, variant, place: 0 })
    }
}

impl<C> Parts<'_, C> {
    fn below<E>(&self, done: Result<(), E>, key: impl FnOnce() -> String) -> Result<(), E> {
        let done = self.trail.below(done, key);
        match self.variant {
            Some(variant) => self.trail.below(done, || variant.to_owned()),
            None => done,
        }
    }

    fn next_place<E>(&mut self, done: Result<(), E>) -> Result<(), E> {
        self.place += 1;
        self.below(done, || (self.place - 1).to_string())
    }
}

macro_rules! passed_on {
    ($($method:ident($($argument:ident: $type:ty),*);)+) => {$(
        fn $method(self, $($argument: $type),*) -> Result<S::Ok, S::Error> {
            self.to.$method($($argument),*)
        }
    )+};
}

impl<'a, S: Serializer> Serializer for Finite<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Parts<'a, S::SerializeSeq>;
    type SerializeTuple = Parts<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Parts<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Parts<'a, S::SerializeTupleVariant>;
    type SerializeMap = Parts<'a, S::SerializeMap>;
    type SerializeStruct = Parts<'a, S::SerializeStruct>;
    type SerializeStructVariant = Parts<'a, S::SerializeStructVariant>;

    passed_on! {
        serialize_bool(v: bool); serialize_i8(v: i8); serialize_i16(v: i16); serialize_i32(v: i32);
        serialize_i64(v: i64); serialize_i128(v: i128); serialize_u8(v: u8); serialize_u16(v: u16);
        serialize_u32(v: u32); serialize_u64(v: u64); serialize_u128(v: u128); serialize_char(v: char);
        serialize_str(v: &str); serialize_bytes(v: &[u8]); serialize_none(); serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    fn serialize_f32(self, v: f32) -> Result<S::Ok, S::Error> {
        if v.is_finite() { self.to.serialize_f32(v) } else { Err(no_number(f64::from(v))) }
    }

    fn serialize_f64(self, v: f64) -> Result<S::Ok, S::Error> {
        if v.is_finite() { self.to.serialize_f64(v) } else { Err(no_number(v)) }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.to.serialize_some(&Checked { value, trail: self.trail })
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, n: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.to.serialize_newtype_struct(n, &Checked { value, trail: self.trail })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let trail = self.trail;
        let done = self.to.serialize_newtype_variant(name, index, variant, &Checked { value, trail });
        trail.below(done, || variant.to_owned())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.parts(None, |to| to.serialize_seq(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.parts(None, |to| to.serialize_tuple(len))
    }

    fn serialize_tuple_struct(self, n: &'static str, len: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.parts(None, |to| to.serialize_tuple_struct(n, len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.parts(Some(variant), |to| to.serialize_tuple_variant(name, index, variant, len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.parts(None, |to| to.serialize_map(len))
    }

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        self.parts(None, |to| to.serialize_struct(name, len))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.parts(Some(variant), |to| to.serialize_struct_variant(name, index, variant, len))
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.to.collect_str(value)
    }
}

fn no_number<E: serde::ser::Error>(value: f64) -> E {
    E::custom(format_args!("{value} is no number in JSON; say it as null or as text"))
}

macro_rules! positional {
    ($($trait:ident::$method:ident),+) => {$(
        impl<C: $trait> $trait for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                let done = self.to.$method(&Checked { value, trail: self.trail });
                self.next_place(done)
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.to.end()
            }
        }
    )+};
}
positional!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! named {
    ($($trait:ident),+) => {$(
        impl<C: $trait> $trait for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), C::Error> {
                let done = self.to.serialize_field(key, &Checked { value, trail: self.trail });
                self.below(done, || key.to_owned())
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.to.end()
            }
        }
    )+};
}
named!(SerializeStruct, SerializeStructVariant);

impl<C: SerializeMap> SerializeMap for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.to.serialize_key(key)
    }

    /// For those that write keys and values apart; the path then names the entry by its position.
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let done = self.to.serialize_value(&Checked { value, trail: self.trail });
        self.next_place(done)
    }

    fn serialize_entry<K, V>(&mut self, key: &K, value: &V) -> Result<(), C::Error>
    where
        K: Serialize + ?Sized,
        V: Serialize + ?Sized,
    {
        let done = self.to.serialize_entry(key, &Checked { value, trail: self.trail });
        self.trail.below(done, || serde_json::to_string(key).unwrap_or_default().trim_matches('"').to_owned())
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.to.end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[derive(serde::Serialize)]
    struct Reading {
        name: &'static str,
        values: Vec<Option<f64>>,
        by_place: BTreeMap<&'static str, (u8, f32)>,
        raw: Box<RawValue>,
        kind: Kind,
    }

    #[derive(serde::Serialize)]
    enum Kind {
        Plain,
        Wide(f64),
        Named { high: f64 },
    }

    fn reading() -> Reading {
        Reading {
            name: "é\n",
            values: vec![Some(0.1), None],
            by_place: BTreeMap::from([("a/b", (1, 2.5))]),
            raw: RawValue::from_string("{\"x\":  1}".to_owned()).unwrap(),
            kind: Kind::Plain,
        }
    }

    #[test]
    fn what_json_can_say_is_written_as_serde_json_writes_it() {
        for kind in [Kind::Plain, Kind::Wide(1e300), Kind::Named { high: -0.0 }] {
            let reading = Reading { kind, ..reading() };
            assert_eq!(to_raw(&reading).unwrap().get(), serde_json::to_string(&reading).unwrap());
        }
        let value = json!({"a": [1, 2.5, null, {"b": "c"}], "": true});
        assert_eq!(to_raw(&value).unwrap().get(), value.to_string());
    }

    #[test]
    fn what_is_no_number_is_refused_with_its_path() {
        let path = |reading: Reading| to_raw(&reading).unwrap_err().path;
        assert_eq!(path(Reading { values: vec![Some(1.0), Some(f64::NAN)], ..reading() }), "/values/1");
        let by_place = BTreeMap::from([("a/b", (1, f32::INFINITY))]);
        assert_eq!(path(Reading { by_place, ..reading() }), "/by_place/a~1b/1");
        assert_eq!(path(Reading { kind: Kind::Wide(f64::NAN), ..reading() }), "/kind/Wide");
        let kind = Kind::Named { high: f64::NEG_INFINITY };
        assert_eq!(path(Reading { kind, ..reading() }), "/kind/Named/high");
        let error = to_raw(&f64::NAN).unwrap_err().to_string();
        assert_eq!(error, "NaN is no number in JSON; say it as null or as text");
        let error = to_raw(&BTreeMap::from([((1, 2), 3)])).unwrap_err().to_string();
        assert!(error.contains("key must be a string"), "{error}");
    }
}
