//! The words between olbake and its agent: one duplex stream, framed.
//!
//! A frame is its payload's length as four little-endian bytes, one byte of kind, and the payload, of at most
//! [`MAX_FRAME`] bytes:
//!
//! | kind | payload |
//! |---|---|
//! | 1 | a message, JSON: [`ToAgent`] one way, [`FromAgent`] the other |
//! | 2 | a piece of a blob: 32 bytes of digest, then bytes; an empty piece ends the blob |
//!
//! Order: the agent says [`FromAgent::Hello`] at once. olbake sends [`ToAgent::Start`], the blobs it believes to
//! be missing, and [`ToAgent::Ready`]. Where blobs it needs did not come, the agent asks once with
//! [`FromAgent::Need`] and olbake sends those and `Ready` again. Reports stream back while operations run;
//! [`FromAgent::Done`] is last, or [`FromAgent::Rebooting`], after which the same run is started once more by an
//! agent of the next boot. [`ToAgent::Cancel`] may come at any time: running operations end, none starts.
//! Nothing else adds a round trip, however many operations there are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::names::OperationId;
use crate::operation::Operation;
use crate::report::{OperationReport, Package};
use crate::secret::SecretId;

/// The version of these words; both sides must have the same.
pub const PROTOCOL: u32 = 1;
/// The largest payload of a frame.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;
/// How large a piece of a blob is at most.
pub const BLOB_PIECE: usize = 1024 * 1024;
/// Bytes before a frame's payload.
pub const HEADER: usize = 5;

/// What to do with the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Carry them out.
    Apply,
    /// Inspect, and report what applying would change.
    Check,
}

/// Whether the agent may boot its machine again when an operation asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reboots {
    /// Such operations are skipped.
    #[default]
    Skipped,
    /// It does, and olbake comes back.
    Done,
}

/// Everything a run needs besides blobs.
#[derive(Clone, Serialize, Deserialize)]
pub struct Start {
    /// Must be [`PROTOCOL`].
    pub protocol: u32,
    /// What to do.
    pub mode: Mode,
    /// Names the run: a journal of the same key is resumed, another is discarded.
    pub run: Digest,
    /// The directory on the machine for journal and blobs; made with mode 0700.
    pub work_dir: String,
    /// The operations, in the recipe's order.
    pub operations: Vec<Operation>,
    /// Secret values. They stay in memory.
    pub secrets: BTreeMap<SecretId, String>,
    /// Threads; 0: as many as there are processors, at least 4.
    pub workers: usize,
    /// Start operations one at a time, ready ones in an order drawn from this seed: for tests.
    pub shuffle: Option<u64>,
    /// Go on with operations that do not depend on a failed one (checks do; a bake stops at the first failure).
    pub keep_going: bool,
    /// Say at the end which packages are installed.
    #[serde(default)]
    pub packages: bool,
    /// What becomes of operations that ask for a reboot.
    #[serde(default)]
    pub reboots: Reboots,
}

/// To the agent.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToAgent {
    /// The run.
    Start(Box<Start>),
    /// All blobs that were to come have come.
    Ready,
    /// Stop.
    Cancel,
}

/// What the agent finds when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its [`PROTOCOL`].
    pub protocol: u32,
    /// Its version.
    pub version: String,
    /// `x86_64` or `aarch64`.
    pub architecture: String,
    /// `/etc/os-release`: `ID`, `VERSION_ID`, `VERSION_CODENAME`, …
    pub os_release: BTreeMap<String, String>,
    /// The kernel's boot identity: another value means that the machine was rebooted.
    pub boot_id: String,
    /// systemd runs as the first process.
    pub systemd: bool,
}

