//! Machines that are VMs under QEMU. Main type: [`Vm`].
use async_trait::async_trait;
use camino::Utf8Path;
use olbake_core::plan::Architecture;
use olbake_engine::machine::{AgentStream, Machine, MachineError, MachineSpec, ShellStatus, Snapshot};
pub(crate) struct Vm {}
impl Vm {
    pub(crate) fn start(_s: MachineSpec, _a: Architecture) -> Result<Self, MachineError> {
        Err(crate::host::host_error("VMs come next"))
    }
}
#[async_trait]
impl Machine for Vm {
    async fn agent(&mut self) -> Result<AgentStream, MachineError> {
        Err(crate::host::host_error("VMs come next"))
    }
    fn agent_work_dir(&self) -> &Utf8Path {
        Utf8Path::new("/")
    }
    async fn shell(&mut self) -> Result<ShellStatus, MachineError> {
        Err(crate::host::host_error("VMs come next"))
    }
    fn console(&self) -> String {
        String::new()
    }
    async fn stop(self: Box<Self>) -> Result<Option<Snapshot>, MachineError> {
        Ok(None)
    }
}
