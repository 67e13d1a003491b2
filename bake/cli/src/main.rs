//! olbake: cli.

fn main() {}
