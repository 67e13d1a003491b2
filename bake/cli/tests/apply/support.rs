//! A workspace, a host, and the real command between them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use olbake_testkit::host::{self, Host};
use serde_json::Value;

/// A workspace and a host that was just booted.
pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) host: Host,
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Where a host is, for the command line.
pub(crate) struct Way {
    pub(crate) user: &'static str,
    pub(crate) address: String,
    pub(crate) port: u16,
}

impl World {
    /// A workspace of the given files, and a host; none where that cannot be.
    pub(crate) fn new(files: &[(&str, &str)]) -> Option<Self> {
        let lack = host::lacking().or_else(|| {
            (!agent().is_file()).then(|| "OLBAKE_AGENT names no agent: run `cargo xtask test`".to_owned())
        });
        if let Some(lack) = lack {
            assert!(std::env::var_os("OLBAKE_TEST_REQUIRE").is_none(), "this must run here, but {lack}");
            eprintln!("SKIPPED: {lack}");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("olbake-apply-").tempdir_in("/var/tmp").unwrap();
        let world = Self { directory, host: Host::start().unwrap() };
        world.write("olbake.toml", "");
        world.write("images/box/image.star", IMAGE);
        for (path, text) in files {
            world.write(path, text);
        }
        Some(world)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Straight to the host, as root.
    pub(crate) fn way(&self) -> Way {
        Way { user: "root", address: self.host.address().to_string(), port: 22 }
    }

    /// `olbake apply` with a proof of the host's identity and a key to log in with.
    pub(crate) fn apply(&self, way: &Way, more: &[&str]) -> Command {
        let known = self.host.known_hosts();
        let mut command = self.apply_unknown(way, more);
        command.args(["--known-hosts", known.to_str().unwrap()]);
        command
    }

    /// The same without a proof of the host's identity.
    pub(crate) fn apply_unknown(&self, way: &Way, more: &[&str]) -> Command {
        let Way { user, address, port } = way;
        let mut command = Command::new(olbake());
        command
            .args(["apply", "box", "--host", &format!("{user}@{address}"), "--port", &port.to_string()])
            .args(["--identity", self.host.identity().to_str().unwrap()])
            .args(more)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.directory.path())
            .env("TOKEN", "a token that nobody may see")
            .env("NO_COLOR", "1")
            .env("OLBAKE_AGENT", agent())
            .stdin(Stdio::null());
        command
    }

    /// Applies, which must go well, and gives the result.
    pub(crate) fn applied(&self, more: &[&str]) -> Value {
        let ended = Ended::of(self.apply(&self.way(), &[&["--json"], more].concat()));
        assert_eq!(ended.code, 0, "{}\n{}", ended.stdout, ended.stderr);
        ended.last()
    }

    /// How many commands the host's SSH server started, and how many logins it saw, so far.
    pub(crate) fn commands_and_logins(&self) -> (usize, usize) {
        let journal = self.host.says("journalctl --quiet --unit ssh.service --output cat").unwrap();
        let count = |text: &str| journal.lines().filter(|line| line.contains(text)).count();
        (count("Starting session: command"), count("Accepted publickey"))
    }
}

impl Ended {
    pub(crate) fn of(mut command: Command) -> Self {
        command.output().unwrap().into()
    }

    /// The last line of JSON.
    pub(crate) fn last(&self) -> Value {
        serde_json::from_str(self.stdout.lines().last().expect("it says something")).unwrap()
    }

    #[track_caller]
    pub(crate) fn failed_with(&self, code: i32, words: &str) {
        let said = format!("{}{}", self.stdout, self.stderr);
        assert_eq!(self.code, code, "{said}");
        assert!(said.contains(words), "nothing says {words:?}:\n{said}");
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A command that goes on.
pub(crate) fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until something holds; the test fails where it does not for long.
#[track_caller]
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "it never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn exists(host: &Host, path: &str) -> bool {
    host.root().join(Path::new(path).strip_prefix("/").unwrap()).exists()
}

fn olbake() -> PathBuf {
    std::env::var_os("OLBAKE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_olbake").into(), PathBuf::from)
}

fn agent() -> PathBuf {
    std::env::var_os("OLBAKE_AGENT").map(PathBuf::from).unwrap_or_default()
}

const IMAGE: &str = r#"
image(name = "box", base = debian("bookworm"), components = [use("//components/thing")])
"#;
