//! What this host keeps to be fast: raw disks of layers, downloads, package lists. All of it can be made again.
//!
//! Main type: [`Cache`]. Below its directory: `disks/KEY.raw` with `disks/KEY.json` beside it, `disks/KEY.BOOT.spare`
//! (a copy of a disk, for the next machine that begins with it), `downloads/`, `packages/`, `failed/` (disks that a
//! person asked to keep), `work/` (of running bakes), `locks/`.
//!
//! Disks are not synchronised when they are kept: that would cost as much as making them. So each remembers the
//! boot it was written in, and one of an earlier boot is not believed; the store has the blocks.

mod lock;
mod renewal;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::blockmap::BlockMap;
use olbake_core::{Digest, ImageRef};
use serde::{Deserialize, Serialize};

pub use lock::{Holder, Lock, Sharing};
use renewal::Renewal;

use crate::store::StoreError;
use crate::store::disk::allocated;
use crate::store::file::{read_whole, write_whole};

/// The last part of the name of a spare copy.
const SPARE: &str = "spare";
/// A spare copy: where, and its bytes.
type Spare = (Utf8PathBuf, u64);
/// The version of the form of what lies beside a disk.
const SCHEMA: u32 = 1;

/// What lies beside a disk.
#[derive(Debug, Serialize, Deserialize)]
struct Beside {
    schema: u32,
    /// The boot in which the disk was written.
    boot: String,
    /// What is in it, once that is known.
    #[serde(default)]
    content: Option<Content>,
}

/// What is in a disk: the registry's map of its layer may be of a disk that another host made.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// The file that this is said of: another may have taken its name meanwhile.
    inode: u64,
    /// The digest of its block map.
    map: Digest,
}

/// A disk in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedDisk {
    /// The layer's key.
    pub key: Digest,
    /// The raw disk.
    pub path: Utf8PathBuf,
    /// Bytes that it occupies.
    pub bytes: u64,
    /// When it was last asked for.
    pub used: SystemTime,
}

/// What this host keeps to be fast.
#[derive(Debug)]
pub struct Cache {
    dir: Utf8PathBuf,
    max_size: Option<u64>,
    boot: String,
    /// Held from the first use of a disk on, so that none is removed under a bake.
    in_use: Mutex<Option<Lock>>,
    /// What the next trim does first.
    renewals: Mutex<Vec<Renewal>>,
}

impl Cache {
    /// Opens a directory as a cache; makes it where there is none. Disks beyond `max_size` bytes go when the cache
    /// is trimmed.
    pub fn open(dir: impl Into<Utf8PathBuf>, max_size: Option<u64>) -> Result<Self, StoreError> {
        let cache = Self {
            dir: dir.into(),
            max_size,
            boot: boot(),
            in_use: Mutex::default(),
            renewals: Mutex::default(),
        };
        for directory in [cache.disks(), cache.downloads(), cache.packages(), cache.locks()] {
            crate::store::file::make_if_allowed(&directory)?;
        }
        Ok(cache)
    }

    /// The directory.
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// Where downloads are, each named by its digest.
    pub fn downloads(&self) -> Utf8PathBuf {
        self.dir.join("downloads")
    }

    /// Where package lists and packages are.
    pub fn packages(&self) -> Utf8PathBuf {
        self.dir.join("packages")
    }

    fn disks(&self) -> Utf8PathBuf {
        self.dir.join("disks")
    }

    fn locks(&self) -> Utf8PathBuf {
        self.dir.join("locks")
    }

    fn disk_path(&self, key: &Digest) -> Utf8PathBuf {
        self.disks().join(format!("{}.raw", key.hex()))
    }

    /// The disk of a layer, if it is here and to be believed.
    pub fn disk(&self, key: &Digest) -> Result<Option<Utf8PathBuf>, StoreError> {
        self.hold()?;
        let path = self.disk_path(key);
        if !path.is_file() || !self.is_believed(&path)? {
            return Ok(None);
        }
        // When it was last used is written as the time of the file beside it; without it, the disk goes too early.
        let beside = path.with_extension("json");
        drop(File::options().append(true).open(beside).and_then(|file| file.set_modified(SystemTime::now())));
        Ok(Some(path))
    }

    fn is_believed(&self, disk: &Utf8Path) -> Result<bool, StoreError> {
        Ok(self.beside(disk)?.is_some())
    }

    /// What lies beside a disk that is to be believed.
    fn beside(&self, disk: &Utf8Path) -> Result<Option<Beside>, StoreError> {
        let Some(text) = read_whole(&disk.with_extension("json"))? else { return Ok(None) };
        let beside = serde_json::from_slice::<Beside>(&text).ok();
        Ok(beside.filter(|beside| beside.schema == SCHEMA && beside.boot == self.boot))
    }

