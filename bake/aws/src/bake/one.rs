//! The bake of one image in a region, from its plan to its version and its image there. Main type: [`One`].

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use aws_sdk_ec2::types::{ResourceType, Snapshot};
use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::blockmap::BlockMap;
use olbake_core::operation::{Action, Argv, Operation, Phase, Run as Command};
use olbake_core::plan::{Base, Plan};
use olbake_core::protocol::Mode;
use olbake_core::report::{Outcome, Package};
use olbake_core::{ComponentName, Digest, OperationId, key};
use olbake_engine::apply::Application;
use olbake_engine::bake::{BakeError, PlannedImage, all_hold, check_results, failure, instance};
use olbake_engine::cache::{Lock, Sharing};
use olbake_engine::event::{BakeResult, CheckResult, Event, LayerOutcome, LayerResult, Stage};
use olbake_engine::payload::Payloads;
use olbake_engine::registry::Version;
use olbake_engine::registry::places::{EC2, Place};
use olbake_engine::session::{Run, RunEnd};
use olbake_ssh::{Connection, Destination, Frozen, Host, Notice, Remote, SshError, Trust};

use super::instance::{Instances, Launch, Network, Running};
use super::journal::{Begun, Journal};
use super::keys::Pair;
use super::source::Origin;
use super::user_data::UserData;
use super::{Ec2Bake, Ec2BakeError, Result};
use crate::ebs::Snapshots;
use crate::error::AwsError;
use crate::import;
use crate::publish::images::Images;
use crate::publish::{self, Desk, Happened, Listener, Publish, PublishError};
use crate::token::token;

/// How often is asked whether it does.
const SSH_PAUSE: Duration = Duration::from_millis(200);
/// How long an instance that was there may be away.
const AWAY: Duration = Duration::from_secs(300);
/// How often is looked whether an instance is still there.
const LOOKS_AFTER: Duration = Duration::from_secs(20);
const GIB: u64 = 1 << 30;

/// What the bake puts on the instance for itself, beside what lies in memory.
const OWN_FILES: [&str; 3] = ["/var/cache/olbake", "/root/.cache/olbake", "/var/lib/olbake/apply"];
/// Saves a seed of random numbers when it stops, which must be before what it saved is removed.
const RANDOM_SEED: &str = "systemd-random-seed.service";

/// The bake of one image.
pub(super) struct One<'a> {
    bake: &'a Ec2Bake,
    planned: PlannedImage,
    plan: Arc<Plan>,
    region: String,
    began: Instant,
}

/// What a fresh boot of the candidate showed.
struct Seen {
    checks: Vec<CheckResult>,
    packages: Vec<Package>,
}

/// The snapshot that the image's blocks differ from in what the bake changed.
struct Known {
    snapshot: String,
    map: Digest,
}

impl<'a> One<'a> {
    pub(super) fn new(bake: &'a Ec2Bake, planned: PlannedImage) -> Self {
        let plan = planned.plan.clone();
        let region = bake.account.region().unwrap_or_default().to_owned();
        Self { bake, planned, plan, region, began: Instant::now() }
    }

