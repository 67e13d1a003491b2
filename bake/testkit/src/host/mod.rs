//! A host to work on over SSH: a Debian with systemd and an SSH server, booted in a container with a network of its own.
//!
//! Its root file system is made once by mmdebstrap and kept in `/var/tmp`; every host begins as an overlay of it, so all
//! begin in the same state. `root` and `ops` (who may use sudo) let the key of [`Host::identity`] in, and `guest` too, who
//! may not use sudo; the key of the host is in [`Host::known_hosts`]. Main types: [`Host`], [`Relay`].

mod relay;
mod root;

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use relay::Relay;

/// Directories, network namespaces and control groups of hosts begin with this, the process and a number.
const PREFIX: &str = "olbake-host-";
/// How long a host may take to boot.
const BOOT: Duration = Duration::from_secs(60);

/// Enters control groups, as many as its first argument says, and runs the rest as often as the container boots again,
/// which nspawn says by its exit code. All ends with this shell.
const KEEPER: &str = "\
count=$1; shift
while [ $count -gt 0 ]; do echo 0 >\"$1\"; shift; count=$((count - 1)); done
code=133
while [ $code = 133 ]; do
  code=0
  setpriv --pdeathsig KILL -- unshare --pid --fork --kill-child=KILL --mount-proc --propagation slave -- \"$@\" || code=$?
done";

/// A running host, gone when this is dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    directory: PathBuf,
    address: Ipv4Addr,
    process: Option<Child>,
}

/// What is missing for hosts here; none: nothing.
pub fn lacking() -> Option<String> {
    let programs = ["mmdebstrap", "systemd-nspawn", "ip", "ssh", "ssh-keygen", "unshare", "setpriv", "mount"];
    let missing = |program: &&str| !succeeds("sh", &["-c", &format!("command -v {program}")]);
    if !succeeds("sh", &["-c", "test \"$(id -u)\" = 0"]) {
        return Some("it needs root".to_owned());
    }
    programs.iter().find(|program| missing(program)).map(|program| format!("it needs {program}"))
}

impl Host {
    /// Boots one and waits until it answers and systemd is up.
    pub fn start() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep();
        let (root, turn) = root::kept()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let directory = Path::new("/var/tmp").join(&name);
        fs::create_dir(&directory)?;
        let mut host = Self { address: free_address()?, name, directory, process: None };
        host.mount(&root)?;
        host.keys()?;
        host.network()?;
        drop(turn);
        host.process = Some(host.boot()?);
        host.wait()?;
        Ok(host)
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The private key that it lets in.
    pub fn identity(&self) -> PathBuf {
        self.directory.join("key")
    }

    /// A file of known hosts with its key, for its address and for relays on the loopback interface.
    pub fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    /// Its public key.
    pub fn host_key(&self) -> io::Result<String> {
        let text = fs::read_to_string(self.root().join("etc/ssh/ssh_host_ed25519_key.pub"))?;
        Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
    }

    /// Its root file system.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// A command on it, over SSH as root.
    pub fn ssh(&self, command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR"])
            .args(["-o", "GlobalKnownHostsFile=none", "-o"])
            .arg(format!("UserKnownHostsFile={}", self.known_hosts().display()))
            .args(["-F", "none", "-i"])
            .arg(self.identity())
            .args([&format!("root@{}", self.address), command])
            .stdin(Stdio::null());
        ssh
    }

    /// What a command on it says, which must succeed.
    pub fn says(&self, command: &str) -> io::Result<String> {
        said(&mut self.ssh(command))
    }

