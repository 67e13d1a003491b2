//! `olbake rollout status|pause|resume|abort`, and `olbake deploy --simulate`.

use std::collections::BTreeMap;
use std::time::Duration;

use olbake_core::Digest;
use olbake_core::rollout::simulate::{Model, simulate as run_model};
use olbake_core::rollout::{
    Captured, Existing, InstanceId, Preflight, Release, Report, Request, Rollout, Time, Wish,
};
use olbake_core::stack::catalog::Kind as ResourceKind;
use olbake_core::stack::{ResourceName, StackName, StackState};
use olbake_engine::stack::group::Group;
use olbake_engine::stack::{wish, wishes};
use olbake_lang::Evaluated;

use super::super::Context;
use super::{Desk, look, wait};
use crate::args::{RolloutAct, RolloutArgs};
use crate::errors::{CliError, Result};
use crate::ui::stack as ui;

pub(super) fn run(args: &RolloutArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let stack = desk.choose(&args.stack, context)?;
    let state = look::applied(&desk, &stack)?;
    let groups = groups(&state, args.group.as_ref())?;
    let wished = match args.act {
        RolloutAct::Status if args.follow => return follow(&desk, context, &stack, args.group.as_ref()),
        RolloutAct::Status => return status(&desk, context, &stack, &state, &groups),
        RolloutAct::Pause => Wish::Pause,
        RolloutAct::Resume => Wish::Go,
        RolloutAct::Abort if args.hold => Wish::AbortAndHold,
        RolloutAct::Abort => Wish::Abort,
    };
    let under_way: Vec<&ResourceName> = groups
        .iter()
        .filter(|(_, rollout)| rollout.as_ref().is_some_and(|r| r.outcome().is_none()))
        .map(|(name, _)| *name)
        .collect();
    if under_way.is_empty() {
        return Err(CliError::user(format!("no rollout of `{stack}` is under way")));
    }
    for group in under_way {
        wait(wish(&desk.store, &stack, group, wished))?;
        context.ui.say(&format!("{group}: asked for; whoever drives the rollout follows within a second"));
    }
    Ok(())
}

type Groups<'a> = Vec<(&'a ResourceName, Option<Rollout>)>;

fn groups<'a>(state: &'a StackState, asked: Option<&String>) -> Result<Groups<'a>> {
    let is_group =
        |applied: &olbake_core::stack::state::Applied| applied.group.is_some() || applied.rollout.is_some();
    let all = state.resources.iter().filter(|(_, applied)| is_group(applied));
    let wanted = all.filter(|(name, _)| asked.is_none_or(|asked| name.as_str() == asked));
    let found: Groups<'a> = wanted
        .map(|(name, applied)| {
            let rollout = applied.rollout.clone().and_then(|text| serde_json::from_value(text).ok());
            (name, rollout)
        })
        .collect();
    match (found.is_empty(), asked) {
        (true, Some(name)) => Err(CliError::user(format!("the stack has no group `{name}`"))),
        (true, None) => Err(CliError::user("the stack has no group of instances")),
        _ => Ok(found),
    }
}

fn status(
    desk: &Desk,
    context: &Context,
    stack: &StackName,
    state: &StackState,
    groups: &Groups<'_>,
) -> Result {
    if context.ui.json {
        let reports: Vec<_> =
            groups.iter().filter_map(|(_, rollout)| Some(rollout.as_ref()?.report())).collect();
        context.ui.document(&reports);
        return Ok(());
    }
    let wished = wait(wishes(&desk.store, stack))?;
    for (name, rollout) in groups {
        match rollout {
            Some(rollout) => context.ui.print(&ui::report_text(&rollout.report(), context.ui.out)),
            None => {
                let group = state.resources.get(*name).and_then(|applied| applied.group.as_ref());
                context.ui.print(&ui::at_rest(name, group, context.ui.out));
            }
        }
        if let Some(wish) = wished.get(*name) {
            context.ui.say(&format!("note: {name}: {wish:?} was asked for"));
        }
    }
    Ok(())
}

