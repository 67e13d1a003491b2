//! Plans many images and says how long it took, as JSON:
//! `cargo run --release -p olbake-lang --example plan_many -- 1000 20`. `cargo xtask bench plan` runs it.

use std::error::Error;
use std::time::Instant;

use camino::Utf8Path;
use olbake_core::plan::Architecture;
use olbake_lang::{Inputs, Workspace};

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> =
        std::env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let (images, components) =
        (numbers.first().copied().unwrap_or(1000), numbers.get(1).copied().unwrap_or(20));
    let folder = tempfile::tempdir()?;
    olbake_testkit::workspace::generate(folder.path(), images, components)?;
    let root = Utf8Path::from_path(folder.path()).ok_or("the temporary folder is not UTF-8")?;
    let start = Instant::now();
    let workspace = Workspace::load(root)?;
    let all = workspace.images();
    let listed = start.elapsed();
    let planned = workspace.plan_all(&all, &Inputs::offline(Architecture::Amd64));
    let seconds = start.elapsed().as_secs_f64();
    let operations: usize = planned
        .iter()
        .map(|(_, planned)| {
            planned
                .as_ref()
                .map_or(0, |planned| planned.plan.layers.iter().map(|layer| layer.operations.len()).sum())
        })
        .sum();
    let failed = planned.iter().find_map(|(image, planned)| Some((image, planned.as_ref().err()?)));
    if let Some((image, problems)) = failed {
        return Err(format!("{image}: {problems}").into());
    }
    println!(
        "{}",
        serde_json::json!({
            "images": all.len(),
            "operations": operations,
            "seconds": seconds,
            "listing_seconds": listed.as_secs_f64(),
        })
    );
    Ok(())
}
