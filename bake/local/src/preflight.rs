//! What the host must have, told at once and with the Debian package that brings it.

use std::path::Path;

use olbake_core::plan::Architecture;
use olbake_engine::machine::{MachineError, Substrate};

use crate::host::find_tool;

/// Commands every builder needs, and their packages.
const COMMON: &[(&str, &str)] = &[
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("losetup", "mount"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("fstrim", "util-linux"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.fat", "dosfstools"),
    ("mcopy", "mtools"),
    ("mmd", "mtools"),
    ("tar", "tar"),
    ("mmdebstrap", "mmdebstrap"),
    ("systemd-nspawn", "systemd-container"),
];

/// Commands that a local cloud needs besides.
const CLOUD: &[(&str, &str)] = &[
    ("haproxy", "haproxy"),
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("flock", "util-linux"),
    ("setsid", "util-linux"),
    ("mountpoint", "util-linux"),
];

/// Commands that machines on disks of their own need besides.
const DISK_MACHINES: &[(&str, &str)] = &[
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("e2fsck", "e2fsprogs"),
    ("resize2fs", "e2fsprogs"),
    ("fsfreeze", "util-linux"),
    ("setsid", "util-linux"),
];

/// Commands that only some things need; their absence is told when they are used.
const OPTIONAL: &[(&str, &str)] = &[("qemu-img", "qemu-utils"), ("zstd", "zstd")];

/// QEMU for machines of an architecture, and its firmware: code and variables.
pub(crate) fn emulator(architecture: Architecture) -> (&'static str, &'static str) {
    match architecture {
        Architecture::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Architecture::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
    }
}

/// The UEFI firmware's code and the template of its variables.
pub(crate) fn firmware(architecture: Architecture) -> Option<(&'static Path, &'static Path)> {
    let candidates: &[(&str, &str)] = match architecture {
        Architecture::Amd64 => &[
            ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
            ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
        ],
        Architecture::Arm64 => &[("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd")],
    };
    candidates
        .iter()
        .map(|(code, variables)| (Path::new(*code), Path::new(*variables)))
        .find(|(code, variables)| code.is_file() && variables.is_file())
}

fn firmware_package(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "ovmf",
        Architecture::Arm64 => "qemu-efi-aarch64",
    }
}

/// The error for a command that is not there.
pub(crate) fn missing(tool: &str) -> MachineError {
    let emulators = [emulator(Architecture::Amd64), emulator(Architecture::Arm64)];
    let package = COMMON.iter().chain(CLOUD).chain(DISK_MACHINES).chain(OPTIONAL).chain(&emulators);
    let package = { package }.find(|(name, _)| *name == tool);
    MachineError::Host {
        message: format!("`{tool}` is not installed"),
        help: package.map(|(_, package)| format!("apt-get install {package}")),
    }
}

/// Everything that is missing for machines of this kind.
pub(crate) fn check(architecture: Architecture, substrate: Substrate) -> Result<(), Vec<MachineError>> {
    let mut errors = not_root();
    let emulator = [emulator(architecture)];
    let of_vm: &[(&str, &str)] = if substrate == Substrate::Vm { &emulator } else { &[] };
    errors.extend(
        COMMON
            .iter()
            .chain(of_vm)
            .filter(|(tool, _)| find_tool(tool).is_none())
            .map(|(tool, _)| missing(tool)),
    );
    if substrate == Substrate::Vm && firmware(architecture).is_none() {
        errors.push(MachineError::Host {
            message: "no UEFI firmware for QEMU is installed".to_owned(),
            help: Some(format!("apt-get install {}", firmware_package(architecture))),
        });
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Everything that is missing for a local cloud of containers.
pub(crate) fn check_cloud() -> Result<(), Vec<MachineError>> {
    check_tools(COMMON.iter().chain(CLOUD))
}

/// Everything that is missing for machines on disks of their own, and load balancers in front of them.
pub(crate) fn check_disk_machines() -> Result<(), Vec<MachineError>> {
    check_tools(COMMON.iter().chain(CLOUD).chain(DISK_MACHINES))
}

fn check_tools<'a>(
    tools: impl Iterator<Item = &'a (&'static str, &'static str)>,
) -> Result<(), Vec<MachineError>> {
    let mut errors = not_root();
    errors.extend(tools.filter(|(tool, _)| find_tool(tool).is_none()).map(|(tool, _)| missing(tool)));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn not_root() -> Vec<MachineError> {
    if rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    vec![MachineError::Host {
        message: "mounting disks and starting machines needs root".to_owned(),
        help: Some("run the same command with sudo".to_owned()),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_its_package() {
        let MachineError::Host { message, help } = missing("systemd-nspawn") else { unreachable!() };
        assert_eq!(message, "`systemd-nspawn` is not installed");
        assert_eq!(help.as_deref(), Some("apt-get install systemd-container"));
    }
}
