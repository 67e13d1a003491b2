//! `olbake import ami AMI --name NAME`: the disk of an image of EC2 as a base for recipes.

use olbake_aws::Account;
use olbake_aws::import::{Imported, import};

use super::super::Context;
use super::super::machines::block_on;
use crate::args::{Import, ImportArgs};
use crate::errors::Result;
use crate::ui::human;

/// Where bases are, below the workspace.
const BASES: &str = "bases";

pub(in crate::commands) fn run(args: &ImportArgs, context: &mut Context) -> Result {
    let Import::Ami { ami, name, region } = &args.what;
    let place = context.place()?;
    let registry = place.registry()?;
    let ui = context.ui.clone();
    let imported = block_on(async {
        let account = Account::find(region.as_deref()).await;
        account.check("ec2:DescribeImages").await?;
        let hear = |done: u64, total: u64| {
            if done == total || done.is_multiple_of((total / 10).max(1)) {
                ui.say(&format!("{done} of {total} blocks"));
            }
        };
        Ok(import(&account, &registry, ami, &place.root.join(BASES), name.as_str(), hear).await?)
    })?;
    if context.ui.json {
        context.ui.result("import", &imported);
        return Ok(());
    }
    let Imported { source, file, fetched, new_blocks } = imported;
    let file = file.strip_prefix(&place.root).unwrap_or(&file);
    context.ui.say(&format!(
        "{}: {}, {} fetched, {new_blocks} new",
        source.name,
        human::size(source.size),
        human::plural(usize::try_from(fetched).unwrap_or(usize::MAX), "block"),
    ));
    context.ui.print(&format!("base = disk(\"{file}\", sha256 = \"{}\")\n", source.sha256.hex()));
    Ok(())
}