    fn put_beside(&self, disk: &Utf8Path, content: Option<Content>) -> Result<(), StoreError> {
        let beside = serde_json::to_vec(&Beside { schema: SCHEMA, boot: self.boot.clone(), content });
        write_whole(&disk.with_extension("json"), &beside.expect("it is expressible in JSON"), 0o644)
    }

    /// Notes what is in a disk of this cache: the file that was read to find out, open, and its map.
    pub(crate) fn describe(&self, disk: &Utf8Path, read: &File, map: &BlockMap) -> Result<(), StoreError> {
        let inode = read.metadata().map_err(|e| StoreError::io("look at", disk, e))?.ino();
        let known = self.beside(disk)?.is_some();
        let content = Content { inode, map: map.digest() };
        if known { self.put_beside(disk, Some(content)) } else { Ok(()) }
    }

    /// Whether a disk of this cache has the content of a map, by what was noted of it.
    pub(crate) fn has_content(&self, disk: &Utf8Path, map: &BlockMap) -> Result<bool, StoreError> {
        let Some(content) = self.beside(disk)?.and_then(|beside| beside.content) else { return Ok(false) };
        let inode = fs::metadata(disk).map_or(0, |metadata| metadata.ino());
        Ok(content.inode == inode && content.map == map.digest())
    }

    /// Where the disk of a layer can be made before it is adopted; removed by a trim if it never is.
    pub fn partial_disk(&self, key: &Digest) -> Utf8PathBuf {
        self.disks().join(format!(".partial-{}-{}", key.short(), std::process::id()))
    }

    /// Where a spare copy of a disk can be made before it is kept.
    pub(crate) fn partial_spare(&self, disk: &Utf8Path) -> Utf8PathBuf {
        let name = disk.file_stem().unwrap_or_default();
        self.disks().join(format!(".{SPARE}-{name}-{}", std::process::id()))
    }

    /// Takes over a finished disk as that of a layer, by renaming it; says where it is now.
    pub fn adopt_disk(&self, key: &Digest, disk: &Utf8Path) -> Result<Utf8PathBuf, StoreError> {
        self.hold()?;
        let path = self.disk_path(key);
        self.put_beside(&path, None)?;
        rename(disk, &path)?;
        Ok(path)
    }

    /// Where the spare copy of a disk is. It bears the boot it was written in, as nothing lies beside it.
    fn spare_path(&self, disk: &Utf8Path) -> Utf8PathBuf {
        disk.with_extension(format!("{}.{SPARE}", Digest::of(self.boot.as_bytes()).short()))
    }

