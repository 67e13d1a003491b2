//! `olbake promote IMAGE[@VERSION] [--from CHANNEL] --to CHANNEL`: an exact version into a channel, if its gates hold.

use olbake_core::ImageRef;
use olbake_core::promotion::{Channel, Verdict, Why, held};
use olbake_engine::promotion::{PromotionError, Unmet};
use olbake_engine::registry::{RegistryError, Version};
use serde_json::json;

use super::Context;
use super::promotion::Desk;
use crate::args::PromoteArgs;
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::ui::promotion as draw;

pub(super) fn run(args: &PromoteArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let to = desk.place.config.channel(&args.to)?;
    let from = args.from.as_ref().map(|name| desk.place.config.channel(name)).transpose()?;
    let version = match &from {
        Some(from) => version_in(&desk, &args.version, from)?,
        None => desk.exact(&args.version)?,
    };
    let why = from.map_or(Why::Set, |from| Why::Promoted { from });
    let promotions = desk.promotions(&context.startup);
    if args.dry_run {
        let verdicts = promotions.judge(&version, &to)?;
        show(context, &version, &to, &verdicts);
        return if held(&verdicts) { Ok(()) } else { Err(refused(&version, &to, &verdicts)) };
    }
    match promotions.promote(&version, &to, why, args.reason.as_deref()) {
        Ok(moved) => {
            show(context, &version, &to, &moved.record().evidence);
            draw::moved(&context.ui, "promote", &moved, &[]);
            desk.tell_readers(moved.record())
        }
        Err(PromotionError::Gates(unmet)) => {
            let Unmet { verdicts, .. } = *unmet;
            show(context, &version, &to, &verdicts);
            Err(refused(&version, &to, &verdicts))
        }
        Err(error) => Err(error.into()),
    }
}

/// The version that a channel points to; where a digest was given too, it must be that one.
fn version_in(desk: &Desk, reference: &str, from: &Channel) -> Result<Version> {
    let (image, asked) = match reference.split_once('@') {
        Some((image, _)) => (image, Some(desk.records().resolve(reference)?)),
        None => (reference, None),
    };
    let image = desk.image(&image.parse::<ImageRef>()?)?;
    let found = desk.records().channel(&image, from)?;
    let found =
        found.ok_or_else(|| RegistryError::EmptyChannel { image: image.clone(), channel: from.clone() })?;
    match asked {
        Some(asked) if asked.digest != found.digest => {
            let message =
                format!("{from} points to `{image}@{}`, not to `{reference}`", found.digest.short());
            Err(CliError::user(message).help("leave out `--from` to promote the version you name"))
        }
        _ => Ok(found),
    }
}

fn show(context: &Context, version: &Version, to: &Channel, verdicts: &[Verdict]) {
    let Context { ui, .. } = context;
    if ui.json {
        let image = version.image_ref();
        ui.line(&json!({
            "event": "gates", "image": image, "digest": version.digest, "channel": to, "gates": verdicts,
        }));
    } else {
        ui.print(&draw::gates(verdicts, ui.out));
    }
}

fn refused(version: &Version, to: &Channel, verdicts: &[Verdict]) -> CliError {
    let unmet = verdicts.iter().filter(|verdict| !verdict.held).count();
    let does = if unmet == 1 { "does" } else { "do" };
    let (image, digest, all) = (version.image_ref(), version.digest.short(), verdicts.len());
    let message = format!("`{image}@{digest}` may not enter {to}: {unmet} of {all} gates {does} not hold");
    CliError::new(Kind::Refused, anyhow::Error::msg(message))
}
