//! Machines that are VMs: QEMU under UEFI, on a copy of the disk that is thrown away.
//!
//! What olbake needs inside is written to that copy before it boots, and nothing of it to the image: the agent, and
//! units that speak over virtio ports: one says that the system is up, one gives shells, and those of
//! [`crate::guest`] run agents, one session after another. Main type: [`Vm`].

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::plan::Architecture;
use olbake_engine::machine::{AgentStream, Machine, MachineError, MachineSpec, ShellStatus, Snapshot, Start};

use crate::copy::copy_disk;
use crate::guest::{self, GuestSessions};
use crate::host::{HostCommand, Owned, blocking, host_error, io_error};
use crate::mount::{Access, mount_root};
use crate::preflight::{emulator, firmware};
use crate::session::Console;
use crate::{kvm, seed, terminal};

/// How long a VM may take to boot: emulated, a processor is some twenty times slower.
const BOOT_TIME: Duration = Duration::from_secs(90);
const EMULATED_BOOT_TIME: Duration = Duration::from_secs(300);
/// How long a VM may take to end one session and begin another.
const AGENT_TIME: Duration = Duration::from_secs(30);
const EMULATED_AGENT_TIME: Duration = Duration::from_secs(120);
/// Megabytes of memory.
const MEMORY: &str = "2048";

/// Where things are in the VM.
const FOLDER: &str = "usr/local/lib/olbake-vm";
const WORK_DIR: &str = "/run/olbake/work";

/// A running VM. Dropping it ends it.
pub(crate) struct Vm {
    process: Owned,
    work_dir: Utf8PathBuf,
    console: Console,
    /// Absent before the first session.
    sessions: Option<GuestSessions>,
    agent_time: Duration,
}

impl Vm {
    /// Starts one and waits until it is up.
    pub(crate) fn start(spec: MachineSpec, architecture: Architecture) -> Result<Self, MachineError> {
        let MachineSpec { start, parent, work_dir, agent, instance, .. } = spec;
        if start != Start::Fresh {
            return Err(host_error("VMs only boot what is finished: images are built in containers"));
        }
        let disk = work_dir.join("disk.raw");
        copy_disk(&parent.disk, &disk)?;
        let root = mount_root(&disk, &work_dir.join("root"), Access::ReadWrite)?;
        prepare(root.directory(), &agent)?;
        seed::identity(root.directory(), instance.as_deref())?;
        root.close()?;
        let accelerated = kvm::runs(architecture, &work_dir)?;
        let console = Console::new(work_dir.join("console.log"));
        let command = qemu(architecture, accelerated, &work_dir)?;
        let process = Owned(command.spawn(Stdio::null(), Stdio::null(), console.append()?.into())?);
        let (boot_time, agent_time) =
            if accelerated { (BOOT_TIME, AGENT_TIME) } else { (EMULATED_BOOT_TIME, EMULATED_AGENT_TIME) };
        let mut vm = Self { process, work_dir, console, sessions: None, agent_time };
        vm.wait_until_up(boot_time)?;
        Ok(vm)
    }

