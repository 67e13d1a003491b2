//! Runs layers one after the other on a machine, keeping disks on the way.
//!
//! The working disk is a copy of the last kept disk. When a disk is kept it moves to the cache, and the next layer
//! begins with a copy of it. A layer that failed leaves the working disk in no defined state, so the layers
//! between the last kept disk and the failed one run again, and their disk is kept: the next bake begins at the
//! layer that failed. Main type: [`Layers`].

use std::time::{Duration, Instant};

use olbake_core::Digest;
use olbake_core::operation::Operation;
use olbake_core::plan::{Layer, Plan};
use olbake_core::report::{OperationReport, Outcome};
use tokio::sync::mpsc;

use crate::cache::Cache;
use crate::event::{Event, LayerOutcome, LayerResult, Stage};
use crate::machine::{Machine, MachineSpec, Snapshot, Start, Substrate, WorkDisk};

use super::checkpoint::{Next, Policy};
use super::operations::{Operations, Purpose, counts};
use super::work::WorkDir;
use super::{Bake, BakeError, OnFailure, component_of};

/// A disk that was kept, for the writer to the store.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) key: Digest,
    pub(super) disk: Snapshot,
}

/// The layers of an image and the machine they run on.
pub(super) struct Layers<'a> {
    pub(super) bake: &'a Bake,
    pub(super) plan: &'a Plan,
    pub(super) work: &'a WorkDir,
    pub(super) operations: &'a Operations<'a>,
    /// Hears of kept disks.
    pub(super) kept: mpsc::UnboundedSender<Kept>,
    /// The last kept disk.
    pub(super) parent: Snapshot,
    pub(super) policy: Policy,
    /// Layers that ran since, by index.
    pub(super) since: Vec<usize>,
    pub(super) machine: Option<Running>,
}

/// A machine and how it was started.
pub(super) struct Running {
    machine: Box<dyn Machine>,
    start: Start,
}

