//! Search for many texts at once in much data.
//!
//! Every position's first four bytes are looked up in a bitmap of 65,536 bits; only where the bit is set are the
//! texts that begin so compared. One pass, whose cost hardly depends on how many texts there are.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The shortest text that can be searched for.
pub(crate) const SHORTEST: usize = 4;
const CHUNK: usize = 256 * 1024;

/// Texts to be found.
pub(crate) struct Needles {
    texts: Vec<Vec<u8>>,
    by_head: HashMap<u32, Vec<usize>>,
    bitmap: Box<[u64; 1024]>,
    longest: usize,
}

/// Where a text was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Which text.
    pub(crate) needle: usize,
    /// Bytes before it.
    pub(crate) offset: u64,
}

impl Needles {
    /// Texts of at least [`SHORTEST`] bytes; shorter ones are never found.
    pub(crate) fn new(texts: Vec<Vec<u8>>) -> Self {
        let mut by_head: HashMap<u32, Vec<usize>> = HashMap::new();
        let mut bitmap = Box::new([0_u64; 1024]);
        for (index, text) in texts.iter().enumerate() {
            if let Some(head) = text.first_chunk::<SHORTEST>() {
                let head = u32::from_le_bytes(*head);
                by_head.entry(head).or_default().push(index);
                let bit = slot(head);
                bitmap[bit >> 6] |= 1 << (bit & 63);
            }
        }
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        Self { texts, by_head, bitmap, longest }
    }

    /// Finds all texts in some bytes.
    pub(crate) fn find(&self, bytes: &[u8], hits: &mut Vec<Hit>) {
        for (at, head) in bytes.windows(SHORTEST).enumerate() {
            let head = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
            let bit = slot(head);
            if self.bitmap[(bit >> 6) & 1023] & (1 << (bit & 63)) != 0 {
                self.compare(bytes, at, head, hits);
            }
        }
    }

    #[cold]
    fn compare(&self, bytes: &[u8], at: usize, head: u32, hits: &mut Vec<Hit>) {
        for needle in self.by_head.get(&head).into_iter().flatten() {
            if bytes[at..].starts_with(&self.texts[*needle]) {
                hits.push(Hit { needle: *needle, offset: at as u64 });
            }
        }
    }

    /// Finds all texts in a file, in pieces that overlap by the longest text.
    pub(crate) fn find_in_file(&self, file: &File, buffer: &mut Vec<u8>) -> io::Result<Vec<Hit>> {
        let overlap = self.longest.saturating_sub(1);
        buffer.resize(CHUNK + overlap, 0);
        let mut hits = Vec::new();
        let (mut start, mut kept) = (0_u64, 0_usize);
        loop {
            let count = match file.read_at(&mut buffer[kept..], start + kept as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if count == 0 {
                break;
            }
            let filled = kept + count;
            let mut found = Vec::new();
            self.find(&buffer[..filled], &mut found);
            // What lies wholly in the part that was kept was found before.
            let is_new = |hit: &Hit| hit.offset as usize + self.texts[hit.needle].len() > kept;
            hits.extend(
                found.into_iter().filter(is_new).map(|hit| Hit { offset: start + hit.offset, ..hit }),
            );
            let keep = overlap.min(filled);
            buffer.copy_within(filled - keep..filled, 0);
            start += (filled - keep) as u64;
            kept = keep;
        }
        Ok(hits)
    }
}

/// The bit of four bytes: the upper half of a product with a large odd number.
fn slot(head: u32) -> usize {
    (head.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn needles(texts: &[&str]) -> Needles {
        Needles::new(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
    }

    #[test]
    fn all_texts_are_found_at_all_places() {
        let mut hits = Vec::new();
        needles(&["hunter2", "hunt", "xyz"]).find(b"a hunter2 hunt xyz", &mut hits);
        let found: Vec<_> = hits.iter().map(|hit| (hit.needle, hit.offset)).collect();
        assert_eq!(found, [(0, 2), (1, 2), (1, 10)]);
    }

    #[test]
    fn a_text_across_two_pieces_is_found_once() {
        let mut file = tempfile::tempfile().unwrap();
        let mut bytes = vec![b'.'; 3 * CHUNK];
        let places = [0, CHUNK - 3, CHUNK + 7, 2 * CHUNK + 1, 3 * CHUNK - 7];
        for place in places {
            bytes[place..place + 7].copy_from_slice(b"hunter2");
        }
        file.write_all(&bytes).unwrap();
        let hits = needles(&["hunter2", "not there at all"]).find_in_file(&file, &mut Vec::new()).unwrap();
        let found: Vec<_> = hits.iter().map(|hit| hit.offset as usize).collect();
        assert_eq!(found, places);
    }
}
