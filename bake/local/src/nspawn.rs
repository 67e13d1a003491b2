//! systemd-nspawn: how a root file system is entered, without a boot or with one.
//!
//! Every container runs in a process namespace of its own around nspawn: nspawn does not take its payload along
//! when it is killed, but the kernel takes everything in a process namespace along with its first process.
//! Main type: [`Nspawn`].

use std::sync::atomic::{AtomicU32, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::MachineError;

use crate::cgroup::Cgroup;
use crate::host::HostCommand;
use crate::sweep::is_abandoned;

/// Names of container processes, locks and control groups begin with this, the process and a number.
pub(crate) const PREFIX: &str = "olbake-";

/// Where the machine finds the agent and its folder.
pub(crate) const AGENT_FOLDER: &str = "/run/olbake";

/// Variables of the host that programs on a machine need to reach the outside.
const PROXY_VARIABLES: [&str; 6] =
    ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// How a script boots a container that it keeps.
pub(crate) const KEPT: [&str; 11] = [
    "systemd-nspawn",
    "--quiet",
    "--boot",
    "--console=read-only",
    "--register=no",
    "--keep-unit",
    "--settings=no",
    "--resolv-conf=off",
    "--timezone=off",
    "--link-journal=no",
    "--setenv=SYSTEMD_COLORS=0",
];

/// A container to be.
#[derive(Debug)]
pub(crate) struct Nspawn {
    root: Utf8PathBuf,
    name: String,
    arguments: Vec<String>,
}

impl Nspawn {
    /// A container on a mounted root file system.
    pub(crate) fn new(root: &Utf8Path) -> Self {
        Self { root: root.to_owned(), name: new_name(), arguments: Vec::new() }
    }

    /// The name that nspawn knows it by, of this process alone.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sets the host name.
    pub(crate) fn hostname(mut self, name: &str) -> Self {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let name = name.trim_matches('-');
        self.arguments.push(format!(
            "--hostname={}",
            if name.is_empty() { "olbake" } else { &name[..name.len().min(63)] }
        ));
        self
    }

    /// Makes a folder or file of the host appear.
    pub(crate) fn bind(mut self, from: &Utf8Path, to: &str) -> Self {
        self.arguments.push(format!("--bind={}:{}", escaped(from.as_str()), escaped(to)));
        self
    }

    pub(crate) fn bind_read_only(mut self, from: &str, to: &str) -> Self {
        self.arguments.push(format!("--bind-ro={}:{}", escaped(from), escaped(to)));
        self
    }

    /// Gives it the way out that the host has: the network, name servers and proxies. Nothing of it stays: the
    /// name servers' file is bound where the image's own points to.
    pub(crate) fn with_network(mut self) -> Self {
        for name in PROXY_VARIABLES {
            if let Ok(value) = std::env::var(name) {
                self.arguments.push(format!("--setenv={name}={value}"));
            }
        }
        match resolver(&self.root) {
            Some(target) => self.bind_read_only("/etc/resolv.conf", &target),
            None => self,
        }
    }

    /// Runs a command without a boot.
    pub(crate) fn run(self, input: Input, command: &[&str]) -> HostCommand {
        let console = match input {
            Input::Pipes => "--console=pipe",
            Input::Terminal => "--console=interactive",
        };
        self.command([console, "--as-pid2", "--suppress-sync=yes"], None).arg("--").args(command)
    }

    /// Boots it in a control group of its own.
    pub(crate) fn boot(self, network: Network, cgroup: &Cgroup) -> HostCommand {
        let network = match network {
            Network::Host => None,
            Network::None => Some("--private-network"),
        };
        let options = ["--boot", "--console=read-only", "--setenv=SYSTEMD_COLORS=0"];
        self.command(options.into_iter().chain(network), Some(cgroup))
    }

    fn command<'a>(self, options: impl IntoIterator<Item = &'a str>, cgroup: Option<&Cgroup>) -> HostCommand {
        let Self { root, name, arguments } = self;
        let unshare =
            ["--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--propagation", "slave", "--"];
        let command = match cgroup {
            Some(cgroup) => cgroup.enter().args(["unshare"]),
            None => HostCommand::new("unshare"),
        };
        command
            .args(unshare)
            .args(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=no"])
            .args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"])
            .arg(format!("--directory={root}"))
            .arg(format!("--machine={name}"))
            .args(arguments)
            .args(options)
    }
}

/// A name for a container, of this process alone.
pub(crate) fn new_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// What a command without a boot has as its standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Those it is started with.
    Pipes,
    /// A terminal, handed on from the one it is started on.
    Terminal,
}

