//! `tasker config validate` as a program of its own, for start scripts and images.

use std::process::ExitCode;

fn main() -> ExitCode {
    tasker::config_validator()
}
