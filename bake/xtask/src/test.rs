//! Runs every test there is, and the checks that CI runs beside them.

use anyhow::{Context, Result};

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
    let without =
        cargo(&[&["test", "--workspace", "--no-fail-fast"], filter.as_slice()].concat(), &environment);
    let with = with_aws(filter, &environment);
    without.and(with)
}

/// Runs the tests that are compiled with AWS's crates. Of the command's own tests these are the ones that start
/// the program of this pass: the others start the one for use, and have run.
fn with_aws(filter: Option<&str>, environment: &[(&str, &str)]) -> Result<()> {
    cargo(&[&["build", "--quiet", "--bins", "--examples"][..], &AWS].concat(), &[])?;
    let mut names = integration_tests("bake/aws")?;
    names.extend(integration_tests("bake/testkit")?);
    names.push("sealed".to_owned());
    names.sort_unstable();
    names.dedup();
    let mut arguments = [&["test", "--no-fail-fast", "--lib", "--bins"][..], &AWS].concat();
    arguments.extend(names.iter().flat_map(|name| ["--test", name]));
    arguments.extend(filter);
    cargo(&arguments, environment)
}

/// The integration tests of a crate: its files, since cargo runs those of named crates all or by name.
fn integration_tests(package: &str) -> Result<Vec<String>> {
    let folder = build::root().join(package).join("tests");
    let entries = folder.read_dir_utf8().with_context(|| format!("cannot read `{folder}`"))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.into_path();
        if path.extension() == Some("rs") {
            names.extend(path.file_stem().map(str::to_owned));
        }
    }
    Ok(names)
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
