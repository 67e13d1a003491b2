//! Disks: how they are laid out, and how a partition of one is found.
//!
//! A disk of olbake's has a GPT with an EFI system partition at 1 MiB and an ext4 root partition from there to
//! the end, both with the types of the Discoverable Partitions Specification. Every identity on it follows from
//! the key of its base, so that the same base has the same identities. Main type: [`Layout`].

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};

use camino::Utf8Path;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{self, Type};
use gpt::{GptConfig, GptDisk};
use olbake_core::Digest;
use olbake_core::plan::Architecture;
use olbake_engine::machine::MachineError;
use uuid::Uuid;

use crate::host::{HostCommand, io_error};

const MIB: u64 = 1024 * 1024;
const SECTOR: u64 = 512;
/// Where the EFI system partition begins.
const ESP_START: u64 = MIB;
/// How large it is.
const ESP_SIZE: u64 = 256 * MIB;
/// The smallest disk that can hold a system.
const SMALLEST: u64 = 1024 * MIB;
/// Where an ext4 superblock has its magic number, and which.
const EXT4_MAGIC: (u64, [u8; 2]) = (1024 + 0x38, [0x53, 0xef]);
/// The root file system's label.
pub(crate) const ROOT_LABEL: &str = "olbake-root";

/// A place on a disk, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// The partition's identity.
    pub(crate) id: Uuid,
}

/// The two partitions that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) esp: Place,
    pub(crate) root: Place,
}

/// Where the root file system is on a disk: offset and size in bytes.
pub fn root_partition(disk: &Utf8Path) -> Result<(u64, u64), MachineError> {
    let Layout { root, .. } = Layout::read(disk)?;
    Ok((root.offset, root.size))
}

impl Layout {
    /// Finds the partitions of a disk: the first EFI system partition, and the first root partition by its type,
    /// or else the largest one with an ext4 file system.
    pub(crate) fn read(disk: &Utf8Path) -> Result<Self, MachineError> {
        let file = File::open(disk).map_err(io_error("cannot open", disk))?;
        let table = GptConfig::new()
            .open_from_device(file)
            .map_err(|error| unusable(disk, format!("it has no GPT that can be read ({error})")))?;
        let mut places = Vec::new();
        for partition in table.partitions().values().filter(|partition| partition.is_used()) {
            places.push((partition.part_type_guid.clone(), Place::of(partition, disk)?));
        }
        let esp = places.iter().find(|(kind, _)| *kind == partition_types::EFI);
        let (_, esp) = esp.ok_or_else(|| unusable(disk, "it has no EFI system partition"))?;
        let typed = places.iter().find(|(kind, place)| is_root(kind) && has_ext4(table.device_ref(), place));
        let largest = || {
            let ext4 = places.iter().filter(|(_, place)| has_ext4(table.device_ref(), place));
            ext4.max_by_key(|(_, place)| place.size)
        };
        let root = typed.or_else(largest);
        let (_, root) = root.ok_or_else(|| unusable(disk, "it has no partition with an ext4 file system"))?;
        Ok(Self { esp: esp.clone(), root: root.clone() })
    }

    /// Makes an empty disk: partitions, and an ext4 root file system. The EFI system partition is left empty.
    pub(crate) fn create(
        disk: &Utf8Path,
        size: u64,
        architecture: Architecture,
        base: Digest,
    ) -> Result<Self, MachineError> {
        if size < SMALLEST {
            return Err(unusable(
                disk,
                format!("{size} bytes are too few for a system: at least {SMALLEST}"),
            ));
        }
        let size = size / MIB * MIB;
        let root_start = ESP_START + ESP_SIZE;
        let layout = Self {
            esp: Place { offset: ESP_START, size: ESP_SIZE, id: identity(base, "esp") },
            root: Place { offset: root_start, size: size - root_start - MIB, id: identity(base, "root") },
        };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(disk);
        let mut file = file.map_err(io_error("cannot make", disk))?;
        file.set_len(size).map_err(io_error("cannot make", disk))?;
        layout.write_table(&mut file, size, architecture, base).map_err(|problem| {
            unusable(disk, format!("its partition table cannot be written ({problem})"))
        })?;
        layout.make_root(disk, base)?;
        Ok(layout)
    }

