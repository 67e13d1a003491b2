//! What is kept: objects under a URL, and the blocks of disks inside them.
//!
//! [`object`] knows four primitives on named bytes and nothing of disks; [`blocks`] knows disks and nothing of
//! images. The layout is the same whatever the URL, and its version is the first part of every name: `v1/…`.
//! Everything here blocks: async callers use `spawn_blocking`.

pub mod blocks;
pub(crate) mod collect;
pub mod disk;
pub mod file;
pub mod measure;
pub mod object;
pub mod pack;
mod turns;

use camino::Utf8PathBuf;
use olbake_core::Digest;

/// Why the store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A text is no object's name.
    #[error(
        "`{0}` is not an object's name: parts of letters, digits, `.`, `_` and `-`, joined by `/`, none starting with `.`"
    )]
    BadKey(String),
    /// A file could not be used.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was attempted: `write`.
        action: &'static str,
        /// On what.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file system has no room left. Nothing half-written was kept.
    #[error("no space is left for `{path}`; `olbake gc` says what can go")]
    Full {
        /// What did not fit.
        path: Utf8PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A network hid whether a write was carried out.
    #[error("whether `{object}` was written is not known")]
    Unsure {
        /// The URL.
        object: String,
        /// What the network said.
        #[source]
        source: std::io::Error,
    },
    /// What keeps the objects refused, or could not be reached.
    #[error("cannot {action} `{object}`")]
    Remote {
        /// What was attempted: `write`.
        action: &'static str,
        /// The URL.
        object: String,
        /// What to do about it.
        help: Option<String>,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A stored block is not what its digest says.
    #[error(
        "block {block} in `{object}` is corrupt: {problem}; remove `{object}` and bake again: what it held is made anew"
    )]
    CorruptBlock {
        /// The block's digest.
        block: Digest,
        /// The file or URL that holds it.
        object: String,
        /// What was found.
        problem: String,
    },
    /// A pack's index cannot be believed.
    #[error(
        "pack `{object}` is corrupt: {problem}; remove `{object}` and bake again: what it held is made anew"
    )]
    CorruptPack {
        /// The file or URL.
        object: String,
        /// What was found.
        problem: String,
    },
    /// A block is in no pack.
    #[error("block {block} (number {number} of the disk) is not in the store")]
    MissingBlock {
        /// Its digest.
        block: Digest,
        /// Its place in the disk.
        number: u32,
    },
    /// A map is for a disk that cannot be.
    #[error("the block map is not usable: {0}")]
    BadMap(String),
}

impl StoreError {
    /// An error of the file system, which tells a full disk from other trouble.
    pub(crate) fn io(action: &'static str, path: impl Into<Utf8PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::Full { path, source }
            }
            _ => Self::Io { action, path, source },
        }
    }
}
