//! Bodies that are containers on this host. Main type: [`HostBodies`].
//!
//! Each has a folder with its console below the cloud's; its disk is where the proxy has it. A subnet is there as
//! long as one of its instances is. Nothing here outlives the process; what a killed one left is removed by the next
//! one with the same folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use olbake_local::cloud::Cidr;
use olbake_local::disk_machine::{self, DiskMachine, DiskMachineSpec, Subnet};
use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;

use super::{Bodies, Body, BodyError, BodyState};
use crate::ec2::imds::{self, Directory};

/// How long an instance may take to power off or to begin to boot again.
const GRACE: Duration = Duration::from_secs(90);
/// How long it is waited for a subnet that another process has.
const PATIENCE: Duration = Duration::from_secs(600);
/// What tells cloud-init where it is: a container cannot have what it looks for on EC2 itself.
const BOOT_WORD: &str = "ci.ds=Ec2";

/// Instances of one test cloud. Clones are the same cloud.
#[derive(Clone)]
pub struct HostBodies(Arc<Shared>);

struct Shared {
    folder: Utf8PathBuf,
    runtime: Handle,
    directory: Directory,
    subnets: Mutex<BTreeMap<Ipv4Addr, Weak<ServedSubnet>>>,
    bodies: Mutex<BTreeMap<String, Arc<Mutex<Slot>>>>,
    /// No other process works in the folder.
    _lock: File,
}

/// A subnet in which the metadata service answers.
struct ServedSubnet {
    _service: imds::Server,
    subnet: Subnet,
}

/// What there is of an instance.
#[derive(Default)]
struct Slot {
    machine: Option<DiskMachine>,
    /// Kept while it is stopped, too: it has an address there.
    place: Option<(Ipv4Addr, Arc<ServedSubnet>)>,
}

impl HostBodies {
    /// What the host lacks for them, all at once, with the package that has it.
    pub fn preflight() -> Result<(), Vec<String>> {
        disk_machine::preflight().map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    /// The bodies of a cloud that has its files in a folder, which is made where it is missing. What another process
    /// left there is ended. To be called within a runtime, which the metadata service then uses.
    pub fn open(folder: &Utf8Path) -> Result<Self, BodyError> {
        let problem = |what: &str| format!("{what} the folder of bodies `{folder}`");
        std::fs::create_dir_all(folder).map_err(BodyError::because(problem("cannot make")))?;
        let folder = folder.canonicalize_utf8().map_err(BodyError::because(problem("cannot find")))?;
        let lock = File::create(folder.join("lock")).map_err(BodyError::because(problem("cannot lock")))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| BodyError::because(problem("another process has"))(io::Error::from(error)))?;
        disk_machine::sweep(&folder).map_err(BodyError::because(problem("cannot sweep")))?;
        Ok(Self(Arc::new(Shared {
            folder,
            runtime: Handle::current(),
            directory: Directory::default(),
            subnets: Mutex::default(),
            bodies: Mutex::default(),
            _lock: lock,
        })))
    }

    /// Runs a command on an instance as root and returns what it wrote.
    pub async fn run(&self, instance: &str, command: &[&str]) -> Result<Vec<u8>, BodyError> {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        self.with_machine(instance, move |machine| {
            machine.run(&command.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await
    }

    /// Does blocking work where it blocks nobody.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, BodyError> + Send + 'static,
    ) -> Result<T, BodyError> {
        let shared = Arc::clone(&self.0);
        match self.0.runtime.spawn_blocking(move || work(&shared)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(BodyError::new("the test cloud is stopping")),
            },
        }
    }

    /// Does something with an instance that was started.
    async fn with_machine<T: Send + 'static>(
        &self,
        instance: &str,
        work: impl FnOnce(&mut DiskMachine) -> Result<T, olbake_engine::machine::MachineError> + Send + 'static,
    ) -> Result<T, BodyError> {
        let instance = instance.to_owned();
        self.blocking(move |shared| {
            let slot = shared.slot(&instance);
            let mut slot = locked(&slot);
            let machine = slot.machine.as_mut();
            let machine = machine.ok_or_else(|| BodyError::new(format!("`{instance}` does not run")))?;
            work(machine).map_err(BodyError::because(format!("`{instance}` did not do as it was told")))
        })
        .await
    }
}

impl Shared {
    fn slot(&self, instance: &str) -> Arc<Mutex<Slot>> {
        Arc::clone(locked(&self.bodies).entry(instance.to_owned()).or_default())
    }

    fn folder_of(&self, instance: &str) -> Utf8PathBuf {
        self.folder.join("bodies").join(instance)
    }