    /// Has the root partition and its file system, which is not mounted, take what the disk behind them has become
    /// larger by, if nothing comes after them.
    pub(crate) fn grow(disk: &Utf8Path) -> Result<(), MachineError> {
        let Self { root, .. } = Self::read(disk)?;
        let file = OpenOptions::new().read(true).write(true).open(disk);
        let mut file = file.map_err(io_error("cannot open", disk))?;
        let size = file.metadata().map_err(io_error("cannot read", disk))?.len();
        // The table's copy is at the end.
        let end = (size / MIB).saturating_sub(1) * MIB;
        let failed = |problem| unusable(disk, format!("its root partition cannot be grown ({problem})"));
        let partitions = grown(&file, &root, end).map_err(failed)?;
        let Some(partitions) = partitions.filter(|_| end > root.offset + root.size) else { return Ok(()) };
        // First: as long as the partition is small, it is known that this is still to be done.
        let device = format!("{disk}?offset={}", root.offset);
        let (status, _) = HostCommand::new("e2fsck").args(["-f", "-p", &device]).try_run()?;
        if status.code().is_none_or(|code| code > 1) {
            return Err(failed("its file system has errors".to_owned()));
        }
        let size = format!("{}k", (end - root.offset) / 1024);
        HostCommand::new("resize2fs").args([device.as_str(), &size]).run()?;
        replace_partitions(&mut file, partitions).map_err(failed)
    }

    fn write_table(
        &self,
        file: &mut File,
        size: u64,
        architecture: Architecture,
        base: Digest,
    ) -> Result<(), String> {
        let sectors = u32::try_from(size / SECTOR - 1).unwrap_or(u32::MAX);
        ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(file).map_err(|error| error.to_string())?;
        let table = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
        let table = table.create_from_device(&mut *file, Some(identity(base, "disk")));
        let mut table: GptDisk<&mut File> = table.map_err(|error| error.to_string())?;
        let root = match architecture {
            Architecture::Amd64 => partition_types::LINUX_ROOT_X64,
            Architecture::Arm64 => partition_types::LINUX_ROOT_ARM_64,
        };
        let partitions =
            [(1, self.esp.entry("esp", partition_types::EFI)), (2, self.root.entry("root", root))];
        table.update_partitions(partitions.into()).map_err(|error| error.to_string())?;
        table.write().map_err(|error| error.to_string())?;
        Ok(())
    }

    /// No lazy initialisation: a new sparse file reads as zeros, and what the kernel would zero later in the
    /// background would only take space.
    fn make_root(&self, disk: &Utf8Path, base: Digest) -> Result<(), MachineError> {
        let extended = format!(
            "offset={},hash_seed={},root_owner=0:0,nodiscard,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1",
            self.root.offset,
            identity(base, "hash seed"),
        );
        HostCommand::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-J", "size=32", "-L", ROOT_LABEL])
            .args(["-U", &identity(base, "root file system").to_string(), "-E", &extended])
            .args([disk.as_str(), &format!("{}k", self.root.size / 1024)])
            .run()
            .map(drop)
    }
}

/// The partitions with one of them grown; `None`: another one comes after it.
fn grown(file: &File, root: &Place, end: u64) -> Result<Option<BTreeMap<u32, Partition>>, String> {
    let table = GptConfig::new().open_from_device(file).map_err(|error| error.to_string())?;
    let mut partitions = table.partitions().clone();
    let last = partitions.values().map(|partition| partition.last_lba).max();
    let grown = partitions.values_mut().find(|partition| partition.part_guid == root.id);
    let Some(grown) = grown.filter(|partition| Some(partition.last_lba) == last) else { return Ok(None) };
    grown.last_lba = end / SECTOR - 1;
    Ok(Some(partitions))
}

fn replace_partitions(file: &mut File, partitions: BTreeMap<u32, Partition>) -> Result<(), String> {
    let table = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = table.open_from_device(file).map_err(|error| error.to_string())?;
    table.update_partitions(partitions).map_err(|error| error.to_string())?;
    table.write().map_err(|error| error.to_string())?;
    Ok(())
}

impl Place {
    fn of(partition: &Partition, disk: &Utf8Path) -> Result<Self, MachineError> {
        let bad = |_| unusable(disk, "a partition ends before it begins");
        Ok(Self {
            offset: partition.bytes_start(LogicalBlockSize::Lb512).map_err(bad)?,
            size: partition.bytes_len(LogicalBlockSize::Lb512).map_err(bad)?,
            id: partition.part_guid,
        })
    }

