//! The other end of the agent's stream.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use olbake_core::operation::Operation;
use olbake_core::protocol::{Frame, FromAgent, HEADER, Mode, PROTOCOL, Start, Summary, ToAgent};
use olbake_core::report::{OperationReport, Outcome};
use olbake_core::secret::SecretId;
use olbake_core::{Digest, OperationId};

use super::Machine;
use super::plan::Plan;

/// Where the agents of the tests keep their files.
pub const WORK_DIR: &str = "/run/olbake-work";

/// A running agent.
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Told {
    /// Reports in the order that they came.
    pub reports: Vec<OperationReport>,
    pub lines: Vec<String>,
    pub summary: Option<Summary>,
    pub cancelled: bool,
    pub fault: Option<String>,
    /// Everything that was sent, as text.
    pub raw: String,
}

impl Told {
    pub fn report(&self, id: &OperationId) -> &OperationReport {
        self.reports
            .iter()
            .find(|report| report.id == *id)
            .unwrap_or_else(|| panic!("no report of {id}: {self:#?}"))
    }

    pub fn only(&self) -> &OperationReport {
        assert_eq!(self.reports.len(), 1, "{self:#?}");
        &self.reports[0]
    }

    pub fn failure(&self) -> &str {
        let failed = self.reports.iter().find(|report| report.outcome == Outcome::Failed);
        &failed
            .and_then(|report| report.failure.as_ref())
            .unwrap_or_else(|| panic!("nothing failed: {self:#?}"))
            .message
    }

    pub fn summary(&self) -> Summary {
        self.summary.unwrap_or_else(|| panic!("the run did not end: {self:#?}"))
    }
}

/// How to run a plan.
pub struct How {
    pub mode: Mode,
    pub run: Digest,
    pub shuffle: Option<u64>,
    pub keep_going: bool,
}

impl How {
    pub fn apply(run: &str) -> Self {
        Self { mode: Mode::Apply, run: Digest::of(run.as_bytes()), shuffle: None, keep_going: false }
    }

    pub fn check() -> Self {
        Self { mode: Mode::Check, ..Self::apply("check") }
    }
}

/// What the driver does when it hears something.
pub enum Then {
    GoOn,
    Cancel,
    Kill,
    Close,
}

impl Session {
    /// Starts an agent and takes its greeting.
    pub fn open(machine: &Machine) -> Self {
        let mut child = machine
            .command(&["/run/olbake-agent"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut session = Self { child, input, output };
        match session.hear() {
            Some(FromAgent::Hello(hello)) => {
                assert_eq!(hello.protocol, PROTOCOL);
                assert_eq!(hello.os_release["ID"], "debian");
                assert!(!hello.systemd);
            }
            other => panic!("no greeting: {other:?}"),
        }
        session
    }

    pub fn say(&mut self, message: &ToAgent) {
        self.send(&Frame::message(message));
    }

    fn send(&mut self, frame: &Frame) {
        // An agent that refused may be gone.
        drop(self.input.as_mut().unwrap().write_all(&frame.encode()));
    }

    pub fn blob(&mut self, digest: Digest, bytes: &[u8]) {
        for piece in bytes.chunks(100_000) {
            self.send(&Frame::Blob(digest, piece.to_vec()));
        }
        self.send(&Frame::Blob(digest, Vec::new()));
    }

    pub fn hear(&mut self) -> Option<FromAgent> {
        let mut header = [0; HEADER];
        self.output.read_exact(&mut header).ok()?;
        let mut payload = vec![0; Frame::payload_length(header).unwrap()];
        self.output.read_exact(&mut payload).ok()?;
        match Frame::decode(header, payload).unwrap() {
            Frame::Message(json) => Some(serde_json::from_slice(&json).unwrap()),
            Frame::Blob(..) => panic!("agents send no blobs"),
        }
    }

    pub fn start(&mut self, operations: &[Operation], secrets: &BTreeMap<SecretId, String>, how: &How) {
        self.say(&ToAgent::Start(Box::new(Start {
            protocol: PROTOCOL,
            mode: how.mode,
            run: how.run,
            work_dir: WORK_DIR.to_owned(),
            operations: operations.to_vec(),
            secrets: secrets.clone(),
            workers: 0,
            shuffle: how.shuffle,
            keep_going: how.keep_going,
            packages: false,
            reboots: olbake_core::protocol::Reboots::Skipped,
        })));
    }

    /// Listens to the end, answering what is needed from the plan.
    pub fn finish(mut self, plan: &Plan, mut then: impl FnMut(&FromAgent) -> Then) -> Told {
        let mut told = Told::default();
        while let Some(message) = self.hear() {
            told.raw.push_str(&serde_json::to_string(&message).unwrap());
            match then(&message) {
                Then::GoOn => {}
                Then::Cancel => self.say(&ToAgent::Cancel),
                Then::Kill => {
                    self.child.kill().unwrap();
                    self.child.wait().unwrap();
                    return told;
                }
                Then::Close => drop(self.input.take()),
            }
            match message {
                FromAgent::Need { blobs } => {
                    for digest in blobs {
                        if let Some(bytes) = plan.blobs.get(&digest) {
                            self.blob(digest, bytes);
                        }
                    }
                    self.say(&ToAgent::Ready);
                }
                FromAgent::Finished(report) => told.reports.push(*report),
                FromAgent::Output { line, .. } => told.lines.push(line),
                FromAgent::Fault { message } => told.fault = Some(message),
                FromAgent::Done { summary, cancelled } => {
                    told.summary = Some(summary);
                    told.cancelled = cancelled;
                    break;
                }
                FromAgent::Rebooting => panic!("no machine of these tests may be booted again"),
                FromAgent::Hello(_) | FromAgent::Packages { .. } | FromAgent::Started { .. } => {}
            }
        }
        drop(self.input.take());
        self.child.wait().unwrap();
        told
    }
}

impl Machine {
    /// Runs a plan on it. Blobs are sent only when the agent asks.
    pub fn agent(&self, plan: &Plan, how: &How) -> Told {
        self.agent_then(plan, how, |_| Then::GoOn)
    }

    pub fn agent_then(&self, plan: &Plan, how: &How, then: impl FnMut(&FromAgent) -> Then) -> Told {
        let mut session = Session::open(self);
        session.start(&plan.operations, &plan.secrets, how);
        session.say(&ToAgent::Ready);
        session.finish(plan, then)
    }

    pub fn apply(&self, plan: &Plan, run: &str) -> Told {
        self.agent(plan, &How::apply(run))
    }
}
