//! The bytes of snapshots: sparse files of blocks, each with the snapshot that it goes on from.
//!
//! A snapshot's own file has the blocks that were written for it; the others are those of its base. So a snapshot with
//! a parent, and a copy in another region, cost nothing. Main type: [`Snapshots`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::calls::held;

/// How large a block is.
pub(super) const BLOCK: usize = 512 * 1024;
/// How many blocks a gibibyte has.
pub(super) const BLOCKS_PER_GIB: u32 = 2048;

/// A block's SHA-256.
pub(super) type Checksum = [u8; 32];

/// What is known of a snapshot's bytes.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// Where it is.
    pub(super) region: String,
    /// Its volume's size.
    pub(super) size: u32,
    /// Where the blocks come from that are not its own.
    pub(super) base: Option<String>,
    /// What it is compared with: the first of those that it goes on from.
    pub(super) lineage: String,
    /// Its own blocks; those that were put have a checksum.
    pub(super) own: BTreeMap<u32, Option<Checksum>>,
    /// Where it is in its life.
    pub(super) stage: Stage,
}

/// Where a snapshot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Blocks are written.
    Open,
    /// It is all there, but not yet usable.
    Closed,
    /// It can be used.
    Completed,
}

pub(super) struct Snapshots {
    folder: Utf8PathBuf,
    known: Mutex<BTreeMap<String, Snapshot>>,
}

impl Snapshots {
    /// Those of a folder, which is empty.
    pub(super) fn new(folder: Utf8PathBuf) -> Self {
        Self { folder, known: Mutex::default() }
    }

    fn path(&self, id: &str) -> Utf8PathBuf {
        self.folder.join(format!("{id}.raw"))
    }

    pub(super) fn get(&self, id: &str) -> Option<Snapshot> {
        held(&self.known).get(id).cloned()
    }

    /// Starts one that has no blocks of its own yet.
    pub(super) fn start(&self, id: &str, region: &str, size: u32, base: Option<&str>) -> io::Result<()> {
        File::create(self.path(id))?.set_len(u64::from(size) << 30)?;
        let mut known = held(&self.known);
        let base = base.filter(|base| known.contains_key(*base));
        let lineage =
            base.and_then(|base| known.get(base)).map_or_else(|| id.to_owned(), |base| base.lineage.clone());
        let (base, region) = (base.map(str::to_owned), region.to_owned());
        let started = Snapshot { region, size, base, lineage, own: BTreeMap::new(), stage: Stage::Open };
        known.insert(id.to_owned(), started);
        Ok(())
    }

    /// Makes one of a disk as it is now; `base` is what the disk was made from, whose blocks are not looked at.
    pub(super) fn take(&self, id: &str, region: &str, disk: &Utf8Path, base: Option<&str>) -> io::Result<()> {
        let path = self.path(id);
        olbake_local::copy_disk(disk, &path).map_err(io::Error::other)?;
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        let size = u32::try_from(length.div_ceil(1 << 30)).map_err(io::Error::other)?;
        let own = data_blocks(&file, length)?.into_iter().map(|block| (block, None)).collect();
        OpenOptions::new().write(true).open(&path)?.set_len(u64::from(size) << 30)?;
        let mut known = held(&self.known);
        let lineage =
            base.and_then(|base| known.get(base)).map_or_else(|| id.to_owned(), |base| base.lineage.clone());
        let taken =
            Snapshot { region: region.to_owned(), size, base: None, lineage, own, stage: Stage::Closed };
        known.insert(id.to_owned(), taken);
        Ok(())
    }

