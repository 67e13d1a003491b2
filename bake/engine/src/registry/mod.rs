//! What versions exist: append-only records, and pointers to them that change by compare-and-swap.
//!
//! | object | what it is | written |
//! |---|---|---|
//! | `v1/packs/DIGEST.pack` | blocks, see [`crate::store::pack`] | while disks are kept |
//! | `v1/maps/DIGEST.json.zst` | a block map | after its blocks |
//! | `v1/layers/KEY.json` | the map of a layer's disk: later bakes go on from it | after its map |
//! | `v1/plans/DIGEST.json.zst` | a version's plan | before the version |
//! | `v1/versions/IMAGE/VARIANT/DIGEST.json` | a [`Version`]; the variant of a plain image is `-` | after map and plan |
//! | `v1/keys/KEY.json` | the version of a plan's key | last: from here on a bake of the key has nothing to do |
//! | `v1/heads/IMAGE/VARIANT.json` | the newest version | after the version |
//! | `v1/channels/IMAGE/VARIANT/CHANNEL/SEQUENCE.json` | an entry of a channel's history, see [`channels`] | after the version |
//! | `v1/channels/IMAGE/VARIANT/CHANNEL.json` | the channel's last entry | after the entry |
//! | `v1/approvals/DIGEST/CHANNEL/SIGNATURE.sig` | an SSH signature, see [`approvals`] | on its own |
//! | `v1/revoked/DIGEST.json` | that a version must not be deployed any more, see [`revocations`] | on its own |
//! | `v1/places/DIGEST/KIND/REGION.json` | an image of a version at a provider, see [`places`] | after that image |
//!
//! What a pointer names was written before it, so a process killed at any moment leaves nothing half. Main types:
//! [`Registry`], whose methods are asynchronous, and [`Records`], the same blocking.

pub mod approvals;
pub mod channels;
pub mod places;
mod records;
mod resolve;
pub mod revocations;
mod version;

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::blockmap::BlockMap;
use olbake_core::plan::Plan;
use olbake_core::promotion::{Channel, ChannelRecord, Revocation};
use olbake_core::{Digest, ImageName, ImageRef};

pub use records::{Layer, Records};
pub(crate) use records::{digest_in, key_pointer};
pub use version::{VERSION_SCHEMA, Version};

use crate::cache::Holder;
use crate::store::StoreError;
use crate::store::blocks::Seed;
use crate::store::object::ObjectStore;

