//! Instances that are containers: the script of their keeper, from the network to systemd-nspawn.

use camino::Utf8Path;

use super::inputs::Address;
use super::instance::InstanceSpec;
use super::keeper::{quoted, words};
use super::limits::Group;
use super::network::alias;
use super::place::{Link, Place};
use super::{CloudError, Kind, volume};
use crate::nspawn::{KEPT, Network, escaped};
use crate::seed;

/// Where the root file system's image lock is, by the name that nspawn gives it.
pub(super) const IMAGE_LOCK: &str = "image-lock";

/// What nspawn and the kernel know an instance by.
pub(super) fn machine_name(place: &Place, id: &str) -> String {
    format!("{}-{id}", place.prefix())
}

/// The script that boots it on `lower`. The overlay and volumes are mounted in a namespace of the keeper's own;
/// its network namespace has `eth0`, whose other end is on the bridge. Both go when the keeper does.
pub(super) fn script(
    place: &Place,
    spec: &InstanceSpec,
    address: &Address,
    lower: &Utf8Path,
) -> Result<String, CloudError> {
    let folder = place.of(Kind::Instance, spec.id.as_str());
    seed::container_units(&folder.join("units"), Network::None)?;
    let link = place.link(Link::Instance, &spec.id);
    let (bridge, gateway) = (place.link(Link::Bridge, &spec.network), address.cidr.gateway());
    let Address { address, cidr, hardware } = address;
    let group = Group::named(machine_name(place, spec.id.as_str()));
    Ok(format!(
        r#"{enter}    exec 7</proc/self/ns/net
    exec unshare --mount --net --propagation slave -- sh "$0" network
    ;;
network)
    ip link add eth0 address {hardware} type veth peer name {link} netns /proc/self/fd/7
    nsenter --net=/proc/self/fd/7 ip link set dev {link} alias {alias} master {bridge} up
    exec 7<&-
    ip link set dev lo up
    ip link set dev eth0 up
    ip address add {address}/{prefix} dev eth0
    ip route add default via {gateway}
    exec {locks}sh "$0" mounts
    ;;
mounts)
    mount -t overlay -o lowerdir={lowest},upperdir="$PWD/upper",workdir="$PWD/work" overlay root
    stat -c 'inode-%d:%i' root >{IMAGE_LOCK}
    # The overlay has what it needs. Where unmounts of the host do not reach this namespace, disks seen here would
    # be held for as long as the machine runs, other machines' too. Some of them may go by themselves meanwhile.
    mounts=$(cat /proc/self/mountinfo)
    while read -r _ _ _ _ point _; do
        case $point in */v1/disks/*/root) umount --lazy "$(printf '%b' "$point")" 2>/dev/null || : ;; esac
    done <<end
$mounts
end
{mounts}    exec unshare --pid --fork --kill-child=KILL --mount-proc --propagation slave -- sh "$0" boot
    ;;
boot)
    : >ready
    {nspawn} || :
{unmounts}    ;;
"#,
        enter = group.enter(),
        alias = quoted(&alias(place, Kind::Instance, &spec.id)),
        prefix = cidr.prefix(),
        lowest = quoted(lower.as_str()),
        locks = locks(place, spec),
        mounts = mounts(place, spec),
        nspawn = nspawn(place, spec),
        unmounts = unmounts(spec),
    ))
}

/// Holds each volume's lock from now on.
pub(super) fn locks(place: &Place, spec: &InstanceSpec) -> String {
    let volumes = spec.volumes.iter().map(|volume| place.of(Kind::Volume, volume.id.as_str()));
    volumes
        .map(|folder| format!("flock --no-fork --wait 5 {} ", quoted(folder.join(volume::IN_USE).as_str())))
        .collect()
}

/// A volume that was let go of a moment ago may still be being written.
fn mounts(place: &Place, spec: &InstanceSpec) -> String {
    let mut script = String::new();
    for attached in &spec.volumes {
        let image = quoted(volume::image(place, &attached.id).as_str());
        script += &format!(
            "    count=0\n    while losetup --associated {image} | grep -q .; do\n        \
             count=$((count + 1)); test $count -lt 100\n        sleep 0.1\n    done\n    \
             mkdir -p volumes/{id}\n    mount -t ext4 -o loop,noatime,nodev {image} volumes/{id}\n",
            id = attached.id
        );
    }
    script
}

fn unmounts(spec: &InstanceSpec) -> String {
    let ids = spec.volumes.iter().map(|volume| &volume.id);
    ids.map(|id| format!("    umount volumes/{id} || {{ sleep 0.2; umount volumes/{id}; }}\n")).collect()
}

fn nspawn(place: &Place, spec: &InstanceSpec) -> String {
    let folder = place.of(Kind::Instance, spec.id.as_str());
    let bind = |from: &Utf8Path, to: &str| format!("--bind={}:{}", escaped(from.as_str()), escaped(to));
    let own = [
        "--capability=CAP_NET_ADMIN".to_owned(),
        format!("--directory={}", folder.join("root")),
        format!("--machine={}", machine_name(place, spec.id.as_str())),
        format!("--hostname={}", spec.name),
        bind(&folder.join("units"), seed::RUNTIME_UNITS),
    ];
    let volumes = spec.volumes.iter();
    let volumes =
        volumes.map(|volume| bind(&folder.join("volumes").join(volume.id.as_str()), volume.path.as_str()));
    words(KEPT.into_iter().map(str::to_owned).chain(own).chain(volumes))
}