    /// Bakes it, or finds that it is there; what is only there elsewhere is published here.
    pub(super) async fn run(&self) -> Result<BakeResult> {
        let directory = self.bake.cache.join("ec2");
        let name = format!("{}-{}", self.plan.key.hex(), self.region);
        let _lock = match Lock::attempt(&directory, &name, Sharing::Exclusive)? {
            Ok(lock) => lock,
            Err(holder) => {
                let (image, holder) = (self.plan.image.clone(), holder.to_string());
                return Err(BakeError::Busy { image, holder }.into());
            }
        };
        let journal = Journal::new(&directory, &self.plan.key, &self.region);
        let begun = journal.read()?;
        if let Some(version) = self.bake.registry.by_key(&self.plan.key).await? {
            let places = self.publish(&version).await?;
            if let Some(begun) = begun {
                let snapshots: Vec<&str> = places.iter().map(|place| place.snapshot.as_str()).collect();
                self.clean(&self.instances(&begun.token), &snapshots).await?;
                journal.remove()?;
            }
            return Ok(self.result(&version, LayerOutcome::Cached, &version.layers));
        }
        self.bake.events.send(Event::ImageStarted {
            image: self.plan.image.clone(),
            key: self.plan.key,
            components: self.plan.layers.iter().map(|layer| layer.component.clone()).collect(),
        });
        let (instances, snapshot, layers) = match self.left_over(begun).await? {
            Some(left) => left,
            None if self.bake.resume => {
                return Err(Ec2BakeError::NothingToResume(self.plan.image.clone()));
            }
            None => {
                let instances = self.instances(&token());
                journal.write(&Begun { token: instances.token.clone(), sealed: None })?;
                let made = self.interruptible(self.build(&instances, &journal)).await;
                let (snapshot, layers) = match made {
                    Ok(made) => made,
                    Err(error) => return Err(self.after_failure(error, &instances, &journal).await),
                };
                (instances, snapshot, layers)
            }
        };
        let version = match self.interruptible(self.prove(&instances, &snapshot, &layers)).await {
            Ok(version) => version,
            Err(error) if goes_on(&error) => {
                self.note(format!("what is there stays: `olbake bake --resume` goes on with {snapshot}"));
                instances.sweep().await?;
                return Err(error);
            }
            Err(error) => return Err(self.after_failure(error, &instances, &journal).await),
        };
        self.publish(&version).await?;
        self.clean(&instances, &[&snapshot]).await?;
        journal.remove()?;
        Ok(self.result(&version, LayerOutcome::Run, &layers))
    }

    fn instances(&self, token: &str) -> Instances {
        Instances::new(&self.bake.account, &self.bake.config, token, &self.plan.image.to_string())
    }

    fn images(&self) -> Images {
        Images::new(&self.bake.account, &self.region).with_patience(self.bake.config.image_timeout)
    }

