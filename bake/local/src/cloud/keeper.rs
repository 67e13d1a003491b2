//! Processes that outlive the command which started them: one keeper for each instance, balancer and resolver.
//!
//! A keeper is a shell script in a thing's folder that becomes `unshare`: what it keeps lives in a process
//! namespace (and, for machines, mount and network namespaces) of its own, so ending the keeper ends everything.
//! While it lives it holds a lock on a file there, which is how it is known to live: no number is trusted that the
//! lock does not vouch for. Until it has that lock it holds its starter's, so that no second one is started when
//! the starter is killed. Main type: [`Keeper`].

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::MachineError;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::CloudError;
use super::place::{Lock, remove, write_whole};
use crate::host::{HostCommand, io_error};
use crate::mount;
use crate::session::Console;
use crate::sweep::lives;

/// How long a keeper may take to set up what it keeps.
const START: Duration = Duration::from_secs(60);
/// How long ended processes may take to be gone.
const END: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// Its files.
const SCRIPT: &str = "keeper.sh";
const LOCK: &str = "keeper.lock";
const NUMBER: &str = "keeper.pid";
const READY: &str = "ready";
const FAILED: &str = "failed";
const CONSOLE: &str = "console.log";
/// A console is cut to its end when a thing is started and it has become longer than this.
const LONG_CONSOLE: u64 = 8 << 20;

/// What every keeper's script begins with. It runs itself again for each stage, with the stage's name.
const HEAD: &str = r#"#!/bin/sh
# Written by olbake. Holds what it starts until it is ended.
set -eu
trap 'test $? = 0 || : >failed' EXIT
case ${1-begin} in
begin)
    exec 9>>keeper.lock
    flock -w 10 9
    echo $$ >keeper.pid
    exec </dev/null
"#;

/// A process that keeps something going, described by the folder it works in.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    folder: Utf8PathBuf,
}

impl Keeper {
    /// The keeper of a folder, running or not.
    pub(super) fn of(folder: Utf8PathBuf) -> Self {
        Self { folder }
    }

    /// Starts it with the stages of its script after the lock is taken, and waits until the script makes a file
    /// `ready`. The starter's lock is handed on. `false`: it ended before that.
    pub(super) fn start(&self, stages: &str, prefix: &[String], lock: &Lock) -> Result<bool, CloudError> {
        let Self { folder } = self;
        for name in [READY, FAILED] {
            remove(&folder.join(name))?;
        }
        self.cut_console()?;
        let script = folder.join(SCRIPT);
        write_whole(&script, format!("{HEAD}{stages}esac\n").as_bytes())?;
        let console = self.console();
        // In the namespace that this process was started in, from which it may have gone its own way.
        HostCommand::new("setsid")
            .arg("--fork")
            .args(mount::way_outside())
            .args(prefix)
            .args(["sh", "-c", "cd \"$0\" && exec sh ./keeper.sh", folder.as_str()])
            .spawn(Stdio::from(lock.share()?), console.append()?.into(), console.append()?.into())?
            .wait()
            .map_err(io_error("cannot start", &script))?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&self) -> Result<bool, CloudError> {
        let end = Instant::now() + START;
        let mut begun = false;
        while Instant::now() < end {
            let lives = self.is_alive()?;
            if self.folder.join(READY).exists() {
                return Ok(true);
            }
            if self.folder.join(FAILED).exists() || (begun && !lives) {
                return Ok(false);
            }
            begun |= lives;
            thread::sleep(PAUSE);
        }
        Ok(false)
    }

