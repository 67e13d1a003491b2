//! Blobs: bytes that came over the stream, each in a file named by its digest.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::{At, OpError, Result};

/// The blobs of a run, below its working directory.
pub(crate) struct Blobs {
    directory: Utf8PathBuf,
    arriving: HashMap<Digest, (File, Sha256)>,
}

impl Blobs {
    /// Opens the directory, making it with mode 0700.
    pub(crate) fn open(work_dir: &Utf8Path) -> Result<Self> {
        let directory = work_dir.join("blobs");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).at("make", &directory)?;
        Ok(Self { directory, arriving: HashMap::new() })
    }

    /// Where a blob is, or would be.
    pub(crate) fn path(directory: &Utf8Path, digest: &Digest) -> Utf8PathBuf {
        directory.join(digest.hex())
    }

    /// The directory of the blobs.
    pub(crate) fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// Whether a blob is there, whole.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        Self::path(&self.directory, digest).exists()
    }

    /// Takes a piece; an empty one ends the blob. Bytes that are not those of the digest are refused.
    pub(crate) fn take(&mut self, digest: Digest, piece: &[u8]) -> Result<()> {
        let partial = self.directory.join(format!("{}.part", digest.hex()));
        if !piece.is_empty() {
            let (file, hash) = match self.arriving.entry(digest) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => place.insert((create(&partial)?, Sha256::new())),
            };
            hash.update(piece);
            return file.write_all(piece).at("write", &partial);
        }
        let found = match self.arriving.remove(&digest) {
            Some((_, hash)) => Digest::from_bytes(hash.finalize().into()),
            None => {
                drop(create(&partial)?);
                Digest::of(b"")
            }
        };
        if found != digest {
            fs::remove_file(&partial).at("remove", &partial)?;
            return Err(OpError::wrong(format!("the bytes sent as {digest} are {found}: they were damaged")));
        }
        fs::rename(&partial, Self::path(&self.directory, &digest)).at("rename", &partial)
    }
}

fn create(path: &Utf8Path) -> Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).at("create", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bytes_of_the_digest_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut blobs = Blobs::open(Utf8Path::from_path(directory.path()).unwrap()).unwrap();
        let digest = Digest::of(b"abcdef");
        blobs.take(digest, b"abc").unwrap();
        blobs.take(digest, b"xyz").unwrap();
        assert!(blobs.take(digest, b"").is_err());
        assert!(!blobs.has(&digest));
        for piece in [&b"abc"[..], b"def", b""] {
            blobs.take(digest, piece).unwrap();
        }
        assert!(blobs.has(&digest));
        blobs.take(Digest::of(b""), b"").unwrap();
        assert!(blobs.has(&Digest::of(b"")));
    }
}
