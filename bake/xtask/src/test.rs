//! Runs every test there is, and the checks that CI runs beside them.

use anyhow::Result;

use crate::build::{self, cargo};
use crate::setup;

/// Runs the tests. As root nothing may be skipped; otherwise tests that need root say that they did not run.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    let root = setup::is_root()?;
    if root {
        setup::run()?;
    }
    let built = build::release()?;
    let mut environment = vec![("OLBAKE_BIN", built.olbake.as_str()), ("OLBAKE_AGENT", built.agent.as_str())];
    if root {
        environment.push(("OLBAKE_TEST_REQUIRE", "1"));
    }
    // Without a choice of targets cargo builds examples as the programs they are, which tests start.
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    if let Some(filter) = filter {
        arguments.push(filter);
    }
    cargo(&arguments, &environment)
}

/// Formats, or checks the format.
pub(crate) fn fmt(check: bool) -> Result<()> {
    let mut arguments = vec!["fmt", "--all"];
    if check {
        arguments.push("--check");
    }
    cargo(&arguments, &[])
}

/// Runs clippy; a warning is a failure.
pub(crate) fn lint() -> Result<()> {
    cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"], &[])
}
