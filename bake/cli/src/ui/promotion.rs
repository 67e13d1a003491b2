//! Gates, moves of channels, revocations and histories as people read them.

use std::time::SystemTime;

use olbake_core::ImageRef;
use olbake_core::promotion::{ChannelRecord, Revocation, Verdict, Why};
use olbake_engine::promotion::{Revoked, Skipped};
use olbake_engine::registry::Version;
use olbake_engine::registry::channels::Moved;
use serde_json::json;

use super::Ui;
use super::human;
use super::results::created;
use super::style::{Palette, clean};
use super::table::Table;

/// What each gate says.
pub(crate) fn gates(verdicts: &[Verdict], palette: Palette) -> String {
    let mut table = Table::new(["GATE", "HOLDS", "WHY"]);
    for Verdict { gate, held, reason, holds_at: _ } in verdicts {
        let holds = if *held { "yes" } else { "no" };
        table.row([gate.to_string(), holds.to_owned(), clean(reason).into_owned()]);
    }
    table.render(palette)
}

/// How a change of a channel ended.
pub(crate) fn moved(ui: &Ui, command: &str, moved: &Moved, skipped: &[Skipped]) {
    let record = moved.record();
    if ui.json {
        let new = matches!(moved, Moved::Done(_));
        return ui.result(command, &json!({ "moved": new, "entry": record, "skipped": skipped }));
    }
    for Skipped { reason, .. } in skipped {
        ui.say(&format!("passed over: {}", clean(reason)));
    }
    let ChannelRecord { image, channel, digest, previous, sequence, .. } = record;
    let version = format!("{image}@{}", digest.short());
    let before = previous.map_or_else(|| "nothing".to_owned(), |digest| digest.short());
    ui.print(&match moved {
        Moved::Done(_) => format!("{channel}: {version}, before {before} (entry {sequence})\n"),
        Moved::NotNeeded(_) => format!("{channel}: {version} already (entry {sequence})\n"),
    });
}

/// What a revocation means.
pub(crate) fn revoked(ui: &Ui, revoked: &Revoked) {
    let Revoked { revocation, descendants, channels } = revoked;
    if ui.json {
        let descendants: Vec<_> = descendants
            .iter()
            .map(|version| json!({ "image": version.image_ref(), "digest": version.digest }))
            .collect();
        let result = json!({ "revocation": revocation, "descendants": descendants, "channels": channels });
        return ui.result("revoke", &result);
    }
    let Revocation { image, digest, .. } = revocation;
    let mut text = format!("revoked {image}@{}, {}\n", digest.short(), by(revocation));
    for version in descendants {
        text.push_str(&format!("affected: {}@{}\n", version.image_ref(), version.digest.short()));
    }
    for ChannelRecord { image, channel, digest, .. } in channels {
        text.push_str(&format!("{channel} points to {image}@{}: ", digest.short()));
        text.push_str(&format!("`olbake rollback {image} --channel {channel}`\n"));
    }
    ui.print(&text);
}

/// `by ann at 2026-…: a hole`.
fn by(revocation: &Revocation) -> String {
    let Revocation { by, at, why, .. } = revocation;
    format!("by {} at {at}: {}", clean(by), clean(why))
}

/// A revocation as a version's line: its own, or that of what it starts from.
pub(crate) fn forbidden(version: &Version, revocation: &Revocation) -> String {
    if revocation.digest == version.digest {
        return by(revocation);
    }
    format!("{}@{} was, {}", revocation.image, revocation.digest.short(), by(revocation))
}

/// The channels of an image: those that point to a version by their names, others with what they point to.
pub(crate) fn channels(image: &ImageRef, version: Option<&Version>, all: &[ChannelRecord]) -> String {
    let shown: Vec<String> = all
        .iter()
        .filter(|record| record.image == *image)
        .map(|record| match version {
            Some(version) if version.digest == record.digest => record.channel.to_string(),
            _ => format!("{} {}", record.channel, record.digest.short()),
        })
        .collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}

/// Entries of histories.
pub(crate) fn history(entries: &[ChannelRecord], now: SystemTime, palette: Palette) -> String {
    let mut table = Table::new(["CHANNEL", "ENTRY", "VERSION", "WHEN", "BY", "WHY"]);
    for ChannelRecord { channel, sequence, digest, by, at, why, reason, .. } in entries {
        let why = match why {
            Why::Promoted { from } => format!("promoted from {from}"),
            Why::Set => "set".to_owned(),
            Why::Baked => "baked".to_owned(),
            Why::RolledBack => "rolled back".to_owned(),
        };
        let why = match reason {
            Some(reason) => format!("{why}: {}", human::truncate(&clean(reason), 60)),
            None => why,
        };
        table.row([
            channel.to_string(),
            sequence.to_string(),
            digest.short(),
            created(&at.to_string(), now),
            clean(by).into_owned(),
            why,
        ]);
    }
    table.render(palette)
}
