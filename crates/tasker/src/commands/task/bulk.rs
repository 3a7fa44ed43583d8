//! `tasker task create-bulk`: a file of requests, one a line.

use std::io::Read;
use std::path::Path;

use tasker_client::Client;
use tasker_client::types::{BulkResult, TaskRequest};

use crate::failure::{Failure, Status};
use crate::output::Output;

/// As many as the server takes at once.
const TASKS_AT_ONCE: usize = 1_000;
/// Below the server's default limit of a body, with room for what is written around the requests.
const BYTES_AT_ONCE: usize = 960 * 1024;

/// Reads every line before anything is sent, so that a file with a mistake in it creates nothing. Each request is
/// answered with one line, as soon as its part of the file was sent.
pub(super) async fn create(file: &Path, client: &Client, output: &Output) -> Result<Status, Failure> {
    let text = read(file)?;
    let (mut refused, mut sent) = (0, 0);
    for part in parts(requests(&text)?) {
        let first = sent;
        sent += part.len();
        for mut result in client.create_tasks(part).await? {
            result.index += u32::try_from(first).unwrap_or(u32::MAX);
            refused += usize::from(result.error.is_some());
            output.value(&result, line)?;
        }
    }
    if refused > 0 {
        return Err(Failure::Failed(format!("{refused} of {sent} requests were refused")));
    }
    Ok(Status::Done)
}

fn read(file: &Path) -> Result<String, Failure> {
    if file.as_os_str() != "-" {
        return std::fs::read_to_string(file).map_err(|error| Failure::file(file, error));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| Failure::file("standard input", error))?;
    Ok(text)
}

/// The requests with the lengths of their lines. Blank lines are left out.
fn requests(text: &str) -> Result<Vec<(usize, TaskRequest)>, Failure> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let request = |(at, line): (usize, &str)| match serde_json::from_str(line) {
        Ok(request) => Ok((line.len(), request)),
        Err(error) => Err(Failure::Usage(format!("line {} is not a request for a task: {error}", at + 1))),
    };
    lines.map(request).collect()
}

fn parts(requests: Vec<(usize, TaskRequest)>) -> Vec<Vec<TaskRequest>> {
    let mut parts = Vec::new();
    let (mut part, mut bytes) = (Vec::new(), 0);
    for (length, request) in requests {
        if part.len() == TASKS_AT_ONCE || (bytes + length > BYTES_AT_ONCE && !part.is_empty()) {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += length;
        part.push(request);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

fn line(result: &BulkResult) -> String {
    let index = result.index;
    match (&result.task, &result.error) {
        (Some(task), _) => format!("{index} {} {} {}\n", result.status, task.task_uuid, task.status),
        (None, Some(error)) => format!("{index} {} {error} {}\n", result.status, error.details),
        (None, None) => format!("{index} {}\n", result.status),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_file_is_cut_into_what_the_server_takes_at_once() {
        let small = r#"{"namespace":"a","name":"b"}"#;
        let lengths = |text: &str| parts(requests(text).unwrap()).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(""), Vec::<usize>::new());
        assert_eq!(lengths(&format!("{small}\n\n{small}\n")), [2]);
        assert_eq!(lengths(&format!("{small}\n").repeat(2_001)), [1_000, 1_000, 1]);
        let large = format!(r#"{{"namespace":"a","name":"b","reason":"{}"}}"#, "r".repeat(BYTES_AT_ONCE / 2));
        assert_eq!(lengths(&format!("{large}\n{large}\n{small}\n")), [1, 2]);
        let refused = requests(&format!("{small}\n{{}}")).unwrap_err().to_string();
        assert!(refused.starts_with("line 2 is not a request"), "{refused}");
    }
}
