//! The checks of an image on a fresh boot of its disk.

use std::collections::BTreeMap;
use std::time::Duration;

use olbake_core::operation::Operation;
use olbake_core::plan::Plan;
use olbake_core::report::{OperationReport, Outcome, Package};
use olbake_core::{Digest, ImageRef};

use crate::event::CheckResult;
use crate::machine::{Builder, MachineSpec, Snapshot, Start, Substrate};

use super::operations::{Operations, Purpose};
use super::work::WorkDir;
use super::{BakeError, OnFailure, component_of};

/// What to boot, and how.
pub(super) struct FreshBoot<'a> {
    pub(super) builder: &'a dyn Builder,
    pub(super) work: &'a WorkDir,
    pub(super) substrate: Substrate,
    pub(super) agent: &'a camino::Utf8Path,
    pub(super) on_failure: OnFailure,
    /// Where the disk of an image that fails is kept, if it is to be.
    pub(super) cache: &'a crate::cache::Cache,
    /// The version, when it exists already.
    pub(super) digest: Option<Digest>,
}

/// What a fresh boot showed.
pub(super) struct Seen {
    /// The results of all checks, in the plan's order.
    pub(super) checks: Vec<CheckResult>,
    /// What is installed.
    pub(super) packages: Vec<Package>,
}

/// Who a machine of an image is, for its own programs.
pub fn instance(image: &ImageRef, digest: Option<Digest>) -> String {
    let ImageRef { image, variant } = image;
    serde_json::json!({ "image": image, "variant": variant, "digest": digest }).to_string()
}

impl FreshBoot<'_> {
    /// Boots the disk and runs the plan's checks.
    pub(super) async fn check(
        &self,
        disk: &Snapshot,
        plan: &Plan,
        operations: &Operations<'_>,
    ) -> Result<Seen, BakeError> {
        let io = |source| BakeError::Io {
            action: "cannot make a directory in",
            path: self.work.path().to_owned(),
            source,
        };
        let mut machine = self
            .builder
            .start(MachineSpec {
                name: plan.image.image.to_string(),
                substrate: self.substrate,
                start: Start::Fresh,
                parent: disk.clone(),
                disk: None,
                work_dir: self.work.machine().map_err(io)?,
                package_cache: None,
                agent: self.agent.to_owned(),
                instance: Some(instance(&plan.image, self.digest)),
                beside: None,
            })
            .await?;
        let checks: Vec<Operation> =
            plan.checks.iter().flat_map(|checks| &checks.operations).cloned().collect();
        let end = operations.run(&mut *machine, &checks, plan.key, Purpose::Check).await;
        let failed = |seen: &Seen| seen.checks.iter().any(|check| check.outcome == Outcome::Failed);
        let seen =
            end.map(|end| Seen { checks: check_results(&checks, &end.reports), packages: end.packages });
        let to_look_at = seen.as_ref().map_or(true, failed);
        if to_look_at && self.on_failure == OnFailure::Shell && !operations.cancel.is_cancelled() {
            super::layers::shell(&mut *machine, operations).await?;
        }
        machine.stop().await?;
        if to_look_at && self.on_failure == OnFailure::Keep {
            // As it was before the boot: what is looked for is in the image.
            let copy = self.builder.copy(disk, &self.work.disk()).await?;
            super::layers::keep_failed(
                self.cache,
                operations,
                &copy,
                "the disk that failed on the fresh boot",
            )?;
        }
        seen
    }
}

/// A result for each check, in their order; one that never ran counts as failed.
pub fn check_results(checks: &[Operation], reports: &[OperationReport]) -> Vec<CheckResult> {
    let reports: BTreeMap<&str, &OperationReport> =
        reports.iter().map(|report| (report.id.as_str(), report)).collect();
    checks
        .iter()
        .map(|check| {
            let report = reports.get(check.id.as_str());
            CheckResult {
                component: component_of(check),
                title: check.title.clone(),
                outcome: report.map_or(Outcome::Failed, |report| report.outcome),
                seconds: report.map_or(0.0, |report| Duration::from_micros(report.micros).as_secs_f64()),
                failure: report.and_then(|report| report.failure.clone()),
            }
        })
        .collect()
}

/// An error, unless all checks hold.
pub fn all_hold(checks: &[CheckResult]) -> Result<(), BakeError> {
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| check.outcome == Outcome::Failed)
        .map(|check| check.title.clone())
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(BakeError::Verification { failed }) }
}