/// How often a rollout that somebody else drives is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How many looks a rollout that is over is given to leave the state: its driver does that with its next write.
const LOOKS_AT_ENDED: u32 = 10;

/// Says what rollouts do until none is under way. What is told is what is journalled: the state alone is read.
fn follow(desk: &Desk, context: &Context, stack: &StackName, asked: Option<&String>) -> Result {
    let mut told: BTreeMap<ResourceName, Report> = BTreeMap::new();
    let mut looks_at_ended = 0;
    loop {
        let state = look::applied(desk, stack)?;
        let groups = groups(&state, asked)?;
        let rollouts = || groups.iter().filter_map(|(_, rollout)| rollout.as_ref());
        let under_way = rollouts().any(|rollout| rollout.outcome().is_none());
        looks_at_ended = if under_way { 0 } else { looks_at_ended + 1 };
        let last = !under_way && (rollouts().next().is_none() || looks_at_ended > LOOKS_AT_ENDED);
        for (name, rollout) in &groups {
            let Some(report) = rollout.as_ref().map(Rollout::report) else {
                // One that is over leaves the state: the group says what came of it.
                if last && !context.ui.json {
                    let group = state.resources.get(*name).and_then(|applied| applied.group.as_ref());
                    context.ui.print(&ui::at_rest(name, group, context.ui.out));
                }
                continue;
            };
            if told.get(*name) == Some(&report) {
                continue;
            }
            if context.ui.json {
                context.ui.document(&report);
            } else {
                context.ui.print(&ui::progress_text(told.get(*name), &report, context.ui.out));
            }
            told.insert((*name).clone(), report);
        }
        if last {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// Runs the rollouts that a deploy would make, in virtual time against a model of a fleet.
pub(super) fn simulate(desk: &Desk, context: &Context, evaluated: &Evaluated) -> Result {
    let catalog = super::catalog();
    let stack = &evaluated.declaration.stack;
    let state = wait(desk.store.read::<StackState>(stack, &olbake_engine::state::SystemClock))?;
    let state = state.map(|viewed| viewed.state).unwrap_or_default();
    let mut any = false;
    for declared in &evaluated.declaration.resources {
        let is_group = catalog.get(&declared.ty).is_some_and(|schema| schema.kind == ResourceKind::Group);
        if !is_group {
            continue;
        }
        any = true;
        let wrong = |problem: String| {
            CliError::new(crate::exit_codes::Kind::Recipe, anyhow::anyhow!("{}: {problem}", declared.name))
        };
        let group = Group::read(&declared.inputs).map_err(wrong)?;
        let before = state.resources.get(&declared.name).and_then(|applied| applied.group.as_ref());
        let request = request(&group, &declared.name, before.map_or(0, |group| group.instances.len()))
            .map_err(wrong)?;
        let done = run_model(request, Model::default())?;
        if context.ui.json {
            context.ui.document(&done);
        } else {
            context.ui.print(&ui::simulation(&declared.name, &done, context.ui.out));
        }
    }
    if !any {
        context.ui.say("the stack has no group of instances: there is no rollout to simulate");
    }
    Ok(())
}

/// A rollout from as many instances as run, or as there are to be, of some other release.
fn request(group: &Group, name: &ResourceName, running: usize) -> std::result::Result<Request, String> {
    let old = Release { image: Digest::of(b"what runs"), inputs: Digest::of(b"what runs") };
    let size = if running == 0 { group.size } else { u32::try_from(running).unwrap_or(u32::MAX) };
    let existing = (1..=size).map(|number| Existing {
        id: InstanceId(format!("old-{number}")),
        release: old,
        since: Time(u64::from(number)),
        slot: None,
    });
    Ok(Request {
        group: name.to_string(),
        prefix: "new".to_owned(),
        from: Some(Captured { release: old, size }),
        to: group.release(Digest::of(b"what is to run")),
        desired: group.size,
        existing: existing.collect(),
        options: group.options()?,
        fronting: group.fronting(),
        checks: group.checks(),
        hooks: Default::default(),
        liens: Default::default(),
        inherited_liens: Default::default(),
        preflight: Preflight::CLEAR,
    })
}
