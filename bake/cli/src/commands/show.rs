//! `olbake show IMAGE[@VERSION]`: what is known of a version.

use olbake_core::promotion::Channel;
use serde_json::json;

use super::Context;
use crate::args::ShowArgs;
use crate::errors::Result;
use crate::ui::results::{self, Standing};

pub(super) fn run(args: &ShowArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let registry = place.registry()?;
    let records = registry.records();
    let version = records.resolve(&args.version)?;
    let revocation = records.forbidden_by(&version)?;
    let mut channels = records.channels()?;
    channels.retain(|record| record.image == version.image_ref() && record.digest == version.digest);
    let mut channels: Vec<Channel> = channels.into_iter().map(|record| record.channel).collect();
    channels.sort_by_key(|channel| place.config.channels.iter().position(|known| known == channel));
    let places = records.places(&version.digest)?;
    if context.ui.json {
        let mut value = version.to_value();
        value["channels"] = json!(channels);
        value["revoked"] = json!(revocation);
        value["places"] = json!(places);
        context.ui.document(&value);
        return Ok(());
    }
    let lineage = records.lineage(&version)?;
    let standing =
        Standing { lineage: &lineage, channels: &channels, revocation: revocation.as_ref(), places: &places };
    let text = results::version(&version, standing, context.startup.now, &context.ui.drawing, context.ui.out);
    context.ui.print(&text);
    Ok(())
}
