//! Packs: many compressed blocks in one object.
//!
//! One object for each block would cost a synchronisation, or a request, for each: for 2,000 blocks that took nine
//! times as long as a few large objects. Form, version 1:
//!
//! ```text
//! blocks    zstd frames, one after another
//! index     for each block: 32 bytes digest, offset and compressed length as little-endian u64 and u32
//! trailer   number of blocks as little-endian u32, then the 12 bytes `olbake pack1`
//! ```
//!
//! A pack is named by the digest of its index, `v1/packs/DIGEST.pack`, and each block is proven by its own digest;
//! so every byte that is believed has been checked.

use std::io::Write;

use olbake_core::Digest;

use super::StoreError;
use super::object::{Listed, ObjectKey, ObjectStore, Upload};

/// Where packs are.
pub const PREFIX: &str = "v1/packs/";
const SUFFIX: &str = ".pack";
const MAGIC: &[u8; 12] = b"olbake pack1";
const ENTRY: usize = 32 + 8 + 4;
const TRAILER: usize = 4 + MAGIC.len();
/// What is read of a pack's end at first; enough for 371 blocks.
const TAIL: u64 = 16 * 1024;
/// A pack is closed when it has this many bytes…
const FULL_BYTES: u64 = 32 * 1024 * 1024;
/// … or this many blocks.
const FULL_BLOCKS: usize = 4096;

/// Where a block is in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The block.
    pub digest: Digest,
    /// Where its frame starts.
    pub offset: u64,
    /// Bytes of its frame.
    pub length: u32,
}

/// The name of the pack with this index.
pub fn key(index: Digest) -> ObjectKey {
    format!("{PREFIX}{}{SUFFIX}", index.hex()).parse().expect("hexadecimal digits are a name")
}

/// The digest in a pack's name; none for other objects.
pub fn digest_of(key: &ObjectKey) -> Option<Digest> {
    Digest::from_hex(key.as_str().strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?).ok()
}

/// A pack being written.
pub struct PackWriter {
    upload: Box<dyn Upload>,
    entries: Vec<Entry>,
    offset: u64,
}

impl PackWriter {
    /// Starts a pack.
    pub fn start(objects: &dyn ObjectStore) -> Result<Self, StoreError> {
        Ok(Self { upload: objects.upload()?, entries: Vec::new(), offset: 0 })
    }

    /// Adds a block's compressed frame.
    pub fn add(&mut self, digest: Digest, frame: &[u8]) -> Result<(), StoreError> {
        self.upload.write_all(frame).map_err(|e| StoreError::io("write", self.upload.place(), e))?;
        let length = u32::try_from(frame.len()).expect("a frame is about as long as a block at most");
        self.entries.push(Entry { digest, offset: self.offset, length });
        self.offset += u64::from(length);
        Ok(())
    }

    /// Whether it is time for another pack.
    pub fn is_full(&self) -> bool {
        self.offset >= FULL_BYTES || self.entries.len() >= FULL_BLOCKS
    }

    /// Whether it has no block.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes the pack durable. Its blocks are in the store from now on, and not before.
    pub fn commit(mut self) -> Result<(ObjectKey, Vec<Entry>), StoreError> {
        let index = encode(&self.entries);
        let key = key(Digest::of(&index));
        let count = u32::try_from(self.entries.len()).expect("a pack has few blocks");
        let written = self.upload.write_all(&index).and_then(|()| {
            self.upload.write_all(&count.to_le_bytes())?;
            self.upload.write_all(MAGIC)
        });
        written.map_err(|e| StoreError::io("write", self.upload.place(), e))?;
        self.upload.commit(&key)?;
        Ok((key, self.entries))
    }
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
    for Entry { digest, offset, length } in entries {
        bytes.extend_from_slice(digest.as_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
    }
    bytes
}

/// Reads the index of a pack that a listing named; none where it is gone by now.
pub fn read_index(objects: &dyn ObjectStore, pack: &Listed) -> Result<Option<Vec<Entry>>, StoreError> {
    let Some(mut tail) = read_tail(objects, pack, TAIL)? else { return Ok(None) };
    let corrupt = |problem: &str| StoreError::CorruptPack {
        object: objects.place(&pack.key),
        problem: problem.to_owned(),
    };
    let expected = digest_of(&pack.key).ok_or_else(|| corrupt("its name is no digest"))?;
    let count = trailer(&tail).ok_or_else(|| corrupt("its end is not that of a pack"))?;
    let needed = count * ENTRY + TRAILER;
    if needed > tail.len() {
        match read_tail(objects, pack, needed as u64)? {
            Some(longer) => tail = longer,
            None => return Ok(None),
        }
    }
    let start = tail.len().checked_sub(needed).ok_or_else(|| corrupt("its index is cut short"))?;
    let index = &tail[start..start + count * ENTRY];
    if Digest::of(index) != expected {
        return Err(corrupt("its index has another digest than its name says"));
    }
    Ok(Some(index.chunks_exact(ENTRY).map(decode).collect()))
}

fn read_tail(objects: &dyn ObjectStore, pack: &Listed, length: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let length = length.min(pack.size);
    objects.get_range(&pack.key, pack.size - length, usize::try_from(length).expect("packs are small"))
}

fn trailer(tail: &[u8]) -> Option<usize> {
    let (rest, magic) = tail.split_last_chunk::<12>()?;
    let (_, count) = rest.split_last_chunk::<4>()?;
    (magic == MAGIC).then_some(u32::from_le_bytes(*count) as usize)
}

fn decode(entry: &[u8]) -> Entry {
    let array = |from: usize| <[u8; 8]>::try_from(&entry[from..from + 8]).expect("eight bytes");
    let digest = <[u8; 32]>::try_from(&entry[..32]).expect("thirty-two bytes");
    let length = <[u8; 4]>::try_from(&entry[40..]).expect("four bytes");
    Entry {
        digest: Digest::from_bytes(digest),
        offset: u64::from_le_bytes(array(32)),
        length: u32::from_le_bytes(length),
    }
}
