//! The image that everything in the test cloud begins with: Debian as its public images on EC2 are.
//!
//! It has cloud-init that asks the metadata service, an SSH server without keys, and the account `admin` for the key
//! that the instance was given. Made once and kept. Main function: [`base`].

use std::fs::{self, File};
use std::io;
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::plan::{Architecture, Base};
use olbake_core::time::Timestamp;
use olbake_core::{Digest, key};
use olbake_engine::machine::{Builder, MachineError};
use olbake_local::{Access, LocalBuilder, mount_root};
use rustix::fs::{FlockOperation, flock};

use super::StockImage;
use super::body::BodyError;

/// The account that Debian's public images belong to.
pub const DEBIAN_ACCOUNT: &str = "136693071363";

/// The account on the instance that has the user's key.
pub const DEBIAN_USER: &str = "admin";

const DISK_SIZE: u64 = 4 << 30;
const PACKAGES: [&str; 4] = ["cloud-guest-utils", "cloud-init", "openssh-server", "sudo"];

/// After the file by which the package asks everywhere else too.
const CLOUD_CONFIG: (&str, &str) = (
    "etc/cloud/cloud.cfg.d/95_ec2.cfg",
    "#cloud-config
datasource_list: [Ec2, None]
locale: C.UTF-8
datasource:
  Ec2:
    metadata_urls: [\"http://169.254.169.254\"]
    strict_id: false
    timeout: 5
    max_wait: 60
system_info:
  network:
    renderers: [networkd]
  default_user:
    name: admin
    lock_passwd: true
    gecos: Debian
    groups: [adm, audio, cdrom, dialout, dip, floppy, netdev, plugdev, sudo, video]
    sudo: [\"ALL=(ALL) NOPASSWD:ALL\"]
    shell: /bin/bash
",
);

/// A public image, and the disk that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicImage {
    /// The account that it belongs to.
    pub owner: &'static str,
    /// `debian-12-amd64-20260102-0304`, as Debian calls its images: by when they were made.
    pub name: String,
    /// What it runs on.
    pub architecture: Architecture,
    /// Its disk, raw. It is not to be changed.
    pub disk: Utf8PathBuf,
}

impl From<PublicImage> for StockImage {
    fn from(image: PublicImage) -> Self {
        let PublicImage { owner, name, architecture, disk } = image;
        let architecture = match architecture {
            Architecture::Amd64 => "x86_64",
            Architecture::Arm64 => "arm64",
        };
        Self { owner: owner.to_owned(), name, architecture: architecture.to_owned(), disk: Some(disk) }
    }
}

/// The base disk kept in a folder, made if there is none yet: that takes root, the network and some minutes.
pub async fn base(
    folder: &Utf8Path,
    progress: &(dyn Fn(String) + Send + Sync),
) -> Result<PublicImage, BodyError> {
    let builder = LocalBuilder::new();
    let architecture = builder.architecture();
    let base = Base::Debian {
        suite: "bookworm".into(),
        packages: PACKAGES.map(str::to_owned).to_vec(),
        mirror: None,
        disk_size: DISK_SIZE,
    };
    let made_by = Digest::of(CLOUD_CONFIG.1.as_bytes());
    let key = key::base(architecture, &base);
    let disk = folder.join(format!("debian-12-{}-{}.raw", key.short(), made_by.short()));
    let problem = |what: &str| format!("{what} the public image's disk `{disk}`");
    let _held = lock(folder).await.map_err(BodyError::because(problem("cannot lock")))?;
    if !disk.exists() {
        forget_older(folder).map_err(BodyError::because(problem("cannot make room for")))?;
        let new = folder.join("debian-12.new");
        let work = tempfile::tempdir_in(folder).map_err(BodyError::because(problem("cannot make")))?;
        let work = Utf8Path::from_path(work.path()).ok_or_else(|| BodyError::new(problem("cannot name")))?;
        let packages = folder.join("packages");
        let made = builder.base(&base, None, &new, work, Some(&packages), progress).await;
        made.map_err(BodyError::because(problem("cannot make")))?;
        furnish(&new, &work.join("furnish")).map_err(BodyError::because(problem("cannot make")))?;
        fs::rename(&new, &disk).map_err(BodyError::because(problem("cannot make")))?;
    }
    let made = disk.metadata().and_then(|metadata| metadata.modified());
    let made = made.map_err(BodyError::because(problem("cannot read")))?;
    Ok(PublicImage { owner: DEBIAN_ACCOUNT, name: name_of(architecture, made), architecture, disk })
}

async fn lock(folder: &Utf8Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let file = File::create(folder.join("debian-12.lock"))?;
    let waited = tokio::task::spawn_blocking(move || {
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    });
    waited.await.map_err(io::Error::other)?
}

/// Removes disks that are made otherwise now.
fn forget_older(folder: &Utf8Path) -> io::Result<()> {
    for entry in folder.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_name().starts_with("debian-12-") && entry.file_name().ends_with(".raw") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes what the packages left an image of many machines.
fn furnish(disk: &Utf8Path, directory: &Utf8Path) -> Result<(), MachineError> {
    let root = mount_root(disk, directory, Access::ReadWrite)?;
    let write = || -> io::Result<()> {
        let ssh = root.directory().join("etc/ssh");
        for entry in ssh.read_dir_utf8()? {
            let entry = entry?;
            if entry.file_name().starts_with("ssh_host_") {
                fs::remove_file(entry.path())?;
            }
        }
        let (path, content) = CLOUD_CONFIG;
        fs::write(root.directory().join(path), content)
    };
    let written = write().map_err(|source| MachineError::Io {
        action: "cannot furnish".to_owned(),
        path: directory.to_owned(),
        source,
    });
    root.close()?;
    written
}

fn name_of(architecture: Architecture, made: SystemTime) -> String {
    let since = made.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let text = Timestamp::from_seconds(since.as_secs()).to_string();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    format!("debian-12-{}-{}-{}", architecture.debian(), &digits[..8], &digits[8..12])
}
