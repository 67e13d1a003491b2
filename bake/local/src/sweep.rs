//! What a process that no longer runs left behind, found by where it worked. Main function: [`sweep`].
//!
//! Usually that is nothing: mounts are in a namespace that ends with the process, and the kernel ends what it had
//! started. This is for what escapes that: a process that was killed between being forked and asking for its end
//! signal, mounts of a process that had no namespace of its own, control groups.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::MachineError;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup;
use crate::host::{HostCommand, io_error};
use crate::mount::{loops_of, outside};
use crate::nspawn::{self, PREFIX};

/// Programs that are started to work on a machine or a disk, as the kernel shortens their names. Others that
/// have something to do with the folder, a pager or an editor, are left alone.
const PROGRAMS: [&str; 8] = [
    "systemd-nspawn",
    "unshare",
    "setpriv",
    "mmdebstrap",
    "qemu-system-x86",
    "qemu-system-aar",
    "qemu-img",
    "tar",
];
/// How long ended processes may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// Ends it, and says what it was, a line each.
pub(crate) fn sweep(work_root: &Utf8Path) -> Result<Vec<String>, MachineError> {
    let work_root = work_root.canonicalize_utf8().map_err(io_error("cannot find", work_root))?;
    let mut found = end_processes(&work_root)?;
    found.extend(unmount_own(&work_root)?);
    found.extend(unmount_of_host(&work_root)?);
    found.extend(clear_loops(&work_root)?);
    found.extend(remove_cgroups());
    nspawn::forget_abandoned();
    Ok(found)
}

fn end_processes(work_root: &Utf8Path) -> Result<Vec<String>, MachineError> {
    let mut found = Vec::new();
    let mut ended = Vec::new();
    for process in processes()? {
        if is_ours(process, work_root)
            && let Some(number) = i32::try_from(process).ok().and_then(Pid::from_raw)
        {
            let name = name_of(process).unwrap_or_default();
            // It may have ended by itself in the meantime.
            if kill_process(number, Signal::KILL).is_ok() {
                found.push(format!("process {process} ({name})"));
                ended.push(process);
            }
        }
    }
    let end = Instant::now() + GONE;
    while ended.iter().any(|process| lives(*process)) && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(found)
}

fn processes() -> Result<Vec<u32>, MachineError> {
    let folder = Utf8Path::new("/proc");
    let entries = folder.read_dir_utf8().map_err(io_error("cannot read", folder))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().parse().ok()).collect())
}

/// Whether a process is one of our programs at work below the folder, and none that this process started.
fn is_ours(process: u32, work_root: &Utf8Path) -> bool {
    let Some(name) = name_of(process) else { return false };
    PROGRAMS.contains(&name.as_str())
        && (works_in(process, work_root) || is_told_of(process, work_root))
        && !ancestors(process).any(|ancestor| ancestor == std::process::id())
}

fn works_in(process: u32, work_root: &Utf8Path) -> bool {
    fs::read_link(format!("/proc/{process}/cwd")).is_ok_and(|folder| folder.starts_with(work_root))
}

/// Whether the folder, or something in it, is among the process's arguments.
fn is_told_of(process: u32, work_root: &Utf8Path) -> bool {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|argument| mentions(&String::from_utf8_lossy(argument), work_root))
}

fn mentions(argument: &str, folder: &Utf8Path) -> bool {
    argument.match_indices(folder.as_str()).any(|(at, found)| {
        let rest = &argument[at + found.len()..];
        rest.is_empty() || rest.starts_with(['/', ':', ','])
    })
}

fn ancestors(process: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(process), |process| {
        field(*process, "PPid:").and_then(|parent| parent.parse().ok()).filter(|parent| *parent != 0)
    })
}

fn name_of(process: u32) -> Option<String> {
    field(process, "Name:")
}

