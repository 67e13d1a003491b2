//! Carries plans of publishing out.

use std::sync::Arc;

use olbake_core::blockmap::BlockMap;
use olbake_engine::cache::{Lock, Sharing};
use olbake_engine::registry::places::{EC2, PLACE_SCHEMA, Place};
use tokio::task::JoinSet;

use super::images::{Images, Register, snapshot_of};
use super::journal::{self, Journal};
use super::plan::{Course, Parent, PublishPlan, RegionPlan, wanted};
use super::{
    Desk, Happened, IMAGE_TAG, Listener, OPERATION_TAG, Publish, PublishError, TOKEN_TAG, VERSION_TAG,
};
use crate::ebs::Snapshots;
use crate::ebs::put::{Start, Started, Wanted};

type Result<T> = std::result::Result<T, PublishError>;

pub(super) async fn carry_out(
    desk: &Desk,
    publish: &Publish,
    plan: &PublishPlan,
    listener: &Listener,
) -> Result<Vec<Place>> {
    let (copies, others): (Vec<&RegionPlan>, Vec<&RegionPlan>) =
        plan.regions.iter().partition(|region| matches!(region.course, Course::Copy { .. }));
    let run = |region: &RegionPlan, source: Option<&Place>| {
        let run = Run {
            desk: desk.clone(),
            publish: publish.clone(),
            size: plan.size,
            plan: region.clone(),
            images: Images::new(&desk.account, &region.region),
            listener: listener.clone(),
            source: source.cloned(),
        };
        async move { run.region().await }
    };
    let mut places = all(others.into_iter().map(|region| run(region, None)).collect()).await?;
    let source = places.iter().find(|place| Some(&place.region) == publish.regions.first()).cloned();
    places.extend(all(copies.into_iter().map(|region| run(region, source.as_ref())).collect()).await?);
    let order = |place: &Place| publish.regions.iter().position(|region| *region == place.region);
    places.sort_by_key(order);
    Ok(places)
}