    fn entry(&self, name: &str, kind: Type) -> Partition {
        Partition {
            part_type_guid: kind,
            part_guid: self.id,
            first_lba: self.offset / SECTOR,
            last_lba: (self.offset + self.size) / SECTOR - 1,
            flags: 0,
            name: name.to_owned(),
        }
    }
}

fn is_root(kind: &Type) -> bool {
    [partition_types::LINUX_ROOT_X64, partition_types::LINUX_ROOT_ARM_64].contains(kind)
}

fn has_ext4(file: &File, place: &Place) -> bool {
    let (at, magic) = EXT4_MAGIC;
    let mut found = [0; 2];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut found, place.offset + at).is_ok() && found == magic
}

/// An identity that follows from the base's key.
pub(crate) fn identity(base: Digest, of: &str) -> Uuid {
    let digest = Digest::of(format!("olbake {of} of {}", base.hex()).as_bytes());
    let (bytes, _) = digest.as_bytes().split_first_chunk::<16>().expect("a digest has 32 bytes");
    uuid::Builder::from_custom_bytes(*bytes).into_uuid()
}

/// The error for a file that is no disk of ours.
pub(crate) fn unusable(disk: &Utf8Path, problem: impl Into<String>) -> MachineError {
    MachineError::Disk { path: disk.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, camino::Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Utf8Path::from_path(folder.path()).unwrap().join("disk.raw");
        (folder, disk)
    }

    #[test]
    fn what_is_created_is_read_back() {
        let (_folder, disk) = place();
        let base = Digest::of(b"base");
        let layout = Layout::create(&disk, 2048 * MIB, Architecture::Amd64, base).unwrap();
        assert_eq!(Layout::read(&disk).unwrap(), layout);
        assert_eq!(root_partition(&disk).unwrap(), (257 * MIB, (2048 - 258) * MIB));
    }

    #[test]
    fn a_disk_that_became_larger_has_a_larger_root() {
        let (_folder, disk) = place();
        let layout = Layout::create(&disk, 1024 * MIB, Architecture::Amd64, Digest::of(b"base")).unwrap();
        Layout::grow(&disk).unwrap();
        assert_eq!(Layout::read(&disk).unwrap(), layout);
        OpenOptions::new().write(true).open(&disk).unwrap().set_len(3072 * MIB).unwrap();
        Layout::grow(&disk).unwrap();
        let grown = Layout { root: Place { size: (3072 - 258) * MIB, ..layout.root }, ..layout };
        assert_eq!(Layout::read(&disk).unwrap(), grown);
        let device = format!("{disk}?offset={}", 257 * MIB);
        let told = HostCommand::new("dumpe2fs").args(["-h", &device]).run().unwrap();
        let told = String::from_utf8_lossy(&told).into_owned();
        let blocks = told.lines().find_map(|line| line.strip_prefix("Block count:")).unwrap().trim();
        assert_eq!(blocks, ((3072 - 258) * MIB / 4096).to_string());
        HostCommand::new("e2fsck").args(["-f", "-n", &device]).run().unwrap();
        Layout::grow(&disk).unwrap();
        assert_eq!(Layout::read(&disk).unwrap(), grown);
    }

    #[test]
    fn the_same_base_gives_the_same_identities() {
        let (_folder, disk) = place();
        let made =
            |base: &[u8]| Layout::create(&disk, 1024 * MIB, Architecture::Amd64, Digest::of(base)).unwrap();
        assert_eq!(made(b"one"), made(b"one"));
        assert_ne!(made(b"one").root.id, made(b"two").root.id);
    }

    #[test]
    fn a_file_without_table_is_refused() {
        let (_folder, disk) = place();
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        let error = Layout::read(&disk).unwrap_err();
        assert!(matches!(&error, MachineError::Disk { problem, .. } if problem.contains("GPT")), "{error}");
    }

    #[test]
    fn a_disk_too_small_for_a_system_is_refused() {
        let (_folder, disk) = place();
        let error = Layout::create(&disk, MIB, Architecture::Amd64, Digest::of(b"")).unwrap_err();
        assert!(matches!(error, MachineError::Disk { .. }), "{error}");
    }
}
