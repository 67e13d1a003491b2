//! Baking: from plans to verified, registered versions.
//!
//! [`Bake::run`] takes the plans of some images and of the images they start from. Images without a path between
//! them bake at the same time; an image begins when the disk of its base is sealed, and is registered after it.
//! For each image ([`image`]):
//!
//! 1. A version of the plan's key is in the registry: nothing to do.
//! 2. The nearest known disk is looked for, from the end: sealed disk, layers from the last, base.
//! 3. The layers after it run on a copy of that disk ([`layers`]). A disk is kept where keeping it costs less than
//!    the work since the last kept one ([`checkpoint`]).
//! 4. What identifies the build is removed.
//! 5. The disk boots fresh and the checks run ([`verify`]), while it is searched for leaks ([`leaks`]). Its blocks go
//!    to the store meanwhile, unless the bake used secrets: then nothing does before the search is over.
//! 6. The version is registered: the one step after which it exists.
//!
//! Everything lies in a working directory of the bake until then ([`work`]).

mod checkpoint;
mod image;
mod layers;
mod leaks;
pub mod look;
pub(crate) mod operations;
mod verify;
pub mod work;

pub use layers::failure;
pub use verify::{all_hold, check_results, instance};

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::Utf8PathBuf;
use olbake_core::operation::Operation;
use olbake_core::plan::Plan;
use olbake_core::report::Failure;
use olbake_core::span::Span;
use olbake_core::{ComponentName, Digest, ImageRef};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::event::{BakeResult, Event, EventSink};
use crate::machine::{Builder, MachineError, Snapshot, Substrate};
use crate::payload::PayloadError;
use crate::registry::{Registry, RegistryError};
use crate::secrets::{SecretError, SecretReader};
use crate::session::SessionError;
use crate::store::StoreError;

/// What happens to the machine of a bake that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It is removed.
    #[default]
    Cleanup,
    /// Its disk is kept, and where it is kept is said.
    Keep,
    /// A person gets a shell on it; then it is removed.
    Shell,
}

/// How to bake.
#[derive(Clone, Debug)]
pub struct BakeOptions {
    /// Where fresh boots happen.
    pub verify: Substrate,
    /// What happens to the machine of a bake that failed.
    pub on_failure: OnFailure,
    /// How many images bake at the same time.
    pub jobs: usize,
    /// Wait for another bake of the same image, instead of failing.
    pub wait: bool,
    /// The workspace, for files that plans name.
    pub workspace: Utf8PathBuf,
    /// The agent's executable.
    pub agent: Utf8PathBuf,
    /// The time of day as RFC 3339, for records.
    pub now: String,
}

/// A plan and the bytes made while planning.
#[derive(Clone, Debug)]
pub struct PlannedImage {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Bytes by digest.
    pub inline: BTreeMap<Digest, Arc<[u8]>>,
}

/// Why an image was not baked.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// An operation failed on the build machine, or the leak scan found something.
    #[error("`{title}` failed")]
    Operation {
        /// Its component.
        component: ComponentName,
        /// What people read.
        title: String,
        /// The recipe's line.
        span: Option<Span>,
        /// Why.
        failure: Box<Failure>,
    },
    /// Checks did not hold on the fresh boot.
    #[error("{} {} not hold on a fresh boot: {}", .failed.len(), if .failed.len() == 1 { "check does" } else { "checks do" }, .failed.join(", "))]
    Verification {
        /// The checks that did not hold, by title.
        failed: Vec<String>,
    },
    /// The machine did not do what it was asked for.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The agent's run did not come to its end.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A secret could not be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A payload could not be had.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A file of the cache or of the working directory could not be used.
    #[error("{action} `{path}`")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another process bakes this image.
    #[error("{image} is being baked by {holder}")]
    Busy {
        /// The image.
        image: ImageRef,
        /// Who, since when.
        holder: String,
    },
    /// The image it starts from was not baked.
    #[error("{base}, which {image} starts from, was not baked")]
    Base {
        /// The image.
        image: ImageRef,
        /// Its base.
        base: ImageRef,
    },
    /// The bake was asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// A part of the bake itself failed.
    #[error("a task of the bake ended by itself")]
    Task(#[source] tokio::task::JoinError),
}

/// Bakes images.
#[derive(Clone)]
pub struct Bake {
    /// Where machines come from.
    pub builder: Arc<dyn Builder>,
    /// What versions exist, and the blocks they are made of.
    pub registry: Arc<Registry>,
    /// Disks and downloads of this host.
    pub cache: Arc<Cache>,
    /// Reads secrets.
    pub secrets: Arc<SecretReader>,
    /// Hears what happens.
    pub events: EventSink,
    /// Asks to stop.
    pub cancel: Cancel,
    /// How to bake.
    pub options: BakeOptions,
}

/// How far an image has come, for the images that start from it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// Its disk is not there yet.
    Pending,
    /// Its disk is sealed and in the cache.
    Sealed {
        /// The disk.
        disk: Snapshot,
    },
    /// Its version exists.
    Registered {
        /// The version.
        digest: Digest,
        /// Its disk, if it was sealed in this run.
        disk: Option<Snapshot>,
    },
    /// It failed.
    Failed,
}

/// An image's base, when it is baked in the same run.
#[derive(Clone)]
struct BaseProgress {
    image: ImageRef,
    progress: watch::Receiver<Progress>,
}