/// Why the registry could not answer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No version of such an image.
    #[error("no version of `{name}` is registered{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownImage {
        /// What was asked for.
        name: String,
        /// A name like it that has versions.
        suggestion: Option<String>,
    },
    /// No version of such a digest.
    #[error("no version `{reference}` is registered")]
    UnknownVersion {
        /// What was asked for.
        reference: String,
    },
    /// Several versions' digests start so.
    #[error("`{reference}` is the start of several versions' digests: {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// The versions, as one would write them.
        candidates: Vec<String>,
    },
    /// The text is no reference.
    #[error("`{text}` names no version: write `web`, `web/large`, `web@DIGEST` or `sha256:DIGEST`")]
    BadReference {
        /// The text.
        text: String,
    },
    /// An object is not what was written.
    #[error("`{object}` is not what was written: {problem}; remove it and bake again")]
    Torn {
        /// The file or URL.
        object: String,
        /// What was found.
        problem: String,
    },
    /// An object that a pointer names is not there.
    #[error("`{object}` is not there")]
    Missing {
        /// The file or URL.
        object: String,
    },
    /// A record is of a later olbake.
    #[error("`{object}` has form {found}, this olbake knows {known}: use a newer one")]
    Schema {
        /// The file or URL.
        object: String,
        /// Its form.
        found: u64,
        /// Ours.
        known: u32,
    },
    /// An object about channels is not what was written.
    #[error("`{object}` is not what was written: {problem}; {mend}")]
    TornChannel {
        /// The file or URL.
        object: String,
        /// What was found.
        problem: String,
        /// What to do about it.
        mend: &'static str,
    },
    /// What says where a version is is not what was written.
    #[error("`{object}` is not what was written: {problem}; remove it and publish the version again")]
    TornPlace {
        /// The file or URL.
        object: String,
        /// What was found.
        problem: String,
    },
    /// A channel was moved between a decision and the change, by this entry.
    #[error("{}", moved_meanwhile(.0))]
    ChannelMoved(Box<ChannelRecord>),
    /// A channel points to nothing yet.
    #[error("no version of `{image}` is in {channel} yet")]
    EmptyChannel {
        /// The image.
        image: ImageRef,
        /// The channel.
        channel: Channel,
    },
    /// A channel points to a version that is gone.
    #[error("`{image}@{}`, which {channel} points to, is not registered any more", digest.short())]
    Unregistered {
        /// The image.
        image: ImageRef,
        /// The version.
        digest: Digest,
        /// The channel.
        channel: Channel,
    },
    /// A version must not be deployed.
    #[error("`{image}@{}` must not be deployed: {}", digest.short(), revoked(digest, revocation))]
    Revoked {
        /// The image.
        image: ImageRef,
        /// The version.
        digest: Digest,
        /// Its revocation, or that of what it starts from.
        revocation: Box<Revocation>,
    },
    /// Others work with the registry.
    #[error("the registry is in use by {holder}")]
    Busy {
        /// One of them.
        holder: Holder,
    },
    /// The URL is of a kind that is not known.
    #[error("`{url}` is no registry's URL: write `file://PATH`")]
    BadUrl {
        /// The URL.
        url: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn moved_meanwhile(record: &ChannelRecord) -> String {
    let ChannelRecord { image, channel, digest, by, at, .. } = record;
    let to = digest.short();
    format!("{channel} of `{image}` was moved to `{to}` by {by} at {at}, meanwhile; nothing was changed")
}

fn revoked(asked: &Digest, revocation: &Revocation) -> String {
    let Revocation { schema: _, digest, image, by, at, why } = revocation;
    let which = match digest == asked {
        true => "it".to_owned(),
        false => format!("`{image}@{}`, which it starts from,", digest.short()),
    };
    format!("{which} was revoked by {by} at {at}: {why}")
}

type Result<T> = std::result::Result<T, RegistryError>;

/// What versions exist, and the blocks they are made of. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    records: Arc<Records>,
}

impl Registry {
    /// Opens the registry at a URL; a relative `file://` is relative to the workspace. A directory that is not
    /// there is made.
    pub fn open(url: &str, workspace: &Utf8Path) -> Result<Self> {
        Ok(Self { records: Arc::new(Records::open(url, workspace)?) })
    }

    /// The registry in an object store; `locks` is a directory for its locks on this host.
    pub fn over(objects: Arc<dyn ObjectStore>, locks: Utf8PathBuf) -> Self {
        Self { records: Arc::new(Records::over(objects, locks)) }
    }

    /// The same, blocking: for code that is not asynchronous.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The version of a plan's key.
    pub async fn by_key(&self, key: &Digest) -> Result<Option<Version>> {
        let key = *key;
        self.run(move |records| records.by_key(&key)).await
    }

    /// The version of a digest.
    pub async fn by_digest(&self, digest: &Digest) -> Result<Option<Version>> {
        let digest = *digest;
        self.run(move |records| records.by_digest(&digest)).await
    }

    /// The versions of an image, all variants; of all images where none is given. Oldest first.
    pub async fn versions(&self, image: Option<&ImageName>) -> Result<Vec<Version>> {
        let image = image.cloned();
        self.run(move |records| records.versions(image.as_ref())).await
    }

    /// The newest version of an image or variant.
    pub async fn head(&self, image: &ImageRef) -> Result<Option<Version>> {
        let image = image.clone();
        self.run(move |records| records.head(&image)).await
    }

    /// The version that `web`, `web/large`, `web@DIGEST` or `sha256:DIGEST` means; a digest may be shortened.
    pub async fn resolve(&self, reference: &str) -> Result<Version> {
        let reference = reference.to_owned();
        self.run(move |records| records.resolve(&reference)).await
    }

    /// The versions that a version starts from, nearest first.
    pub async fn lineage(&self, version: &Version) -> Result<Vec<Version>> {
        let version = version.clone();
        self.run(move |records| records.lineage(&version)).await
    }

