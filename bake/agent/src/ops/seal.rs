//! The end of an image: what identifies the machine it was built on is removed.
//!
//! Nothing behind a mount point is touched: a cache of the builder's, or a `/tmp` in memory, is not the image's.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::operation::{Ownership, SealStep};

use super::file::Wanted;
use super::{Decision, NONE, Work, change};
use crate::context::Context;
use crate::edit::Edit;
use crate::error::Result;
use crate::world::Node;

/// Logs that the programs which write them do not create.
const KEPT_LOGS: [&str; 4] = ["wtmp", "btmp", "lastlog", "faillog"];
/// What shells and tools remember in a home directory.
const HISTORIES: [&str; 14] = [
    ".bash_history",
    ".zsh_history",
    ".sh_history",
    ".ash_history",
    ".python_history",
    ".node_repl_history",
    ".sqlite_history",
    ".mysql_history",
    ".psql_history",
    ".rediscli_history",
    ".lesshst",
    ".viminfo",
    ".wget-hsts",
    ".sudo_as_admin_successful",
];
/// Seeds of random numbers: two machines must not start from one.
pub(crate) const SEEDS: [&str; 5] = [
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/systemd/credential.secret",
    "/boot/efi/loader/random-seed",
    "/efi/loader/random-seed",
];
/// Directories with leases, and how a lease's name looks.
const LEASES: [&str; 4] =
    ["/var/lib/dhcp", "/var/lib/dhcpcd", "/var/lib/NetworkManager", "/var/lib/systemd/network"];

/// [`olbake_core::operation::Action::Seal`].
pub(crate) fn seal<'a>(context: &Context<'_>, step: SealStep) -> Result<Decision<'a>> {
    let mut seal = Seal { context, mounts: mount_points(), work: Work::default() };
    match step {
        SealStep::MachineId => seal.machine_id()?,
        SealStep::SshHostKeys => seal.remove_matching("/etc/ssh", |name| name.starts_with("ssh_host_"))?,
        SealStep::CloudInit => {
            seal.remove_matching("/var/lib/cloud", |name| name != "seed")?;
            seal.remove_matching("/var/log", |name| name.starts_with("cloud-init"))?;
        }
        SealStep::AptLists => {
            seal.remove_matching("/var/lib/apt/lists", |name| !matches!(name, "lock" | "partial"))?;
            seal.remove_matching("/var/lib/apt/lists/partial", |_| true)?;
            seal.remove_matching("/var/cache/apt/archives", |name| name.ends_with(".deb"))?;
            seal.remove_matching("/var/cache/apt/archives/partial", |_| true)?;
            seal.remove_matching("/var/cache/apt", |name| name.ends_with(".bin"))?;
        }
        SealStep::Logs => seal.logs(Utf8Path::new("/var/log"))?,
        SealStep::Histories => {
            for path in histories(context)? {
                seal.remove(path)?;
            }
        }
        SealStep::Temporary => {
            for directory in ["/tmp", "/var/tmp", "/run"] {
                seal.remove_matching(directory, |_| true)?;
            }
        }
        SealStep::HostIdentity => seal.host_identity()?,
    }
    // On a machine that is running, programs write on meanwhile.
    let work = if context.run.booted { seal.work.finally() } else { seal.work };
    Ok(work.decide())
}