/// How one image ended.
pub type ImageEnd = (ImageRef, Result<BakeResult, BakeError>);

impl Bake {
    /// Bakes images, each once; an image's base stands before it or is in the registry. Returns how each ended, in
    /// the order given.
    pub async fn run(&self, images: Vec<PlannedImage>) -> Vec<ImageEnd> {
        let order: Vec<ImageRef> = images.iter().map(|image| image.plan.image.clone()).collect();
        if let Err(error) = self.clean_up_after_others().await {
            return order.into_iter().next().map(|image| (image, Err(error))).into_iter().collect();
        }
        let mut ends = self.run_all(images).await;
        order.into_iter().filter_map(|image| ends.remove(&image).map(|end| (image, end))).collect()
    }

    async fn clean_up_after_others(&self) -> Result<(), BakeError> {
        for message in work::sweep(self.cache.dir(), &*self.builder).await? {
            self.events.send(Event::Note { image: None, message });
        }
        Ok(())
    }

    async fn run_all(&self, images: Vec<PlannedImage>) -> BTreeMap<ImageRef, Result<BakeResult, BakeError>> {
        let jobs = Arc::new(Semaphore::new(self.options.jobs.max(1)));
        let mut turns: BTreeMap<Digest, Arc<Mutex<()>>> = BTreeMap::new();
        let mut progress: BTreeMap<ImageRef, watch::Receiver<Progress>> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        for planned in images {
            let image = planned.plan.image.clone();
            let (tell, hear) = watch::channel(Progress::Pending);
            let base = match &planned.plan.base {
                olbake_core::plan::Base::Image { image, .. } => progress
                    .get(image)
                    .map(|progress| BaseProgress { image: image.clone(), progress: progress.clone() }),
                _ => None,
            };
            progress.insert(image.clone(), hear);
            let turn = turns.entry(first_key(&planned.plan)).or_default().clone();
            let (bake, jobs) = (self.clone(), jobs.clone());
            tasks.spawn(async move {
                let end = bake.one(planned, base, turn, &jobs, &tell).await;
                let disk = tell.borrow().disk();
                tell.send_replace(match &end {
                    Ok(result) => Progress::Registered { digest: result.digest, disk },
                    Err(_) => Progress::Failed,
                });
                (image, end)
            });
        }
        let mut ends = BTreeMap::new();
        while let Some(end) = tasks.join_next().await {
            match end {
                Ok((image, end)) => {
                    ends.insert(image, end);
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        ends
    }

    async fn one(
        &self,
        planned: PlannedImage,
        base: Option<BaseProgress>,
        turn: Arc<Mutex<()>>,
        jobs: &Semaphore,
        tell: &watch::Sender<Progress>,
    ) -> Result<BakeResult, BakeError> {
        if let Some(base) = &base {
            base.sealed(&planned.plan.image).await?;
        }
        // Images that begin with the same layers (an image's variants) take turns at them, so that the second finds
        // what the first kept.
        let turn = turn.lock_owned().await;
        let _permit = jobs.acquire().await.expect("the semaphore is never closed");
        if self.cancel.is_cancelled() {
            return Err(BakeError::Cancelled);
        }
        image::ImageBake::new(self, &planned, base, tell).run(turn).await
    }
}

impl Progress {
    fn disk(&self) -> Option<Snapshot> {
        match self {
            Self::Sealed { disk } => Some(disk.clone()),
            Self::Registered { disk, .. } => disk.clone(),
            Self::Pending | Self::Failed => None,
        }
    }
}

impl BaseProgress {
    /// The base's disk, if it was sealed in this run.
    fn disk(&self) -> Option<Snapshot> {
        self.progress.borrow().disk()
    }

    /// Waits until the base's disk is sealed.
    async fn sealed(&self, image: &ImageRef) -> Result<(), BakeError> {
        match self.wait(|progress| *progress != Progress::Pending).await {
            Progress::Failed | Progress::Pending => self.failed(image),
            Progress::Sealed { .. } | Progress::Registered { .. } => Ok(()),
        }
    }

    /// Waits until the base's version exists.
    async fn registered(&self, image: &ImageRef) -> Result<Digest, BakeError> {
        let over = |progress: &Progress| matches!(progress, Progress::Registered { .. } | Progress::Failed);
        match self.wait(over).await {
            Progress::Registered { digest, .. } => Ok(digest),
            _ => self.failed(image),
        }
    }

    async fn wait(&self, until: impl FnMut(&Progress) -> bool) -> Progress {
        let mut progress = self.progress.clone();
        match progress.wait_for(until).await {
            Ok(progress) => progress.clone(),
            Err(_) => Progress::Failed,
        }
    }

    fn failed<T>(&self, image: &ImageRef) -> Result<T, BakeError> {
        Err(BakeError::Base { image: image.clone(), base: self.image.clone() })
    }
}

/// The key of the first thing that a plan makes.
fn first_key(plan: &Plan) -> Digest {
    plan.layers.first().map_or_else(|| plan.base_key(), |layer| layer.key)
}

/// The component of an operation: the first part of its identity.
/// The component that an operation belongs to.
pub fn component_of(operation: &Operation) -> ComponentName {
    let name = operation.id.as_str().split('.').next().unwrap_or_default();
    name.parse().expect("operations are named by their component")
}
