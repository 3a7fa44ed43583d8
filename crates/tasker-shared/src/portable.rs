//! JSON that PostgreSQL and all four languages read alike.
//!
//! JSON says nothing of duplicate keys, huge numbers or broken surrogates; parsers keep the first, keep the last,
//! round, or refuse. What one of them would change or refuse is refused at the door, by one pass over the text.

use std::borrow::Cow;
use std::fmt;

/// The greatest integer up to which a double tells every integer from its neighbours.
const MAX_INTEGER: u64 = 1 << 53;

/// The first thing in a text that does not travel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct Offence {
    /// JSON pointer (RFC 6901) to the value; empty for the whole text.
    pub path: String,
    /// What is wrong with it.
    pub what: What,
}

/// Why a value does not travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The text is not JSON at all.
    NotJson,
    /// PostgreSQL has no text with U+0000.
    Nul,
    /// Half of a surrogate pair: no UTF-8 says that.
    LoneSurrogate,
    /// Two values for one key.
    DuplicateKey,
    /// Nested deeper than this.
    TooDeep(usize),
    /// An integer that a double would round.
    IntegerTooLarge,
    /// A number that becomes infinite as a double.
    NumberTooLarge,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => f.write_str("is not JSON"),
            Self::Nul => f.write_str("contains the character U+0000, which can't be stored"),
            Self::LoneSurrogate => f.write_str("contains half of a surrogate pair, which is not a character"),
            Self::DuplicateKey => f.write_str("the key occurs twice in its object"),
            Self::TooDeep(depth) => write!(f, "is nested deeper than {depth} levels"),
            Self::IntegerTooLarge => {
                f.write_str("is an integer beyond ±2^53, which some languages would round; send it as a string")
            }
            Self::NumberTooLarge => f.write_str("is too large for a number; send it as a string"),
        }
    }
}

/// Checks one JSON text whose containers may be nested `max_depth` deep.
///
/// # Errors
/// The first offence.
pub fn check(text: &str, max_depth: usize) -> Result<(), Offence> {
    let mut scan = Scan { text: text.as_bytes(), at: 0, max_depth };
    scan.whole().map_err(|Found { what, keys }| {
        let path = keys.iter().rev().fold(String::new(), |path, key| path + "/" + &pointer_token(key));
        Offence { path, what }
    })
}

/// A key or an index as a part of a JSON pointer.
#[must_use]
pub fn pointer_token(key: &str) -> Cow<'_, str> {
    if key.contains(['~', '/']) { key.replace('~', "~0").replace('/', "~1").into() } else { key.into() }
}

/// An offence on its way up; every container adds where it lies.
struct Found {
    what: What,
    keys: Vec<String>,
}

impl Found {
    fn below(mut self, key: impl Into<String>) -> Self {
        self.keys.push(key.into());
        self
    }
}

impl From<What> for Found {
    fn from(what: What) -> Self {
        Self { what, keys: Vec::new() }
    }
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    max_depth: usize,
}

