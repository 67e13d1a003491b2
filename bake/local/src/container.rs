//! Machines that are containers. Main type: [`Container`].

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::{
    AgentStream, BESIDE, Machine, MachineError, MachineSpec, ShellStatus, Snapshot, Start, WorkDisk,
};

use crate::cgroup::Cgroup;
use crate::copy::copy_disk;
use crate::host::{HostCommand, Owned, blocking, host_error, io_error, wait_for};
use crate::mount::{Access, MountGuard, mount_root, overlay, trim};
use crate::nspawn::{self, AGENT_FOLDER, Input, Network, Nspawn};
use crate::packages::PackageCache;
use crate::seed;
use crate::session::{Console, Sessions};

/// How long a container may take to boot.
const BOOT_TIME: Duration = Duration::from_secs(90);
/// How long one that was to be changed may take to power off.
const STOP_TIME: Duration = Duration::from_secs(90);
/// The environment of commands on a booted machine.
const ENVIRONMENT: [&str; 7] = [
    "env",
    "-i",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "TERM=linux",
    "container=systemd-nspawn",
];

/// A running container. Dropping it ends it.
pub(crate) struct Container {
    name: String,
    /// Absent where nothing was booted: then every agent is a container of its own.
    booted: Option<Booted>,
    sessions: Sessions,
    console: Console,
    packages: Option<PackageCache>,
    /// The root file system's mount first, what it lies on after it.
    mounts: Vec<MountGuard>,
    /// Another disk's root file system.
    beside: Option<MountGuard>,
    /// What a stop gives.
    disk: Option<Utf8PathBuf>,
    agent_folder: Utf8PathBuf,
    agent_work_dir: Utf8PathBuf,
    /// What nspawn knows it by, once per start.
    nspawn_names: Vec<String>,
}

/// A container in which systemd runs.
struct Booted {
    process: Owned,
    /// The host's number of the container's first process.
    leader: u32,
    _cgroup: Cgroup,
}

impl Container {
    /// Starts one and waits until it is up.
    pub(crate) fn start(spec: MachineSpec) -> Result<Self, MachineError> {
        let MachineSpec {
            name, start, parent, disk, work_dir, package_cache, agent, instance, beside, ..
        } = spec;
        let agent_folder = work_dir.join("machine");
        prepare_agent(&agent, &agent_folder)?;
        let (mounts, disk) = match start {
            Start::Fresh | Start::Inspect => (mount_throw_away(&parent, &work_dir)?, None),
            Start::Build | Start::BuildBooted => {
                let disk = disk.ok_or_else(|| host_error("a machine that is to be changed needs a disk"))?;
                let disk = match disk {
                    WorkDisk::Copy(disk) => copy_disk(&parent.disk, &disk).map(|()| disk)?,
                    WorkDisk::Ready(disk) => disk,
                };
                (vec![mount_root(&disk, &work_dir.join("root"), Access::ReadWrite)?], Some(disk))
            }
        };
        let beside = beside
            .map(|other| mount_root(&other.disk, &work_dir.join("beside"), Access::ReadOnly))
            .transpose()?;
        let kept = package_cache.filter(|_| disk.is_some());
        let packages = kept.map(|kept| PackageCache::open(&kept, work_dir.join("packages"))).transpose()?;
        let mut container = Self {
            name,
            booted: None,
            sessions: Sessions::default(),
            console: Console::new(work_dir.join("console.log")),
            packages,
            mounts,
            beside,
            disk,
            agent_folder,
            agent_work_dir: Utf8Path::new(AGENT_FOLDER).join("work"),
            nspawn_names: Vec::new(),
        };
        match start {
            Start::Build | Start::Inspect => {}
            Start::BuildBooted => container.boot(Network::Host)?,
            Start::Fresh => {
                seed::no_cloud(container.root())?;
                seed::identity(container.root(), instance.as_deref())?;
                container.boot(Network::None)?;
            }
        }
        Ok(container)
    }

    fn root(&self) -> &Utf8Path {
        self.mounts.first().expect("a container has its root mounted").directory()
    }

