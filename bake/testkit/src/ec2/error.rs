//! Why the test cloud cannot be started or asked.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};

/// Why the test cloud cannot be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// A file or a program of its own.
    #[error("{action} `{path}`")]
    Io {
        /// What was tried: `cannot open`.
        action: &'static str,
        /// On what.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// moto could not be installed.
    #[error("cannot install moto: `{command}` failed: {reason}")]
    Install {
        /// As typed.
        command: String,
        /// What it said.
        reason: String,
    },
    /// It ended, or said no port.
    #[error("moto did not start; what it said is in `{0}`")]
    Moto(Utf8PathBuf),
    /// There is no place for caches.
    #[error("neither `HOME` nor `XDG_CACHE_HOME` says where moto is to be installed")]
    NoHome,
    /// Another one uses the folder.
    #[error("another test cloud runs on `{0}`")]
    InUse(Utf8PathBuf),
    /// moto answered with an error, or with what is no answer.
    #[error("moto: {0}")]
    Answer(String),
    /// A connection to moto, or a request to it.
    #[error("moto cannot be asked")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An instance's body.
    #[error("a body")]
    Body(#[from] super::body::BodyError),
}

pub(super) fn io_error(action: &'static str, path: &Utf8Path) -> impl FnOnce(io::Error) -> CloudError {
    let path = path.to_owned();
    move |source| CloudError::Io { action, path, source }
}
