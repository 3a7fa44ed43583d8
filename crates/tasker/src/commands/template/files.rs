//! Which files the paths of a command mean.

use std::io;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The files that were named, and the templates in the folders that were, each folder's in order.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            walk(path, &mut files).map_err(|error| Failure::file(path, error))?;
            if files.len() == before {
                return Err(Failure::Usage(format!("{} holds no .yaml or .yml file", path.display())));
            }
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

/// Links to folders are not followed, so that no circle of them can catch the walk.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    Ok(())
}
