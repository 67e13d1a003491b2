//! The whole way on real input: recipes baked on this machine, by the real command, agent and tools.
//!
//! Needs root and the packages that `cargo xtask setup` installs. Each test says so when it cannot run; with
//! `OLBAKE_TEST_REQUIRE=1` (CI) it fails instead. A Debian is made once a machine and kept below
//! `$OLBAKE_TEST_CACHE` (`/var/tmp/olbake-test-cache`); bakes of the tests begin there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bakes;
mod faults;
mod interruptions;
mod leaks;
mod library;
mod looks;
mod stacks;
mod support;
mod vms;
