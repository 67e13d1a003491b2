//! Working directories of bakes: one a bake, held by a lock while its process lives, with a journal of what it is
//! about to do and what came of it.
//!
//! After a crash the lock is free: [`sweep`] ends what the process left behind, says from the journal where it
//! was, and removes the directory. Main type: [`WorkDir`].
//!
//! Layout, below `work/v1` of the cache: `NAME-PID-NUMBER/` with `lock`, `journal.jsonl`, `disk.raw` (the disk being
//! changed) and `machine-N/` (what a machine needs while it runs).

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::machine::{Builder, MachineError};

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum Entry {
    /// Something is about to be done.
    Intent {
        /// What: `layer caddy`.
        step: String,
    },
    /// It was done, or failed.
    Outcome {
        /// What.
        step: String,
        /// Whether it was done.
        done: bool,
    },
}

/// A directory for one bake.
#[derive(Debug)]
pub struct WorkDir {
    path: Utf8PathBuf,
    journal: File,
    machines: AtomicU32,
    keep: bool,
    /// Held until the directory is gone.
    _lock: File,
}

static NUMBER: AtomicU32 = AtomicU32::new(1);

/// The directory of all working directories of a cache.
pub fn root(cache: &Utf8Path) -> Utf8PathBuf {
    cache.join("work/v1")
}

impl WorkDir {
    /// Makes one and locks it.
    pub fn create(cache: &Utf8Path, name: &str) -> io::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = root(cache).join(format!("{name}-{}-{number}", std::process::id()));
        // The lock exists before the directory has its name, so that a sweep never finds it unlocked.
        let hidden = root(cache).join(format!(".{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&hidden)?;
        let lock = File::create(hidden.join("lock"))?;
        lock.lock()?;
        let journal = File::options().create(true).append(true).open(hidden.join("journal.jsonl"))?;
        std::fs::rename(&hidden, &path)?;
        Ok(Self { path, journal, machines: AtomicU32::new(1), keep: false, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// The disk being changed.
    pub fn disk(&self) -> Utf8PathBuf {
        self.path.join("disk.raw")
    }

    /// A new, empty directory for a machine.
    pub fn machine(&self) -> io::Result<Utf8PathBuf> {
        let path = self.path.join(format!("machine-{}", self.machines.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path)?;
        Ok(path)
    }

    /// Writes down, durably, what is about to be done.
    pub fn intent(&self, step: &str) -> io::Result<()> {
        self.write(&Entry::Intent { step: step.to_owned() })
    }

    /// Writes down, durably, what came of it.
    pub fn outcome(&self, step: &str, done: bool) -> io::Result<()> {
        self.write(&Entry::Outcome { step: step.to_owned(), done })
    }

    fn write(&self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry).map_err(io::Error::other)?;
        line.push(b'\n');
        let mut journal = &self.journal;
        journal.write_all(&line)?;
        journal.sync_data()
    }

    /// Leaves the directory where it is when this value goes; returns its path.
    pub fn keep(mut self) -> Utf8PathBuf {
        self.keep = true;
        self.path.clone()
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed now is removed by the next sweep.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// The step that a journal's process was at: the last intent without an outcome. A torn last line is passed over.
fn unfinished(journal: &str) -> Option<String> {
    let mut open: Vec<String> = Vec::new();
    for entry in journal.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        match entry {
            Entry::Intent { step } => open.push(step),
            Entry::Outcome { step, .. } => open.retain(|other| *other != step),
        }
    }
    open.pop()
}

/// Removes what processes that no longer run left behind. Returns a line for each bake found.
pub async fn sweep(cache: &Utf8Path, builder: &dyn Builder) -> Result<Vec<String>, MachineError> {
    let root = root(cache);
    let failed = |action: &str, path: &Utf8Path, source| MachineError::Io {
        action: action.to_owned(),
        path: path.to_owned(),
        source,
    };
    let entries = match root.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("cannot list", &root, error)),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(lock) = abandoned(path).map_err(|error| failed("cannot lock", path, error))? else {
            continue;
        };
        let ended = builder.sweep(path).await?;
        let journal = std::fs::read_to_string(path.join("journal.jsonl")).unwrap_or_default();
        let step = unfinished(&journal).unwrap_or_else(|| "its start".to_owned());
        let name = path.file_name().unwrap_or_default().trim_start_matches('.');
        let rest = if ended.is_empty() { String::new() } else { format!(" ({})", ended.join(", ")) };
        found.push(format!("removed what the bake {name} left when it was interrupted at {step}{rest}"));
        std::fs::remove_dir_all(path).map_err(|error| failed("cannot remove", path, error))?;
        drop(lock);
    }
    Ok(found)
}

/// The lock of a directory whose process is gone; none while it lives or where it is too young to have one.
fn abandoned(path: &Utf8Path) -> io::Result<Option<File>> {
    let lock = match File::open(path.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Made and not yet locked, or half removed: its process number tells whether anyone is still at it.
            let process = path.file_name().and_then(|name| name.rsplit('-').nth(1)).unwrap_or_default();
            let alive = Utf8Path::new("/proc").join(process).exists();
            return if alive { Ok(None) } else { File::create(path.join("lock")).map(Some) };
        }
        Err(error) => return Err(error),
    };
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_says_where_a_bake_was() {
        let lines = [
            r#"{"at":"intent","step":"base"}"#,
            r#"{"at":"outcome","step":"base","done":true}"#,
            r#"{"at":"intent","step":"layer caddy"}"#,
            r#"{"at":"outc"#,
        ];
        assert_eq!(unfinished(&lines.join("\n")), Some("layer caddy".into()));
        assert_eq!(unfinished(&lines[..2].join("\n")), None);
        assert_eq!(unfinished(""), None);
    }

    #[test]
    fn a_living_bake_is_not_abandoned() {
        let cache = tempfile::tempdir().unwrap();
        let cache = Utf8Path::from_path(cache.path()).unwrap();
        let work = WorkDir::create(cache, "web").unwrap();
        assert!(abandoned(work.path()).unwrap().is_none());
        let path = work.keep();
        assert!(abandoned(&path).unwrap().is_some());
    }
}
