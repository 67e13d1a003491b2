//! Containers that boot from a disk of their own and write to it: what a cloud's machines look like from outside.
//!
//! Unlike a bake's machine one has an address in a network of the host's ([`Subnet`]), reboots and powers itself
//! off as it likes, and what it writes is on its disk; unlike the local cloud's instances it ends with the process
//! that started it. Its root file system is mounted in a namespace of its own, and so are its processes: they go
//! together, and a file system that loses its last mount is written out. Main type: [`DiskMachine`].

mod process;
mod script;
mod subnet;

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::MachineError;

pub use process::HostProcess;
pub use subnet::{METADATA_ADDRESS, Subnet};

use crate::cgroup::Cgroup;
use crate::cloud::hostlimits;
use crate::cloud::network::remove_link;
use crate::container::{enter, leader_below};
use crate::host::{HostCommand, Owned, io_error, wait_for};
use crate::mount::wait_for_loop;
use crate::nspawn;
use crate::session::Console;

/// How long it may take until the first process of a machine runs.
const START: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);
/// How long it is waited before a machine that did not listen is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a machine is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskMachineSpec {
    /// Its host name, until something inside sets another one.
    pub name: String,
    /// A folder of its own: its console's log stays there.
    pub folder: Utf8PathBuf,
    /// Its disk, raw, with a GPT.
    pub disk: Utf8PathBuf,
    /// Its address in the subnet, which it gets by DHCP.
    pub address: Ipv4Addr,
    /// What it finds in `/sys/hypervisor/uuid`, by which some clouds are known.
    pub hypervisor: Option<String>,
    /// Words for the machine's kernel command line, which in a container is that of its first process.
    pub boot_words: Vec<String>,
}

/// A running machine, or one that ran. Dropping it ends it.
#[derive(Debug)]
pub struct DiskMachine {
    folder: Utf8PathBuf,
    disk: Utf8PathBuf,
    name: String,
    link: String,
    process: Owned,
    _cgroup: Cgroup,
}

/// What the host lacks for such machines, all at once, with the package that has it.
pub fn preflight() -> Result<(), Vec<MachineError>> {
    crate::preflight::check_disk_machines()
}

/// Ends and removes what processes that no longer run left of machines in a folder, and of subnets anywhere; says
/// what it was, a line each.
pub fn sweep(folder: &Utf8Path) -> Result<Vec<String>, MachineError> {
    let mut found = crate::sweep::sweep(folder)?;
    found.extend(subnet::sweep()?);
    Ok(found)
}

/// The end of what a machine wrote to its console, running or not; empty where it never ran.
pub fn console(folder: &Utf8Path) -> String {
    let path = folder.join(script::CONSOLE);
    if path.exists() { Console::new(path).tail() } else { String::new() }
}

impl DiskMachine {
    /// Starts one, and returns once its first process runs.
    pub fn start(spec: &DiskMachineSpec, subnet: &Subnet) -> Result<Self, MachineError> {
        hostlimits::raise().map_err(|error| crate::host::host_error(error.to_string()))?;
        // A process that was killed a moment ago may still be being written out.
        let disk = spec.disk.canonicalize_utf8().map_err(io_error("cannot find", &spec.disk))?;
        wait_for_loop(&disk)?;
        let name = nspawn::new_name();
        let link = subnet.connect(spec.address, &spec.name)?;
        script::write(spec, subnet, &name, &link)?;
        let cgroup = Cgroup::create(&name)?;
        let console = Console::new(spec.folder.join(script::CONSOLE));
        let command = cgroup.enter().args(["sh", script::SCRIPT]).folder(&spec.folder);
        let process = command.spawn(Stdio::null(), console.append()?.into(), console.append()?.into())?;
        let mut machine =
            Self { folder: spec.folder.clone(), disk, name, link, process: Owned(process), _cgroup: cgroup };
        machine.wait_for_leader(START)?;
        Ok(machine)
    }

    /// Whether it runs: it may have powered itself off.
    pub fn runs(&mut self) -> bool {
        matches!(self.process.0.try_wait(), Ok(None))
    }

    /// Powers it off in order, or ends it when the time is over. Its disk is at rest afterwards.
    pub fn power_off(&mut self, grace: Duration) -> Result<(), MachineError> {
        let end = Instant::now() + grace;
        while self.runs() && Instant::now() < end {
            self.ask("poweroff")?;
            if wait_for(&mut self.process.0, ASK_AGAIN).is_ok_and(|ended| ended.is_some()) {
                break;
            }
        }
        self.end()
    }

    /// Has it boot again; whether it did within the time.
    pub fn reboot(&mut self, grace: Duration) -> Result<bool, MachineError> {
        let end = Instant::now() + grace;
        let before = self.wait_for_leader(START)?;
        while self.runs() && Instant::now() < end {
            self.ask("reboot")?;
            let again = Instant::now() + ASK_AGAIN;
            while Instant::now() < again {
                if self.leader().is_some_and(|leader| leader != before) {
                    return Ok(true);
                }
                thread::sleep(PAUSE);
            }
        }
        Ok(false)
    }

    /// Ends it at once, and waits until its disk is at rest.
    pub fn end(&mut self) -> Result<(), MachineError> {
        if self.runs() {
            self.thaw();
        }
        self.process.kill();
        remove_link(&self.link).map_err(|error| crate::host::host_error(error.to_string()))?;
        nspawn::forget(&self.name);
        wait_for_loop(&self.disk)
    }

    /// Runs a command on it as root and returns what it wrote.
    pub fn run(&mut self, command: &[&str]) -> Result<Vec<u8>, MachineError> {
        let leader = self.wait_for_leader(START)?;
        enter(leader, command).run()
    }

    /// The end of what it wrote to its console.
    pub fn console(&self) -> String {
        console(&self.folder)
    }

    /// Tells its first process something, which may not listen yet.
    fn ask(&self, verb: &str) -> Result<(), MachineError> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let command = enter(leader, ["timeout", "5", "systemctl", verb, "--no-wall", "--no-block"]);
        command.try_run().map(drop)
    }

    /// Thaws its file system, which something inside may have frozen: one that loses its last mount so stays for ever.
    fn thaw(&self) {
        let (process, root) = (self.process.0.id().to_string(), self.folder.join(script::ROOT));
        // It is an error where nothing was frozen.
        HostCommand::new("nsenter")
            .args(["-t", &process, "-m", "--", "fsfreeze", "--unfreeze", root.as_str()])
            .try_run()
            .ok();
    }

    /// The host's number of its first process.
    fn leader(&self) -> Option<u32> {
        leader_below(self.process.0.id())
    }

    fn wait_for_leader(&mut self, time: Duration) -> Result<u32, MachineError> {
        let end = Instant::now() + time;
        loop {
            let runs = self.runs();
            if let Some(leader) = self.leader() {
                return Ok(leader);
            }
            if !runs || Instant::now() >= end {
                let message = "the machine's first process did not start".to_owned();
                return Err(MachineError::Boot { message, console: self.console() });
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for DiskMachine {
    fn drop(&mut self) {
        // What is not gone now is swept by the next process.
        self.end().ok();
    }
}

/// Makes a folder and those above it.
fn make_folder(folder: &Utf8Path) -> Result<(), MachineError> {
    std::fs::create_dir_all(folder).map_err(io_error("cannot make", folder))
}
