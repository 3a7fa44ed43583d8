//! The `tasker` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tasker::main()
}
