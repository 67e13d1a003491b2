//! What the journal's objects look like.
//!
//! A slot and the `HEAD` are a line `olbake-1 LENGTH SHA256` and then JSON of that length and digest. What was cut
//! short is so told from what was changed. Main types: [`Head`], [`Slot`], [`Keys`].

use olbake_core::Digest;
use olbake_core::stack::StackName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StateError;
use super::holder::{Lease, Writer};
use crate::store::object::{Object, ObjectKey};

/// The form of what this olbake writes.
pub const STATE_SCHEMA: u32 = 1;

const MAGIC: &str = "olbake-1";
/// The first line: the magic, a length of 8 and a digest of 64 hexadecimal digits, two spaces and a newline.
const HEADER: usize = MAGIC.len() + 1 + 8 + 1 + 64 + 1;

/// The names of a stack's objects.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) const STACKS: &'static str = "v1/stacks/";

    pub(super) fn new(stack: &StackName) -> Self {
        Self { prefix: format!("{}{stack}/", Self::STACKS) }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn head(&self) -> ObjectKey {
        self.checked("HEAD")
    }

    pub(super) fn snapshot(&self, digest: &Digest) -> ObjectKey {
        self.checked(&format!("snap/{}.json.zst", digest.hex()))
    }

    pub(super) fn epoch(&self, epoch: u64) -> String {
        format!("{}j/{epoch:08}/", self.prefix)
    }

    pub(super) fn slot(&self, epoch: u64, number: u64) -> ObjectKey {
        self.checked(&format!("j/{epoch:08}/{number:08}"))
    }

    pub(super) fn history(&self, serial: u64) -> ObjectKey {
        self.checked(&format!("hist/{serial:08}.json"))
    }

    pub(super) fn histories(&self) -> String {
        format!("{}hist/", self.prefix)
    }

    fn checked(&self, name: &str) -> ObjectKey {
        let key = format!("{}{name}", self.prefix).parse();
        key.expect("names of stacks and ours have letters, digits, dots and dashes only")
    }
}

/// How far an epoch's log goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    pub(super) epoch: u64,
    /// Its slots, the seal's one among them.
    pub(super) slots: u64,
    /// The version of the state after it.
    pub(super) tip: Digest,
}

/// The snapshot that replaying starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base {
    pub(super) digest: Digest,
    /// Bytes of the object.
    pub(super) stored: u64,
}

/// What a stack's `HEAD` says. It changes by compare-and-swap only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) schema: u32,
    pub(super) stack: StackName,
    /// Counts holds that changed something.
    pub(super) serial: u64,
    /// The epoch that may be appended to, while there is a lease.
    pub(super) epoch: u64,
    /// None: the state that is nothing.
    pub(super) base: Option<Base>,
    /// The last epoch whose records are in the base.
    pub(super) folded: Mark,
    /// The last epoch known to have its seal.
    pub(super) sealed: Mark,
    pub(super) lease: Option<Lease>,
    /// The newest entry of the history; its object is written after this one.
    pub(super) last: Option<HistoryEntry>,
    /// Who wrote this.
    pub(super) writer: Writer,
    /// What was in its place before, so that no two are the same.
    pub(super) previous: Option<Digest>,
}

/// One hold that changed a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Its number.
    pub serial: u64,
    /// The epoch it wrote.
    pub epoch: u64,
    /// Who held the stack; none where nobody knows any more.
    pub holder: Option<super::Holder>,
    /// How it ended, in words: the summary given to `close`, or that it was interrupted.
    pub summary: String,
    /// Whether it came to its end.
    pub ending: Ending,
    /// The version of the state after it.
    pub version: Digest,
    /// When that was written down.
    pub at: super::Timestamp,
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its holder closed it.
    Closed,
    /// Its holder went away; the next one sealed its records.
    Interrupted,
}

/// What a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Records,
    Seal,
}

/// One object of an epoch's log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot<R> {
    pub(super) kind: Kind,
    pub(super) epoch: u64,
    pub(super) number: u64,
    pub(super) writer: Writer,
    /// The version of the state before it.
    pub(super) previous: Digest,
    /// Of a seal: what the object before it holds, when that was cut short and does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) torn: Option<Digest>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub(super) records: Vec<R>,
}

