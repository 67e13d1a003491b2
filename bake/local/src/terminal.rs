//! A shell on a VM, on the terminal that olbake runs on.
//!
//! The VM has a console of its own for it. A shell begins when its terminal's size is written there, and says with
//! which status it ended.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::thread;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Comes before the status of a shell that ended, as a title that terminals do not show; a bell ends it.
const END: &[u8] = b"\x1b]olbake-shell-ended;";

/// The unit that gives shells.
pub(crate) fn unit() -> String {
    "[Unit]\nDescription=olbake shell\nStartLimitIntervalSec=0\n\n\
     [Service]\nRestart=always\nRestartSec=100ms\nWorkingDirectory=/root\nEnvironment=HOME=/root\n\
     StandardInput=tty-force\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/hvc0\nTTYReset=yes\n\
     ExecStart=/bin/sh -c 'stty -echo; read -r rows columns term; stty sane rows \"$rows\" cols \"$columns\"; \
     TERM=\"$term\" bash -l; printf \"\\\\033]olbake-shell-ended;%%d\\\\007\" $?'\n"
        .to_owned()
}

/// Joins the terminal and the VM's console until the shell there ends.
pub(crate) fn attach(stream: UnixStream) -> io::Result<ExitStatus> {
    stream.set_nonblocking(false)?;
    let _raw = Raw::enter();
    let (rows, columns) = size();
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
    let mut input = stream.try_clone()?;
    writeln!(input, "{rows} {columns} {term}")?;
    // It ends with the process: nothing can end a read from a terminal.
    thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut input));
    show(stream, &mut io::stdout().lock())
}

/// Rows and columns of the terminal; the usual ones where it does not know.
fn size() -> (u16, u16) {
    match tcgetwinsize(io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}

/// Shows what the shell writes until it says that it ended.
fn show(mut from: impl Read, to: &mut impl Write) -> io::Result<ExitStatus> {
    let mut held = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the VM stopped"));
        }
        held.extend_from_slice(&piece[..count]);
        let end = held.windows(END.len()).position(|window| window == END);
        let shown = end.unwrap_or_else(|| held.len() - begun(&held));
        to.write_all(&held[..shown])?;
        to.flush()?;
        held.drain(..shown);
        if end.is_some()
            && let Some(length) = held.iter().position(|byte| *byte == 0x07)
        {
            let status = String::from_utf8_lossy(&held[END.len()..length]).parse().unwrap_or(1);
            return Ok(ExitStatus::from_raw(status << 8));
        }
    }
}

/// How many of the last bytes may be the beginning of the end.
fn begun(bytes: &[u8]) -> usize {
    (0..END.len()).rev().find(|length| bytes.ends_with(&END[..*length])).unwrap_or(0)
}

/// The terminal as the shell needs it, given back when this is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        // Not a terminal: then there is nothing to change.
        let Ok(before) = tcgetattr(io::stdin()) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let set = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
        Self(set.is_ok().then_some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // The terminal is gone: then nobody needs it back.
            tcsetattr(io::stdin(), OptionalActions::Drain, before).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_shown_up_to_its_end() {
        let stream = b"$ exit\r\nlogout\r\n\x1b]0;title\x07\x1b]olbake-shell-ended;3\x07next".as_slice();
        let mut shown = Vec::new();
        let status = show(stream.chain(io::empty()), &mut shown).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(shown, b"$ exit\r\nlogout\r\n\x1b]0;title\x07");
    }
}
