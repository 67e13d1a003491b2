//! `olbake gc --on ec2`: what nothing at AWS needs any more, shown or removed.

use std::collections::BTreeSet;
use std::time::Duration;

use olbake_aws::Account;
use olbake_aws::gc::{self, Doomed, GcOptions, GcPlan, Kept};
use olbake_engine::gc as registry_gc;
use olbake_engine::registry::Registry;
use olbake_engine::registry::places::EC2;
use serde_json::json;

use super::super::Context;
use super::super::machines::block_on;
use crate::args::GcArgs;
use crate::errors::Result;
use crate::ui::human;
use crate::ui::table::Table;

const DAY: u64 = 24 * 3600;

pub(in crate::commands) fn run(args: &GcArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let registry = place.registry()?;
    let keep = registry_gc::GcOptions {
        keep: args.keep.map(usize::from),
        rollback_depth: place.config.rollback_depth,
        ..registry_gc::GcOptions::default()
    };
    let needed = registry_gc::needed(registry.records(), &keep)?;
    let found = block_on(async {
        let account = Account::find(args.regions.first().map(String::as_str)).await;
        account.check("ec2:DescribeImages").await?;
        let options = GcOptions {
            regions: regions(args, &account, &registry)?,
            needed,
            younger: Duration::from_secs(u64::from(args.days) * DAY),
            now: human::timestamp(context.startup.now),
        };
        Ok(match args.apply {
            true => gc::apply(&account, &registry, &options).await?,
            false => gc::plan(&account, &registry, &options).await?,
        })
    })?;
    tell(args, context, &found);
    Ok(())
}

/// Those that were named, or else that of the environment and those where versions are.
fn regions(args: &GcArgs, account: &Account, registry: &Registry) -> Result<Vec<String>> {
    if !args.regions.is_empty() {
        return Ok(args.regions.clone());
    }
    let places = registry.records().all_places()?;
    let places = places.into_iter().filter(|place| place.kind == EC2).map(|place| place.region);
    let regions: BTreeSet<String> = places.chain(account.region().map(str::to_owned)).collect();
    Ok(regions.into_iter().collect())
}

fn tell(args: &GcArgs, context: &Context, found: &GcPlan) {
    let ui = &context.ui;
    let GcPlan { doomed, kept } = found;
    if ui.json {
        return ui.document(&json!({ "removed": args.apply, "garbage": doomed, "kept": kept }));
    }
    for Kept { region, id, name, reason } in kept {
        ui.print(&format!("kept {id} ({name}) in {region}: {reason}\n"));
    }
    if doomed.is_empty() {
        return ui.print("nothing to remove\n");
    }
    let mut table = Table::new(["REGION", "WHAT", "NAME", "WHY"]);
    for Doomed { region, id, name, snapshots, reason, .. } in doomed {
        let what = std::iter::once(id).chain(snapshots).cloned().collect::<Vec<_>>().join(" ");
        table.row([region.clone(), what, name.clone(), reason.clone()]);
    }
    ui.print(&table.render(ui.out));
    let count = human::plural(doomed.len(), "thing");
    match args.apply {
        true => ui.print(&format!("removed {count}\n")),
        false => ui.print(&format!("{count}; `--apply` removes them\n")),
    }
}
