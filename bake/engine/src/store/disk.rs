//! Raw disks as sparse files: where their data is, and blocks read and written at their places.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use camino::Utf8Path;
use olbake_core::blockmap::BLOCK_SIZE;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::StoreError;

/// Bytes in a block, as a length in memory.
pub const BLOCK: usize = BLOCK_SIZE as usize;

/// A disk's size and the numbers of the blocks that may hold data, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    /// Bytes, rounded up to whole blocks.
    pub size: u64,
    /// Blocks that are no hole of the file; they may still be zeros.
    pub blocks: Vec<u32>,
}

/// Asks the file system where a disk has data. Where it does not know, every block may have.
pub fn extents(file: &File, path: &Utf8Path) -> Result<Extents, StoreError> {
    let length = file.metadata().map_err(|e| StoreError::io("look at", path, e))?.len();
    let size = length.next_multiple_of(BLOCK_SIZE);
    let count = u32::try_from(size / BLOCK_SIZE)
        .map_err(|_| StoreError::BadMap(format!("`{path}` has {length} bytes, more than 2^32 blocks")))?;
    let mut blocks: Vec<u32> = Vec::new();
    let mut at = 0;
    while at < length {
        let (from, to) = match next_data(file, at, length) {
            Ok(Some(range)) => range,
            Ok(None) => break,
            Err(Errno::INVAL) => (at, length),
            Err(error) => return Err(StoreError::io("seek in", path, error.into())),
        };
        let first = u32::try_from(from / BLOCK_SIZE).unwrap_or(count);
        let after = u32::try_from(to.div_ceil(BLOCK_SIZE)).unwrap_or(count);
        let first = blocks.last().map_or(first, |last| first.max(last + 1));
        blocks.extend(first..after);
        at = to;
    }
    Ok(Extents { size, blocks })
}

fn next_data(file: &File, at: u64, length: u64) -> Result<Option<(u64, u64)>, Errno> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(from) => Ok(Some((from, seek(file, SeekFrom::Hole(from))?.min(length)))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a block; what lies after the end of the file is zeros.
pub fn read_block(file: &File, number: u32, buffer: &mut [u8]) -> io::Result<()> {
    let offset = u64::from(number) * BLOCK_SIZE;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => {
                buffer[filled..].fill(0);
                return Ok(());
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes a block.
pub fn write_block(file: &File, number: u32, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, u64::from(number) * BLOCK_SIZE)
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole words at a time: the compiler makes vectors of it.
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| word.iter().fold(0, |seen, byte| seen | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// Bytes that a file occupies.
pub fn allocated(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_left_out() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * BLOCK_SIZE + 100).unwrap();
        write_block(&file, 2, &[1; BLOCK]).unwrap();
        file.write_all_at(&[1; 10], 5 * BLOCK_SIZE - 5).unwrap();
        file.write_all_at(&[1], 10 * BLOCK_SIZE + 50).unwrap();
        let found = extents(&file, Utf8Path::new("disk")).unwrap();
        assert_eq!(found, Extents { size: 11 * BLOCK_SIZE, blocks: vec![2, 4, 5, 10] });
        let mut block = vec![7; BLOCK];
        read_block(&file, 10, &mut block).unwrap();
        assert_eq!((block[50], block[51], block[BLOCK - 1]), (1, 0, 0));
    }

    #[test]
    fn zeros_are_told_from_almost_zeros() {
        let mut bytes = vec![0; 1000];
        assert!(is_zero(&bytes));
        for at in [0, 63, 64, 999] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }
}
