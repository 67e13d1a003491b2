//! Control groups of instances: what systemd inside needs to itself, limits, and how much memory is taken.
//!
//! Unlike those of a bake's machines they outlive the command. Main types: [`Limits`], [`Group`].

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::CloudError;
use crate::cgroup::{hierarchies, remove_tree, systemd_runs};
use crate::host::{HostCommand, io_error};

/// The most that an instance may take. The default is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory; a VM has this much from its next start on, or 1 GiB.
    pub memory: Option<u64>,
    /// Hundredths of a processor.
    pub cpu_percent: Option<u32>,
}

const TOP: &str = "/sys/fs/cgroup";
/// The period that a share of the processor is measured in, in microseconds.
const PERIOD: u64 = 100_000;

/// An instance's control group, by name.
#[derive(Clone, Debug)]
pub(super) struct Group(String);

impl Group {
    pub(super) fn named(name: String) -> Self {
        Self(name)
    }

    /// Makes it, where systemd is not to.
    pub(super) fn ensure(&self, limits: Limits) -> Result<(), CloudError> {
        if systemd_runs() {
            return Ok(());
        }
        if is_unified() {
            // What is not handed down cannot be limited; a kernel without it is told of when a limit is set.
            for controller in ["+memory", "+cpu"] {
                fs::write(Utf8Path::new(TOP).join("cgroup.subtree_control"), controller).ok();
            }
        }
        for folder in self.folders() {
            fs::create_dir_all(&folder).map_err(io_error("cannot make", &folder))?;
        }
        self.apply(limits)
    }

    /// Sets the limits of a group that is there.
    pub(super) fn apply(&self, limits: Limits) -> Result<(), CloudError> {
        if systemd_runs() {
            let scope = format!("{}.scope", self.0);
            let command = HostCommand::new("systemctl").args(["set-property", "--runtime", &scope]);
            command.args(properties(limits)).run()?;
            return Ok(());
        }
        let Limits { memory, cpu_percent } = limits;
        let quota = cpu_percent.map(|percent| u64::from(percent) * PERIOD / 100);
        let number =
            |value: Option<u64>, none: &str| value.map_or(none.to_owned(), |value| value.to_string());
        if is_unified() {
            self.set("memory.max", Utf8Path::new(TOP), &number(memory, "max"), memory.is_some())?;
            let share = format!("{} {PERIOD}", number(quota, "max"));
            return self.set("cpu.max", Utf8Path::new(TOP), &share, quota.is_some());
        }
        let top = Utf8Path::new(TOP);
        self.set("memory.limit_in_bytes", &top.join("memory"), &number(memory, "-1"), memory.is_some())?;
        self.set("cpu.cfs_quota_us", &top.join("cpu"), &number(quota, "-1"), quota.is_some())
    }

    /// Writes a setting; where nothing is limited, a host without it is as good.
    fn set(&self, file: &str, hierarchy: &Utf8Path, value: &str, needed: bool) -> Result<(), CloudError> {
        let path = hierarchy.join(&self.0).join(file);
        match fs::write(&path, value) {
            Err(error) if needed => Err(io_error("cannot set the limit", &path)(error).into()),
            _ => Ok(()),
        }
    }

    /// The beginning of a command that runs the rest in the group, where systemd makes it.
    pub(super) fn prefix(&self, limits: Limits) -> Vec<String> {
        if !systemd_runs() {
            return Vec::new();
        }
        let unit = format!("--unit={}", self.0);
        let fixed = ["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes", &unit];
        let limits = properties(limits).into_iter().map(|property| format!("--property={property}"));
        fixed.map(str::to_owned).into_iter().chain(limits).chain(["--".to_owned()]).collect()
    }

    /// What a shell does to enter it, where systemd did not make it.
    pub(super) fn enter(&self) -> String {
        let lists = if systemd_runs() { Vec::new() } else { self.folders() };
        lists.iter().map(|folder| format!("    echo 0 >{folder}/cgroup.procs\n")).collect()
    }

    /// Removes it; fails while there is a process in it.
    pub(super) fn remove(&self) -> Result<(), CloudError> {
        for folder in self.folders().into_iter().filter(|folder| folder.exists()) {
            // It empties a moment after its processes were ended.
            let mut tries = 0..200;
            while let Err(error) = remove_tree(&folder) {
                if tries.next().is_none() {
                    return Err(io_error("cannot remove", &folder)(error).into());
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// One per hierarchy that matters.
    fn folders(&self) -> Vec<Utf8PathBuf> {
        tops().into_iter().map(|top| top.join(&self.0)).collect()
    }
}

/// The names of groups that begin so.
pub(super) fn groups(prefix: &str) -> Vec<String> {
    let entries = tops().into_iter().filter_map(|top| top.read_dir_utf8().ok()).flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names.dedup();
    names
}

/// The memory that the group of a process takes, without what the kernel would give up at once. In bytes.
pub(super) fn memory_of(process: u32) -> Option<u64> {
    let membership = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let groups = membership.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?, parts.next()?.trim_start_matches('/').trim_end_matches("/supervisor")))
    });
    let (used, statistics, reclaimable) = if is_unified() {
        let (_, group) = { groups }.find(|(controllers, _)| controllers.is_empty())?;
        let folder = Utf8Path::new(TOP).join(group);
        (folder.join("memory.current"), folder.join("memory.stat"), "inactive_file ")
    } else {
        let (_, group) = { groups }.find(|(controllers, _)| *controllers == "memory")?;
        let folder = Utf8Path::new(TOP).join("memory").join(group);
        (folder.join("memory.usage_in_bytes"), folder.join("memory.stat"), "total_inactive_file ")
    };
    let used: u64 = fs::read_to_string(used).ok()?.trim().parse().ok()?;
    let statistics = fs::read_to_string(statistics).ok()?;
    let spare = statistics.lines().find_map(|line| line.strip_prefix(reclaimable)?.parse().ok());
    Some(used.saturating_sub(spare.unwrap_or(0)))
}

fn properties(limits: Limits) -> Vec<String> {
    let Limits { memory, cpu_percent } = limits;
    let memory = memory.map_or("infinity".to_owned(), |bytes| bytes.to_string());
    let share = cpu_percent.map_or(String::new(), |percent| format!("{percent}%"));
    vec![format!("MemoryMax={memory}"), format!("CPUQuota={share}")]
}

fn is_unified() -> bool {
    Utf8Path::new(TOP).join("cgroup.controllers").exists()
}

fn tops() -> Vec<Utf8PathBuf> {
    let mut tops = hierarchies();
    if !is_unified() {
        let own = ["memory", "cpu"].map(|name| Utf8Path::new(TOP).join(name));
        tops.extend(own.into_iter().filter(|top| top.join("cgroup.procs").exists()));
    }
    tops
}
