//! Input files: read with a limit, refused with a reason that says whether trying again can help.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tasker_worker::StepError;
use tokio::io::AsyncReadExt;

use crate::csv::CsvError;

/// Large enough for any of the examples, small enough that a wrong path can't fill the memory.
pub(crate) const FILE_LIMIT_BYTES: u64 = 8 * 1024 * 1024;

/// Why an input file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{path}: there is no such file")]
    Missing { path: PathBuf },
    #[error("{path}: not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path}: larger than {limit_bytes} bytes")]
    TooLarge { path: PathBuf, limit_bytes: u64 },
    #[error("{path}: not UTF-8 text")]
    NotText { path: PathBuf },
    #[error("{path}: this worker may not read it")]
    Forbidden { path: PathBuf },
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Csv { path: PathBuf, source: CsvError },
    #[error("{path}: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path}: changed between two steps of the same task")]
    Changed { path: PathBuf },
}

/// The whole file as text.
pub(crate) async fn read_text(path: &str) -> Result<String, FileError> {
    read_bounded(Path::new(path), FILE_LIMIT_BYTES).await
}

/// The file parsed by one of the functions that read a table.
pub(crate) async fn read_csv<T>(path: &str, parse: impl FnOnce(&str) -> Result<T, CsvError>) -> Result<T, FileError> {
    let text = read_text(path).await?;
    parse(&text).map_err(|source| FileError::Csv { path: path.into(), source })
}

/// The file as one JSON document.
pub(crate) async fn read_json<T: DeserializeOwned>(path: &str) -> Result<T, FileError> {
    let text = read_text(path).await?;
    serde_json::from_str(&text).map_err(|source| FileError::Json { path: path.into(), source })
}

async fn read_bounded(path: &Path, limit_bytes: u64) -> Result<String, FileError> {
    let refused = |error| refusal(path, error);
    // Asked before opening: opening a pipe would wait for its writer.
    let metadata = tokio::fs::metadata(path).await.map_err(refused)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.into() });
    }
    let file = tokio::fs::File::open(path).await.map_err(refused)?;
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes).await.map_err(refused)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(FileError::TooLarge { path: path.into(), limit_bytes });
    }
    String::from_utf8(bytes).map_err(|_| FileError::NotText { path: path.into() })
}

fn refusal(path: &Path, error: io::Error) -> FileError {
    let path = path.into();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => {
            FileError::Missing { path }
        }
        io::ErrorKind::PermissionDenied => FileError::Forbidden { path },
        _ => FileError::Unreadable { path, source: error },
    }
}

impl FileError {
    fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "FILE_MISSING",
            Self::NotAFile { .. } => "FILE_NOT_REGULAR",
            Self::TooLarge { .. } => "FILE_TOO_LARGE",
            Self::NotText { .. } => "FILE_NOT_TEXT",
            Self::Forbidden { .. } => "FILE_FORBIDDEN",
            Self::Unreadable { .. } => "FILE_UNREADABLE",
            Self::Csv { .. } | Self::Json { .. } => "FILE_MALFORMED",
            Self::Changed { .. } => "FILE_CHANGED",
        }
    }
}

/// Only a failing disk or network share is worth another attempt: the others need a person.
impl From<FileError> for StepError {
    fn from(error: FileError) -> Self {
        let message = error.to_string();
        match error {
            FileError::Unreadable { .. } => Self::retryable(message).with_code(error.code()),
            _ => Self::permanent(message).with_class("validation_error").with_code(error.code()),
        }
    }
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits: tells whether two steps saw the same file. It is no protection against a
/// file made to collide.
pub(crate) fn fingerprint(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn refusals_tell_apart_what_a_person_must_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let full = file("full", b"12345");
        assert_eq!(read_bounded(&full, 5).await.unwrap(), "12345");
        let code = async |path: &Path| read_bounded(path, 4).await.unwrap_err().code();
        assert_eq!(code(&full).await, "FILE_TOO_LARGE");
        assert_eq!(code(&file("latin1", b"\xe9t\xe9")).await, "FILE_NOT_TEXT");
        assert_eq!(code(folder.path()).await, "FILE_NOT_REGULAR");
        assert_eq!(code(&folder.path().join("none")).await, "FILE_MISSING");
        assert_eq!(code(&full.join("below")).await, "FILE_MISSING");
    }

    #[test]
    fn the_fingerprint_is_the_published_one() {
        assert_eq!(fingerprint(""), "cbf29ce484222325");
        assert_eq!(fingerprint("foobar"), "85944171f73967e8");
    }
}
