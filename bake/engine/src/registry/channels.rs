//! Channels: what each pointed to, when and why, and what it points to now. Main types: [`Move`] and [`Moved`].
//!
//! Under `v1/channels/IMAGE/VARIANT/` a channel has entries `CHANNEL/SEQUENCE.json`, numbered from 1 without gaps and
//! each created once, and a pointer `CHANNEL.json` to the last. **Creating an entry is the change**: of two writers
//! who want the same number, the store takes one. The pointer follows by compare-and-swap and only saves reading the
//! history: it is never ahead of the entries, and where its writer was killed, readers go on from it to the end.
//!
//! An entry holds the digest of the one before it, the pointer that of the entry it names: what was torn or edited is
//! noticed and named.

use olbake_core::promotion::{Channel, ChannelRecord, Verdict, Why};
use olbake_core::time::Timestamp;
use olbake_core::{Digest, ImageRef, canonical};
use serde::{Deserialize, Serialize};

use super::records::{Records, object_key, variant_part};
use super::version::Version;
use super::{RegistryError, Result};
use crate::store::object::{ObjectKey, Put};

/// The form of entries and pointers. A new kind of gate or reason is a new form: an older olbake must not take an entry
/// that it cannot read for a torn one.
const CHANNEL_SCHEMA: u32 = 1;
const ENTRY: &str = "restore it from a copy of the registry; a channel's history is never written anew";
const POINTER: &str = "remove it: it is made again from the entries in the folder beside it";

/// A change of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The image or variant.
    pub image: ImageRef,
    /// The channel.
    pub channel: Channel,
    /// The number of the entry on which this was decided; 0 where there was none. If another came, this is refused.
    pub seen: u64,
    /// The version it is to point to.
    pub digest: Digest,
    /// Who does it.
    pub by: String,
    /// The time.
    pub at: Timestamp,
    /// Why.
    pub why: Why,
    /// Why, in their words.
    pub reason: Option<String>,
    /// What the gates said.
    pub evidence: Vec<Verdict>,
}

/// How a change ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The channel has this new entry.
    Done(ChannelRecord),
    /// It pointed there already, by this entry.
    NotNeeded(ChannelRecord),
}

impl Moved {
    /// The entry that the channel ends with.
    pub fn record(&self) -> &ChannelRecord {
        match self {
            Self::Done(record) | Self::NotNeeded(record) => record,
        }
    }
}

/// What `CHANNEL.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ChannelPointer {
    schema: u32,
    image: ImageRef,
    channel: Channel,
    sequence: u64,
    /// The version, for those who read the file.
    digest: Digest,
    /// The digest of the entry's text.
    entry: Digest,
}

/// An entry, with the digest of its text.
struct Entry {
    record: ChannelRecord,
    text: Digest,
}

fn folder(image: &ImageRef) -> String {
    format!("v1/channels/{}/{}", image.image, variant_part(image))
}

fn pointer_key(image: &ImageRef, channel: &Channel) -> ObjectKey {
    object_key(format!("{}/{channel}.json", folder(image)))
}

fn entry_key(image: &ImageRef, channel: &Channel, sequence: u64) -> ObjectKey {
    object_key(format!("{}/{channel}/{sequence:08}.json", folder(image)))
}

/// The image and channel that an object is about, and its number where it is an entry.
fn parts(key: &ObjectKey) -> Option<(ImageRef, Channel, Option<u64>)> {
    let parts: Vec<&str> =
        key.as_str().strip_prefix("v1/channels/")?.strip_suffix(".json")?.split('/').collect();
    let (image, variant, channel, sequence) = match parts.as_slice() {
        [image, variant, channel] => (image, variant, channel, None),
        [image, variant, channel, sequence] => (image, variant, channel, Some(sequence.parse().ok()?)),
        _ => return None,
    };
    let variant = if *variant == "-" { None } else { Some(variant.parse().ok()?) };
    Some((ImageRef { image: image.parse().ok()?, variant }, channel.parse().ok()?, sequence))
}

impl Records {
    /// The version that a channel points to; none where it points to none yet.
    pub fn channel(&self, image: &ImageRef, channel: &Channel) -> Result<Option<Version>> {
        let Some(record) = self.channel_record(image, channel)? else { return Ok(None) };
        match self.version(image, &record.digest)? {
            Some(version) => Ok(Some(version)),
            None => Err(RegistryError::Unregistered {
                image: image.clone(),
                digest: record.digest,
                channel: channel.clone(),
            }),
        }
    }

