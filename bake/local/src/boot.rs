//! What makes a disk boot: systemd-boot, kernel and initrd of the root file system on the EFI system partition.
//!
//! The partition is written from nothing whenever it does not hold exactly what the root file system has, with
//! fixed identities and times: the same root file system gives the same bytes.

use std::fs::{File, OpenOptions};
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::plan::Architecture;
use olbake_engine::machine::MachineError;
use rustix::fs::{FallocateFlags, fallocate};

use crate::disk::{Layout, unusable};
use crate::host::{HostCommand, io_error};
use crate::mount::{Access, mount_root};

/// The time that files on the EFI system partition bear: 2020-01-01, as FAT knows none before 1980.
const FAT_TIME: &str = "1577836800";

/// A file of the EFI system partition: its path there, and its content.
struct BootFile {
    path: String,
    content: Vec<u8>,
}

/// Makes a disk bootable. The root file system is only read.
pub(crate) fn finish(
    disk: &Utf8Path,
    work_dir: &Utf8Path,
    architecture: Architecture,
) -> Result<(), MachineError> {
    let layout = Layout::read(disk)?;
    let root = mount_root(disk, &work_dir.join("root"), Access::ReadOnly)?;
    let wanted = boot_files(root.directory(), &layout, architecture);
    root.close()?;
    let Some(wanted) = wanted? else {
        return boots_its_own_way(disk, &layout, architecture);
    };
    if holds(disk, &layout, &wanted) { Ok(()) } else { write_esp(disk, &layout, &wanted) }
}

/// What the partition is to hold; `None`: the root file system does not boot with systemd-boot.
fn boot_files(
    root: &Utf8Path,
    layout: &Layout,
    architecture: Architecture,
) -> Result<Option<Vec<BootFile>>, MachineError> {
    let suffix = efi_suffix(architecture);
    let loader = root.join(format!("usr/lib/systemd/boot/efi/systemd-boot{suffix}.efi"));
    let Some((kernel, initrd)) = newest_kernel(&root.join("boot"))? else { return Ok(None) };
    if !loader.is_file() {
        return Ok(None);
    }
    let loader = read(&loader)?;
    let file = |path: &str, content: Vec<u8>| BootFile { path: path.to_owned(), content };
    Ok(Some(vec![
        file(&format!("EFI/BOOT/BOOT{}.EFI", suffix.to_uppercase()), loader.clone()),
        file(&format!("EFI/systemd/systemd-boot{suffix}.efi"), loader),
        file("loader/loader.conf", b"timeout 0\neditor no\n".to_vec()),
        file("loader/entries/olbake.conf", entry(layout, architecture).into_bytes()),
        file("olbake/vmlinuz", read(&kernel)?),
        file("olbake/initrd.img", read(&initrd)?),
    ]))
}

/// The kernel writes to the screen and, last and so first for systemd, to the serial port, which is what EC2 keeps
/// and what QEMU logs.
fn entry(layout: &Layout, architecture: Architecture) -> String {
    let serial = match architecture {
        Architecture::Amd64 => "ttyS0,115200n8",
        Architecture::Arm64 => "ttyAMA0,115200n8",
    };
    format!(
        "title Linux\nlinux /olbake/vmlinuz\ninitrd /olbake/initrd.img\n\
         options root=PARTUUID={} ro console=tty0 console={serial} loglevel=4\n",
        layout.root.id
    )
}

fn efi_suffix(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "x64",
        Architecture::Arm64 => "aa64",
    }
}

/// The newest kernel that has an initrd.
fn newest_kernel(boot: &Utf8Path) -> Result<Option<(Utf8PathBuf, Utf8PathBuf)>, MachineError> {
    let entries = match boot.read_dir_utf8() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(io_error("cannot read", boot))?,
    };
    let versions = entries.filter_map(Result::ok).filter_map(|entry| {
        let version = entry.file_name().strip_prefix("vmlinuz-")?.to_owned();
        boot.join(format!("initrd.img-{version}")).is_file().then_some(version)
    });
    let newest = versions.max_by_key(|version| version_key(version));
    Ok(newest
        .map(|version| (boot.join(format!("vmlinuz-{version}")), boot.join(format!("initrd.img-{version}")))))
}

/// Orders versions by their numbers, then by the text between them: 6.1.0-9 is before 6.1.0-10.
fn version_key(version: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = version;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (text, next) = after.split_at(end);
        parts.push((number.parse().unwrap_or(0), text.to_owned()));
        rest = next;
    }
    parts
}

fn read(path: &Utf8Path) -> Result<Vec<u8>, MachineError> {
    std::fs::read(path).map_err(io_error("cannot read", path))
}