    /// Writes a block.
    pub(super) fn put(&self, id: &str, block: u32, bytes: &[u8], checksum: Checksum) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(id))?;
        file.write_all_at(bytes, u64::from(block) * BLOCK as u64)?;
        if let Some(snapshot) = held(&self.known).get_mut(id) {
            snapshot.own.insert(block, Some(checksum));
        }
        Ok(())
    }

    pub(super) fn advance(&self, id: &str, stage: Stage) {
        if let Some(snapshot) = held(&self.known).get_mut(id) {
            snapshot.stage = stage;
        }
    }

    /// Every block that is not a hole, and the snapshot whose own it is.
    pub(super) fn blocks(&self, id: &str) -> BTreeMap<u32, String> {
        let known = held(&self.known);
        let mut found = BTreeMap::new();
        for id in chain(&known, id) {
            for block in known[&id].own.keys() {
                found.entry(*block).or_insert_with(|| id.clone());
            }
        }
        found
    }

    /// A block's bytes, given the snapshot whose own it is.
    pub(super) fn read(&self, owner: &str, block: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; BLOCK];
        File::open(self.path(owner))?.read_exact_at(&mut bytes, u64::from(block) * BLOCK as u64)?;
        Ok(bytes)
    }

    /// Makes a disk of one, of a size in GiB; says whether there was anything to make it of.
    pub(super) fn materialise(&self, id: &str, disk: &Utf8Path, size: u32) -> io::Result<bool> {
        let mut from = {
            let known = held(&self.known);
            chain(&known, id)
                .into_iter()
                .map(|id| (id.clone(), known[&id].own.keys().copied().collect()))
                .collect::<Vec<(String, BTreeSet<u32>)>>()
        };
        let Some((first, _)) = from.pop() else { return Ok(false) };
        olbake_local::copy_disk(&self.path(&first), disk).map_err(io::Error::other)?;
        let file = OpenOptions::new().write(true).open(disk)?;
        for (owner, blocks) in from.into_iter().rev() {
            for block in blocks {
                file.write_all_at(&self.read(&owner, block)?, u64::from(block) * BLOCK as u64)?;
            }
        }
        file.set_len(u64::from(size) << 30)?;
        Ok(true)
    }

    /// All that are known now.
    pub(super) fn ids(&self) -> BTreeSet<String> {
        held(&self.known).keys().cloned().collect()
    }

    /// Removes the bytes of those among `before` that are not there any more, once nothing goes on from them. `before`
    /// is older than `there`: what was made in between is not gone.
    pub(super) fn keep(&self, there: &BTreeSet<String>, before: &BTreeSet<String>) -> io::Result<()> {
        let mut known = held(&self.known);
        let mut needed = BTreeSet::new();
        for id in known.keys().filter(|id| there.contains(*id) || !before.contains(*id)) {
            needed.extend(chain(&known, id));
        }
        let gone: Vec<String> = known.keys().filter(|id| !needed.contains(*id)).cloned().collect();
        for id in gone {
            known.remove(&id);
            std::fs::remove_file(self.path(&id))?;
        }
        Ok(())
    }
}

/// A snapshot and those that it goes on from, newest first.
fn chain(known: &BTreeMap<String, Snapshot>, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = known.contains_key(id).then(|| id.to_owned());
    while let Some(id) = next {
        next = known.get(&id).and_then(|snapshot| snapshot.base.clone());
        found.push(id);
    }
    found
}

/// Which blocks of a file are not holes.
fn data_blocks(file: &File, length: u64) -> io::Result<BTreeSet<u32>> {
    let (mut found, mut position) = (BTreeSet::new(), 0);
    while position < length {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        position = seek(file, SeekFrom::Hole(start))?;
        let block = |offset: u64| u32::try_from(offset / BLOCK as u64).map_err(io::Error::other);
        found.extend(block(start)?..=block(position.max(1) - 1)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(byte: u8) -> Vec<u8> {
        vec![byte; BLOCK]
    }

    #[test]
    fn a_snapshot_goes_on_from_its_parent_and_keeps_what_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let all = Snapshots::new(folder.to_owned());
        all.start("snap-1", "here", 1, None).unwrap();
        all.put("snap-1", 0, &filled(1), [0; 32]).unwrap();
        all.put("snap-1", 7, &filled(2), [0; 32]).unwrap();
        all.start("snap-2", "here", 2, Some("snap-1")).unwrap();
        all.put("snap-2", 7, &filled(3), [0; 32]).unwrap();
        let blocks: Vec<_> = all.blocks("snap-2").into_iter().collect();
        assert_eq!(blocks, [(0, "snap-1".to_owned()), (7, "snap-2".to_owned())]);
        all.keep(&BTreeSet::from(["snap-2".to_owned()]), &all.ids()).unwrap();
        all.keep(&BTreeSet::new(), &BTreeSet::new()).unwrap();
        assert_eq!(all.read("snap-1", 0).unwrap(), filled(1));

        let disk = folder.join("disk");
        assert!(all.materialise("snap-2", &disk, 3).unwrap());
        assert_eq!(disk.metadata().unwrap().len(), 3 << 30);
        let file = File::open(&disk).unwrap();
        let mut bytes = filled(0);
        file.read_exact_at(&mut bytes, 7 * BLOCK as u64).unwrap();
        assert_eq!(bytes, filled(3));

        all.take("snap-3", "here", &disk, Some("snap-2")).unwrap();
        assert_eq!(all.blocks("snap-3").keys().copied().collect::<Vec<_>>(), [0, 7]);
        assert_eq!(all.get("snap-3").unwrap().lineage, "snap-1");
        all.keep(&BTreeSet::new(), &all.ids()).unwrap();
        assert!(std::fs::read_dir(folder).unwrap().all(|entry| entry.unwrap().file_name() == "disk"));
    }
}
