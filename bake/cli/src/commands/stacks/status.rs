//! `olbake status`: what runs where, how old it is, how far behind.

use std::collections::BTreeSet;

use olbake_core::rollout::Rollout;
use olbake_core::stack::planner::{self, Inventory, Sight};
use olbake_core::stack::state::Applied;
use olbake_core::stack::{Catalog, ResourceName, StackName, StackState};
use olbake_core::{Digest, ImageRef};
use olbake_engine::registry::{Records, Version};
use olbake_engine::state::SystemClock;
use serde::Serialize;

use super::super::Context;
use super::{Desk, look, wait};
use crate::args::StatusArgs;
use crate::errors::{CliError, Result};
use crate::ui::results::created;
use crate::ui::style::Palette;
use crate::ui::table::Table;

/// A group of a stack, or all else of it.
#[derive(Serialize)]
struct Row {
    stack: StackName,
    /// Absent: what is not of a group.
    group: Option<ResourceName>,
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
    size: Option<u64>,
    /// What is not as it was applied: `NAME is gone`, `NAME does not run`, or `NAME.PROPERTY`; absent: it could not be
    /// looked at.
    drift: Option<Vec<String>>,
    state: &'static str,
}

pub(super) fn run(args: &StatusArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let known = wait(desk.store.stacks())?;
    let asked = asked(&desk, args, &known, context)?;
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    let mut broken: Option<CliError> = None;
    for stack in known.into_iter().filter(|stack| asked.as_ref().is_none_or(|asked| asked == stack)) {
        // A state that cannot be read hides its own stack only.
        let viewed = match wait(desk.store.read::<StackState>(&stack, &SystemClock)) {
            Ok(Some(viewed)) if !viewed.state.is_empty() => viewed,
            Ok(_) => continue,
            Err(error) => {
                let error = CliError::from(error);
                notes.push(format!("`{stack}` is left out: {}", error.message()));
                broken.get_or_insert(error);
                continue;
            }
        };
        if let Some(holder) = &viewed.holder {
            notes.push(format!("{stack} is held by {holder}"));
        }
        let inventory = look_at(&desk, &stack, &viewed.state).unwrap_or_else(|error| {
            notes.push(format!("{stack} cannot be looked at: {}", error.message()));
            Inventory::new()
        });
        rows.extend(rows_of(&desk, &stack, &viewed.state, &inventory)?);
    }
    match (context.ui.json, rows.is_empty(), asked) {
        (true, ..) => context.ui.document(&rows),
        (false, false, _) => context.ui.print(&table(&rows, context)),
        (false, true, Some(stack)) if broken.is_none() => {
            context.ui.print(&format!("nothing of `{stack}` is deployed\n"));
        }
        (false, true, None) if broken.is_none() => context.ui.print("nothing is deployed\n"),
        _ => {}
    }
    notes.iter().for_each(|note| context.ui.say(&format!("note: {note}")));
    broken.map_or(Ok(()), Err)
}

/// The stack that was asked for: one that is declared, or one that has a state.
fn asked(
    desk: &Desk,
    args: &StatusArgs,
    known: &[StackName],
    context: &Context,
) -> Result<Option<StackName>> {
    let Some(name) = &args.stack.stack else { return Ok(None) };
    let deployed = known.iter().find(|stack| stack.as_str() == name).cloned();
    deployed.map_or_else(|| desk.choose(&args.stack, context), Ok).map(Some)
}

fn is_group(applied: &Applied) -> bool {
    applied.group.is_some() || applied.rollout.is_some()
}

/// What is there of a stack. What needs secrets to be looked at is left out: nobody is asked for a passphrase here.
fn look_at(desk: &Desk, stack: &StackName, state: &StackState) -> Result<Inventory> {
    let mut open = state.clone();
    open.resources.retain(|_, applied| applied.secrets.is_empty() || is_group(applied));
    look::look(desk, stack, &open)
}

