//! Tells the linker of what an addon finds in its runtime only. Needs no Node.

fn main() {
    napi_build::setup();
}