    /// Waits for the machine's own word that it is up, which comes by a port that is a file here.
    fn wait_until_up(&mut self, time: Duration) -> Result<(), MachineError> {
        let end = Instant::now() + time;
        let said = self.work_dir.join("ready");
        loop {
            // The file is there once QEMU is.
            let state = fs::read_to_string(&said).unwrap_or_default();
            match state.strip_suffix('\n') {
                Some("running" | "degraded") => return Ok(()),
                Some(state) => {
                    return Err(self.failed(format!("the VM did not boot: systemd says `{state}`")));
                }
                None => {}
            }
            if matches!(self.process.0.try_wait(), Ok(Some(_))) {
                return Err(self.failed("the VM stopped while it booted".to_owned()));
            }
            if Instant::now() >= end {
                return Err(self.failed(format!("the VM was not up after {} seconds", time.as_secs())));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn failed(&self, message: String) -> MachineError {
        MachineError::Boot { message, console: self.console.tail() }
    }
}

#[async_trait]
impl Machine for Vm {
    async fn agent(&mut self) -> Result<AgentStream, MachineError> {
        let mut sessions = match self.sessions.take() {
            Some(sessions) => sessions,
            None => GuestSessions::connect(&self.work_dir)?,
        };
        let begun = sessions.begin(self.agent_time).await;
        self.sessions = Some(sessions);
        begun.map_err(|error| self.failed(format!("the VM's agent cannot be reached: {error}")))
    }

    fn agent_work_dir(&self) -> &Utf8Path {
        Utf8Path::new(WORK_DIR)
    }

    async fn shell(&mut self) -> Result<ShellStatus, MachineError> {
        let stream = guest::connect(&self.work_dir, "shell")?;
        blocking(move || {
            terminal::attach(stream).map_err(|error| host_error(format!("cannot use the terminal: {error}")))
        })
        .await
    }

    fn console(&self) -> String {
        self.console.tail()
    }

    async fn stop(mut self: Box<Self>) -> Result<Option<Snapshot>, MachineError> {
        blocking(move || {
            self.process.kill();
            let disk = self.work_dir.join("disk.raw");
            fs::remove_file(&disk).map_err(io_error("cannot remove", &disk))?;
            Ok(None)
        })
        .await
    }
}

/// Writes to the copy what olbake needs inside.
fn prepare(root: &Utf8Path, agent: &Utf8Path) -> Result<(), MachineError> {
    let own = root.join(FOLDER).join("olbake-agent");
    let content = fs::read(agent).map_err(io_error("cannot read", agent))?;
    seed::write(&own, content)?;
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755))
        .map_err(io_error("cannot make executable", &own))?;
    for (name, content) in guest::scripts(&format!("/{FOLDER}")) {
        seed::write(&root.join(FOLDER).join(name), content)?;
    }
    let units = root.join("etc/systemd/system");
    let [sessions, agent] = guest::units(&format!("/{FOLDER}"), WORK_DIR);
    seed::write(&units.join(agent.0), agent.1)?;
    let ready = ("olbake-ready.service", guest::ready_unit("org.olbake.ready"));
    for (name, content) in [sessions, ready, ("olbake-shell.service", terminal::unit())] {
        seed::write(&units.join(name), content)?;
        let link = units.join("multi-user.target.wants").join(name);
        fs::create_dir_all(link.with_file_name("")).map_err(io_error("cannot make", &link))?;
        symlink(format!("../{name}"), &link).map_err(io_error("cannot make", &link))?;
    }
    // The shell's terminal is not one for logging in.
    let getty = units.join("serial-getty@hvc0.service");
    symlink("/dev/null", &getty).map_err(io_error("cannot make", &getty))?;
    seed::no_waiting(&units)?;
    seed::no_cloud(root)
}

/// The command that runs the VM, in its folder. It has no network: what an image is verified by is in it.
fn qemu(
    architecture: Architecture,
    accelerated: bool,
    work_dir: &Utf8Path,
) -> Result<HostCommand, MachineError> {
    let (program, _) = emulator(architecture);
    let (code, variables) =
        firmware(architecture).ok_or_else(|| host_error("no UEFI firmware is installed"))?;
    let own = work_dir.join("variables.fd");
    fs::copy(variables, &own).map_err(io_error("cannot make", &own))?;
    let machine = match architecture {
        Architecture::Amd64 => "q35",
        Architecture::Arm64 => "virt",
    };
    // All of the emulated processor: with single features taken from it, Linux was seen to misbehave.
    let (accelerator, processor) = if accelerated { ("kvm", "host") } else { ("tcg,thread=multi", "max") };
    let code = format!("if=pflash,unit=0,format=raw,readonly=on,file={}", code.display());
    let command = HostCommand::new(program).folder(work_dir);
    Ok(command
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"])
        .args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny"])
        .args(["-machine", machine, "-accel", accelerator, "-cpu", processor, "-smp", "2", "-m", MEMORY])
        .args(["-drive", &code, "-drive", "if=pflash,unit=1,format=raw,file=variables.fd"])
        .args(["-drive", "if=none,id=root,format=raw,cache=unsafe,discard=unmap,file=disk.raw"])
        .args(["-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci"])
        .args(["-chardev", "file,id=console,path=console.log,append=on", "-serial", "chardev:console"])
        .args(["-device", "virtio-serial-pci"])
        .args([
            "-chardev",
            "socket,id=shell,path=shell,server=on,wait=off",
            "-device",
            "virtconsole,chardev=shell",
        ])
        .args(guest_port(guest::STREAM, guest::STREAM_PORT))
        .args(guest_port(guest::CONTROL, guest::CONTROL_PORT))
        .args(["-chardev", "file,id=ready,path=ready"])
        .args(["-device", "virtserialport,chardev=ready,name=org.olbake.ready"]))
}

/// A port of the guest's that is a socket here.
fn guest_port(socket: &str, port: &str) -> [String; 4] {
    let chardev = format!("socket,id={socket},path={socket},server=on,wait=off");
    ["-chardev".into(), chardev, "-device".into(), format!("virtserialport,chardev={socket},name={port}")]
}
