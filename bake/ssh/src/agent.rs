//! The agent on a host: what one command there does to become it. Main types: [`Agent`], [`Started`].
//!
//! The command is one line for the login shell, whichever it is, and runs a small script for `/bin/sh`, by sudo where the
//! user is not root. The script answers with a line of its own:
//!
//! | line | then |
//! |---|---|
//! | `olbake have BOOT` | the agent speaks next, [`olbake_core::protocol`] |
//! | `olbake want BOOT` | it reads the agent's bytes, checks their digest, keeps them, and says `olbake have` |
//!
//! Whatever a login shell writes before is passed over. An executable is written whole, checked and then named, so that
//! under its digest there is never another.

use std::sync::Arc;

use camino::Utf8Path;
use olbake_core::Digest;
use olbake_engine::machine::AgentStream;
use openssh::{Child, Session, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;

use crate::connection::{Connection, chain, io_error};
use crate::error::SshError;

/// Where the host keeps agents; the second where the first cannot be written.
const PLACES: &str = "/var/cache/olbake/agent /root/.cache/olbake/agent";
/// How much a login shell may write before the script does.
const NOISE: usize = 64 * 1024;
/// How much is kept of what is written beside the stream.
const TAIL: usize = 8 * 1024;
/// How long the last words may take to come.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// The agent's executable.
#[derive(Clone, Debug)]
pub struct Agent {
    bytes: Arc<[u8]>,
    digest: Digest,
}

/// An agent that was started.
pub struct Started {
    /// Its stream. Dropping it ends the agent.
    pub stream: AgentStream,
    /// The host's boot: another value means that it was rebooted.
    pub boot: String,
    /// The agent had to be pushed.
    pub pushed: bool,
    pub(crate) errors: Errors,
}

impl Agent {
    /// Reads the executable.
    pub fn read(path: &Utf8Path) -> Result<Self, SshError> {
        let bytes = std::fs::read(path).map_err(io_error("read the agent", path))?;
        let digest = Digest::of(&bytes);
        Ok(Self { bytes: bytes.into(), digest })
    }

    /// Starts it on a host, for the olbake that a token names.
    pub async fn start(&self, connection: &Connection, token: &str) -> Result<Started, SshError> {
        let host = connection.host();
        let failed =
            |error: &openssh::Error| SshError::Unreachable { host: host.to_owned(), reason: chain(error) };
        let mut command = connection.command(&command_line(&self.script(token)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().await.map_err(|error| failed(&error))?;
        let mut input = child.stdin().take().expect("standard input was asked for");
        let mut output = BufReader::new(child.stdout().take().expect("standard output was asked for"));
        let mut errors = Errors::collect(child.stderr().take().expect("standard error was asked for"));
        let mut pushed = false;
        loop {
            match answer(&mut output).await {
                Some(Answer::Have(boot)) => {
                    let end = Arc::new(End { _child: child, _connection: connection.clone() });
                    let stream = AgentStream {
                        input: Box::new(Held { half: input, _end: Arc::clone(&end) }),
                        output: Box::new(Held { half: output, _end: end }),
                    };
                    return Ok(Started { stream, boot, pushed, errors });
                }
                Some(Answer::Want) if !pushed => {
                    pushed = true;
                    // Where this fails the host has ended the command, and says why.
                    let sent = async {
                        input.write_all(&self.bytes).await?;
                        input.flush().await
                    };
                    sent.await.ok();
                }
                Some(Answer::Want) | None => return Err(SshError::of_start(host, &errors.words().await)),
            }
        }
    }

    fn script(&self, token: &str) -> String {
        format!(
            "digest={digest}; size={size}; token={token}; places='{PLACES}'\n{SCRIPT}",
            digest = self.digest.hex(),
            size = self.bytes.len(),
        )
    }
}

/// What the host does; the line before has the variables.
const SCRIPT: &str = r#"umask 077
read -r boot </proc/sys/kernel/random/boot_id
start() { echo "olbake have $boot"; exec "$1" --holder "$token"; }
for place in $places; do
  test -x "$place/$digest" && start "$place/$digest"
done
for place in $places; do
  mkdir -p "$place" 2>/dev/null && test -w "$place" && break
  place=
done
test -n "$place" || { echo "cannot keep the agent in any of $places" >&2; exit 1; }
new="$place/.$digest.$$"
trap 'rm -f "$new"' EXIT
trap 'exit 1' HUP INT TERM PIPE
echo "olbake want $boot"
head -c "$size" >"$new" || exit 1
found=$(sha256sum <"$new")
test "${found%% *}" = "$digest" || { echo "the agent did not come whole" >&2; exit 1; }
chmod 700 "$new" && sync "$new" && mv "$new" "$place/$digest" || exit 1
trap - EXIT HUP INT TERM PIPE
find "$place" -type f -mtime +30 ! -name "$digest" -exec rm -f {} + </dev/null >/dev/null 2>&1 &
start "$place/$digest"
"#;

/// The line for the login shell. Single quotes mean the same to all of them.
pub(crate) fn command_line(script: &str) -> String {
    let become_root = "test \"$(id -u)\" = 0 && exec /bin/sh -c \"$1\"; exec sudo -n -- /bin/sh -c \"$1\"";
    format!("exec /bin/sh -c {} olbake {}", quoted(become_root), quoted(script))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

enum Answer {
    Have(String),
    Want,
}

/// The script's next line; none: the stream ended, or is none of the script's.
async fn answer(output: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Answer> {
    let mut noise = 0;
    while noise < NOISE {
        let line = line(output).await?;
        noise += line.len();
        match line.trim_end().split(' ').collect::<Vec<_>>()[..] {
            ["olbake", "have", boot] => return Some(Answer::Have(boot.to_owned())),
            ["olbake", "want", _] => return Some(Answer::Want),
            _ => {}
        }
    }
    None
}

/// The next line, or as much of it as is taken at most; none at the end.
pub(crate) async fn line(output: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    let mut limited = output.take(NOISE as u64);
    limited.read_until(b'\n', &mut line).await.ok().filter(|count| *count > 0)?;
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// What is written beside the stream.
#[derive(Debug)]
pub(crate) struct Errors(JoinHandle<Vec<u8>>);

impl Errors {
    pub(crate) fn collect(mut from: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self(tokio::spawn(async move {
            let (mut tail, mut piece) = (Vec::new(), vec![0; 4096]);
            while let Ok(count @ 1..) = from.read(&mut piece).await {
                tail.extend_from_slice(&piece[..count]);
                let excess = tail.len().saturating_sub(TAIL);
                tail.drain(..excess);
            }
            tail
        }))
    }

    /// The end of it, once it has ended; nothing where it does not end soon.
    pub(crate) async fn words(&mut self) -> String {
        let bytes = tokio::time::timeout(LAST_WORDS, &mut self.0).await;
        String::from_utf8_lossy(&bytes.ok().and_then(Result::ok).unwrap_or_default()).into_owned()
    }
}

impl Drop for Errors {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The connection goes on as long as one half of a stream is used.
struct End {
    _child: Child<Arc<Session>>,
    _connection: Connection,
}

/// Half of a stream, which closes before the connection may.
struct Held<T> {
    half: T,
    _end: Arc<End>,
}

mod held {
    //! A half of a stream passes everything on.

    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Held;

    impl<T: AsyncRead + Unpin> AsyncRead for Held<T> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.half).poll_read(cx, buffer)
        }
    }

    impl<T: AsyncWrite + Unpin> AsyncWrite for Held<T> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.half).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.half).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.half).poll_shutdown(cx)
        }
    }
}
