//! How fast the block store is beside `zstd -T0` at the same level on the same bytes; `cargo xtask bench` prints it.
//!
//! The store does more: it digests every block, checks every digest, and what it wrote is durable, while `zstd`
//! leaves that to the page cache. Both find the input in the page cache. Runs alternate; the median counts.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use camino::Utf8Path;

use super::StoreError;
use super::blocks::{BlockStore, LEVEL};
use super::file::FileStore;

/// Seconds, medians of the runs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Measured {
    /// Bytes of the disk's data.
    pub bytes: u64,
    /// The store writing the disk.
    pub store_write: f64,
    /// `zstd` compressing it.
    pub zstd_write: f64,
    /// The store making the disk again.
    pub store_read: f64,
    /// `zstd` decompressing it.
    pub zstd_read: f64,
    /// The store writing the disk when it has all of it.
    pub store_rewrite: f64,
    /// Bytes the store added.
    pub stored_bytes: u64,
}

/// Measures on a disk. `scratch` is an empty directory; it holds nothing afterwards that was not there before.
///
/// # Errors
/// Those of the store, and where `zstd` cannot be run.
pub fn measure(disk: &Utf8Path, scratch: &Utf8Path, runs: usize) -> Result<Measured, StoreError> {
    let mut seconds: [Vec<f64>; 5] = Default::default();
    let (mut stored_bytes, mut bytes) = (0, 0);
    let (root, copy, frames) = (scratch.join("store"), scratch.join("copy"), scratch.join("disk.zst"));
    zstd(&["-q", "-f", "-1", disk.as_str(), "-o", "/dev/null"])?;
    for _ in 0..runs.max(1) {
        let level = format!("-{LEVEL}");
        seconds[0].push(time(|| zstd(&["-q", "-f", "-T0", &level, disk.as_str(), "-o", frames.as_str()]))?.1);
        seconds[1].push(time(|| zstd(&["-q", "-f", "-T0", "-d", frames.as_str(), "-o", copy.as_str()]))?.1);
        remove(&copy)?;
        remove(&frames)?;

        let blocks = BlockStore::new(Arc::new(FileStore::open(&root)?));
        let ((map, stats), elapsed) = time(|| blocks.write_disk(disk, &|_| {}))?;
        seconds[2].push(elapsed);
        seconds[3].push(time(|| blocks.read_disk(&map, &copy, None, &|_| {}))?.1);
        seconds[4].push(time(|| blocks.write_disk(disk, &|_| {}))?.1);
        (stored_bytes, bytes) = (stats.new_bytes, stats.blocks * super::disk::BLOCK as u64);
        remove(&copy)?;
        std::fs::remove_dir_all(&root).map_err(|e| StoreError::io("remove", &root, e))?;
    }
    let [zstd_write, zstd_read, store_write, store_read, store_rewrite] = seconds.map(median);
    Ok(Measured { bytes, store_write, zstd_write, store_read, zstd_read, store_rewrite, stored_bytes })
}

fn time<T>(act: impl FnOnce() -> Result<T, StoreError>) -> Result<(T, f64), StoreError> {
    let start = Instant::now();
    let done = act()?;
    Ok((done, start.elapsed().as_secs_f64()))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn remove(path: &Utf8Path) -> Result<(), StoreError> {
    std::fs::remove_file(path).map_err(|e| StoreError::io("remove", path, e))
}

fn zstd(arguments: &[&str]) -> Result<(), StoreError> {
    let status =
        Command::new("zstd").args(arguments).status().map_err(|e| StoreError::io("run", "zstd", e))?;
    match status.success() {
        true => Ok(()),
        false => Err(StoreError::io("run", "zstd", std::io::Error::other(format!("it ended with {status}")))),
    }
}
