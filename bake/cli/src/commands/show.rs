//! `olbake show IMAGE[@VERSION]`: what is known of a version.

use super::Context;
use crate::args::ShowArgs;
use crate::errors::Result;
use crate::ui::results;

pub(super) fn run(args: &ShowArgs, context: &mut Context) -> Result {
    let registry = context.place()?.registry()?;
    let version = registry.records().resolve(&args.version)?;
    if context.ui.json {
        context.ui.document(&version.to_value());
        return Ok(());
    }
    let lineage = registry.records().lineage(&version)?;
    let text = results::version(&version, &lineage, context.startup.now, &context.ui.drawing, context.ui.out);
    context.ui.print(&text);
    Ok(())
}
