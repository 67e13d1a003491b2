//! `olbake status`: what runs where, how old it is, how far behind.

use olbake_core::rollout::Rollout;
use olbake_core::stack::planner::Sight;
use olbake_core::stack::state::Applied;
use olbake_core::stack::{ResourceName, StackName, StackState};
use olbake_core::{Digest, ImageRef};
use olbake_engine::registry::{Records, Version};
use olbake_engine::state::{SystemClock, Viewed};
use serde::Serialize;

use super::super::Context;
use super::{Desk, look, wait};
use crate::args::StatusArgs;
use crate::errors::Result;
use crate::ui::results::created;
use crate::ui::style::Palette;
use crate::ui::table::Table;

/// A group of a stack.
#[derive(Serialize)]
struct Row {
    stack: StackName,
    group: ResourceName,
    image: Option<ImageRef>,
    /// The version that runs.
    version: Option<Digest>,
    /// When it was baked, RFC 3339.
    baked: Option<String>,
    /// Versions of its channel that came after it.
    behind_channel: Option<usize>,
    /// Versions of the image that came after it.
    behind_head: Option<usize>,
    running: Option<u64>,
    size: u64,
    state: &'static str,
}

pub(super) fn run(args: &StatusArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let known = wait(desk.store.stacks())?;
    let wanted = |stack: &StackName| args.stack.stack.as_ref().is_none_or(|name| stack.as_str() == name);
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for stack in known.into_iter().filter(wanted) {
        let Some(viewed) = wait(desk.store.read::<StackState>(&stack, &SystemClock))? else { continue };
        if viewed.state.is_empty() {
            continue;
        }
        if let Some(holder) = &viewed.holder {
            notes.push(format!("{stack} is held by {holder}"));
        }
        rows.extend(rows_of(&desk, &stack, &viewed)?);
    }
    if context.ui.json {
        context.ui.document(&rows);
        return Ok(());
    }
    if rows.is_empty() {
        context.ui.print("nothing is deployed\n");
    } else {
        context.ui.print(&table(&rows, context));
    }
    notes.iter().for_each(|note| context.ui.say(&format!("note: {note}")));
    Ok(())
}

fn rows_of(desk: &Desk, stack: &StackName, viewed: &Viewed<StackState>) -> Result<Vec<Row>> {
    let state = &viewed.state;
    // Groups only: other objects may need secrets to be looked at.
    let mut groups = state.clone();
    groups.resources.retain(|_, applied| applied.group.is_some() || applied.rollout.is_some());
    let inventory = look::look(desk, stack, &groups)?;
    let mut rows = Vec::new();
    for (name, applied) in &state.resources {
        let Some(size) = applied.inputs.get("size").and_then(serde_json::Value::as_u64) else { continue };
        if applied.group.is_none() && applied.rollout.is_none() {
            continue;
        }
        let sight = inventory.get(&applied.id);
        let running = match sight {
            Some(Sight::Group { running, .. }) => Some(*running),
            _ => None,
        };
        let version = running_version(applied);
        let found = match version {
            Some(digest) => desk.registry.records().by_digest(&digest)?,
            None => None,
        };
        let image = found.as_ref().map(Version::image_ref);
        let channel = image.as_ref().and_then(|image| state.images.get(image)?.channel.clone());
        rows.push(Row {
            behind_channel: match (&image, &version, channel) {
                (Some(image), Some(version), Some(channel)) => {
                    behind_channel(desk.registry.records(), image, version, &channel)?
                }
                _ => None,
            },
            behind_head: match (&image, &found) {
                (Some(image), Some(version)) => Some(behind_head(desk.registry.records(), image, version)?),
                _ => None,
            },
            stack: stack.clone(),
            group: name.clone(),
            image,
            version,
            baked: found.map(|version| version.created),
            running,
            size,
            state: state_of(state, name, applied, sight, running, size),
        });
    }
    Ok(rows)
}

/// The version that a group runs, or that its rollout leads to where none ever succeeded.
fn running_version(applied: &Applied) -> Option<Digest> {
    let group = applied.group.as_ref();
    let digest = |properties: &serde_json::Map<String, serde_json::Value>| {
        properties.get("image")?.get("digest")?.as_str()?.parse().ok()
    };
    group.and_then(|group| digest(&group.properties))
}

fn state_of(
    state: &StackState,
    name: &ResourceName,
    applied: &Applied,
    sight: Option<&Sight>,
    running: Option<u64>,
    size: u64,
) -> &'static str {
    if let Some(rollout) = &applied.rollout
        && serde_json::from_value::<Rollout>(rollout.clone()).is_ok_and(|rollout| rollout.outcome().is_none())
    {
        return "rolling out";
    }
    if sight == Some(&Sight::Gone) {
        return "gone";
    }
    // A call for it was cut short: what others of its stack came to is theirs.
    let pending = applied.uncertain || state.pending.values().any(|intent| intent.name == *name);
    let refused = applied.group.as_ref().is_some_and(|group| group.refused.is_some());
    match (running, refused) {
        (Some(0), _) if size > 0 => "down",
        (Some(running), _) if running < size => "degraded",
        (_, true) => "rolled back",
        _ if pending || applied.group.is_none() => "unfinished",
        _ => "healthy",
    }
}

/// How many versions came into the channel after the one that runs; none: it never was in it.
fn behind_channel(
    records: &Records,
    image: &ImageRef,
    version: &Digest,
    channel: &str,
) -> Result<Option<usize>> {
    let Ok(channel) = channel.parse() else { return Ok(None) };
    let history = records.channel_history(image, &channel)?;
    Ok(history.iter().rposition(|record| record.digest == *version).map(|place| history.len() - 1 - place))
}

/// How many versions were baked after the one that runs.
fn behind_head(records: &Records, image: &ImageRef, version: &Version) -> Result<usize> {
    let versions = records.versions(Some(&image.image))?;
    let same = versions.iter().filter(|other| other.image_ref() == *image);
    Ok(same.filter(|other| other.created > version.created).count())
}

fn table(rows: &[Row], context: &Context) -> String {
    let palette = context.ui.out;
    let mut table =
        Table::new(["STACK", "GROUP", "IMAGE", "VERSION", "BAKED", "CHANNEL", "HEAD", "INSTANCES", "STATE"]);
    for row in rows {
        let behind = |count: Option<usize>| match count {
            None => "-".to_owned(),
            Some(0) => "current".to_owned(),
            Some(count) => format!("{count} behind"),
        };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row([
            row.stack.to_string(),
            row.group.to_string(),
            or_dash(row.image.as_ref().map(ToString::to_string)),
            or_dash(row.version.map(|digest| digest.short())),
            or_dash(row.baked.as_ref().map(|baked| created(baked, context.startup.now))),
            behind(row.behind_channel),
            behind(row.behind_head),
            format!("{}/{}", or_dash(row.running.map(|count| count.to_string())), row.size),
            coloured(row.state, palette),
        ]);
    }
    table.render(palette)
}

fn coloured(state: &str, palette: Palette) -> String {
    match state {
        "healthy" => palette.good(state),
        "rolling out" | "unfinished" | "rolled back" => palette.warn(state),
        _ => palette.bad(state),
    }
}
