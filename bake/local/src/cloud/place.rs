//! The cloud's folder: where each thing has its own, how a specification is written and read, and locks.
//!
//! A thing's folder is made before anything of it, and is removed after everything of it. What it is called in the
//! kernel follows from the cloud's folder and the id alone, so that it is found without any file. Main type:
//! [`Place`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_engine::machine::MachineError;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CloudError, Id, Kind};
use crate::host::io_error;

/// Of the layout below the folder.
const VERSION: &str = "v1";
/// A thing's specification, in its folder.
pub(super) const SPEC: &str = "spec.json";

/// A cloud's folder.
#[derive(Clone, Debug)]
pub(super) struct Place {
    folder: Utf8PathBuf,
    /// Part of every name in the kernel: tells clouds of one host apart.
    tag: String,
}

/// What an interface of the host's is for: a letter of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Bridge,
    Instance,
}

impl Place {
    pub(super) fn open(folder: &Utf8Path) -> Result<Self, CloudError> {
        let own = folder.join(VERSION);
        DirBuilder::new().recursive(true).mode(0o700).create(&own).map_err(io_error("cannot make", &own))?;
        let folder = own.canonicalize_utf8().map_err(io_error("cannot find", &own))?;
        // Shells and option lists are told of it: it is refused here rather than misunderstood there.
        if folder.as_str().contains(|c: char| c.is_control() || ",:\\\"'".contains(c)) {
            return Err(crate::host::host_error(format!(
                "`{folder}` cannot hold a local cloud: a name above it contains one of , : \\ \" '"
            ))
            .into());
        }
        let tag = Digest::of(folder.as_str().as_bytes()).hex()[..4].to_owned();
        Ok(Self { folder, tag })
    }

    pub(super) fn folder(&self) -> &Utf8Path {
        &self.folder
    }

    /// The folder of a thing.
    pub(super) fn of(&self, kind: Kind, id: &str) -> Utf8PathBuf {
        self.folder.join(kind.folder()).join(id)
    }

    /// What every interface and control group of this cloud begins with.
    pub(super) fn prefix(&self) -> String {
        format!("ob{}", self.tag)
    }

    /// The host's interface for a thing: 15 characters, as many as the kernel allows.
    pub(super) fn link(&self, link: Link, id: &Id) -> String {
        let letter = match link {
            Link::Bridge => 'n',
            Link::Instance => 'i',
        };
        format!("{}{letter}{}", self.prefix(), &Digest::of(id.as_str().as_bytes()).hex()[..8])
    }

    /// A hardware address that is always the same for a thing.
    pub(super) fn hardware_address(&self, link: Link, id: &Id) -> String {
        let digest = Digest::of(format!("{} {}", self.folder, self.link(link, id)).as_bytes());
        let [a, b, c, d, e, ..] = digest.as_bytes();
        // Locally administered, of one machine.
        format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
    }

    /// A thing's specification; `None`: there is none.
    pub(super) fn spec<T: DeserializeOwned>(&self, kind: Kind, id: &Id) -> Result<Option<T>, CloudError> {
        read_json(&self.of(kind, id.as_str()).join(SPEC))
    }

    /// A thing's specification, which must be there.
    pub(super) fn known<T: DeserializeOwned>(&self, kind: Kind, id: &Id) -> Result<T, CloudError> {
        self.spec(kind, id)?.ok_or_else(|| CloudError::Missing { kind, id: id.clone() })
    }

    /// An error where a thing is not there.
    pub(super) fn expect(&self, kind: Kind, id: &Id) -> Result<(), CloudError> {
        let spec: serde_json::Value = self.known(kind, id)?;
        drop(spec);
        Ok(())
    }

    /// Writes a specification; makes the thing's folder.
    pub(super) fn write_spec(&self, kind: Kind, id: &Id, spec: &impl Serialize) -> Result<(), CloudError> {
        let folder = self.of(kind, id.as_str());
        make_folder(&folder)?;
        write_json(&folder.join(SPEC), spec)
    }

    /// Every thing of a kind that has a folder.
    pub(super) fn ids(&self, kind: Kind) -> Result<Vec<Id>, CloudError> {
        let folder = self.folder.join(kind.folder());
        let entries = match folder.read_dir_utf8() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io_error("cannot read", &folder))?,
        };
        let mut ids: Vec<Id> = entries.filter_map(|entry| entry.ok()?.file_name().parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Removes a thing's folder, its specification last.
    pub(super) fn remove(&self, kind: Kind, id: &str) -> Result<(), CloudError> {
        let folder = self.of(kind, id);
        let entries = match folder.read_dir_utf8() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(io_error("cannot read", &folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(io_error("cannot read", &folder))?;
            if entry.file_name() != SPEC {
                remove(entry.path())?;
            }
        }
        remove(&folder)
    }

    /// Holds a thing for oneself until the lock is dropped; waits while another process does.
    pub(super) fn lock(&self, kind: Kind, id: &str) -> Result<Lock, CloudError> {
        let folder = self.folder.join("locks");
        make_folder(&folder)?;
        Lock::take(folder.join(format!("{}-{id}", kind.folder())))
    }
}

/// A lock that is given back, and its file removed, when it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    path: Utf8PathBuf,
    file: File,
}

