//! Disks in the store: each block once, compressed, proven by its digest. Main type: [`BlockStore`].
//!
//! Writing reads a disk's data (never its holes) on every core, digests it, and compresses only blocks that no
//! pack has; a disk that differs little from one in the store costs its digests and the few new blocks. Reading
//! checks every block before it is written. Neither holds more than some tens of blocks in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, mpsc};

use camino::Utf8Path;
use olbake_core::Digest;
use olbake_core::blockmap::{BLOCK_SIZE, BlockMap};

use super::StoreError;
use super::disk::{self, BLOCK, Extents};
use super::object::{Listed, ObjectKey, ObjectStore};
use super::pack::{self, Entry, PackWriter};
use super::turns::Turns;

/// zstd's level. Measured on a Debian disk with two cores: level 3 keeps up with the disk, and what higher levels
/// save does not pay for their time.
pub const LEVEL: i32 = 3;

/// Packs that may wait until they are made durable. They wait in the page cache, each with a file open.
const PACKS_WAITING: usize = 32;

/// How far a disk is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Blocks done.
    pub done: u64,
    /// Blocks in all.
    pub total: u64,
}

/// Hears of progress, from any thread, some times a second at most a few hundred times in all.
pub type Hear<'a> = &'a (dyn Fn(Progress) + Sync);

/// What writing a disk took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Blocks read that were not zeros.
    pub blocks: u64,
    /// Blocks that the store did not have.
    pub new_blocks: u64,
    /// Compressed bytes that were added.
    pub new_bytes: u64,
}

/// What reading a disk took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Blocks written.
    pub blocks: u64,
    /// Those of them that the disk to start from had.
    pub from_seed: u64,
}

/// A disk on this host that is much like the one wanted.
#[derive(Clone, Copy, Debug)]
pub struct Seed<'a> {
    /// What it should contain; every block is checked before it is used.
    pub map: &'a BlockMap,
    /// The raw disk.
    pub disk: &'a Utf8Path,
}

#[derive(Clone, Copy, Debug)]
struct Location {
    pack: u32,
    offset: u64,
    length: u32,
}

/// Which pack has which block.
#[derive(Debug, Default)]
struct Index {
    packs: Vec<ObjectKey>,
    known: HashSet<ObjectKey>,
    blocks: HashMap<Digest, Location>,
}

impl Index {
    fn add(&mut self, key: ObjectKey, entries: &[Entry]) {
        if !self.known.insert(key.clone()) {
            return;
        }
        let pack = u32::try_from(self.packs.len()).expect("fewer packs than 2^32");
        self.packs.push(key);
        for Entry { digest, offset, length } in entries {
            self.blocks.entry(*digest).or_insert(Location { pack, offset: *offset, length: *length });
        }
    }
}

/// The blocks in an object store.
#[derive(Debug)]
pub struct BlockStore {
    objects: Arc<dyn ObjectStore>,
    level: i32,
    index: RwLock<Option<Index>>,
}

