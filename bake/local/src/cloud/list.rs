//! Everything that exists of a cloud, also what no specification tells of; and the end of it all.

use std::collections::BTreeSet;
use std::time::Duration;

use camino::Utf8Path;
use rustix::process::Signal;
use serde::Serialize;

use super::keeper::{at_work_in, signal};
use super::limits::{Group, groups};
use super::network::{links, remove_link};
use super::place::{Link, Place, SPEC, remove};
use super::{CloudError, Id, Kind, balancer, container, disks, instance, names, network, volume};
use crate::mount::loops_of;
use crate::sweep::{lives, mounts_outside};

/// Something that exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// A thing with a specification, or the rest of its folder.
    Thing(Kind, String),
    /// A process of the host's, by its number and name.
    Process(u32, String),
    /// A mount.
    Mount(String),
    /// A loop device and the file behind it.
    Loop(String, String),
    /// An interface of the host's, with the addresses on it.
    Interface(String),
    /// A control group.
    ControlGroup(String),
}

/// Something that was found, and whether it belongs to a thing with a specification.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Found {
    /// What.
    pub object: Object,
    /// Whether a specification tells of it. What none tells of is left over.
    pub known: bool,
}

/// What keepers are, as the kernel shortens their names: a person's shell or editor in the folder is none.
const PROGRAMS: [&str; 12] = [
    "sh",
    "setsid",
    "flock",
    "nsenter",
    "unshare",
    "systemd-run",
    "systemd-nspawn",
    "haproxy",
    "dnsmasq",
    "qemu-system-x86",
    "qemu-system-aar",
    "sleep",
];

/// Processes of keepers at work below the cloud's folder.
fn processes(place: &Place) -> impl Iterator<Item = (u32, camino::Utf8PathBuf, String)> {
    let found = at_work_in(place.folder()).into_iter();
    found.filter(|(number, _, name)| PROGRAMS.contains(&name.as_str()) && lives(*number))
}

pub(super) fn list(place: &Place) -> Result<Vec<Found>, CloudError> {
    let mut known_folders = Vec::new();
    let mut known_links = BTreeSet::new();
    let mut known_groups = BTreeSet::new();
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let ids: Vec<String> = match kind {
            Kind::Disk => disks::all(place)?,
            _ => place.ids(kind)?.iter().map(Id::to_string).collect(),
        };
        for id in ids {
            let folder = place.of(kind, &id);
            // A disk has no specification of its own: instances tell of it.
            let known =
                if kind == Kind::Disk { disks::is_used(place, &id)? } else { folder.join(SPEC).exists() };
            if known {
                known_folders.push(folder);
                if let Ok(id) = id.parse::<Id>() {
                    known_links.extend([Link::Bridge, Link::Instance].map(|link| place.link(link, &id)));
                    known_groups.insert(container::machine_name(place, id.as_str()));
                }
            }
            found.push(Found { object: Object::Thing(kind, id), known });
        }
    }
    let inside = |path: &str| known_folders.iter().any(|folder| path.starts_with(folder.as_str()));
    for (number, folder, name) in processes(place) {
        found.push(Found { object: Object::Process(number, name), known: inside(folder.as_str()) });
    }
    for mount in mounts_outside(place.folder())? {
        let known = inside(mount.as_str());
        found.push(Found { object: Object::Mount(mount.into_string()), known });
    }
    let below = format!("{}/", place.folder());
    // The kernel gives one device to all who mount the same file, under the name that came first: where that is gone,
    // others still use it, and it is none of this cloud's.
    let own = |backing: &str| backing.starts_with(&below) && Utf8Path::new(backing).exists();
    for (device, backing) in loops_of(own)? {
        let known = inside(&backing);
        found.push(Found { object: Object::Loop(device.into_string(), backing), known });
    }
    for name in links(&place.prefix())? {
        let known = known_links.contains(&name);
        found.push(Found { object: Object::Interface(name), known });
    }
    for name in groups(&place.prefix()) {
        let known = known_groups.contains(&name);
        found.push(Found { object: Object::ControlGroup(name), known });
    }
    found.sort();
    Ok(found)
}

/// Things first, in order; then whatever is left.
pub(super) fn destroy_all(place: &Place) -> Result<(), CloudError> {
    for kind in Kind::ALL {
        if kind == Kind::Disk {
            disks::all(place)?.iter().try_for_each(|disk| disks::remove(place, disk))?;
            continue;
        }
        for id in place.ids(kind)? {
            match kind {
                Kind::Balancer => balancer::delete(place, &id)?,
                Kind::Instance => instance::terminate(place, &id, Duration::ZERO)?,
                Kind::Record => names::delete(place, &id)?,
                Kind::Volume => volume::delete(place, &id)?,
                Kind::Network => network::delete(place, &id)?,
                Kind::Disk => {}
            }
        }
    }
    end_leftovers(place)?;
    remove(place.folder())
}

fn end_leftovers(place: &Place) -> Result<(), CloudError> {
    while let Some((number, ..)) = processes(place).next() {
        signal(number, Signal::KILL);
        std::thread::sleep(Duration::from_millis(5));
    }
    for mount in mounts_outside(place.folder())? {
        disks::unmount_everywhere(&mount)?;
    }
    for name in links(&place.prefix())? {
        remove_link(&name)?;
    }
    groups(&place.prefix()).into_iter().try_for_each(|name| Group::named(name).remove())
}