    /// The container's description: its root file system and what appears in it.
    fn nspawn(&mut self) -> Nspawn {
        let nspawn = Nspawn::new(self.root()).hostname(&self.name).bind(&self.agent_folder, AGENT_FOLDER);
        self.nspawn_names.push(nspawn.name().to_owned());
        let nspawn = match &self.beside {
            Some(beside) => nspawn.bind_read_only(beside.directory().as_str(), BESIDE),
            None => nspawn,
        };
        let places = self.packages.iter().flat_map(PackageCache::places);
        places
            .filter(|(_, place)| self.root().join(place).is_dir())
            .fold(nspawn, |nspawn, (folder, place)| nspawn.bind(&folder, &format!("/{place}")))
    }

    fn boot(&mut self, network: Network) -> Result<(), MachineError> {
        let units = self.agent_folder.with_file_name("units");
        seed::container_units(&units, network)?;
        let nspawn = self.nspawn().bind(&units, seed::RUNTIME_UNITS);
        let nspawn = if network == Network::Host { nspawn.with_network() } else { nspawn };
        let cgroup = Cgroup::create(nspawn.name())?;
        let command = nspawn.boot(network, &cgroup);
        let (output, errors) = (self.console.append()?, self.console.append()?);
        let process = Owned(command.spawn(Stdio::null(), output.into(), errors.into())?);
        let booted = self.booted.insert(Booted { process, leader: 0, _cgroup: cgroup });
        booted.wait_until_up(&self.console)
    }

    /// An agent's command, or another's, on the machine.
    fn command(&mut self, input: Input, command: &[&str]) -> HostCommand {
        match &self.booted {
            Some(booted) => booted.enter(command),
            None => self.nspawn().with_network().run(input, command),
        }
    }

    /// Waits for agents whose streams were dropped: without a boot, a machine has one container at a time.
    async fn agents_ended(&self) -> Result<(), MachineError> {
        let sessions = self.sessions.clone();
        blocking(move || {
            sessions.wait();
            Ok(())
        })
        .await
    }

    fn stop_now(self) -> Result<Option<Snapshot>, MachineError> {
        let Self { booted, sessions, console, packages, mounts, beside, disk, nspawn_names, .. } = self;
        sessions.wait();
        if let Some(mut booted) = booted {
            if disk.is_some() {
                booted.power_off(&console)?;
            }
            booted.process.kill();
        }
        if let Some(packages) = packages {
            packages.close()?;
        }
        if disk.is_some() {
            mounts.first().map_or(Ok(()), |root| trim(root.directory()))?;
        }
        mounts.into_iter().chain(beside).try_for_each(MountGuard::close)?;
        nspawn_names.iter().for_each(|name| nspawn::forget(name));
        Ok(disk.map(|disk| Snapshot { disk }))
    }
}

#[async_trait]
impl Machine for Container {
    async fn agent(&mut self) -> Result<AgentStream, MachineError> {
        self.agents_ended().await?;
        let agent = format!("{AGENT_FOLDER}/olbake-agent");
        let command = self.command(Input::Pipes, &[&agent]);
        self.sessions.start(command, &self.console)
    }

    fn agent_work_dir(&self) -> &Utf8Path {
        &self.agent_work_dir
    }

    async fn shell(&mut self) -> Result<ShellStatus, MachineError> {
        self.agents_ended().await?;
        // `script` gives the shell a terminal of the machine's own; without it there is no job control.
        let shell = ["sh", "-c", "cd; exec script -qec 'bash -l' /dev/null || exec sh -l"];
        let plain = ["bash", "-l"];
        let command = if self.booted.is_some() { &shell[..] } else { &plain[..] };
        let command = self.command(Input::Terminal, command);
        blocking(move || {
            let mut child = command.spawn(Stdio::inherit(), Stdio::inherit(), Stdio::inherit())?;
            child.wait().map_err(|error| host_error(format!("cannot wait for the shell: {error}")))
        })
        .await
    }

    fn console(&self) -> String {
        self.console.tail()
    }