    /// The last entry of a channel.
    pub fn channel_record(&self, image: &ImageRef, channel: &Channel) -> Result<Option<ChannelRecord>> {
        Ok(self.last_entry(image, channel)?.map(|entry| entry.record))
    }

    /// Every entry of a channel, oldest first.
    pub fn channel_history(&self, image: &ImageRef, channel: &Channel) -> Result<Vec<ChannelRecord>> {
        let Some(last) = self.last_entry(image, channel)? else { return Ok(Vec::new()) };
        let mut entries: Vec<Entry> = Vec::new();
        for sequence in 1..last.record.sequence {
            entries.push(self.linked_entry(image, channel, sequence, entries.last())?);
        }
        self.check_link(&last, entries.last())?;
        entries.push(last);
        Ok(entries.into_iter().map(|entry| entry.record).collect())
    }

    /// The last entry of every channel of every image, by image and channel.
    pub fn channels(&self) -> Result<Vec<ChannelRecord>> {
        let mut known: Vec<(ImageRef, Channel)> = self
            .objects()
            .list("v1/channels/")?
            .iter()
            .filter_map(|object| parts(&object.key))
            .map(|(image, channel, _)| (image, channel))
            .collect();
        known.sort_unstable();
        known.dedup();
        let last =
            known.iter().filter_map(|(image, channel)| self.channel_record(image, channel).transpose());
        last.collect()
    }

    /// Moves a channel to a registered version, unless it was moved since the entry that the caller saw.
    pub fn move_channel(&self, change: &Move) -> Result<Moved> {
        self.hold()?;
        let Move { image, channel, digest, .. } = change;
        let last = self.last_entry(image, channel)?;
        if let Some(entry) = last.as_ref().filter(|entry| entry.record.digest == *digest) {
            self.point(entry)?;
            return Ok(Moved::NotNeeded(entry.record.clone()));
        }
        match &last {
            Some(entry) if entry.record.sequence != change.seen => {
                return Err(RegistryError::ChannelMoved(Box::new(entry.record.clone())));
            }
            None if change.seen != 0 => {
                let gone = entry_key(image, channel, change.seen);
                return Err(RegistryError::Missing { object: self.objects().place(&gone) });
            }
            _ => {}
        }
        if self.version(image, digest)?.is_none() {
            return Err(RegistryError::UnknownVersion { reference: format!("{image}@{digest}") });
        }
        let record = next_record(change, last.as_ref());
        let key = entry_key(image, channel, record.sequence);
        let text = canonical::to_string(&record);
        if !self.objects().put(&key, text.as_bytes(), Put::IfAbsent)?.stored() {
            let winner = self.entry(image, channel, record.sequence)?;
            let winner =
                winner.ok_or_else(|| RegistryError::Missing { object: self.objects().place(&key) })?;
            return match winner.record.digest == *digest {
                true => Ok(Moved::NotNeeded(winner.record)),
                false => Err(RegistryError::ChannelMoved(Box::new(winner.record))),
            };
        }
        self.point(&Entry { text: Digest::of(text.as_bytes()), record: record.clone() })?;
        Ok(Moved::Done(record))
    }

    /// Moves the pointer on to an entry, unless it is there or further.
    fn point(&self, to: &Entry) -> Result<()> {
        let Entry { record, text } = to;
        let key = pointer_key(&record.image, &record.channel);
        let pointer = ChannelPointer {
            schema: CHANNEL_SCHEMA,
            image: record.image.clone(),
            channel: record.channel.clone(),
            sequence: record.sequence,
            digest: record.digest,
            entry: *text,
        };
        let wanted = canonical::to_string(&pointer);
        loop {
            let condition = match self.objects().get(&key)? {
                None => Put::IfAbsent,
                Some(object) => {
                    let now: ChannelPointer = self.parse_channel(&key, &object.bytes, POINTER)?;
                    if now.sequence >= record.sequence {
                        return Ok(());
                    }
                    Put::IfMatch(object.etag)
                }
            };
            if self.objects().put(&key, wanted.as_bytes(), condition)?.stored() {
                return Ok(());
            }
        }
    }