/// Whether the partition holds these files, and nothing else is asked.
fn holds(disk: &Utf8Path, layout: &Layout, wanted: &[BootFile]) -> bool {
    let image = image(disk, layout);
    wanted.iter().all(|file| {
        let found = mtools("mtype").args(["-i", &image, &format!("::/{}", file.path)]).run();
        found.is_ok_and(|bytes| bytes == file.content)
    })
}

/// A disk that came with a boot loader of its own keeps it.
fn boots_its_own_way(
    disk: &Utf8Path,
    layout: &Layout,
    architecture: Architecture,
) -> Result<(), MachineError> {
    let loader = format!("::/EFI/BOOT/BOOT{}.EFI", efi_suffix(architecture).to_uppercase());
    let found = mtools("mtype").args(["-i", &image(disk, layout), &loader]).run();
    found.map(drop).map_err(|_| {
        unusable(
            disk,
            "its root file system has no kernel with an initrd or no systemd-boot, \
             and its EFI system partition has no boot loader",
        )
    })
}

fn write_esp(disk: &Utf8Path, layout: &Layout, files: &[BootFile]) -> Result<(), MachineError> {
    let needed: usize = files.iter().map(|file| file.content.len()).sum();
    if needed as u64 > layout.esp.size * 9 / 10 {
        return Err(unusable(
            disk,
            format!("its EFI system partition is too small for {needed} bytes of kernel"),
        ));
    }
    empty_esp(disk, layout)?;
    let image = image(disk, layout);
    // One by one and in this order: the order of entries is part of the bytes.
    mtools("mmd").args(["-i", &image]).args(folders(files)).run()?;
    files.iter().try_for_each(|file| {
        let copy = mtools("mcopy").args(["-i", &image, "-Q", "-", &format!("::/{}", file.path)]);
        copy.input(file.content.clone()).run().map(drop)
    })
}

/// The folders of some files, as mtools names them, each after the one it is in.
fn folders(files: &[BootFile]) -> Vec<String> {
    let mut folders: Vec<String> = Vec::new();
    for file in files {
        for (end, _) in file.path.match_indices('/') {
            let folder = format!("::/{}", &file.path[..end]);
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders
}

/// A new, empty file system: what was there before leaves no trace between the files.
fn empty_esp(disk: &Utf8Path, layout: &Layout) -> Result<(), MachineError> {
    let esp = &layout.esp;
    let file: File = OpenOptions::new().write(true).open(disk).map_err(io_error("cannot open", disk))?;
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, esp.offset, esp.size)
        .map_err(|error| io_error("cannot clear the EFI system partition of", disk)(error.into()))?;
    let (serial, _) = esp.id.as_bytes().split_first_chunk::<4>().expect("an identity has 16 bytes");
    HostCommand::new("mkfs.fat")
        // Clusters small enough that there are as many as FAT32 must have at least: mtools holds it to that.
        .args([
            "-F",
            "32",
            "-s",
            "4",
            "-n",
            "ESP",
            "--invariant",
            "-i",
            &format!("{:08x}", u32::from_be_bytes(*serial)),
        ])
        .args([format!("--offset={}", esp.offset / 512), disk.to_string(), (esp.size / 1024).to_string()])
        .run()
        .map(drop)
}

fn image(disk: &Utf8Path, layout: &Layout) -> String {
    format!("{disk}@@{}", layout.esp.offset)
}

/// A command of mtools, with a fixed clock.
fn mtools(tool: &'static str) -> HostCommand {
    HostCommand::new(tool).env("SOURCE_DATE_EPOCH", FAT_TIME).env("TZ", "UTC").env("MTOOLSRC", "/dev/null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let mut versions =
            ["6.1.0-10-cloud-amd64", "6.1.0-9-cloud-amd64", "6.12.0-1-cloud-amd64", "6.1.0-10-amd64"];
        versions.sort_by_key(|version| version_key(version));
        assert_eq!(
            versions,
            ["6.1.0-9-cloud-amd64", "6.1.0-10-amd64", "6.1.0-10-cloud-amd64", "6.12.0-1-cloud-amd64"]
        );
    }

    #[test]
    fn the_newest_kernel_with_an_initrd_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let boot = Utf8Path::from_path(folder.path()).unwrap();
        assert_eq!(newest_kernel(boot).unwrap(), None);
        for name in ["vmlinuz-6.1.0-9", "initrd.img-6.1.0-9", "vmlinuz-6.1.0-10", "config-6.1.0-10"] {
            std::fs::write(boot.join(name), name).unwrap();
        }
        assert_eq!(newest_kernel(boot).unwrap().unwrap().0, boot.join("vmlinuz-6.1.0-9"));
    }
}
