//! Graphs, drawn where the options say.

use std::path::Path;

use tasker_client::Graph;

use crate::cli::{Drawing, DrawingFormat};
use crate::failure::{Failure, Status};
use crate::output::Output;

/// The format that was asked for, or the natural one.
pub(super) fn format(drawing: &Drawing, output: &Output) -> DrawingFormat {
    let natural = if output.json() { DrawingFormat::Json } else { DrawingFormat::Ascii };
    drawing.format.unwrap_or(natural)
}

pub(super) fn render(graph: &Graph, format: DrawingFormat) -> String {
    format.for_machines().map_or_else(|| graph.ascii(), |format| graph.render(format))
}

pub(super) fn write(text: &str, file: Option<&Path>, output: &Output) -> Result<Status, Failure> {
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    let text = format!("{text}{newline}");
    match file {
        Some(file) => std::fs::write(file, text).map_err(|error| Failure::file(file, error))?,
        None => output.text(&text)?,
    }
    Ok(Status::Done)
}