    async fn stop(self: Box<Self>) -> Result<Option<Snapshot>, MachineError> {
        blocking(move || self.stop_now()).await
    }
}

impl Booted {
    /// A command in the container, next to its services.
    fn enter(&self, command: &[&str]) -> HostCommand {
        enter(self.leader, command)
    }

    fn wait_until_up(&mut self, console: &Console) -> Result<(), MachineError> {
        let end = Instant::now() + BOOT_TIME;
        let failed =
            |message: &str| MachineError::Boot { message: message.to_owned(), console: console.tail() };
        loop {
            if matches!(self.process.0.try_wait(), Ok(Some(_))) {
                return Err(failed("the container stopped while it booted"));
            }
            if let Some(leader) = leader_below(self.process.0.id()) {
                self.leader = leader;
                match self.state(end.saturating_duration_since(Instant::now()))?.as_str() {
                    "running" | "degraded" => return Ok(()),
                    "maintenance" | "stopping" => {
                        return Err(failed("the container did not boot: systemd gave up"));
                    }
                    _ => {}
                }
            }
            if Instant::now() >= end {
                let seconds = BOOT_TIME.as_secs();
                return Err(failed(&format!("the container was not up after {seconds} seconds")));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What systemd in the container says of itself, once it has finished to start or the time is over.
    fn state(&self, time: Duration) -> Result<String, MachineError> {
        let limit = format!("{}", time.as_secs().max(1));
        let command = self.enter(&["timeout", &limit, "systemctl", "is-system-running", "--wait"]);
        let (_, output) = command.try_run()?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    fn power_off(&mut self, console: &Console) -> Result<(), MachineError> {
        // How it went is seen by whether the container ends.
        self.enter(&["systemctl", "poweroff", "--no-wall"]).try_run()?;
        match wait_for(&mut self.process.0, STOP_TIME) {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => Err(MachineError::Boot {
                message: format!("the container did not power off within {} seconds", STOP_TIME.as_secs()),
                console: console.tail(),
            }),
        }
    }
}

/// A command in a booted container, next to its services; the leader is the host's number of its first process.
pub(crate) fn enter<S: AsRef<OsStr>>(leader: u32, command: impl IntoIterator<Item = S>) -> HostCommand {
    HostCommand::new("nsenter")
        .args(["-t", &leader.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--"])
        .args(ENVIRONMENT)
        // nsenter's own end does not reach the process it made by itself.
        .args(["setpriv", "--pdeathsig", "KILL", "--"])
        .args(command)
}

/// The first process of a container below another process, by the host's number.
pub(crate) fn leader_below(process: u32) -> Option<u32> {
    let depth = depth_of(process)?;
    let mut open = vec![process];
    while let Some(process) = open.pop() {
        // Below the namespace around nspawn, the container has one of its own.
        if depth_of(process) == Some(depth + 2) {
            return Some(process);
        }
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
        open.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    None
}

/// How many process namespaces a process is in.
fn depth_of(process: u32) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(numbers.split_whitespace().count())
}

/// Puts the agent where the machine will find it, beside the folder that it works in.
fn prepare_agent(agent: &Utf8Path, folder: &Utf8Path) -> Result<(), MachineError> {
    let make = |folder: &Utf8Path, mode| fs::DirBuilder::new().mode(mode).create(folder);
    make(folder, 0o755).map_err(io_error("cannot make", folder))?;
    let work = folder.join("work");
    make(&work, 0o700).map_err(io_error("cannot make", &work))?;
    let own = folder.join("olbake-agent");
    fs::copy(agent, &own).map_err(io_error("cannot copy", agent))?;
    fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(io_error("cannot make executable", &own))
}

fn mount_throw_away(parent: &Snapshot, work_dir: &Utf8Path) -> Result<Vec<MountGuard>, MachineError> {
    let lower = mount_root(&parent.disk, &work_dir.join("parent"), Access::ReadOnly)?;
    let (upper, work) = (work_dir.join("upper"), work_dir.join("overlay"));
    let root = overlay(lower.directory(), &upper, &work, &work_dir.join("root"))?;
    Ok(vec![root, lower])
}
