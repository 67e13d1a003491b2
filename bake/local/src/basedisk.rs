//! A base that is a disk in a file, raw or qcow2.

use std::fs::{self, File};
use std::io::Read;

use camino::Utf8Path;
use olbake_engine::machine::MachineError;

use crate::copy::copy_disk;
use crate::disk::Layout;
use crate::host::{HostCommand, io_error};

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// Makes a raw disk of the file; it must have an EFI system partition and an ext4 root file system.
pub(crate) fn import(file: &Utf8Path, disk: &Utf8Path) -> Result<(), MachineError> {
    if is_qcow2(file)? {
        HostCommand::new("qemu-img")
            .args(["convert", "-f", "qcow2", "-O", "raw", "-S", "4k"])
            .args([file.as_str(), disk.as_str()])
            .run()?;
    } else {
        copy_disk(file, disk)?;
    }
    Layout::read(disk).map(drop).map_err(|error| {
        // Nobody is to take it for a disk later.
        fs::remove_file(disk).ok();
        match error {
            MachineError::Disk { problem, .. } => MachineError::Disk { path: file.to_owned(), problem },
            error => error,
        }
    })
}

fn is_qcow2(file: &Utf8Path) -> Result<bool, MachineError> {
    let mut magic = [0; 4];
    let mut opened = File::open(file).map_err(io_error("cannot open", file))?;
    // A file shorter than that is no disk at all, which is told later.
    Ok(opened.read_exact(&mut magic).is_ok() && magic == QCOW2_MAGIC)
}
