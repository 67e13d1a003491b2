//! Spare copies out of disks that were superseded: few blocks are written instead of all.
//!
//! The disk of an image's version and that of a layer below it mostly agree. Once another version took its place, the
//! former disk becomes the copy of the layer's disk that the next bake begins with: the blocks in which the maps of both
//! differ are written. Main type: [`Renewal`].

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::blockmap::{BLOCK_SIZE, BlockMap};
use rustix::fs::{FallocateFlags, fallocate};

use super::{Cache, remove, rename};
use crate::store::StoreError;

/// Where more than this part of a disk differs, making a copy of it meanwhile is no slower.
const PART: usize = 4;

/// A superseded disk that is to become the spare copy of another.
#[derive(Debug)]
pub(super) struct Renewal {
    disk: Utf8PathBuf,
    map: BlockMap,
    superseded: Utf8PathBuf,
    old: BlockMap,
}

impl Cache {
    /// Has the next trim make the superseded disk of `key`, with the content `old`, the spare copy of `disk`, whose
    /// content is `map`. False: it is not here, or not so, too different, or somebody else has a link to it.
    pub(crate) fn renew_later(
        &self,
        disk: &Utf8Path,
        map: BlockMap,
        key: &Digest,
        old: BlockMap,
    ) -> Result<bool, StoreError> {
        let alike = map.size == old.size && map.changed_since(&old).len() * PART <= map.blocks.len();
        let renewal = Renewal { disk: disk.to_owned(), map, superseded: self.disk_path(key), old };
        let can = alike && self.can_renew(&renewal)?;
        if can {
            self.renewals.lock().expect(LOCKED).push(renewal);
        }
        Ok(can)
    }

    /// Whether both disks have the content that they are said to have, and nobody else holds the one that is to go: a
    /// local cloud has a link to each disk that it runs.
    fn can_renew(&self, Renewal { disk, map, superseded, old }: &Renewal) -> Result<bool, StoreError> {
        let alone = fs::symlink_metadata(superseded).is_ok_and(|file| file.is_file() && file.nlink() == 1);
        Ok(alone
            && disk != superseded
            && self.has_content(disk, map)?
            && self.has_content(superseded, old)?)
    }

    /// Makes the spare copies that were asked for. Only with the cache to itself: nobody else may have a disk open.
    pub(super) fn renew(&self) -> Result<(), StoreError> {
        let renewals = std::mem::take(&mut *self.renewals.lock().expect(LOCKED));
        for renewal in &renewals {
            if !self.can_renew(renewal)? {
                continue;
            }
            let copy = self.partial_spare(&renewal.disk);
            // It goes under its own name first, so that it is never taken for what it was.
            rename(&renewal.superseded, &copy)?;
            remove(&renewal.superseded)?;
            match rewrite(renewal, &copy) {
                Ok(()) => self.keep_spare(&renewal.disk, &copy)?,
                Err(error) => {
                    remove(&copy)?;
                    return Err(StoreError::io("make a copy of", &renewal.disk, error));
                }
            }
        }
        Ok(())
    }
}

const LOCKED: &str = "no thread panics while it has the list";

