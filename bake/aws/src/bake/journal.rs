//! What a bake in a region has begun, on this host: written before it is asked for. Main type: [`Journal`].
//!
//! There is little to know: everything that a bake makes carries its token. What cannot be read from AWS afterwards is how
//! the layers ran, which is written down when the disk is sealed; so a snapshot of a bake without that line is of no
//! use.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_engine::event::LayerResult;
use olbake_engine::store::file::write_whole;
use serde::{Deserialize, Serialize};

use super::{Ec2BakeError, Result};

/// What is known of a bake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Begun {
    /// What everything that it makes is tagged with.
    pub(super) token: String,
    /// How the layers ran; none before the disk was sealed.
    pub(super) sealed: Option<Vec<LayerResult>>,
}

/// The journal of a key in a region.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    path: Utf8PathBuf,
}

impl Journal {
    pub(super) fn new(directory: &Utf8Path, key: &Digest, region: &str) -> Self {
        Self { path: directory.join(format!("{}-{region}.json", key.hex())) }
    }

    /// What was begun. A file that is no journal was never ours to go on with.
    pub(super) fn read(&self) -> Result<Option<Begun>> {
        match std::fs::read(&self.path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.failed("read")(source)),
        }
    }

    /// Writes down what is begun, whole and durable.
    pub(super) fn write(&self, begun: &Begun) -> Result<()> {
        let text = serde_json::to_vec(begun).expect("a journal is expressible in JSON");
        Ok(write_whole(&self.path, &text, 0o600)?)
    }

    /// Nothing is left to go on with.
    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> Ec2BakeError + use<> {
        let path = self.path.clone();
        move |source| Ec2BakeError::Journal { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use super::*;

    #[test]
    fn what_was_begun_is_read_again_until_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(folder.path()).unwrap().join("ec2");
        let journal = Journal::new(&directory, &Digest::of(b"key"), "eu-west-1");
        assert_eq!(journal.read().unwrap(), None);
        let begun = Begun { token: "t".to_owned(), sealed: None };
        journal.write(&begun).unwrap();
        assert_eq!(journal.read().unwrap(), Some(begun.clone()));
        let sealed = Begun { sealed: Some(Vec::new()), ..begun };
        journal.write(&sealed).unwrap();
        assert_eq!(journal.read().unwrap(), Some(sealed));
        journal.remove().unwrap();
        journal.remove().unwrap();
        assert_eq!(journal.read().unwrap(), None);
    }
}
