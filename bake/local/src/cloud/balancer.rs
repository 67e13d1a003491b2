//! Load balancers: who takes part, with which weight, and who is to leave. HAProxy does the work.
//!
//! The balancer's folder has the specification, the members, and the configuration made of both, so a process that is
//! started again knows what the one before was told. Each change is written first and told second, and every verb
//! compares what the process does with what is written. Main types: [`BalancerSpec`], [`Member`], [`MemberView`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::haproxy;
use super::keeper::Keeper;
use super::network::NetworkSpec;
use super::place::{Lock, Place, read_json, write_json, write_whole};
use super::runtime::{Runtime, Slot};
use super::{Change, CloudError, Ensured, Id, Kind};
use crate::host::{HostCommand, host_error};

/// How many members a backend can have: slots are there from the beginning, so that no change needs a restart.
pub(super) const SLOTS: u16 = 128;
/// How long the process may take to answer after it was started or told to read its configuration.
const ANSWER: Duration = Duration::from_secs(10);
const MEMBERS: &str = "members.json";
const CONFIGURATION: &str = "haproxy.cfg";

/// What a load balancer is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerSpec {
    /// Which.
    pub id: Id,
    /// The network that its members are in.
    pub network: Id,
    /// Where it listens, and for whom.
    pub listeners: Vec<Listener>,
    /// How it finds out whether a member can be asked.
    pub health: HealthCheck,
    /// How long connections of a process that is replaced, when listeners change, may still take.
    pub drain_timeout: Duration,
}

/// A port, and the backend behind it. A backend is known by being named here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// On which address.
    pub on: ListenOn,
    /// Who answers.
    pub backend: Id,
    /// What is spoken.
    pub mode: Mode,
}

/// An address of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenOn {
    /// The one in the network: for its instances, and for the host.
    Gateway,
    /// 127.0.0.1: for the host alone.
    Loopback,
}

/// What a balancer understands of what it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Requests: each may go to another member, and again to another where one failed.
    Http,
    /// Connections.
    Tcp,
}

/// How a member's health is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Asked for by GET, in HTTP mode: 2xx and 3xx are healthy. Absent: that it accepts a connection is enough.
    pub path: Option<String>,
    /// The time between two checks.
    pub interval: Duration,
    /// How long the answer may take. Apart from the interval: a busy member that answers late is still one that serves.
    #[serde(default = "answer_time")]
    pub timeout: Duration,
    /// How many good ones make a member healthy.
    pub rise: u8,
    /// How many bad ones make it unhealthy.
    pub fall: u8,
}

fn answer_time() -> Duration {
    Duration::from_secs(5)
}

/// An instance behind a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which instance.
    pub instance: Id,
    /// Its address.
    pub address: Ipv4Addr,
    /// The port that it answers on.
    pub port: u16,
    /// Its share, 0 to 256: with 0 it gets nothing new.
    pub weight: u16,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberView {
    /// As it was asked for.
    pub member: Member,
    /// Whether it is to get nothing new.
    pub draining: bool,
    /// What the balancer thinks of it.
    pub health: Health,
    /// What the last check said: `L7OK/200`.
    pub check: String,
    /// Connections to it now.
    pub sessions: u32,
}

/// What a load balancer thinks of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It can be asked.
    Up,
    /// It cannot, or it has not passed enough checks yet.
    Down,
    /// The balancer does not know it, or does not answer.
    Unknown,
}

/// What a load balancer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BalancerView {
    /// As it was asked for.
    pub spec: BalancerSpec,
    /// Whether it answers.
    pub up: bool,
    /// Its members by backend.
    pub backends: BTreeMap<Id, Vec<MemberView>>,
}

/// The members of a balancer, in its folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Members(pub(super) BTreeMap<Id, Backend>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Backend {
    /// The slot to try next: one that became free may have connections that still end.
    next: u16,
    pub(super) members: Vec<Seat>,
}

/// A member in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seat {
    pub(super) slot: u16,
    pub(super) draining: bool,
    #[serde(flatten)]
    pub(super) member: Member,
}

