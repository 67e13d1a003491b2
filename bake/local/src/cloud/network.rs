//! Networks: a bridge of the host's, which has the first address on it, and the addresses of machines.
//!
//! Main types: [`NetworkSpec`], [`NetworkView`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::place::{Link, Place, read_json, write_json};
use super::{Change, Cidr, CloudError, Ensured, Id, Kind, names};
use crate::host::{HostCommand, host_error};

/// What a network is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Which.
    pub id: Id,
    /// Its addresses; no other network of the host may have one of them.
    pub cidr: Cidr,
}

/// What a network is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkView {
    /// Which.
    pub id: Id,
    /// Its addresses.
    pub cidr: Cidr,
    /// The host's address in it, where names are answered and load balancers listen.
    pub gateway: Ipv4Addr,
    /// The bridge on the host.
    pub bridge: String,
    /// Whether the bridge is there, has the address, and is up.
    pub up: bool,
    /// Whether names are answered.
    pub names: bool,
    /// How many addresses no instance has.
    pub free: u32,
}

/// The addresses given out in a network, in its folder.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Addresses {
    /// The number to try next: one that was given back is not given out again at once.
    next: u32,
    held: BTreeMap<Ipv4Addr, Id>,
}

const ADDRESSES: &str = "addresses.json";

pub(super) fn ensure(place: &Place, spec: &NetworkSpec) -> Result<Ensured<NetworkView>, CloudError> {
    let NetworkSpec { id, cidr } = spec;
    let lock = place.lock(Kind::Network, id.as_str())?;
    let known: Option<NetworkSpec> = place.spec(Kind::Network, id)?;
    if known.as_ref().is_some_and(|known| known != spec) {
        return Err(CloudError::Different { kind: Kind::Network, id: id.clone(), what: "cidr".to_owned() });
    }
    let before = inspect(place, id)?;
    if known.is_none() {
        // One at a time: two new networks would not see each other.
        let _held = place.lock(Kind::Network, "all")?;
        refuse_overlap(place, spec)?;
        place.write_spec(Kind::Network, id, spec)?;
    }
    let whole = before.is_some_and(|view| view.up && view.names);
    if !whole {
        make_bridge(place, id, *cidr)?;
        names::serve(place, id, *cidr, &lock)?;
    }
    let view = inspect(place, id)?.ok_or_else(|| host_error("the network vanished"))?;
    let change = Change::of(known.is_some(), whole);
    Ok(Ensured { change, view })
}

fn make_bridge(place: &Place, id: &Id, cidr: Cidr) -> Result<(), CloudError> {
    let bridge = place.link(Link::Bridge, id);
    // A fixed hardware address: the kernel's own choice changes as machines come and go.
    let hardware = place.hardware_address(Link::Bridge, id);
    if !has_link(&bridge)? {
        let options = ["type", "bridge", "stp_state", "0", "forward_delay", "0"];
        ip(["link", "add", "name", &bridge, "address", &hardware]).args(options).run()?;
    }
    let address = format!("{}/{}", cidr.gateway(), cidr.prefix());
    ip(["link", "set", "dev", &bridge, "alias", &alias(place, Kind::Network, id)]).run()?;
    ip(["address", "replace", &address, "dev", &bridge]).run()?;
    ip(["link", "set", "dev", &bridge, "up"]).run()?;
    Ok(())
}

pub(super) fn inspect(place: &Place, id: &Id) -> Result<Option<NetworkView>, CloudError> {
    let Some(NetworkSpec { id, cidr }) = place.spec(Kind::Network, id)? else { return Ok(None) };
    let bridge = place.link(Link::Bridge, &id);
    let names = names::are_served(place, &id)?;
    let up = has_link(&bridge)? && is_up(&bridge, cidr)?;
    let addresses = read_json::<Addresses>(&place.of(Kind::Network, id.as_str()).join(ADDRESSES))?;
    let held = addresses.map_or(0, |addresses| u32::try_from(addresses.held.len()).unwrap_or(u32::MAX));
    let free = cidr.hosts().saturating_sub(held);
    Ok(Some(NetworkView { id, cidr, gateway: cidr.gateway(), bridge, up, names, free }))
}

