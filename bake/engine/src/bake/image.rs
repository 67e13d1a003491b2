//! The bake of one image, from its plan to its version. Main type: [`ImageBake`].

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use camino::Utf8PathBuf;
use olbake_core::blockmap::BlockMap;
use olbake_core::plan::{Base, Plan};
use olbake_core::secret::SecretId;
use olbake_core::{Digest, ImageRef, key};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};

use crate::cache::Cache;
use crate::event::{BakeResult, Event, LayerOutcome, LayerResult, Stage};
use crate::machine::Snapshot;
use crate::payload::Payloads;
use crate::registry::{Registry, Version};
use crate::store::StoreError;

use super::checkpoint::Policy;
use super::layers::{Kept, Layers};
use super::leaks::{self, LeakSearch};
use super::operations::Operations;
use super::verify::{FreshBoot, Seen, all_hold};
use super::work::WorkDir;
use super::{Bake, BakeError, BaseProgress, OnFailure, PlannedImage, Progress};

/// The bake of one image.
pub(super) struct ImageBake<'a> {
    bake: &'a Bake,
    planned: &'a PlannedImage,
    plan: &'a Plan,
    base: Option<BaseProgress>,
    tell: &'a watch::Sender<Progress>,
    began: Instant,
}

/// What is to be verified.
struct SealedDisk {
    results: Vec<LayerResult>,
    disk: Snapshot,
    /// The layer whose disk the bake went on from; none where it began with a base or had nothing to run.
    began_with: Option<Kept>,
}

/// A disk to go on from.
struct Known {
    disk: Snapshot,
    /// The first layer that is not on it; beyond the last, the disk has them all.
    next: usize,
    /// It is sealed too.
    sealed: bool,
}

impl<'a> ImageBake<'a> {
    pub(super) fn new(
        bake: &'a Bake,
        planned: &'a PlannedImage,
        base: Option<BaseProgress>,
        tell: &'a watch::Sender<Progress>,
    ) -> Self {
        Self { bake, planned, plan: &planned.plan, base, tell, began: Instant::now() }
    }

    /// Bakes it, or finds that it is there. `turn` is held until the disk is sealed.
    pub(super) async fn run(self, turn: OwnedMutexGuard<()>) -> Result<BakeResult, BakeError> {
        if let Some(version) = self.bake.registry.by_key(&self.plan.key).await? {
            return Ok(self.cached(&version));
        }
        let _lock = self.lock().await?;
        if let Some(version) = self.bake.registry.by_key(&self.plan.key).await? {
            return Ok(self.cached(&version));
        }
        self.bake.events.send(Event::ImageStarted {
            image: self.plan.image.clone(),
            key: self.plan.key,
            components: self.plan.layers.iter().map(|layer| layer.component.clone()).collect(),
        });
        let work = WorkDir::create(self.bake.cache.dir(), &self.plan.image.to_string().replace('/', "-"))
            .map_err(|source| self.io("cannot make a working directory in", source))?;
        self.bake_in(&work, turn).await
    }

