//! `olbake check`: every mistake in every recipe, without running anything.

use olbake_core::diagnostic::{Diagnostics, Severity};
use serde::Serialize;

use super::Context;
use crate::args::CheckArgs;
use crate::errors::{CliError, Result};
use crate::ui::human::plural;

/// What was looked at.
#[derive(Serialize)]
struct Checked {
    images: usize,
    components: usize,
    warnings: usize,
}

pub(super) fn run(args: &CheckArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let workspace = context.workspace(&place)?;
    let found = workspace.check(&context.offline(&place, &args.settings)?);
    if found.has_errors() {
        return Err(found.into());
    }
    if args.strict && !found.0.is_empty() {
        return Err(CliError::from(found).help("`--strict` fails on warnings"));
    }
    let checked = Checked {
        images: workspace.images().len(),
        components: workspace.components().len(),
        warnings: warnings(&found),
    };
    report(&found, &checked, context);
    Ok(())
}

fn warnings(found: &Diagnostics) -> usize {
    found.0.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning).count()
}

fn report(found: &Diagnostics, checked: &Checked, context: &Context) {
    context.ui.diagnostics(found);
    if context.ui.json {
        return context.ui.result("check", checked);
    }
    let Checked { images, components, warnings } = checked;
    let end = if *warnings == 0 { "no mistakes".to_owned() } else { plural(*warnings, "warning") };
    let (images, components) = (plural(*images, "image"), plural(*components, "component"));
    context.ui.print(&format!("{images}, {components}: {end}\n"));
}
