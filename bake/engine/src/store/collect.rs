//! Frees the room of blocks that nothing needs. What is needed is decided elsewhere ([`crate::gc`]).
//!
//! A pack without a needed block goes; one with few is written anew with those, and goes once the new one is
//! durable. A process killed in between leaves a block in two packs, which the next collection finds.

use std::collections::HashSet;

use olbake_core::Digest;

use super::StoreError;
use super::blocks::{BlockStore, Scratch};
use super::object::Listed;
use super::pack::{self, Entry, PackWriter};

/// A pack is written anew when less than this share of its bytes is needed: half of what moving them frees.
const WORTH_KEEPING: f64 = 0.5;

/// What a pack is good for.
#[derive(Clone, Debug)]
pub(crate) struct PackUse {
    pub(crate) pack: Listed,
    /// The blocks that are needed, sound as far as was looked, and in no pack before this one.
    pub(crate) keep: Vec<Entry>,
    /// The blocks that are corrupt, if that was looked for, and what is wrong with each.
    pub(crate) corrupt: Vec<(Digest, String)>,
    /// Bytes of the other blocks.
    pub(crate) free: u64,
}

/// What a collection does to a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Stays,
    Goes,
    WrittenAnew,
}

impl PackUse {
    pub(crate) fn fate(&self) -> Fate {
        let needed: u64 = self.keep.iter().map(|entry| u64::from(entry.length)).sum();
        #[allow(clippy::cast_precision_loss, reason = "a share, not an amount")]
        let share = needed as f64 / (needed + self.free).max(1) as f64;
        match () {
            () if self.keep.is_empty() => Fate::Goes,
            () if !self.corrupt.is_empty() || share < WORTH_KEEPING => Fate::WrittenAnew,
            () => Fate::Stays,
        }
    }
}

/// How closely packs are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// At their indexes.
    Index,
    /// At every block that is needed.
    Blocks,
}

impl BlockStore {
    /// Says of each pack which of its blocks are needed.
    pub(crate) fn survey(&self, needed: &HashSet<Digest>, look: Look) -> Result<Vec<PackUse>, StoreError> {
        let mut seen = HashSet::new();
        let mut uses = Vec::new();
        for pack in self.objects().list(pack::PREFIX)? {
            if pack::digest_of(&pack.key).is_none() {
                continue;
            }
            let entries = match pack::read_index(self.objects(), &pack) {
                Ok(Some(entries)) => entries,
                Ok(None) => continue,
                // Nothing in it can be found; its blocks count as lost.
                Err(StoreError::CorruptPack { .. }) if look == Look::Blocks => Vec::new(),
                Err(error) => return Err(error),
            };
            let mut scratch = Scratch::new();
            let mut found = PackUse { pack, keep: Vec::new(), corrupt: Vec::new(), free: 0 };
            for entry in entries {
                let wanted = needed.contains(&entry.digest) && !seen.contains(&entry.digest);
                match wanted.then(|| self.inspect(&found.pack, &entry, look, &mut scratch)).transpose()? {
                    None => found.free += u64::from(entry.length),
                    Some(Ok(())) => {
                        seen.insert(entry.digest);
                        found.keep.push(entry);
                    }
                    Some(Err(problem)) => {
                        found.free += u64::from(entry.length);
                        found.corrupt.push((entry.digest, problem));
                    }
                }
            }
            uses.push(found);
        }
        Ok(uses)
    }

    fn inspect(
        &self,
        pack: &Listed,
        entry: &Entry,
        look: Look,
        scratch: &mut Scratch,
    ) -> Result<Result<(), String>, StoreError> {
        if look == Look::Index {
            return Ok(Ok(()));
        }
        let frame = self.objects().get_range(&pack.key, entry.offset, entry.length as usize)?;
        Ok(scratch.unpack(&frame.unwrap_or_default(), &entry.digest))
    }

    /// Does to a pack what its use says. Nobody else may use the store.
    pub(crate) fn collect(&self, found: &PackUse) -> Result<(), StoreError> {
        match found.fate() {
            Fate::Stays => return Ok(()),
            Fate::Goes => {}
            Fate::WrittenAnew => {
                let mut writer = PackWriter::start(self.objects())?;
                for Entry { digest, offset, length } in &found.keep {
                    let frame = self.objects().get_range(&found.pack.key, *offset, *length as usize)?;
                    writer.add(*digest, &frame.unwrap_or_default())?;
                }
                writer.commit()?;
            }
        }
        self.objects().delete(&found.pack.key)?;
        self.forget();
        Ok(())
    }
}
