//! A raw disk in other forms: qcow2, or its root file system as an archive.

use std::fs;

use camino::Utf8Path;
use olbake_engine::machine::MachineError;

use crate::host::{HostCommand, find_tool, io_error};
use crate::mount::{Access, mount_root};
use crate::preflight::missing;

/// Writes a raw disk as qcow2, compressed with Zstandard. A file at `to` is replaced.
pub fn export_qcow2(disk: &Utf8Path, to: &Utf8Path) -> Result<(), MachineError> {
    HostCommand::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"])
        .args([disk.as_str(), to.as_str()])
        .run()
        .map(drop)
}

/// Writes the root file system of a raw disk as a tar archive, compressed with Zstandard, with numeric owners,
/// access control lists and extended attributes. The disk is mounted at `mount_point`, read-only. A file at `to` is
/// replaced.
pub fn export_tar(disk: &Utf8Path, mount_point: &Utf8Path, to: &Utf8Path) -> Result<(), MachineError> {
    if find_tool("zstd").is_none() {
        return Err(missing("zstd"));
    }
    let mounted = mount_root(disk, mount_point, Access::ReadOnly)?;
    let written = HostCommand::new("tar")
        .args(["--create", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*", "--sparse"])
        .args(["--one-file-system", "--sort=name", "--use-compress-program=zstd -T0"])
        .args(["--file", to.as_str(), "--directory", mounted.directory().as_str(), "."])
        .run();
    mounted.close()?;
    fs::remove_dir(mount_point).map_err(io_error("cannot remove", mount_point))?;
    written.map(drop)
}
