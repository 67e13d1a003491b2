//! A new Debian on a new disk: mmdebstrap straight into the mounted root file system.
//!
//! The initrd is made once, at the end, and for the platforms that olbake's images run on: the packages by
//! themselves would make it twice, with every driver there is.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::plan::Architecture;
use olbake_engine::machine::MachineError;

use crate::boot;
use crate::disk::Layout;
use crate::host::{HostCommand, host_error, io_error};
use crate::mount::{Access, bind, mount_root, trim};
use crate::nspawn;
use crate::packages::PackageCache;

/// What a Debian needs to boot, to be reached and to be changed; everything else is a recipe's business.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "systemd-boot-efi",
    "udev",
    "dbus",
    "kmod",
    "e2fsprogs",
    "netbase",
    "iproute2",
    "ca-certificates",
];

/// Drivers in the initrd: what the root disk hangs on in QEMU, on EC2 (Nitro and Xen) and on its likes.
const INITRD_MODULES: &str = "virtio_pci\nvirtio_blk\nvirtio_scsi\nnvme\nxen-blkfront\nsd_mod\next4\n";

/// Addresses by DHCP on every Ethernet interface; cloud-init's configuration, where there is one, comes first.
const NETWORK: &str = "[Match]\nType=ether\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n";

/// Names that do not depend on where the image runs.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                     ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// What to make.
pub(crate) struct Debian {
    pub(crate) suite: String,
    pub(crate) packages: Vec<String>,
    pub(crate) mirror: Option<String>,
    pub(crate) disk_size: u64,
    pub(crate) architecture: Architecture,
    /// The base's key: identities follow from it.
    pub(crate) key: Digest,
    pub(crate) disk: Utf8PathBuf,
    pub(crate) work_dir: Utf8PathBuf,
    pub(crate) package_cache: Option<Utf8PathBuf>,
}

impl Debian {
    /// Makes the disk.
    pub(crate) fn make(self, progress: &mut dyn FnMut(&str)) -> Result<(), MachineError> {
        progress("making the disk");
        let layout = Layout::create(&self.disk, self.disk_size, self.architecture, self.key)?;
        let root = mount_root(&self.disk, &self.work_dir.join("root"), Access::ReadWrite)?;
        self.install(root.directory(), progress)?;
        configure(root.directory(), &layout)?;
        progress("making the initrd");
        nspawn::run_in(root.directory(), &self.work_dir, &["sh", "-ec", LAST_STEPS])?;
        trim(root.directory())?;
        root.close()?;
        progress("installing the boot loader");
        boot::finish(&self.disk, &self.work_dir, self.architecture)
    }

    fn install(&self, root: &Utf8Path, progress: &mut dyn FnMut(&str)) -> Result<(), MachineError> {
        let temporary = self.work_dir.join("packages");
        let kept = self.package_cache.clone().unwrap_or_else(|| temporary.join("kept"));
        let cache = PackageCache::open(&kept, temporary.join("own"))?;
        let mut mounts = Vec::new();
        for (folder, place) in cache.places() {
            let place = root.join(place);
            fs::create_dir_all(&place).map_err(io_error("cannot make", &place))?;
            mounts.push(bind(&folder, &place)?);
        }
        let installed = self.mmdebstrap(root).run_lines(&mut |line| progress_of(line, progress));
        for mount in mounts {
            mount.close()?;
        }
        // What was downloaded before a failure need not be downloaded again.
        cache.close()?;
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(io_error("cannot remove", &temporary))?;
        }
        installed
    }

    /// In a process namespace of its own: dpkg and apt end when their starter does, whatever ends it.
    fn mmdebstrap(&self, root: &Utf8Path) -> HostCommand {
        let kernel = format!("linux-image-cloud-{}", self.architecture.debian());
        let mut packages = vec![kernel.as_str()];
        packages.extend(PACKAGES);
        packages.extend(self.packages.iter().map(String::as_str));
        HostCommand::new("unshare")
            .args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--propagation", "slave", "--"])
            .args(["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"])
            .args(["--skip=check/empty,essential/unlink,cleanup/apt", "--dpkgopt=force-unsafe-io"])
            .arg(format!("--architectures={}", self.architecture.debian()))
            .arg(format!("--include={}", packages.join(",")))
            .args(["--", self.suite.as_str(), root.as_str()])
            .args(self.mirror.as_deref())
            // The kernel's package makes no initrd then.
            .env("INITRD", "No")
    }
}

/// Run on the new system: what needs its own tools.
const LAST_STEPS: &str = "systemctl --quiet enable systemd-networkd.service systemd-resolved.service; \
                          update-initramfs -c -k all; \
                          rm -f /var/cache/apt/*.bin /var/log/apt/* /var/log/dpkg.log /var/log/alternatives.log";

fn progress_of(line: &str, progress: &mut dyn FnMut(&str)) {
    if let Some(message) = line.strip_prefix("I: ") {
        progress(message.trim_end_matches("..."));
    }
}

fn configure(root: &Utf8Path, layout: &Layout) -> Result<(), MachineError> {
    let fstab = format!("PARTUUID={} / ext4 defaults,errors=remount-ro 0 1\n", layout.root.id);
    let files = [
        ("etc/fstab", fstab.as_str()),
        ("etc/hostname", "localhost\n"),
        ("etc/hosts", HOSTS),
        ("etc/systemd/network/80-olbake-dhcp.network", NETWORK),
        ("etc/initramfs-tools/conf.d/olbake", "MODULES=list\n"),
        ("usr/share/initramfs-tools/modules.d/olbake", INITRD_MODULES),
    ];
    for (path, content) in files {
        let path = root.join(path);
        let folder = path.parent().expect("a file of the root file system has a folder");
        fs::create_dir_all(folder).map_err(io_error("cannot make", folder))?;
        fs::write(&path, content).map_err(io_error("cannot write", &path))?;
    }
    // mmdebstrap leaves the host's here unless systemd-resolved has made it a link to its own.
    let resolver = root.join("etc/resolv.conf");
    if !resolver.is_symlink() {
        return Err(host_error("systemd-resolved did not take over /etc/resolv.conf"));
    }
    Ok(())
}
