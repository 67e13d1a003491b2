//! `olbake history IMAGE`: what its channels pointed to, when and why.

use olbake_core::promotion::{Channel, ChannelRecord};

use super::Context;
use super::promotion::Desk;
use crate::args::HistoryArgs;
use crate::errors::Result;
use crate::ui::promotion as draw;

pub(super) fn run(args: &HistoryArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let config = &desk.place.config;
    let one = args.channel.as_ref().map(|name| config.channel(name)).transpose()?;
    let image = desk.image(&args.image)?;
    let whichever = one.as_ref().map_or("a channel", Channel::as_str).to_owned();
    let channels: Vec<Channel> = one.map_or_else(|| config.channels.clone(), |channel| vec![channel]);
    let mut entries: Vec<ChannelRecord> = Vec::new();
    for channel in &channels {
        entries.extend(desk.records().channel_history(&image, channel)?);
    }
    // Newest first; what happened in one second stays in the order of its channel.
    entries.sort_by_key(|entry| (entry.at, entry.sequence));
    entries.reverse();
    if context.ui.json {
        context.ui.document(&entries);
    } else if entries.is_empty() {
        context.ui.print(&format!("no version of {image} was in {whichever} yet\n"));
    } else {
        context.ui.print(&draw::history(&entries, context.startup.now, context.ui.out));
    }
    Ok(())
}