pub(super) fn ensure(place: &Place, spec: &BalancerSpec) -> Result<Ensured<BalancerView>, CloudError> {
    check(spec)?;
    let id = &spec.id;
    let lock = place.lock(Kind::Balancer, id.as_str())?;
    place.expect(Kind::Network, &spec.network)?;
    let known: Option<BalancerSpec> = place.spec(Kind::Balancer, id)?;
    if known.as_ref().is_some_and(|known| known.network != spec.network) {
        return Err(CloudError::Different {
            kind: Kind::Balancer,
            id: id.clone(),
            what: "network".to_owned(),
        });
    }
    if known.as_ref() != Some(spec) {
        place.write_spec(Kind::Balancer, id, spec)?;
    }
    let whole = converge(place, spec, &lock)? && known.as_ref() == Some(spec);
    let view = inspect(place, id)?.ok_or_else(|| host_error("the load balancer vanished"))?;
    Ok(Ensured { change: Change::of(known.is_some(), whole), view })
}

pub(super) fn inspect(place: &Place, id: &Id) -> Result<Option<BalancerView>, CloudError> {
    let Some(spec) = place.spec::<BalancerSpec>(Kind::Balancer, id)? else { return Ok(None) };
    let runtime = runtime(place, id);
    let lines = if keeper(place, id).is_alive()? { runtime.statistics().ok() } else { None };
    let members = members(place, id)?;
    let mut backends = BTreeMap::new();
    for name in spec.backends() {
        let seats = members.0.get(name).map_or(&[][..], |backend| &backend.members[..]);
        let views = seats.iter().map(|seat| {
            let line = lines.iter().flatten().find(|line| line.is_of(name, seat.slot));
            MemberView {
                member: seat.member.clone(),
                draining: seat.draining,
                health: line.map_or(Health::Unknown, |line| line.health),
                check: line.map_or_else(String::new, |line| line.check.clone()),
                sessions: line.map_or(0, |line| line.sessions),
            }
        });
        backends.insert(name.clone(), views.collect());
    }
    Ok(Some(BalancerView { up: lines.is_some(), spec, backends }))
}

pub(super) fn delete(place: &Place, id: &Id) -> Result<(), CloudError> {
    let _held = place.lock(Kind::Balancer, id.as_str())?;
    keeper(place, id).kill()?;
    place.remove(Kind::Balancer, id.as_str())
}

/// Changes the members of a backend; whether there was anything to do.
pub(super) fn change(
    place: &Place,
    id: &Id,
    backend: &Id,
    how: impl FnOnce(&mut Backend) -> Result<(), String>,
) -> Result<Change, CloudError> {
    let lock = place.lock(Kind::Balancer, id.as_str())?;
    let spec: BalancerSpec = place.known(Kind::Balancer, id)?;
    let refused = |problem| CloudError::Balancer { id: id.clone(), problem };
    if !spec.backends().any(|name| name == backend) {
        return Err(refused(format!("it has no backend `{backend}`")));
    }
    let before = members(place, id)?;
    let mut members = before.clone();
    how(members.0.entry(backend.clone()).or_default()).map_err(refused)?;
    let same = members == before;
    if !same {
        write_json(&place.of(Kind::Balancer, id.as_str()).join(MEMBERS), &members)?;
    }
    let whole = converge(place, &spec, &lock)?;
    Ok(Change::of(true, same && whole))
}

/// Brings the process to what is written; whether it was there already.
fn converge(place: &Place, spec: &BalancerSpec, lock: &Lock) -> Result<bool, CloudError> {
    let id = &spec.id;
    let network: NetworkSpec = place.known(Kind::Network, &spec.network)?;
    let members = members(place, id)?;
    let (text, structure) = haproxy::configuration(spec, network.cidr.gateway(), &members);
    let mut whole = write_configuration(place, id, &text)?;
    let (keeper, runtime) = (keeper(place, id), runtime(place, id));
    if !keeper.is_ready()? {
        whole = false;
        keeper.kill()?;
        if !keeper.start(haproxy::SCRIPT, &[], lock)? {
            return Err(not_started(place, id)?);
        }
    }
    if wait_for_structure(&runtime, None)?.as_ref() != Some(&structure) {
        whole = false;
        keeper.tell(rustix::process::Signal::HUP)?;
        if wait_for_structure(&runtime, Some(&structure))?.as_ref() != Some(&structure) {
            return Err(not_started(place, id)?);
        }
    }
    let told = runtime.converge(|backend, slot| wanted(&members, backend, slot));
    let told = told.map_err(|problem| CloudError::Balancer { id: id.clone(), problem })?;
    Ok(whole && !told)
}