impl BlockStore {
    /// The blocks of an object store. Nothing is read yet.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, level: LEVEL, index: RwLock::default() }
    }

    /// Compresses new blocks at another level than [`LEVEL`].
    #[must_use]
    pub fn with_level(self, level: i32) -> Self {
        Self { level, ..self }
    }

    /// Looks again which packs there are: another process may have added or removed some.
    pub fn refresh(&self) -> Result<(), StoreError> {
        let listed = self.objects.list(pack::PREFIX)?;
        let mut guard = self.index.write().expect(LOCKED);
        let there: HashSet<&ObjectKey> = listed.iter().map(|pack| &pack.key).collect();
        if guard.as_ref().is_some_and(|index| !index.known.iter().all(|key| there.contains(key))) {
            *guard = None;
        }
        let index = guard.get_or_insert_default();
        let unknown: Vec<&Listed> = listed
            .iter()
            .filter(|pack| pack::digest_of(&pack.key).is_some() && !index.known.contains(&pack.key))
            .collect();
        for (pack, entries) in unknown.iter().zip(self.read_indexes(&unknown)) {
            if let Some(entries) = entries? {
                index.add(pack.key.clone(), &entries);
            }
        }
        Ok(())
    }

    /// Reads the indexes of packs, as many at once as serves the store.
    fn read_indexes(&self, packs: &[&Listed]) -> Vec<Result<Option<Vec<Entry>>, StoreError>> {
        let ticket = AtomicUsize::new(0);
        let worker = || {
            let mut read = Vec::new();
            while let Some(pack) = packs.get(ticket.fetch_add(1, Ordering::Relaxed)) {
                read.push((pack.key.clone(), pack::read_index(&*self.objects, pack)));
            }
            read
        };
        let mut read: HashMap<ObjectKey, _> = std::thread::scope(|scope| {
            let workers: Vec<_> = (1..self.objects.concurrency().min(packs.len()).min(64))
                .map(|_| scope.spawn(worker))
                .collect();
            let mine = worker();
            workers.into_iter().flat_map(join).chain(mine).collect()
        });
        packs.iter().map(|pack| read.remove(&pack.key).expect("each pack was some worker's")).collect()
    }

    /// The blocks of a map that no pack has, with their places in the disk.
    pub fn missing(&self, map: &BlockMap) -> Result<Vec<(u32, Digest)>, StoreError> {
        self.refresh()?;
        Ok(self.not_indexed(map))
    }

    /// Whether some pack has every block of a map, as far as was known when packs were last looked for, or else now.
    pub fn is_complete(&self, map: &BlockMap) -> Result<bool, StoreError> {
        Ok(self.not_indexed(map).is_empty() || self.missing(map)?.is_empty())
    }

    fn not_indexed(&self, map: &BlockMap) -> Vec<(u32, Digest)> {
        let guard = self.index.read().expect(LOCKED);
        let has = |digest: &Digest| guard.as_ref().is_some_and(|index| index.blocks.contains_key(digest));
        map.blocks.iter().filter(|(_, digest)| !has(digest)).map(|(n, d)| (*n, *d)).collect()
    }

    /// Stores what a disk contains and says what that is. When this returns, all of it is durable.
    pub fn write_disk(&self, disk: &Utf8Path, hear: Hear<'_>) -> Result<(BlockMap, WriteStats), StoreError> {
        self.write_disk_like(disk, None, hear)
    }

    /// As [`Self::write_disk`]. Where a disk is at hand that this one was once a copy of, blocks that are the same on both
    /// are compared instead of digested, which takes a fraction of the time.
    pub fn write_disk_like(
        &self,
        disk: &Utf8Path,
        seed: Option<Seed<'_>>,
        hear: Hear<'_>,
    ) -> Result<(BlockMap, WriteStats), StoreError> {
        self.refresh()?;
        let file = File::open(disk).map_err(|e| StoreError::io("open", disk, e))?;
        let extents = disk::extents(&file, disk)?;
        let job = WriteJob {
            store: self,
            disk,
            file,
            seed: SeedReader::open(seed)?,
            extents,
            hear,
            ticket: AtomicUsize::new(0),
            taken: Mutex::default(),
        };
        std::thread::scope(|scope| {
            let (packs, finished) = mpsc::sync_channel(PACKS_WAITING);
            let committer = scope.spawn(move || self.commit_packs(finished));
            let written = job.run(packs);
            join(committer).and(written)
        })
    }

    fn commit_packs(&self, finished: mpsc::Receiver<PackWriter>) -> Result<(), StoreError> {
        for writer in finished {
            let (key, entries) = writer.commit()?;
            self.index.write().expect(LOCKED).get_or_insert_default().add(key, &entries);
        }
        Ok(())
    }

    /// Makes the raw disk of a map at `to`: a sparse file that is there whole or not at all. Where a disk like it
    /// is at hand, what they share comes from there.
    pub fn read_disk(
        &self,
        map: &BlockMap,
        to: &Utf8Path,
        seed: Option<Seed<'_>>,
        hear: Hear<'_>,
    ) -> Result<ReadStats, StoreError> {
        self.require(map)?;
        let directory = to.parent().unwrap_or(Utf8Path::new("."));
        let failed = |e| StoreError::io("create", to, e);
        let target = tempfile::Builder::new().prefix(".disk-").tempfile_in(directory).map_err(failed)?;
        target.as_file().set_len(map.size).map_err(failed)?;
        let reader = SeedReader::open(seed)?;
        let from_seed = AtomicUsize::new(0);
        self.each_block(map, hear, |number, digest, scratch| {
            if reader.read(number, digest, &mut scratch.block) {
                from_seed.fetch_add(1, Ordering::Relaxed);
            } else {
                self.read_block(number, digest, scratch)?;
            }
            disk::write_block(target.as_file(), number, &scratch.block)
                .map_err(|e| StoreError::io("write", to, e))
        })?;
        target.persist(to).map_err(|e| StoreError::io("create", to, e.error))?;
        Ok(ReadStats { blocks: map.blocks.len() as u64, from_seed: from_seed.into_inner() as u64 })
    }

    /// A block's bytes, checked. Which packs there are must be known: [`Self::missing`] looks for them.
    pub fn read(&self, number: u32, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut scratch = Scratch::new();
        self.read_block(number, digest, &mut scratch)?;
        Ok(scratch.block)
    }

    /// Reads every block of a map and checks it.
    pub fn verify(&self, map: &BlockMap, hear: Hear<'_>) -> Result<(), StoreError> {
        self.require(map)?;
        self.each_block(map, hear, |number, digest, scratch| self.read_block(number, digest, scratch))
    }

    fn require(&self, map: &BlockMap) -> Result<(), StoreError> {
        let count = map.size / BLOCK_SIZE;
        if !map.size.is_multiple_of(BLOCK_SIZE) {
            return Err(StoreError::BadMap(format!("its size {} is not of whole blocks", map.size)));
        }
        if let Some((number, _)) = map.blocks.last_key_value().filter(|(n, _)| u64::from(**n) >= count) {
            return Err(StoreError::BadMap(format!("it has block {number}, but the disk ends at {count}")));
        }
        match self.missing(map)?.first() {
            Some((number, block)) => Err(StoreError::MissingBlock { block: *block, number: *number }),
            None => Ok(()),
        }
    }

    /// Calls a function for each block of a map on every core, in about the order of the disk.
    fn each_block(
        &self,
        map: &BlockMap,
        hear: Hear<'_>,
        act: impl Fn(u32, &Digest, &mut Scratch) -> Result<(), StoreError> + Sync,
    ) -> Result<(), StoreError> {
        let blocks: Vec<(u32, Digest)> = map.blocks.iter().map(|(n, d)| (*n, *d)).collect();
        let (ticket, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let worker = || -> Result<(), StoreError> {
            let mut scratch = Scratch::new();
            while !stop.load(Ordering::Relaxed) {
                let Some((number, digest)) = blocks.get(ticket.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                if let Err(error) = act(*number, digest, &mut scratch) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                report(hear, done.fetch_add(1, Ordering::Relaxed) as u64 + 1, blocks.len() as u64);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let count = threads().max(self.objects.concurrency()).min(64);
            let workers: Vec<_> = (1..count).map(|_| scope.spawn(worker)).collect();
            let mut first = worker();
            for other in workers {
                first = first.and(join(other));
            }
            first
        })
    }

    fn location(&self, digest: &Digest) -> Option<Location> {
        self.index.read().expect(LOCKED).as_ref()?.blocks.get(digest).copied()
    }

    /// Fills the scratch's block with a block of the store, checked.
    fn read_block(&self, number: u32, digest: &Digest, scratch: &mut Scratch) -> Result<(), StoreError> {
        let missing = StoreError::MissingBlock { block: *digest, number };
        let Some(location) = self.location(digest) else { return Err(missing) };
        let key = self
            .index
            .read()
            .expect(LOCKED)
            .as_ref()
            .map(|index| index.packs[location.pack as usize].clone());
        let Some(key) = key else { return Err(missing) };
        let Some(frame) = self.objects.get_range(&key, location.offset, location.length as usize)? else {
            return Err(missing);
        };
        scratch.unpack(&frame, digest).map_err(|problem| StoreError::CorruptBlock {
            block: *digest,
            object: self.objects.place(&key),
            problem,
        })
    }

    pub(super) fn objects(&self) -> &dyn ObjectStore {
        &*self.objects
    }

    /// Forgets what packs there are.
    pub(super) fn forget(&self) {
        *self.index.write().expect(LOCKED) = None;
    }
}

const LOCKED: &str = "no thread panics while it holds the index";

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}

