//! Control groups for booted containers: systemd inside needs one to itself.
//!
//! On a host that systemd runs, it is asked for one (`systemd-run --scope`). On another host one is made here,
//! in the hierarchies that nspawn looks at. Main type: [`Cgroup`].

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::MachineError;

use crate::host::{HostCommand, io_error};
use crate::sweep::is_abandoned;

/// A control group, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    name: String,
    /// One per hierarchy; none where systemd made the group.
    folders: Vec<Utf8PathBuf>,
}

impl Cgroup {
    /// Makes one of this name.
    pub(crate) fn create(name: &str) -> Result<Self, MachineError> {
        let mut group = Self { name: name.to_owned(), folders: Vec::new() };
        if !systemd_runs() {
            for hierarchy in hierarchies() {
                let folder = hierarchy.join(name);
                fs::create_dir_all(&folder).map_err(io_error("cannot make", &folder))?;
                group.folders.push(folder);
            }
        }
        Ok(group)
    }

    /// The beginning of a command that runs the rest of it in the group.
    pub(crate) fn enter(&self) -> HostCommand {
        if self.folders.is_empty() {
            let unit = format!("--unit={}", self.name);
            return HostCommand::new("systemd-run")
                .args(["--scope", "--quiet", "--collect", "--property=Delegate=yes"])
                .args([unit.as_str(), "--"]);
        }
        let lists: Vec<String> = self.folders.iter().map(|folder| format!("{folder}/cgroup.procs")).collect();
        // The shell moves itself, writing to as many lists as its first argument says, and becomes the command.
        let script = "count=$1; shift; while [ $count -gt 0 ]; do echo 0 >\"$1\"; shift; count=$((count - 1)); done; exec \"$@\"";
        HostCommand::new("sh").args(["-ec", script, "sh", &lists.len().to_string()]).args(lists)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            // The group empties a moment after its processes were killed.
            for _ in 0..100 {
                if remove_tree(folder).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Groups of processes that are gone.
pub(crate) fn abandoned() -> Vec<Utf8PathBuf> {
    let entries = hierarchies().into_iter().filter_map(|hierarchy| hierarchy.read_dir_utf8().ok()).flatten();
    entries
        .filter_map(Result::ok)
        .filter(|entry| is_abandoned(entry.file_name()))
        .map(|entry| entry.into_path())
        .collect()
}

/// Removes a group and those in it; fails while there is a process in one.
pub(crate) fn remove_tree(folder: &Utf8Path) -> std::io::Result<()> {
    for entry in folder.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

pub(crate) fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

pub(crate) fn hierarchies() -> Vec<Utf8PathBuf> {
    let top = Utf8Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top.to_owned()];
    }
    ["unified", "systemd"].map(|name| top.join(name)).into_iter().filter(|folder| folder.is_dir()).collect()
}