/// Whether a process is there and not only waits for its parent to take note of its end.
pub(crate) fn lives(process: u32) -> bool {
    field(process, "State:").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

fn field(process: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}

fn unmount_own(work_root: &Utf8Path) -> Result<Vec<String>, MachineError> {
    let mut found = Vec::new();
    for directory in mounts_below(work_root, "/proc/self/mountinfo")? {
        unmount(directory.as_str(), UnmountFlags::DETACH)
            .map_err(|error| io_error("cannot unmount", &directory)(error.into()))?;
        found.push(format!("mount {directory}"));
    }
    Ok(found)
}

/// This process may not be in the host's mount namespace; what was left is.
fn unmount_of_host(work_root: &Utf8Path) -> Result<Vec<String>, MachineError> {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    if namespace("1").is_none() || namespace("1") == namespace("self") {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for directory in mounts_below(work_root, "/proc/1/mountinfo")? {
        HostCommand::new("nsenter")
            .args(["-t", "1", "-m", "--", "umount", "--lazy", directory.as_str()])
            .run()?;
        found.push(format!("mount {directory}"));
    }
    Ok(found)
}

/// Mounts on the folder or below it, the last one first.
fn mounts_below(work_root: &Utf8Path, table: &str) -> Result<Vec<Utf8PathBuf>, MachineError> {
    let mounts = fs::read_to_string(table).map_err(io_error("cannot read", Utf8Path::new(table)))?;
    Ok(places_below(work_root, &mounts))
}

fn places_below(work_root: &Utf8Path, mounts: &str) -> Vec<Utf8PathBuf> {
    let places =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|place| unescaped(place).into());
    let mut places: Vec<Utf8PathBuf> =
        places.filter(|place: &Utf8PathBuf| place.starts_with(work_root)).collect();
    places.reverse();
    places
}

/// Mounts on a folder or below it that outlive this process, the last one first.
pub(crate) fn mounts_outside(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>, MachineError> {
    let table = outside("cat").arg("/proc/self/mountinfo").run()?;
    Ok(places_below(folder, &String::from_utf8_lossy(&table)))
}

/// The kernel writes blanks and the like in a path as `\` and three octal digits.
fn unescaped(text: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

fn clear_loops(work_root: &Utf8Path) -> Result<Vec<String>, MachineError> {
    let prefix = format!("{work_root}/");
    let mut found = BTreeSet::new();
    let end = Instant::now() + GONE;
    loop {
        let left: Vec<_> = loops_of(|backing| backing.starts_with(&prefix))?.collect();
        if left.is_empty() {
            break;
        }
        for (device, backing) in left {
            // One that a mount still holds is freed once that is gone.
            HostCommand::new("losetup").args(["--detach", device.as_str()]).try_run()?;
            found.insert(format!("loop device {device} ({backing})"));
        }
        if Instant::now() >= end {
            return Err(io_error("cannot free the loop devices of", work_root)(std::io::Error::other(
                "a process still uses them",
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(found.into_iter().collect())
}

/// Of any process that no longer runs: the groups do not say where it worked.
fn remove_cgroups() -> Vec<String> {
    let groups = cgroup::abandoned().into_iter();
    groups
        .filter(|group| cgroup::remove_tree(group).is_ok())
        .map(|group| format!("control group {group}"))
        .collect()
}

/// Whether the process that a name of ours contains still runs: `olbake-PROCESS-NUMBER`.
pub(crate) fn is_abandoned(name: &str) -> bool {
    let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    process
        .is_some_and(|process| process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folder_itself_is_mentioned() {
        let folder = Utf8Path::new("/srv/bake-1");
        for argument in ["/srv/bake-1", "--directory=/srv/bake-1/root", "--bind=/srv/bake-1/a:/b"] {
            assert!(mentions(argument, folder), "{argument}");
        }
        for argument in ["/srv/bake-10/root", "/work", "bake-1"] {
            assert!(!mentions(argument, folder), "{argument}");
        }
    }

    #[test]
    fn names_of_living_processes_are_not_abandoned() {
        assert!(!is_abandoned(&format!("{PREFIX}{}-0", std::process::id())));
        assert!(!is_abandoned("olbake-web"));
        // Process numbers end well below this.
        assert!(is_abandoned("olbake-4294967295-0"));
    }
}