    async fn bake_in(&self, work: &WorkDir, turn: OwnedMutexGuard<()>) -> Result<BakeResult, BakeError> {
        let secrets = self.secrets()?;
        let blobs = Payloads::new(
            self.plan.payloads.clone(),
            self.planned.inline.clone(),
            self.bake.options.workspace.clone(),
            self.bake.cache.downloads(),
        );
        let operations = Operations {
            image: &self.plan.image,
            events: &self.bake.events,
            cancel: &self.bake.cancel,
            blobs: &blobs,
            secrets: &secrets,
            architecture: self.plan.architecture.kernel(),
        };
        let (kept, hear_kept) = mpsc::unbounded_channel();
        let (clear, cleared) = oneshot::channel();
        let mut clear = Some(clear);
        let (registry, cache) = (self.bake.registry.clone(), self.bake.cache.clone());
        let writer = tokio::spawn(write_kept(registry, cache, hear_kept, cleared));
        if secrets.is_empty() {
            let_through(&mut clear);
        }
        let SealedDisk { results, disk: sealed, began_with } =
            self.sealed_disk(work, &operations, kept).await?;
        drop(turn);
        self.tell.send_replace(Progress::Sealed { disk: sealed.clone() });

        let began = Instant::now();
        self.stage_started(Stage::Verify);
        work.intent("verify").map_err(|source| self.io("cannot write to", source))?;
        let boot = FreshBoot {
            builder: &*self.bake.builder,
            work,
            substrate: self.bake.options.verify,
            agent: &self.bake.options.agent,
            on_failure: self.bake.options.on_failure,
            cache: &self.bake.cache,
            digest: None,
        };
        let searched = self.searched_before(&secrets).await?;
        let search = LeakSearch { bake: self.bake, work, plan: self.plan, operations: &operations, searched };
        let sealed_key = self.sealed_key();
        let (searched, seen) = if self.bake.options.on_failure == OnFailure::Shell {
            // One terminal: one after the other.
            (search.run(&sealed, sealed_key).await, boot.check(&sealed, self.plan, &operations).await)
        } else {
            let (searched, seen, ()) = tokio::join!(
                search.run(&sealed, sealed_key),
                boot.check(&sealed, self.plan, &operations),
                self.make_spare(began_with)
            );
            (searched, seen)
        };
        searched?;
        let_through(&mut clear);
        let seen = seen?;
        all_hold(&seen.checks)?;
        self.stage_finished(Stage::Verify, began);
        work.outcome("verify", true).map_err(|source| self.io("cannot write to", source))?;

        let began = Instant::now();
        self.stage_started(Stage::Register);
        let map =
            writer.await.map_err(BakeError::Task)??.expect("a bake that came so far kept its sealed disk");
        let version = self.register(work, map, &results, seen).await?;
        self.stage_finished(Stage::Register, began);
        Ok(self.result(&version, LayerOutcome::Run, results))
    }

    /// Waits for another bake of this image, or says who is at it.
    async fn lock(&self) -> Result<crate::cache::Lock, BakeError> {
        let name = format!("bake-{}", self.plan.image.to_string().replace('/', "-"));
        let (cache, image, wait) = (&self.bake.cache, &self.plan.image, self.bake.options.wait);
        match cache.try_lock(&name)? {
            Ok(lock) => Ok(lock),
            Err(holder) if !wait => Err(BakeError::Busy { image: image.clone(), holder: holder.to_string() }),
            Err(holder) => {
                let message = format!("waiting for {holder}, who bakes {image}");
                self.bake.events.send(Event::Note { image: Some(image.clone()), message });
                tokio::select! {
                    lock = cache.lock(&name) => Ok(lock?),
                    () = self.bake.cancel.cancelled() => Err(BakeError::Cancelled),
                }
            }
        }
    }

    /// Runs what is missing, up to a sealed disk in the cache.
    async fn sealed_disk(
        &self,
        work: &WorkDir,
        operations: &Operations<'_>,
        kept: mpsc::UnboundedSender<Kept>,
    ) -> Result<SealedDisk, BakeError> {
        let sealed_key = self.sealed_key();
        let (known, mut results) = self.known(work, &kept).await?;
        if known.sealed {
            drop(kept.send(Kept { key: sealed_key, disk: known.disk.clone() }));
            return Ok(SealedDisk { results, disk: known.disk, began_with: None });
        }
        let last_known = self.plan.layers[..known.next].last();
        let began_with = last_known.map(|layer| Kept { key: layer.key, disk: known.disk.clone() });
        if let Some(began_with) = &began_with {
            drop(kept.send(began_with.clone()));
        }
        let mut layers = Layers {
            bake: self.bake,
            plan: self.plan,
            work,
            operations,
            kept: kept.clone(),
            parent: known.disk,
            policy: Policy::new(std::time::Duration::ZERO),
            since: Vec::new(),
            machine: None,
        };
        results.extend(layers.run(known.next).await?);
        let disk = layers.seal(sealed_key).await?;
        let disk = Snapshot { disk: self.bake.cache.adopt_disk(&sealed_key, &disk.disk)? };
        drop(kept.send(Kept { key: sealed_key, disk: disk.clone() }));
        Ok(SealedDisk { results, disk, began_with })
    }

