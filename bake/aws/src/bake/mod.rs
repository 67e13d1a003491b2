//! Bakes images on instances of EC2: from the source's image to a version in the registry and its image in the region.
//!
//! 1. The source is looked up once and kept in `olbake.lock` ([`source`]): the plan is rebased on it, so that its keys
//!    say what it really starts from.
//! 2. An instance of it ends by itself after a while, whoever dies ([`instance`]); it has a host key and a user's key of
//!    ours, so that nobody trusts what they have not seen ([`keys`], [`user_data`]).
//! 3. The layers run over SSH, then the seal and the leak scan. The instance stops, and its disk becomes a snapshot.
//! 4. A candidate image of the snapshot boots fresh, and the checks run on it, while the snapshot's blocks are read
//!    into the store.
//! 5. The version is registered; then [`crate::publish`] makes the image of that same snapshot, shares and copies it.
//!
//! Everything that is made carries the bake's token as a tag, and the token is written down before ([`journal`]): what a
//! killed bake left is found and either gone on with or removed.

mod instance;
mod journal;
mod keys;
mod one;
mod source;
mod user_data;

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::Utf8PathBuf;
use olbake_core::plan::{Base, Plan};
use olbake_core::time::Timestamp;
use olbake_core::{Digest, ImageRef};
use olbake_engine::bake::{BakeError, PlannedImage};
use olbake_engine::cancel::Cancel;
use olbake_engine::config::Ec2;
use olbake_engine::event::{BakeResult, EventSink};
use olbake_engine::lock::LockError;
use olbake_engine::registry::{Registry, RegistryError};
use olbake_engine::secrets::{SecretError, SecretReader};
use olbake_engine::store::StoreError;
use olbake_ssh::{Agent, SshError};

use crate::account::Account;
use crate::error::AwsError;
use crate::import::ImportError;
use crate::publish::{PublishError, Share};

/// Bakes images in one region.
pub struct Ec2Bake {
    /// Who asks AWS, in the region.
    pub account: Account,
    /// What versions exist, and the blocks they are made of.
    pub registry: Registry,
    /// The cache's directory, for journals and downloads.
    pub cache: Utf8PathBuf,
    /// The workspace, for files that plans name and for `olbake.lock`.
    pub workspace: Utf8PathBuf,
    /// Reads secrets.
    pub secrets: Arc<SecretReader>,
    /// The agent.
    pub agent: Agent,
    /// Hears what happens.
    pub events: EventSink,
    /// Asks to stop.
    pub cancel: Cancel,
    /// How instances are started.
    pub config: Ec2,
    /// Who else may start the images.
    pub share: Vec<Share>,
    /// What time it is.
    pub now: Timestamp,
    /// Only go on with a bake whose snapshot is there.
    pub resume: bool,
    /// Leave the instance of a bake that failed: it ends by itself at its deadline.
    pub keep_failed: bool,
}

