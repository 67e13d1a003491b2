//! The search of a sealed disk for what must not leave: secrets used in the bake, private keys, builder identity.
//!
//! It reads the disk as the version will have it, while the same disk boots fresh for its checks: both must hold
//! before the version exists, and neither needs the other. Main type: [`LeakSearch`].

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::digest::FieldDigest;
use olbake_core::operation::{Action, Operation};
use olbake_core::plan::Plan;

use crate::machine::{BESIDE, Machine, MachineSpec, Snapshot, Start, Substrate};

use super::operations::{Operations, Purpose};
use super::work::WorkDir;
use super::{Bake, BakeError, OnFailure};

/// Whether an operation of the seal is the search.
pub(super) fn is_scan(operation: &Operation) -> bool {
    matches!(operation.action, Action::LeakScan { .. })
}

/// The paths whose private keys are let through.
pub(super) fn allowed(plan: &Plan) -> BTreeSet<&Utf8Path> {
    plan.seal
        .iter()
        .filter_map(|step| match &step.action {
            Action::LeakScan { allow, .. } => Some(allow),
            _ => None,
        })
        .flatten()
        .map(Utf8PathBuf::as_path)
        .collect()
}

/// The search of one disk.
pub(super) struct LeakSearch<'a> {
    pub(super) bake: &'a Bake,
    pub(super) work: &'a WorkDir,
    pub(super) plan: &'a Plan,
    pub(super) operations: &'a Operations<'a>,
    /// A disk of the same descent that was searched already, for all that this one is: files that are the same on both
    /// are not read again.
    pub(super) searched: Option<Snapshot>,
}

impl LeakSearch<'_> {
    /// Searches; what is found is the error.
    pub(super) async fn run(&self, disk: &Snapshot, sealed_key: Digest) -> Result<(), BakeError> {
        let mut scan: Vec<Operation> = self.plan.seal.iter().filter(|step| is_scan(step)).cloned().collect();
        for step in &mut scan {
            if let Action::LeakScan { searched, .. } = &mut step.action {
                *searched = self.searched.is_some().then(|| BESIDE.into());
            }
        }
        let run = FieldDigest::new("olbake leak search").field("disk", sealed_key.as_bytes()).finish();
        let mut machine = self.machine(disk).await?;
        let end = self.operations.run(&mut *machine, &scan, run, Purpose::Change).await;
        let found = match end {
            Ok(end) => super::layers::failure(&scan, &end.reports),
            Err(error) => Some(error),
        };
        if found.is_some() {
            self.after_failure(&mut *machine, disk).await?;
        }
        machine.stop().await?;
        found.map_or(Ok(()), Err)
    }

    async fn machine(&self, disk: &Snapshot) -> Result<Box<dyn Machine>, BakeError> {
        let failed = |source| BakeError::Io {
            action: "cannot make a directory in",
            path: self.work.path().to_owned(),
            source,
        };
        let spec = MachineSpec {
            name: self.plan.image.image.to_string(),
            substrate: Substrate::Container,
            start: Start::Inspect,
            parent: disk.clone(),
            disk: None,
            work_dir: self.work.machine().map_err(failed)?,
            package_cache: None,
            agent: self.bake.options.agent.clone(),
            instance: None,
            beside: self.searched.clone(),
        };
        Ok(self.bake.builder.start(spec).await?)
    }

    /// Lets a person look at the machine, or keeps a copy of its disk, as was asked for.
    async fn after_failure(&self, machine: &mut dyn Machine, disk: &Snapshot) -> Result<(), BakeError> {
        match self.bake.options.on_failure {
            OnFailure::Cleanup => Ok(()),
            OnFailure::Shell => super::layers::shell(machine, self.operations).await,
            OnFailure::Keep => {
                let copy = self.bake.builder.copy(disk, &self.work.disk()).await?;
                let (cache, operations) = (&self.bake.cache, self.operations);
                super::layers::keep_failed(cache, operations, &copy, "the disk with the leak")
            }
        }
    }
}