    /// Sees to it that the next bake finds a copy of the disk that this one began with: who changes a layer is likely
    /// to change it again, and the copy is the longest part of a machine's start. It is made out of the disk that this
    /// bake supersedes, at its end, or else at once, while the sealed disk boots, which mostly waits. A bake does not
    /// fail for want of it.
    async fn make_spare(&self, began_with: Option<Kept>) {
        let Some(began_with) = began_with else { return };
        if let Err(error) = self.try_spare(&began_with).await {
            let message = format!("no disk was copied ahead for the next bake: {error}");
            self.bake.events.send(Event::Note { image: Some(self.plan.image.clone()), message });
        }
    }

    async fn try_spare(&self, Kept { key, disk }: &Kept) -> Result<(), BakeError> {
        let (registry, cache) = (&self.bake.registry, &self.bake.cache);
        let superseded = registry.head(&self.plan.image).await?.map(|head| head.sealed_key);
        if let Some(superseded) = superseded.filter(|superseded| *superseded != self.sealed_key()) {
            let maps = (registry.layer(key).await?, registry.layer(&superseded).await?);
            if let (Some(map), Some(old)) = maps
                && cache.renew_later(&disk.disk, map, &superseded, old)?
            {
                return Ok(());
            }
        }
        let copy = self.bake.builder.copy(disk, &cache.partial_spare(&disk.disk)).await?;
        Ok(cache.keep_spare(&disk.disk, &copy.disk)?)
    }

    /// The nearest disk there is, looked for from the end, and what is known without running.
    async fn known(
        &self,
        work: &WorkDir,
        kept: &mpsc::UnboundedSender<Kept>,
    ) -> Result<(Known, Vec<LayerResult>), BakeError> {
        let layers = &self.plan.layers;
        let began = Instant::now();
        if let Some(disk) = self.disk(&self.sealed_key()).await? {
            let known = Known { disk, next: layers.len(), sealed: true };
            return Ok((known, self.results_up_to(layers.len(), LayerOutcome::Cached, 0.0)));
        }
        for (index, layer) in layers.iter().enumerate().rev() {
            if let Some(disk) = self.disk(&layer.key).await? {
                let known = Known { disk, next: index + 1, sealed: false };
                return Ok((known, self.results_up_to(index + 1, LayerOutcome::Cached, 0.0)));
            }
        }
        self.stage_started(Stage::Base);
        let (disk, outcome) = self.base_disk(work, kept).await?;
        self.stage_finished(Stage::Base, began);
        let results = self.results_up_to(0, outcome, began.elapsed().as_secs_f64());
        Ok((Known { disk, next: 0, sealed: false }, results))
    }

    /// The disk of a key: from the cache, or brought back from the store.
    async fn disk(&self, key: &Digest) -> Result<Option<Snapshot>, BakeError> {
        if let Some(disk) = self.bake.cache.disk(key)? {
            return Ok(Some(Snapshot { disk }));
        }
        let Some(map) = self.bake.registry.layer(key).await? else { return Ok(None) };
        let partial = self.bake.cache.partial_disk(key);
        self.bake.registry.read_disk(&map, &partial).await?;
        let disk = self.bake.cache.adopt_disk(key, &partial)?;
        let file = File::open(&disk).map_err(|e| StoreError::io("open", &disk, e))?;
        self.bake.cache.describe(&disk, &file, &map)?;
        Ok(Some(Snapshot { disk }))
    }

    async fn base_disk(
        &self,
        work: &WorkDir,
        kept: &mpsc::UnboundedSender<Kept>,
    ) -> Result<(Snapshot, LayerOutcome), BakeError> {
        let base_key = self.plan.base_key();
        match &self.plan.base {
            Base::Image { image, key } => Ok((self.image_disk(image, key).await?, LayerOutcome::Cached)),
            base => {
                if let Some(disk) = self.disk(&base_key).await? {
                    return Ok((disk, LayerOutcome::Cached));
                }
                work.intent("base").map_err(|source| self.io("cannot write to", source))?;
                let disk = self.make_base(base, work).await?;
                let disk = Snapshot { disk: self.bake.cache.adopt_disk(&base_key, &disk.disk)? };
                work.outcome("base", true).map_err(|source| self.io("cannot write to", source))?;
                drop(kept.send(Kept { key: base_key, disk: disk.clone() }));
                Ok((disk, LayerOutcome::Run))
            }
        }
    }

