//! Commands in a running container. Main type: [`Executed`].

use std::io::Read;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use olbake_engine::machine::{MachineError, Substrate};
use rustix::process::Signal;
use serde::Serialize;

use super::instance::{State, running};
use super::keeper::{signal, tree_of};
use super::place::Place;
use super::{CloudError, Id};
use crate::container::{enter, leader_below};
use crate::host::{HostCommand, host_error, wait_for};

/// How much of what a command writes is kept: the end.
const KEPT: usize = 64 * 1024;
/// How long systemd may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);
/// How long output may still come after a command's end, from what it left behind.
const REST: Duration = Duration::from_secs(1);

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Executed {
    /// How it ended.
    pub outcome: Outcome,
    /// The end of what it wrote to its standard output, at most 64 KiB.
    pub stdout: String,
    /// The end of what it wrote to its standard error, at most 64 KiB.
    pub stderr: String,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal: the instance stopped, for example.
    Killed,
    /// It was ended because it took too long.
    TimedOut,
}

impl Executed {
    /// Whether it ended with status 0.
    pub fn succeeded(&self) -> bool {
        self.outcome == Outcome::Exited(0)
    }
}

/// Runs a command in an instance as root and waits for it.
pub(super) fn run(place: &Place, id: &Id, argv: &[String], time: Duration) -> Result<Executed, CloudError> {
    let (spec, process) = running(place, id)?;
    if spec.substrate == Substrate::Vm {
        return super::vm::run(place, id, argv, time);
    }
    let not_yet = || CloudError::NotRunning { id: id.clone(), state: State::Booting };
    let leader = leader_below(process).ok_or_else(not_yet)?;
    Ok(finish(enter(leader, argv), time)?)
}

/// How far a container is, by its systemd's account.
pub(super) fn state(process: u32) -> Result<State, CloudError> {
    let Some(leader) = leader_below(process) else { return Ok(State::Booting) };
    let said = finish(enter(leader, ["systemctl", "is-system-running"]), ANSWER)?;
    Ok(match said.stdout.trim() {
        "running" => State::Running,
        "degraded" | "maintenance" => State::Degraded,
        "stopping" => State::Stopping,
        _ => State::Booting,
    })
}

/// Tells a container's systemd to stop everything.
pub(super) fn power_off(process: u32) -> Result<(), CloudError> {
    if let Some(leader) = leader_below(process) {
        // How it went is seen by whether the container ends.
        finish(enter(leader, ["systemctl", "poweroff", "--no-wall", "--no-block"]), ANSWER)?;
    }
    Ok(())
}

/// Runs a command to its end, or ends it.
fn finish(command: HostCommand, time: Duration) -> Result<Executed, MachineError> {
    let mut child = command.spawn(Stdio::null(), Stdio::piped(), Stdio::piped())?;
    let stdout = collect(child.stdout.take().expect("standard output was asked for"));
    let stderr = collect(child.stderr.take().expect("standard error was asked for"));
    let no_wait = |error| host_error(format!("cannot wait for a command in an instance: {error}"));
    let outcome = match wait_for(&mut child, time).map_err(no_wait)? {
        Some(status) => status.code().map_or(Outcome::Killed, Outcome::Exited),
        None => {
            tree_of(child.id()).into_iter().for_each(|process| signal(process, Signal::KILL));
            child.wait().map_err(no_wait)?;
            Outcome::TimedOut
        }
    };
    let text = |output: mpsc::Receiver<Vec<u8>>| {
        let mut kept = Vec::new();
        while let Ok(piece) = output.recv_timeout(REST) {
            kept.extend(piece);
            let surplus = kept.len().saturating_sub(KEPT);
            kept.drain(..surplus);
        }
        String::from_utf8_lossy(&kept).into_owned()
    };
    Ok(Executed { outcome, stdout: text(stdout), stderr: text(stderr) })
}

/// Reads a pipe as it is written, in a thread that ends with the pipe: something left running may hold it open.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (pieces, output) = mpsc::channel();
    thread::spawn(move || {
        let mut piece = [0; 8192];
        while let Ok(count @ 1..) = pipe.read(&mut piece) {
            if pieces.send(piece[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, time: Duration) -> Executed {
        finish(HostCommand::new("sh").args(["-c", script]), time).unwrap()
    }

    #[test]
    fn status_and_output_are_told() {
        let done = shell("echo out; echo err >&2; exit 3", Duration::from_secs(60));
        assert_eq!(
            done,
            Executed { outcome: Outcome::Exited(3), stdout: "out\n".into(), stderr: "err\n".into() }
        );
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let done = shell("echo begun; sleep 1000 | sleep 1000", Duration::from_millis(300));
        assert_eq!((done.outcome, done.stdout.as_str()), (Outcome::TimedOut, "begun\n"));
    }

    #[test]
    fn only_the_end_of_much_output_is_kept() {
        let done = shell("seq 100000", Duration::from_secs(60));
        assert!(done.stdout.len() <= KEPT && done.stdout.ends_with("\n100000\n"));
    }
}
