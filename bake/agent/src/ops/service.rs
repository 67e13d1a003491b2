//! The state of units: enabled, masked, running, and restarted or reloaded after what they depend on changed.
//!
//! Enabled and masked are links, the same on a machine that is booted and on one that is not. Running is only
//! meant where systemd runs.

use camino::Utf8PathBuf;
use olbake_core::operation::{Action, Operation};
use olbake_core::report::Change;

use super::unit_links::{self, Origin};
use super::{Decision, Effect, NONE, Work, change};
use crate::context::{Context, Run};
use crate::edit::Edit;
use crate::error::{OpError, Result};
use crate::process::Command;
use crate::world::Node;

const SHOW_STATE: [&str; 4] = ["systemctl", "show", "--property=ActiveState", "--value"];

/// [`Action::Service`].
pub(crate) fn service<'a>(context: &Context<'_>, action: &'a Action) -> Result<Decision<'a>> {
    let Action::Service { unit, enabled, masked, running, restart_on, reload_on } = action else {
        return Ok(Decision::Fine);
    };
    let mut work = Work::default();
    let mut commands: Vec<Vec<String>> = Vec::new();
    if let Some(masked) = masked {
        plan_mask(context, unit, *masked, &mut work)?;
    }
    if let Some(enabled) = enabled {
        commands.extend(plan_enabled(context, unit, *enabled, *masked == Some(false), &mut work)?);
    }
    if context.run.booted {
        let triggered = [("restart", restart_on), ("reload-or-restart", reload_on)]
            .into_iter()
            .find_map(|(verb, ids)| context.any_changed(ids).map(|id| (verb, id.to_string())));
        match plan_running(context, unit, *running, triggered, &mut work.changes)? {
            Some("start") => work.start = Some(unit),
            Some(verb) => commands.push(["systemctl", verb, unit].map(str::to_owned).into()),
            None => {}
        }
    } else if enabled.is_none() && masked.is_none() {
        return Ok(Decision::Skip("systemd does not run here".to_owned()));
    }
    if !commands.is_empty() {
        work.act = Some(Box::new(move |context| act(context, &commands)));
    }
    Ok(work.decide())
}

fn act(context: &Context<'_>, commands: &[Vec<String>]) -> Result<Effect> {
    // The links made just before count too: where one masked the unit, systemd must know.
    context.refresh_units()?;
    for argv in commands {
        let mut command = context.command(argv.clone()).sink(context.sink());
        if !context.run.booted {
            command = command.env("SYSTEMD_OFFLINE", "1");
        }
        command.run()?.ok()?;
    }
    Ok(Effect::Changed)
}

fn plan_mask(context: &Context<'_>, unit: &str, masked: bool, work: &mut Work<'_>) -> Result<()> {
    if unit_links::masked(context.world(), unit)? == masked {
        return Ok(());
    }
    let path = Utf8PathBuf::from(format!("{}/{unit}", unit_links::PLACES[0]));
    if masked {
        if let Node::File { .. } | Node::Directory { .. } = context.world().look(&path)? {
            return Err(OpError::wrong(format!("`{unit}` cannot be masked: `{path}` is a file of its own")));
        }
        work.changes.push(change("masked", Some("no"), Some("yes")));
        work.edits.push(Edit::Link { path, target: "/dev/null".to_owned() });
    } else {
        work.changes.push(change("masked", Some("yes"), Some("no")));
        work.edits.push(Edit::Remove { path });
    }
    Ok(())
}

/// Adds the links that are missing or too many; what only `systemctl` can do is returned.
fn plan_enabled(
    context: &Context<'_>,
    unit: &str,
    enabled: bool,
    unmasked: bool,
    work: &mut Work<'_>,
) -> Result<Option<Vec<String>>> {
    let world = context.world();
    match (unit_links::origin(world, unit)?, enabled) {
        (Origin::Masked(_), true) if !unmasked => {
            return Err(OpError::wrong(format!("`{unit}` is masked, and cannot be enabled")));
        }
        (Origin::Script, _) => return plan_script(context, unit, enabled, work),
        (Origin::Nowhere, true) => {
            return Err(OpError::Missing(format!("there is no unit `{unit}` on the machine")));
        }
        (_, false) => {
            for path in unit_links::existing(world, unit)? {
                work.changes.push(change("enabled", Some(path.as_str()), NONE));
                work.edits.push(Edit::Remove { path });
            }
        }
        (Origin::File(_) | Origin::Masked(_), true) => {
            let wanted = unit_links::wanted(world, unit)?;
            if wanted.is_empty() && !unmasked {
                return Err(OpError::wrong(format!(
                    "`{unit}` has no [Install] section that says what starts it, so it cannot be enabled"
                )));
            }
            for (path, target) in wanted {
                if !unit_links::is_made(world, &path)? {
                    work.changes.push(change("enabled", NONE, Some(path.as_str())));
                    work.edits.push(Edit::Link { path, target: target.to_string() });
                }
            }
        }
    }
    Ok(None)
}

