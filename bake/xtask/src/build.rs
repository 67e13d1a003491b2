//! Builds the agent and olbake, and puts the agent beside olbake, where it is looked for.

use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

/// The largest that the agent may be, in bytes: it travels to every machine.
const AGENT_LIMIT: u64 = 2_000_000;

/// How the agent is compiled: statically, so that it runs on any Linux of its architecture, at a fixed address and
/// without unwind tables, so that it stays small. `bake/agent/build.rs` has the linker's part.
const AGENT_FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static -C force-unwind-tables=no \
                           -C llvm-args=-enable-machine-outliner=always";

/// What was built.
pub(crate) struct Built {
    /// The command.
    pub(crate) olbake: Utf8PathBuf,
    /// The agent.
    pub(crate) agent: Utf8PathBuf,
}

/// The root of the checkout that cargo runs this from: checkouts that share a target directory share its programs.
pub(crate) fn root() -> &'static Utf8Path {
    static ROOT: LazyLock<Utf8PathBuf> = LazyLock::new(|| {
        let own =
            std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        Utf8Path::new(&own).ancestors().nth(2).expect("xtask lies two folders deep").to_owned()
    });
    &ROOT
}

/// Runs cargo and passes its output on.
pub(crate) fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.args(arguments).envs(environment.iter().copied()).current_dir(root());
    let status = command.status().context("cannot run `cargo`")?;
    if !status.success() {
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(())
}

fn target_directory() -> Result<Utf8PathBuf> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--format-version=1", "--no-deps"])
        .current_dir(root())
        .output()
        .context("cannot run `cargo metadata`")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(metadata["target_directory"].as_str().context("`cargo metadata` names no target directory")?.into())
}

/// Builds the agent, statically linked, so that it runs on any Linux of its architecture.
pub(crate) fn agent() -> Result<Utf8PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    cargo(
        &["build", "--quiet", "--package", "olbake-agent", "--profile", "agent", "--target", &target],
        &[("RUSTFLAGS", AGENT_FLAGS)],
    )?;
    let agent = target_directory()?.join(&target).join("agent/olbake-agent");
    let size = std::fs::metadata(&agent).with_context(|| format!("cannot read `{agent}`"))?.len();
    if size > AGENT_LIMIT {
        bail!("the agent has {size} bytes, more than the {AGENT_LIMIT} it may have");
    }
    Ok(agent)
}

/// Builds an example of a crate, optimised, and gives its path.
pub(crate) fn example(package: &str, name: &str) -> Result<Utf8PathBuf> {
    cargo(
        &["build", "--quiet", "--release", "--package", package, "--all-features", "--example", name],
        &[],
    )?;
    Ok(target_directory()?.join("release/examples").join(name))
}

/// Builds the test cloud and gives its path.
pub(crate) fn test_cloud() -> Result<Utf8PathBuf> {
    let features = ["--package", "olbake-testkit", "--features", "ec2", "--example", "testcloud"];
    cargo(&[&["build", "--quiet"][..], &features].concat(), &[])?;
    Ok(target_directory()?.join("debug/examples/testcloud"))
}

/// Builds both for use.
pub(crate) fn release() -> Result<Built> {
    let agent = agent()?;
    cargo(&["build", "--quiet", "--package", "olbake-cli", "--release"], &[])?;
    let release = target_directory()?.join("release");
    let beside = release.join(format!("olbake-agent-{}", std::env::consts::ARCH));
    let fresh = release.join(".olbake-agent");
    std::fs::copy(&agent, &fresh).with_context(|| format!("cannot write `{fresh}`"))?;
    std::fs::rename(&fresh, &beside).with_context(|| format!("cannot write `{beside}`"))?;
    Ok(Built { olbake: release.join("olbake"), agent: beside })
}
