//! `olbake gc`: what nothing needs any more, shown or removed.

use std::time::Duration;

use olbake_engine::bake::work;
use olbake_engine::gc::{self, Garbage, GcOptions, GcPlan, Kept};
use olbake_local::LocalBuilder;
use serde_json::json;

use super::Context;
use super::machines::block_on;
use super::place::Place;
use crate::args::GcArgs;
use crate::errors::{CliError, Result};
use crate::ui::human;
use crate::ui::table::Table;

pub(super) fn run(args: &GcArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let options = GcOptions {
        keep: args.keep.map(usize::from),
        rollback_depth: place.config.rollback_depth,
        younger: Duration::from_secs(u64::from(args.days) * 24 * 3600),
        repair: args.repair,
    };
    let (registry, cache) = (place.registry()?, place.cache()?);
    let found = if args.apply {
        sweep(context, &place)?;
        gc::apply(registry.records(), &cache, &options)?
    } else {
        gc::plan(registry.records(), &cache, &options)?
    };
    tell(args, context, &found);
    Ok(())
}

/// Ends what interrupted bakes left behind.
fn sweep(context: &Context, place: &Place) -> Result {
    let cache = place.cache()?;
    let left =
        block_on(async { work::sweep(cache.dir(), &LocalBuilder::new()).await.map_err(CliError::from) })?;
    for message in left {
        context.ui.say(&message);
    }
    Ok(())
}

fn tell(args: &GcArgs, context: &Context, found: &GcPlan) {
    let Context { ui, .. } = context;
    if ui.json {
        return ui.document(&json!({
            "removed": args.apply, "bytes": found.bytes(), "garbage": found.garbage, "kept": found.kept,
        }));
    }
    for Kept { what, reason } in &found.kept {
        ui.print(&format!("kept {what}: {reason}\n"));
    }
    if found.garbage.is_empty() {
        return ui.print("nothing to remove\n");
    }
    let mut table = Table::new(["WHAT", "SIZE", "WHY"]);
    for Garbage { kind: _, what, reason, bytes } in &found.garbage {
        table.row([what.clone(), human::size(*bytes), reason.clone()]);
    }
    ui.print(&table.render(ui.out));
    let (count, size) = (human::plural(found.garbage.len(), "thing"), human::size(found.bytes()));
    if args.apply {
        ui.print(&format!("removed {count}, {size}\n"));
    } else {
        ui.print(&format!("{count}, {size}; `--apply` removes them\n"));
    }
}
