//! Bodies of a test: where they are, who may log in, and what they say.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test uses its part, and a test that cannot go on is to end"
)]

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::{Builder, Snapshot};
use olbake_local::LocalBuilder;
use olbake_testkit::ec2::base::{PublicImage, base};
use olbake_testkit::ec2::body::{Bodies, Body, BodyState, HostBodies};

/// How long a machine may take until it can be logged in to.
const BOOT: Duration = Duration::from_secs(240);

/// Whether the test can run here; says so where it cannot, and fails where it must.
pub fn can_run() -> bool {
    let Err(reasons) = HostBodies::preflight() else { return true };
    let required = std::env::var("OLBAKE_TEST_REQUIRE").is_ok_and(|value| value == "1");
    assert!(!required, "this test must run here, but: {}", reasons.join("; "));
    eprintln!("SKIPPED, not tested: {}", reasons.join("; "));
    false
}

/// Where what all tests share is kept between runs.
pub fn kept() -> Utf8PathBuf {
    "/var/tmp/olbake-ec2-test-kept".into()
}

/// The public image, made when there is none yet.
pub async fn public_image() -> PublicImage {
    let started = Instant::now();
    let hear = |line: String| eprintln!("{:6.1} {line}", started.elapsed().as_secs_f64());
    base(&kept(), &hear).await.unwrap()
}

/// A cloud of a test's own: its folder, its subnet, its keys.
pub struct Place {
    _folder: tempfile::TempDir,
    pub path: Utf8PathBuf,
    pub bodies: HostBodies,
    number: u8,
}

impl Place {
    /// Subnets of tests that run at the same time have other numbers.
    pub fn new(number: u8) -> Self {
        let folder = tempfile::Builder::new().prefix("olbake-ec2-test-").tempdir_in("/var/tmp").unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().to_owned();
        let bodies = HostBodies::open(&path.join("cloud")).unwrap();
        for name in ["host", "user"] {
            let key = path.join(name);
            host("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key.as_str()]);
        }
        Self { _folder: folder, path, bodies, number }
    }

    pub fn address(&self, last: u8) -> Ipv4Addr {
        address(self.number, last)
    }

    /// An instance on a copy of a disk.
    pub async fn body(&self, last: u8, disk: &Utf8Path) -> Body {
        let instance = format!("i-0123456789abcde{last:02x}");
        let own = self.path.join(format!("{instance}.raw"));
        LocalBuilder::new().copy(&Snapshot { disk: disk.to_owned() }, &own).await.unwrap();
        body(&self.path, self.number, last, own)
    }

    /// Starts one and waits until its user can log in.
    pub async fn up(&self, body: &Body) {
        self.bodies.start(body).await.unwrap();
        self.reachable(body).await;
    }

    pub async fn reachable(&self, body: &Body) {
        let end = Instant::now() + BOOT;
        // Only once everything that the user asked for is done.
        let done = "test -e /var/lib/cloud/instance/boot-finished";
        while self.ssh(body, "admin", done).is_err() {
            let console = self.bodies.console(&body.instance).await;
            let state = self.bodies.state(&body.instance).await;
            assert_eq!(state, BodyState::Running, "{console}");
            let last = self.ssh(body, "admin", "tail -n 50 /var/log/cloud-init.log");
            assert!(Instant::now() < end, "not reachable: {console}\n{last:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs a command by SSH: with the user's key, and only where the host has the key that it was given.
    pub fn ssh(&self, body: &Body, user: &str, command: &str) -> Result<String, String> {
        let known = self.path.join(format!("known-{}", body.address));
        let public = std::fs::read_to_string(self.path.join("host.pub")).unwrap();
        std::fs::write(&known, format!("{} {public}", body.address)).unwrap();
        let output = Command::new("ssh")
            .args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"])
            .args(["-o", "ConnectTimeout=5", "-o", "IdentitiesOnly=yes"])
            .args(["-o", &format!("UserKnownHostsFile={known}"), "-i", self.path.join("user").as_str()])
            .args([&format!("{user}@{}", body.address), command])
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

pub fn address(number: u8, last: u8) -> Ipv4Addr {
    let second = 64 + u8::try_from(std::process::id() % 128).unwrap();
    Ipv4Addr::new(10, second, number, last)
}

pub fn body(keys: &Utf8Path, number: u8, last: u8, disk: Utf8PathBuf) -> Body {
    let read = |name: &str| std::fs::read_to_string(keys.join(name)).unwrap();
    let private: String = read("host").lines().map(|line| format!("    {line}\n")).collect();
    let user_data = format!(
        "#cloud-config\nssh_keys:\n  ed25519_private: |\n{private}  ed25519_public: {host}\
         write_files:\n  - path: /etc/from-user-data\n    content: hello {last}\n\
         runcmd:\n  - [sh, -c, 'cat /etc/from-user-data >/etc/from-runcmd']\n",
        host = read("host.pub"),
    );
    let public = read("user.pub");
    let metadata = [
        ("placement/availability-zone", "eu-west-1a"),
        ("public-keys/0=user/openssh-key", public.trim()),
        ("tags/instance/Name", "web"),
    ];
    Body {
        instance: format!("i-0123456789abcde{last:02x}"),
        address: address(number, last),
        prefix: 24,
        disk,
        user_data: user_data.into_bytes(),
        metadata: metadata.map(|(path, value)| (path.to_owned(), value.to_owned())).into(),
    }
}

/// What a command of the host writes; it is to succeed.
pub fn host(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a file on a disk has, read without mounting; `None`: it is not there.
pub fn file_on(disk: &Utf8Path, path: &str) -> Option<String> {
    let (offset, _) = olbake_local::root_partition(disk).unwrap();
    let device = format!("{disk}?offset={offset}");
    let found = host("debugfs", &["-R", &format!("cat {path}"), &device]);
    (!found.is_empty()).then_some(found)
}

/// Asserts that the root file system of a disk was left clean.
pub fn assert_clean(disk: &Utf8Path) {
    let (offset, _) = olbake_local::root_partition(disk).unwrap();
    host("e2fsck", &["-fn", &format!("{disk}?offset={offset}")]);
}
