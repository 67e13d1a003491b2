//! Installs what olbake drives on a Debian host: the same tools that `olbake` names when one is missing.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// A program and the package that has it.
const TOOLS: [(&str, &str); 19] = [
    ("systemd-nspawn", "systemd-container"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("mkfs.fat", "dosfstools"),
    ("mcopy", "mtools"),
    ("sgdisk", "gdisk"),
    ("ip", "iproute2"),
    ("haproxy", "haproxy"),
    ("dnsmasq", "dnsmasq-base"),
    ("nft", "nftables"),
    ("ssh", "openssh-client"),
    ("cc", "gcc"),
    ("zstd", "zstd"),
    ("python3", "python3"),
    ("setpriv", "util-linux"),
    ("openssl", "openssl"),
];

/// Files that are no programs.
const FILES: [(&str, &str); 1] = [("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf")];

/// Where PostgreSQL's servers are, each in a folder of its major version: tests run one of their own.
const SERVERS: &str = "/usr/lib/postgresql";

/// Installs what is missing.
pub(crate) fn run() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root()? {
        bail!(
            "these packages are missing, and only root can install them: apt-get install {}",
            missing.join(" ")
        );
    }
    eprintln!("installing {}", missing.join(" "));
    apt(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&missing);
    apt(&arguments)
}

fn missing() -> Vec<&'static str> {
    let directories = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = |program: &str| {
        directories.split(':').any(|directory| std::path::Path::new(directory).join(program).exists())
    };
    let tools = TOOLS.iter().filter(|(program, _)| !found(program));
    let files = FILES.iter().filter(|(file, _)| !std::path::Path::new(file).exists());
    let mut packages: Vec<&str> = tools.chain(files).map(|(_, package)| *package).collect();
    if !has_postgresql() {
        packages.push("postgresql");
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn has_postgresql() -> bool {
    let mut versions = std::fs::read_dir(SERVERS).into_iter().flatten().filter_map(Result::ok);
    versions.any(|version| version.path().join("bin/initdb").exists())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::process::Stdio::null())
        .status()
        .context("cannot run `apt-get`: olbake's tools come from Debian's packages")?;
    if !status.success() {
        bail!("`apt-get {}` failed", arguments.join(" "));
    }
    Ok(())
}

/// Whether this process is root's.
pub(crate) fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read `/proc/self/status`")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    Ok(effective == Some("0"))
}
