//! What a boot needs to know of its surroundings: that there is no cloud, no network and, in a container, no disk.
//!
//! None of it gets into an image: a container sees the units in `/run`, and cloud-init's data is only written to
//! copies that are thrown away.

use std::fs;

use camino::Utf8Path;
use olbake_engine::machine::{INSTANCE_FILE, MachineError};

use crate::host::io_error;
use crate::nspawn::Network;

const META_DATA: &str = "instance-id: olbake-fresh\nlocal-hostname: localhost\n";
const USER_DATA: &str = "#cloud-config\n{}\n";
const NETWORK_CONFIG: &str = "config: disabled\n";

/// Units that wait for a network: they say at once that it is as far as it will get.
const WAITERS: [&str; 2] = ["systemd-networkd-wait-online.service", "NetworkManager-wait-online.service"];
const NO_WAIT: &str = "[Service]\nExecStart=\nExecStart=/bin/true\n";

/// The root file system is mounted by olbake; where the disk would be, there is nothing to mount again.
const REMOUNT: &str = "systemd-remount-fs.service";
/// On the host's network, the host's name servers are asked, and its addresses are its own.
const RESOLVER: &str = "systemd-resolved.service";
const NOT_IN_CONTAINER: &str = "[Unit]\nConditionVirtualization=!container\n";

/// Where a machine looks for units that do not stay.
pub(crate) const RUNTIME_UNITS: &str = "/run/systemd/system";

/// Writes the units that a booted container gets at [`RUNTIME_UNITS`] to a folder.
pub(crate) fn container_units(folder: &Utf8Path, network: Network) -> Result<(), MachineError> {
    write(&folder.join(format!("{REMOUNT}.d/olbake.conf")), NOT_IN_CONTAINER)?;
    if network == Network::Host {
        write(&folder.join(format!("{RESOLVER}.d/olbake.conf")), NOT_IN_CONTAINER)?;
    }
    no_waiting(folder)
}

/// Has units below a folder not wait for a network.
pub(crate) fn no_waiting(folder: &Utf8Path) -> Result<(), MachineError> {
    WAITERS.iter().try_for_each(|unit| write(&folder.join(format!("{unit}.d/olbake.conf")), NO_WAIT))
}

/// Tells cloud-init, where a root file system has it, that there is no cloud to look for.
pub(crate) fn no_cloud(root: &Utf8Path) -> Result<(), MachineError> {
    if !root.join("usr/bin/cloud-init").exists() {
        return Ok(());
    }
    let folder = root.join("var/lib/cloud/seed/nocloud");
    let files = [("meta-data", META_DATA), ("user-data", USER_DATA), ("network-config", NETWORK_CONFIG)];
    files.into_iter().try_for_each(|(name, content)| write(&folder.join(name), content))
}

/// Tells a machine which image it runs.
pub(crate) fn identity(root: &Utf8Path, instance: Option<&str>) -> Result<(), MachineError> {
    let path = root.join(INSTANCE_FILE.trim_start_matches('/'));
    instance.map_or(Ok(()), |instance| write(&path, instance))
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: &Utf8Path, content: impl AsRef<[u8]>) -> Result<(), MachineError> {
    let folder = path.parent().expect("a file of a root file system has a folder");
    fs::create_dir_all(folder).map_err(io_error("cannot make", folder))?;
    fs::write(path, content).map_err(io_error("cannot write", path))
}