/// Waits for all, then tells the first error: one region's trouble does not stop the others.
async fn all<F>(running: Vec<F>) -> Result<Vec<Place>>
where
    F: Future<Output = Result<Place>> + Send + 'static,
{
    let mut tasks: JoinSet<Result<Place>> = running.into_iter().collect();
    let mut done = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        done.push(ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    done.into_iter().collect()
}

/// What one region needs.
struct Run {
    desk: Desk,
    publish: Publish,
    /// GiB of the volume.
    size: u64,
    plan: RegionPlan,
    images: Images,
    listener: Listener,
    /// The place of the first region, where this one is copied from.
    source: Option<Place>,
}

impl Run {
    async fn region(&self) -> Result<Place> {
        let _lock = self.lock()?;
        if let Some(stale) = self.plan.stale.clone() {
            let registry = self.desk.registry.clone();
            blocking(move || Ok(registry.records().remove_place(&stale)?)).await?;
        }
        let place = match &self.plan.course {
            Course::NotNeeded { place } => {
                self.share(&place.id, &place.snapshot).await?;
                place.clone()
            }
            Course::Adopt { image } => self.finish(image, None, None).await?,
            Course::Upload { parent, token, .. } => self.upload(parent.as_ref(), token).await?,
            Course::Copy { token, .. } => self.copy(token).await?,
        };
        let path = journal::path(&self.desk.journals, &self.publish.version.digest, &self.plan.region);
        journal::remove(&path)?;
        Ok(place)
    }

    /// Two processes do not publish the same version into the same region.
    fn lock(&self) -> Result<Lock> {
        let (region, version) = (&self.plan.region, &self.publish.version.digest);
        let directory = &self.desk.journals;
        std::fs::create_dir_all(directory)
            .map_err(|source| PublishError::Journal { path: directory.clone(), source })?;
        match Lock::attempt(directory, &format!("{}-{region}", version.hex()), Sharing::Exclusive)? {
            Ok(lock) => Ok(lock),
            Err(holder) => Err(PublishError::Busy { region: region.clone(), holder: holder.to_string() }),
        }
    }

    async fn upload(&self, parent: Option<&Parent>, token: &str) -> Result<Place> {
        let region = &self.plan.region;
        let map = self.desk.registry.map(&self.publish.version.map).await?;
        let parent_map = match parent {
            Some(parent) => Some(self.desk.registry.map(&parent.map).await?),
            None => None,
        };
        let all: Arc<[Wanted]> = wanted(&map, parent_map.as_ref()).into();
        let path = journal::path(&self.desk.journals, &self.publish.version.digest, region);
        let (mut journal, known) = Journal::open(&path, token, parent)?;
        let snapshots = Snapshots::new(&self.desk.account.in_region(region));
        let Started { snapshot, owner } = match known.snapshot.clone() {
            Some(snapshot) => Started { snapshot, owner: known.owner.clone() },
            None => {
                let start = self.start(parent, token);
                let started = snapshots.start(&start).await.map_err(PublishError::aws(region))?;
                journal.started(&started.snapshot, started.owner.as_deref())?;
                started
            }
        };
        let already = known.put.len() as u64;
        self.tell(Happened::Snapshot { snapshot: snapshot.clone(), already });
        if !known.completed {
            let left = all.iter().filter(|(number, _)| !known.put.contains(number)).copied().collect();
            self.put(&snapshots, &snapshot, left, all.len() as u64, &mut journal).await?;
            self.complete(&snapshots, &snapshot, &all).await?;
            journal.completed()?;
        }
        self.tell(Happened::Waiting { id: snapshot.clone() });
        self.images.wait_for_snapshot(&snapshot).await?;
        let image = self.register(&snapshot, &map).await?;
        self.finish(&image, Some(snapshot), owner).await
    }

    fn start(&self, parent: Option<&Parent>, token: &str) -> Start {
        let mut tags = self.tags();
        tags.push((TOKEN_TAG.to_owned(), token.to_owned()));
        Start {
            token: token.to_owned(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            parent: parent.map(|parent| parent.snapshot.clone()),
            kms_key: self.publish.kms_key.clone().filter(|_| parent.is_none()),
            tags,
            description: self.description(),
        }
    }

    fn description(&self) -> String {
        let version = &self.publish.version;
        format!("{}@{}", version.image_ref(), version.digest.short())
    }

    fn tags(&self) -> Vec<(String, String)> {
        let version = &self.publish.version;
        let tag = |key: &str, value: String| (key.to_owned(), value);
        vec![
            tag("Name", self.description()),
            tag(IMAGE_TAG, version.image_ref().to_string()),
            tag(VERSION_TAG, version.digest.to_string()),
            tag(OPERATION_TAG, "publish".to_owned()),
        ]
    }

    async fn put(
        &self,
        snapshots: &Snapshots,
        snapshot: &str,
        left: Vec<Wanted>,
        total: u64,
        journal: &mut Journal,
    ) -> Result<()> {
        let mut done = total - left.len() as u64;
        let (mut written, step) = (Ok(()), (total / 100).max(1));
        let hear = |number: u32| {
            if written.is_ok() {
                written = journal.put(number);
            }
            done += 1;
            if done.is_multiple_of(step) || done == total {
                self.tell(Happened::Blocks { done, total });
            }
        };
        let put = snapshots.put(snapshot, &left.into(), &self.desk.registry, hear).await;
        // What is in the snapshot is written down also when the rest failed.
        journal.flush()?;
        put.map_err(PublishError::put(&self.plan.region))?;
        written
    }

    /// A snapshot that is complete already says so in other words.
    async fn complete(&self, snapshots: &Snapshots, snapshot: &str, all: &[Wanted]) -> Result<()> {
        let Err(error) = snapshots.complete(snapshot, all).await else { return Ok(()) };
        let found = self.images.snapshots(vec![snapshot.to_owned()]).await?;
        let done = Some(&aws_sdk_ec2::types::SnapshotState::Completed);
        match found.first().and_then(|found| found.state()) == done {
            true => Ok(()),
            false => Err(PublishError::aws(&self.plan.region)(error)),
        }
    }

    async fn register(&self, snapshot: &str, map: &BlockMap) -> Result<String> {
        let version = &self.publish.version;
        let (description, tags) = (self.description(), self.tags());
        debug_assert_eq!(super::plan::volume_size(map), self.size);
        let what = Register {
            name: &self.plan.name,
            description: &description,
            architecture: version.architecture,
            snapshot,
            size: self.size,
            tags: &tags,
        };
        self.images.register(&what, &version.digest).await
    }

    async fn copy(&self, token: &str) -> Result<Place> {
        let Some(source) = &self.source else {
            let problem = "the region that it is copied from has no image".to_owned();
            return Err(PublishError::Broken {
                region: self.plan.region.clone(),
                id: self.plan.name.clone(),
                problem,
            });
        };
        let key = self.publish.kms_key.as_deref();
        let from = (source.region.as_str(), source.id.as_str());
        let image = self.images.copy(from, &self.plan.name, token, key, &self.tags()).await?;
        self.finish(&image, None, source.owner.clone()).await
    }

    /// Waits for the image, shares it, and writes down where the version is.
    async fn finish(&self, image: &str, snapshot: Option<String>, owner: Option<String>) -> Result<Place> {
        self.tell(Happened::Waiting { id: image.to_owned() });
        let found = self.images.wait_for_image(image).await?;
        let snapshot = snapshot.or_else(|| snapshot_of(&found)).unwrap_or_default();
        self.share(image, &snapshot).await?;
        let place = Place {
            schema: PLACE_SCHEMA,
            version: self.publish.version.digest,
            image: self.publish.version.image_ref(),
            kind: EC2.to_owned(),
            region: self.plan.region.clone(),
            owner: found.owner_id().map(str::to_owned).or(owner),
            id: image.to_owned(),
            name: self.plan.name.clone(),
            snapshot,
            created: self.publish.now,
        };
        let registry = self.desk.registry.clone();
        let stands = blocking(move || Ok(registry.records().put_place(&place)?)).await?;
        self.tell(Happened::Image { id: stands.id.clone() });
        Ok(stands)
    }

    async fn share(&self, image: &str, snapshot: &str) -> Result<()> {
        self.images.share(image, snapshot, &self.publish.share).await?;
        match self.publish.deprecate {
            Some(at) => self.images.deprecate(image, at).await,
            None => Ok(()),
        }
    }

    fn tell(&self, happened: Happened) {
        (self.listener)(&self.plan.region, happened);
    }
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(act).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
