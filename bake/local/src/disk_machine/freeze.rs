//! Machines' file systems that hold still for a while.
//!
//! A frozen file system that loses its last mount stays frozen for ever. So the one who froze it is a process of its
//! own, which thaws it when told to or when whoever started it is gone: it must not end with its starter.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use camino::Utf8Path;
use olbake_engine::machine::MachineError;

use crate::host::{HostCommand, io_error};

const SCRIPT: &str =
    "fsfreeze --freeze \"$0\"; echo frozen; read -r _ || :; fsfreeze --unfreeze \"$0\"; echo thawed";

/// Does something while a file system, mounted on a directory as a process sees it, is frozen.
pub(super) fn frozen<T>(
    process: u32,
    directory: &Utf8Path,
    work: impl FnOnce() -> T,
) -> Result<T, MachineError> {
    let failed = |problem: String| io_error("cannot freeze", directory)(std::io::Error::other(problem));
    let mut holder = HostCommand::new("setsid")
        .args(["--fork", "nsenter", "-t", &process.to_string(), "-m", "--"])
        .args(["sh", "-ec", SCRIPT, directory.as_str()])
        .spawn(Stdio::piped(), Stdio::piped(), Stdio::piped())?;
    let input = holder.stdin.take().expect("standard input was asked for");
    let mut output = BufReader::new(holder.stdout.take().expect("standard output was asked for"));
    let mut errors = holder.stderr.take().expect("standard error was asked for");
    holder.wait().map_err(|error| failed(error.to_string()))?;
    let mut line = String::new();
    output.read_line(&mut line).map_err(|error| failed(error.to_string()))?;
    if line != "frozen\n" {
        let mut problem = String::new();
        errors.read_to_string(&mut problem).map_err(|error| failed(error.to_string()))?;
        return Err(failed(problem.trim().to_owned()));
    }
    let result = work();
    drop(input);
    let mut rest = String::new();
    output.read_to_string(&mut rest).map_err(|error| failed(error.to_string()))?;
    if rest == "thawed\n" { Ok(result) } else { Err(failed("it did not thaw".to_owned())) }
}