/// What a slot is to be; `None`: empty.
fn wanted(members: &Members, backend: &str, slot: u16) -> Option<Slot> {
    let (_, backend) = members.0.iter().find(|(name, _)| name.as_str() == backend)?;
    let seat = backend.members.iter().find(|seat| seat.slot == slot)?;
    let Member { instance: _, address, port, weight } = seat.member;
    Some(Slot { address, port, weight, draining: seat.draining })
}

/// Waits until the process answers and, where one is wanted, has this structure; returns the one that it has.
fn wait_for_structure(runtime: &Runtime, wanted: Option<&String>) -> Result<Option<String>, CloudError> {
    let end = Instant::now() + ANSWER;
    loop {
        let found = runtime.structure().ok();
        if found.is_some() && wanted.is_none_or(|wanted| found.as_ref() == Some(wanted)) {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn not_started(place: &Place, id: &Id) -> Result<CloudError, CloudError> {
    let keeper = keeper(place, id);
    let console = keeper.console().tail();
    if runtime(place, id).structure().is_err() {
        // It would try for ever.
        keeper.kill()?;
    }
    Ok(CloudError::Start { kind: Kind::Balancer, id: id.clone(), console })
}

/// Puts the configuration where the process reads it, if it can be understood; whether it was there.
fn write_configuration(place: &Place, id: &Id, text: &str) -> Result<bool, CloudError> {
    let folder = place.of(Kind::Balancer, id.as_str());
    let path = folder.join(CONFIGURATION);
    if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(true);
    }
    let new = folder.join("haproxy.new");
    write_whole(&new, text.as_bytes())?;
    HostCommand::new("haproxy").folder(&folder).args(["-c", "-f", "haproxy.new"]).run()?;
    std::fs::rename(&new, &path).map_err(crate::host::io_error("cannot write", &path))?;
    Ok(false)
}

fn members(place: &Place, id: &Id) -> Result<Members, CloudError> {
    Ok(read_json(&place.of(Kind::Balancer, id.as_str()).join(MEMBERS))?.unwrap_or_default())
}

fn keeper(place: &Place, id: &Id) -> Keeper {
    Keeper::of(place.of(Kind::Balancer, id.as_str()))
}

fn runtime(place: &Place, id: &Id) -> Runtime {
    Runtime::of(place.of(Kind::Balancer, id.as_str()))
}

impl BalancerSpec {
    /// The backends, each once.
    pub(super) fn backends(&self) -> impl Iterator<Item = &Id> {
        let names: std::collections::BTreeSet<&Id> = self.listeners.iter().map(|one| &one.backend).collect();
        names.into_iter()
    }

    /// What a backend's members are spoken to in.
    pub(super) fn mode_of(&self, backend: &Id) -> Mode {
        self.listeners.iter().find(|one| one.backend == *backend).map_or(Mode::Tcp, |one| one.mode)
    }
}

impl Backend {
    /// Makes exactly these the members; those that stay keep their slot and go on draining if they do.
    pub(super) fn set(&mut self, wanted: &[Member]) -> Result<(), String> {
        self.members.retain(|seat| wanted.iter().any(|member| member.instance == seat.member.instance));
        wanted.iter().try_for_each(|member| self.put(member))
    }

    /// Adds a member, or changes it.
    pub(super) fn put(&mut self, member: &Member) -> Result<(), String> {
        if member.weight > 256 {
            return Err(format!("the weight {} of `{}` is above 256", member.weight, member.instance));
        }
        if let Some(seat) = self.members.iter_mut().find(|seat| seat.member.instance == member.instance) {
            if (seat.member.address, seat.member.port) == (member.address, member.port) {
                seat.member = member.clone();
                return Ok(());
            }
            self.remove(&member.instance);
        }
        let taken = |slot: u16| self.members.iter().any(|seat| seat.slot == slot);
        let slot = (0..SLOTS).map(|step| (self.next + step) % SLOTS).find(|slot| !taken(*slot));
        let slot = slot.ok_or_else(|| format!("a backend has at most {SLOTS} members"))?;
        self.next = (slot + 1) % SLOTS;
        self.members.push(Seat { slot, draining: false, member: member.clone() });
        Ok(())
    }

    pub(super) fn remove(&mut self, instance: &Id) {
        self.members.retain(|seat| seat.member.instance != *instance);
    }

    /// Sets the share of members, all at once.
    pub(super) fn weigh(&mut self, weights: &BTreeMap<Id, u16>) -> Result<(), String> {
        for (instance, weight) in weights {
            let seat = self.seat(instance)?;
            let member = Member { weight: *weight, ..seat.member.clone() };
            self.put(&member)?;
        }
        Ok(())
    }

    pub(super) fn drain(&mut self, instance: &Id, draining: bool) -> Result<(), String> {
        self.seat(instance)?.draining = draining;
        Ok(())
    }

    fn seat(&mut self, instance: &Id) -> Result<&mut Seat, String> {
        let seat = self.members.iter_mut().find(|seat| seat.member.instance == *instance);
        seat.ok_or_else(|| format!("`{instance}` is no member"))
    }
}

fn check(spec: &BalancerSpec) -> Result<(), CloudError> {
    let bad = |problem: String| CloudError::Spec { kind: Kind::Balancer, id: spec.id.clone(), problem };
    if spec.listeners.is_empty() {
        return Err(bad("it listens nowhere".to_owned()));
    }
    for (number, one) in spec.listeners.iter().enumerate() {
        let before = &spec.listeners[..number];
        if one.port == 0 || before.iter().any(|other| (other.port, other.on) == (one.port, one.on)) {
            return Err(bad(format!("it cannot listen on port {} for `{}`", one.port, one.backend)));
        }
        if spec.mode_of(&one.backend) != one.mode {
            return Err(bad(format!("`{}` is spoken to in two ways", one.backend)));
        }
    }
    let HealthCheck { path, interval, timeout, rise, fall } = &spec.health;
    let plain = |path: &String| {
        path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic() && !"\"'\\#%".contains(c))
    };
    let zero = interval.is_zero() || timeout.is_zero() || *rise == 0 || *fall == 0;
    if zero || path.as_ref().is_some_and(|path| !plain(path)) {
        return Err(bad(
            "its health check has a path from `/` of plain characters, and numbers above 0".to_owned()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u8) -> Member {
        let instance = format!("web-{number}").parse().unwrap();
        Member { instance, address: Ipv4Addr::new(10, 0, 0, number), port: 80, weight: 100 }
    }

    #[test]
    fn members_keep_their_slots_and_new_ones_get_others() {
        let mut backend = Backend::default();
        backend.set(&[member(1), member(2)]).unwrap();
        backend.drain(&member(1).instance, true).unwrap();
        backend.set(&[member(3), member(1)]).unwrap();
        let seats: Vec<_> = backend
            .members
            .iter()
            .map(|seat| (seat.member.instance.as_str(), seat.slot, seat.draining))
            .collect();
        assert_eq!(seats, [("web-1", 0, true), ("web-3", 2, false)]);
    }

    #[test]
    fn a_member_with_another_address_is_another() {
        let mut backend = Backend::default();
        backend.put(&member(1)).unwrap();
        backend.put(&Member { port: 81, ..member(1) }).unwrap();
        assert_eq!(backend.members.iter().map(|seat| seat.slot).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn too_many_members_and_too_much_weight_are_refused() {
        let mut backend = Backend::default();
        for number in 0..SLOTS {
            let instance = format!("web-{number}").parse().unwrap();
            backend.put(&Member { instance, ..member(1) }).unwrap();
        }
        assert!(backend.put(&member(200)).unwrap_err().contains("at most 128"));
        assert!(backend.put(&Member { weight: 257, ..member(1) }).is_err());
    }
}
