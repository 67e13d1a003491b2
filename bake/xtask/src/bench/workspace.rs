//! A copy of this repository's recipes with a registry and a cache of its own, removed at the end.

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use std::process::Command;

use crate::build::{self, Built};

/// The copy.
pub(super) struct Workspace {
    path: Utf8PathBuf,
}

impl Workspace {
    /// Copies recipes, stacks and `olbake.toml`.
    pub(super) fn copy(name: &str) -> Result<Self> {
        let path = Utf8PathBuf::from(format!("/var/tmp/olbake-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make `{path}`"))?;
        for part in ["components", "images", "stacks", "policies", "olbake.toml"] {
            let status =
                Command::new("cp").args(["-a", build::root().join(part).as_str(), path.as_str()]).status()?;
            anyhow::ensure!(status.success(), "cannot copy `{part}` to `{path}`");
        }
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// An `olbake` command in it.
    pub(super) fn olbake(&self, built: &Built, arguments: &[&str]) -> Command {
        let mut command = Command::new(&built.olbake);
        command
            .args(arguments)
            .current_dir(&self.path)
            .env_remove("OLBAKE_REGISTRY")
            .env_remove("OLBAKE_CACHE")
            .env_remove("OLBAKE_STATE");
        command
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.path));
    }
}
