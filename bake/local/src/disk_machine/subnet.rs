//! A subnet: a bridge of the host's with the first address on it, where machines get addresses and names, and by
//! which they reach the outside.
//!
//! The kernel knows a bridge by a name that follows from the first address, so two processes cannot have the same
//! subnet at the same time: whoever has it holds a lock, and the next one waits. The lock goes with its holder, the
//! bridge is removed by the next one; everything else (dnsmasq, translation of addresses) ends with the process.
//! Main type: [`Subnet`].

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::MachineError;
use rustix::fs::{FlockOperation, flock};

use super::{HostProcess, make_folder};
use crate::cloud::network::{has_link, ip, json, remove_link, routes};
use crate::cloud::{Cidr, CloudError};
use crate::host::{HostCommand, Owned, host_error, io_error};

/// Where a machine asks who it is.
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Where the locks of subnets are, for all processes of the host.
const LOCKS: &str = "/run/olbake/subnets";
/// How often it is looked whether another process has let go of a subnet.
const PAUSE: Duration = Duration::from_millis(100);
const HOSTS: &str = "hosts";

/// A subnet that this process holds. Dropping it removes it.
#[derive(Debug)]
pub struct Subnet {
    cidr: Cidr,
    bridge: String,
    folder: Utf8PathBuf,
    _names: HostProcess,
    _way_out: Owned,
    _lock: File,
}

impl Subnet {
    /// Makes one, with files in a folder, once no other process has it; waits for that as long as `patience`.
    pub fn open(cidr: Cidr, folder: &Utf8Path, patience: Duration) -> Result<Self, MachineError> {
        let bridge = bridge_of(cidr);
        let lock = lock(&bridge, patience)?;
        let lock = lock.ok_or_else(|| host_error(format!("another process has the subnet {cidr}")))?;
        ours(remove_link(&bridge))?;
        refuse_overlap(cidr)?;
        let made = make_bridge(&bridge, cidr).and_then(|()| {
            make_folder(&folder.join(HOSTS))?;
            Ok((translate(&bridge, cidr, folder)?, serve_names(cidr, folder)?))
        });
        match made {
            Ok((way_out, names)) => Ok(Self {
                cidr,
                bridge,
                folder: folder.to_owned(),
                _names: names,
                _way_out: way_out,
                _lock: lock,
            }),
            Err(error) => {
                ours(remove_link(&bridge))?;
                Err(error)
            }
        }
    }

    /// The bridge on the host.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The host's address in it.
    pub fn gateway(&self) -> Ipv4Addr {
        self.cidr.gateway()
    }

    /// The hardware address of the machine with an address.
    pub fn hardware_address(address: Ipv4Addr) -> String {
        let [a, b, c, d] = address.octets();
        format!("06:ec:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Has a machine be given its address when it asks; returns how its link to the bridge is to be called.
    pub(super) fn connect(&self, address: Ipv4Addr, name: &str) -> Result<String, MachineError> {
        announce(&self.folder, address, name)?;
        Ok(format!("obv{:08x}", address.to_bits()))
    }
}

impl Drop for Subnet {
    fn drop(&mut self) {
        // The next holder would remove it too.
        remove_link(&self.bridge).ok();
    }
}

/// Tells dnsmasq, which reads what is moved into its folder, of a machine. Machines start at the same time.
fn announce(folder: &Utf8Path, address: Ipv4Addr, name: &str) -> Result<(), MachineError> {
    let (new, file) =
        (folder.join(format!("host-{address}.new")), folder.join(HOSTS).join(address.to_string()));
    let line = format!("{},{address},{name}\n", Subnet::hardware_address(address));
    fs::write(&new, line).map_err(io_error("cannot write", &new))?;
    fs::rename(&new, &file).map_err(io_error("cannot write", &file))
}

/// Removes bridges whose holders no longer run.
pub(super) fn sweep() -> Result<Vec<String>, MachineError> {
    let mut found = Vec::new();
    for entry in Utf8Path::new(LOCKS).read_dir_utf8().into_iter().flatten().flatten() {
        let bridge = entry.file_name().to_owned();
        if !ours(has_link(&bridge))? {
            continue;
        }
        if let Some(_held) = lock(&bridge, Duration::ZERO)? {
            ours(remove_link(&bridge))?;
            found.push(format!("bridge {bridge}"));
        }
    }
    Ok(found)
}

fn bridge_of(cidr: Cidr) -> String {
    format!("obk{:08x}", cidr.gateway().to_bits())
}

/// The lock of a bridge; `None`: another process has it.
fn lock(bridge: &str, patience: Duration) -> Result<Option<File>, MachineError> {
    let folder = Utf8Path::new(LOCKS);
    make_folder(folder)?;
    let path = folder.join(bridge);
    let file = File::create(&path).map_err(io_error("cannot open", &path))?;
    let end = Instant::now() + patience;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(io_error("cannot lock", &path)(error.into())),
        }
    }
}

fn refuse_overlap(cidr: Cidr) -> Result<(), MachineError> {
    for (link, other) in ours(routes())? {
        if other.overlaps(cidr) {
            return Err(host_error(format!(
                "the subnet {cidr} has addresses of {other} at the host's interface `{link}`"
            )));
        }
    }
    Ok(())
}

