//! `olbake approve IMAGE@VERSION --for CHANNEL --key FILE`: signs that a version may enter a channel.

use camino::Utf8Path;
use olbake_core::promotion::Statement;
use olbake_engine::promotion::{Approved, PromotionError};
use olbake_engine::registry::approvals;

use super::Context;
use super::promotion::Desk;
use crate::args::ApproveArgs;
use crate::errors::{CliError, Result};
use crate::ui::human;

pub(super) fn run(args: &ApproveArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let channel = desk.place.config.channel(&args.channel)?;
    let version = desk.exact(&args.version)?;
    let statement = Statement::new(&version.image_ref(), version.digest, &channel);
    if args.statement {
        // Without a line end: every byte is signed.
        context.ui.print(&statement.text());
        return Ok(());
    }
    let signature = match (&args.signature, &args.key) {
        (Some(file), _) => read(&context.directory.join(file))?,
        (None, Some(key)) => {
            let key = context.directory.join(key);
            approvals::sign(&statement, &key).map_err(PromotionError::Signature)?
        }
        (None, None) => return Err(CliError::user("name a key with `--key`")),
    };
    let approved = desk.promotions(&context.startup).approve(&version, &channel, &signature)?;
    tell(context, &format!("{}@{}", version.image_ref(), version.digest.short()), &args.channel, &approved);
    Ok(())
}

fn read(file: &Utf8Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| {
        CliError::environment(anyhow::Error::new(error).context(format!("cannot read `{file}`")))
    })
}

fn tell(context: &Context, version: &str, channel: &str, approved: &Approved) {
    let Context { ui, .. } = context;
    if ui.json {
        return ui.result("approve", approved);
    }
    let Approved { signer, fingerprint, new, signers, wanted } = approved;
    let who = signer.as_ref().map_or_else(|| fingerprint.clone(), ToString::to_string);
    let verb = if *new { "approved" } else { "had approved" };
    let count = match wanted {
        0 => format!("{channel} asks for no approvals"),
        _ => format!("{} of {wanted}", human::plural(signers.len(), "approval")),
    };
    ui.print(&format!("{who} {verb} {version} for {channel}: {count}\n"));
}
