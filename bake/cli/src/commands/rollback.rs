//! `olbake rollback IMAGE --channel CHANNEL`: a channel back to the version before.

use olbake_engine::promotion::RolledBack;

use super::Context;
use super::promotion::Desk;
use crate::args::RollbackArgs;
use crate::errors::Result;
use crate::ui::promotion as draw;

pub(super) fn run(args: &RollbackArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let channel = desk.place.config.channel(&args.channel)?;
    let image = desk.image(&args.image)?;
    let to = match &args.to {
        Some(digest) => Some(desk.records().resolve(&format!("{image}@{digest}"))?),
        None => None,
    };
    let promotions = desk.promotions(&context.startup);
    let RolledBack { moved, skipped } =
        promotions.rollback(&image, &channel, to.as_ref(), args.reason.as_deref())?;
    draw::moved(&context.ui, "rollback", &moved, &skipped);
    desk.tell_readers(moved.record())
}
