//! What a bake needs of the place where machines run: the traits [`Builder`] and [`Machine`].
//!
//! A [`Snapshot`] is a disk at rest. A builder makes one for a base, brings one back from a block map, and starts
//! machines on it; a machine is stopped into another snapshot or thrown away. `bake/local` implements both for
//! containers and for QEMU.

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::plan::{Architecture, Base};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// Why a machine could not do what it was asked for. The kind decides the exit code and the hint.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The host lacks something: a tool, a right, a kernel feature.
    #[error("{message}")]
    Host {
        /// What is missing.
        message: String,
        /// How to get it: `apt-get install systemd-container`.
        help: Option<String>,
    },
    /// A command on the host failed.
    #[error("`{command}` failed with {status}")]
    Command {
        /// The command as typed.
        command: String,
        /// How it ended.
        status: String,
        /// The end of its standard error.
        output: String,
    },
    /// A file or device of the host could not be used.
    #[error("{action} `{path}`")]
    Io {
        /// What was attempted: `cannot open`.
        action: String,
        /// On what.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The machine did not boot, or stopped by itself.
    #[error("{message}")]
    Boot {
        /// What happened.
        message: String,
        /// The end of its console.
        console: String,
    },
    /// A disk is not what it should be.
    #[error("`{path}` is not usable as a disk: {problem}")]
    Disk {
        /// The disk.
        path: Utf8PathBuf,
        /// Why.
        problem: String,
    },
}

/// A disk at rest: a raw file on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The raw disk.
    pub disk: Utf8PathBuf,
}

/// How a machine is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// To be changed: the agent runs in it without a boot. Stopping it gives a snapshot.
    Build,
    /// To be changed, booted: systemd runs as the first process. Stopping it gives a snapshot.
    BuildBooted,
    /// To be looked at: a fresh boot of the disk as it is; what it writes is thrown away.
    Fresh,
    /// To be looked at without a boot: the agent runs in it; what it writes is thrown away.
    Inspect,
}

/// The substrate a machine runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Substrate {
    /// systemd-nspawn.
    Container,
    /// QEMU under UEFI.
    Vm,
}

/// The disk that a machine changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkDisk {
    /// To be made here, as a copy of the parent. A file there is replaced.
    Copy(Utf8PathBuf),
    /// Here already: a copy of the parent that was made before, and that nothing else uses.
    Ready(Utf8PathBuf),
}

/// What a machine is to be.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// A name for logs and host names: the image's.
    pub name: String,
    /// Where it runs.
    pub substrate: Substrate,
    /// How it starts.
    pub start: Start,
    /// The disk to begin with. It is not changed: a machine that is to be changed works on a copy.
    pub parent: Snapshot,
    /// For machines that are to be changed: the disk that they change.
    pub disk: Option<WorkDisk>,
    /// A directory of the caller's for whatever the machine needs while it runs (sockets, overlay, logs). It
    /// exists, is empty, and is removed by the caller afterwards.
    pub work_dir: Utf8PathBuf,
    /// A directory for package lists and downloads, kept between bakes; absent: none is kept.
    pub package_cache: Option<Utf8PathBuf>,
    /// The agent's executable on this host.
    pub agent: Utf8PathBuf,
    /// For fresh boots: who the machine is, as the content of [`INSTANCE_FILE`], JSON. It is there before the
    /// first program runs, as boot inputs are where images are deployed.
    pub instance: Option<String>,
    /// A disk whose root file system the machine sees at [`BESIDE`], to be read only; for containers.
    pub beside: Option<Snapshot>,
}

/// Where a machine sees the files of [`MachineSpec::beside`].
pub const BESIDE: &str = "/run/olbake-beside";

/// Where a machine finds out which image it runs: `{"image", "variant", "digest"}`; the digest is null while the
/// version does not exist yet.
pub const INSTANCE_FILE: &str = "/etc/olbake/instance.json";

/// The two ends of an agent's stream, and what it writes beside it.
pub struct AgentStream {
    /// To the agent.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// From the agent.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
}

/// How a shell for a person ended.
pub type ShellStatus = std::process::ExitStatus;

/// A running machine.
#[async_trait]
pub trait Machine: Send {
    /// Starts an agent on the machine. Dropping the stream ends it.
    async fn agent(&mut self) -> Result<AgentStream, MachineError>;

    /// The directory on the machine that agents use for journal and blobs; it survives a dropped stream, not the
    /// machine, and never ends up in a snapshot.
    fn agent_work_dir(&self) -> &Utf8Path;

    /// Gives the terminal to a shell on the machine and waits for it.
    async fn shell(&mut self) -> Result<ShellStatus, MachineError>;

    /// The end of what the machine wrote to its console, for a person.
    fn console(&self) -> String;

    /// Stops the machine and, where it was to be changed, gives its disk: file systems unmounted and clean,
    /// written through to the file (not necessarily to the platter).
    async fn stop(self: Box<Self>) -> Result<Option<Snapshot>, MachineError>;
}

/// A place where machines run.
#[async_trait]
pub trait Builder: Send + Sync {
    /// The architecture of its machines.
    fn architecture(&self) -> Architecture;

    /// Says what the host lacks for machines of this kind, all at once.
    fn preflight(&self, substrate: Substrate) -> Result<(), Vec<MachineError>>;

    /// Makes the disk that an image starts from at `disk`: a GPT with an EFI system partition and an ext4 root
    /// file system. `file` is the base disk's file for [`Base::Disk`], already checked. `progress` hears a line at
    /// a time what goes on.
    async fn base(
        &self,
        base: &Base,
        file: Option<&Utf8Path>,
        disk: &Utf8Path,
        work_dir: &Utf8Path,
        package_cache: Option<&Utf8Path>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Snapshot, MachineError>;

    /// Copies a disk, sharing its blocks where the file system can, and keeping its holes.
    async fn copy(&self, from: &Snapshot, to: &Utf8Path) -> Result<Snapshot, MachineError>;

    /// Starts a machine and returns when an agent can be started on it: for a boot, when systemd says that it is
    /// up (`running` or `degraded`).
    async fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, MachineError>;

    /// Makes the disk of a stopped machine bootable as it is: the kernel, initrd and boot loader of its root file
    /// system go to the EFI system partition. Does nothing when they are there already.
    async fn finish(&self, snapshot: &Snapshot, work_dir: &Utf8Path) -> Result<(), MachineError>;

    /// Ends what a process that no longer runs left under `work_root`: machines, mounts, loop devices, network
    /// namespaces. Returns what it found, a line each. The directories stay, for the caller to remove.
    async fn sweep(&self, work_root: &Utf8Path) -> Result<Vec<String>, MachineError>;
}
