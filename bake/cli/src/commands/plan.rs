//! `olbake plan IMAGE`: what a bake would do.

use super::Context;
use crate::args::PlanArgs;
use crate::errors::Result;
use crate::ui::plan;

pub(super) fn run(args: &PlanArgs, context: &mut Context) -> Result {
    if args.schema {
        context.ui.document(&olbake_core::plan::schema());
        return Ok(());
    }
    let place = context.place()?;
    let workspace = context.workspace(&place)?;
    let image = context.image(&workspace, args.image.as_ref())?;
    let planned = workspace.plan(&image, &context.inputs(&place, &args.settings)?)?;
    if context.ui.json {
        context.ui.document(&planned.plan);
    } else {
        context.ui.diagnostics(&planned.warnings);
        context.ui.print(&plan::text(&planned.plan, context.ui.out));
    }
    Ok(())
}