pub(super) fn delete(place: &Place, id: &Id) -> Result<(), CloudError> {
    let _held = place.lock(Kind::Network, id.as_str())?;
    if let Some(by) = user_of(place, id)? {
        return Err(CloudError::InUse { kind: Kind::Network, id: id.clone(), by });
    }
    names::stop(place, id)?;
    remove_link(&place.link(Link::Bridge, id))?;
    place.remove(Kind::Network, id.as_str())
}

/// What has a part in the network.
fn user_of(place: &Place, id: &Id) -> Result<Option<String>, CloudError> {
    for kind in [Kind::Instance, Kind::Balancer] {
        for other in place.ids(kind)? {
            let spec: Option<Value> = place.spec(kind, &other)?;
            if spec.is_some_and(|spec| spec["network"] == id.as_str()) {
                return Ok(Some(format!("{kind} `{other}`")));
            }
        }
    }
    Ok(None)
}

/// The address of an instance: the one it has, or a free one.
pub(super) fn address(place: &Place, network: &NetworkSpec, instance: &Id) -> Result<Ipv4Addr, CloudError> {
    let _held = place.lock(Kind::Network, network.id.as_str())?;
    let path = place.of(Kind::Network, network.id.as_str()).join(ADDRESSES);
    let mut addresses: Addresses = read_json(&path)?.unwrap_or_default();
    let address = addresses.take(network.cidr, instance);
    let full = || CloudError::Full { id: network.id.clone(), cidr: network.cidr };
    let address = address.ok_or_else(full)?;
    write_json(&path, &addresses)?;
    Ok(address)
}

/// The address that an instance has.
pub(super) fn address_of(place: &Place, network: &Id, instance: &Id) -> Result<Option<Ipv4Addr>, CloudError> {
    let path = place.of(Kind::Network, network.as_str()).join(ADDRESSES);
    let addresses: Addresses = read_json(&path)?.unwrap_or_default();
    Ok(addresses.of(instance))
}

/// Takes an instance's address back, whichever network it is in.
pub(super) fn give_back(place: &Place, instance: &Id) -> Result<(), CloudError> {
    for network in place.ids(Kind::Network)? {
        let _held = place.lock(Kind::Network, network.as_str())?;
        let path = place.of(Kind::Network, network.as_str()).join(ADDRESSES);
        let Some(mut addresses) = read_json::<Addresses>(&path)? else { continue };
        if addresses.of(instance).is_some() {
            addresses.held.retain(|_, holder| holder != instance);
            write_json(&path, &addresses)?;
        }
    }
    Ok(())
}

impl Addresses {
    fn of(&self, instance: &Id) -> Option<Ipv4Addr> {
        self.held.iter().find_map(|(address, holder)| (holder == instance).then_some(*address))
    }

    fn take(&mut self, cidr: Cidr, instance: &Id) -> Option<Ipv4Addr> {
        if let Some(address) = self.of(instance) {
            return Some(address);
        }
        let count = cidr.hosts();
        let numbers = (0..count).map(|step| (self.next + step) % count);
        let number = { numbers }.find(|number| !self.held.contains_key(&cidr.host(*number)))?;
        self.next = (number + 1) % count;
        self.held.insert(cidr.host(number), instance.clone());
        Some(cidr.host(number))
    }
}

