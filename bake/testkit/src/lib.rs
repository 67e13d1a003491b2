//! olbake: testkit.
