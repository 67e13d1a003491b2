//! The bytes behind the digests of a plan: made while planning, in a file of the workspace, or to be downloaded.
//!
//! Whatever the place, bytes are checked against their digest before anyone sees them: [`Payloads`] hands out no
//! others. Downloads are kept by digest and shared by all bakes.

mod download;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::plan::Payload;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncRead;

use crate::session::Blobs;

pub use download::public_url;

/// Why bytes could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The plan does not say where the bytes are.
    #[error("the plan does not say where the content {0} is")]
    Unknown(Digest),
    /// The plan came without the bytes that were made while planning.
    #[error("the content {0} was made while planning and did not come with the plan")]
    NotInline(Digest),
    /// A file's path leads out of the workspace.
    #[error("`{0}` leads out of the workspace")]
    Outside(Utf8PathBuf),
    /// A file could not be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of the workspace is not what it was when the plan was made.
    #[error("`{path}` changed while baking: the plan was made with {expected}, now it is {found}")]
    Changed {
        /// The file.
        path: Utf8PathBuf,
        /// Its digest in the plan.
        expected: Digest,
        /// Its digest now.
        found: Digest,
    },
    /// What was downloaded has another checksum.
    #[error("`{url}` has the checksum {found}, the recipe expects {expected}")]
    Checksum {
        /// Where from, without credentials.
        url: String,
        /// What the recipe says.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// It could not be downloaded.
    #[error("cannot download `{url}`: {problem}")]
    Download {
        /// Where from, without credentials.
        url: String,
        /// Why not.
        problem: String,
    },
    /// The download was given up.
    #[error("the download of `{url}` was given up")]
    GivenUp {
        /// Where from, without credentials.
        url: String,
    },
}

/// The bytes behind the digests of a plan.
pub struct Payloads {
    places: BTreeMap<Digest, Payload>,
    inline: BTreeMap<Digest, Arc<[u8]>>,
    workspace: Utf8PathBuf,
    downloads: Utf8PathBuf,
}

impl Payloads {
    /// The payloads of a plan, with the bytes made while planning; `downloads` is the cache's directory for them.
    pub fn new(
        places: BTreeMap<Digest, Payload>,
        inline: BTreeMap<Digest, Arc<[u8]>>,
        workspace: Utf8PathBuf,
        downloads: Utf8PathBuf,
    ) -> Self {
        Self { places, inline, workspace, downloads }
    }

    /// Opens the bytes of a digest, checked; downloads them first where they are not here.
    pub async fn checked(&self, digest: Digest) -> Result<Box<dyn AsyncRead + Send + Unpin>, PayloadError> {
        match self.places.get(&digest) {
            None => Err(PayloadError::Unknown(digest)),
            Some(Payload::Inline { .. }) => match self.inline.get(&digest) {
                Some(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
                None => Err(PayloadError::NotInline(digest)),
            },
            Some(Payload::File { path, .. }) => {
                let path = self.workspace.join(inside(path)?);
                let file = blocking(move || checked_file(&path, &digest)).await?;
                Ok(Box::new(tokio::fs::File::from_std(file)))
            }
            Some(Payload::Url { url }) => {
                let file = download::fetch(url, &digest, &self.downloads).await?;
                Ok(Box::new(tokio::fs::File::from_std(file)))
            }
        }
    }
}

#[async_trait]
impl Blobs for Payloads {
    async fn open(&self, digest: Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.checked(digest).await.map_err(io::Error::other)
    }
}

/// Checks that a file has a digest.
pub async fn check_file(path: &Utf8Path, digest: &Digest) -> Result<(), PayloadError> {
    let (path, digest) = (path.to_owned(), *digest);
    blocking(move || checked_file(&path, &digest)).await.map(drop)
}

/// The path, if it stays below the workspace.
fn inside(path: &Utf8Path) -> Result<&Utf8Path, PayloadError> {
    let below =
        path.components().all(|part| matches!(part, Utf8Component::Normal(_) | Utf8Component::CurDir));
    if below { Ok(path) } else { Err(PayloadError::Outside(path.to_owned())) }
}

/// Opens a file at its start, after all of it was read and found to have the digest.
fn checked_file(path: &Utf8Path, expected: &Digest) -> Result<File, PayloadError> {
    let failed = |action| move |source| PayloadError::Io { action, path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed("open"))?;
    let found = digest_of(&mut file).map_err(failed("read"))?;
    if found != *expected {
        return Err(PayloadError::Changed { path: path.to_owned(), expected: *expected, found });
    }
    file.rewind().map_err(failed("read"))?;
    Ok(file)
}

/// The digest of all that can be read.
pub fn digest_of(from: &mut impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Runs something on a thread of its own. The thread is not waited for when the future is dropped, nor when the
/// program ends: a stuck connection does not hold up Ctrl-C.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, hear) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || drop(tell.send(act())));
    match hear.await {
        Ok(done) => done,
        Err(_) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the thread sends what it made before it ends"),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn read(payloads: &Payloads, content: &[u8]) -> Result<Vec<u8>, PayloadError> {
        let mut bytes = Vec::new();
        payloads.checked(Digest::of(content)).await?.read_to_end(&mut bytes).await.unwrap();
        Ok(bytes)
    }

    fn payloads(
        directory: &tempfile::TempDir,
        content: &[u8],
        place: Payload,
        inline: Option<&[u8]>,
    ) -> Payloads {
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let digest = Digest::of(content);
        let inline = inline.map(|bytes| (digest, Arc::from(bytes))).into_iter().collect();
        Payloads::new([(digest, place)].into(), inline, path.to_owned(), path.join("downloads"))
    }

    #[tokio::test]
    async fn inline_bytes_come_with_the_plan() {
        let directory = tempfile::tempdir().unwrap();
        let with = |inline| payloads(&directory, b"x", Payload::Inline { size: 1 }, inline);
        assert_eq!(read(&with(Some(b"x")), b"x").await.unwrap(), b"x");
        assert!(matches!(read(&with(None), b"x").await, Err(PayloadError::NotInline(_))));
        assert!(matches!(read(&with(None), b"y").await, Err(PayloadError::Unknown(_))));
    }

    #[tokio::test]
    async fn a_file_that_changed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let content = vec![7; 700_000];
        std::fs::write(directory.path().join("f"), &content).unwrap();
        let place = |path: &str| Payload::File { path: path.into(), size: 0 };
        assert_eq!(read(&payloads(&directory, &content, place("f"), None), &content).await.unwrap(), content);
        std::fs::write(directory.path().join("f"), "other").unwrap();
        let error = read(&payloads(&directory, &content, place("f"), None), &content).await.unwrap_err();
        assert!(matches!(error, PayloadError::Changed { .. }), "{error:?}");
        for outside in ["../f", "/etc/passwd", "a/../../f"] {
            let error = read(&payloads(&directory, b"", place(outside), None), b"").await.unwrap_err();
            assert!(matches!(error, PayloadError::Outside(_)), "{error:?}");
        }
    }
}
