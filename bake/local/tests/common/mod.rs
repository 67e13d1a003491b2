//! What the tests of machines share: a base disk, made once, and a stand-in for the agent.
//!
//! The stand-in is a shell that runs one line and ends: what is tested here is the machine and its stream, not
//! what an agent does with them.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and a test that cannot go on is to end"
)]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::plan::Base;
use olbake_engine::machine::{
    AgentStream, Builder, Machine, MachineSpec, Snapshot, Start, Substrate, WorkDisk,
};
use olbake_local::LocalBuilder;
use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const AGENT: &str = "#!/bin/sh\nread -r line && eval \"$line\"\n";
pub const DISK_SIZE: u64 = 3 << 30;

/// Whether the test can run here; says so where it cannot, and fails where it must.
pub fn can_run(substrate: Substrate) -> bool {
    let Err(errors) = LocalBuilder::new().preflight(substrate) else { return true };
    let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let required = std::env::var("OLBAKE_TEST_REQUIRE").is_ok_and(|value| value == "1");
    assert!(!required, "this test must run here, but: {}", reasons.join("; "));
    eprintln!("SKIPPED, not tested: {}", reasons.join("; "));
    false
}

pub fn base() -> Base {
    Base::Debian { suite: "bookworm".into(), packages: vec![], mirror: None, disk_size: DISK_SIZE }
}

/// A folder of a test, removed at its end.
pub struct Place {
    _folder: tempfile::TempDir,
    pub path: Utf8PathBuf,
    pub agent: Utf8PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("olbake-local-test-").tempdir_in("/var/tmp").unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().to_owned();
        let agent = path.join("agent");
        fs::write(&agent, AGENT).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        Self { _folder: folder, path, agent }
    }

    /// A new, empty folder.
    pub fn folder(&self, name: &str) -> Utf8PathBuf {
        let folder = self.path.join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    pub fn spec(&self, name: &str, start: Start, parent: &Snapshot) -> MachineSpec {
        MachineSpec {
            name: "web".into(),
            substrate: Substrate::Container,
            start,
            parent: parent.clone(),
            disk: (start != Start::Fresh).then(|| WorkDisk::Copy(self.path.join(format!("{name}.raw")))),
            work_dir: self.folder(name),
            package_cache: Some(cache()),
            agent: self.agent.clone(),
            instance: None,
            beside: None,
        }
    }
}

fn kept() -> Utf8PathBuf {
    let folder = Utf8PathBuf::from("/var/tmp/olbake-local-test-kept");
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn cache() -> Utf8PathBuf {
    kept().join("packages")
}

/// The base disk of the tests, made when there is none yet. It is not to be changed.
pub async fn base_disk() -> Snapshot {
    let builder = LocalBuilder::new();
    let key = olbake_core::key::base(builder.architecture(), &base());
    let sources = [
        include_str!("../../src/debian.rs"),
        include_str!("../../src/disk.rs"),
        include_str!("../../src/boot.rs"),
    ];
    let made_by = olbake_core::Digest::of(sources.concat().as_bytes());
    let disk = kept().join(format!("base-{}-{}.raw", key.short(), made_by.short()));
    let lock = File::create(kept().join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    if !disk.exists() {
        // Those that older sources made are of no use any more.
        for entry in kept().read_dir_utf8().unwrap().flatten() {
            if entry.file_name().starts_with("base-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        let work = tempfile::tempdir_in("/var/tmp").unwrap();
        let new = disk.with_extension("new");
        let started = std::time::Instant::now();
        let work_dir = Utf8Path::from_path(work.path()).unwrap();
        let hear = |line: String| eprintln!("{:6.1} {line}", started.elapsed().as_secs_f64());
        builder.base(&base(), None, &new, work_dir, Some(&cache()), &hear).await.unwrap();
        eprintln!("{:6.1} base disk made", started.elapsed().as_secs_f64());
        fs::rename(&new, &disk).unwrap();
    }
    Snapshot { disk }
}

/// What a command on the machine writes.
pub async fn run(machine: &mut dyn Machine, command: &str) -> String {
    talk(machine.agent().await.unwrap(), command).await
}

pub async fn talk(stream: AgentStream, command: &str) -> String {
    let AgentStream { mut input, mut output } = stream;
    input.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    input.flush().await.unwrap();
    let mut written = String::new();
    output.read_to_string(&mut written).await.unwrap();
    drop(input);
    written
}

/// What a command of the host writes, with whether it succeeded.
pub fn host(command: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(command).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Asserts that the root file system of a disk was left clean.
pub fn assert_clean(disk: &Utf8Path) {
    let (offset, _) = olbake_local::root_partition(disk).unwrap();
    let (ok, text) = host("e2fsck", &["-fn", &format!("{disk}?offset={offset}")]);
    assert!(ok, "{text}");
}
