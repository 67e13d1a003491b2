//! The others: a floor by hand, and what PyPI has.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use olbake_testkit::host::Host;

use super::super::process;

/// What is installed, from PyPI. mitogen says which ansible it works with.
const PACKAGES: [&str; 3] = ["pyinfra==3.10.0", "ansible-core==2.18.19", "mitogen==0.3.54"];

/// A Python environment with the others, kept for the next time.
pub(super) struct Peers {
    environment: Utf8PathBuf,
}

impl Peers {
    pub(super) fn install() -> Result<Self> {
        let home = std::env::var("HOME").context("HOME is not set")?;
        let environment = Utf8PathBuf::from(home).join(".cache/olbake/peers");
        let peers = Self { environment };
        let mark = peers.environment.join("installed");
        let wanted = PACKAGES.join("\n");
        if fs::read_to_string(&mark).ok().as_ref() != Some(&wanted) {
            process::run(Command::new("python3").args([
                "-m",
                "venv",
                "--clear",
                peers.environment.as_str(),
            ]))?;
            process::run(Command::new(peers.program("pip")).args(["install", "--quiet"]).args(PACKAGES))?;
            fs::write(&mark, wanted)?;
        }
        Ok(peers)
    }

    fn program(&self, name: &str) -> Utf8PathBuf {
        self.environment.join("bin").join(name)
    }

    /// Seconds that pyinfra takes.
    pub(super) fn pyinfra(&self, host: &Host) -> Result<f64> {
        let folder = Folder::of(&[("deploy.py", include_str!("deploy.py"))])?;
        let inventory = format!(
            "hosts = [({:?}, {{\"ssh_user\": \"root\", \"ssh_key\": {:?}, \"ssh_known_hosts_file\": {:?}, \
             \"ssh_strict_host_key_checking\": \"yes\"}})]\n",
            host.address().to_string(),
            host.identity(),
            host.known_hosts()
        );
        fs::write(folder.0.join("inventory.py"), inventory)?;
        let mut command = Command::new(self.program("pyinfra"));
        command.args(["-y", "inventory.py", "deploy.py"]).current_dir(&folder.0);
        Ok(process::run(&mut command)?.seconds)
    }

    /// Seconds that ansible takes, with the settings that make it fast.
    pub(super) fn ansible(&self, host: &Host) -> Result<f64> {
        let folder = Folder::of(&[("playbook.yml", include_str!("playbook.yml"))])?;
        Ok(process::run(&mut self.playbook(host, &folder))?.seconds)
    }

    /// The same with mitogen.
    pub(super) fn mitogen(&self, host: &Host) -> Result<f64> {
        let folder = Folder::of(&[("playbook.yml", include_str!("playbook.yml"))])?;
        let libraries = self.environment.join("lib");
        let python = libraries
            .read_dir_utf8()?
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().starts_with("python"));
        let python = python.context("the environment has no Python")?;
        let plugins = python.path().join("site-packages/ansible_mitogen/plugins/strategy");
        let mut command = self.playbook(host, &folder);
        command.env("ANSIBLE_STRATEGY", "mitogen_linear").env("ANSIBLE_STRATEGY_PLUGINS", plugins);
        Ok(process::run(&mut command)?.seconds)
    }

    fn playbook(&self, host: &Host, folder: &Folder) -> Command {
        let known = host.known_hosts().display().to_string();
        let mut command = Command::new(self.program("ansible-playbook"));
        command
            .args(["-i", &format!("{},", host.address()), "-u", "root", "--private-key"])
            .arg(host.identity())
            .arg(format!(
                "--ssh-common-args=-F none -o UserKnownHostsFile={known} -o GlobalKnownHostsFile=none"
            ))
            .arg("playbook.yml")
            .current_dir(&folder.0)
            .env("ANSIBLE_PIPELINING", "True")
            .env("ANSIBLE_PYTHON_INTERPRETER", "/usr/bin/python3")
            .env("ANSIBLE_HOME", folder.0.join("home"))
            .env("ANSIBLE_SSH_CONTROL_PATH_DIR", folder.0.join("c"));
        command
    }
}

/// A folder with the templates, removed at the end.
struct Folder(Utf8PathBuf);

impl Folder {
    fn of(files: &[(&str, &str)]) -> Result<Self> {
        // Sockets are made in it, whose paths must be short.
        let folder = Self(Utf8PathBuf::from(format!("/var/tmp/olbake-peer-{}", std::process::id())));
        fs::create_dir_all(&folder.0)?;
        let templates = [("conf.j2", include_str!("conf.j2")), ("unit.j2", include_str!("unit.j2"))];
        for (name, text) in files.iter().chain(&templates) {
            fs::write(folder.0.join(name), text)?;
        }
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Seconds that the least takes which does the same: finished files as an archive into one ssh, and a script there.
pub(super) fn floor(host: &Host) -> Result<f64> {
    let folder = Folder::of(&[])?;
    let tree = folder.0.join("tree");
    render(&tree)?;
    let began = Instant::now();
    let mut tar = Command::new("tar")
        .args(["-C", tree.as_str(), "--owner=0", "--group=0", "-c", "."])
        .stdout(Stdio::piped())
        .spawn()?;
    let archive = tar.stdout.take().context("tar has no output")?;
    let output = host.ssh(include_str!("floor.sh")).stdin(archive).output()?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(output.status.success() && tar.wait()?.success(), "the floor failed: {output:?}");
    Ok(seconds)
}

fn render(tree: &Utf8Path) -> Result<()> {
    let files = (0..40)
        .map(|n| (n, format!("etc/bench-{}/{n}.conf", n % 10), include_str!("conf.j2")))
        .chain((0..5).map(|n| (n, format!("etc/systemd/system/bench-{n}.service"), include_str!("unit.j2"))));
    for (n, path, template) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(&path, template.replace("{{ n }}", &n.to_string()))?;
        let mode = if path.as_str().ends_with(".conf") { "640" } else { "644" };
        process::run(Command::new("chmod").args([mode, path.as_str()]))?;
    }
    for n in 0..10 {
        process::run(Command::new("chmod").args(["750", tree.join(format!("etc/bench-{n}")).as_str()]))?;
    }
    Ok(())
}
