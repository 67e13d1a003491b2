//! Sessions with agents in a VM: how they are begun and ended from outside, and the units inside that obey.
//!
//! Two virtio ports, each connected once for the VM's whole life. By the one olbake says which session is to run:
//! the VM ends the agent that runs, whatever it does, and only then starts the next, whose number it writes to the
//! other before the agent's first byte. Nothing of a session that was given up reaches the next: what its agent
//! wrote comes before the number, and what was meant for it is passed over inside, up to the line that olbake
//! writes once it has seen the number. Main type: [`GuestSessions`].

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::Duration;

use camino::Utf8Path;
use olbake_engine::machine::{AgentStream, MachineError};
use tokio::io::AsyncWriteExt;

use crate::host::io_error;
use crate::port::{ENDED, MARKER, Port};
use crate::session::Held;

/// The sockets that QEMU has for the two ports.
pub(crate) const STREAM: &str = "agent";
pub(crate) const CONTROL: &str = "control";
/// The names of the ports, inside.
pub(crate) const STREAM_PORT: &str = "org.olbake.agent";
pub(crate) const CONTROL_PORT: &str = "org.olbake.control";

/// What olbake says by the control port where no session is to run.
const NONE: &str = "none";
/// How often it is looked whether the stream of the session before is gone.
const LOOK: Duration = Duration::from_millis(10);

/// The sessions of one VM.
pub(crate) struct GuestSessions {
    stream: UnixStream,
    control: Arc<UnixStream>,
    /// The number of the newest session.
    number: u64,
    /// Held by the stream of the newest session.
    running: Weak<SessionEnd>,
}

impl GuestSessions {
    /// Connects to the ports of a VM whose sockets are in a folder.
    pub(crate) fn connect(work_dir: &Utf8Path) -> Result<Self, MachineError> {
        let (stream, control) = (connect(work_dir, STREAM)?, Arc::new(connect(work_dir, CONTROL)?));
        Ok(Self { stream, control, number: 0, running: Weak::new() })
    }

