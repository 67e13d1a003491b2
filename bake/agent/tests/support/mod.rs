//! What the tests on a real machine share: a Debian root file system, made once, and copies of it on which the
//! real agent runs in namespaces of its own; a driver that speaks the protocol over pipes.
//!
//! The root file system is kept under `$OLBAKE_TEST_CACHE`, or `/var/tmp/olbake-test-cache`. Without root the tests
//! say so and pass; with `OLBAKE_TEST_REQUIRE=1` that is a failure. `OLBAKE_AGENT` names another executable to test
//! than the one that cargo built for the tests: the static one that travels.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "tests; each file uses its part"
)]

pub mod driver;
pub mod plan;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest as _, Sha256};

/// Goes up when the packages below change.
const ROOTFS: &str = "agent-bookworm-2";
const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,acl,libcap2-bin,e2fsprogs,adduser,openssl,openssh-server,tzdata,debconf";

/// Why a test cannot run here; none: it can. With `OLBAKE_TEST_REQUIRE=1` that is a failure.
pub fn skip() -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "it needs root"
    } else if !has("mmdebstrap") {
        "it needs mmdebstrap"
    } else {
        return false;
    };
    assert!(std::env::var_os("OLBAKE_TEST_REQUIRE").is_none(), "a test that must run here cannot: {reason}");
    eprintln!("SKIPPED: {reason}");
    true
}

fn has(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|o| o.status.success())
}

/// Fails with the output of a command that failed.
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn cache() -> PathBuf {
    let path = std::env::var_os("OLBAKE_TEST_CACHE")
        .map_or_else(|| "/var/tmp/olbake-test-cache".into(), PathBuf::from);
    fs::create_dir_all(&path).unwrap();
    path
}

/// The root file system that all machines begin with.
fn rootfs() -> PathBuf {
    let cache = cache();
    let path = cache.join(ROOTFS);
    let lock = File::create(cache.join(format!("{ROOTFS}.lock"))).unwrap();
    lock.lock().unwrap();
    if !path.exists() {
        let partial = cache.join(format!("{ROOTFS}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).unwrap();
        }
        let include = format!("--include={PACKAGES}");
        run(Command::new("mmdebstrap").args(["-q", "--variant=minbase", &include, "bookworm"]).arg(&partial));
        fs::rename(&partial, &path).unwrap();
    }
    path
}

/// A copy of the root file system, on which the agent runs.
pub struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    /// A fresh copy.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("agent-test-").tempdir_in("/var/tmp").unwrap();
        let machine = Self { directory };
        let part = |name: &str| {
            let path = machine.directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path.display().to_string()
        };
        let (upper, work, root) = (part("upper"), part("work"), part("root"));
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", rootfs().display());
        run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options, &root]));
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(machine.root().join("run")));
        run(Command::new("mount").args(["--bind", "/dev"]).arg(machine.root().join("dev")));
        let agent = machine.root().join("run/olbake-agent");
        // Another process copies it: a descriptor open for writing would be inherited by what other tests start.
        let given = std::env::var_os("OLBAKE_AGENT");
        run(Command::new("cp").arg(given.unwrap_or(env!("CARGO_BIN_EXE_olbake-agent").into())).arg(&agent));
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    /// Its root directory, from outside.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// A file's path from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// A command in it, in namespaces that end with it.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child=KILL"]);
        command.arg(format!("--mount-proc={}", self.root().join("proc").display()));
        command.arg("chroot").arg(self.root()).args(argv);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Runs a shell text that must succeed, and returns what it prints.
    pub fn sh(&self, text: &str) -> String {
        let output = run(&mut self.command(&["sh", "-euc", text]));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether a shell text succeeds.
    pub fn holds(&self, text: &str) -> bool {
        let mut command = self.command(&["sh", "-c", text]);
        command.stdin(Stdio::null()).output().unwrap().status.success()
    }

    /// A listing of the whole file system with types, modes, owners, contents and targets, without what is of the
    /// moment.
    pub fn tree(&self) -> Vec<String> {
        let mut lines = Vec::new();
        list(&self.root(), Path::new(""), &mut lines);
        lines.sort_unstable();
        lines
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(
            Command::new("chattr").args(["-R", "-f", "-i"]).arg(self.directory.path().join("upper")).output(),
        );
        for mount in ["root/dev", "root/run", "root"] {
            drop(Command::new("umount").arg("-l").arg(self.directory.path().join(mount)).output());
        }
    }
}

fn list(root: &Path, below: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let relative = below.join(entry.unwrap().file_name());
        let name = relative.to_str().unwrap();
        if ["run", "proc", "dev", "sys", "tmp"].contains(&name) {
            continue;
        }
        let path = root.join(&relative);
        let found = fs::symlink_metadata(&path).unwrap();
        let content = if found.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if found.is_file() {
            let mut hash = Sha256::new();
            hash.update(fs::read(&path).unwrap());
            hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
        } else {
            String::new()
        };
        lines.push(format!("{name} {:o} {}:{} {content}", found.mode(), found.uid(), found.gid()));
        if found.is_dir() {
            list(root, &relative, lines);
        }
    }
}

/// Fails with the lines that differ.
pub fn assert_same_tree(expected: &[String], found: &[String], context: &str) {
    let missing: Vec<&String> = expected.iter().filter(|line| found.binary_search(line).is_err()).collect();
    let extra: Vec<&String> = found.iter().filter(|line| expected.binary_search(line).is_err()).collect();
    assert!(missing.is_empty() && extra.is_empty(), "{context}\nmissing: {missing:#?}\nextra: {extra:#?}");
}
