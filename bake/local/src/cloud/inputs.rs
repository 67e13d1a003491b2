//! What an instance finds when it boots: who it is, its network, and what its user wants of it.
//!
//! For a container it is written to the upper layer of its root file system before the first boot; the network's
//! configuration is done from outside, and systemd-networkd inside is told to let it be.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use camino::Utf8Path;
use olbake_engine::machine::{INSTANCE_FILE, MachineError};

use super::Cidr;
use super::instance::InstanceSpec;
use crate::host::io_error;

/// An address in a network.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) address: Ipv4Addr,
    pub(super) cidr: Cidr,
    pub(super) hardware: String,
}

/// Who the machine is, for cloud-init.
pub(super) fn meta_data(spec: &InstanceSpec) -> String {
    format!("instance-id: {}\nlocal-hostname: {}\n", spec.id, spec.name)
}

/// What the user wants, for cloud-init.
pub(super) fn user_data(spec: &InstanceSpec) -> &str {
    spec.user_data.as_deref().unwrap_or("#cloud-config\n{}\n")
}

/// Writes all of it for a container on `lower` to `upper`.
pub(super) fn write(
    spec: &InstanceSpec,
    address: &Address,
    lower: &Utf8Path,
    upper: &Utf8Path,
) -> Result<(), MachineError> {
    let layer = Layer { lower, upper };
    layer.prepare("")?;
    layer.write("etc/hostname", &format!("{}\n", spec.name))?;
    layer.write(INSTANCE_FILE.trim_start_matches('/'), &spec.identity)?;
    let gateway = address.cidr.gateway();
    let network = format!("[Match]\nMACAddress={}\n\n[Link]\nUnmanaged=yes\n", address.hardware);
    layer.write("etc/systemd/network/05-olbake-cloud.network", &network)?;
    if lower.join("etc/resolv.conf").is_symlink() {
        let resolved = format!("[Resolve]\nDNS={gateway}\nFallbackDNS=\nDomains=~.\n");
        layer.write("etc/systemd/resolved.conf.d/90-olbake-cloud.conf", &resolved)?;
    } else {
        layer.write("etc/resolv.conf", &format!("nameserver {gateway}\n"))?;
    }
    if lower.join("usr/bin/cloud-init").exists() {
        let folder = "var/lib/cloud/seed/nocloud";
        layer.write(&format!("{folder}/meta-data"), &meta_data(spec))?;
        layer.write(&format!("{folder}/user-data"), user_data(spec))?;
        layer.write(&format!("{folder}/network-config"), "config: disabled\n")?;
    }
    Ok(())
}

/// The layer of an overlay that is written to. A folder in it hides the rights of the one below, and so gets them.
struct Layer<'a> {
    lower: &'a Utf8Path,
    upper: &'a Utf8Path,
}

impl Layer<'_> {
    fn write(&self, path: &str, content: &str) -> Result<(), MachineError> {
        let mut folder = String::new();
        for part in Utf8Path::new(path).parent().into_iter().flat_map(Utf8Path::components) {
            folder = format!("{folder}/{part}").trim_start_matches('/').to_owned();
            self.prepare(&folder)?;
        }
        let file = self.upper.join(path);
        fs::write(&file, content).map_err(io_error("cannot write", &file))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).map_err(io_error("cannot write", &file))
    }

    fn prepare(&self, folder: &str) -> Result<(), MachineError> {
        let own = self.upper.join(folder);
        if own.is_dir() && !folder.is_empty() {
            return Ok(());
        }
        let below = fs::metadata(self.lower.join(folder));
        let (mode, owner) = match &below {
            Ok(below) => (below.mode() & 0o7777, (below.uid(), below.gid())),
            Err(_) => (0o755, (0, 0)),
        };
        let make = || {
            fs::create_dir_all(&own)?;
            chown(&own, Some(owner.0), Some(owner.1))?;
            fs::set_permissions(&own, fs::Permissions::from_mode(mode))
        };
        make().map_err(io_error("cannot make", &own))
    }
}