fn rows_of(desk: &Desk, stack: &StackName, state: &StackState, inventory: &Inventory) -> Result<Vec<Row>> {
    let catalog = super::catalog();
    let mut rows = Vec::new();
    let mut others = Row {
        stack: stack.clone(),
        group: None,
        image: None,
        version: None,
        baked: None,
        behind_channel: None,
        behind_head: None,
        running: None,
        size: None,
        drift: Some(Vec::new()),
        state: "deployed",
    };
    for (name, applied) in &state.resources {
        let sight = inventory.get(&applied.id);
        let drift = drift(&catalog, name, applied, sight);
        let size = applied.inputs.get("size").and_then(serde_json::Value::as_u64);
        let Some(size) = size.filter(|_| is_group(applied)) else {
            match drift {
                Some(found) => others.drift.get_or_insert_default().extend(found),
                // It needs secrets, or its provider does not answer.
                None if applied.secrets.is_empty() => others.state = "unknown",
                None => {}
            }
            continue;
        };
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
            group: Some(name.clone()),
            image,
            version,
            baked: found.map(|version| version.created),
            running,
            size: Some(size),
            drift,
            state: state_of(state, name, applied, sight, running, size),
        });
    }
    let drifted = others.drift.as_ref().is_some_and(|drift| !drift.is_empty());
    if drifted {
        others.state = "drifted";
    } else if others.state == "deployed" && state.finished.is_none() {
        others.state = "unfinished";
    }
    if rows.is_empty() || drifted || others.state == "unknown" {
        rows.push(others);
    }
    Ok(rows)
}

/// In what an object is not as it was applied.
fn drift(
    catalog: &Catalog,
    name: &ResourceName,
    applied: &Applied,
    sight: Option<&Sight>,
) -> Option<Vec<String>> {
    match sight? {
        Sight::Gone => Some(vec![format!("{name} is gone")]),
        Sight::Stopped(_) => Some(vec![format!("{name} does not run")]),
        Sight::There(seen) | Sight::Group { properties: seen, .. } => {
            let schema = catalog.get(&applied.ty)?;
            let changes = planner::drift(schema, &applied.inputs, seen, &BTreeSet::new());
            Some(changes.iter().map(|change| format!("{name}.{}", change.path)).collect())
        }
    }
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
        (None, _) => "unknown",
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
    let mut table = Table::new([
        "STACK",
        "GROUP",
        "IMAGE",
        "VERSION",
        "BAKED",
        "CHANNEL",
        "HEAD",
        "INSTANCES",
        "DRIFT",
        "STATE",
    ]);
    for row in rows {
        let behind = |count: Option<usize>| match count {
            None => "-".to_owned(),
            Some(0) => "current".to_owned(),
            Some(count) => format!("{count} behind"),
        };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row([
            row.stack.to_string(),
            or_dash(row.group.as_ref().map(ToString::to_string)),
            or_dash(row.image.as_ref().map(ToString::to_string)),
            or_dash(row.version.map(|digest| digest.short())),
            or_dash(row.baked.as_ref().map(|baked| created(baked, context.startup.now))),
            behind(row.behind_channel),
            behind(row.behind_head),
            row.size.map_or_else(
                || "-".to_owned(),
                |size| format!("{}/{size}", or_dash(row.running.map(|count| count.to_string()))),
            ),
            match &row.drift {
                None => "-".to_owned(),
                Some(drift) if drift.is_empty() => "none".to_owned(),
                Some(drift) => palette.warn(drift.join(", ")),
            },
            coloured(row.state, palette),
        ]);
    }
    table.render(palette)
}

fn coloured(state: &str, palette: Palette) -> String {
    match state {
        "healthy" | "deployed" => palette.good(state),
        "rolling out" | "unfinished" | "unknown" | "rolled back" => palette.warn(state),
        _ => palette.bad(state),
    }
}