fn compressor(level: i32) -> zstd::bulk::Compressor<'static> {
    zstd::bulk::Compressor::new(level).expect("zstd makes a context at any level")
}

fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Tells a hundredth at a time, so that hearing costs nothing.
fn report(hear: Hear<'_>, done: u64, total: u64) {
    if done == total || done.is_multiple_of((total / 100).max(1)) {
        hear(Progress { done, total });
    }
}

/// A thread's own memory.
pub(super) struct Scratch {
    block: Vec<u8>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        let decompressor = zstd::bulk::Decompressor::new().expect("zstd makes a context");
        Self { block: vec![0; BLOCK], decompressor }
    }

    /// Fills the block from its frame, or says what is wrong with it.
    pub(super) fn unpack(&mut self, frame: &[u8], digest: &Digest) -> Result<(), String> {
        match self.decompressor.decompress_to_buffer(frame, &mut self.block) {
            Ok(BLOCK) if Digest::of(&self.block) == *digest => Ok(()),
            Ok(BLOCK) => Err("its bytes have another digest".to_owned()),
            Ok(length) => Err(format!("it has {length} bytes instead of {BLOCK}")),
            Err(error) => Err(format!("it cannot be decompressed ({error})")),
        }
    }
}

/// A disk being written to the store.
struct WriteJob<'a> {
    store: &'a BlockStore,
    disk: &'a Utf8Path,
    file: File,
    seed: SeedReader<'a>,
    extents: Extents,
    hear: Hear<'a>,
    /// The next of `extents.blocks` to be read.
    ticket: AtomicUsize,
    /// New blocks that some thread has taken on.
    taken: Mutex<HashSet<Digest>>,
}

