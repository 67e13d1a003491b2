//! `olbake stack list|history|unlock` and `olbake state orphans`.

use olbake_core::stack::{StackName, StackState};
use olbake_engine::stack::provider::Object;
use olbake_engine::state::{SystemClock, Takeover, Timestamp};
use serde_json::json;

use super::super::Context;
use super::super::machines::block_on;
use super::{Desk, ask, wait};
use crate::args::{StackAct, StackArgs, StateAct, StateArgs};
use crate::errors::{CliError, Result};
use crate::ui::human;
use crate::ui::table::Table;

pub(super) fn stack(args: &StackArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    match &args.act {
        StackAct::List => list(&desk, context),
        StackAct::History { stack } => history(&desk, context, &desk.choose(stack, context)?),
        StackAct::Unlock { stack } => unlock(&desk, context, &desk.choose(stack, context)?),
    }
}

fn list(desk: &Desk, context: &Context) -> Result {
    let mut names = desk.workspace.stacks();
    names.extend(wait(desk.store.stacks())?);
    names.sort();
    names.dedup();
    let mut rows = Vec::new();
    let mut broken: Option<CliError> = None;
    for name in names {
        // A state that cannot be read hides its own stack only.
        let read = wait(desk.store.read::<StackState>(&name, &SystemClock));
        let unreadable = read.is_err();
        let viewed = read.unwrap_or_else(|error| {
            let error = CliError::from(error);
            context.ui.say(&format!("note: `{name}`: {}", error.message()));
            broken.get_or_insert(error);
            None
        });
        rows.push((name, viewed, unreadable));
    }
    if context.ui.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, viewed, unreadable)| {
                let viewed = viewed.as_ref();
                json!({
                    "stack": name,
                    "resources": viewed.map_or(0, |viewed| viewed.state.resources.len()),
                    "finished": viewed.and_then(|viewed| viewed.state.finished),
                    "holder": viewed.and_then(|viewed| viewed.holder.as_ref().map(ToString::to_string)),
                    "unreadable": unreadable,
                })
            })
            .collect();
        context.ui.document(&rows);
        return broken.map_or(Ok(()), Err);
    }
    let mut table = Table::new(["STACK", "RESOURCES", "CHANGED", "STATE"]);
    for (name, viewed, unreadable) in rows {
        let (resources, changed, state) = match viewed {
            None if unreadable => ("-".to_owned(), "-".to_owned(), "unreadable".to_owned()),
            None => ("-".to_owned(), "-".to_owned(), "never deployed".to_owned()),
            Some(viewed) => {
                let changed = viewed.state.finished.or(viewed.state.begun).map(Timestamp);
                let state = match (&viewed.holder, viewed.state.finished, viewed.state.is_empty()) {
                    (Some(holder), ..) => format!("held by {holder}"),
                    (None, _, true) => "empty".to_owned(),
                    (None, None, false) => "unfinished".to_owned(),
                    (None, Some(_), false) => "deployed".to_owned(),
                };
                let changed =
                    changed.map_or_else(|| "-".to_owned(), |at| human::age(at.time(), context.startup.now));
                (viewed.state.resources.len().to_string(), changed, state)
            }
        };
        table.row([name.to_string(), resources, changed, state]);
    }
    context.ui.print(&table.render(context.ui.out));
    broken.map_or(Ok(()), Err)
}

fn history(desk: &Desk, context: &Context, stack: &StackName) -> Result {
    let entries = wait(desk.store.history(stack))?;
    if context.ui.json {
        context.ui.document(&entries);
        return Ok(());
    }
    if entries.is_empty() {
        context.ui.print(&format!("`{stack}` was never deployed\n"));
        return Ok(());
    }
    let mut table = Table::new(["SERIAL", "WHEN", "WHO", "WHAT"]);
    for entry in entries.iter().rev() {
        let who = entry.holder.as_ref().map_or_else(|| "-".to_owned(), |holder| holder.who.clone());
        table.row([
            entry.serial.to_string(),
            human::age(entry.at.time(), context.startup.now),
            who,
            entry.summary.clone(),
        ]);
    }
    context.ui.print(&table.render(context.ui.out));
    Ok(())
}

fn unlock(desk: &Desk, context: &Context, stack: &StackName) -> Result {
    let options = desk.hold(context, "stack unlock", Takeover::Force)?;
    let held = block_on(async { Ok(desk.store.unlock::<StackState>(stack, options).await?) })?;
    match held {
        Some(holder) => context.ui.print(&format!("`{stack}` was held by {holder}; it no longer is\n")),
        None => context.ui.print(&format!("nobody holds `{stack}`\n")),
    }
    Ok(())
}

pub(super) fn state(args: &StateArgs, context: &mut Context) -> Result {
    let StateAct::Orphans { stack, remove, yes } = &args.act;
    let desk = Desk::open(context)?;
    let stack = desk.choose(stack, context)?;
    let stacks = desk.stacks(desk.site(&stack, None)?);
    let found = block_on(async { Ok(stacks.orphans(&stack).await?) })?;
    if context.ui.json {
        let rows: Vec<_> = found
            .iter()
            .map(|Object { name, ty, id, .. }| json!({"name": name, "type": ty, "id": id}))
            .collect();
        context.ui.document(&rows);
    } else if found.is_empty() {
        context.ui.print("there is nothing that the state does not know of\n");
    } else {
        let mut table = Table::new(["OBJECT", "RESOURCE", "TYPE"]);
        for Object { name, ty, id, .. } in &found {
            table.row([id.to_string(), name.to_string(), ty.to_string()]);
        }
        context.ui.print(&table.render(context.ui.out));
    }
    if !remove || found.is_empty() {
        return Ok(());
    }
    let agreed =
        *yes || (context.startup.terminal.asks() && ask("remove them? [y/N] ")?.eq_ignore_ascii_case("y"));
    if !agreed {
        return Err(CliError::user("nothing was removed").help("`--yes` removes them unasked"));
    }
    // Groups first: what they stand on is theirs while they stand.
    let order = |object: &&Object| !object.ty.kind().contains("group");
    let mut all: Vec<&Object> = found.iter().collect();
    all.sort_by_key(order);
    block_on(async {
        for object in all {
            stacks.remove_orphan(object).await?;
            context.ui.say(&format!("removed {}", object.id));
        }
        Ok(())
    })
}