fn make_bridge(bridge: &str, cidr: Cidr) -> Result<(), MachineError> {
    let gateway = cidr.gateway();
    let hardware = Subnet::hardware_address(gateway);
    let options = ["type", "bridge", "stp_state", "0", "forward_delay", "0"];
    ip(["link", "add", "name", bridge, "address", &hardware]).args(options).run()?;
    ip(["link", "set", "dev", bridge, "alias", &format!("olbake subnet {cidr}")]).run()?;
    ip(["address", "add", &format!("{gateway}/{}", cidr.prefix()), "dev", bridge]).run()?;
    ip(["address", "add", &format!("{METADATA_ADDRESS}/32"), "scope", "link", "dev", bridge]).run()?;
    ip(["link", "set", "dev", bridge, "up"]).run()?;
    Ok(())
}

/// Has machines' packets leave the host as the host's. The rules are nft's own: they go when it does.
fn translate(bridge: &str, cidr: Cidr, folder: &Utf8Path) -> Result<Owned, MachineError> {
    for link in std::iter::once(bridge.to_owned()).chain(ways_out()?) {
        let path = Utf8Path::new("/proc/sys/net/ipv4/conf").join(link).join("forwarding");
        fs::write(&path, "1").map_err(io_error("cannot set", &path))?;
    }
    let rules = format!(
        "table ip {bridge} {{ flags owner; \
         chain out {{ type nat hook postrouting priority srcnat; ip saddr {cidr} oifname != \"obk*\" masquerade; }}; \
         chain segments {{ type filter hook forward priority mangle; ip saddr {cidr} tcp flags syn tcp option maxseg size set rt mtu; }}; }}\n"
    );
    let log = folder.join("nft.log");
    let file = File::create(&log).map_err(io_error("cannot make", &log))?;
    let copy = file.try_clone().map_err(io_error("cannot open", &log))?;
    let mut nft = Owned(HostCommand::new("nft").arg("--interactive").spawn(
        Stdio::piped(),
        file.into(),
        copy.into(),
    )?);
    let mut input = nft.0.stdin.take().expect("standard input was asked for");
    std::io::Write::write_all(&mut input, rules.as_bytes()).map_err(io_error("cannot tell", &log))?;
    // It ends, and its rules do, when its input does.
    nft.0.stdin = Some(input);
    await_rules(bridge, &log)?;
    Ok(nft)
}

fn await_rules(bridge: &str, log: &Utf8Path) -> Result<(), MachineError> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let (status, _) = HostCommand::new("nft").args(["list", "table", "ip", bridge]).try_run()?;
        if status.success() {
            return Ok(());
        }
        if Instant::now() >= end {
            let said = fs::read_to_string(log).unwrap_or_default();
            return Err(host_error(format!("nft did not take the rules of `{bridge}`: {}", said.trim())));
        }
        thread::sleep(PAUSE / 4);
    }
}

/// The host's interfaces to everywhere.
fn ways_out() -> Result<Vec<String>, MachineError> {
    let routes = ours(json(&ip(["-json", "-4", "route", "show", "default"]).run()?))?;
    let routes = routes.as_array().cloned().unwrap_or_default();
    Ok(routes.iter().filter_map(|route| Some(route["dev"].as_str()?.to_owned())).collect())
}

/// Gives addresses to machines that are known, and answers names as the host would.
fn serve_names(cidr: Cidr, folder: &Utf8Path) -> Result<HostProcess, MachineError> {
    let network = Ipv4Addr::from_bits(cidr.gateway().to_bits() - 1);
    let mask = Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(cidr.prefix())));
    let arguments = [
        "--keep-in-foreground".to_owned(),
        "--conf-file=/dev/null".to_owned(),
        "--user=root".to_owned(),
        "--group=root".to_owned(),
        "--pid-file=".to_owned(),
        "--log-facility=-".to_owned(),
        "--bind-interfaces".to_owned(),
        "--except-interface=lo".to_owned(),
        // Not the interface: it has the metadata service's address too, which every other bridge has as well.
        format!("--listen-address={}", cidr.gateway()),
        "--no-hosts".to_owned(),
        "--no-ping".to_owned(),
        "--dhcp-authoritative".to_owned(),
        "--dhcp-rapid-commit".to_owned(),
        format!("--dhcp-range={network},static,{mask},1h"),
        format!("--dhcp-hostsdir={}", folder.join(HOSTS)),
        format!("--dhcp-leasefile={}", folder.join("leases")),
    ];
    HostProcess::start("dnsmasq", arguments, folder, "dnsmasq.log")
}

/// What went wrong with an interface, as an error about the host.
fn ours<T>(result: Result<T, CloudError>) -> Result<T, MachineError> {
    result.map_err(|error| match error {
        CloudError::Host(error) => error,
        error => host_error(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

    use super::*;

    #[test]
    fn machines_that_start_together_are_all_announced() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        make_folder(&folder.join(HOSTS)).unwrap();
        let together = std::sync::Barrier::new(8);
        thread::scope(|scope| {
            for last in 2..10 {
                let together = &together;
                scope.spawn(move || {
                    together.wait();
                    for third in 0..100 {
                        announce(folder, Ipv4Addr::new(10, 0, third, last), &format!("web-{third}-{last}"))
                            .unwrap();
                    }
                });
            }
        });
        for (third, last) in (0..100).flat_map(|third| (2..10).map(move |last| (third, last))) {
            let line = fs::read_to_string(folder.join(HOSTS).join(format!("10.0.{third}.{last}"))).unwrap();
            assert_eq!(
                line,
                format!("06:ec:0a:00:{third:02x}:{last:02x},10.0.{third}.{last},web-{third}-{last}\n")
            );
        }
    }
}