/// Numbers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Operations that found all as it should be.
    pub ok: usize,
    /// Operations that changed something.
    pub changed: usize,
    /// Operations that were not to run.
    pub skipped: usize,
    /// Operations that failed.
    pub failed: usize,
    /// Operations that never started.
    pub not_run: usize,
}

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromAgent {
    /// The agent is there.
    Hello(Box<Hello>),
    /// These blobs are needed and missing.
    Need {
        /// Their digests.
        blobs: Vec<Digest>,
    },
    /// An operation started.
    Started {
        /// Which.
        id: OperationId,
    },
    /// A line that a command of an operation wrote, secrets masked.
    Output {
        /// Which.
        id: OperationId,
        /// The line, without its end.
        line: String,
    },
    /// An operation ended.
    Finished(Box<OperationReport>),
    /// The installed packages, in order of name, where they were asked for; before the run's end.
    Packages {
        /// All of them.
        packages: Vec<Package>,
    },
    /// The run ended.
    Done {
        /// Its numbers.
        summary: Summary,
        /// It was cancelled.
        cancelled: bool,
    },
    /// The machine boots again, as an operation asked: the run is not over, and goes on in the next boot.
    Rebooting,
    /// The run could not begin or go on: a fault of the stream or the machine, not of an operation.
    Fault {
        /// What went wrong.
        message: String,
    },
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message's JSON.
    Message(Vec<u8>),
    /// A piece of a blob; empty: its end.
    Blob(Digest, Vec<u8>),
}

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The length is beyond [`MAX_FRAME`].
    #[error("a frame of {0} bytes is larger than any may be")]
    TooLarge(usize),
    /// The kind is none of the table.
    #[error("unknown kind of frame {0}")]
    UnknownKind(u8),
    /// A blob's piece is shorter than its digest.
    #[error("a blob's frame ends before its digest")]
    ShortBlob,
}

impl Frame {
    /// The frame of a message.
    pub fn message<T: Serialize>(message: &T) -> Self {
        Self::Message(serde_json::to_vec(message).expect("messages are expressible in JSON"))
    }

    /// The frame as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, head, body): (u8, &[u8], &[u8]) = match self {
            Self::Message(json) => (1, &[], json),
            Self::Blob(digest, piece) => (2, digest.as_bytes(), piece),
        };
        let length = u32::try_from(head.len() + body.len()).expect("frames are made below MAX_FRAME");
        let mut bytes = Vec::with_capacity(HEADER + head.len() + body.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(body);
        bytes
    }

    /// The length of the payload that follows a header.
    pub fn payload_length(header: [u8; HEADER]) -> Result<usize, FrameError> {
        let [a, b, c, d, _] = header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_FRAME { Err(FrameError::TooLarge(length)) } else { Ok(length) }
    }

    /// The frame of a header and its payload.
    pub fn decode(header: [u8; HEADER], payload: Vec<u8>) -> Result<Self, FrameError> {
        match header[HEADER - 1] {
            1 => Ok(Self::Message(payload)),
            2 => {
                let (digest, piece) = payload.split_first_chunk::<32>().ok_or(FrameError::ShortBlob)?;
                Ok(Self::Blob(Digest::from_bytes(*digest), piece.to_vec()))
            }
            kind => Err(FrameError::UnknownKind(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: &Frame) {
        let bytes = frame.encode();
        let (header, payload) = bytes.split_first_chunk::<HEADER>().unwrap();
        assert_eq!(Frame::payload_length(*header), Ok(payload.len()));
        assert_eq!(Frame::decode(*header, payload.to_vec()).as_ref(), Ok(frame));
    }

    #[test]
    fn frames_round_trip() {
        check(&Frame::message(&ToAgent::Ready));
        check(&Frame::Blob(Digest::of(b"x"), b"x".to_vec()));
        check(&Frame::Blob(Digest::of(b"x"), Vec::new()));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(
            Frame::payload_length([0xff, 0xff, 0xff, 0xff, 1]),
            Err(FrameError::TooLarge(0xffff_ffff))
        );
        assert_eq!(Frame::decode([0, 0, 0, 0, 9], Vec::new()), Err(FrameError::UnknownKind(9)));
        assert_eq!(Frame::decode([1, 0, 0, 0, 2], vec![1]), Err(FrameError::ShortBlob));
    }
}