fn refuse_overlap(place: &Place, spec: &NetworkSpec) -> Result<(), CloudError> {
    let NetworkSpec { id, cidr } = spec;
    let overlap = |with: String| CloudError::Overlap { id: id.clone(), cidr: *cidr, with };
    for other in place.ids(Kind::Network)? {
        let known: Option<NetworkSpec> = place.spec(Kind::Network, &other)?;
        if let Some(known) = known.filter(|known| known.id != *id && known.cidr.overlaps(*cidr)) {
            return Err(overlap(format!("network `{other}` ({})", known.cidr)));
        }
    }
    let own = place.link(Link::Bridge, id);
    for (link, other) in routes()? {
        if link != own && other.overlaps(*cidr) {
            return Err(overlap(format!("{other} at the host's interface `{link}`")));
        }
    }
    Ok(())
}

/// What the host reaches directly, and by which interface.
pub(crate) fn routes() -> Result<Vec<(String, Cidr)>, CloudError> {
    let routes = json(&ip(["-json", "-4", "route", "show", "table", "main"]).run()?)?;
    let routes = routes.as_array().cloned().unwrap_or_default();
    Ok(routes
        .iter()
        .filter_map(|route| Some((route["dev"].as_str()?.to_owned(), route["dst"].as_str()?.parse().ok()?)))
        .collect())
}

/// A command of iproute2's.
pub(crate) fn ip<'a>(arguments: impl IntoIterator<Item = &'a str>) -> HostCommand {
    HostCommand::new("ip").args(arguments)
}

pub(crate) fn has_link(name: &str) -> Result<bool, CloudError> {
    let (status, _) = ip(["link", "show", "dev", name]).try_run()?;
    Ok(status.success())
}

/// Removes an interface; it may be gone.
pub(crate) fn remove_link(name: &str) -> Result<(), CloudError> {
    // It may go by itself meanwhile, with the namespace of its other end.
    let removed = ip(["link", "delete", "dev", name]).run();
    match removed {
        Err(error) if has_link(name)? => Err(error.into()),
        _ => Ok(()),
    }
}

/// The host's interfaces whose names begin so.
pub(super) fn links(prefix: &str) -> Result<Vec<String>, CloudError> {
    let links = json(&ip(["-json", "link", "show"]).run()?)?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
}

/// What an interface says that it is for.
pub(super) fn alias(place: &Place, kind: Kind, id: &Id) -> String {
    let mut text = format!("olbake {kind} {id} of {}", place.folder());
    // The kernel allows 255; ids and kinds are short and plain, so that is at the folder's expense.
    while text.len() > 255 {
        text.pop();
    }
    text
}

fn is_up(bridge: &str, cidr: Cidr) -> Result<bool, CloudError> {
    let shown = json(&ip(["-json", "-4", "address", "show", "dev", bridge]).run()?)?;
    let shown = &shown[0];
    let up = shown["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    let gateway = cidr.gateway().to_string();
    let addresses = shown["addr_info"].as_array();
    Ok(up
        && addresses.is_some_and(|list| {
            list.iter().any(|one| one["local"] == gateway.as_str() && one["prefixlen"] == cidr.prefix())
        }))
}

pub(crate) fn json(bytes: &[u8]) -> Result<Value, CloudError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    let value = serde_json::from_slice(bytes);
    Ok(value.map_err(|error| host_error(format!("the output of `ip` cannot be read: {error}")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stays_and_is_not_given_out_again_at_once() {
        let cidr: Cidr = "10.0.0.0/29".parse().unwrap();
        let mut addresses = Addresses::default();
        let id = |name: &str| name.parse::<Id>().unwrap();
        let first = addresses.take(cidr, &id("a")).unwrap();
        assert_eq!(first.to_string(), "10.0.0.2");
        assert_eq!(addresses.take(cidr, &id("a")), Some(first));
        let second = addresses.take(cidr, &id("b")).unwrap();
        addresses.held.remove(&first);
        let third = addresses.take(cidr, &id("c")).unwrap();
        assert!(third != first && third != second);
        for name in ["d", "e", "f"] {
            assert!(addresses.take(cidr, &id(name)).is_some(), "{name}");
        }
        assert_eq!(addresses.take(cidr, &id("g")), None);
    }
}
