//! Special runs: each brings one fault to its extreme, checks everything afterwards, and fails where the fault did
//! not happen. `TASKER_SPECIAL_SCALE` makes them longer.

mod clock;
mod disk;
mod kills;
mod overload;
mod poison;
mod small_disk;
mod snapshot;
mod zombies;

use small_disk::SmallDisk;

const STORED: &str = "SELECT count(*) FROM tasker.attempts";

/// Says why a run can't be made on this machine. Where everything is expected to be there, that is a failure.
fn skip(why: &str) {
    println!("skipped: {why}");
    assert_ne!(std::env::var("NEXTEST_PROFILE").as_deref(), Ok("ci"), "not to be skipped in CI: {why}");
}

/// A size of the short profile, or a multiple of it.
fn scaled(size: usize) -> usize {
    let scale = std::env::var("TASKER_SPECIAL_SCALE").map_or(1, |scale| scale.parse().unwrap());
    size * scale
}
