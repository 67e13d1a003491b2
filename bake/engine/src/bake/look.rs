//! Versions that exist, looked at again: their disk, their checks on a fresh boot, a shell on a throw-away copy.
//! Nothing here changes a version.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use olbake_core::plan::Plan;

use crate::cache::Cache;
use crate::event::{CheckResult, Event, Stage};
use crate::machine::{MachineSpec, ShellStatus, Snapshot, Start};
use crate::payload::Payloads;
use crate::registry::{Registry, RegistryError, Version};

use super::leaks::LeakSearch;
use super::operations::Operations;
use super::verify::{FreshBoot, instance};
use super::work::WorkDir;
use super::{Bake, BakeError, OnFailure};

/// The disk of a version: from the cache, or brought back from the store.
pub async fn version_disk(
    registry: &Registry,
    cache: &Cache,
    version: &Version,
) -> Result<Snapshot, BakeError> {
    if let Some(disk) = cache.disk(&version.sealed_key)? {
        return Ok(Snapshot { disk });
    }
    let map = registry.map(&version.map).await?;
    let partial = cache.partial_disk(&version.sealed_key);
    registry.read_disk(&map, &partial).await?;
    Ok(Snapshot { disk: cache.adopt_disk(&version.sealed_key, &partial)? })
}

impl Bake {
    /// The disk of a version, see [`version_disk`].
    pub async fn version_disk(&self, version: &Version) -> Result<Snapshot, BakeError> {
        version_disk(&self.registry, &self.cache, version).await
    }

    /// The plan that a version was made from.
    pub async fn version_plan(&self, version: &Version) -> Result<Plan, BakeError> {
        let plan = self.registry.plan(version).await?;
        plan.ok_or_else(|| {
            let (object, problem) = (format!("plan {}", version.plan), "it is gone".to_owned());
            BakeError::Registry(RegistryError::Torn { object, problem })
        })
    }

    /// Boots a version afresh, where the options say, runs its checks and searches its disk for leaks (secrets of
    /// its bake are not known any more). The checks' results, in the plan's order; a check that does not hold is no
    /// error here.
    pub async fn verify(&self, version: &Version) -> Result<Vec<CheckResult>, BakeError> {
        self.clean_up_after_others().await?;
        let image = version.image_ref();
        let plan = self.version_plan(version).await?;
        let disk = self.version_disk(version).await?;
        let work = self.work_dir("verify")?;
        let (secrets, payloads) = (BTreeMap::new(), BTreeMap::new());
        let (workspace, downloads) = (self.options.workspace.clone(), self.cache.downloads());
        let blobs = Payloads::new(payloads, BTreeMap::new(), workspace, downloads);
        let operations = Operations {
            image: &image,
            events: &self.events,
            cancel: &self.cancel,
            blobs: &blobs,
            secrets: &secrets,
            architecture: plan.architecture.kernel(),
        };
        let boot = FreshBoot {
            builder: &*self.builder,
            work: &work,
            substrate: self.options.verify,
            agent: &self.options.agent,
            on_failure: OnFailure::Cleanup,
            cache: &self.cache,
            digest: Some(version.digest),
        };
        let began = std::time::Instant::now();
        self.events.send(Event::StageStarted { image: image.clone(), stage: Stage::Verify });
        let search =
            LeakSearch { bake: self, work: &work, plan: &plan, operations: &operations, searched: None };
        let (searched, checks) =
            tokio::join!(search.run(&disk, version.sealed_key), boot.check(&disk, &plan, &operations));
        searched?;
        let checks = checks?.checks;
        let seconds = began.elapsed().as_secs_f64();
        self.events.send(Event::StageFinished { image, stage: Stage::Verify, seconds });
        Ok(checks)
    }

    /// Boots a throw-away copy of a disk, where the options say, and gives the terminal to a shell on it. A
    /// version's machine is told who it is.
    pub async fn shell(
        &self,
        name: &str,
        disk: Snapshot,
        version: Option<&Version>,
    ) -> Result<ShellStatus, BakeError> {
        self.clean_up_after_others().await?;
        let work = self.work_dir("shell")?;
        let spec = MachineSpec {
            name: name.to_owned(),
            substrate: self.options.verify,
            start: Start::Fresh,
            parent: disk,
            disk: None,
            work_dir: work.machine().map_err(|source| self.work_error(source))?,
            package_cache: None,
            agent: self.options.agent.clone(),
            instance: version.map(|version| instance(&version.image_ref(), Some(version.digest))),
            beside: None,
        };
        let mut machine = tokio::select! {
            machine = self.builder.start(spec) => machine?,
            () = self.cancel.cancelled() => return Err(BakeError::Cancelled),
        };
        self.events.send(Event::TerminalTaken);
        let status = machine.shell().await;
        self.events.send(Event::TerminalReturned);
        machine.stop().await?;
        Ok(status?)
    }

    fn work_dir(&self, name: &str) -> Result<WorkDir, BakeError> {
        WorkDir::create(self.cache.dir(), name).map_err(|source| self.work_error(source))
    }

    fn work_error(&self, source: std::io::Error) -> BakeError {
        BakeError::Io {
            action: "cannot make a working directory in",
            path: Utf8PathBuf::from(self.cache.dir()),
            source,
        }
    }
}
