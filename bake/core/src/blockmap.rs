//! Block maps: a disk as the list of the digests of its 512 KiB blocks, holes absent.
//!
//! 512 KiB is the block of the EBS direct API; with the same block here, an upload knows its changed blocks
//! without reading the disk. A block of zeros is a hole. Main type: [`BlockMap`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, FieldDigest};

/// Bytes in a block.
pub const BLOCK_SIZE: u64 = 512 * 1024;

/// The content of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockMap {
    /// The disk's size in bytes, a multiple of [`BLOCK_SIZE`].
    pub size: u64,
    /// Block number → digest of the block's bytes; what is absent is zeros.
    pub blocks: BTreeMap<u32, Digest>,
}

impl BlockMap {
    /// The digest of the map: of its size and of each block's number and digest, in order.
    pub fn digest(&self) -> Digest {
        let Self { size, blocks } = self;
        let mut bytes = Vec::with_capacity(blocks.len() * 36);
        for (number, digest) in blocks {
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(digest.as_bytes());
        }
        FieldDigest::new("olbake block map 1")
            .field("size", &size.to_le_bytes())
            .field("blocks", &bytes)
            .finish()
    }

    /// The numbers of the blocks that differ from `parent`, holes that were data included.
    pub fn changed_since(&self, parent: &BlockMap) -> Vec<u32> {
        let mut changed: Vec<u32> = self
            .blocks
            .iter()
            .filter(|(number, digest)| parent.blocks.get(number) != Some(digest))
            .map(|(number, _)| *number)
            .chain(parent.blocks.keys().filter(|number| !self.blocks.contains_key(number)).copied())
            .collect();
        changed.sort_unstable();
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(blocks: &[(u32, &str)]) -> BlockMap {
        let blocks = blocks.iter().map(|(n, content)| (*n, Digest::of(content.as_bytes()))).collect();
        BlockMap { size: 8 * BLOCK_SIZE, blocks }
    }

    #[test]
    fn changes_include_new_changed_and_emptied_blocks() {
        let parent = map(&[(0, "a"), (1, "b"), (3, "d")]);
        let child = map(&[(0, "a"), (1, "B"), (2, "c")]);
        assert_eq!(child.changed_since(&parent), [1, 2, 3]);
        assert_ne!(child.digest(), parent.digest());
        assert_eq!(parent.changed_since(&parent), Vec::<u32>::new());
    }
}