    fn mount(&self, lower: &Path) -> io::Result<()> {
        for name in ["upper", "work", "root"] {
            fs::create_dir(self.directory.join(name))?;
        }
        let of = |name: &str| self.directory.join(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), of("upper"), of("work"));
        said(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options, &of("root")])).map(drop)
    }

    fn keys(&self) -> io::Result<()> {
        let identity = self.identity();
        said(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "of a test", "-f"])
                .arg(&identity),
        )?;
        let public = fs::read(identity.with_extension("pub"))?;
        for home in ["root", "home/ops", "home/guest"] {
            let keys = self.root().join(home).join(".ssh/authorized_keys");
            fs::create_dir_all(keys.parent().unwrap_or(&keys))?;
            fs::write(keys, &public)?;
        }
        let key = self.host_key()?;
        fs::write(self.known_hosts(), format!("{} {key}\n[127.0.0.1]:* {key}\n", self.address))
    }

    fn network(&self) -> io::Result<()> {
        let name = &self.name;
        let link = self.link();
        let [a, b, c, d] = self.address.octets();
        let gateway = format!("{a}.{b}.{c}.{}/30", d - 1);
        let script = format!(
            "ip netns add {name}; ip link add {link} type veth peer name host0 netns {name}; \
             ip addr add {gateway} dev {link}; ip link set {link} up; ip -n {name} link set lo up; \
             ip -n {name} addr add {}/30 dev host0; ip -n {name} link set host0 up",
            self.address
        );
        said(Command::new("sh").args(["-ec", &script])).map(drop)
    }

    /// The name of the link's end here; the kernel's names are short.
    fn link(&self) -> String {
        let [_, _, c, d] = self.address.octets();
        format!("olbh{c}-{d}")
    }

    fn boot(&self) -> io::Result<Child> {
        let lists: Vec<String> =
            groups(&self.name).into_iter().map(|group| format!("{}/cgroup.procs", group.display())).collect();
        for group in groups(&self.name) {
            fs::create_dir_all(group)?;
        }
        let console = File::create(self.directory.join("console"))?;
        Command::new("sh")
            .args(["-ec", KEEPER, "sh", &lists.len().to_string()])
            .args(lists)
            .args([
                "systemd-nspawn",
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--settings=no",
                "--resolv-conf=off",
            ])
            .args(["--timezone=off", "--link-journal=no", "--boot", "--console=read-only"])
            .arg(format!("--directory={}", self.root().display()))
            .arg(format!("--machine={}", self.name))
            .arg(format!("--network-namespace-path=/run/netns/{}", self.name))
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
    }

    fn wait(&mut self) -> io::Result<()> {
        let end = Instant::now() + BOOT;
        loop {
            let state = self.ssh("systemctl is-system-running --wait").output()?;
            if String::from_utf8_lossy(&state.stdout).trim() == "running" {
                return Ok(());
            }
            if Instant::now() > end {
                let console = fs::read_to_string(self.directory.join("console")).unwrap_or_default();
                return Err(io::Error::other(format!("the host did not boot: {state:?}\n{console}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Fails only for one that has ended.
            process.kill().ok();
            process.wait().ok();
        }
        remove(&self.name);
    }
}

/// Removes all that a host has, by its name.
fn remove(name: &str) {
    let directory = Path::new("/var/tmp").join(name);
    let kill = |group: PathBuf| {
        format!(
            "find {} -name cgroup.procs -exec cat {{}} + 2>/dev/null | xargs -r kill -9 2>/dev/null; ",
            group.display()
        )
    };
    let kill: String = groups(name).into_iter().map(kill).collect();
    let script = format!(
        "{kill} umount -l {0}/root 2>/dev/null; ip netns del {name} 2>/dev/null; rm -rf {0}; \
         rmdir /run/systemd/nspawn/propagate/{name} /run/systemd/nspawn/unix-export/{name} 2>/dev/null; true",
        directory.display()
    );
    drop(Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).status());
    for group in groups(name) {
        for _ in 0..100 {
            if remove_tree(&group).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Removes a control group and those in it.
fn remove_tree(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes hosts whose process is gone.
fn sweep() {
    for entry in fs::read_dir("/var/tmp").into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            remove(&name);
        }
    }
}

/// The control groups of a host, in the hierarchies that nspawn looks at.
fn groups(name: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top.join(name)];
    }
    let hierarchies = ["unified", "systemd"].map(|hierarchy| top.join(hierarchy));
    hierarchies
        .into_iter()
        .filter(|hierarchy| hierarchy.is_dir())
        .map(|hierarchy| hierarchy.join(name))
        .collect()
}

/// An address whose little network nobody uses here.
fn free_address() -> io::Result<Ipv4Addr> {
    let used = said(Command::new("ip").args(["-4", "-o", "addr"]))?;
    let start = std::process::id() as usize;
    (0..64 * 256)
        .map(|offset| (start + offset) % (64 * 256))
        .map(|number| ((number / 64) as u8, (number % 64) as u8 * 4))
        .find(|(c, d)| !used.contains(&format!(" 10.231.{c}.{}/", d + 1)))
        .map(|(c, d)| Ipv4Addr::new(10, 231, c, d + 2))
        .ok_or_else(|| io::Error::other("no network is free"))
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    quiet.is_ok_and(|output| output.status.success())
}

/// What a command says, which must succeed.
fn said(command: &mut Command) -> io::Result<String> {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output()?;
    if !status.success() {
        let text = String::from_utf8_lossy(&stderr).into_owned();
        return Err(io::Error::other(format!("{command:?}: {status}: {text}")));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
