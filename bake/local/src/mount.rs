//! Mounts, in a mount namespace of olbake's own, so that they end with it.
//!
//! [`isolate`] makes the namespace; [`mount_root`] mounts a disk's root file system; [`MountGuard`] takes a mount
//! away. The host sees none of these mounts, and a loop device made for one clears itself with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::MachineError;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::disk;
use crate::host::{HostCommand, io_error};

/// How long a busy file system is waited for.
const BUSY: Duration = Duration::from_secs(10);

/// Whether a mount can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It cannot; the file system's journal must be clean.
    ReadOnly,
    /// It can, and for speed nothing is flushed before it is unmounted.
    ReadWrite,
}

/// Gives the calling process a mount namespace of its own: what it mounts from now on vanishes with it, even by
/// SIGKILL. To be called first in `main`, before there is a second thread. Does nothing without root.
///
/// Mounts of the host still appear inside; children get the same view, and see unmounts too.
pub fn isolate() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let before = File::open("/proc/self/ns/mnt")?;
    // Whoever calls twice is still to find the way to where it was started.
    OUTSIDE.set(before).ok();
    // SAFETY: the flag unshares the mount namespace and the working folder, and no table of file descriptors.
    #[allow(unsafe_code)]
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNS)?;
    }
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    Ok(())
}

/// The namespace that the process was in before [`isolate`].
static OUTSIDE: OnceLock<File> = OnceLock::new();

/// The beginning of a command that runs the rest of it where mounts outlive this process: in the mount namespace
/// that the process was started in. Empty where it never left that.
pub(crate) fn way_outside() -> Vec<String> {
    OUTSIDE.get().map_or_else(Vec::new, |namespace| {
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        vec!["nsenter".to_owned(), format!("--mount={path}"), "--".to_owned()]
    })
}

/// A command that runs where mounts outlive this process.
pub(crate) fn outside(program: &'static str) -> HostCommand {
    let mut way = way_outside().into_iter();
    match way.next() {
        Some(_) => HostCommand::new("nsenter").args(way).arg(program),
        None => HostCommand::new(program),
    }
}

/// Does something, without starting commands, where mounts outlive this process: what is mounted there need not be
/// seen here.
pub(crate) fn look_outside<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let Some(namespace) = OUTSIDE.get() else { return Ok(work()) };
    let inside = || {
        // SAFETY: the flag unshares the working folder of this thread, and no table of file descriptors.
        #[allow(unsafe_code)]
        unsafe {
            unshare_unsafe(UnshareFlags::FS)?;
        }
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
        Ok(work())
    };
    // A thread that has moved does not come back: it ends.
    thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A mount that is taken away when this is dropped.
#[derive(Debug)]
pub struct MountGuard {
    directory: Utf8PathBuf,
    /// The file behind it, if it is a disk that is written to: its loop device must be gone too. One that is
    /// only read may be read by others as well.
    disk: Option<Utf8PathBuf>,
    mounted: bool,
}

impl MountGuard {
    /// Where it is mounted.
    pub fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// Takes it away and waits until all is written to the file behind it.
    pub fn close(mut self) -> Result<(), MachineError> {
        self.mounted = false;
        unmount_busy(&self.directory)?;
        self.disk.as_deref().map_or(Ok(()), wait_for_loop)
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if self.mounted && unmount_busy(&self.directory).is_err() {
            // It is out of the way at least, and goes when its last user does.
            unmount(self.directory.as_str(), UnmountFlags::DETACH).ok();
        }
    }
}

fn unmount_busy(directory: &Utf8Path) -> Result<(), MachineError> {
    let end = Instant::now() + BUSY;
    let mut pause = Duration::from_millis(1);
    loop {
        match unmount(directory.as_str(), UnmountFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::BUSY) if Instant::now() < end => thread::sleep(pause),
            Err(error) => return Err(io_error("cannot unmount", directory)(error.into())),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Waits until no loop device has the disk: only then is the file system's end written.
pub(crate) fn wait_for_loop(disk: &Utf8Path) -> Result<(), MachineError> {
    let end = Instant::now() + BUSY;
    while loops_of(|backing| backing == disk.as_str())?.next().is_some() {
        if Instant::now() >= end {
            return Err(io_error("cannot let go of", disk)(io::Error::other("a process still uses it")));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The loop devices whose backing file is wanted: their paths and files.
pub(crate) fn loops_of(
    wanted: impl Fn(&str) -> bool,
) -> Result<impl Iterator<Item = (Utf8PathBuf, String)>, MachineError> {
    let folder = Utf8Path::new("/sys/block");
    let entries = folder.read_dir_utf8().map_err(io_error("cannot read", folder))?;
    Ok(entries.filter_map(Result::ok).filter_map(move |entry| {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let backing = backing.trim_end().trim_end_matches(" (deleted)");
        wanted(backing).then(|| (Utf8Path::new("/dev").join(entry.file_name()), backing.to_owned()))
    }))
}

/// Mounts a disk's root file system on a directory, which is made if it is missing.
pub fn mount_root(disk: &Utf8Path, directory: &Utf8Path, access: Access) -> Result<MountGuard, MachineError> {
    let disk = disk.canonicalize_utf8().map_err(io_error("cannot find", disk))?;
    let (offset, size) = disk::root_partition(&disk)?;
    std::fs::create_dir_all(directory).map_err(io_error("cannot make", directory))?;
    let (mode, awaited) = match access {
        Access::ReadOnly => ("ro", None),
        Access::ReadWrite => ("rw,nobarrier,commit=300", Some(disk.clone())),
    };
    let options = format!("loop,offset={offset},sizelimit={size},noatime,nodev,{mode}");
    HostCommand::new("mount")
        .args(["-t", "ext4", "-o", &options, disk.as_str(), directory.as_str()])
        .run()?;
    Ok(MountGuard { directory: directory.to_owned(), disk: awaited, mounted: true })
}

/// Makes a directory appear at another place too.
pub(crate) fn bind(from: &Utf8Path, to: &Utf8Path) -> Result<MountGuard, MachineError> {
    rustix::mount::mount_bind(from.as_str(), to.as_str())
        .map_err(|error| io_error("cannot bind-mount on", to)(error.into()))?;
    Ok(MountGuard { directory: to.to_owned(), disk: None, mounted: true })
}

/// Lays `upper` over `lower` at `directory`: what is written goes to `upper`.
pub(crate) fn overlay(
    lower: &Utf8Path,
    upper: &Utf8Path,
    work: &Utf8Path,
    directory: &Utf8Path,
) -> Result<MountGuard, MachineError> {
    for folder in [upper, work, directory] {
        std::fs::create_dir_all(folder).map_err(io_error("cannot make", folder))?;
    }
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work},volatile");
    HostCommand::new("mount").args(["-t", "overlay", "-o", &options, "overlay", directory.as_str()]).run()?;
    Ok(MountGuard { directory: directory.to_owned(), disk: None, mounted: true })
}

/// Gives the blocks that a mounted file system does not use back to the file behind it.
pub(crate) fn trim(directory: &Utf8Path) -> Result<(), MachineError> {
    HostCommand::new("fstrim").arg(directory.as_str()).run().map(drop)
}
