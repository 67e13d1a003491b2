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

/// How something is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As tests are.
    Dev,
    /// Optimised.
    Release,
}

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

/// Cargo at the root, without what the cargo that runs this says of this crate: build scripts that look at such
/// variables (ring's does) would have their crates compiled anew whenever cargo is called the other way.
fn bare_cargo() -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    for (name, _) in std::env::vars_os() {
        let of_crate = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];
        if name.to_str().is_some_and(|name| of_crate.iter().any(|start| name.starts_with(start))) {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

/// Runs cargo and passes its output on.
pub(crate) fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = bare_cargo();
    command.args(arguments).envs(environment.iter().copied());
    let status = command.status().context("cannot run `cargo`")?;
    if !status.success() {
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(())
}

fn target_directory() -> Result<Utf8PathBuf> {
    let output = bare_cargo()
        .args(["metadata", "--format-version=1", "--no-deps"])
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
pub(crate) fn test_cloud(profile: Profile) -> Result<Utf8PathBuf> {
    let mut arguments = vec!["build", "--quiet", "--package", "olbake-testkit", "--features", "ec2"];
    arguments.extend(["--example", "testcloud"]);
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            arguments.push("--release");
            "release"
        }
    };
    cargo(&arguments, &[])?;
    Ok(target_directory()?.join(folder).join("examples/testcloud"))
}

/// Builds olbake with AWS for use, beside the one without: AWS's crates alone take the compiler twenty minutes.
pub(crate) fn with_aws() -> Result<Utf8PathBuf> {
    eprintln!("compiling olbake with AWS's crates, optimised: the first time takes twenty minutes");
    olbake(&["--features", "aws"])?;
    let release = target_directory()?.join("release");
    let aside = release.join("olbake-with-aws");
    std::fs::copy(release.join("olbake"), &aside).with_context(|| format!("cannot write `{aside}`"))?;
    olbake(&[])?;
    Ok(aside)
}

/// Builds an example that talks to AWS, not optimised, and gives its path.
pub(crate) fn aws_example(name: &str) -> Result<Utf8PathBuf> {
    aws(&["--example", name])?;
    Ok(target_directory()?.join("debug/examples").join(name))
}

/// With the features that tests have, so that AWS's crates are compiled once.
fn aws(targets: &[&str]) -> Result<()> {
    let packages = ["olbake-aws", "olbake-testkit", "olbake-cli"].map(|name| format!("--package={name}"));
    let features = "--features=olbake-aws/aws,olbake-testkit/ec2,olbake-cli/aws";
    let mut arguments = vec!["build", "--quiet", features];
    arguments.extend(packages.iter().map(String::as_str));
    arguments.extend(targets);
    cargo(&arguments, &[])
}

fn olbake(features: &[&str]) -> Result<()> {
    cargo(&[&["build", "--quiet", "--package", "olbake-cli", "--release"], features].concat(), &[])
}

/// Builds both for use.
pub(crate) fn release() -> Result<Built> {
    let agent = agent()?;
    olbake(&[])?;
    let release = target_directory()?.join("release");
    let beside = release.join(format!("olbake-agent-{}", std::env::consts::ARCH));
    let fresh = release.join(".olbake-agent");
    std::fs::copy(&agent, &fresh).with_context(|| format!("cannot write `{fresh}`"))?;
    std::fs::rename(&fresh, &beside).with_context(|| format!("cannot write `{beside}`"))?;
    Ok(Built { olbake: release.join("olbake"), agent: beside })
}