/// Why an image was not baked.
#[derive(Debug, thiserror::Error)]
pub enum Ec2BakeError {
    /// AWS.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// AWS, about images.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The blocks of the snapshot.
    #[error(transparent)]
    Blocks(#[from] ImportError),
    /// The instance, over SSH.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// The bake itself: an operation, a check, a secret.
    #[error(transparent)]
    Bake(#[from] BakeError),
    /// There is no image to start from.
    #[error("the account {owner} has no image `{name}` in {region} that this one may start")]
    NoSource {
        /// The account.
        owner: String,
        /// The name that was looked for.
        name: String,
        /// The region.
        region: String,
    },
    /// Nobody says what a suite is on EC2.
    #[error("what `debian(\"{suite}\")` is on EC2 is not known")]
    UnknownSuite {
        /// The suite.
        suite: String,
    },
    /// The base cannot be had on EC2.
    #[error("{image} starts from the disk `{file}`, which no instance can start from")]
    DiskBase {
        /// The image.
        image: ImageRef,
        /// The disk.
        file: Utf8PathBuf,
    },
    /// The region has no default network, and none was named.
    #[error("{region} has no default network")]
    NoNetwork {
        /// The region.
        region: String,
    },
    /// The subnet is not there.
    #[error("there is no subnet `{subnet}` in {region}")]
    NoSubnet {
        /// As it was asked for.
        subnet: String,
        /// The region.
        region: String,
    },
    /// No type that was asked for could be started.
    #[error("no instance could be started: {}", .tried.join("; "))]
    Capacity {
        /// Each try, with what AWS said.
        tried: Vec<String>,
    },
    /// The instance went away.
    #[error("the instance `{instance}` is {state}{}", .reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    Gone {
        /// The instance.
        instance: String,
        /// Its state.
        state: String,
        /// Why, as AWS says.
        reason: Option<String>,
    },
    /// The instance does not answer.
    #[error("the instance `{instance}` does not answer by SSH at {address} within {seconds} s")]
    Silent {
        /// The instance.
        instance: String,
        /// Where it was looked for.
        address: String,
        /// How long.
        seconds: u64,
        /// The end of its console.
        console: String,
    },
    /// AWS takes its time. Nothing is lost.
    #[error("`{id}` did not come to be as expected within {seconds} s")]
    Slow {
        /// What is waited for.
        id: String,
        /// How long it was.
        seconds: u64,
    },
    /// Nothing was left to go on with.
    #[error("no bake of {0} was left that could be gone on with")]
    NothingToResume(ImageRef),
    /// The journal.
    #[error("cannot {action} `{path}`")]
    Journal {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file that keeps what was looked up.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The key pair of an instance.
    #[error("cannot make a key pair")]
    Key(#[source] ssh_key::Error),
}

impl From<RegistryError> for Ec2BakeError {
    fn from(error: RegistryError) -> Self {
        BakeError::from(error).into()
    }
}

impl From<StoreError> for Ec2BakeError {
    fn from(error: StoreError) -> Self {
        BakeError::from(error).into()
    }
}

impl From<SecretError> for Ec2BakeError {
    fn from(error: SecretError) -> Self {
        BakeError::from(error).into()
    }
}

type Result<T> = std::result::Result<T, Ec2BakeError>;

/// How one image ended.
pub type Ec2End = (ImageRef, Result<BakeResult>);

impl Ec2Bake {
    /// Bakes images one after the other, each once; an image's base stands before it.
    pub async fn run(&self, images: Vec<PlannedImage>) -> Vec<Ec2End> {
        let mut ends: Vec<Ec2End> = Vec::new();
        let mut keys: BTreeMap<ImageRef, Digest> = BTreeMap::new();
        for image in images {
            let name = image.plan.image.clone();
            let baked = match self.rebased(&image.plan, &keys).await {
                Ok(plan) => {
                    keys.insert(name.clone(), plan.key);
                    let planned = PlannedImage { plan: Arc::new(plan), inline: image.inline.clone() };
                    one::One::new(self, planned).run().await
                }
                Err(error) => Err(error),
            };
            if baked.is_err() {
                keys.remove(&name);
            }
            ends.push((name, baked));
            if self.cancel.is_cancelled() {
                break;
            }
        }
        ends
    }

    /// The plan on what it starts from on EC2.
    async fn rebased(&self, plan: &Plan, keys: &BTreeMap<ImageRef, Digest>) -> Result<Plan> {
        let base = match &plan.base {
            Base::Image { image, .. } => match keys.get(image) {
                Some(key) => Base::Image { image: image.clone(), key: *key },
                None => {
                    let (image, base) = (plan.image.clone(), image.clone());
                    return Err(BakeError::Base { image, base }.into());
                }
            },
            Base::Debian { suite, packages, .. } => {
                let architecture = plan.architecture.debian();
                let source = self.config.source(suite, architecture);
                let wanted = source.ok_or_else(|| Ec2BakeError::UnknownSuite { suite: suite.clone() })?;
                let base = self.locked(&wanted.owner, &wanted.name, plan).await?;
                return Ok(source::with_packages(plan.clone(), packages).rebased(base));
            }
            Base::Ami { owner, name } => self.locked(owner, name, plan).await?,
            Base::Disk { file, .. } => {
                return Err(Ec2BakeError::DiskBase { image: plan.image.clone(), file: file.clone() });
            }
        };
        Ok(plan.clone().rebased(base))
    }
}