    /// Moves the spare copy of a disk of this cache to a path; false: there is none.
    pub(crate) fn take_spare(&self, disk: &Utf8Path, to: &Utf8Path) -> Result<bool, StoreError> {
        match fs::rename(self.spare_path(disk), to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("rename to", to, error)),
        }
    }

    /// Keeps a finished copy of a disk of this cache as its spare.
    pub(crate) fn keep_spare(&self, disk: &Utf8Path, copy: &Utf8Path) -> Result<(), StoreError> {
        rename(copy, &self.spare_path(disk))
    }

    /// The spare copies that are here with their bytes: those of disks, by the disk, and those that nothing can be
    /// begun with any more.
    fn spares(&self) -> Result<(BTreeMap<Utf8PathBuf, Spare>, Vec<Spare>), StoreError> {
        let (mut found, mut stale) = (BTreeMap::new(), Vec::new());
        for path in list(&self.disks())?.into_iter().filter(|path| path.extension() == Some(SPARE)) {
            let disk = path.with_extension("").with_extension("raw");
            let usable = disk.is_file() && self.is_believed(&disk)? && self.spare_path(&disk) == path;
            let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| allocated(&metadata));
            if usable {
                found.insert(disk, (path, bytes));
            } else {
                stale.push((path, bytes));
            }
        }
        Ok((found, stale))
    }

    /// Keeps the disk of a failed bake for a person; says where it is now.
    pub fn keep_failed(&self, image: &ImageRef, disk: &Utf8Path) -> Result<Utf8PathBuf, StoreError> {
        let directory = self.dir.join("failed");
        fs::create_dir_all(&directory).map_err(|e| StoreError::io("create directory", &directory, e))?;
        let name = image.to_string().replace('/', "-");
        let free = (1_u32..).map(|n| directory.join(format!("{name}-{n}.raw"))).find(|path| !path.exists());
        let path = free.expect("some number is free");
        rename(disk, &path)?;
        Ok(path)
    }

    /// Takes a lock of this cache, or says who has it.
    pub fn try_lock(&self, name: &str) -> Result<Result<Lock, Holder>, StoreError> {
        Lock::attempt(&self.locks(), name, Sharing::Exclusive)
    }

    /// Takes a lock of this cache when it is free. The wait can be given up by dropping it.
    pub async fn lock(&self, name: &str) -> Result<Lock, StoreError> {
        loop {
            if let Ok(lock) = self.try_lock(name)? {
                return Ok(lock);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn hold(&self) -> Result<(), StoreError> {
        let mut held = self.in_use.lock().expect("no thread panics while it takes the lock");
        if held.is_none() {
            *held = Some(Lock::wait(&self.locks(), "use", Sharing::Shared)?);
        }
        Ok(())
    }

    /// Keeps all other processes out, or says who is in. This cache's own use is over.
    pub(crate) fn exclude(&self) -> Result<Result<Lock, Holder>, StoreError> {
        drop(self.in_use.lock().expect("no thread panics while it takes the lock").take());
        Lock::attempt(&self.locks(), "use", Sharing::Exclusive)
    }

    /// The disks that are here, those used longest ago first.
    pub fn contents(&self) -> Result<Vec<CachedDisk>, StoreError> {
        let mut found = Vec::new();
        for path in list(&self.disks())? {
            if path.extension() != Some("raw") {
                continue;
            }
            let Some(key) = path.file_stem().and_then(|stem| Digest::from_hex(stem).ok()) else { continue };
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let beside = fs::metadata(path.with_extension("json")).and_then(|metadata| metadata.modified());
            let used = beside.unwrap_or(SystemTime::UNIX_EPOCH);
            found.push(CachedDisk { key, bytes: allocated(&metadata), path, used });
        }
        found.sort_by_key(|disk| (disk.used, disk.key));
        Ok(found)
    }

    /// What can go without loss: disks that are not believed, and those used longest ago beyond the greatest size, each
    /// with its spare copy; and what was never finished.
    pub(crate) fn superfluous(&self) -> Result<Vec<Superfluous>, StoreError> {
        let mut found = Vec::new();
        let disks = self.contents()?;
        let (spares, stale) = self.spares()?;
        let spare_bytes: u64 = spares.values().map(|(_, bytes)| bytes).sum();
        let mut total = spare_bytes + disks.iter().map(|disk| disk.bytes).sum::<u64>();
        found.extend(stale.into_iter().map(|(path, bytes)| Superfluous {
            path,
            bytes,
            reason: "a spare copy of a disk that is gone",
        }));
        for CachedDisk { path, bytes, .. } in disks {
            let too_much = self.max_size.is_some_and(|most| total > most);
            let reason = match self.is_believed(&path)? {
                false => "a disk written before the last boot",
                true if too_much => "a disk beyond the cache's size, used longest ago",
                true => continue,
            };
            total -= bytes;
            if let Some((path, bytes)) = spares.get(&path).cloned() {
                total -= bytes;
                found.push(Superfluous { path, bytes, reason });
            }
            found.push(Superfluous { path, bytes, reason });
        }
        for path in list(&self.disks())? {
            let name = path.file_name().unwrap_or_default();
            let orphan = path.extension() == Some("json") && !path.with_extension("raw").exists();
            if name.starts_with('.') || orphan {
                let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| allocated(&metadata));
                found.push(Superfluous { path, bytes, reason: "a disk that was never finished" });
            }
        }
        Ok(found)
    }

    /// Makes spare copies out of superseded disks and removes the disks that go beyond the cache's size, unless
    /// another process uses the cache. Nothing of this process may use a disk any more. Says what went.
    pub fn trim(&self) -> Result<Vec<Utf8PathBuf>, StoreError> {
        let Ok(_lock) = self.exclude()? else { return Ok(Vec::new()) };
        self.renew()?;
        let mut gone = Vec::new();
        for Superfluous { path, .. } in self.superfluous()? {
            remove(&path)?;
            gone.push(path);
        }
        Ok(gone)
    }
}

/// A file of the cache that can go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superfluous {
    pub(crate) path: Utf8PathBuf,
    pub(crate) bytes: u64,
    pub(crate) reason: &'static str,
}