/// The history files that there are.
pub(crate) fn histories(context: &Context<'_>) -> Result<Vec<Utf8PathBuf>> {
    let mut found = BTreeSet::new();
    let accounts = context.world().accounts();
    let homes = accounts.users.iter().map(|user| &user.home);
    for home in homes.map(Utf8Path::new).filter(|home| home.is_absolute()) {
        for name in HISTORIES {
            let path = home.join(name);
            if context.world().look(&path)? != Node::Absent {
                found.insert(path);
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Where something is mounted, except the root itself.
pub(crate) fn mount_points() -> HashSet<Utf8PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse_mounts(&text)
}

/// The fifth field of each line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`), its octal escapes undone.
fn parse_mounts(text: &str) -> HashSet<Utf8PathBuf> {
    let places = text.lines().filter_map(|line| line.split(' ').nth(4));
    let undo = |place: &str| {
        [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(place.to_owned(), |text, (code, character)| text.replace(code, character))
    };
    places.map(undo).filter(|place| place != "/").map(Utf8PathBuf::from).collect()
}

struct Seal<'s, 'c> {
    context: &'s Context<'c>,
    mounts: HashSet<Utf8PathBuf>,
    work: Work<'static>,
}

impl Seal<'_, '_> {
    /// Whether a path, or something below it, must stay: a mount, or the agent's own directory.
    fn stays(&self, path: &Utf8Path) -> bool {
        self.mounts.iter().any(|mount| mount.starts_with(path)) || self.context.run.work_dir.starts_with(path)
    }

    /// Whether a path lies on something mounted.
    fn is_elsewhere(&self, path: &Utf8Path) -> bool {
        self.mounts.iter().any(|mount| path.starts_with(mount))
    }

    fn remove(&mut self, path: Utf8PathBuf) -> Result<()> {
        let node = self.context.world().look(&path)?;
        if node != Node::Absent && !self.stays(&path) && !self.is_elsewhere(&path) {
            self.work.changes.push(change(node.kind(), Some(path.as_str()), NONE));
            self.work.edits.push(Edit::Remove { path });
        }
        Ok(())
    }

    /// Removes what is in a directory and has such a name, and tells how much that is.
    fn remove_matching(&mut self, directory: &str, matches: impl Fn(&str) -> bool) -> Result<()> {
        let directory = Utf8Path::new(directory);
        if self.is_elsewhere(directory)
            || !matches!(self.context.world().look(directory)?, Node::Directory { .. })
        {
            return Ok(());
        }
        let names = self.context.world().list(directory)?;
        let paths: Vec<Utf8PathBuf> = names
            .into_iter()
            .filter(|name| matches(name))
            .map(|name| directory.join(name))
            .filter(|path| !self.stays(path))
            .collect();
        if let Some(first) = paths.first() {
            let from = match paths.len() {
                1 => first.to_string(),
                count => format!("{count} entries, such as {first}"),
            };
            self.work.changes.push(change(directory.as_str(), Some(from), NONE));
        }
        self.work.edits.extend(paths.into_iter().map(|path| Edit::Remove { path }));
        Ok(())
    }

    fn machine_id(&mut self) -> Result<()> {
        let path = Utf8Path::new("/etc/machine-id");
        let ownership = Ownership { mode: Some(0o444), ..Ownership::default() };
        let wanted = Wanted { ownership: &ownership, ..Wanted::text(path, "") };
        wanted.plan(self.context, &mut self.work)?;
        let copy = Utf8PathBuf::from("/var/lib/dbus/machine-id");
        match self.context.world().look(&copy)? {
            Node::File { .. } => self.remove(copy),
            _ => Ok(()),
        }
    }

    fn logs(&mut self, directory: &Utf8Path) -> Result<()> {
        for name in self.context.world().list(directory)? {
            let path = directory.join(&name);
            if self.stays(&path) || self.is_elsewhere(&path) {
                continue;
            }
            match self.context.world().look(&path)? {
                Node::Directory { .. } if directory == "/var/log/journal" => self.remove(path)?,
                Node::Directory { .. } => self.logs(&path)?,
                Node::File { content, .. } if KEPT_LOGS.contains(&name.as_str()) && content.size()? == 0 => {}
                Node::File { .. } if KEPT_LOGS.contains(&name.as_str()) => {
                    self.work.changes.push(change("log", Some(path.as_str()), Some("empty")));
                    self.work.edits.push(Edit::Truncate { path });
                }
                Node::File { .. } => {
                    self.work.changes.push(change("log", Some(path.as_str()), NONE));
                    self.work.edits.push(Edit::Remove { path });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn host_identity(&mut self) -> Result<()> {
        // A link says who writes it on the machine itself; a file was written by the builder.
        let resolver = Utf8PathBuf::from("/etc/resolv.conf");
        if let Node::File { .. } = self.context.world().look(&resolver)? {
            self.remove(resolver)?;
        }
        for seed in SEEDS {
            self.remove(seed.into())?;
        }
        self.remove_matching("/etc/udev/rules.d", |name| name.contains("persistent-net"))?;
        for directory in LEASES {
            self.remove_matching(directory, |name| name.contains("lease"))?;
        }
        Ok(())
    }
}

/// Whether two paths lie on one file system, as far as directories can tell.
pub(crate) fn device(path: &Utf8Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|found| found.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let text =
            "22 1 0:20 / / rw - ext4 /dev/vda rw\n23 22 0:21 / /run/a\\040b rw shared:1 - tmpfs tmpfs rw\n";
        assert_eq!(parse_mounts(text).into_iter().collect::<Vec<_>>(), ["/run/a b"]);
    }
}
