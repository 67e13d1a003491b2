//! Objects as files of a directory. Main type: [`FileStore`].
//!
//! An object is written to a file in `.tmp`, synchronised, and linked or renamed to its name, after which the
//! directory is synchronised too. A writer keeps its temporary file locked; what a killed writer left is
//! therefore unlocked, and goes the next time the store is opened. Conditional writes hold a lock file for the
//! name, so that comparing and replacing are one step between processes.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread::sleep;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::StoreError;
use super::object::{Etag, Listed, Object, ObjectKey, ObjectStore, Put, PutOutcome, Upload};

const TEMPORARY: &str = ".tmp";
const LOCKS: &str = ".locks";
/// How long a conditional write waits for others, which each take as long as writing a file does.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it asks.
const AGAIN: Duration = Duration::from_millis(5);

/// Objects under a directory.
#[derive(Clone, Debug)]
pub struct FileStore {
    root: Utf8PathBuf,
}

impl FileStore {
    /// Opens a directory as a store; makes it where there is none, and removes what killed writers left. Who may not
    /// write there can read what there is.
    pub fn open(root: impl Into<Utf8PathBuf>) -> Result<Self, StoreError> {
        let store = Self { root: root.into() };
        for directory in [TEMPORARY, LOCKS] {
            make_if_allowed(&store.root.join(directory))?;
        }
        store.sweep()?;
        Ok(store)
    }

    /// The directory.
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Removes the temporary files of writers that no longer run; says how many bytes that were.
    pub fn sweep(&self) -> Result<u64, StoreError> {
        let directory = self.root.join(TEMPORARY);
        let mut freed = 0;
        for path in entries(&directory)? {
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            freed += file.metadata().map_or(0, |m| if m.nlink() == 1 { m.blocks() * 512 } else { 0 });
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound && !may_not(&error) => {
                    return Err(StoreError::io("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(freed)
    }

    fn path(&self, key: &ObjectKey) -> Utf8PathBuf {
        self.root.join(key.as_str())
    }

    /// Held while a name's content is compared and replaced.
    fn lock(&self, key: &ObjectKey) -> Result<File, StoreError> {
        let slot = Digest::of(key.as_str().as_bytes()).as_bytes()[0];
        let path = self.root.join(LOCKS).join(format!("objects-{slot:02x}"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|e| StoreError::io("open", &path, e))?;
        let begun = Instant::now();
        // Not waited for without end: whoever holds it may be stopped, and so would be whoever wants to end its hold.
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            let error = match error {
                Errno::AGAIN if begun.elapsed() < PATIENCE => {
                    sleep(AGAIN);
                    continue;
                }
                Errno::AGAIN => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "another process has held it for {} s (`fuser {path}` names it)",
                        PATIENCE.as_secs()
                    ),
                ),
                error => error.into(),
            };
            return Err(StoreError::io("lock", &path, error));
        }
        Ok(file)
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<PutOutcome, StoreError> {
        let mut temporary = Temporary::create(&self.root)?;
        temporary.write_all(bytes).map_err(|e| StoreError::io("write", self.path(key), e))?;
        temporary.persist(&self.path(key), &self.root, Existing::Replace)?;
        Ok(PutOutcome::Stored(Etag::of(bytes)))
    }
}

impl ObjectStore for FileStore {
    fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
        let path = self.path(key);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Object { etag: Etag::of(&bytes), bytes })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(StoreError::io("read", path, error)),
        }
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(StoreError::io("open", path, error)),
        };
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", path, error)),
            }
        }
        bytes.truncate(filled);
        Ok(Some(bytes))
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8], condition: Put) -> Result<PutOutcome, StoreError> {
        let path = self.path(key);
        let _lock = self.lock(key)?;
        match condition {
            Put::Always => self.replace(key, bytes),
            Put::IfAbsent if path.exists() => Ok(PutOutcome::Refused),
            Put::IfAbsent => {
                let mut temporary = Temporary::create(&self.root)?;
                temporary.write_all(bytes).map_err(|e| StoreError::io("write", &path, e))?;
                Ok(match temporary.persist(&path, &self.root, Existing::Keep)? {
                    true => PutOutcome::Stored(Etag::of(bytes)),
                    false => PutOutcome::Refused,
                })
            }
            Put::IfMatch(etag) => match self.get(key)? {
                Some(object) if object.etag == etag => self.replace(key, bytes),
                _ => Ok(PutOutcome::Refused),
            },
        }
    }

    fn upload(&self) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(FileUpload { temporary: Temporary::create(&self.root)?, root: self.root.clone() }))
    }

    fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let path = self.path(key);
        let _lock = self.lock(key)?;
        match fs::remove_file(&path) {
            Ok(()) => {
                sync_directory(path.parent().unwrap_or(&self.root))?;
                Ok(true)
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(StoreError::io("remove", path, error)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let start = match prefix.rsplit_once('/') {
            Some((directory, _)) => self.root.join(directory),
            None => self.root.clone(),
        };
        let mut found = Vec::new();
        self.walk(&start, prefix, &mut found)?;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn place(&self, key: &ObjectKey) -> String {
        self.path(key).into_string()
    }

    fn concurrency(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

impl FileStore {
    fn walk(&self, directory: &Utf8Path, prefix: &str, found: &mut Vec<Listed>) -> Result<(), StoreError> {
        for path in entries(directory)? {
            let Ok(relative) = path.strip_prefix(&self.root) else { continue };
            let Ok(key) = relative.as_str().parse::<ObjectKey>() else { continue };
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(StoreError::io("look at", path, error)),
            };
            if metadata.is_dir() {
                let below = format!("{key}/");
                if below.starts_with(prefix) || prefix.starts_with(&below) {
                    self.walk(&path, prefix, found)?;
                }
            } else if metadata.is_file() && key.as_str().starts_with(prefix) {
                found.push(Listed { key, size: metadata.len() });
            }
        }
        Ok(())
    }
}

/// The paths in a directory; none where there is no such directory.
fn entries(directory: &Utf8Path) -> Result<Vec<Utf8PathBuf>, StoreError> {
    let read = match directory.read_dir_utf8() {
        Ok(read) => read,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", directory, error)),
    };
    // A name that is not UTF-8 is no name of ours.
    Ok(read.filter_map(|entry| Some(entry.ok()?.into_path())).collect())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What becomes of a file that already has the name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays.
    Keep,
    /// It is replaced.
    Replace,
}

/// A file that has no name yet. It is locked while it exists and removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    file: File,
    path: Utf8PathBuf,
}

impl Temporary {
    /// Makes one in `.tmp` of a directory, where it can be renamed from.
    pub(crate) fn create(root: &Utf8Path) -> Result<Self, StoreError> {
        let directory = root.join(TEMPORARY);
        loop {
            // A fresh `RandomState` is seeded by the system: names do not meet even between hosts.
            let path = directory.join(format!("{:016x}", RandomState::new().build_hasher().finish()));
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(StoreError::io("create", path, error)),
            };
            flock(&file, FlockOperation::LockExclusive)
                .map_err(|e| StoreError::io("lock", &path, e.into()))?;
            // Between creating and locking, another process may have swept it away.
            let metadata = file.metadata().map_err(|e| StoreError::io("look at", &path, e))?;
            if metadata.nlink() > 0 {
                return Ok(Self { file, path });
            }
        }
    }

    /// Makes the content durable and gives it a name; false where the name was taken and is kept.
    pub(crate) fn persist(
        self,
        to: &Utf8Path,
        root: &Utf8Path,
        existing: Existing,
    ) -> Result<bool, StoreError> {
        self.file.sync_all().map_err(|e| StoreError::io("synchronise", to, e))?;
        let parent = to.parent().unwrap_or(root);
        create_directories(parent, root)?;
        let done = match existing {
            Existing::Replace => fs::rename(&self.path, to),
            Existing::Keep => fs::hard_link(&self.path, to),
        };
        match done {
            Ok(()) => {
                sync_directory(parent)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(StoreError::io("create", to, error)),
        }
    }
}

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Where it was renamed there is nothing to remove; where removing fails, the next sweep does it.
        drop(fs::remove_file(&self.path));
    }
}