impl Lock {
    fn take(path: Utf8PathBuf) -> Result<Self, CloudError> {
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(io_error("cannot open", &path))?;
            flock(&file, FlockOperation::LockExclusive)
                .map_err(|error| io_error("cannot lock", &path)(error.into()))?;
            // Whoever had it before removed the file: then it locks nobody else out.
            let opened = file.metadata().map_err(io_error("cannot read", &path))?;
            if fs::metadata(&path).is_ok_and(|named| named.ino() == opened.ino()) {
                return Ok(Self { path, file });
            }
        }
    }

    /// Another handle of the same lock, for a process that is to hold it too.
    pub(super) fn share(&self) -> Result<File, CloudError> {
        Ok(self.file.try_clone().map_err(io_error("cannot share", &self.path))?)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A file more does no harm.
        fs::remove_file(&self.path).ok();
    }
}

/// Makes a folder and those above it.
pub(super) fn make_folder(folder: &Utf8Path) -> Result<(), MachineError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("cannot make", folder))
}

/// Reads what [`write_json`] wrote; `None`: there is no file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Utf8Path) -> Result<Option<T>, CloudError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(io_error("cannot read", path))?,
    };
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|source| CloudError::Unreadable { path: path.to_owned(), source })
}

/// Writes a value, whole or not at all.
pub(super) fn write_json(path: &Utf8Path, value: &impl Serialize) -> Result<(), CloudError> {
    let unreadable = |source| CloudError::Unreadable { path: path.to_owned(), source };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(unreadable)?;
    bytes.push(b'\n');
    Ok(write_whole(path, &bytes)?)
}

/// Writes a file, whole or not at all, and to the platter. For root's eyes only.
pub(super) fn write_whole(path: &Utf8Path, bytes: &[u8]) -> Result<(), MachineError> {
    let folder = path.parent().expect("a file of the cloud's has a folder");
    let new = folder.join(format!(".{}.new", path.file_name().unwrap_or("file")));
    let written = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(io_error("cannot write", path))
}

/// Removes a file, or a folder and all in it; it may be gone already.
pub(super) fn remove(path: &Utf8Path) -> Result<(), CloudError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(io_error("cannot remove", path)(error).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::open(Utf8Path::from_path(folder.path()).unwrap()).unwrap();
        (folder, place)
    }

    #[test]
    fn names_in_the_kernel_fit_and_differ() {
        let (_folder, place) = place();
        let names: Vec<String> = ["a", &"x".repeat(40)]
            .into_iter()
            .flat_map(|id| [Link::Bridge, Link::Instance].map(|link| place.link(link, &id.parse().unwrap())))
            .collect();
        assert!(names.iter().all(|name| name.len() == 15 && name.starts_with(&place.prefix())), "{names:?}");
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
    }

    #[test]
    fn a_specification_is_read_back_and_removed_last() {
        let (_folder, place) = place();
        let id: Id = "net".parse().unwrap();
        assert_eq!(place.spec::<String>(Kind::Network, &id).unwrap(), None);
        place.write_spec(Kind::Network, &id, &"content").unwrap();
        assert_eq!(place.spec::<String>(Kind::Network, &id).unwrap().as_deref(), Some("content"));
        assert_eq!(place.ids(Kind::Network).unwrap(), vec![id.clone()]);
        place.remove(Kind::Network, id.as_str()).unwrap();
        place.remove(Kind::Network, id.as_str()).unwrap();
        assert!(place.ids(Kind::Network).unwrap().is_empty());
    }

    #[test]
    fn a_torn_specification_is_named() {
        let (_folder, place) = place();
        let id: Id = "net".parse().unwrap();
        place.write_spec(Kind::Network, &id, &"content").unwrap();
        fs::write(place.of(Kind::Network, "net").join(SPEC), "\"cont").unwrap();
        let error = place.spec::<String>(Kind::Network, &id).unwrap_err();
        assert!(matches!(error, CloudError::Unreadable { .. }), "{error}");
    }

    #[test]
    fn a_lock_is_held_by_one_and_leaves_no_file() {
        let (_folder, place) = place();
        let counter = std::sync::Mutex::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _held = place.lock(Kind::Instance, "web").unwrap();
                        let alone = counter.try_lock().unwrap();
                        std::thread::yield_now();
                        drop(alone);
                    }
                });
            }
        });
        assert_eq!(place.folder().join("locks").read_dir_utf8().unwrap().count(), 0);
    }
}
