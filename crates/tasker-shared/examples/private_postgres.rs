//! Runs a private PostgreSQL in a folder until standard input ends, and says where it is.

use std::io::Read;

use tasker_shared::embedded::{Embedded, EmbeddedError, Options};

fn main() -> Result<(), EmbeddedError> {
    let options = std::env::args_os().nth(1).map_or_else(Options::at_default, Options::new);
    let server = Embedded::start(options)?;
    let binaries = server.binaries();
    eprintln!("PostgreSQL {} from {}, found {}", binaries.major, binaries.folder.display(), binaries.origin);
    println!("{} {}", server.pid(), server.url());
    // However reading ends, nobody is there any more.
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    server.stop()
}