impl<'a> Scan<'a> {
    fn whole(&mut self) -> Result<(), Found> {
        self.space();
        self.value(0)?;
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(What::NotJson.into()) }
    }

    fn value(&mut self, depth: usize) -> Result<(), Found> {
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => Ok(self.string().map(drop)?),
            Some(b'-' | b'0'..=b'9') => Ok(self.number()?),
            Some(b't') => Ok(self.word(b"true")?),
            Some(b'f') => Ok(self.word(b"false")?),
            Some(b'n') => Ok(self.word(b"null")?),
            _ => Err(What::NotJson.into()),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), Found> {
        self.open(depth)?;
        let mut keys: Vec<Cow<'a, str>> = Vec::new();
        if self.close(b'}')? {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(What::NotJson.into());
            }
            let key = self.string()?;
            self.space();
            self.byte(b':')?;
            self.space();
            self.value(depth).map_err(|found| found.below(key.as_ref()))?;
            keys.push(key);
            if !self.comma(b'}')? {
                break;
            }
        }
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Found::from(What::DuplicateKey).below(pair[0].as_ref())),
            None => Ok(()),
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Found> {
        self.open(depth)?;
        if self.close(b']')? {
            return Ok(());
        }
        for index in 0_usize.. {
            self.value(depth).map_err(|found| found.below(index.to_string()))?;
            if !self.comma(b']')? {
                break;
            }
        }
        Ok(())
    }

    /// Steps over a string and answers what it says.
    fn string(&mut self) -> Result<Cow<'a, str>, What> {
        self.at += 1;
        let start = self.at;
        let mut said: Option<String> = None;
        let mut copied = start;
        loop {
            match self.next()? {
                b'"' => break,
                0..=0x1f => return Err(What::NotJson),
                b'\\' => {
                    let said = said.get_or_insert_default();
                    said.push_str(self.slice(copied, self.at - 1)?);
                    said.push(self.escape()?);
                    copied = self.at;
                }
                _ => {}
            }
        }
        let rest = self.slice(copied, self.at - 1)?;
        Ok(match said {
            Some(said) => Cow::Owned(said + rest),
            None => Cow::Borrowed(rest),
        })
    }

    fn escape(&mut self) -> Result<char, What> {
        Ok(match self.next()? {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            b'u' => return self.unicode(),
            _ => return Err(What::NotJson),
        })
    }

    fn unicode(&mut self) -> Result<char, What> {
        let first = self.hex4()?;
        let code = match first {
            0 => return Err(What::Nul),
            0xd800..=0xdbff => {
                if self.text.get(self.at..self.at + 2) != Some(b"\\u") {
                    return Err(What::LoneSurrogate);
                }
                self.at += 2;
                let second = self.hex4()?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return Err(What::LoneSurrogate);
                }
                0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            code => code,
        };
        char::from_u32(code).ok_or(What::LoneSurrogate)
    }

    fn hex4(&mut self) -> Result<u32, What> {
        let digits = self.slice(self.at, self.at + 4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(What::NotJson);
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(|_| What::NotJson)
    }

    fn number(&mut self) -> Result<(), What> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.next()? {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return Err(What::NotJson),
        }
        let whole = self.at;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        let text = self.slice(start, self.at)?;
        if whole == self.at {
            let size = text.trim_start_matches('-').parse::<u64>();
            return if size.is_ok_and(|size| size <= MAX_INTEGER) { Ok(()) } else { Err(What::IntegerTooLarge) };
        }
        if text.parse::<f64>().is_ok_and(f64::is_finite) { Ok(()) } else { Err(What::NumberTooLarge) }
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Result<(), What> {
        let start = self.at;
        self.digits();
        if self.at > start { Ok(()) } else { Err(What::NotJson) }
    }

    fn open(&mut self, depth: usize) -> Result<(), What> {
        if depth > self.max_depth {
            return Err(What::TooDeep(self.max_depth));
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// Steps over `bracket` if it comes at once.
    fn close(&mut self, bracket: u8) -> Result<bool, What> {
        if self.peek() == Some(bracket) {
            self.at += 1;
            return Ok(true);
        }
        Ok(false)
    }

    /// Steps over what separates two values; false after `bracket`.
    fn comma(&mut self, bracket: u8) -> Result<bool, What> {
        self.space();
        match self.next()? {
            b',' => {
                self.space();
                Ok(true)
            }
            byte if byte == bracket => Ok(false),
            _ => Err(What::NotJson),
        }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), What> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        Err(What::NotJson)
    }

    fn byte(&mut self, byte: u8) -> Result<(), What> {
        if self.next()? == byte { Ok(()) } else { Err(What::NotJson) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, What> {
        let byte = self.peek().ok_or(What::NotJson)?;
        self.at += 1;
        Ok(byte)
    }

    fn slice(&self, from: usize, to: usize) -> Result<&'a str, What> {
        let bytes = self.text.get(from..to).ok_or(What::NotJson)?;
        std::str::from_utf8(bytes).map_err(|_| What::NotJson)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<(String, What)> {
        check(text, 4).err().map(|offence| (offence.path, offence.what))
    }

    #[test]
    fn what_travels_passes() {
        for text in [
            "{}",
            " [ ] ",
            "null",
            r#"{"a": [1, -2.5e3, "\ud83d\ude00é\n", true, false, {"b": [0]}], "": 1e-400}"#,
            "9007199254740992",
            "-9007199254740992",
            "1e308",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn what_does_not_travel_is_found_with_its_path() {
        for (text, path, what) in [
            (r#"{"a": ["x", "\u0000"]}"#, "/a/1", What::Nul),
            (r#"{"\u0000": 1}"#, "", What::Nul),
            (r#"{"a": "\ud800"}"#, "/a", What::LoneSurrogate),
            (r#"{"a": "\ud800\u0041"}"#, "/a", What::LoneSurrogate),
            (r#"{"a": "\udc00"}"#, "/a", What::LoneSurrogate),
            (r#"{"x": {"a": 1, "b": 2, "\u0061": 3}}"#, "/x/a", What::DuplicateKey),
            (r#"{"a/b~c": 1e400}"#, "/a~1b~0c", What::NumberTooLarge),
            ("[9007199254740993]", "/0", What::IntegerTooLarge),
            ("-18446744073709551616", "", What::IntegerTooLarge),
            ("[[[[[]]]]]", "/0/0/0/0", What::TooDeep(4)),
        ] {
            assert_eq!(found(text), Some((path.to_owned(), what)), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_said_to_be_none() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "01",
            "1.",
            "1e",
            "-",
            "tru",
            "\"\t\"",
            "\"\\x\"",
            "1 2",
            "\"\\u12\"",
        ] {
            assert_eq!(found(text).map(|(_, what)| what), Some(What::NotJson), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_judged_as_serde_judges_it(text in r#"[\[\]{}:,"a0-9eE.\-+ \\untrfalse]{0,24}"#) {
            let json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            let judged = !matches!(check(&text, 128), Err(Offence { what: What::NotJson, .. }));
            proptest::prop_assert_eq!(json, judged);
        }
    }
}