/// Removes a file of the cache, and what lies beside a disk.
pub(crate) fn remove(path: &Utf8Path) -> Result<(), StoreError> {
    let beside = (path.extension() == Some("raw")).then(|| path.with_extension("json"));
    for path in [Some(path.to_owned()), beside].into_iter().flatten() {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The paths in a directory; none where there is no such directory.
pub(crate) fn list(directory: &Utf8Path) -> Result<Vec<Utf8PathBuf>, StoreError> {
    match directory.read_dir_utf8() {
        Ok(entries) => Ok(entries.filter_map(|entry| Some(entry.ok()?.into_path())).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StoreError::io("list", directory, error)),
    }
}

fn rename(from: &Utf8Path, to: &Utf8Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|e| StoreError::io("rename to", to, e))
}

/// Identifies the running boot of this host; without one, no disk outlives its process's belief.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| format!("process {}", std::process::id()), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(directory: &tempfile::TempDir, max_size: Option<u64>) -> Cache {
        Cache::open(Utf8Path::from_path(directory.path()).unwrap(), max_size).unwrap()
    }

    fn adopt(cache: &Cache, name: &str, age: u64) -> Digest {
        let key = Digest::of(name.as_bytes());
        let partial = cache.partial_disk(&key);
        fs::write(&partial, vec![1; 64 * 1024]).unwrap();
        let path = cache.adopt_disk(&key, &partial).unwrap();
        let used = SystemTime::now() - Duration::from_secs(age);
        File::options().append(true).open(path.with_extension("json")).unwrap().set_modified(used).unwrap();
        key
    }

    #[test]
    fn an_adopted_disk_is_found_until_the_host_boots() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(&directory, None);
        let key = adopt(&cache, "web", 0);
        assert!(cache.disk(&key).unwrap().is_some());
        assert_eq!(cache.disk(&Digest::of(b"other")).unwrap(), None);
        let later = Cache { boot: "another".into(), ..Cache::open(cache.dir(), None).unwrap() };
        drop(cache);
        assert_eq!(later.disk(&key).unwrap(), None);
        assert_eq!(later.trim().unwrap().len(), 1);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(&directory, Some(150 * 1024));
        let [old, middle, new] =
            [("a", 300), ("b", 200), ("c", 100)].map(|(name, age)| adopt(&cache, name, age));
        cache.disk(&old).unwrap();
        cache.trim().unwrap();
        let left = [old, middle, new].map(|key| cache.disk(&key).unwrap().is_some());
        assert_eq!(left, [true, false, true]);
    }

    #[test]
    fn nothing_goes_while_another_process_uses_the_cache() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (cache(&directory, Some(0)), cache(&directory, None));
        let key = adopt(&theirs, "web", 0);
        assert_eq!(ours.trim().unwrap(), Vec::<Utf8PathBuf>::new());
        drop(theirs);
        assert_eq!(ours.trim().unwrap().len(), 1);
        assert_eq!(ours.disk(&key).unwrap(), None);
    }

    #[test]
    fn a_spare_copy_is_taken_once_and_only_in_its_boot() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(&directory, None);
        let key = adopt(&cache, "web", 0);
        let disk = cache.disk(&key).unwrap().unwrap();
        let (copy, work) = (cache.partial_disk(&key), cache.dir().join("work"));
        let spare = |cache: &Cache| {
            fs::copy(&disk, &copy).unwrap();
            cache.keep_spare(&disk, &copy).unwrap();
        };
        assert!(!cache.take_spare(&disk, &work).unwrap());
        spare(&cache);
        assert!(cache.take_spare(&disk, &work).unwrap());
        assert_eq!(fs::read(&work).unwrap(), fs::read(&disk).unwrap());
        assert!(!cache.take_spare(&disk, &work).unwrap(), "there was one");
        spare(&cache);
        let later = Cache { boot: "another".into(), ..Cache::open(cache.dir(), None).unwrap() };
        assert!(!later.take_spare(&disk, &work).unwrap());
        drop(cache);
        assert_eq!(later.trim().unwrap().len(), 2, "the disk and its spare");
    }

    #[test]
    fn spare_copies_go_with_their_disks() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(&directory, Some(100 * 1024));
        let key = adopt(&cache, "web", 0);
        let spare = |key: &Digest| {
            let disk = cache.disk(key).unwrap().unwrap();
            fs::copy(&disk, cache.partial_disk(key)).unwrap();
            cache.keep_spare(&disk, &cache.partial_disk(key)).unwrap();
            disk
        };
        spare(&key);
        let later = adopt(&cache, "database", 0);
        let gone = cache.trim().unwrap();
        assert_eq!(gone.len(), 2, "the older disk and its spare: {gone:?}");
        assert!(cache.disk(&key).unwrap().is_none() && cache.disk(&later).unwrap().is_some());
        remove(&spare(&later)).unwrap();
        assert_eq!(cache.trim().unwrap().len(), 1, "a spare without its disk");
    }

    #[test]
    fn a_failed_disk_gets_a_free_name() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(&directory, None);
        let kept = [1, 2].map(|n| {
            let disk = cache.dir().join("disk");
            fs::write(&disk, [n]).unwrap();
            cache.keep_failed(&"web/large".parse().unwrap(), &disk).unwrap()
        });
        assert_eq!(
            kept.each_ref().map(|path| path.file_name().unwrap()),
            ["web-large-1.raw", "web-large-2.raw"]
        );
        assert_eq!(fs::read(&kept[0]).unwrap(), [1]);
    }
}
