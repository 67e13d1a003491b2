//! Instances: machines that outlive the command. What they are to be, what they are, from launch to the end.
//!
//! Main types: [`InstanceSpec`], [`InstanceView`], [`State`].

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use camino::Utf8PathBuf;
use olbake_core::Digest;
use olbake_engine::machine::{INSTANCE_FILE, Substrate};
use serde::{Deserialize, Serialize};

use super::container::{self, IMAGE_LOCK, machine_name};
use super::inputs::{self, Address};
use super::keeper::{Keeper, started_at};
use super::limits::{Group, Limits, memory_of};
use super::network::{NetworkSpec, remove_link};
use super::place::{Link, Lock, Place, SPEC, make_folder, remove, write_whole};
use super::{Change, CloudError, Ensured, Id, Kind, disks, exec, network, volume};
use crate::host::{host_error, io_error};
use crate::mount::look_outside;
use crate::nspawn;

/// What an instance is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Which.
    pub id: Id,
    /// Its host name.
    pub name: String,
    /// The network that it has an address in.
    pub network: Id,
    /// Of the disk.
    pub digest: Digest,
    /// The baked disk, raw. Only read at the first launch from a digest: the cloud keeps its own.
    #[serde(skip)]
    pub disk: Utf8PathBuf,
    /// The content of [`INSTANCE_FILE`].
    pub identity: String,
    /// For cloud-init.
    pub user_data: Option<String>,
    /// Volumes, and where they are mounted.
    pub volumes: Vec<Attached>,
    /// What it runs as.
    pub substrate: Substrate,
    /// The only part that can change.
    pub limits: Limits,
}

/// A volume in an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Which volume.
    pub id: Id,
    /// Where it is mounted: `/var/lib/postgresql`.
    pub path: Utf8PathBuf,
}

/// What an instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceView {
    /// As it was asked for.
    pub spec: InstanceSpec,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// How far it is.
    pub state: State,
    /// When it was started: seconds since the epoch.
    pub started_at: Option<u64>,
    /// The bytes of memory that it takes, without cached files that could be given up.
    pub memory: Option<u64>,
}

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its services are being started.
    Booting,
    /// All of them were.
    Running,
    /// It is up, but one of its units failed.
    Degraded,
    /// It is shutting down.
    Stopping,
    /// Nothing of it runs. Ensuring it starts it again.
    Stopped,
}

impl State {
    /// Whether it has booted and not begun to stop.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Degraded)
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        })
    }
}

/// There once its upper layer is written: later boots find what they left.
const PREPARED: &str = "prepared";
/// There once it is being removed and nothing of it runs: it does not count as a user of its disk.
const ENDED: &str = "ended";

pub(super) fn ensure(place: &Place, spec: &InstanceSpec) -> Result<Ensured<InstanceView>, CloudError> {
    check(spec)?;
    let id = &spec.id;
    let lock = place.lock(Kind::Instance, id.as_str())?;
    if place.of(Kind::Instance, id.as_str()).join(ENDED).exists() {
        // What was removed is not to come back with what it had written.
        clear(place, id)?;
    }
    let known: Option<InstanceSpec> = place.spec(Kind::Instance, id)?;
    if let Some(what) = known.as_ref().and_then(|known| difference(known, spec)) {
        return Err(CloudError::Different { kind: Kind::Instance, id: id.clone(), what: what.to_owned() });
    }
    let network: NetworkSpec = place.known(Kind::Network, &spec.network)?;
    if known.as_ref().is_none_or(|known| known.limits != spec.limits) {
        place.write_spec(Kind::Instance, id, spec)?;
    }
    let keeper = keeper(place, id);
    let runs = keeper.is_ready()?;
    let same_limits = known.as_ref().is_some_and(|known| known.limits == spec.limits);
    if !runs {
        launch(place, spec, &network, &lock)?;
    } else if !same_limits {
        group(place, id).apply(of_group(spec))?;
    }
    let view = inspect(place, id)?.ok_or_else(|| host_error("the instance vanished"))?;
    Ok(Ensured { change: Change::of(known.is_some(), runs && same_limits), view })
}

