//! Evaluates the recipe of a stack of many resources, reads its state from files and plans it anew where nothing changed, and says how
//! long it took, as JSON: `cargo run --release -p olbake-testkit --example preview_many -- read FOLDER 10000`.
//! `make` instead of `read` writes the state first and says how many bytes each create wrote. `cargo xtask bench
//! preview` runs it.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::plan::Architecture;
use olbake_core::stack::planner::{self, Facts, Inventory, Wishes};
use olbake_core::stack::{Declaration, Record, StackState};
use olbake_engine::stack::{Refresh, Site, Stacks};
use olbake_engine::state::{HoldOptions, StateStore};
use olbake_lang::{Inputs, StackInputs, Workspace};
use olbake_testkit::cloud::{Cloud, catalog};
use olbake_testkit::stacks::{stack, write_many};
use serde_json::{Map, json};

/// Resources that are made at the same time and so may share a slot of the journal.
const TOGETHER: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, folder, count] = &arguments[..] else {
        return Err("say make|read, a folder and a number".into());
    };
    let (folder, count) = (Utf8PathBuf::from(folder), count.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let said = match verb.as_str() {
        "make" => runtime.block_on(make(&folder, count))?,
        _ => runtime.block_on(read(&folder, count))?,
    };
    println!("{said}");
    Ok(())
}

/// Writes what a change that makes everything writes.
async fn make(folder: &Utf8Path, count: usize) -> Result<serde_json::Value, Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    write_many(folder.as_std_path(), count)?;
    let declaration = evaluate(folder)?;
    let applied = StackState::default();
    let wishes = Wishes::default();
    let inventory = Inventory::new();
    let catalog = catalog();
    let base = applied.digest();
    let facts = Facts {
        declaration: &declaration,
        applied: &applied,
        base,
        inventory: &inventory,
        catalog: &catalog,
        wishes: &wishes,
    };
    let plan = planner::plan(&facts).map_err(|problems| format!("{problems:?}"))?;
    let store = StateStore::open("file://state", folder)?;
    let held =
        Arc::new(store.hold::<StackState>(&declaration.stack, HoldOptions::here("bench", "make")?).await?);
    held.append(Record::Begun { plan: plan.digest(), images: plan.images.clone(), at: 0 }).await?;
    let (first, then): (Vec<_>, Vec<_>) = plan.actions.iter().partition(|action| action.after.is_empty());
    for actions in first.chunks(TOGETHER).chain(then.chunks(TOGETHER)) {
        let made = actions.iter().map(|action| {
            let (held, action) = (held.clone(), (*action).clone());
            tokio::spawn(async move {
                let inputs =
                    held.with(|state| olbake_testkit::stacks::resolved(state, &action.inputs)).await?;
                let intent = action.intent(inputs).expect("everything is made");
                held.append(Record::Intent(Box::new(intent))).await?;
                let id = format!("{}_id", action.ty.kind());
                let outputs = Map::from_iter([(id, json!(action.id))]);
                held.append(Record::Done { key: action.key, outputs, seen: true }).await
            })
        });
        for made in made.collect::<Vec<_>>() {
            made.await??;
        }
    }
    let outputs = std::collections::BTreeMap::new();
    held.append(Record::Finished { outputs, references: plan.references.clone(), at: 1 }).await?;
    held.close("made").await?;
    let bytes = size_of(folder.join("state").as_std_path())?;
    Ok(json!({"resources": count, "bytes": bytes, "bytes_per_create": bytes as f64 / count as f64}))
}

/// What the recipe declares.
fn evaluate(folder: &Utf8Path) -> Result<Declaration, Box<dyn Error>> {
    let workspace = Workspace::load(folder)?.with_stacks(catalog(), &["QA".to_owned()]);
    let inputs = StackInputs::offline(&Inputs::offline(Architecture::Amd64));
    let evaluated = workspace.evaluate(&stack(), &inputs);
    Ok(evaluated.map_err(|problems| format!("{problems}"))?.declaration)
}

/// Evaluates the recipe, reads the state and plans.
async fn read(folder: &Utf8Path, count: usize) -> Result<serde_json::Value, Box<dyn Error>> {
    let start = Instant::now();
    let declaration = evaluate(folder)?;
    let evaluating = start.elapsed().as_secs_f64();
    let cloud = Cloud::new();
    let mut site: Site = cloud.process().0.site;
    site.clock = Arc::new(olbake_engine::state::SystemClock);
    let stacks = Stacks { store: StateStore::open("file://state", folder)?, site };
    let preview = stacks.preview(&declaration, &Wishes::default(), Refresh::Trust).await?;
    let seconds = start.elapsed().as_secs_f64();
    if !preview.plan.is_empty() || preview.plan.unchanged != count {
        return Err(format!("{} actions for unchanged resources", preview.plan.actions.len()).into());
    }
    Ok(json!({"resources": count, "seconds": seconds, "evaluating_seconds": evaluating}))
}

fn size_of(folder: &std::path::Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { size_of(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}
