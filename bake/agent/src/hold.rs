//! A working directory belongs to one agent at a time.
//!
//! Where machines are reached over a network, an agent may not know yet that its olbake is gone, or lost the connection
//! and comes back. The same olbake, known by a token, has the older agent give way: it ends its commands and itself, and
//! the younger goes on with the journal. Another olbake waits a little, and is refused then. Main type: [`Hold`].

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{At, OpError, Result};

/// How often a lock is tried, and a request looked for.
const TICK: Duration = Duration::from_millis(100);
/// How long another agent may take to end: its commands are asked to end first, and then made to.
const PATIENCE: Duration = Duration::from_secs(15);
const LOCK: &str = "lock";
/// A file that asks the agent which holds the directory to give way.
const REQUEST: &str = "give-way";

/// The directory is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    _lock: File,
    begun: Arc<AtomicBool>,
    cancelled: Arc<AtomicBool>,
}

impl Hold {
    /// Takes hold of a directory for an olbake that is known by a token.
    pub(crate) fn take(work_dir: &Utf8Path, token: &str) -> Result<Self> {
        let (path, request) = (work_dir.join(LOCK), work_dir.join(REQUEST));
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut lock = opened.at("open", &path)?;
        let began = Instant::now();
        while !try_lock(&lock).at("lock", &path)? {
            let holder = read(&mut lock).at("read", &path)?;
            let (process, its_token) = holder.trim_end().split_once(' ').unwrap_or_default();
            let waited = began.elapsed();
            if its_token == token {
                File::create(&request).at("create", &request)?;
                if waited >= PATIENCE {
                    kill(process);
                }
            } else if waited >= PATIENCE {
                return Err(OpError::wrong(format!(
                    "another olbake works on this machine: its agent is the process {process}"
                )));
            }
            std::thread::sleep(TICK);
        }
        drop(std::fs::remove_file(&request));
        let own = format!("{} {token}\n", std::process::id());
        let written =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(own.as_bytes()));
        written.at("write", &path)?;
        let hold = Self { _lock: lock, begun: Arc::default(), cancelled: Arc::default() };
        hold.listen(request);
        Ok(hold)
    }

    /// From now on a run goes on: a younger agent cancels it by the flag that is given. Before, it ends the process.
    pub(crate) fn begin(&self) -> Arc<AtomicBool> {
        self.begun.store(true, Ordering::SeqCst);
        Arc::clone(&self.cancelled)
    }

    fn listen(&self, request: Utf8PathBuf) {
        let (begun, cancelled) = (Arc::clone(&self.begun), Arc::clone(&self.cancelled));
        std::thread::spawn(move || {
            while !request.exists() {
                std::thread::sleep(TICK);
            }
            if !begun.load(Ordering::SeqCst) {
                std::process::exit(crate::session::Ending::Closed.code());
            }
            cancelled.store(true, Ordering::SeqCst);
        });
    }
}

/// Ends an agent that does not end by itself: it hangs where it writes to a connection that is gone.
fn kill(process: &str) {
    let pid = process.parse().ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // Fails only where it is gone.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
}

fn try_lock(file: &File) -> std::io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read(file: &mut File) -> std::io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.take(4096).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_olbake_takes_over_and_the_older_agent_gives_way() {
        let directory = tempfile::tempdir().unwrap();
        let work_dir = Utf8Path::from_path(directory.path()).unwrap().to_owned();
        let first = Hold::take(&work_dir, "token").unwrap();
        let cancelled = first.begin();
        let younger = std::thread::spawn(move || Hold::take(&work_dir, "token"));
        while !cancelled.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
        }
        assert!(!younger.is_finished(), "it waits until the directory is let go");
        drop(first);
        let second = younger.join().unwrap().unwrap();
        assert!(!second.cancelled.load(Ordering::SeqCst), "the request was the older agent's");
    }
}
