//! Locks between processes: files that the kernel unlocks when their holder ends, however it ends.
//! Main type: [`Lock`].

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::store::StoreError;

/// Who may hold a lock beside its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Others who share it.
    Shared,
    /// Nobody.
    Exclusive,
}

/// Who holds a lock; of several, the one that came last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process and host; absent while it has not yet said so.
    pub process: Option<(u32, String)>,
    /// How long it has held it.
    pub held: Duration,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((process, host)) => {
                write!(f, "process {process} on {host}, which began {} s ago", self.held.as_secs())
            }
            None => f.write_str("another process"),
        }
    }
}

/// What a holder writes into the lock's file.
#[derive(Serialize, Deserialize)]
struct Card {
    process: u32,
    host: String,
}

/// A lock that is held until this value goes.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a name in a directory, or says who has it.
    pub fn attempt(
        directory: &Utf8Path,
        name: &str,
        sharing: Sharing,
    ) -> Result<Result<Self, Holder>, StoreError> {
        let (mut file, path) = open(directory, name)?;
        let operation = match sharing {
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
            Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&file, operation) {
            Ok(()) => Ok(Ok(Self::introduce(file))),
            Err(Errno::WOULDBLOCK) => Ok(Err(holder(&mut file))),
            Err(error) => Err(StoreError::io("lock", path, error.into())),
        }
    }

    /// Takes the lock of a name in a directory, however long that takes.
    pub fn wait(directory: &Utf8Path, name: &str, sharing: Sharing) -> Result<Self, StoreError> {
        let (file, path) = open(directory, name)?;
        let operation = match sharing {
            Sharing::Shared => FlockOperation::LockShared,
            Sharing::Exclusive => FlockOperation::LockExclusive,
        };
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Self::introduce(file)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(StoreError::io("lock", path, error.into())),
            }
        }
    }

    /// Writes into the file who holds the lock. That is for people: where it cannot be written, the lock still holds.
    fn introduce(mut file: File) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let card = serde_json::to_vec(&Card { process: std::process::id(), host }).unwrap_or_default();
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&card));
        drop(written);
        Self { _file: file }
    }
}

fn open(directory: &Utf8Path, name: &str) -> Result<(File, Utf8PathBuf), StoreError> {
    std::fs::create_dir_all(directory).map_err(|e| StoreError::io("create directory", directory, e))?;
    let path = directory.join(format!("{name}.lock"));
    // The file stays when the lock is released: removing it would let two hold "the" lock, on two files.
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    file.map(|file| (file, path.clone())).map_err(|e| StoreError::io("open", path, e))
}

fn holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let card = file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str::<Card>(&text).ok());
    let since = file.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::now());
    Holder {
        process: card.map(|Card { process, host }| (process, host)),
        held: SystemTime::now().duration_since(since).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_says_who_has_it_and_frees_itself() {
        let directory = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(directory.path()).unwrap();
        let lock = Lock::attempt(directory, "web", Sharing::Exclusive).unwrap().unwrap();
        let holder = Lock::attempt(directory, "web", Sharing::Shared).unwrap().unwrap_err();
        assert_eq!(holder.process.as_ref().map(|(process, _)| *process), Some(std::process::id()));
        assert!(holder.to_string().starts_with(&format!("process {} on ", std::process::id())));
        assert!(Lock::attempt(directory, "base", Sharing::Exclusive).unwrap().is_ok());
        drop(lock);
        let first = Lock::wait(directory, "web", Sharing::Shared).unwrap();
        let second = Lock::attempt(directory, "web", Sharing::Shared).unwrap().unwrap();
        assert!(Lock::attempt(directory, "web", Sharing::Exclusive).unwrap().is_err());
        drop((first, second));
        assert!(Lock::attempt(directory, "web", Sharing::Exclusive).unwrap().is_ok());
    }
}
