//! Special runs: each brings one fault to its extreme, checks everything afterwards, and fails where the fault did
//! not happen. `TASKER_SPECIAL_SCALE` makes them longer.

mod poison;
mod zombies;

/// A size of the short profile, or a multiple of it.
fn scaled(size: usize) -> usize {
    let scale = std::env::var("TASKER_SPECIAL_SCALE").map_or(1, |scale| scale.parse().unwrap());
    size * scale
}
