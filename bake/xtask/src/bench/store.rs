//! The block store beside `zstd` at the same level on the same bytes: the disk of the example image `base`.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::workspace::Workspace;
use super::{Figure, Target, process};
use crate::build::{self, Built};

pub(super) const FIGURES: [&str; 2] = ["store.write.ratio", "store.read.ratio"];

pub(super) fn measure(built: &Built) -> Result<Vec<Figure>> {
    let measurer = build::example("olbake-engine", "store_speed")?;
    let workspace = Workspace::copy("store")?;
    process::run(&mut workspace.olbake(built, &["bake", "base", "--json"]))?;
    let disk = workspace.path().join("base.raw");
    process::run(
        &mut workspace.olbake(built, &["export", "base", "--format", "raw", "--output", disk.as_str()]),
    )?;
    // Both sides read the same bytes: without holes, which zstd would read as zeros and the store would pass over.
    let dense = workspace.path().join("dense");
    let scratch = workspace.path().join("scratch");
    std::fs::create_dir(&scratch)?;
    data_of(&disk, &dense)?;
    let taken = process::run(Command::new(&measurer).args([dense.as_str(), scratch.as_str()]))?;
    let said: Value = serde_json::from_str(&taken.stdout)?;
    let number = |name: &str| said[name].as_f64().with_context(|| format!("no `{name}` in {said}"));
    let megabytes = number("bytes")? / 1e6;
    let figure = |name, ours: f64, theirs: f64| Figure {
        name,
        value: theirs / ours,
        unit: "×",
        against: format!("{ours:.2} s; zstd -T0 -3: {theirs:.2} s for {megabytes:.0} MB"),
        target: Target::AtLeast(0.8),
    };
    Ok(vec![
        figure("store.write.ratio", number("store_write")?, number("zstd_write")?),
        figure("store.read.ratio", number("store_read")?, number("zstd_read")?),
    ])
}

/// Copies the blocks of a disk that are not zeros, one after another.
fn data_of(disk: &camino::Utf8Path, dense: &camino::Utf8Path) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let mut from = std::fs::File::open(disk)?;
    let mut to = std::io::BufWriter::new(std::fs::File::create(dense)?);
    let mut block = vec![0; 512 * 1024];
    while from.read_exact(&mut block).is_ok() {
        if block.iter().any(|byte| *byte != 0) {
            to.write_all(&block)?;
        }
    }
    Ok(to.flush()?)
}
