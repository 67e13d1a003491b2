//! Publishes versions as images of EC2, without an instance: their changed blocks go into snapshots. Main functions:
//! [`plan`] and [`carry_out`].
//!
//! [`plan`] asks each region what is there and names everything: the parent snapshot, the blocks, the token that makes
//! starting the snapshot one call however often it is made, the image's name. [`carry_out`] makes no choice. What was
//! done is in a journal on this host (`journal`), so that a publish that was killed goes on where it was; and what
//! the journal does not know is found by name and tag. The last step is the [`Place`] in the registry.

pub(crate) mod images;
mod journal;
mod look;
mod plan;
mod run;

use std::sync::Arc;

use camino::Utf8PathBuf;
use olbake_core::Digest;
use olbake_core::time::Timestamp;
use olbake_engine::registry::places::Place;
use olbake_engine::registry::{Registry, RegistryError, Version};
use olbake_engine::store::StoreError;
use serde::Serialize;

use crate::account::Account;
use crate::ebs::put::PutError;
use crate::error::AwsError;
pub use images::image_name;
pub use plan::{Course, Parent, PublishPlan, RegionPlan};

/// The tag with a version's digest, on all that olbake makes of it.
pub const VERSION_TAG: &str = "olbake:version";
/// The tag with an image's name.
pub const IMAGE_TAG: &str = "olbake:image";
/// The tag that says which command made something.
pub const OPERATION_TAG: &str = "olbake:operation";
/// The tag with the token that something was made with.
pub const TOKEN_TAG: &str = "olbake:token";

/// Who else may start an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// An account.
    Account(String),
    /// An organisation, by its ARN.
    Organization(String),
    /// A unit of an organisation, by its ARN.
    Unit(String),
}

/// What is published, and how.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The version.
    pub version: Version,
    /// The regions; the first is where others are copied from, if they are.
    pub regions: Vec<String>,
    /// The key that encrypts the snapshots.
    pub kms_key: Option<String>,
    /// Who else may start the images.
    pub share: Vec<Share>,
    /// When AWS is to call the images deprecated.
    pub deprecate: Option<Timestamp>,
    /// Whether AWS copies from the first region to the others, instead of an upload to each.
    pub copy: bool,
    /// What time it is.
    pub now: Timestamp,
}

/// Where a publish works.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Who asks AWS.
    pub account: Account,
    /// Where the version and its blocks are.
    pub registry: Registry,
    /// Where journals are: a directory of this host.
    pub journals: Utf8PathBuf,
}

/// Something that happened in a region.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Happened {
    /// A snapshot was started, or is gone on with.
    Snapshot {
        /// Its id.
        snapshot: String,
        /// Blocks that an earlier run put.
        already: u64,
    },
    /// Blocks were put.
    Blocks {
        /// So many are done.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// AWS makes something usable.
    Waiting {
        /// What: its id.
        id: String,
    },
    /// The image is there.
    Image {
        /// Its id.
        id: String,
    },
}

/// Hears what happens, with the region.
pub type Listener = Arc<dyn Fn(&str, Happened) + Send + Sync>;

/// Why a version could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// AWS.
    #[error("in {region}")]
    Aws {
        /// The region.
        region: String,
        /// What it answered.
        #[source]
        source: AwsError,
    },
    /// The name is taken by something else.
    #[error(
        "in {region}, `{name}` is the name of `{image}`, which is not this version; rename or deregister that"
    )]
    NameTaken {
        /// The region.
        region: String,
        /// The name.
        name: String,
        /// The image that has it.
        image: String,
    },
    /// A snapshot or image ended in error.
    #[error("in {region}, `{id}` ended in error: {problem}")]
    Broken {
        /// The region.
        region: String,
        /// Its id.
        id: String,
        /// What AWS says.
        problem: String,
    },
    /// AWS takes its time. Nothing is lost.
    #[error("in {region}, `{id}` is not ready yet; run the command again, it goes on there")]
    Pending {
        /// The region.
        region: String,
        /// Its id.
        id: String,
    },
    /// The journal cannot be written or understood.
    #[error("cannot use the journal `{path}`")]
    Journal {
        /// The file.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another process publishes the same version there.
    #[error("another process publishes this version in {region}: {holder}")]
    Busy {
        /// The region.
        region: String,
        /// Who.
        holder: String,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PublishError {
    fn aws(region: &str) -> impl FnOnce(AwsError) -> Self {
        let region = region.to_owned();
        move |source| Self::Aws { region, source }
    }

    fn put(region: &str) -> impl FnOnce(PutError) -> Self {
        let region = region.to_owned();
        move |error| match error {
            PutError::Aws(source) => Self::Aws { region, source },
            PutError::Store(error) => Self::Store(error),
        }
    }
}

/// Writes down that a snapshot of all of a version's disk is there already: publishing goes on from it.
pub(crate) fn have_snapshot(
    desk: &Desk,
    version: &Digest,
    region: &str,
    token: &str,
    snapshot: &str,
) -> Result<(), PublishError> {
    let path = journal::path(&desk.journals, version, region);
    let (mut journal, _) = journal::Journal::open(&path, token, None)?;
    journal.started(snapshot, None)?;
    journal.completed()
}

/// Says what publishing would do. Asks each region what is there, and changes nothing.
pub async fn plan(desk: &Desk, publish: &Publish) -> Result<PublishPlan, PublishError> {
    look::plan(desk, publish).await
}

/// Carries a plan out, in all regions at once; where one fails the others go on. The places are where the version
/// is now.
pub async fn carry_out(
    desk: &Desk,
    publish: &Publish,
    plan: &PublishPlan,
    listener: &Listener,
) -> Result<Vec<Place>, PublishError> {
    run::carry_out(desk, publish, plan, listener).await
}
