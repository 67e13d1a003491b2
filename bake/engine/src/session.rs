//! One run of an agent, seen from here: sends the plan, blobs and secrets, hears what happens.
//!
//! The words are [`olbake_core::protocol`]'s. Nothing here knows what the stream runs over. Main function:
//! [`run`].

use std::collections::BTreeMap;
use std::io;

use async_trait::async_trait;
use olbake_core::Digest;
use olbake_core::operation::Operation;
use olbake_core::protocol::{
    self, Frame, FrameError, FromAgent, Hello, Mode, PROTOCOL, Reboots, Start, Summary, ToAgent,
};
use olbake_core::report::{OperationReport, Package};
use olbake_core::secret::SecretId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::cancel::Cancel;
use crate::machine::AgentStream;

/// Where the bytes of a digest come from.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// Opens the bytes of a digest, from their start.
    async fn open(&self, digest: Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>>;
}

/// Why a run did not come to its end. A failed operation is no such reason: its report says so.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The stream broke or ended.
    #[error("lost the connection to the agent")]
    Stream(#[source] io::Error),
    /// The agent ended the stream before the run was over.
    #[error("the agent ended before its work did")]
    Ended,
    /// What came is not what may come.
    #[error("the agent sent something that is not understood")]
    Frame(#[source] FrameError),
    /// A message is not JSON of the agreed form.
    #[error("the agent sent a message that is not understood")]
    Message(#[source] serde_json::Error),
    /// The agent is of another version.
    #[error("the agent speaks protocol {agent}, olbake speaks {PROTOCOL}: they are not of one build")]
    Protocol {
        /// The agent's version of the protocol.
        agent: u32,
    },
    /// The machine is not what the plan is for.
    #[error("{0}")]
    Machine(String),
    /// The agent could not begin or go on.
    #[error("the agent could not go on: {0}")]
    Fault(String),
    /// Bytes that the plan names could not be had.
    #[error("cannot read the content {digest}")]
    Blob {
        /// Which.
        digest: Digest,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What to run.
#[derive(Clone)]
pub struct Run {
    /// Apply or check.
    pub mode: Mode,
    /// Names the run, so that an interrupted one is gone on with.
    pub run: Digest,
    /// The agent's directory on the machine.
    pub work_dir: String,
    /// The operations.
    pub operations: Vec<Operation>,
    /// The secrets they use.
    pub secrets: BTreeMap<SecretId, String>,
    /// Threads; 0: the agent chooses.
    pub workers: usize,
    /// See [`Start::shuffle`].
    pub shuffle: Option<u64>,
    /// See [`Start::keep_going`].
    pub keep_going: bool,
    /// See [`Start::packages`].
    pub packages: bool,
    /// What becomes of operations that ask for a reboot.
    pub reboots: Reboots,
    /// The architecture that the plan is for, as the kernel names it; absent: any.
    pub architecture: Option<&'static str>,
}

/// How a run ended.
#[derive(Debug)]
pub struct RunEnd {
    /// The machine, as the agent found it.
    pub hello: Hello,
    /// The reports, in the order operations ended.
    pub reports: Vec<OperationReport>,
    /// The installed packages, where they were asked for.
    pub packages: Vec<Package>,
    /// Numbers.
    pub summary: Summary,
    /// It was cancelled.
    pub cancelled: bool,
    /// The machine boots again, and the same run is to be started once more when it has.
    pub rebooting: bool,
}

/// Runs operations through an agent. `hear` is told of each message as it comes.
pub async fn run(
    stream: AgentStream,
    run: Run,
    blobs: &dyn Blobs,
    cancel: &Cancel,
    mut hear: impl FnMut(&FromAgent) + Send,
) -> Result<RunEnd, SessionError> {
    let AgentStream { mut input, output } = stream;
    let mut inbox = Inbox::start(output);
    let hello = hello(&mut inbox, run.architecture).await?;
    let needed = contents(&run.operations);
    let sent = async {
        send_message(&mut input, &ToAgent::Start(Box::new(start(run)))).await?;
        send_blobs(&mut input, &needed, blobs).await
    };
    if let Err(error) = sent.await {
        return Err(inbox.last_words(error).await);
    }

    let (mut reports, mut installed) = (Vec::new(), Vec::new());
    let mut asked_to_stop = false;
    loop {
        let message = tokio::select! {
            message = inbox.next() => message?,
            () = cancel.cancelled(), if !asked_to_stop => {
                asked_to_stop = true;
                // An agent that has just ended does not hear it; what it said last is still to be read.
                send_message(&mut input, &ToAgent::Cancel).await.ok();
                continue;
            }
        };
        hear(&message);
        match message {
            FromAgent::Need { blobs: missing } => send_blobs(&mut input, &missing, blobs).await?,
            FromAgent::Finished(report) => reports.push(*report),
            FromAgent::Packages { packages } => installed = packages,
            FromAgent::Done { summary, cancelled } => {
                let packages = installed;
                return Ok(RunEnd { hello, reports, packages, summary, cancelled, rebooting: false });
            }
            FromAgent::Rebooting => {
                let (packages, summary) = (installed, Summary::default());
                return Ok(RunEnd { hello, reports, packages, summary, cancelled: false, rebooting: true });
            }
            FromAgent::Fault { message } => return Err(SessionError::Fault(message)),
            FromAgent::Hello(_) | FromAgent::Started { .. } | FromAgent::Output { .. } => {}
        }
    }
}

/// The digests that operations need, each once, in order of first use.
fn contents(operations: &[Operation]) -> Vec<Digest> {
    let mut seen = std::collections::BTreeSet::new();
    operations
        .iter()
        .flat_map(|operation| operation.action.contents())
        .map(|content| content.digest)
        .filter(|digest| seen.insert(*digest))
        .collect()
}

fn start(run: Run) -> Start {
    let Run {
        mode,
        run,
        work_dir,
        operations,
        secrets,
        workers,
        shuffle,
        keep_going,
        packages,
        reboots,
        architecture: _,
    } = run;
    Start {
        protocol: PROTOCOL,
        mode,
        run,
        work_dir,
        operations,
        secrets,
        workers,
        shuffle,
        keep_going,
        packages,
        reboots,
    }
}

async fn hello(inbox: &mut Inbox, architecture: Option<&'static str>) -> Result<Hello, SessionError> {
    match inbox.next().await? {
        FromAgent::Hello(hello) if hello.protocol != PROTOCOL => {
            Err(SessionError::Protocol { agent: hello.protocol })
        }
        FromAgent::Hello(hello) => match architecture {
            Some(expected) if expected != hello.architecture => Err(SessionError::Machine(format!(
                "the plan is for {expected}, the machine is {}",
                hello.architecture
            ))),
            _ => Ok(*hello),
        },
        FromAgent::Fault { message } => Err(SessionError::Fault(message)),
        _ => Err(SessionError::Fault("it did not begin with its greeting".to_owned())),
    }
}

async fn send_message(
    input: &mut (impl AsyncWrite + Unpin + Send),
    message: &ToAgent,
) -> Result<(), SessionError> {
    write(input, &Frame::message(message).encode()).await?;
    input.flush().await.map_err(SessionError::Stream)
}

async fn send_blobs(
    input: &mut (impl AsyncWrite + Unpin + Send),
    digests: &[Digest],
    blobs: &dyn Blobs,
) -> Result<(), SessionError> {
    for digest in digests {
        let digest = *digest;
        let failed = |source| SessionError::Blob { digest, source };
        let mut content = blobs.open(digest).await.map_err(failed)?;
        let mut piece = vec![0; protocol::BLOB_PIECE];
        loop {
            let length = content.read(&mut piece).await.map_err(failed)?;
            write(input, &Frame::Blob(digest, piece[..length].to_vec()).encode()).await?;
            if length == 0 {
                break;
            }
        }
    }
    send_message(input, &ToAgent::Ready).await
}

async fn write(input: &mut (impl AsyncWrite + Unpin + Send), bytes: &[u8]) -> Result<(), SessionError> {
    input.write_all(bytes).await.map_err(SessionError::Stream)
}

/// Messages from the agent, read by a task of their own: reading goes on while blobs are sent, so neither side
/// waits for the other, and a wait that is given up tears no frame.
struct Inbox {
    messages: mpsc::Receiver<Result<FromAgent, SessionError>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Inbox {
    fn start(mut output: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        let (sender, messages) = mpsc::channel(256);
        let reader = tokio::spawn(async move {
            loop {
                let message = read_message(&mut output).await;
                let last =
                    message.is_err() || matches!(message, Ok(FromAgent::Done { .. } | FromAgent::Rebooting));
                if sender.send(message).await.is_err() || last {
                    return;
                }
            }
        });
        Self { messages, reader }
    }

    async fn next(&mut self) -> Result<FromAgent, SessionError> {
        self.messages.recv().await.unwrap_or(Err(SessionError::Ended))
    }

    /// Why nothing could be sent: the agent may have said so before it ended.
    async fn last_words(&mut self, error: SessionError) -> SessionError {
        let fault = async {
            loop {
                match self.next().await {
                    Ok(FromAgent::Fault { message }) => return Some(message),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        match tokio::time::timeout(LAST_WORDS, fault).await {
            Ok(Some(message)) if matches!(error, SessionError::Stream(_)) => SessionError::Fault(message),
            _ => error,
        }
    }
}

/// How long an agent that closed its stream may take to be heard out.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

impl Drop for Inbox {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read_message(output: &mut (impl AsyncRead + Unpin + Send)) -> Result<FromAgent, SessionError> {
    let ended = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SessionError::Ended,
        _ => SessionError::Stream(error),
    };
    let mut header = [0; protocol::HEADER];
    output.read_exact(&mut header).await.map_err(ended)?;
    let length = Frame::payload_length(header).map_err(SessionError::Frame)?;
    let mut payload = vec![0; length];
    output.read_exact(&mut payload).await.map_err(ended)?;
    match Frame::decode(header, payload).map_err(SessionError::Frame)? {
        Frame::Message(json) => serde_json::from_slice(&json).map_err(SessionError::Message),
        Frame::Blob(..) => Err(SessionError::Fault("it sent a blob".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use olbake_core::plan::Architecture;
    use tokio::io::duplex;

    use super::*;

    /// No operation here has contents.
    struct NoBlobs;

    #[async_trait]
    impl Blobs for NoBlobs {
        async fn open(&self, digest: Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
            Err(io::Error::other(digest.to_string()))
        }
    }

    fn nothing() -> Run {
        Run {
            mode: Mode::Apply,
            run: Digest::of(b"run"),
            work_dir: "/run/olbake".to_owned(),
            operations: Vec::new(),
            secrets: BTreeMap::new(),
            workers: 0,
            shuffle: None,
            keep_going: false,
            packages: false,
            reboots: Reboots::Skipped,
            architecture: Some(Architecture::Amd64.kernel()),
        }
    }

    /// What an agent says of a run in which nothing is to be done.
    fn words() -> Vec<u8> {
        let hello = Hello {
            protocol: PROTOCOL,
            version: "1".to_owned(),
            architecture: Architecture::Amd64.kernel().to_owned(),
            os_release: BTreeMap::new(),
            boot_id: "boot".to_owned(),
            systemd: false,
        };
        let packages = FromAgent::Packages { packages: Vec::new() };
        let done = FromAgent::Done { summary: Summary::default(), cancelled: false };
        let all = [FromAgent::Hello(Box::new(hello)), packages, done];
        all.iter().flat_map(|message| Frame::message(message).encode()).collect()
    }

    #[tokio::test]
    async fn an_agent_that_ended_before_it_was_told_to_stop_has_ended_in_order() {
        // Which of the two is seen first is chance.
        for _ in 0..40 {
            let (input, hears) = duplex(1 << 16);
            let (output, mut says) = duplex(1 << 16);
            let mut hears = Some(hears);
            let stream = AgentStream { input: Box::new(input), output: Box::new(output) };
            let (canceller, cancel) = crate::cancel::cancel();
            says.write_all(&words()).await.unwrap();
            let hear = |_: &FromAgent| {
                hears.take();
                canceller.cancel();
            };
            let end = run(stream, nothing(), &NoBlobs, &cancel, hear).await.unwrap();
            assert!(!end.cancelled);
        }
    }
}