    /// The version that a channel points to; none where it points to none yet.
    pub async fn channel(&self, image: &ImageRef, channel: &Channel) -> Result<Option<Version>> {
        let (image, channel) = (image.clone(), channel.clone());
        self.run(move |records| records.channel(&image, &channel)).await
    }

    /// Every entry of a channel, oldest first.
    pub async fn channel_history(&self, image: &ImageRef, channel: &Channel) -> Result<Vec<ChannelRecord>> {
        let (image, channel) = (image.clone(), channel.clone());
        self.run(move |records| records.channel_history(&image, &channel)).await
    }

    /// The version that a deployment through a channel uses: refused where there is none, or it is revoked, itself or
    /// by what it starts from.
    pub async fn resolve_for_deploy(&self, image: &ImageRef, channel: &Channel) -> Result<Version> {
        let (image, channel) = (image.clone(), channel.clone());
        self.run(move |records| records.resolve_for_deploy(&image, &channel)).await
    }

    /// The version of an exact digest for a deployment; refused where it is not registered, or is revoked.
    pub async fn resolve_digest_for_deploy(&self, image: &ImageRef, digest: &Digest) -> Result<Version> {
        let (image, digest) = (image.clone(), *digest);
        self.run(move |records| records.resolve_digest_for_deploy(&image, &digest)).await
    }

    /// The plan of a version; none where it is gone.
    pub async fn plan(&self, version: &Version) -> Result<Option<Plan>> {
        let digest = version.plan;
        self.run(move |records| records.plan(&digest)).await
    }

    /// A block map.
    pub async fn map(&self, digest: &Digest) -> Result<BlockMap> {
        let digest = *digest;
        self.run(move |records| records.map(&digest)).await
    }

    /// The map of a layer's disk, when all its blocks are there.
    pub async fn layer(&self, key: &Digest) -> Result<Option<BlockMap>> {
        let key = *key;
        self.run(move |records| records.layer(&key)).await
    }

    /// Remembers the disk of a layer; its blocks are in the store.
    pub async fn put_layer(&self, key: &Digest, map: &BlockMap) -> Result<()> {
        let (key, map) = (*key, map.clone());
        self.run(move |records| records.put_layer(&key, &map)).await
    }

    /// Registers a version: the one step after which it exists.
    pub async fn publish(&self, version: &Version, map: &BlockMap, plan: &Plan) -> Result<()> {
        let (version, map, plan) = (version.clone(), map.clone(), plan.clone());
        self.run(move |records| records.publish(&version, &map, &plan)).await
    }

    /// Stores a disk and says what it contains. What the store has already is not stored again. For progress and
    /// numbers there is [`Records::write_disk`].
    pub async fn write_disk(&self, disk: &Utf8Path) -> Result<BlockMap> {
        let disk = disk.to_owned();
        self.run(move |records| Ok(records.write_disk(&disk, &|_| {})?.0)).await
    }

    /// As [`Self::write_disk`], of a disk that was once a copy of another with this map.
    pub async fn write_disk_like(
        &self,
        disk: &Utf8Path,
        other: &Utf8Path,
        map: &BlockMap,
    ) -> Result<BlockMap> {
        let (disk, other, map) = (disk.to_owned(), other.to_owned(), map.clone());
        self.run(move |records| {
            let seed = Seed { map: &map, disk: &other };
            Ok(records.write_disk_like(&disk, Some(seed), &|_| {})?.0)
        })
        .await
    }

    /// Makes the raw disk of a map at `to`. To start from a disk that is much like it, and for progress, there is
    /// [`Records::read_disk`].
    pub async fn read_disk(&self, map: &BlockMap, to: &Utf8Path) -> Result<()> {
        let (map, to) = (map.clone(), to.to_owned());
        self.run(move |records| records.read_disk(&map, &to, None, &|_| {}).map(drop)).await
    }

    /// Reads every block of a map and checks it.
    pub async fn verify(&self, map: &BlockMap) -> Result<()> {
        let map = map.clone();
        self.run(move |records| Ok(records.blocks().verify(&map, &|_| {})?)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Records) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let records = self.records.clone();
        match tokio::task::spawn_blocking(move || act(&records)).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