/// What a booted container sees of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// The host's.
    Host,
    /// One of its own, with nothing but a loopback interface.
    None,
}

/// Runs a command on a mounted root file system, without a boot, and waits for it.
pub(crate) fn run_in(root: &Utf8Path, work_dir: &Utf8Path, command: &[&str]) -> Result<(), MachineError> {
    let nspawn = Nspawn::new(root);
    let name = nspawn.name().to_owned();
    let result = nspawn.run(Input::Pipes, command).folder(work_dir).run();
    forget(&name);
    result.map(drop)
}

/// Where nspawn leaves a folder for each container that it could not clean up after.
const LEFTOVERS: [&str; 2] = ["/run/systemd/nspawn/propagate", "/run/systemd/nspawn/unix-export"];

/// Removes what nspawn leaves on the host for a container that is gone.
pub(crate) fn forget(name: &str) {
    for folder in LEFTOVERS {
        // Usually there is nothing; an empty folder more does no harm either.
        std::fs::remove_dir(Utf8Path::new(folder).join(name)).ok();
    }
}

/// Where nspawn leaves the lock of an image whose container was killed.
const IMAGE_LOCKS: &str = "/run/systemd/nspawn/locks";

/// Removes the lock of an image that nspawn left, by the name it has there, unless another container holds it.
pub(crate) fn forget_image_lock(name: &str) {
    let path = Utf8Path::new(IMAGE_LOCKS).join(name);
    let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(&path) else { return };
    if rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
        // Usually there is none, and an empty file more does no harm either.
        std::fs::remove_file(&path).ok();
    }
}

/// Removes what nspawn left for containers of processes that no longer run.
pub(crate) fn forget_abandoned() {
    for folder in LEFTOVERS {
        let entries = Utf8Path::new(folder).read_dir_utf8().into_iter().flatten().filter_map(Result::ok);
        entries.filter(|entry| is_abandoned(entry.file_name())).for_each(|entry| forget(entry.file_name()));
    }
}

/// Where on the machine its `/etc/resolv.conf` really is; `None`: nowhere, and a file put there would stay.
fn resolver(root: &Utf8Path) -> Option<String> {
    let path = root.join("etc/resolv.conf");
    match path.read_link_utf8() {
        Ok(target) if target.is_absolute() => Some(target.into_string()),
        Ok(target) => Some(normal(&Utf8Path::new("/etc").join(target))),
        Err(_) => path.is_file().then(|| "/etc/resolv.conf".to_owned()),
    }
}

/// A path without `..`: at the root, there is nothing above.
fn normal(path: &Utf8Path) -> String {
    let mut parts = Vec::new();
    for part in path.as_str().split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// nspawn separates the parts of a bind by colons.
pub(crate) fn escaped(path: &str) -> String {
    path.replace('\\', r"\\").replace(':', r"\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_bound_where_the_link_points() {
        let root = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(root.path()).unwrap();
        std::fs::create_dir(root.join("etc")).unwrap();
        assert_eq!(resolver(root), None);
        let file = root.join("etc/resolv.conf");
        std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", &file).unwrap();
        assert_eq!(resolver(root).as_deref(), Some("/run/systemd/resolve/stub-resolv.conf"));
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "").unwrap();
        assert_eq!(resolver(root).as_deref(), Some("/etc/resolv.conf"));
    }

    #[test]
    fn colons_in_paths_do_not_separate() {
        assert_eq!(escaped("/a:b"), r"/a\:b");
    }
}