impl Layers<'_> {
    /// Runs the layers from `first` on.
    pub(super) async fn run(&mut self, first: usize) -> Result<Vec<LayerResult>, BakeError> {
        let mut results = Vec::new();
        for index in first..self.plan.layers.len() {
            let layer = &self.plan.layers[index];
            let began = Instant::now();
            self.tell_started(layer);
            let (reports, worked) = self.run_one(index).await?;
            let seconds = began.elapsed().as_secs_f64();
            self.tell_finished(layer, &reports, seconds);
            results.push(LayerResult {
                component: layer.component.to_string(),
                key: layer.key,
                outcome: LayerOutcome::Run,
                seconds,
            });
            self.policy.worked(worked);
            let next = if index + 1 == self.plan.layers.len() { Next::Seal } else { Next::Layer };
            if self.policy.is_due(next) {
                self.keep(layer.key).await?;
            }
        }
        Ok(results)
    }

    /// Seals the disk and gives it, file systems clean, ready to boot. Whether it leaks is for
    /// [`super::leaks`] to find, on the disk as it will be.
    pub(super) async fn seal(&mut self, sealed_key: Digest) -> Result<Snapshot, BakeError> {
        let image = self.plan.image.clone();
        let began = Instant::now();
        self.bake.events.send(Event::StageStarted { image: image.clone(), stage: Stage::Seal });
        self.work.intent("seal").map_err(self.journal())?;
        self.ready(Start::Build, self.plan.layers.len()).await?;
        let steps: Vec<Operation> =
            self.plan.seal.iter().filter(|step| !super::leaks::is_scan(step)).cloned().collect();
        let reports = self.run_on_machine(&steps, sealed_key).await?;
        if let Some(failed) = failure(&steps, &reports) {
            return Err(self.after_failure(failed).await);
        }
        let disk = self.stop().await?;
        let work_dir = self.work.machine().map_err(self.journal())?;
        self.bake.builder.finish(&disk, &work_dir).await?;
        self.work.outcome("seal", true).map_err(self.journal())?;
        let seconds = began.elapsed().as_secs_f64();
        self.bake.events.send(Event::StageFinished { image, stage: Stage::Seal, seconds });
        Ok(disk)
    }

    /// Runs one layer; says how long its operations took, without what the machine took to start.
    async fn run_one(&mut self, index: usize) -> Result<(Vec<OperationReport>, Duration), BakeError> {
        let layer = &self.plan.layers[index];
        let step = format!("layer {}", layer.component);
        self.work.intent(&step).map_err(self.journal())?;
        let start = if layer.booted.is_some() { Start::BuildBooted } else { Start::Build };
        self.ready(start, index).await?;
        let began = Instant::now();
        let reports = self.run_on_machine(&layer.operations, layer.key).await?;
        let worked = began.elapsed();
        if let Some(failed) = failure(&layer.operations, &reports) {
            self.work.outcome(&step, false).map_err(self.journal())?;
            self.tell_finished(layer, &reports, worked.as_secs_f64());
            let error = self.after_failure(failed).await;
            self.keep_what_succeeded().await?;
            return Err(error);
        }
        self.work.outcome(&step, true).map_err(self.journal())?;
        self.since.push(index);
        Ok((reports, worked))
    }

    async fn run_on_machine(
        &mut self,
        operations: &[Operation],
        run: Digest,
    ) -> Result<Vec<OperationReport>, BakeError> {
        let running = self.machine.as_mut().expect("a machine was made ready");
        Ok(self.operations.run(&mut *running.machine, operations, run, Purpose::Change).await?.reports)
    }

    /// Starts a machine on a copy of the last kept disk, unless one of this kind runs. The disk of one of another
    /// kind, which has the layers before `index`, is kept first.
    async fn ready(&mut self, start: Start, index: usize) -> Result<(), BakeError> {
        if self.machine.as_ref().is_some_and(|running| running.start == start) {
            return Ok(());
        }
        let before = self.plan.layers[..index].last().map_or_else(|| self.plan.base_key(), |layer| layer.key);
        self.keep(before).await?;
        let disk = self.work_disk()?;
        let copies = matches!(disk, WorkDisk::Copy(_));
        let began = Instant::now();
        let machine = self
            .bake
            .builder
            .start(MachineSpec {
                name: self.plan.image.image.to_string(),
                substrate: Substrate::Container,
                start,
                parent: self.parent.clone(),
                disk: Some(disk),
                work_dir: self.work.machine().map_err(self.journal())?,
                package_cache: Some(self.bake.cache.packages()),
                agent: self.bake.options.agent.clone(),
                instance: None,
                beside: None,
            })
            .await?;
        // Starting is mostly copying the disk: what keeping one more will cost.
        self.policy.kept(copies.then(|| began.elapsed()));
        self.machine = Some(Running { machine, start });
        Ok(())
    }

    /// A spare copy of the parent saves making one now.
    fn work_disk(&self) -> Result<WorkDisk, BakeError> {
        let disk = self.work.disk();
        let ready = self.bake.cache.take_spare(&self.parent.disk, &disk)?;
        Ok(if ready { WorkDisk::Ready(disk) } else { WorkDisk::Copy(disk) })
    }

    async fn stop(&mut self) -> Result<Snapshot, BakeError> {
        let running = self.machine.take().expect("a machine was made ready");
        let disk = running.machine.stop().await?;
        Ok(disk.expect("a machine that is to be changed gives its disk"))
    }

    /// Moves the working disk to the cache.
    async fn keep(&mut self, key: Digest) -> Result<(), BakeError> {
        if self.machine.is_none() {
            return Ok(());
        }
        let image = self.plan.image.clone();
        let began = Instant::now();
        self.bake.events.send(Event::StageStarted { image: image.clone(), stage: Stage::Checkpoint });
        let disk = self.stop().await?;
        let disk = Snapshot { disk: self.bake.cache.adopt_disk(&key, &disk.disk)? };
        self.parent = disk.clone();
        self.since.clear();
        drop(self.kept.send(Kept { key, disk }));
        let seconds = began.elapsed().as_secs_f64();
        self.bake.events.send(Event::StageFinished { image, stage: Stage::Checkpoint, seconds });
        Ok(())
    }

    /// Lets a person look at the machine, or keeps its disk, as was asked for; gives the error to end with.
    async fn after_failure(&mut self, error: BakeError) -> BakeError {
        let Some(mut running) = self.machine.take() else { return error };
        let looked = match self.bake.options.on_failure {
            OnFailure::Shell => {
                let status = shell(&mut *running.machine, self.operations).await;
                status.and(running.machine.stop().await.map_err(BakeError::from)).map(drop)
            }
            OnFailure::Keep => self.keep_failed(running).await,
            OnFailure::Cleanup => running.machine.stop().await.map(drop).map_err(BakeError::from),
        };
        match looked {
            Ok(()) => error,
            Err(second) => {
                let message = format!("after the failure: {second}");
                self.bake.events.send(Event::Note { image: Some(self.plan.image.clone()), message });
                error
            }
        }
    }

    async fn keep_failed(&mut self, running: Running) -> Result<(), BakeError> {
        match running.machine.stop().await? {
            Some(disk) => {
                keep_failed(&self.bake.cache, self.operations, &disk, "the disk of the failed bake")
            }
            None => Ok(()),
        }
    }

    /// Runs the layers between the last kept disk and a failed one again, and keeps their disk.
    async fn keep_what_succeeded(&mut self) -> Result<(), BakeError> {
        let Some(&last) = self.since.last() else { return Ok(()) };
        let key = self.plan.layers[last].key;
        let quiet = Operations { events: &crate::event::EventSink::silent(), ..*self.operations };
        for index in std::mem::take(&mut self.since) {
            let layer = &self.plan.layers[index];
            let start = if layer.booted.is_some() { Start::BuildBooted } else { Start::Build };
            self.ready(start, index).await?;
            let running = self.machine.as_mut().expect("a machine was made ready");
            let end = quiet.run(&mut *running.machine, &layer.operations, layer.key, Purpose::Change).await?;
            if failure(&layer.operations, &end.reports).is_some() {
                // It succeeded a moment ago; what cannot be repeated is not kept.
                return self.stop().await.map(drop);
            }
        }
        self.keep(key).await
    }

    fn tell_started(&self, layer: &Layer) {
        self.bake.events.send(Event::LayerStarted {
            image: self.plan.image.clone(),
            component: layer.component.clone(),
            operations: layer.operations.len(),
        });
    }

    fn tell_finished(&self, layer: &Layer, reports: &[OperationReport], seconds: f64) {
        self.bake.events.send(Event::LayerFinished {
            image: self.plan.image.clone(),
            component: layer.component.clone(),
            key: layer.key,
            outcome: LayerOutcome::Run,
            operations: counts(reports),
            seconds,
        });
    }

    fn journal(&self) -> impl Fn(std::io::Error) -> BakeError + use<> {
        let path = self.work.path().to_owned();
        move |source| BakeError::Io { action: "cannot write to", path: path.clone(), source }
    }
}

