//! Baked disks that instances start from: one file and one read-only mount for all instances of a digest.
//!
//! The mount lies where it outlives the command; the file is a copy that shares the blocks of the cache's where
//! that is possible, so that the cache may forget it.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_engine::machine::MachineError;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::place::{Place, make_folder};
use super::{CloudError, Kind, instance};
use crate::copy::copy_disk;
use crate::disk::root_partition;
use crate::host::io_error;
use crate::mount::outside;

const DISK: &str = "disk.raw";
const ROOT: &str = "root";

/// Keeps a disk, whatever becomes of `from`, and returns it.
pub(super) fn keep(place: &Place, digest: Digest, from: &Utf8Path) -> Result<Utf8PathBuf, CloudError> {
    let _held = place.lock(Kind::Disk, &digest.hex())?;
    let folder = place.of(Kind::Disk, &digest.hex());
    let disk = folder.join(DISK);
    if !disk.exists() {
        make_folder(&folder)?;
        let new = folder.join("disk.new");
        super::place::remove(&new)?;
        // The cache never writes to a disk that it has finished.
        if fs::hard_link(from, &new).is_err() {
            copy_disk(from, &new)?;
        }
        fs::rename(&new, &disk).map_err(io_error("cannot make", &disk))?;
    }
    Ok(disk)
}

/// Where the root file system of a kept disk is, mounted read-only.
pub(super) fn mounted(place: &Place, digest: Digest) -> Result<Utf8PathBuf, CloudError> {
    let _held = place.lock(Kind::Disk, &digest.hex())?;
    let folder = place.of(Kind::Disk, &digest.hex());
    let root = folder.join(ROOT);
    make_folder(&root)?;
    if !is_mounted(&root)? {
        let disk = folder.join(DISK);
        let (offset, size) = root_partition(&disk)?;
        let options = format!("loop,offset={offset},sizelimit={size},noatime,nodev,ro");
        outside("mount").args(["-t", "ext4", "-o", &options, disk.as_str(), root.as_str()]).run()?;
    }
    Ok(root)
}

/// Lets go of a disk that no instance starts from.
pub(super) fn forget(place: &Place, digest: Digest) -> Result<(), CloudError> {
    let _held = place.lock(Kind::Disk, &digest.hex())?;
    if is_used(place, &digest.hex())? { Ok(()) } else { remove(place, &digest.hex()) }
}

/// Whether an instance starts from a disk.
pub(super) fn is_used(place: &Place, disk: &str) -> Result<bool, CloudError> {
    for id in place.ids(Kind::Instance)? {
        if instance::uses(place, &id, disk)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Unmounts a disk and removes it.
pub(super) fn remove(place: &Place, name: &str) -> Result<(), CloudError> {
    let folder = place.of(Kind::Disk, name);
    let root = folder.join(ROOT);
    if root.exists() {
        unmount_everywhere(&root)?;
    }
    place.remove(Kind::Disk, name)
}

/// Where mounts outlive this process, and from this process's own view, which may have been taken before. Lazily: what
/// still looks at it, another command's namespace, has it until it lets go.
pub(super) fn unmount_everywhere(root: &Utf8Path) -> Result<(), CloudError> {
    while is_mounted(root)? {
        outside("umount").args(["--lazy", root.as_str()]).run()?;
    }
    loop {
        match unmount(root.as_str(), UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(io_error("cannot unmount", root)(error.into()).into()),
        }
    }
}

/// Every disk kept.
pub(super) fn all(place: &Place) -> Result<Vec<String>, CloudError> {
    let folder = place.folder().join(Kind::Disk.folder());
    let entries = match folder.read_dir_utf8() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("cannot read", &folder))?,
    };
    Ok(entries.flatten().map(|entry| entry.file_name().to_owned()).collect())
}

fn is_mounted(root: &Utf8Path) -> Result<bool, MachineError> {
    let (status, _) = outside("mountpoint").args(["--quiet", root.as_str()]).try_run()?;
    Ok(status.success())
}
