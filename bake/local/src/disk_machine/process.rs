//! Commands of the host's that run beside machines, and end with this process. Main type: [`HostProcess`].

use std::fs::OpenOptions;
use std::process::Stdio;

use camino::Utf8Path;
use olbake_engine::machine::MachineError;

use rustix::process::Signal;

use crate::cloud::keeper::{children, signal};
use crate::host::{HostCommand, Owned, host_error, io_error};

/// A command that goes on. Dropping it ends it and all that it started.
#[derive(Debug)]
pub struct HostProcess(Owned);

impl HostProcess {
    /// Starts one in a folder; what it writes is added to the file `log` there.
    pub fn start<S: AsRef<str>>(
        program: &'static str,
        arguments: impl IntoIterator<Item = S>,
        folder: &Utf8Path,
        log: &str,
    ) -> Result<Self, MachineError> {
        // A process that changes its user would not end with its starter by itself.
        let command = HostCommand::new("unshare")
            .args(["--pid", "--fork", "--kill-child=KILL", "--", program])
            .args(arguments.into_iter().map(|argument| argument.as_ref().to_owned()))
            .folder(folder);
        let path = folder.join(log);
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            file.map_err(io_error("cannot open", &path))
        };
        command.spawn(Stdio::null(), open()?.into(), open()?.into()).map(|child| Self(Owned(child)))
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.0.0.try_wait(), Ok(None))
    }

    /// Sends it the signal HUP.
    pub fn hang_up(&self) -> Result<(), MachineError> {
        let first = children(self.0.0.id()).first().copied();
        first.into_iter().for_each(|process| signal(process, Signal::HUP));
        first.map(drop).ok_or_else(|| host_error("a process that was to be told something does not run"))
    }
}