    fn start(&self, body: &Body) -> Result<(), BodyError> {
        let slot = self.slot(&body.instance);
        let mut slot = locked(&slot);
        if slot.machine.as_mut().is_some_and(DiskMachine::runs) {
            return Ok(());
        }
        slot.machine = None;
        let failed = || format!("cannot start `{}`", body.instance);
        let subnet = self.subnet(body)?;
        slot.place = Some((body.address, Arc::clone(&subnet)));
        self.directory.put(body);
        let spec = DiskMachineSpec {
            name: imds::host_name(body.address),
            folder: self.folder_of(&body.instance),
            disk: body.disk.clone(),
            address: body.address,
            hypervisor: Some(format!("ec2{}", uuid_tail(&body.instance))),
            boot_words: vec![BOOT_WORD.to_owned()],
        };
        let machine = DiskMachine::start(&spec, &subnet.subnet);
        slot.machine = Some(machine.map_err(BodyError::because(failed()))?);
        Ok(())
    }

    /// The subnet of a body, which is made if this is its first.
    fn subnet(&self, body: &Body) -> Result<Arc<ServedSubnet>, BodyError> {
        let cidr = cidr_of(body)?;
        let mut subnets = locked(&self.subnets);
        if let Some(subnet) = subnets.get(&cidr.gateway()).and_then(Weak::upgrade) {
            return Ok(subnet);
        }
        let failed = || format!("cannot make the subnet {cidr}");
        let folder = self.folder.join("subnets").join(cidr.gateway().to_string());
        let subnet = Subnet::open(cidr, &folder, PATIENCE).map_err(BodyError::because(failed()))?;
        let service = imds::Server::start(&self.runtime, subnet.bridge(), self.directory.clone());
        let service = service.map_err(BodyError::because("cannot serve metadata"))?;
        let served = Arc::new(ServedSubnet { _service: service, subnet });
        subnets.insert(cidr.gateway(), Arc::downgrade(&served));
        Ok(served)
    }

    fn end(&self, instance: &str) -> Result<(), BodyError> {
        let failed = || format!("cannot end `{instance}`");
        let slot = self.slot(instance);
        let mut slot = locked(&slot);
        let Slot { machine, place } = std::mem::take(&mut *slot);
        let ended = machine.map_or(Ok(()), |mut machine| machine.end());
        if let Some((address, _subnet)) = place {
            self.directory.remove(address);
        }
        locked(&self.bodies).remove(instance);
        ended.map_err(BodyError::because(failed()))?;
        match std::fs::remove_dir_all(self.folder_of(instance)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BodyError::because(failed())(error)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Bodies for HostBodies {
    async fn start(&self, body: &Body) -> Result<(), BodyError> {
        let body = body.clone();
        self.blocking(move |shared| shared.start(&body)).await
    }

    async fn stop(&self, instance: &str) -> Result<(), BodyError> {
        if self.state(instance).await == BodyState::Absent {
            return Ok(());
        }
        self.with_machine(instance, |machine| machine.power_off(GRACE)).await
    }

    async fn reboot(&self, instance: &str) -> Result<(), BodyError> {
        if self.with_machine(instance, |machine| machine.reboot(GRACE)).await? {
            return Ok(());
        }
        Err(BodyError::new(format!("`{instance}` did not boot again in {} seconds", GRACE.as_secs())))
    }

    async fn end(&self, instance: &str) -> Result<(), BodyError> {
        let instance = instance.to_owned();
        self.blocking(move |shared| shared.end(&instance)).await
    }

    async fn state(&self, instance: &str) -> BodyState {
        let Some(slot) = locked(&self.0.bodies).get(instance).cloned() else { return BodyState::Absent };
        let mut slot = match slot.try_lock() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Something is being done with it, and until that is done it is there.
            Err(TryLockError::WouldBlock) => return BodyState::Running,
        };
        match slot.machine.as_mut().map(DiskMachine::runs) {
            None => BodyState::Absent,
            Some(true) => BodyState::Running,
            Some(false) => BodyState::Stopped,
        }
    }

    async fn console(&self, instance: &str) -> String {
        disk_machine::console(&self.0.folder_of(instance))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cidr_of(body: &Body) -> Result<Cidr, BodyError> {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(body.prefix.into())).unwrap_or(0);
    let network = Ipv4Addr::from_bits(body.address.to_bits() & mask);
    let cidr = format!("{network}/{}", body.prefix);
    cidr.parse().map_err(BodyError::because(format!("`{}` cannot have its address", body.instance)))
}

/// What follows `ec2` in the identity by which instances on EC2's older hypervisor are known: digits of their ids.
fn uuid_tail(instance: &str) -> String {
    let mut digits: String = instance.chars().filter(char::is_ascii_hexdigit).take(29).collect();
    while digits.len() < 29 {
        digits.push('0');
    }
    let (head, tail) = digits.split_at(5);
    let parts: Vec<&str> = [0, 4, 8, 12].windows(2).map(|at| &tail[at[0]..at[1]]).collect();
    format!("{head}-{}-{}", parts.join("-"), &tail[12..])
}
