//! What a killed tool leaves of the user database, and how it is put right.
//!
//! The tools change several files one after the other. Copies are taken before, kept in the agent's directory, and
//! dropped when the tools have ended; a run that is resumed and finds copies puts them back and runs the operation
//! again. Home directories are made here and not by the tools: whole, under another name, and then renamed.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;

use crate::edit::{self, TEMPORARY};
use crate::error::{At, Result};
use crate::world::{Meta, is_absence};

const FILES: [&str; 6] = ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"];

/// Copies of the user database, for the case that the agent is killed.
pub(crate) struct Copies {
    directory: Utf8PathBuf,
}

fn place(work_dir: &Utf8Path, run: Digest) -> Utf8PathBuf {
    work_dir.join(format!("accounts-{}", run.short()))
}

impl Copies {
    /// Takes copies.
    pub(crate) fn take(work_dir: &Utf8Path, run: Digest) -> Result<Self> {
        let directory = place(work_dir, run);
        let partial = directory.with_extension("partial");
        edit::remove(&partial)?;
        fs::DirBuilder::new().mode(0o700).create(&partial).at("make the directory", &partial)?;
        for name in FILES {
            let from = Utf8Path::new("/etc").join(name);
            match copy(&from, &partial.join(name)) {
                Err(crate::error::OpError::Io { source, .. }) if is_absence(&source) => {}
                other => other?,
            }
        }
        fs::rename(&partial, &directory).at("rename to", &directory)?;
        Ok(Self { directory })
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // What is left is dropped with the agent's directory; a resumed run would run the operation again.
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// A file with its mode and owner, whole or not at all.
fn copy(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    let found = fs::metadata(from).at("look at", from)?;
    let temporary = to.with_file_name(format!("{TEMPORARY}accounts"));
    fs::copy(from, &temporary).at("copy", from)?;
    let meta = Meta { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() };
    edit::set_meta(&temporary, meta)?;
    fs::rename(&temporary, to).at("rename to", to)
}

/// Puts the database of a killed run right, and removes locks that nobody holds any more.
pub(crate) fn recover(work_dir: &Utf8Path, run: Digest) -> Result<()> {
    let directory = place(work_dir, run);
    if directory.is_dir() {
        for name in FILES {
            let (saved, path) = (directory.join(name), Utf8Path::new("/etc").join(name));
            if saved.exists() {
                copy(&saved, &path)?;
            } else {
                edit::remove(&path)?;
            }
        }
        edit::remove(&directory)?;
    }
    for entry in fs::read_dir("/etc").at("list", Utf8Path::new("/etc"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_lock(&name) && !is_held(&Utf8Path::new("/etc").join(&name)) {
            edit::remove(&Utf8Path::new("/etc").join(&name))?;
        }
    }
    Ok(())
}

/// `passwd.lock`, or `passwd.123`, which becomes it.
fn is_lock(name: &str) -> bool {
    name.split_once('.').is_some_and(|(file, end)| {
        FILES.contains(&file)
            && (end == "lock" || (!end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit())))
    })
}

/// Whether the process that a lock names is a tool that takes such locks. The number alone may be another's by now.
fn is_held(lock: &Utf8Path) -> bool {
    let text = fs::read_to_string(lock).unwrap_or_default();
    let number: String = text.chars().take_while(char::is_ascii_digit).collect();
    let name = fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
    let tools = ["user", "group", "passwd", "chage", "chsh", "chfn", "pw", "gr", "vipw", "vigr", "new"];
    tools.iter().any(|tool| name.starts_with(tool))
}

/// Makes a home directory with what new ones begin with.
pub(crate) fn make_home(home: &Utf8Path, uid: u32, gid: u32) -> Result<()> {
    if home.symlink_metadata().is_ok() {
        return Ok(());
    }
    edit::make_parents(home)?;
    let digest = Digest::of(home.file_name().unwrap_or_default().as_bytes());
    let temporary = home.with_file_name(format!("{TEMPORARY}{}", digest.short()));
    edit::remove(&temporary)?;
    copy_below(Utf8Path::new("/etc/skel"), &temporary, uid, gid)?;
    edit::set_meta(&temporary, Meta { mode: home_mode(), uid, gid })?;
    fs::rename(&temporary, home).at("rename to", home)
}

fn copy_below(from: &Utf8Path, to: &Utf8Path, uid: u32, gid: u32) -> Result<()> {
    fs::create_dir(to).at("make the directory", to)?;
    let entries = match from.read_dir_utf8() {
        Err(error) if is_absence(&error) => return Ok(()),
        other => other.at("list", from)?,
    };
    for entry in entries {
        let entry = entry.at("list", from)?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let found = fs::symlink_metadata(from).at("look at", from)?;
        if found.is_dir() {
            copy_below(from, &to, uid, gid)?;
        } else if found.is_symlink() {
            let target = fs::read_link(from).at("read the link", from)?;
            std::os::unix::fs::symlink(target, &to).at("make the link", &to)?;
        } else {
            fs::copy(from, &to).at("copy", from)?;
        }
        edit::set_meta(&to, Meta { mode: found.mode() & 0o7777, uid, gid })?;
    }
    Ok(())
}

/// The mode of new home directories, by `login.defs(5)`.
pub(crate) fn home_mode() -> u32 {
    parse_home_mode(&fs::read_to_string("/etc/login.defs").unwrap_or_default())
}

fn parse_home_mode(text: &str) -> u32 {
    let value = |key: &str| {
        let mut words = text.lines().map(str::split_whitespace).filter_map(|mut words| {
            (words.next() == Some(key))
                .then(|| words.next().and_then(|value| u32::from_str_radix(value, 8).ok()))
        });
        words.next().flatten()
    };
    value("HOME_MODE").unwrap_or_else(|| 0o777 & !value("UMASK").unwrap_or(0o022))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_told_from_files() {
        for lock in ["passwd.lock", "gshadow.123"] {
            assert!(is_lock(lock), "{lock}");
        }
        for file in ["passwd", "passwd-", "passwd.org", "group.", "hosts.1"] {
            assert!(!is_lock(file), "{file}");
        }
    }

    #[test]
    fn the_mode_of_homes_is_read() {
        assert_eq!(parse_home_mode("# HOME_MODE 0700\nUMASK 027\n"), 0o750);
        assert_eq!(parse_home_mode("UMASK\t022\nHOME_MODE\t0700\n"), 0o700);
        assert_eq!(parse_home_mode(""), 0o755);
    }
}
