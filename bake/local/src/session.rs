//! Agents that were started, as streams; and what machines write to their consoles.
//!
//! Main types: [`Sessions`], [`Console`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use camino::Utf8PathBuf;
use olbake_engine::machine::{AgentStream, MachineError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{ChildStdin, ChildStdout};

use crate::host::{HostCommand, host_error, io_error, kill_from_below, wait_for};

/// How long an agent whose stream was dropped may take to end by itself.
const GRACE: Duration = Duration::from_millis(500);
/// How long what it started may take to end with it.
const LAST_GRACE: Duration = Duration::from_secs(5);
/// How much of a console is shown.
const CONSOLE_TAIL: u64 = 16 * 1024;

/// The agents that were started on a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions(Vec<Arc<Session>>);

#[derive(Debug, Default)]
struct Session {
    ended: Mutex<bool>,
    bell: Condvar,
}

impl Sessions {
    /// Starts an agent with a command; must be called within the runtime.
    pub(crate) fn start(
        &mut self,
        command: HostCommand,
        console: &Console,
    ) -> Result<AgentStream, MachineError> {
        let errors = console.append()?;
        let mut child = command.spawn(Stdio::piped(), Stdio::piped(), Stdio::from(errors))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let session = Arc::new(Session::default());
        self.0.retain(|session| !session.has_ended());
        self.0.push(Arc::clone(&session));
        let end = Arc::new(SessionEnd { child: Some(child), session });
        let pipe = |error: io::Error| host_error(format!("cannot use the agent's pipes: {error}"));
        let stdin = ChildStdin::from_std(stdin.expect("standard input was asked for")).map_err(pipe)?;
        let stdout = ChildStdout::from_std(stdout.expect("standard output was asked for")).map_err(pipe)?;
        Ok(AgentStream { input: Box::new(Held::new(stdin, &end)), output: Box::new(Held::new(stdout, &end)) })
    }

    /// Waits until agents whose streams were dropped have ended.
    pub(crate) fn wait(&self) {
        for session in &self.0 {
            let ended = session.ended.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = session.bell.wait_timeout_while(ended, (GRACE + LAST_GRACE) * 2, |ended| !*ended);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Session {
    fn has_ended(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }
}

/// Ends the agent once both halves of its stream are gone.
struct SessionEnd {
    child: Option<Child>,
    session: Arc<Session>,
}

impl Drop for SessionEnd {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let session = Arc::clone(&self.session);
        thread::spawn(move || {
            if !matches!(wait_for(&mut child, GRACE), Ok(Some(_))) {
                kill_from_below(&mut child, LAST_GRACE);
            }
            session.end();
        });
    }
}

/// Half of an agent's stream, with what is to happen once both are gone. The half closes first.
pub(crate) struct Held<T, E> {
    half: T,
    _end: Arc<E>,
}

impl<T, E> Held<T, E> {
    /// Holds a half.
    pub(crate) fn new(half: T, end: &Arc<E>) -> Self {
        Self { half, _end: Arc::clone(end) }
    }
}

impl<T: AsyncRead + Unpin, E> AsyncRead for Held<T, E> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin, E> AsyncWrite for Held<T, E> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.half).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_flush(cx)
    }

    /// Only dropping a half closes it: a VM's socket is there for its next session too.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_flush(cx)
    }
}

/// The file that a machine's console is kept in.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    path: Utf8PathBuf,
}

impl Console {
    /// A console kept in a file.
    pub(crate) fn new(path: Utf8PathBuf) -> Self {
        Self { path }
    }

    /// The file, to write more to.
    pub(crate) fn append(&self) -> Result<File, MachineError> {
        let file = OpenOptions::new().create(true).append(true).open(&self.path);
        file.map_err(io_error("cannot open", &self.path))
    }

    /// The end of it, as plain text.
    pub(crate) fn tail(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_TAIL)))?;
            file.take(CONSOLE_TAIL).read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => plain(&String::from_utf8_lossy(&bytes)),
            Err(error) => format!("(the console's log `{}` cannot be read: {error})", self.path),
        }
    }
}

/// A terminal's text without what only a terminal understands.
fn plain(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => skip_escape(&mut characters),
            '\n' | '\t' => result.push(character),
            character if character.is_control() => {}
            character => result.push(character),
        }
    }
    result
}

fn skip_escape(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match characters.next() {
        Some('[') => drop(characters.find(|c| ('@'..='~').contains(c))),
        Some(']') => drop(characters.find(|c| matches!(c, '\x07' | '\\'))),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_left_out() {
        assert_eq!(plain("[\x1b[0;32m  OK  \x1b[0m] Started\r\n\x1b]0;title\x07x"), "[  OK  ] Started\nx");
    }
}