    async fn interruptible<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.bake.cancel.cancelled() => Err(BakeError::Cancelled.into()),
        }
    }

    /// What an earlier bake left, if it can be gone on with: a snapshot of a sealed disk. Anything else is removed.
    async fn left_over(&self, begun: Option<Begun>) -> Result<Option<(Instances, String, Vec<LayerResult>)>> {
        let Some(Begun { token, sealed }) = begun else { return Ok(None) };
        let instances = self.instances(&token);
        let snapshots = self.images().by_token(&token).await?;
        if let (Some(layers), Some(snapshot)) = (sealed, snapshots.into_iter().next()) {
            self.note(format!("going on with {snapshot}, which an earlier bake left"));
            instances.sweep().await?;
            return Ok(Some((instances, snapshot, layers)));
        }
        self.clean(&instances, &[]).await?;
        Ok(None)
    }

    /// From nothing to the snapshot of a sealed disk.
    async fn build(&self, instances: &Instances, journal: &Journal) -> Result<(String, Vec<LayerResult>)> {
        let began = Instant::now();
        self.stage_started(Stage::Base);
        let application = self.application()?;
        let origin = self.origin().await?;
        let network = instances.network().await?;
        let (host, user) = (Pair::new()?, Pair::new()?);
        let running = self.start(instances, &origin, "bake", network, &host, &user).await?;
        let remote = Door::new(self, &running, &host, &user)?;
        self.answers(instances, &running, &remote).await?;
        let base_seconds = began.elapsed().as_secs_f64();
        self.stage_finished(Stage::Base, began);

        let run = application.run(
            Mode::Apply,
            Remote::work_dir(&application.operations, Mode::Apply),
            &self.bake.secrets,
        );
        let operations = &application.operations;
        let end =
            self.on_instance(instances, &running, &remote, operations, run.map_err(BakeError::from)?).await?;
        let layers = self.layers(&application, &end, base_seconds);
        held(operations, &end)?;

        let began = Instant::now();
        self.stage_started(Stage::Seal);
        let seal = seal(&self.plan);
        let sealed_key = self.sealed_key();
        let work_dir = Remote::work_dir(&seal, Mode::Apply);
        let run = application.run_of(&seal, sealed_key, work_dir, &self.bake.secrets);
        let end =
            self.on_instance(instances, &running, &remote, &seal, run.map_err(BakeError::from)?).await?;
        held(&seal, &end)?;
        self.stage_finished(Stage::Seal, began);

        let began = Instant::now();
        self.stage_started(Stage::Checkpoint);
        // What is in memory alone would not be in the snapshot; and a shutdown would write what seal has removed.
        self.progress(Stage::Checkpoint, format!("freezing the file system of {}", running.id));
        let frozen = remote.freeze().await?;
        journal.write(&Begun { token: instances.token.clone(), sealed: Some(layers.clone()) })?;
        let snapshot = self.snapshot(instances, &running).await?;
        frozen.thaw().await?;
        instances.terminate(vec![running.id]).await?;
        self.stage_finished(Stage::Checkpoint, began);
        Ok((snapshot, layers))
    }

    fn application(&self) -> Result<Application> {
        let application = Application::of(std::slice::from_ref(&self.planned));
        Ok(application.expect("the components of one image differ"))
    }

    /// What the instance starts from: the source, or the image of the version that the plan names.
    async fn origin(&self) -> Result<Origin> {
        let image = match &self.plan.base {
            Base::Ami { owner, name } => self.bake.newest(owner, name, self.plan.architecture).await?,
            _ => {
                let place = self.parent_place().await?;
                let missing = || PublishError::Broken {
                    region: self.region.clone(),
                    id: place.id.clone(),
                    problem: "it is gone".to_owned(),
                };
                self.images().by_id(&place.id).await?.ok_or_else(missing)?
            }
        };
        Ok(Origin::of(&image))
    }

    async fn parent(&self) -> Result<Option<Version>> {
        let Base::Image { image, key } = &self.plan.base else { return Ok(None) };
        match self.bake.registry.by_key(key).await? {
            Some(version) => Ok(Some(version)),
            None => {
                let (image, base) = (self.plan.image.clone(), image.clone());
                Err(BakeError::Base { image, base }.into())
            }
        }
    }

    async fn parent_place(&self) -> Result<Place> {
        let parent = self.parent().await?.expect("the plan starts from an image");
        let place = self.bake.registry.place(&parent.digest, EC2, &self.region).await?;
        let missing = || BakeError::Base { image: self.plan.image.clone(), base: parent.image_ref() };
        Ok(place.ok_or_else(missing)?)
    }

    async fn start(
        &self,
        instances: &Instances,
        origin: &Origin,
        purpose: &'static str,
        network: &Network,
        host: &Pair,
        user: &Pair,
    ) -> Result<Running> {
        let who = instance(&self.plan.image, None);
        let user_data = UserData {
            host,
            user: &user.public,
            port: self.bake.config.port,
            deadline: self.bake.config.deadline,
            instance: (purpose == "verify").then_some(who.as_str()),
        };
        let launch = Launch {
            origin,
            purpose,
            name: format!("{purpose} {}", self.plan.image),
            user_data: user_data.text(),
            network,
            size: self.bake.config.disk_size.unwrap_or_default().div_ceil(GIB),
        };
        let stage = if purpose == "verify" { Stage::Verify } else { Stage::Base };
        let (launched, tried) = instances.launch(&launch).await?;
        for other in tried {
            self.note(format!("not started as {other}"));
        }
        let id = &launched.id;
        self.progress(stage, format!("{id} starts from {} ({})", origin.name, origin.image));
        let running = match launched.at_once() {
            Some(running) => running,
            None => instances.running(id).await?,
        };
        self.progress(stage, format!("{id} boots at {}", running.address));
        Ok(running)
    }

    /// Waits until an instance answers and is who it must be.
    async fn answers(&self, instances: &Instances, running: &Running, door: &Door) -> Result<()> {
        let (since, mut looked) = (Instant::now(), Instant::now());
        loop {
            match Connection::open(&door.remote.host).await {
                Ok(connection) => {
                    door.connection.set(connection).expect("it is waited for once");
                    return Ok(());
                }
                Err(error @ SshError::HostKey { .. }) => return Err(error.into()),
                Err(_) if since.elapsed() < self.bake.config.ssh_timeout => {}
                Err(_) => {
                    return Err(Ec2BakeError::Silent {
                        instance: running.id.clone(),
                        address: format!("{}:{}", running.address, self.bake.config.port),
                        seconds: self.bake.config.ssh_timeout.as_secs(),
                        console: instances.console(&running.id).await,
                    });
                }
            }
            tokio::time::sleep(SSH_PAUSE).await;
            if looked.elapsed() > Duration::from_secs(10) {
                instances.still_there(&running.id).await?;
                looked = Instant::now();
            }
        }
    }

    async fn on_instance(
        &self,
        instances: &Instances,
        running: &Running,
        door: &Door,
        operations: &[Operation],
        run: Run,
    ) -> Result<RunEnd> {
        let application = self.application()?;
        let blobs = Payloads::new(
            application.payloads.clone(),
            application.inline.clone(),
            self.bake.workspace.clone(),
            self.bake.cache.join("downloads"),
        );
        let notice = |notice: Notice| match notice {
            Notice::Lost => self.note(format!("the connection to {} was lost: connecting again", running.id)),
            Notice::Rebooting => self.note(format!("{} boots again, as the recipe asks", running.id)),
            Notice::Connected | Notice::Pushed => {}
        };
        let hear = application.tell(operations, &self.bake.events);
        let connection = door.connection.get().cloned();
        // An instance that is taken away never answers again: nobody waits for it as for one that boots.
        let ended = tokio::select! {
            ended = door.remote.run(connection, &run, &blobs, &self.bake.cancel, notice, hear) => ended,
            gone = self.until_gone(instances, &running.id) => return Err(gone),
        };
        match ended {
            Ok(end) if end.cancelled => Err(BakeError::Cancelled.into()),
            Ok(end) => Ok(end),
            Err(SshError::Cancelled) => Err(BakeError::Cancelled.into()),
            Err(SshError::Session(error)) => Err(BakeError::from(error).into()),
            Err(error) => {
                // An instance that was taken away says why.
                instances.still_there(&running.id).await?;
                Err(error.into())
            }
        }
    }

    /// Looks now and then whether an instance is there; ends with why it is not.
    async fn until_gone(&self, instances: &Instances, id: &str) -> Ec2BakeError {
        loop {
            tokio::time::sleep(LOOKS_AFTER).await;
            // What is not known now is known the next time.
            if let Err(gone @ Ec2BakeError::Gone { .. }) = instances.still_there(id).await {
                return gone;
            }
        }
    }

    /// How the layers ran, the base first, as events and to be written down.
    fn layers(&self, application: &Application, end: &RunEnd, base_seconds: f64) -> Vec<LayerResult> {
        let component = match &self.plan.base {
            Base::Ami { name, .. } => format!("ami {name}"),
            Base::Image { image, .. } => image.to_string(),
            Base::Debian { .. } | Base::Disk { .. } => String::new(),
        };
        let base = LayerResult {
            component,
            key: self.plan.base_key(),
            outcome: LayerOutcome::Run,
            seconds: base_seconds,
        };
        std::iter::once(base).chain(application.tell_layers(&end.reports, &self.bake.events)).collect()
    }

    async fn snapshot(&self, instances: &Instances, running: &Running) -> Result<String> {
        let name = format!("bake {}", self.plan.image);
        let call = instances
            .client
            .create_snapshot()
            .volume_id(instances.volume(running).await?)
            .description(&name)
            .tag_specifications(instances.tagged(ResourceType::Snapshot, &name));
        match call.send().await.map_err(AwsError::of("ec2:CreateSnapshot")) {
            Ok(made) => Ok(made.snapshot_id.unwrap_or_default()),
            // The call has no token: whether it was heard is seen by the tag.
            Err(error) if error.is_passing() => {
                let found = self.images().by_token(&instances.token).await?.into_iter().next();
                found.ok_or_else(|| error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// From a snapshot to a version: it boots fresh and is checked while its blocks are read.
    async fn prove(&self, instances: &Instances, snapshot: &str, layers: &[LayerResult]) -> Result<Version> {
        let began = Instant::now();
        self.stage_started(Stage::Verify);
        self.progress(Stage::Verify, format!("waiting for {snapshot}"));
        let whole = self.images().wait_for_snapshot(snapshot).await?;
        let (seen, map) =
            tokio::try_join!(self.verify(instances, &whole), async { self.blocks(snapshot).await })?;
        all_hold(&seen.checks)?;
        self.stage_finished(Stage::Verify, began);

        let began = Instant::now();
        self.stage_started(Stage::Register);
        let parent = self.parent().await?.map(|parent| parent.digest);
        self.bake.registry.put_layer(&self.sealed_key(), &map).await?;
        let version = Version::new(&self.plan, self.sealed_key(), parent, &map)
            .with_evidence(layers, seen.checks, &self.bake.now.to_string())
            .with_packages(seen.packages);
        // Publishing finds that the snapshot is there already, whole.
        publish::have_snapshot(&self.desk(), &version.digest, &self.region, &instances.token, snapshot)?;
        self.bake.registry.publish(&version, &map, &self.plan).await?;
        self.stage_finished(Stage::Register, began);
        Ok(version)
    }

    /// Boots a candidate image of the snapshot and runs the checks on it.
    async fn verify(&self, instances: &Instances, snapshot: &Snapshot) -> Result<Seen> {
        let name = format!("olbake-candidate/{}", instances.token);
        let candidate =
            self.images().candidate(&name, self.plan.architecture, snapshot, &instances.tags(&name)).await?;
        let origin = Origin::of(&self.images().wait_for_image(&candidate).await?);
        let network = instances.network().await?;
        let (host, user) = (Pair::new()?, Pair::new()?);
        let running = self.start(instances, &origin, "verify", network, &host, &user).await?;
        let door = Door::new(self, &running, &host, &user)?;
        self.answers(instances, &running, &door).await?;
        let checks: Vec<Operation> =
            self.plan.checks.iter().flat_map(|checks| &checks.operations).cloned().collect();
        let application = self.application()?;
        let run = application.run_of(
            &checks,
            self.plan.key,
            Remote::work_dir(&checks, Mode::Apply),
            &self.bake.secrets,
        );
        let run = Run { keep_going: true, packages: true, ..run.map_err(BakeError::from)? };
        let end = self.on_instance(instances, &running, &door, &checks, run).await?;
        if !self.bake.keep_failed || !end.reports.iter().any(|report| report.outcome == Outcome::Failed) {
            instances.terminate(vec![running.id]).await?;
        }
        Ok(Seen { checks: check_results(&checks, &end.reports), packages: end.packages })
    }

    /// Reads the snapshot's blocks into the store: of what starts from a version only those that differ.
    async fn blocks(&self, snapshot: &str) -> Result<BlockMap> {
        let known = match self.parent().await? {
            None => None,
            Some(parent) => {
                let place = self.parent_place().await?;
                Some(Known { snapshot: place.snapshot, map: parent.map })
            }
        };
        let partial = self.bake.cache.join("ec2").join(format!("{}.raw", self.plan.key.hex()));
        let known = known.as_ref().map(|known| (known.snapshot.as_str(), known.map));
        let snapshots = Snapshots::new(&self.bake.account);
        Ok(import::fetch_blocks(&snapshots, &self.bake.registry, known, snapshot, &partial).await?)
    }

    fn desk(&self) -> Desk {
        Desk {
            account: self.bake.account.clone(),
            registry: self.bake.registry.clone(),
            journals: self.bake.cache.join("publish"),
        }
    }

    /// Makes sure that a version is in the region, and where it is copied to.
    async fn publish(&self, version: &Version) -> Result<Vec<Place>> {
        const DAY: u64 = 24 * 3600;
        let Ec2Bake { config, now, share, .. } = self.bake;
        let mut regions = vec![self.region.clone()];
        regions.extend(config.copy_to.iter().filter(|region| **region != self.region).cloned());
        let publish = Publish {
            version: version.clone(),
            regions,
            kms_key: config.kms_key.clone(),
            share: share.clone(),
            deprecate: config.deprecate_after.map(|days| now.plus(u64::from(days) * DAY)),
            copy: true,
            now: *now,
        };
        let desk = self.desk();
        let plan = publish::plan(&desk, &publish).await?;
        let (events, image) = (self.bake.events.clone(), self.plan.image.clone());
        let listener: Listener = Arc::new(move |region: &str, happened: Happened| {
            let message = match happened {
                Happened::Snapshot { snapshot, .. } => format!("{region}: {snapshot}"),
                Happened::Blocks { done, total } => format!("{region}: {done} of {total} blocks"),
                Happened::Waiting { id } => format!("{region}: waiting for {id}"),
                Happened::Image { id } => format!("{region}: {id} is ready"),
            };
            events.send(Event::StageProgress { image: image.clone(), stage: Stage::Register, message });
        });
        let places = self
            .interruptible(async { Ok(publish::carry_out(&desk, &publish, &plan, &listener).await?) })
            .await?;
        for place in &places {
            self.note(format!(
                "{}@{} is {} in {}",
                place.image,
                version.digest.short(),
                place.id,
                place.region
            ));
        }
        Ok(places)
    }

    /// What becomes of a bake that failed: nothing stays, unless it was asked for.
    async fn after_failure(
        &self,
        error: Ec2BakeError,
        instances: &Instances,
        journal: &Journal,
    ) -> Ec2BakeError {
        if self.bake.keep_failed {
            let deadline = self.bake.config.deadline.as_secs() / 60;
            self.note(format!(
                "the instance of the failed bake stays until it is {deadline} min old; the next bake removes it"
            ));
            return error;
        }
        match self.clean(instances, &[]).await.and_then(|()| journal.remove()) {
            Ok(()) => {}
            Err(second) => {
                self.note(format!(
                    "not everything was removed ({second}): the next bake, or `olbake gc --on ec2`, does"
                ));
            }
        }
        error
    }

    /// Removes what the bake made for itself, and its snapshots except some.
    async fn clean(&self, instances: &Instances, except: &[&str]) -> Result<()> {
        let images = self.images();
        images.remove_by_token(&instances.token).await?;
        instances.sweep().await?;
        for snapshot in images.by_token(&instances.token).await? {
            if !except.contains(&snapshot.as_str()) {
                images.remove_snapshot(&snapshot).await?;
            }
        }
        Ok(())
    }

    fn sealed_key(&self) -> Digest {
        key::sealed(self.plan.architecture, self.plan.last_layer_key(), &self.plan.seal)
    }

    fn result(&self, version: &Version, outcome: LayerOutcome, layers: &[LayerResult]) -> BakeResult {
        let layers = layers.iter().map(|layer| match outcome {
            LayerOutcome::Run => layer.clone(),
            LayerOutcome::Cached => LayerResult { outcome, seconds: 0.0, ..layer.clone() },
        });
        let result = BakeResult {
            image: self.plan.image.image.to_string(),
            variant: self.plan.image.variant.as_ref().map(ToString::to_string),
            digest: version.digest,
            key: self.plan.key,
            outcome,
            layers: layers.collect(),
            checks: version.checks.clone(),
            seconds: self.began.elapsed().as_secs_f64(),
        };
        self.bake.events.send(Event::Result(Box::new(result.clone())));
        result
    }

    fn stage_started(&self, stage: Stage) {
        self.bake.events.send(Event::StageStarted { image: self.plan.image.clone(), stage });
    }

    fn stage_finished(&self, stage: Stage, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        self.bake.events.send(Event::StageFinished { image: self.plan.image.clone(), stage, seconds });
    }

    fn progress(&self, stage: Stage, message: String) {
        self.bake.events.send(Event::StageProgress { image: self.plan.image.clone(), stage, message });
    }

    fn note(&self, message: String) {
        self.bake.events.send(Event::Note { image: Some(self.plan.image.clone()), message });
    }
}

/// The way to an instance; the key is removed with it.
struct Door {
    remote: Remote,
    /// Made when it first answered, and used for all that is done there.
    connection: OnceLock<Connection>,
    _key: tempfile::TempDir,
}

impl Door {
    fn new(one: &One<'_>, running: &Running, host: &Pair, user: &Pair) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("olbake-ec2-").tempdir();
        let failed = |path: &Utf8Path| {
            let path = path.to_owned();
            move |source| Ec2BakeError::Journal { action: "write", path, source }
        };
        let directory = directory.map_err(failed(Utf8Path::new("TMPDIR")))?;
        let path =
            Utf8PathBuf::from_path_buf(directory.path().join("key")).expect("a temporary path is UTF-8");
        olbake_engine::store::file::write_whole(&path, user.private.as_bytes(), 0o600)?;
        let trust = Trust::Key(host.public.parse().expect("a key that was just made is one"));
        let destination = Destination { user: Some("root".to_owned()), address: running.address.clone() };
        let host = Host {
            port: Some(one.bake.config.port),
            identity: Some(path),
            trust,
            connect_timeout: Duration::from_secs(10),
            destination,
        };
        let agent = one.bake.agent.clone();
        let remote = Remote { host, agent, token: token(), patience: AWAY };
        Ok(Self { remote, connection: OnceLock::new(), _key: directory })
    }

    /// Holds the root file system still. A recipe may have had the instance boot again, which ended the first connection.
    async fn freeze(&self) -> Result<Frozen> {
        if let Some(connection) = self.connection.get()
            && let Ok(frozen) = connection.freeze().await
        {
            return Ok(frozen);
        }
        Ok(Connection::open(&self.remote.host).await?.freeze().await?)
    }
}

/// Whether a bake that ended so is gone on with: the snapshot is good, and what it waits for may come.
fn goes_on(error: &Ec2BakeError) -> bool {
    !matches!(
        error,
        Ec2BakeError::Bake(BakeError::Operation { .. } | BakeError::Verification { .. })
            | Ec2BakeError::Publish(PublishError::Broken { .. })
            | Ec2BakeError::Silent { .. }
    )
}

/// An error, where an operation failed.
fn held(operations: &[Operation], end: &RunEnd) -> Result<()> {
    failure(operations, &end.reports).map_or(Ok(()), |error| Err(error.into()))
}

/// The end of the image, with what only an instance has: the bake's own files, and a seed that is saved at shutdown.
/// The search for leaks comes last.
fn seal(plan: &Plan) -> Vec<Operation> {
    let component: ComponentName = "ec2".parse().expect("a valid name");
    let own = |number: usize, title: String, action: Action| Operation {
        id: OperationId::new(&component, Phase::Seal, number),
        phase: Phase::Seal,
        title,
        spans: Vec::new(),
        action,
        when_changed: Vec::new(),
        after: Vec::new(),
    };
    let stop: Argv = ["systemctl", "stop", RANDOM_SEED].map(str::to_owned).into();
    let stop = Command { argv: stop, ok_codes: vec![0, 1, 5], ..Command::default() };
    let mut steps = vec![own(1, format!("stop {RANDOM_SEED}"), Action::Run(Box::new(stop)))];
    steps.extend(OWN_FILES.iter().enumerate().map(|(index, path)| {
        own(index + 2, format!("remove {path}"), Action::FileAbsent { path: (*path).into() })
    }));
    let is_scan = |step: &&Operation| matches!(step.action, Action::LeakScan { .. });
    steps.extend(plan.seal.iter().filter(|step| !is_scan(step)).cloned());
    steps.extend(plan.seal.iter().filter(is_scan).cloned());
    steps
}