    /// The last entry: the one that the pointer names, or those that came after it.
    fn last_entry(&self, image: &ImageRef, channel: &Channel) -> Result<Option<Entry>> {
        let key = pointer_key(image, channel);
        let mut last = match self.objects().get(&key)? {
            None => None,
            Some(object) => {
                let pointer: ChannelPointer = self.parse_channel(&key, &object.bytes, POINTER)?;
                if (&pointer.image, &pointer.channel) != (image, channel) || pointer.sequence == 0 {
                    return Err(self.torn_channel(&key, "it is about another channel", POINTER));
                }
                Some(self.pointed(&pointer)?)
            }
        };
        loop {
            let next = last.as_ref().map_or(1, |entry| entry.record.sequence + 1);
            let Some(entry) = self.entry(image, channel, next)? else { return Ok(last) };
            self.check_link(&entry, last.as_ref())?;
            last = Some(entry);
        }
    }

    fn pointed(&self, pointer: &ChannelPointer) -> Result<Entry> {
        let ChannelPointer { image, channel, sequence, entry, .. } = pointer;
        let key = entry_key(image, channel, *sequence);
        let found = self.entry(image, channel, *sequence)?;
        let found = found.ok_or_else(|| RegistryError::Missing { object: self.objects().place(&key) })?;
        if found.text == *entry {
            return Ok(found);
        }
        let problem = "it has another digest than the channel's pointer says";
        Err(self.torn_channel(&key, problem, ENTRY))
    }

    fn linked_entry(
        &self,
        image: &ImageRef,
        channel: &Channel,
        sequence: u64,
        before: Option<&Entry>,
    ) -> Result<Entry> {
        let key = entry_key(image, channel, sequence);
        let entry = self.entry(image, channel, sequence)?;
        let entry = entry.ok_or_else(|| RegistryError::Missing { object: self.objects().place(&key) })?;
        self.check_link(&entry, before)?;
        Ok(entry)
    }

    /// Whether an entry follows on the one before: which of the two was changed cannot be told, so both are named.
    fn check_link(&self, entry: &Entry, before: Option<&Entry>) -> Result<()> {
        if entry.record.follows == before.map(|before| before.text) {
            return Ok(());
        }
        let ChannelRecord { image, channel, sequence, .. } = &entry.record;
        let key = match before {
            Some(_) => entry_key(image, channel, sequence - 1),
            None => entry_key(image, channel, *sequence),
        };
        let problem = format!("it is not what entry {sequence} follows on");
        Err(self.torn_channel(&key, &problem, ENTRY))
    }

    fn entry(&self, image: &ImageRef, channel: &Channel, sequence: u64) -> Result<Option<Entry>> {
        let key = entry_key(image, channel, sequence);
        let Some(object) = self.objects().get(&key)? else { return Ok(None) };
        let record: ChannelRecord = self.parse_channel(&key, &object.bytes, ENTRY)?;
        if (&record.image, &record.channel, record.sequence) != (image, channel, sequence) {
            return Err(self.torn_channel(&key, "it is about another channel or has another number", ENTRY));
        }
        Ok(Some(Entry { record, text: Digest::of(&object.bytes) }))
    }

    fn parse_channel<T: serde::de::DeserializeOwned>(
        &self,
        key: &ObjectKey,
        text: &[u8],
        mend: &'static str,
    ) -> Result<T> {
        let torn = |problem: String| self.torn_channel(key, &problem, mend);
        match self.check_schema(key, text, CHANNEL_SCHEMA) {
            Err(RegistryError::Torn { problem, .. }) => return Err(torn(problem)),
            other => other?,
        }
        serde_json::from_slice(text).map_err(|error| torn(error.to_string()))
    }

    fn torn_channel(&self, key: &ObjectKey, problem: &str, mend: &'static str) -> RegistryError {
        let (object, problem) = (self.objects().place(key), problem.to_owned());
        RegistryError::TornChannel { object, problem, mend }
    }
}

fn next_record(change: &Move, last: Option<&Entry>) -> ChannelRecord {
    let Move { image, channel, seen: _, digest, by, at, why, reason, evidence } = change.clone();
    ChannelRecord {
        schema: CHANNEL_SCHEMA,
        image,
        channel,
        sequence: last.map_or(1, |entry| entry.record.sequence + 1),
        digest,
        previous: last.map(|entry| entry.record.digest),
        follows: last.map(|entry| entry.text),
        by,
        at,
        why,
        reason,
        evidence,
    }
}
