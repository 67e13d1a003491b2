//! `olbake rollout status|pause|resume|abort`, and `olbake deploy --simulate`.

use std::collections::BTreeMap;
use std::time::Duration;

use olbake_core::rollout::simulate::{Model, PerMille, simulate as run_model};
use olbake_core::rollout::{Outcome, Report, Rollout, Wish};
use olbake_core::stack::{ResourceName, StackName, StackState};
use olbake_engine::stack::{Preview, Stacks, wish, wishes};

use super::super::Context;
use super::super::machines::block_on;
use super::{Desk, look, wait};
use crate::args::{DeployArgs, Failing, Fails, RolloutAct, RolloutArgs};
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

/// The rollouts of a plan in virtual time, against a model of a fleet.
pub(super) fn simulate(
    stacks: &Stacks,
    context: &Context,
    stack: &StackName,
    preview: &Preview,
    args: &DeployArgs,
) -> Result {
    let rollouts = block_on(async { Ok(stacks.rehearse(stack, preview).await?) })?;
    if rollouts.is_empty() && !context.ui.json {
        context.ui.say("the plan has no rollout to simulate");
    }
    let mut ends_well = true;
    for (name, request) in rollouts {
        let Some(request) = request else {
            context
                .ui
                .say(&format!("{name}: the provider itself replaces the instances, which has no model here"));
            continue;
        };
        let done = run_model(request, model(args))?;
        ends_well &= done.outcome == Some(Outcome::Succeeded);
        if context.ui.json {
            context.ui.document(&done);
        } else {
            context.ui.print(&ui::simulation(&name, &done, context.ui.out));
        }
    }
    match ends_well || !args.fail.is_empty() {
        true => Ok(()),
        false => Err(CliError::new(
            crate::exit_codes::Kind::Failed,
            anyhow::anyhow!("a rollout would not succeed"),
        )),
    }
}

/// The model of a fleet with the failures that were asked for.
fn model(args: &DeployArgs) -> Model {
    let mut model = Model { seed: args.seed, ..Model::default() };
    for Failing { what, percent } in &args.fail {
        let share = PerMille(percent * 10);
        match what {
            Fails::Boot => model.new.boot_fails = share,
            Fails::Health => model.new.unhealthy = share,
            Fails::Digest => model.new.other_image = share,
            Fails::Later => model.new.sickens = share,
            Fails::Crash => model.new.crashes = share,
            Fails::Killed => model.new.killed = share,
            Fails::Step => model.step_fails = share,
        }
    }
    model
}