    /// Ends the session that runs and begins another, if the VM does so in time.
    pub(crate) async fn begin(&mut self, time: Duration) -> io::Result<AgentStream> {
        let late = |_| {
            let message = format!("it did not begin a session in {} seconds", time.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        };
        tokio::time::timeout(time, self.begin_untimed()).await.unwrap_or_else(late)
    }

    async fn begin_untimed(&mut self) -> io::Result<AgentStream> {
        // Two readers would take each other's bytes.
        while self.running.strong_count() > 0 {
            tokio::time::sleep(LOOK).await;
        }
        self.number += 1;
        let number = self.number;
        say(&self.control, &number.to_string())?;
        let end = Arc::new(SessionEnd { control: Arc::clone(&self.control) });
        self.running = Arc::downgrade(&end);
        let mut port = Port::new(tokio::net::UnixStream::from_std(self.stream.try_clone()?)?);
        port.begin(number).await?;
        let mut input = tokio::net::UnixStream::from_std(self.stream.try_clone()?)?;
        input.write_all(format!("\n{}\n", greeting(&number.to_string())).as_bytes()).await?;
        Ok(AgentStream { input: Box::new(Held::new(input, &end)), output: Box::new(Held::new(port, &end)) })
    }
}

/// Connects to a socket of a VM. By way of the open folder, because a socket's path must be short.
pub(crate) fn connect(work_dir: &Utf8Path, socket: &str) -> Result<UnixStream, MachineError> {
    let path = work_dir.join(socket);
    let connected = || {
        let folder = File::open(work_dir)?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{socket}", folder.as_raw_fd()))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    connected().map_err(io_error("cannot connect to", &path))
}

/// Says by the control port which session is to run. It is a few bytes, which the socket has room for.
fn say(mut control: &UnixStream, what: &str) -> io::Result<()> {
    control.write_all(format!("{what}\n").as_bytes())
}

/// Ends the session in the VM once both halves of its stream are gone.
struct SessionEnd {
    control: Arc<UnixStream>,
}

impl Drop for SessionEnd {
    fn drop(&mut self) {
        // Fails where the VM is gone. The next session would end this one too.
        say(&self.control, NONE).ok();
    }
}

/// The line before the first byte that is for the agent.
fn greeting(number: &str) -> String {
    format!("olbake session {number}")
}

/// What is inside: file names below a folder, and units. `folder` is absolute, and has the agent's executable.
pub(crate) fn scripts(folder: &str) -> [(&'static str, String); 2] {
    [("sessions", control_script()), ("session", session_script(folder))]
}

/// The units, by name.
pub(crate) fn units(folder: &str, work_dir: &str) -> [(&'static str, String); 2] {
    let sessions = format!(
        "[Unit]\nDescription=olbake starts and ends agents\nAfter=multi-user.target\nStartLimitIntervalSec=0\n\n\
         [Service]\nRestart=always\nRestartSec=100ms\nExecStart=/bin/sh {folder}/sessions\n"
    );
    // An agent that is to end has nothing to lose: its journal is for the next one.
    let agent = format!(
        "[Unit]\nDescription=olbake agent\nStartLimitIntervalSec=0\n\n[Service]\nTimeoutStopSec=2s\n\
         ExecStartPre=/bin/mkdir -p -m 0700 {work_dir}\n\
         ExecStart=/bin/sh {folder}/session run\nExecStopPost=/bin/sh {folder}/session ended\n"
    );
    [("olbake-sessions.service", sessions), ("olbake-agent.service", agent)]
}

/// The port reads as ended while olbake has not connected yet.
fn control_script() -> String {
    format!(
        "{}\n{}\nexec </dev/virtio-ports/{CONTROL_PORT}\n\
         while :; do\n\
         \x20 read -r number || {{ sleep 0.1; continue; }}\n\
         \x20 systemctl stop olbake-agent.service\n\
         \x20 test \"$number\" = {NONE} && continue\n\
         \x20 echo \"$number\" >/run/olbake-session\n\
         \x20 systemctl start olbake-agent.service\n\
         done\n",
        wait_for(CONTROL_PORT),
        wait_for(STREAM_PORT),
    )
}

/// Shell that waits for a port of the VM. What is written to its name before udev has made it is a file of its own, and
/// then there is no port.
pub(crate) fn wait_for(port: &str) -> String {
    format!("until test -c /dev/virtio-ports/{port}; do sleep 0.1; done")
}

/// The unit that says by a port how the system came up, when it has.
pub(crate) fn ready_unit(port: &str) -> String {
    format!(
        "[Unit]\nDescription=olbake hears that the system is up\n\n[Service]\n\
         ExecStart=/bin/sh -c '{}; systemctl is-system-running --wait >/dev/virtio-ports/{port}'\n",
        wait_for(port)
    )
}

fn session_script(folder: &str) -> String {
    let marker: String = MARKER.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!(
        "exec <>/dev/virtio-ports/{STREAM_PORT} >&0\n\
         test \"$1\" = run || {{ printf '{marker}{ENDED}\\n'; exit; }}\n\
         read -r number </run/olbake-session\n\
         printf '{marker}%s\\n' \"$number\"\n\
         while read -r line; do\n\
         \x20 test \"$line\" = \"{}\" && exec {folder}/olbake-agent\n\
         done\n",
        greeting("$number")
    )
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::host::HostCommand;

    /// A folder with the sockets, and what QEMU would have of them once something connects.
    fn sockets() -> (tempfile::TempDir, GuestSessions, UnixStream, BufReader<UnixStream>) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap();
        let [stream, control] =
            [STREAM, CONTROL].map(|socket| UnixListener::bind(path.join(socket)).unwrap());
        let sessions = GuestSessions::connect(path).unwrap();
        let [stream, control] = [stream, control].map(|socket| socket.accept().unwrap().0);
        (folder, sessions, stream, BufReader::new(control))
    }

    #[tokio::test]
    async fn a_guest_that_does_not_answer_is_given_up() {
        let (_folder, mut sessions, _stream, _control) = sockets();
        let began = sessions.begin(Duration::from_millis(20)).await;
        assert_eq!(began.err().unwrap().kind(), io::ErrorKind::TimedOut);
        assert_eq!(sessions.running.strong_count(), 0, "the next one need not wait for it");
    }

    #[tokio::test]
    async fn a_session_is_ended_before_the_next_begins() {
        let (_folder, mut sessions, mut stream, mut control) = sockets();
        let mut said = move || {
            let mut line = String::new();
            control.read_line(&mut line).unwrap();
            line
        };
        stream.write_all(&[MARKER.as_slice(), b"1\nhello"].concat()).unwrap();
        let patience = Duration::from_secs(60);
        let one = sessions.begin(patience).await.unwrap();
        assert_eq!(said(), "1\n");
        let AgentStream { input, output } = one;
        drop(input);
        let mut begin = std::pin::pin!(sessions.begin(patience));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut begin).await;
        assert!(early.is_err(), "half of the first stream is still there");
        drop(output);
        stream.write_all(&[b"rest of one", MARKER.as_slice(), b"2\n"].concat()).unwrap();
        let _two = begin.await.unwrap();
        assert_eq!([said(), said()], ["none\n", "2\n"]);
        let mut read = vec![0; b"\nolbake session 1\n\nolbake session 2\n".len()];
        stream.read_exact(&mut read).unwrap();
        assert_eq!(read, b"\nolbake session 1\n\nolbake session 2\n");
    }

    /// The marker goes through the shell's quoting.
    #[test]
    fn the_script_writes_the_marker() {
        let script = session_script("/nowhere");
        let printf = script.lines().find(|line| line.starts_with("printf")).unwrap();
        let written = HostCommand::new("sh").args(["-c", &format!("number=7; {printf}")]).run().unwrap();
        assert_eq!(written, [MARKER.as_slice(), b"7\n"].concat());
    }

    /// Bytes that were meant for an older session are passed over, whatever they are.
    #[test]
    fn the_script_passes_over_what_is_not_its_sessions() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("number"), "7\n").unwrap();
        std::fs::write(
            path("port"),
            b"\x00\xff\xfe half a frame \\\n\nolbake session 6\nx\nolbake session 7\nfor it",
        )
        .unwrap();
        // Files take the places of the port and the number, `cat` that of the agent.
        let script = session_script("/nowhere")
            .replace("/run/olbake-session", &path("number"))
            .replace(&format!("<>/dev/virtio-ports/{STREAM_PORT} >&0"), &format!("<{}", path("port")))
            .replace("/nowhere/olbake-agent", "cat");
        let written = HostCommand::new("sh").args(["-c", &script, "session", "run"]).run().unwrap();
        assert_eq!(written, [MARKER.as_slice(), b"7\nfor it"].concat());
    }
}