    async fn make_base(&self, base: &Base, work: &WorkDir) -> Result<Snapshot, BakeError> {
        let file = match base {
            Base::Disk { file, sha256 } => {
                let path = self.bake.options.workspace.join(file);
                crate::payload::check_file(&path, sha256).await?;
                Some(path)
            }
            _ => None,
        };
        let machine_dir = work.machine().map_err(|source| self.io("cannot make a directory in", source))?;
        let (events, image) = (self.bake.events.clone(), self.plan.image.clone());
        let progress = move |message| {
            events.send(Event::StageProgress { image: image.clone(), stage: Stage::Base, message });
        };
        let packages = self.bake.cache.packages();
        let disk = work.disk();
        let made =
            self.bake.builder.base(base, file.as_deref(), &disk, &machine_dir, Some(&packages), &progress);
        tokio::select! {
            disk = made => Ok(disk?),
            () = self.bake.cancel.cancelled() => Err(BakeError::Cancelled),
        }
    }

    /// The sealed disk of the image that this one starts from.
    async fn image_disk(&self, image: &ImageRef, key: &Digest) -> Result<Snapshot, BakeError> {
        if let Some(disk) = self.base.as_ref().and_then(BaseProgress::disk) {
            return Ok(disk);
        }
        let missing = || BakeError::Base { image: self.plan.image.clone(), base: image.clone() };
        let version = self.bake.registry.by_key(key).await?.ok_or_else(missing)?;
        self.disk(&version.sealed_key).await?.ok_or_else(missing)
    }

    /// The disk of a version whose bake searched it for no less than this one is to be: the last one of this image, or
    /// the base's. Not where this image has secrets: others need not know of them.
    async fn searched_before(
        &self,
        secrets: &BTreeMap<SecretId, String>,
    ) -> Result<Option<Snapshot>, BakeError> {
        if !secrets.is_empty() {
            return Ok(None);
        }
        let registry = &self.bake.registry;
        let base = match &self.plan.base {
            Base::Image { key, .. } => registry.by_key(key).await?,
            _ => None,
        };
        for version in registry.head(&self.plan.image).await?.into_iter().chain(base) {
            let Some(disk) = self.bake.cache.disk(&version.sealed_key)? else { continue };
            let Some(plan) = registry.plan(&version).await? else { continue };
            let is_kin = version.image_ref() != self.plan.image || plan.base == self.plan.base;
            if is_kin && leaks::allowed(&plan).is_subset(&leaks::allowed(self.plan)) {
                return Ok(Some(Snapshot { disk }));
            }
        }
        Ok(None)
    }

    fn sealed_key(&self) -> Digest {
        key::sealed(self.plan.architecture, self.plan.last_layer_key(), &self.plan.seal)
    }

    /// The values of the secrets that operations use.
    fn secrets(&self) -> Result<BTreeMap<SecretId, String>, BakeError> {
        self.plan
            .secrets
            .iter()
            .map(|(id, secret)| Ok((id.clone(), self.bake.secrets.value(&secret.source)?.to_string())))
            .collect()
    }

    async fn register(
        &self,
        work: &WorkDir,
        map: BlockMap,
        layers: &[LayerResult],
        seen: Seen,
    ) -> Result<Version, BakeError> {
        let parent = match (&self.base, &self.plan.base) {
            (Some(base), _) => Some(base.registered(&self.plan.image).await?),
            (None, Base::Image { key, .. }) => {
                self.bake.registry.by_key(key).await?.map(|version| version.digest)
            }
            _ => None,
        };
        work.intent("register").map_err(|source| self.io("cannot write to", source))?;
        let version = Version::new(self.plan, self.sealed_key(), parent, &map)
            .with_evidence(layers, seen.checks, &self.bake.options.now)
            .with_packages(seen.packages);
        self.bake.registry.publish(&version, &map, self.plan).await?;
        work.outcome("register", true).map_err(|source| self.io("cannot write to", source))?;
        Ok(version)
    }

