//! Runs the test cloud of `olbake-testkit` in the foreground.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use camino::Utf8Path;

use crate::build::{self, Profile};

/// Whether instances run.
pub(crate) enum Instances {
    /// They do, where the host can have them.
    Run,
    /// They are records.
    Records,
}

/// Runs it instead of this process, so that Ctrl-C reaches it and nothing else; returns only if that is impossible.
pub(crate) fn run(root: &Utf8Path, port: u16, instances: Instances) -> Result<()> {
    let program = build::test_cloud(Profile::Dev)?;
    let mut command = Command::new(&program);
    command.args(["--root", root.as_str(), "--port", &port.to_string()]);
    if let Instances::Records = instances {
        command.arg("--records-only");
    }
    Err(command.exec()).with_context(|| format!("cannot run `{program}`"))
}