struct FileUpload {
    temporary: Temporary,
    root: Utf8PathBuf,
}

impl Write for FileUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

impl Upload for FileUpload {
    fn commit(self: Box<Self>, key: &ObjectKey) -> Result<(), StoreError> {
        let to = self.root.join(key.as_str());
        self.temporary.persist(&to, &self.root, Existing::Keep).map(drop)
    }

    fn place(&self) -> String {
        self.temporary.path.to_string()
    }
}

/// Makes a directory, unless it may not be made here: then nothing is in it, and writing into it fails.
pub(crate) fn make_if_allowed(path: &Utf8Path) -> Result<(), StoreError> {
    match fs::create_dir_all(path) {
        Err(error) if !may_not(&error) => Err(StoreError::io("create directory", path, error)),
        _ => Ok(()),
    }
}

fn may_not(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Makes a directory below `root` and every one above it durable.
fn create_directories(path: &Utf8Path, root: &Utf8Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(root);
    if path != root {
        create_directories(parent, root)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("create directory", path, error))
        }
        _ => sync_directory(parent),
    }
}

fn sync_directory(path: &Utf8Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| StoreError::io("synchronise", path, e))
}

/// Writes a file of the cache or the workspace whole: temporary file beside it, synchronised, renamed.
pub fn write_whole(path: &Utf8Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    let directory = path.parent().unwrap_or(Utf8Path::new("."));
    fs::create_dir_all(directory).map_err(|e| StoreError::io("create directory", directory, e))?;
    let written = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)
        });
    written.map(drop).map_err(|e| StoreError::io("write", path, e))
}

/// Reads a small file; none where there is none.
pub fn read_whole(path: &Utf8Path) -> Result<Option<Vec<u8>>, StoreError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(StoreError::io("read", path, error)),
    }
}