/// Starts it, for the first time or again.
fn launch(place: &Place, spec: &InstanceSpec, network: &NetworkSpec, lock: &Lock) -> Result<(), CloudError> {
    let id = &spec.id;
    end(place, id)?;
    for attached in &spec.volumes {
        volume::claim(place, &attached.id, id)?;
    }
    disks::keep(place, spec.digest, &spec.disk)?;
    let address = Address {
        address: network::address(place, network, id)?,
        cidr: network.cidr,
        hardware: place.hardware_address(Link::Instance, id),
    };
    super::hostlimits::raise()?;
    group(place, id).ensure(of_group(spec))?;
    let script = match spec.substrate {
        Substrate::Container => prepare_container(place, spec, &address)?,
        Substrate::Vm => super::vm::prepare(place, spec, &address)?,
    };
    let keeper = keeper(place, id);
    if keeper.start(&script, &group(place, id).prefix(of_group(spec)), lock)? {
        return Ok(());
    }
    let console = keeper.console().tail();
    end(place, id)?;
    Err(CloudError::Start { kind: Kind::Instance, id: id.clone(), console })
}

fn prepare_container(place: &Place, spec: &InstanceSpec, address: &Address) -> Result<String, CloudError> {
    let folder = place.of(Kind::Instance, spec.id.as_str());
    let lower = disks::mounted(place, spec.digest)?;
    for name in ["upper", "work", "root"] {
        make_folder(&folder.join(name))?;
    }
    if !folder.join(PREPARED).exists() {
        look_outside(|| inputs::write(spec, address, &lower, &folder.join("upper")))
            .map_err(io_error("cannot look at", &lower))??;
        write_whole(&folder.join(PREPARED), b"")?;
    }
    container::script(place, spec, address, &lower)
}

pub(super) fn inspect(place: &Place, id: &Id) -> Result<Option<InstanceView>, CloudError> {
    let Some(spec) = place.spec::<InstanceSpec>(Kind::Instance, id)? else { return Ok(None) };
    let keeper = keeper(place, id);
    let process = keeper.process()?;
    let state = match process {
        None => State::Stopped,
        Some(_) if !keeper.is_ready()? => State::Booting,
        Some(_) if spec.substrate == Substrate::Vm => super::vm::state(place, id)?,
        Some(process) => exec::state(process)?,
    };
    let address = network::address_of(place, &spec.network, id)?;
    let started_at = process.and_then(started_at);
    let memory = process.and_then(memory_of);
    Ok(Some(InstanceView { spec, address, state, started_at, memory }))
}

/// Stops it, in order where it can within `grace`; it can be started again.
pub(super) fn stop(place: &Place, id: &Id, grace: Duration) -> Result<(), CloudError> {
    let _held = place.lock(Kind::Instance, id.as_str())?;
    power_off(place, id, grace)?;
    end(place, id)
}

/// Ends it and all it had but its volumes.
pub(super) fn terminate(place: &Place, id: &Id, grace: Duration) -> Result<(), CloudError> {
    let _held = place.lock(Kind::Instance, id.as_str())?;
    power_off(place, id, grace)?;
    clear(place, id)
}

/// Ends and removes it.
fn clear(place: &Place, id: &Id) -> Result<(), CloudError> {
    end(place, id)?;
    network::give_back(place, id)?;
    if let Some(spec) = place.spec::<InstanceSpec>(Kind::Instance, id)? {
        write_whole(&place.of(Kind::Instance, id.as_str()).join(ENDED), b"")?;
        disks::forget(place, spec.digest)?;
        // Before the mark: without both it would count again.
        remove(&place.of(Kind::Instance, id.as_str()).join(SPEC))?;
    }
    place.remove(Kind::Instance, id.as_str())
}

/// Whether an instance that is not being removed starts from a disk.
pub(super) fn uses(place: &Place, id: &Id, disk: &str) -> Result<bool, CloudError> {
    let spec: Option<InstanceSpec> = place.spec(Kind::Instance, id)?;
    let ended = place.of(Kind::Instance, id.as_str()).join(ENDED).exists();
    Ok(spec.is_some_and(|spec| spec.digest.hex() == disk) && !ended)
}

fn power_off(place: &Place, id: &Id, grace: Duration) -> Result<(), CloudError> {
    let keeper = keeper(place, id);
    let spec: Option<InstanceSpec> = place.spec(Kind::Instance, id)?;
    let (Some(process), Some(spec), false) = (keeper.process()?, spec, grace.is_zero()) else {
        return Ok(());
    };
    match spec.substrate {
        Substrate::Container => exec::power_off(process)?,
        Substrate::Vm => super::vm::power_off(place, id)?,
    }
    // One that does not end by itself is ended.
    keeper.wait(grace)?;
    Ok(())
}

