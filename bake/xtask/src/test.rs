//! Runs every test there is, and the checks that CI runs beside them.

use anyhow::Result;

use crate::build::{self, cargo};
use crate::setup;

/// What is compiled with AWS's crates, and so apart from the rest: who works on that waits for nothing of AWS.
const AWS: [&str; 8] = [
    "--package",
    "olbake-aws",
    "--package",
    "olbake-testkit",
    "--package",
    "olbake-cli",
    "--features",
    "olbake-aws/aws,olbake-testkit/ec2,olbake-cli/aws",
];

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
    let without = ["test", "--workspace", "--no-fail-fast"];
    let with = [&["test", "--no-fail-fast"][..], &AWS].concat();
    let ends = [&without[..], &with].map(|test| cargo(&[test, filter.as_slice()].concat(), &environment));
    ends.into_iter().collect()
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
    let strictly = ["--all-targets", "--", "--deny", "warnings"];
    cargo(&[&["clippy", "--quiet", "--workspace"][..], &strictly].concat(), &[])?;
    cargo(&[&["clippy", "--quiet"][..], &AWS, &strictly].concat(), &[])
}
