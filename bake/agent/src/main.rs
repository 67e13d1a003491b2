//! olbake: agent.

fn main() {}