    fn cached(&self, version: &Version) -> BakeResult {
        let layers = self.results_up_to(self.plan.layers.len(), LayerOutcome::Cached, 0.0);
        self.result(version, LayerOutcome::Cached, layers)
    }

    fn result(&self, version: &Version, outcome: LayerOutcome, layers: Vec<LayerResult>) -> BakeResult {
        let result = BakeResult {
            image: self.plan.image.image.to_string(),
            variant: self.plan.image.variant.as_ref().map(ToString::to_string),
            digest: version.digest,
            key: self.plan.key,
            outcome,
            layers,
            checks: version.checks.clone(),
            seconds: self.began.elapsed().as_secs_f64(),
        };
        self.bake.events.send(Event::Result(Box::new(result.clone())));
        result
    }

    /// A result for the base, as it was found or made, and for the layers before `end`, all known.
    fn results_up_to(&self, end: usize, base: LayerOutcome, base_seconds: f64) -> Vec<LayerResult> {
        let name = match &self.plan.base {
            Base::Debian { suite, .. } => format!("debian {suite}"),
            Base::Image { image, .. } => image.to_string(),
            Base::Disk { file, .. } => format!("disk {file}"),
            Base::Ami { name, .. } => format!("ami {name}"),
        };
        let base =
            LayerResult { component: name, key: self.plan.base_key(), outcome: base, seconds: base_seconds };
        let layers = self.plan.layers[..end].iter().map(|layer| {
            self.bake.events.send(Event::LayerFinished {
                image: self.plan.image.clone(),
                component: layer.component.clone(),
                key: layer.key,
                outcome: LayerOutcome::Cached,
                operations: BTreeMap::new(),
                seconds: 0.0,
            });
            LayerResult {
                component: layer.component.to_string(),
                key: layer.key,
                outcome: LayerOutcome::Cached,
                seconds: 0.0,
            }
        });
        std::iter::once(base).chain(layers).collect()
    }

    fn stage_started(&self, stage: Stage) {
        self.bake.events.send(Event::StageStarted { image: self.plan.image.clone(), stage });
    }

    fn stage_finished(&self, stage: Stage, began: Instant) {
        self.bake.events.send(Event::StageFinished {
            image: self.plan.image.clone(),
            stage,
            seconds: began.elapsed().as_secs_f64(),
        });
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> BakeError {
        BakeError::Io { action, path: Utf8PathBuf::from(self.bake.cache.dir()), source }
    }
}

/// Lets the writer to the store begin.
fn let_through(clear: &mut Option<oneshot::Sender<()>>) {
    if let Some(clear) = clear.take() {
        // A writer that is gone has said why by itself.
        clear.send(()).ok();
    }
}

/// Writes kept disks to the store as they come, while the bake goes on: blocks that the store has are not written
/// again, so each costs what it differs by, and one whose content is known costs nothing. Ends with the block map of the
/// last: the sealed disk's.
/// Nothing is written before `cleared`: what secrets may be in does not reach the store unsearched.
async fn write_kept(
    registry: Arc<Registry>,
    cache: Arc<Cache>,
    mut kept: mpsc::UnboundedReceiver<Kept>,
    cleared: oneshot::Receiver<()>,
) -> Result<Option<BlockMap>, BakeError> {
    if cleared.await.is_err() {
        return Ok(None);
    }
    // Each disk was once a copy of the one before it.
    let mut last: Option<(Snapshot, BlockMap)> = None;
    while let Some(Kept { key, disk }) = kept.recv().await {
        let stored = registry.layer(&key).await?;
        if let Some(map) = stored
            && cache.has_content(&disk.disk, &map)?
        {
            last = Some((disk, map));
            continue;
        }
        let file = File::open(&disk.disk).map_err(|e| StoreError::io("open", &disk.disk, e))?;
        let map = match &last {
            Some((other, map)) => registry.write_disk_like(&disk.disk, &other.disk, map).await?,
            None => registry.write_disk(&disk.disk).await?,
        };
        cache.describe(&disk.disk, &file, &map)?;
        registry.put_layer(&key, &map).await?;
        last = Some((disk, map));
    }
    Ok(last.map(|(_, map)| map))
}
