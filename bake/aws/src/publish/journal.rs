//! What a publish into a region has done, on this host: lines of JSON, each appended when it is so. Main type:
//! [`Journal`].
//!
//! What is lost with the last lines is done again, and doing it again changes nothing: a snapshot is started by a
//! token that was written before, blocks are put at their places, an image is found by its name.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use serde::{Deserialize, Serialize};

use super::PublishError;
use super::plan::Parent;

/// Blocks that are written down together.
const TOGETHER: usize = 64;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// What is about to be started.
    Begun { token: String, parent: Option<Parent> },
    /// It is started.
    Snapshot { id: String, owner: Option<String> },
    /// Blocks that are in it.
    Put(Vec<u32>),
    /// All are in it, and AWS was told so.
    Completed,
}

/// What a journal knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) token: Option<String>,
    pub(super) parent: Option<Parent>,
    pub(super) snapshot: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) put: BTreeSet<u32>,
    pub(super) completed: bool,
}

impl Known {
    fn learn(&mut self, line: Line) {
        match line {
            Line::Begun { token, parent } => *self = Self { token: Some(token), parent, ..Self::default() },
            Line::Snapshot { id, owner } => (self.snapshot, self.owner) = (Some(id), owner),
            Line::Put(blocks) => self.put.extend(blocks),
            Line::Completed => self.completed = true,
        }
    }
}

/// The journal of a version in a region.
#[derive(Debug)]
pub(super) struct Journal {
    path: Utf8PathBuf,
    file: File,
    put: Vec<u32>,
}

pub(super) fn path(directory: &Utf8Path, version: &Digest, region: &str) -> Utf8PathBuf {
    directory.join(format!("{}-{region}.journal", version.hex()))
}

/// What a journal knows; nothing where there is none. What was cut short at its end does not count.
pub(super) fn read(path: &Utf8Path) -> Result<Known, PublishError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
        Err(source) => return Err(PublishError::Journal { path: path.to_owned(), source }),
    };
    let mut known = Known::default();
    for line in text.split_inclusive('\n') {
        match serde_json::from_str(line) {
            Ok(line) => known.learn(line),
            Err(_) if !line.ends_with('\n') => break,
            Err(error) => {
                let source = io::Error::new(io::ErrorKind::InvalidData, error);
                return Err(PublishError::Journal { path: path.to_owned(), source });
            }
        }
    }
    Ok(known)
}

/// The place is in the registry: nothing is to be gone on with.
pub(super) fn remove(path: &Utf8Path) -> Result<(), PublishError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PublishError::Journal { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

impl Journal {
    /// Opens one to be written on, or begins it anew where the plan does not go on with what it knows.
    pub(super) fn open(
        path: &Utf8Path,
        token: &str,
        parent: Option<&Parent>,
    ) -> Result<(Self, Known), PublishError> {
        let failed = |source| PublishError::Journal { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut known = read(path)?;
        let goes_on = known.token.as_deref() == Some(token);
        let file = OpenOptions::new().create(true).append(true).truncate(false).open(path).map_err(failed)?;
        let mut journal = Self { path: path.to_owned(), file, put: Vec::new() };
        if goes_on {
            journal.mend().map_err(failed)?;
        } else {
            journal.file.set_len(0).map_err(failed)?;
            let begun = Line::Begun { token: token.to_owned(), parent: parent.cloned() };
            known = Known::default();
            known.learn(begun.clone());
            journal.write(&begun)?;
            journal.sync()?;
        }
        Ok((journal, known))
    }

    /// Cuts off a line that was not written whole.
    fn mend(&self) -> io::Result<()> {
        let text = std::fs::read(&self.path)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.file.set_len(whole as u64)
    }

    pub(super) fn started(&mut self, snapshot: &str, owner: Option<&str>) -> Result<(), PublishError> {
        self.write(&Line::Snapshot { id: snapshot.to_owned(), owner: owner.map(str::to_owned) })?;
        self.sync()
    }

    /// A block is in the snapshot. That need not be durable: a block put twice is the same block.
    pub(super) fn put(&mut self, block: u32) -> Result<(), PublishError> {
        self.put.push(block);
        if self.put.len() >= TOGETHER { self.flush() } else { Ok(()) }
    }

    pub(super) fn completed(&mut self) -> Result<(), PublishError> {
        self.flush()?;
        self.write(&Line::Completed)?;
        self.sync()
    }

    pub(super) fn flush(&mut self) -> Result<(), PublishError> {
        if self.put.is_empty() {
            return Ok(());
        }
        let line = Line::Put(std::mem::take(&mut self.put));
        self.write(&line)
    }

    fn write(&mut self, line: &Line) -> Result<(), PublishError> {
        let text = serde_json::to_string(line).expect("a line is expressible in JSON") + "\n";
        self.file
            .write_all(text.as_bytes())
            .map_err(|source| PublishError::Journal { path: self.path.clone(), source })
    }

    fn sync(&self) -> Result<(), PublishError> {
        self.file.sync_all().map_err(|source| PublishError::Journal { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use super::*;

    #[test]
    fn what_was_cut_short_does_not_count_and_another_token_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("x/j");
        let (mut journal, known) = Journal::open(&path, "one", None).unwrap();
        assert_eq!(known.snapshot, None);
        journal.started("snap-1", Some("123")).unwrap();
        (0..130).for_each(|block| journal.put(block).unwrap());
        drop(journal);
        assert_eq!(read(&path).unwrap().put.len(), 128, "what was not flushed is lost");
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"put\":[7").unwrap();
        let (mut journal, known) = Journal::open(&path, "one", None).unwrap();
        assert_eq!((known.snapshot.as_deref(), known.put.len()), (Some("snap-1"), 128));
        journal.completed().unwrap();
        assert!(read(&path).unwrap().completed);
        let (journal, known) = Journal::open(&path, "two", None).unwrap();
        assert_eq!((known.token.as_deref(), known.snapshot, known.completed), (Some("two"), None, false));
        drop(journal);
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), Known::default());
        remove(&path).unwrap();
    }
}