/// Takes away what runs of it and what it has of the host's; its files stay.
fn end(place: &Place, id: &Id) -> Result<(), CloudError> {
    keeper(place, id).kill()?;
    remove_link(&place.link(Link::Instance, id))?;
    group(place, id).remove()?;
    nspawn::forget(&machine_name(place, id.as_str()));
    let note = place.of(Kind::Instance, id.as_str()).join(IMAGE_LOCK);
    if let Ok(name) = std::fs::read_to_string(&note) {
        nspawn::forget_image_lock(name.trim());
        remove(&note)?;
    }
    Ok(())
}

/// The digest of the image that it says it runs; `None`: it says nothing.
pub(super) fn running_digest(place: &Place, id: &Id) -> Result<Option<Digest>, CloudError> {
    let text = exec::run(place, id, &["cat".to_owned(), INSTANCE_FILE.to_owned()], Duration::from_secs(10))?;
    let value: serde_json::Value = serde_json::from_str(&text.stdout).unwrap_or_default();
    Ok(value["digest"].as_str().and_then(|digest| digest.parse().ok()))
}

/// The process that keeps a running instance.
pub(super) fn running(place: &Place, id: &Id) -> Result<(InstanceSpec, u32), CloudError> {
    let spec: InstanceSpec = place.known(Kind::Instance, id)?;
    let process = keeper(place, id).process()?;
    let stopped = || CloudError::NotRunning { id: id.clone(), state: State::Stopped };
    Ok((spec, process.ok_or_else(stopped)?))
}

pub(super) fn keeper(place: &Place, id: &Id) -> Keeper {
    Keeper::of(place.of(Kind::Instance, id.as_str()))
}

fn group(place: &Place, id: &Id) -> Group {
    Group::named(machine_name(place, id.as_str()))
}

/// The limits of its control group. A VM's memory is as large as it is: QEMU takes more than that for itself.
fn of_group(spec: &InstanceSpec) -> Limits {
    let memory = spec.limits.memory.filter(|_| spec.substrate == Substrate::Container);
    Limits { memory, ..spec.limits }
}

/// Which part of an instance would have to change that cannot.
fn difference(known: &InstanceSpec, wanted: &InstanceSpec) -> Option<&'static str> {
    let InstanceSpec {
        id: _,
        name,
        network,
        digest,
        disk: _,
        identity,
        user_data,
        volumes,
        substrate,
        limits: _,
    } = known;
    let parts = [
        (*digest != wanted.digest, "image"),
        (*name != wanted.name, "name"),
        (*network != wanted.network, "network"),
        (*identity != wanted.identity, "identity"),
        (*user_data != wanted.user_data, "user data"),
        (*volumes != wanted.volumes, "set of volumes"),
        (*substrate != wanted.substrate, "kind of machine"),
    ];
    parts.into_iter().find_map(|(differs, part)| differs.then_some(part))
}

fn check(spec: &InstanceSpec) -> Result<(), CloudError> {
    let bad = |problem: String| CloudError::Spec { kind: Kind::Instance, id: spec.id.clone(), problem };
    let name = &spec.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !(1..=63).contains(&name.len()) || !name.chars().all(plain) || name.starts_with(['-', '.']) {
        return Err(bad(format!("`{name}` is no host name")));
    }
    for (number, attached) in spec.volumes.iter().enumerate() {
        let path = &attached.path;
        let clean = path.is_absolute() && !path.as_str().contains(char::is_control);
        if !clean || path.components().any(|part| part.as_str() == "..") || path == "/" {
            return Err(bad(format!("`{path}` is no place for a volume")));
        }
        if spec.volumes[..number].iter().any(|other| other.id == attached.id || other.path == *path) {
            return Err(bad(format!("volume `{}` or its place `{path}` is there twice", attached.id)));
        }
    }
    Ok(())
}

/// The end of an instance's console.
pub(super) fn console(place: &Place, id: &Id) -> Result<String, CloudError> {
    let folder = place.of(Kind::Instance, id.as_str());
    if !folder.exists() {
        return Err(CloudError::Missing { kind: Kind::Instance, id: id.clone() });
    }
    let console = folder.join("console.log");
    let text = keeper(place, id).console();
    if console.exists() {
        Ok(text.tail())
    } else {
        Err(io_error("cannot read", &console)(std::io::ErrorKind::NotFound.into()).into())
    }
}