impl WriteJob<'_> {
    /// Reads and compresses on every core, and fills packs in the order of the disk.
    fn run(&self, packs: mpsc::SyncSender<PackWriter>) -> Result<(BlockMap, WriteStats), StoreError> {
        let threads = threads();
        let map = BlockMap { size: self.extents.size, blocks: BTreeMap::new() };
        let written = Written { map, stats: WriteStats::default(), pack: None, packs, done: 0 };
        let turns = Turns::new(written, 8 * threads);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| self.work(&turns));
            }
            self.work(&turns);
        });
        turns.finish()?.close()
    }

    fn work(&self, turns: &Turns<Block, Written, StoreError>) {
        let total = self.extents.blocks.len() as u64;
        let mut compressor = compressor(self.store.level);
        let (mut buffer, mut other) = (vec![0; BLOCK], vec![0; BLOCK]);
        loop {
            let ticket = self.ticket.fetch_add(1, Ordering::Relaxed);
            let Some(number) = self.extents.blocks.get(ticket) else { return };
            let block = self.block(*number, &mut buffer, &mut other, &mut compressor);
            let more = turns.deliver(ticket, block, |written, block| {
                written.take(&*self.store.objects, block)?;
                report(self.hear, written.done, total);
                Ok(())
            });
            if !more {
                return;
            }
        }
    }

    /// What becomes of a block: its digest, and its frame where the store lacks it.
    fn block(
        &self,
        number: u32,
        buffer: &mut [u8],
        other: &mut [u8],
        compressor: &mut zstd::bulk::Compressor<'static>,
    ) -> Result<Block, StoreError> {
        disk::read_block(&self.file, number, buffer).map_err(|e| StoreError::io("read", self.disk, e))?;
        if disk::is_zero(buffer) {
            return Ok(Block::Zeros);
        }
        let digest = self.seed.digest_of(number, buffer, other).unwrap_or_else(|| Digest::of(buffer));
        if self.store.location(&digest).is_some() || !self.taken.lock().expect(LOCKED).insert(digest) {
            return Ok(Block::Known { number, digest });
        }
        let frame = compressor.compress(buffer).map_err(|e| StoreError::io("compress", self.disk, e))?;
        Ok(Block::New { number, digest, frame })
    }
}

