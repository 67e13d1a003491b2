//! olbake: xtask.

fn main() {}