/// The version of a stack that never ran.
pub(super) fn genesis(stack: &StackName) -> Digest {
    Digest::of(format!("olbake stack {stack}").as_bytes())
}

/// JSON under its first line, and its digest.
pub(super) fn frame<T: Serialize>(value: &T) -> Result<(Vec<u8>, Digest), serde_json::Error> {
    let mut bytes = vec![b' '; HEADER];
    serde_json::to_writer(&mut bytes, value)?;
    let digest = Digest::of(&bytes[HEADER..]);
    let header = format!("{MAGIC} {:08x} {}\n", bytes.len() - HEADER, digest.hex());
    bytes[..HEADER].copy_from_slice(header.as_bytes());
    Ok((bytes, digest))
}

/// What bytes under a first line turn out to be.
pub(super) enum Framed<'a> {
    Whole(&'a [u8], Digest),
    /// The start of something: its writer did not come to the end.
    Torn,
    Changed(&'static str),
}

/// Looks at what [`frame`] made.
pub(super) fn unframe(bytes: &[u8]) -> Framed<'_> {
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        return if starts_a_header(bytes) {
            Framed::Torn
        } else {
            Framed::Changed("its first line is not ours")
        };
    };
    let digits = std::str::from_utf8(header).ok().filter(|_| starts_a_header(header));
    let Some((length, digest)) = digits.and_then(|header| {
        let length = usize::from_str_radix(&header[MAGIC.len() + 1..][..8], 16).ok()?;
        Some((length, Digest::from_hex(&header[MAGIC.len() + 10..][..64]).ok()?))
    }) else {
        return Framed::Changed("its first line is not ours");
    };
    match (body.len() == length, Digest::of(body) == digest) {
        (true, true) => Framed::Whole(body, digest),
        (false, false) if body.len() < length => Framed::Torn,
        _ => Framed::Changed("its digest is not the one in its first line"),
    }
}

/// Whether these are the first bytes of a header.
fn starts_a_header(bytes: &[u8]) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    bytes.iter().take(HEADER).enumerate().all(|(at, byte)| match at {
        at if at < MAGIC.len() => *byte == MAGIC.as_bytes()[at],
        at if at == MAGIC.len() || at == MAGIC.len() + 9 => *byte == b' ',
        at if at == HEADER - 1 => *byte == b'\n',
        _ => digit(*byte),
    })
}

/// Reads a framed object that must be whole.
pub(super) fn read<T: DeserializeOwned>(
    object: &Object,
    place: impl Fn() -> String,
) -> Result<(T, Digest), StateError> {
    let changed = |problem: &str| StateError::Damaged { object: place(), problem: problem.to_owned() };
    match unframe(&object.bytes) {
        Framed::Whole(body, digest) => Ok((parse(body, &place)?, digest)),
        Framed::Torn => Err(changed("it is cut short")),
        Framed::Changed(problem) => Err(changed(problem)),
    }
}

/// Reads the JSON of an object.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8], place: &impl Fn() -> String) -> Result<T, StateError> {
    serde_json::from_slice(body).map_err(|error| match schema(body) {
        Some(found) if found > u64::from(STATE_SCHEMA) => {
            StateError::Schema { object: place(), found, known: STATE_SCHEMA }
        }
        _ => StateError::Damaged { object: place(), problem: format!("it cannot be understood: {error}") },
    })
}

fn schema(body: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(body).ok()?.get("schema")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_torn_and_what_is_flipped_is_changed() {
        let (bytes, digest) = frame(&serde_json::json!({"a": [1, 2, 3], "b": "text"})).unwrap();
        assert!(matches!(unframe(&bytes), Framed::Whole(_, found) if found == digest));
        for length in 0..bytes.len() {
            assert!(matches!(unframe(&bytes[..length]), Framed::Torn), "{length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(unframe(&flipped), Framed::Changed(_)), "bit {bit}");
        }
        assert!(matches!(unframe(&[bytes.as_slice(), b"\n"].concat()), Framed::Changed(_)));
        assert!(matches!(unframe(&vec![0; bytes.len()]), Framed::Changed(_)));
    }

    #[test]
    fn names_stay_in_the_stacks_folder() {
        let keys = Keys::new(&"applications.hello.QA".parse().unwrap());
        assert_eq!(keys.slot(3, 12).as_str(), "v1/stacks/applications.hello.QA/j/00000003/00000012");
    }
}
