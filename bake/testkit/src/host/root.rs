//! The root file system that hosts begin with, made once.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::said;

/// Goes up when what is below changes.
const VERSION: u32 = 1;
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,openssh-server,sudo,python3-minimal,python3-apt,\
                        ca-certificates,procps";
const KEPT: &str = "/var/tmp/olbake-host-kept";

/// Its directory, which is not to be changed, and a lock: who has it may choose an address.
pub(super) fn kept() -> io::Result<(PathBuf, File)> {
    fs::create_dir_all(KEPT)?;
    let lock = File::create(Path::new(KEPT).join("lock"))?;
    lock.lock()?;
    let root = Path::new(KEPT).join(format!("bookworm-{VERSION}"));
    if !root.is_dir() {
        let new = Path::new(KEPT).join("new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        make(&new)?;
        fs::rename(&new, &root)?;
    }
    Ok((root, lock))
}

fn make(root: &Path) -> io::Result<()> {
    said(
        Command::new("mmdebstrap")
            .args([
                "--quiet",
                "--mode=root",
                "--variant=minbase",
                "--format=directory",
                "--dpkgopt=force-unsafe-io",
            ])
            .arg(format!("--include={PACKAGES}"))
            .arg("bookworm")
            .arg(root),
    )?;
    for user in ["ops", "guest"] {
        said(Command::new("chroot").arg(root).args(["/usr/sbin/useradd", "-m", "-s", "/bin/bash", user]))?;
    }
    let rule = root.join("etc/sudoers.d/ops");
    fs::write(&rule, "ops ALL=(ALL) NOPASSWD: ALL\n")?;
    fs::set_permissions(&rule, fs::Permissions::from_mode(0o440))?;
    // Every command over SSH leaves a line in the journal, for tests to count.
    fs::write(root.join("etc/ssh/sshd_config.d/test.conf"), "LogLevel VERBOSE\nUseDNS no\n")?;
    fs::write(root.join("etc/hostname"), "host\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost host\n::1 localhost\n")?;
    // What would only wait for a network that is there already.
    for unit in ["systemd-networkd-wait-online.service", "apt-daily.timer", "apt-daily-upgrade.timer"] {
        said(Command::new("ln").arg("-sf").arg("/dev/null").arg(root.join("etc/systemd/system").join(unit)))?;
    }
    Ok(())
}