/// Gives the terminal to a shell on a machine.
pub(super) async fn shell(machine: &mut dyn Machine, operations: &Operations<'_>) -> Result<(), BakeError> {
    operations.events.send(Event::TerminalTaken);
    let status = machine.shell().await;
    operations.events.send(Event::TerminalReturned);
    Ok(status.map(drop)?)
}

/// Keeps the disk of what failed, and says where.
pub(super) fn keep_failed(
    cache: &Cache,
    operations: &Operations<'_>,
    disk: &Snapshot,
    what: &str,
) -> Result<(), BakeError> {
    let path = cache.keep_failed(operations.image, &disk.disk)?;
    let message = format!("{what} is at {path}; `olbake shell --disk {path}` opens it");
    operations.events.send(Event::Note { image: Some(operations.image.clone()), message });
    Ok(())
}

/// The error for the first operation that failed.
pub fn failure(operations: &[Operation], reports: &[OperationReport]) -> Option<BakeError> {
    let report = reports.iter().find(|report| report.outcome == Outcome::Failed)?;
    let operation = operations.iter().find(|operation| operation.id == report.id)?;
    Some(BakeError::Operation {
        component: component_of(operation),
        title: operation.title.clone(),
        span: operation.spans.first().cloned(),
        failure: Box::new(report.failure.clone().unwrap_or_else(|| olbake_core::report::Failure {
            message: "the agent gave no reason".to_owned(),
            command: None,
            status: None,
            output: None,
        })),
    })
}