/// A script of System V init is enabled when a run level starts it.
fn plan_script(
    context: &Context<'_>,
    unit: &str,
    enabled: bool,
    work: &mut Work<'_>,
) -> Result<Option<Vec<String>>> {
    let name = unit.trim_end_matches(".service");
    let mut starts = false;
    for level in 2..=5 {
        let names = context.world().list(format!("/etc/rc{level}.d").as_str().into())?;
        starts |= names.iter().any(|link| link.starts_with('S') && link.get(3..) == Some(name));
    }
    if starts == enabled {
        return Ok(None);
    }
    let word = |on: bool| Some(if on { "yes" } else { "no" });
    work.changes.push(change("enabled", word(starts), word(enabled)));
    Ok(Some(["systemctl", if enabled { "enable" } else { "disable" }, unit].map(str::to_owned).into()))
}

fn plan_running(
    context: &Context<'_>,
    unit: &str,
    running: Option<bool>,
    triggered: Option<(&str, String)>,
    changes: &mut Vec<Change>,
) -> Result<Option<&'static str>> {
    // A unit may end by itself after it was started: that it could be started is what was asked for.
    if context.verifying || (running.is_none() && triggered.is_none()) {
        return Ok(None);
    }
    let state = active_state(context, unit)?;
    let active = matches!(state.as_str(), "active" | "activating" | "reloading");
    let (verb, what, to) = match (running, active, triggered) {
        (Some(true), false, _) => ("start", "running", "active".to_owned()),
        (Some(false), true, _) => ("stop", "running", "inactive".to_owned()),
        (Some(false), false, _) | (_, _, None) | (None, false, _) => return Ok(None),
        (_, true, Some(("restart", id))) => ("restart", "restarted", format!("because {id} changed")),
        (_, true, Some((_, id))) => ("reload-or-restart", "reloaded", format!("because {id} changed")),
    };
    let from = (what == "running").then_some(state);
    changes.push(change(what, from, Some(to)));
    Ok(Some(verb))
}

/// Whether an operation only says that a unit runs, and perhaps that it is enabled, whatever else happens.
pub(crate) fn is_plain(operation: &Operation) -> bool {
    let Action::Service { masked: None, running: Some(true), restart_on, reload_on, .. } = &operation.action
    else {
        return false;
    };
    let named = [restart_on, reload_on, &operation.after, &operation.when_changed];
    named.iter().all(|ids| ids.is_empty())
}

/// The states of the units of some operations that are done together, asked for at once; none where that fails.
pub(crate) fn states<'a>(run: &Run, operations: &[&'a Operation]) -> Vec<(&'a str, String)> {
    let units = operations.iter().filter_map(|operation| match &operation.action {
        Action::Service { unit, .. } if operations.len() > 1 => Some(unit.as_str()),
        _ => None,
    });
    let units: Vec<&str> = units.collect();
    if units.is_empty() {
        return Vec::new();
    }
    let argv = SHOW_STATE.iter().chain(&units).copied();
    let Ok(ended) = Command::new(argv, &run.cancelled).capture().run() else { return Vec::new() };
    let said = ended.stdout();
    let states: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    if states.len() == units.len() { units.into_iter().zip(states).collect() } else { Vec::new() }
}

/// Starts units.
pub(crate) fn start(context: &Context<'_>, units: &[&str]) -> Result<()> {
    context.refresh_units()?;
    let argv = ["systemctl", "start"].iter().chain(units).copied();
    context.command(argv).sink(context.sink()).run()?.ok().map(drop)
}

/// `active`, `inactive`, `failed`, …
pub(crate) fn active_state(context: &Context<'_>, unit: &str) -> Result<String> {
    if let Some((_, state)) = context.states.iter().find(|(other, _)| *other == unit) {
        return Ok(state.clone());
    }
    let ended = context.command(SHOW_STATE.into_iter().chain([unit])).capture().run()?.ok()?;
    Ok(ended.stdout().trim().to_owned())
}
