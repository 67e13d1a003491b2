//! The script that is a machine: from its namespaces to systemd-nspawn, and again when the machine reboots.

use std::fs;

use camino::Utf8Path;
use olbake_engine::machine::MachineError;

use super::{DiskMachineSpec, Subnet, make_folder};
use crate::cloud::keeper::{quoted, words};
use crate::disk::{Layout, root_partition};
use crate::host::io_error;
use crate::nspawn::{KEPT, Network, escaped};
use crate::seed;

/// Its files, in the machine's folder.
pub(super) const SCRIPT: &str = "machine.sh";
pub(super) const CONSOLE: &str = "console.log";
pub(super) const ROOT: &str = "root";
const UNITS: &str = "units";
const HYPERVISOR: &str = "hypervisor";

/// Writes it, with what it needs.
pub(super) fn write(
    spec: &DiskMachineSpec,
    subnet: &Subnet,
    name: &str,
    link: &str,
) -> Result<(), MachineError> {
    let folder = &spec.folder;
    make_folder(&folder.join(ROOT))?;
    seed::container_units(&folder.join(UNITS), Network::None)?;
    if let Some(uuid) = &spec.hypervisor {
        seed::write(&folder.join(HYPERVISOR).join("uuid"), format!("{uuid}\n"))?;
    }
    let path = folder.join(SCRIPT);
    fs::write(&path, script(spec, subnet, name, link)?).map_err(io_error("cannot write", &path))
}

/// nspawn ends with 133 when the machine is to boot again. Its own network namespace is inside ours, which has the
/// other end of the machine's link only until nspawn takes it: what makes nspawn show a file in `/sys` is that it
/// makes the network itself. It takes a link that no udev has named only where `/sys` cannot be written to.
fn script(spec: &DiskMachineSpec, subnet: &Subnet, name: &str, link: &str) -> Result<String, MachineError> {
    // On EC2 this is done from inside, where a container does not see its disk.
    Layout::grow(&spec.disk)?;
    let (offset, size) = root_partition(&spec.disk)?;
    Ok(format!(
        r#"# Written by olbake.
set -eu
case ${{1-begin}} in
begin)
    exec 7</proc/self/ns/net
    exec unshare --mount --net --pid --fork --kill-child=KILL --mount-proc --propagation slave -- sh "$0" boot
    ;;
boot)
    mount -t ext4 -o loop,offset={offset},sizelimit={size},noatime,nodev,nobarrier {disk} {ROOT}
    mount -o remount,bind,ro /sys
    status=133
    while test $status = 133; do
        nsenter --net=/proc/self/fd/7 ip link delete dev {link} 2>/dev/null || :
        ip link add eth0 address {hardware} type veth peer name {link} netns /proc/self/fd/7
        nsenter --net=/proc/self/fd/7 ip link set dev {link} alias {alias} master {bridge} up
        status=0
        {nspawn} 7<&- || status=$?
    done
    fstrim {ROOT} || :
    umount {ROOT}
    ;;
esac
"#,
        disk = quoted(spec.disk.as_str()),
        hardware = Subnet::hardware_address(spec.address),
        alias = quoted(&format!("olbake machine {}", spec.name)),
        bridge = subnet.bridge(),
        nspawn = nspawn(spec, name),
    ))
}

fn nspawn(spec: &DiskMachineSpec, name: &str) -> String {
    let DiskMachineSpec { name: host_name, folder, disk: _, address: _, hypervisor, boot_words } = spec;
    let bind = |kind: &str, from: &Utf8Path, to: &str| {
        format!("--{kind}={}:{}", escaped(from.as_str()), escaped(to))
    };
    let own = [
        format!("--directory={}", folder.join(ROOT)),
        format!("--machine={name}"),
        format!("--hostname={host_name}"),
        "--network-interface=eth0".to_owned(),
        bind("bind", &folder.join(UNITS), seed::RUNTIME_UNITS),
    ];
    let hypervisor = hypervisor.iter().map(|_| bind("bind-ro", &folder.join(HYPERVISOR), "/sys/hypervisor"));
    let boot = std::iter::once("--".to_owned()).chain(boot_words.iter().cloned());
    words(KEPT.into_iter().map(str::to_owned).chain(own).chain(hypervisor).chain(boot))
}
