//! Answers on standard output: one JSON document with `--json`, tables for people otherwise.

use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Where answers go and in which form.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether answers are for programs.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether somebody is watching: progress is shown to people on terminals only.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// Writes the value as JSON, or what `text` makes of it.
    pub(crate) fn value<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
        if self.json { self.line(&serde_json::to_string(value)?) } else { self.text(&text(value)) }
    }

    /// Writes one line.
    pub(crate) fn line(&self, line: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")?;
        // A line of a stream is worth something only when it is read at once.
        stdout.flush()
    }

    /// Writes text that ends its own lines.
    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}

/// A table without lines, as wide as the terminal allows; `empty` where there are no rows.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    empty: &str,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table.add_rows(rows);
    if table.is_empty() { format!("{empty}\n") } else { trimmed(&table) }
}

/// Labels and values, one a line; what is absent is left out.
pub(crate) fn fields(fields: impl IntoIterator<Item = (&'static str, Option<String>)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    for (label, value) in fields {
        if let Some(value) = value {
            table.add_row([label.to_owned(), value]);
        }
    }
    trimmed(&table)
}

/// Without the space that the table puts around its cells.
fn trimmed(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        let line = line.trim_end();
        text.push_str(line.strip_prefix(' ').unwrap_or(line));
        text.push('\n');
    }
    text
}

pub(crate) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A time, or a dash.
pub(crate) fn time_or_dash(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "-".to_owned(), time)
}

/// A text, or a dash.
pub(crate) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}
