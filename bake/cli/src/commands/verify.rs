//! `olbake verify IMAGE[@VERSION]`: a fresh boot of a version and its checks, again.

use olbake_core::report::Outcome;
use olbake_engine::event::CheckResult;
use olbake_engine::registry::Version;
use serde_json::json;

use super::Context;
use super::machines::{self, Wants};
use super::place::Place;
use crate::args::VerifyArgs;
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::interrupt;
use crate::ui::human::plural;
use crate::ui::results;

pub(super) fn run(args: &VerifyArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let version = place.registry()?.records().resolve(&args.version)?;
    let substrate = machines::substrate(args.vm);
    machines::preflight(context, &[substrate])?;
    let wants = Wants { substrate, ..Wants::default() };
    let checks = machines::block_on(verify(context, &place, wants, &version))?;
    tell(context, &version, &checks)
}

async fn verify(
    context: &Context,
    place: &Place,
    wants: Wants,
    version: &Version,
) -> Result<Vec<CheckResult>> {
    let reporter = context.ui.reporter("verify");
    let cancel = interrupt::listen(interrupt::as_note(reporter.sink()))?;
    let checks = match machines::bake(context, place, wants, reporter.sink(), cancel) {
        Ok(bake) => bake.verify(version).await.map_err(CliError::from),
        Err(error) => Err(error),
    };
    reporter.finish();
    checks
}

fn tell(context: &Context, version: &Version, checks: &[CheckResult]) -> Result {
    let failed = checks.iter().filter(|check| check.outcome == Outcome::Failed).count();
    let Context { ui, .. } = context;
    if ui.json && failed == 0 {
        ui.result(
            "verify",
            &json!({ "image": version.image_ref(), "digest": version.digest, "checks": checks }),
        );
    } else if !ui.json {
        ui.print(&results::check_list(checks, &ui.drawing, ui.out));
    }
    if failed == 0 {
        return Ok(());
    }
    let verb = if failed == 1 { "does" } else { "do" };
    let message = anyhow::anyhow!("{} {verb} not hold on a fresh boot", plural(failed, "check"));
    Err(CliError::new(Kind::Failed, message).about(version.image_ref()))
}
