//! Volumes: ext4 file systems in files, which outlive the instances that they are mounted in.
//!
//! An instance's keeper holds a lock on the volume as long as it lives, so at most one has it. Main types:
//! [`VolumeSpec`], [`VolumeView`].

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;

use camino::Utf8PathBuf;
use olbake_engine::machine::MachineError;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::place::{Place, make_folder, remove, write_whole};
use super::{Change, CloudError, Ensured, Id, Kind};
use crate::host::{HostCommand, host_error, io_error};

/// What a volume is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Which.
    pub id: Id,
    /// Its size in bytes; it takes as much space as is written to it.
    pub size: u64,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeView {
    /// Which.
    pub id: Id,
    /// Its size in bytes.
    pub size: u64,
    /// The bytes that it takes on the host.
    pub used: u64,
    /// The instance that has it now.
    pub holder: Option<Id>,
}

/// The smallest that is worth a journal.
const SMALLEST: u64 = 16 << 20;
const IMAGE: &str = "volume.ext4";
/// Locked by the keeper of the instance that has the volume.
pub(super) const IN_USE: &str = "in-use";
const HOLDER: &str = "holder";

pub(super) fn ensure(place: &Place, spec: &VolumeSpec) -> Result<Ensured<VolumeView>, CloudError> {
    let VolumeSpec { id, size } = spec;
    let different = |problem: String| CloudError::Spec { kind: Kind::Volume, id: id.clone(), problem };
    if *size < SMALLEST {
        return Err(different(format!("{size} bytes are too few: at least {SMALLEST}")));
    }
    let _held = place.lock(Kind::Volume, id.as_str())?;
    let known: Option<VolumeSpec> = place.spec(Kind::Volume, id)?;
    if known.as_ref().is_some_and(|known| known != spec) {
        return Err(CloudError::Different { kind: Kind::Volume, id: id.clone(), what: "size".to_owned() });
    }
    let image = image(place, id);
    let whole = known.is_some() && image.exists();
    if !whole {
        place.write_spec(Kind::Volume, id, spec)?;
        if !image.exists() {
            make(&image, *size)?;
        }
    }
    let view = inspect(place, id)?.ok_or_else(|| host_error("the volume vanished"))?;
    Ok(Ensured { change: Change::of(known.is_some(), whole), view })
}

pub(super) fn inspect(place: &Place, id: &Id) -> Result<Option<VolumeView>, CloudError> {
    let Some(VolumeSpec { id, size }) = place.spec(Kind::Volume, id)? else { return Ok(None) };
    let used = fs::metadata(image(place, &id)).map_or(0, |found| found.blocks() * 512);
    let holder = holder(place, &id)?;
    Ok(Some(VolumeView { id, size, used, holder }))
}

pub(super) fn delete(place: &Place, id: &Id) -> Result<(), CloudError> {
    let _held = place.lock(Kind::Volume, id.as_str())?;
    if let Some(holder) = holder(place, id)? {
        let by = format!("{} `{holder}`", Kind::Instance);
        return Err(CloudError::InUse { kind: Kind::Volume, id: id.clone(), by });
    }
    place.remove(Kind::Volume, id.as_str())
}

/// Says that an instance is about to take a volume; an error names the one that has it.
pub(super) fn claim(place: &Place, id: &Id, instance: &Id) -> Result<(), CloudError> {
    let _held = place.lock(Kind::Volume, id.as_str())?;
    place.expect(Kind::Volume, id)?;
    if let Some(other) = holder(place, id)? {
        let by = format!("{} `{other}`", Kind::Instance);
        return Err(CloudError::InUse { kind: Kind::Volume, id: id.clone(), by });
    }
    let folder = place.of(Kind::Volume, id.as_str());
    Ok(write_whole(&folder.join(HOLDER), instance.as_str().as_bytes())?)
}

/// Who has it, by the kernel's account; the name is the one that was said last.
fn holder(place: &Place, id: &Id) -> Result<Option<Id>, CloudError> {
    let folder = place.of(Kind::Volume, id.as_str());
    let lock = folder.join(IN_USE);
    if !lock.exists() || is_free(&lock)? {
        return Ok(None);
    }
    let name = fs::read_to_string(folder.join(HOLDER)).map_err(io_error("cannot read", &folder))?;
    Ok(Some(name.trim().parse()?))
}

fn is_free(lock: &Utf8PathBuf) -> Result<bool, MachineError> {
    let file: File = OpenOptions::new().read(true).open(lock).map_err(io_error("cannot open", lock))?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(io_error("cannot lock", lock)(error.into())),
    }
}

/// The file of a volume.
pub(super) fn image(place: &Place, id: &Id) -> Utf8PathBuf {
    place.of(Kind::Volume, id.as_str()).join(IMAGE)
}

fn make(image: &Utf8PathBuf, size: u64) -> Result<(), CloudError> {
    let new = image.with_extension("new");
    make_folder(image.parent().expect("a volume's file has a folder"))?;
    remove(&new)?;
    let file = File::create(&new).map_err(io_error("cannot make", &new))?;
    file.set_len(size).map_err(io_error("cannot make", &new))?;
    HostCommand::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "nodiscard,root_owner=0:0", new.as_str()])
        .run()?;
    file.sync_all().map_err(io_error("cannot make", &new))?;
    Ok(fs::rename(&new, image).map_err(io_error("cannot make", image))?)
}
