//! Comma-separated files as RFC 4180 has them: quoted fields, doubled quotes, LF or CRLF, one header line.

use std::str::FromStr;

/// One row, with the line of the file on which it begins.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) line: usize,
    header: &'static [&'static str],
    fields: Vec<String>,
}

/// What is wrong with a file, and on which line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsvError {
    #[error("line 1: the header must be `{expected}`")]
    Header { expected: String },
    #[error("line {line}: {found} fields instead of {expected}")]
    Fields { line: usize, expected: usize, found: usize },
    #[error("line {line}: a quoted field has no end, or text follows its closing quote")]
    Quote { line: usize },
    #[error("line {line}: column `{column}` holds no usable value")]
    Value { line: usize, column: &'static str },
}

/// All rows below a header that must be exactly `header`. Empty lines are skipped.
pub(crate) fn rows(text: &str, header: &'static [&'static str]) -> Result<Vec<Row>, CsvError> {
    let mut records = records(text)?.into_iter();
    let found = records.next().map(|(_, fields)| fields).unwrap_or_default();
    if found != header {
        return Err(CsvError::Header { expected: header.join(",") });
    }
    records
        .map(|(line, fields)| {
            if fields.len() == header.len() {
                Ok(Row { line, header, fields })
            } else {
                Err(CsvError::Fields { line, expected: header.len(), found: fields.len() })
            }
        })
        .collect()
}

impl Row {
    /// The field of a column that the header names.
    pub(crate) fn text(&self, column: &'static str) -> Result<&str, CsvError> {
        let index = self.header.iter().position(|name| *name == column);
        index
            .and_then(|index| self.fields.get(index))
            .map(String::as_str)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| self.refuse(column))
    }

    pub(crate) fn value<T: FromStr>(&self, column: &'static str) -> Result<T, CsvError> {
        self.text(column)?.parse().map_err(|_| self.refuse(column))
    }

    pub(crate) fn refuse(&self, column: &'static str) -> CsvError {
        CsvError::Value { line: self.line, column }
    }
}

type Record = (usize, Vec<String>);

fn records(text: &str) -> Result<Vec<Record>, CsvError> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let first_line = line;
        let mut fields = Vec::new();
        loop {
            let (field, after) = field(rest, &mut line)?;
            fields.push(field);
            rest = after;
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = match rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n')) {
            Some(next) => next,
            None if rest.is_empty() => rest,
            None => return Err(CsvError::Quote { line }),
        };
        line += 1;
        if fields != [""] {
            records.push((first_line, fields));
        }
    }
    Ok(records)
}

/// One field and what follows it: a comma, the end of the line or of the text. `line` counts the line breaks
/// inside a quoted field.
fn field<'a>(text: &'a str, line: &mut usize) -> Result<(String, &'a str), CsvError> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\n']).unwrap_or(text.len());
        let (field, rest) = text.split_at(end);
        return match field.strip_suffix('\r') {
            Some(field) => Ok((field.to_owned(), &text[end - 1..])),
            None => Ok((field.to_owned(), rest)),
        };
    };
    let first_line = *line;
    let mut value = String::new();
    loop {
        let end = rest.find('"').ok_or(CsvError::Quote { line: first_line })?;
        value.push_str(&rest[..end]);
        *line += rest[..end].matches('\n').count();
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                value.push('"');
                rest = next;
            }
            None => return Ok((value, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const HEADER: &[&str] = &["sku", "name"];

    fn check(text: &str, expected: Result<&[(usize, &str, &str)], CsvError>) {
        let found = rows(text, HEADER).map(|rows| {
            rows.into_iter().map(|row| (row.line, row.fields[0].clone(), row.fields[1].clone())).collect::<Vec<_>>()
        });
        let expected = expected.map(|rows| {
            rows.iter().map(|(line, sku, name)| (*line, (*sku).to_owned(), (*name).to_owned())).collect::<Vec<_>>()
        });
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn files_as_programs_write_them() {
        check("sku,name\nA,Lamp\nB,Pan\n", Ok(&[(2, "A", "Lamp"), (3, "B", "Pan")]));
        check("sku,name\r\nA,Lamp\r\n\r\nB,\r\n", Ok(&[(2, "A", "Lamp"), (4, "B", "")]));
        check("\u{feff}sku,name\nA,\"Pan, large\"", Ok(&[(2, "A", "Pan, large")]));
        check("sku,name\nA,\"the \"\"one\"\"\nline\"\nB,x", Ok(&[(2, "A", "the \"one\"\nline"), (4, "B", "x")]));
    }

    #[test]
    fn refusals_name_the_line() {
        check("", Err(CsvError::Header { expected: "sku,name".into() }));
        check("sku;name\n", Err(CsvError::Header { expected: "sku,name".into() }));
        check("sku,name\nA\n", Err(CsvError::Fields { line: 2, expected: 2, found: 1 }));
        check("sku,name\nA,b,c\n", Err(CsvError::Fields { line: 2, expected: 2, found: 3 }));
        check("sku,name\nA,b\nB,\"open\n\n", Err(CsvError::Quote { line: 3 }));
        check("sku,name\nA,\"b\"c\n", Err(CsvError::Quote { line: 2 }));
    }

    #[test]
    fn a_value_that_does_not_parse_names_its_column() {
        let rows = rows("sku,name\n7,\n", HEADER).unwrap();
        assert_eq!(rows[0].value::<u32>("sku"), Ok(7));
        assert_eq!(rows[0].text("name"), Err(CsvError::Value { line: 2, column: "name" }));
        assert_eq!(rows[0].value::<char>("name"), Err(CsvError::Value { line: 2, column: "name" }));
    }
}
