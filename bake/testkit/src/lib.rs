//! olbake: testkit.

pub mod workspace;