fn rewrite(renewal: &Renewal, copy: &Utf8Path) -> io::Result<()> {
    let source = File::open(&renewal.disk)?;
    let target = File::options().write(true).open(copy)?;
    let mut block = vec![0; usize::try_from(BLOCK_SIZE).expect("a block fits into memory")];
    for number in renewal.map.changed_since(&renewal.old) {
        let offset = u64::from(number) * BLOCK_SIZE;
        if renewal.map.blocks.contains_key(&number) {
            source.read_exact_at(&mut block, offset)?;
            target.write_all_at(&block, offset)?;
        } else {
            fallocate(&target, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, BLOCK_SIZE)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Keeps a disk whose blocks are filled with these bytes; 0 is a hole.
    fn kept(cache: &Cache, name: &str, blocks: &[u8]) -> (Digest, Utf8PathBuf, BlockMap) {
        let key = Digest::of(name.as_bytes());
        let partial = cache.partial_disk(&key);
        let file = File::create(&partial).unwrap();
        let size = blocks.len() as u64 * BLOCK_SIZE;
        file.set_len(size).unwrap();
        let mut map = BlockMap { size, blocks: BTreeMap::new() };
        for (number, fill) in (0..).zip(blocks).filter(|(_, fill)| **fill != 0) {
            let bytes = vec![*fill; usize::try_from(BLOCK_SIZE).unwrap()];
            file.write_all_at(&bytes, u64::from(number) * BLOCK_SIZE).unwrap();
            map.blocks.insert(number, Digest::of(&bytes));
        }
        let disk = cache.adopt_disk(&key, &partial).unwrap();
        cache.describe(&disk, &file, &map).unwrap();
        (key, disk, map)
    }

    const LAYER: [u8; 10] = [1, 2, 0, 4, 5, 6, 7, 8, 9, 10];
    const SEALED: [u8; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11];

    /// A cache with the disk of a layer and one that was sealed after it.
    struct World {
        cache: Cache,
        layer: Utf8PathBuf,
        map: BlockMap,
        key: Digest,
        sealed: Utf8PathBuf,
        old: BlockMap,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir_in("/var/tmp").unwrap();
            let cache = Cache::open(Utf8Path::from_path(folder.path()).unwrap(), None).unwrap();
            let (_, layer, map) = kept(&cache, "layer", &LAYER);
            let (key, sealed, old) = kept(&cache, "sealed", &SEALED);
            Self { cache, layer, map, key, sealed, old, _folder: folder }
        }

        fn renew_later(&self) -> bool {
            let Self { cache, layer, map, key, old, .. } = self;
            cache.renew_later(layer, map.clone(), key, old.clone()).unwrap()
        }
    }

    #[test]
    fn a_superseded_disk_becomes_the_copy() {
        let world = World::new();
        let World { cache, layer, sealed, .. } = &world;
        let inode = fs::metadata(sealed).unwrap().ino();
        assert!(world.renew_later());
        assert!(sealed.exists(), "until the cache is trimmed");
        cache.trim().unwrap();
        assert!(!sealed.exists() && cache.disk(&world.key).unwrap().is_none());
        let work = cache.dir().join("work.raw");
        assert!(cache.take_spare(layer, &work).unwrap());
        assert!(fs::read(&work).unwrap() == fs::read(layer).unwrap(), "the bytes differ");
        let [work, layer] = [&work, layer].map(|path| fs::metadata(path).unwrap());
        assert_eq!((work.ino(), work.blocks()), (inode, layer.blocks()));
    }

    #[test]
    fn what_others_need_or_what_differs_much_stays() {
        let mut world = World::new();
        let (other_key, _, other) = kept(&world.cache, "other", &[9; 10]);
        let none = Digest::of(b"none");
        for (key, old) in [(other_key, &other), (none, &world.old)] {
            assert!(!world.cache.renew_later(&world.layer, world.map.clone(), &key, old.clone()).unwrap());
        }
        // Somebody links it, or uses the cache, before it is done.
        assert!(world.renew_later());
        let link = world.cache.dir().join("link.raw");
        fs::hard_link(&world.sealed, &link).unwrap();
        world.cache.trim().unwrap();
        assert!(world.sealed.exists());
        assert!(!world.renew_later(), "linked");
        fs::remove_file(link).unwrap();
        assert!(world.renew_later());
        let other = Cache::open(world.cache.dir(), None).unwrap();
        other.disk(&world.key).unwrap();
        world.cache.trim().unwrap();
        assert!(world.sealed.exists());
        drop(other);

        // Another host's disk of the same layer has another map.
        let own = world.map.clone();
        *world.map.blocks.get_mut(&4).unwrap() = none;
        assert!(!world.renew_later(), "another content");
        world.map = own;
        // Another disk took the name, and nobody has looked into it.
        let again = world.cache.partial_disk(&world.key);
        fs::copy(&world.sealed, &again).unwrap();
        world.cache.adopt_disk(&world.key, &again).unwrap();
        assert!(!world.renew_later(), "unknown content");
    }
}