enum Block {
    Zeros,
    Known { number: u32, digest: Digest },
    New { number: u32, digest: Digest, frame: Vec<u8> },
}

/// What is written so far, in the order of the disk.
struct Written {
    map: BlockMap,
    stats: WriteStats,
    pack: Option<PackWriter>,
    /// To the thread that makes packs durable.
    packs: mpsc::SyncSender<PackWriter>,
    done: u64,
}

impl Written {
    fn take(&mut self, objects: &dyn ObjectStore, block: Block) -> Result<(), StoreError> {
        self.done += 1;
        let (number, digest) = match block {
            Block::Zeros => return Ok(()),
            Block::Known { number, digest } => (number, digest),
            Block::New { number, digest, frame } => {
                let mut pack = match self.pack.take() {
                    Some(pack) => pack,
                    None => PackWriter::start(objects)?,
                };
                pack.add(digest, &frame)?;
                self.stats.new_blocks += 1;
                self.stats.new_bytes += frame.len() as u64;
                self.pack = Some(pack);
                (number, digest)
            }
        };
        self.stats.blocks += 1;
        self.map.blocks.insert(number, digest);
        if self.pack.as_ref().is_some_and(PackWriter::is_full) {
            self.hand_over()?;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), StoreError> {
        let Some(pack) = self.pack.take().filter(|pack| !pack.is_empty()) else { return Ok(()) };
        // Where nobody takes it, the committing thread has failed; its error is reported instead of this one.
        self.packs
            .send(pack)
            .map_err(|_| StoreError::io("commit", pack::PREFIX, std::io::ErrorKind::BrokenPipe.into()))
    }

    fn close(mut self) -> Result<(BlockMap, WriteStats), StoreError> {
        self.hand_over()?;
        Ok((self.map, self.stats))
    }
}

/// Reads blocks that a disk at hand shares with the one wanted.
struct SeedReader<'a>(Option<(&'a BlockMap, File)>);

impl<'a> SeedReader<'a> {
    fn open(seed: Option<Seed<'a>>) -> Result<Self, StoreError> {
        let Some(Seed { map, disk }) = seed else { return Ok(Self(None)) };
        let file = File::open(disk).map_err(|e| StoreError::io("open", disk, e))?;
        Ok(Self(Some((map, file))))
    }

    /// The digest of a block's bytes, if the disk has the same in its place.
    fn digest_of(&self, number: u32, bytes: &[u8], scratch: &mut [u8]) -> Option<Digest> {
        let (map, file) = self.0.as_ref()?;
        let digest = *map.blocks.get(&number)?;
        disk::read_block(file, number, scratch).ok()?;
        (*scratch == *bytes).then_some(digest)
    }

    /// Whether the block was there, as its digest says.
    fn read(&self, number: u32, digest: &Digest, block: &mut [u8]) -> bool {
        let Some((map, file)) = &self.0 else { return false };
        map.blocks.get(&number) == Some(digest)
            && disk::read_block(file, number, block).is_ok()
            && Digest::of(block) == *digest
    }
}
