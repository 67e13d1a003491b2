//! The builder itself: hands each question to the module that has the answer. Main type: [`LocalBuilder`].

use async_trait::async_trait;
use camino::Utf8Path;
use olbake_core::key;
use olbake_core::plan::{Architecture, Base};
use olbake_engine::machine::{Builder, Machine, MachineError, MachineSpec, Snapshot, Substrate};
use tokio::sync::mpsc;

use crate::container::Container;
use crate::copy::copy_disk;
use crate::debian::Debian;
use crate::host::{blocking, host_error};
use crate::{boot, preflight};

/// Machines on this host.
#[derive(Clone, Copy, Debug)]
pub struct LocalBuilder {
    architecture: Architecture,
}

impl LocalBuilder {
    /// Machines of this host's own architecture.
    pub fn new() -> Self {
        let arm = cfg!(target_arch = "aarch64");
        Self { architecture: if arm { Architecture::Arm64 } else { Architecture::Amd64 } }
    }
}

impl Default for LocalBuilder {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Builder for LocalBuilder {
    fn architecture(&self) -> Architecture {
        self.architecture
    }

    fn preflight(&self, substrate: Substrate) -> Result<(), Vec<MachineError>> {
        preflight::check(self.architecture, substrate)
    }

    async fn base(
        &self,
        base: &Base,
        file: Option<&Utf8Path>,
        disk: &Utf8Path,
        work_dir: &Utf8Path,
        package_cache: Option<&Utf8Path>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Snapshot, MachineError> {
        let architecture = self.architecture;
        let snapshot = Snapshot { disk: disk.to_owned() };
        match base {
            Base::Debian { suite, packages, mirror, disk_size } => {
                let debian = Debian {
                    suite: suite.clone(),
                    packages: packages.clone(),
                    mirror: mirror.clone(),
                    disk_size: *disk_size,
                    architecture,
                    key: key::base(architecture, base),
                    disk: disk.to_owned(),
                    work_dir: work_dir.to_owned(),
                    package_cache: package_cache.map(Utf8Path::to_owned),
                };
                with_progress(progress, move |hear| debian.make(hear)).await?;
            }
            Base::Disk { .. } => {
                let file = file.ok_or_else(|| host_error("the base disk's file was not given"))?.to_owned();
                let (disk, work_dir) = (disk.to_owned(), work_dir.to_owned());
                with_progress(progress, move |hear| {
                    hear("copying the base disk");
                    crate::basedisk::import(&file, &disk)?;
                    boot::finish(&disk, &work_dir, architecture)
                })
                .await?;
            }
            Base::Ami { owner, name } => {
                return Err(MachineError::Host {
                    message: format!("the base is the image `{name}` of the account {owner} on EC2"),
                    help: Some(
                        "`olbake bake --on ec2` bakes there; `olbake import ami` makes a base disk of it"
                            .to_owned(),
                    ),
                });
            }
            Base::Image { image, .. } => {
                return Err(host_error(format!(
                    "the base `{image}` is an image of the workspace, not a disk to make"
                )));
            }
        }
        Ok(snapshot)
    }

    async fn copy(&self, from: &Snapshot, to: &Utf8Path) -> Result<Snapshot, MachineError> {
        let (from, to) = (from.disk.clone(), to.to_owned());
        blocking(move || copy_disk(&from, &to).map(|()| Snapshot { disk: to })).await
    }

    async fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, MachineError> {
        match spec.substrate {
            Substrate::Container => Ok(Box::new(blocking(move || Container::start(spec)).await?)),
            Substrate::Vm => {
                let architecture = self.architecture;
                Ok(Box::new(blocking(move || crate::vm::Vm::start(spec, architecture)).await?))
            }
        }
    }

    async fn finish(&self, snapshot: &Snapshot, work_dir: &Utf8Path) -> Result<(), MachineError> {
        let (disk, work_dir, architecture) = (snapshot.disk.clone(), work_dir.to_owned(), self.architecture);
        blocking(move || boot::finish(&disk, &work_dir, architecture)).await
    }

    async fn sweep(&self, work_root: &Utf8Path) -> Result<Vec<String>, MachineError> {
        let work_root = work_root.to_owned();
        blocking(move || crate::sweep::sweep(&work_root)).await
    }
}

/// Runs blocking work whose progress is heard where it was asked for.
async fn with_progress(
    progress: &(dyn Fn(String) + Send + Sync),
    work: impl FnOnce(&mut dyn FnMut(&str)) -> Result<(), MachineError> + Send + 'static,
) -> Result<(), MachineError> {
    let (lines, mut heard) = mpsc::unbounded_channel();
    let work = tokio::spawn(blocking(move || {
        // Nobody listens any more: then nobody needs to hear.
        work(&mut |line| drop(lines.send(line.to_owned())))
    }));
    while let Some(line) = heard.recv().await {
        progress(line);
    }
    match work.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(host_error("olbake is stopping")),
        },
    }
}
