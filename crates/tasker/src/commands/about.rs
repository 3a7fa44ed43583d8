//! What the command says about itself: completions and manual pages.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::{Failure, Status};
use crate::output::Output;

pub(super) fn completions(shell: Shell, output: &Output) -> Result<Status, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tasker", &mut script);
    output.text(&String::from_utf8_lossy(&script))?;
    Ok(Status::Done)
}

/// The page of `tasker` itself, or the pages of all commands in a folder.
pub(super) fn manual(folder: Option<&Path>, output: &Output) -> Result<Status, Failure> {
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
            .map_err(|error| Failure::file(folder, error))?;
        return Ok(Status::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    output.text(&String::from_utf8_lossy(&page))?;
    Ok(Status::Done)
}