    /// Whether it lives.
    pub(super) fn is_alive(&self) -> Result<bool, MachineError> {
        let path = self.folder.join(LOCK);
        let Ok(file) = OpenOptions::new().read(true).open(&path) else { return Ok(false) };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(io_error("cannot lock", &path)(error.into())),
        }
    }

    /// Whether it lives and is done with setting up.
    pub(super) fn is_ready(&self) -> Result<bool, MachineError> {
        Ok(self.is_alive()? && self.folder.join(READY).exists())
    }

    /// Its number, if it lives.
    pub(super) fn process(&self) -> Result<Option<u32>, MachineError> {
        if !self.is_alive()? {
            return Ok(None);
        }
        let number = fs::read_to_string(self.folder.join(NUMBER)).ok();
        let number = number.and_then(|text| text.trim().parse().ok());
        Ok(number.filter(|number: &u32| self.is_it(*number)))
    }

    /// Whether a process has the lock's file open: its number may be an old one.
    fn is_it(&self, number: u32) -> bool {
        let opened = fs::read_link(format!("/proc/{number}/fd/9")).ok();
        opened.is_some_and(|path| path == self.folder.join(LOCK).as_std_path())
    }

    /// Ends it and everything in it, and waits until that is gone.
    pub(super) fn kill(&self) -> Result<(), CloudError> {
        let end = Instant::now() + END;
        let mut known = Vec::new();
        loop {
            if let Some(number) = self.process()? {
                known.extend(tree_of(number));
                signal(number, Signal::KILL);
            }
            known.retain(|number| lives(*number));
            if known.is_empty() && !self.is_alive()? {
                return Ok(());
            }
            if Instant::now() >= end {
                let problem = std::io::Error::other("a process of it does not end");
                return Err(io_error("cannot end what runs in", &self.folder)(problem).into());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits for its end; whether it came.
    pub(super) fn wait(&self, time: Duration) -> Result<bool, MachineError> {
        let end = Instant::now() + time;
        while self.is_alive()? {
            if Instant::now() >= end {
                return Ok(false);
            }
            thread::sleep(PAUSE);
        }
        Ok(true)
    }

    /// Tells its first process in the process namespace something.
    pub(super) fn tell(&self, which: Signal) -> Result<(), MachineError> {
        if let Some(first) = self.process()?.and_then(|number| children(number).first().copied()) {
            signal(first, which);
        }
        Ok(())
    }

    /// What it and what it keeps wrote.
    pub(super) fn console(&self) -> Console {
        Console::new(self.folder.join(CONSOLE))
    }

    fn cut_console(&self) -> Result<(), CloudError> {
        let path = self.folder.join(CONSOLE);
        let Ok(mut file) = OpenOptions::new().read(true).open(&path) else { return Ok(()) };
        let size = file.metadata().map_err(io_error("cannot read", &path))?.len();
        if size > LONG_CONSOLE {
            let mut kept = Vec::new();
            file.seek(SeekFrom::Start(size - LONG_CONSOLE / 8)).map_err(io_error("cannot read", &path))?;
            file.read_to_end(&mut kept).map_err(io_error("cannot read", &path))?;
            write_whole(&path, &kept)?;
        }
        Ok(())
    }
}

/// Seconds since the epoch at which a process was started, by the kernel's account.
pub(super) fn started_at(process: u32) -> Option<u64> {
    // The second field is a name in brackets; the 22nd the time since boot in ticks.
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some(boot + ticks / rustix::param::clock_ticks_per_second())
}

/// Processes at work in a folder or below it, with what they are called.
pub(super) fn at_work_in(folder: &Utf8Path) -> Vec<(u32, Utf8PathBuf, String)> {
    let entries = Utf8Path::new("/proc").read_dir_utf8().into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().parse::<u32>().ok());
    numbers
        .filter_map(|number| {
            let place = Utf8Path::new("/proc").join(number.to_string()).join("cwd").read_link_utf8().ok()?;
            let place = Utf8PathBuf::from(place.as_str().trim_end_matches(" (deleted)"));
            let name = fs::read_to_string(format!("/proc/{number}/comm")).ok()?;
            place.starts_with(folder).then(|| (number, place, name.trim().to_owned()))
        })
        .collect()
}

/// Ends a process; it may have ended.
pub(crate) fn signal(number: u32, which: Signal) {
    if let Some(process) = i32::try_from(number).ok().and_then(Pid::from_raw) {
        kill_process(process, which).ok();
    }
}

/// A process and all below it.
pub(super) fn tree_of(process: u32) -> Vec<u32> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let below = children(*process);
        found.extend(below);
        next += 1;
    }
    found
}

pub(crate) fn children(process: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// A word of a shell's.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Words of a shell's.
pub(crate) fn words<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    words.into_iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}
