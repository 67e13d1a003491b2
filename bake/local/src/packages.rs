//! Package lists and downloads, kept between bakes.
//!
//! Each machine works on copies of its own (hard links), so that two of them never wait for one another's locks
//! and a recipe that empties its caches empties only its own. What is new comes back at the end.
//! Main type: [`PackageCache`].

use std::fs;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::MachineError;

use crate::host::io_error;

/// Where apt keeps lists and downloads on a machine, and the names of the folders that stand for them here.
const PLACES: [(&str, &str); 2] = [("lists", "var/lib/apt/lists"), ("archives", "var/cache/apt/archives")];

/// A machine's own copy of the kept files.
#[derive(Debug)]
pub(crate) struct PackageCache {
    kept: Utf8PathBuf,
    own: Utf8PathBuf,
}

impl PackageCache {
    /// Makes a copy of what is kept at `kept`, in a new folder `own`.
    pub(crate) fn open(kept: &Utf8Path, own: Utf8PathBuf) -> Result<Self, MachineError> {
        for (name, _) in PLACES {
            let folder = own.join(name);
            // apt's own user downloads, and must be able to enter.
            fs::create_dir_all(folder.join("partial")).map_err(io_error("cannot make", &folder))?;
            let source = kept.join(name);
            fs::create_dir_all(&source).map_err(io_error("cannot make", &source))?;
            share_files(&source, &folder).map_err(io_error("cannot copy", &source))?;
        }
        Ok(Self { kept: kept.to_owned(), own })
    }

    /// What is to appear where: folders of the host, and paths below the machine's root.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Utf8PathBuf, &'static str)> {
        PLACES.into_iter().map(|(name, place)| (self.own.join(name), place))
    }

    /// Keeps what is new, and removes the copy.
    pub(crate) fn close(self) -> Result<(), MachineError> {
        let Self { kept, own } = self;
        for (name, _) in PLACES {
            share_files(&own.join(name), &kept.join(name)).map_err(io_error("cannot keep", &own))?;
        }
        fs::remove_dir_all(&own).map_err(io_error("cannot remove", &own))
    }
}

/// Puts every complete file of a folder into another one, whole or not at all, without copying where it can.
fn share_files(from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
    for entry in from.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_name() == "lock" || !entry.file_type()?.is_file() {
            continue;
        }
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if same_file(source, &target)? {
            continue;
        }
        let new = to.join(format!(".{}.{}", entry.file_name(), std::process::id()));
        if fs::hard_link(source, &new).is_err() {
            fs::copy(source, &new)?;
        }
        fs::rename(&new, &target)?;
    }
    Ok(())
}

fn same_file(one: &Utf8Path, other: &Utf8Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let one = one.symlink_metadata()?;
    match other.symlink_metadata() {
        Ok(other) => Ok((one.dev(), one.ino()) == (other.dev(), other.ino())
            || (one.len(), one.mtime()) == (other.len(), other.mtime())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_downloads_is_there_for_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let kept = folder.join("kept");
        let first = PackageCache::open(&kept, folder.join("first")).unwrap();
        let second = PackageCache::open(&kept, folder.join("second")).unwrap();
        fs::write(folder.join("first/archives/a.deb"), "a").unwrap();
        fs::write(folder.join("first/archives/partial/b.deb"), "half").unwrap();
        fs::write(folder.join("first/archives/lock"), "").unwrap();
        first.close().unwrap();
        fs::remove_dir_all(folder.join("second/archives")).unwrap();
        fs::create_dir(folder.join("second/archives")).unwrap();
        second.close().unwrap();
        let third = PackageCache::open(&kept, folder.join("third")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("third/archives/a.deb")).unwrap(), "a");
        assert!(!folder.join("third/archives/partial/b.deb").exists());
        assert!(!kept.join("archives/lock").exists());
        third.close().unwrap();
    }
}
