//! Plans of stacks and what happens to stacks, as text.

use std::collections::BTreeMap;

use olbake_core::plan::Setting;
use olbake_core::rollout::simulate::{Row, Simulation};
use olbake_core::rollout::{self, InstanceResult, Report, Stage, Waiting};
use olbake_core::stack::compare::{Effect, PropertyChange};
use olbake_core::stack::plan::{Act, Action, Reason, Risk};
use olbake_core::stack::record::GroupState;
use olbake_core::stack::{ResourceName, StackName, StackPlan, value};
use olbake_engine::stack::StackEvent;
use serde_json::Value;

use super::human::{plural, seconds};
use super::style::{Palette, clean};
use super::table::Table;

/// Characters of a value that are shown.
const MOST: usize = 60;

/// A plan, the most dangerous actions first.
pub(crate) fn plan(plan: &StackPlan, palette: Palette) -> String {
    let mut text = format!("{}: {}\n", palette.bold(&plan.stack), counts(plan, palette));
    for (image, pinned) in &plan.images {
        let channel = pinned.channel.as_ref().map(|channel| format!(" ({channel})")).unwrap_or_default();
        text.push_str(&format!("  image {image}: {}{channel}\n", pinned.digest.short()));
    }
    for action in plan.by_risk() {
        text.push_str(&action_text(action, palette));
    }
    if !plan.is_empty() && !plan.outputs.is_empty() {
        text.push_str("  outputs\n");
        for (name, output) in &plan.outputs {
            text.push_str(&format!("      {name}: {}\n", shown(output)));
        }
    }
    text
}

/// `3 to create, 1 to remove, 12 unchanged`.
fn counts(plan: &StackPlan, palette: Palette) -> String {
    let count = |acts: fn(&Act) -> bool| plan.actions.iter().filter(|action| acts(&action.act)).count();
    let parts = [
        (count(|act| *act == Act::Delete), "to remove"),
        (count(|act| *act == Act::Roll), "to roll out"),
        (count(|act| *act == Act::Update), "to change"),
        (count(|act| matches!(act, Act::Import { .. })), "to take in"),
        (count(|act| *act == Act::Create), "to create"),
        (count(|act| matches!(act, Act::Mark | Act::Forget)), "to note"),
    ];
    let mut parts: Vec<String> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if parts.is_empty() {
        parts.push(palette.good("nothing to do"));
    }
    if plan.unchanged > 0 {
        parts.push(format!("{} unchanged", plan.unchanged));
    }
    parts.join(", ")
}

fn action_text(action: &Action, palette: Palette) -> String {
    let mark = match action.act {
        Act::Create | Act::Import { .. } => palette.good("+"),
        Act::Update => palette.warn("~"),
        Act::Roll => palette.hint("↻"),
        Act::Mark | Act::Forget => palette.dim("·"),
        Act::Delete => palette.bad("-"),
    };
    let verb = if action.act == Act::Delete { "remove" } else { action.act.verb() };
    let loss = match action.risk() {
        Risk::DataLoss => format!("  {}", palette.bad("its data are lost")),
        _ => String::new(),
    };
    let ty = palette.dim(&action.ty);
    let mut text = format!("  {mark} {verb:<6} {} {ty}{loss}\n", palette.bold(&action.name));
    for reason in &action.reasons {
        if let Some(reason) = reason_text(reason) {
            text.push_str(&format!("      {}\n", palette.dim(reason)));
        }
        if let Reason::Drifted { changes } = reason {
            changes.iter().for_each(|change| text.push_str(&change_text(change, palette)));
        }
    }
    action.changes.iter().for_each(|change| text.push_str(&change_text(change, palette)));
    text
}

/// A reason for people; none where the action says it all.
pub(crate) fn reason_text(reason: &Reason) -> Option<String> {
    Some(match reason {
        Reason::New | Reason::Changed { .. } | Reason::Destroyed => return None,
        Reason::Removed => "no longer declared".to_owned(),
        Reason::Replaced { by } => format!("replaced by {by}"),
        Reason::DependencyReplaced { name } => format!("{name} is made anew"),
        Reason::Gone => "it is gone".to_owned(),
        Reason::Stopped => "it does not run".to_owned(),
        Reason::Drifted { .. } => "it is not as it was applied:".to_owned(),
        Reason::Interrupted => "an earlier change was cut short".to_owned(),
        Reason::Release { from, to } => {
            let short = |digest: &Option<olbake_core::Digest>, other: &str| {
                digest.map_or_else(|| other.to_owned(), |digest| digest.short())
            };
            match from {
                None => format!("release {}", short(to, "known after apply")),
                Some(_) => format!("release {} → {}", short(from, "none"), short(to, "known after apply")),
            }
        }
        Reason::Instances { running, size } => {
            format!("{running} of {} run", plural(usize(*size), "instance"))
        }
        Reason::RolloutUnderWay => "a rollout is under way".to_owned(),
        Reason::Requested => "asked for".to_owned(),
    })
}

fn usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn change_text(change: &PropertyChange, palette: Palette) -> String {
    let PropertyChange { path, old, new, effect } = change;
    let effect = match effect {
        Effect::InPlace => String::new(),
        Effect::Rollout => format!("  {}", palette.hint("rollout")),
        Effect::Replace => format!("  {}", palette.bad("replaces it")),
    };
    let line = match (old, new) {
        (None, Some(new)) => format!("{path}: {}", palette.good(shown(new))),
        (Some(old), None) => format!("{path}: {} → nothing", palette.bad(shown(old))),
        (Some(old), Some(new)) if old == new => format!("{path}: {} (another value)", shown(new)),
        (old, new) => {
            let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), shown);
            format!("{path}: {} → {}", palette.bad(text(old)), palette.good(text(new)))
        }
    };
    format!("      {line}{effect}\n")
}

/// A value on one line, cut, without markers.
pub(crate) fn shown(value: &Value) -> String {
    let digest = |text: &str| {
        text.strip_prefix("sha256:").filter(|hex| hex.len() == 64).map(|hex| hex[..12].to_owned())
    };
    if let Some(short) = value.as_str().and_then(digest) {
        return short;
    }
    let text = value::shown(value);
    let text = clean(&text);
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// What a change did.
pub(crate) fn changed(
    plan: &StackPlan,
    outputs: &BTreeMap<String, Value>,
    took: f64,
    palette: Palette,
) -> String {
    let what = if plan.is_empty() {
        "nothing to do".to_owned()
    } else {
        plural(plan.actions.len(), "action") + " done"
    };
    let mut text = format!("{}: {what} in {}\n", palette.bold(&plan.stack), seconds(took));
    for (name, output) in outputs {
        text.push_str(&format!("  {name}: {}\n", shown(output)));
    }
    text
}

/// Outputs, a line each.
pub(crate) fn outputs(outputs: &BTreeMap<String, Value>) -> String {
    outputs.iter().map(|(name, output)| format!("{name}: {}\n", shown(output))).collect()
}

/// Resources that are not as they should be.
pub(crate) fn drift<'a>(
    stack: &StackName,
    rows: impl Iterator<
        Item = (&'a ResourceName, Option<&'a str>, &'a Vec<PropertyChange>, &'a Vec<PropertyChange>),
    >,
    palette: Palette,
) -> String {
    let mut text = String::new();
    for (name, state, live, desired) in rows {
        text.push_str(&format!(
            "{}{}\n",
            palette.bold(name),
            state.map(|state| palette.bad(format!("  {state}"))).unwrap_or_default()
        ));
        if !live.is_empty() {
            text.push_str("    it differs from what was applied (applied → live)\n");
            live.iter().for_each(|change| text.push_str(&change_text(change, palette)));
        }
        if !desired.is_empty() {
            text.push_str("    what is declared differs from what was applied (applied → declared)\n");
            desired.iter().for_each(|change| text.push_str(&change_text(change, palette)));
        }
    }
    if text.is_empty() { format!("{stack} is as it was applied and as it is declared\n") } else { text }
}

/// A stack's configuration: each value and where it comes from.
pub(crate) fn config(config: &BTreeMap<String, Setting>, palette: Palette) -> String {
    let mut table = Table::new(["SETTING", "VALUE", "FROM"]);
    for (name, Setting { value, provenance }) in config {
        let from = provenance.last().map_or_else(String::new, |last| {
            let place = last.span.as_ref().map(|span| format!(" {}", span.location()));
            let variable = last.name.as_ref().map(|name| format!(" {name}"));
            format!("{}{}", last.layer, variable.or(place).unwrap_or_default())
        });
        table.row([name.clone(), shown(value), from]);
    }
    table.render(palette)
}

/// A group that no rollout changes.
pub(crate) fn at_rest(name: &ResourceName, group: Option<&GroupState>, palette: Palette) -> String {
    let Some(group) = group else { return format!("{}: nothing was rolled out yet\n", palette.bold(name)) };
    let mut text = format!(
        "{}: no rollout is under way; {} run\n",
        palette.bold(name),
        plural(group.instances.len(), "instance")
    );
    for instance in &group.instances {
        text.push_str(&format!("  {} {}\n", instance.id, instance.release.image.short()));
    }
    if let Some(refused) = &group.refused {
        text.push_str(&format!("  {} {}\n", palette.bad("the last rollout"), clean(&refused.why)));
    }
    text
}

/// A rollout in virtual time: what there was when.
pub(crate) fn simulation(name: &ResourceName, done: &Simulation, palette: Palette) -> String {
    let mut text = format!("rollout of {} in virtual time\n", palette.bold(name));
    let mut table = Table::new(["TIME", "SERVING", "OLD", "NEW", "PENDING", "TRAFFIC"]);
    let mut last = None;
    for Row { at, census, shares } in &done.timeline {
        let row = [
            census.serving.to_string(),
            census.old.to_string(),
            census.new.to_string(),
            census.pending.to_string(),
            shares.map_or_else(|| "-".to_owned(), |shares| shares.to_string()),
        ];
        if last.as_ref() != Some(&row) {
            let [serving, old, new, pending, traffic] = row.clone();
            let bar = "▇".repeat(usize::try_from(census.serving).unwrap_or(0).min(40));
            table.row([
                at.to_string(),
                format!("{serving} {}", palette.good(bar)),
                old,
                new,
                pending,
                traffic,
            ]);
            last = Some(row);
        }
    }
    text.push_str(&table.render(palette));
    let outcome = done.outcome.as_ref().map_or_else(|| "under way".to_owned(), ToString::to_string);
    text + &format!("outcome: {outcome}\n")
}

/// The line of something that is over or was noticed.
pub(crate) fn ended(event: &StackEvent, palette: Palette) -> Option<String> {
    Some(match event {
        StackEvent::Resolved { key, done } => {
            let became = if *done { "had been done" } else { "had not been done" };
            format!("{} {key} {became} when an earlier process ended", palette.hint("note:"))
        }
        StackEvent::ActionDone { key, seconds: took } => {
            format!("{} {} ({})", palette.good("done"), action_name(key), palette.dim(seconds(*took)))
        }
        StackEvent::ActionFailed { key, message, .. } => {
            format!("{} {}: {}", palette.bad("failed"), action_name(key), clean(message))
        }
        StackEvent::ActionSkipped { key } => {
            format!("{} {}", palette.warn("not begun"), action_name(key))
        }
        StackEvent::Rollout { group, rollout } => {
            format!("{}: {}", palette.bold(group), rollout_line(rollout, palette)?)
        }
        StackEvent::RolloutOver { report, .. } => report_text(report, palette).trim_end().to_owned(),
        _ => return None,
    })
}

/// An action without its object's id.
pub(crate) fn action_name(key: &impl ToString) -> String {
    let key = key.to_string();
    key.rsplit_once(' ').map_or_else(|| key.clone(), |(name, _)| name.to_owned())
}

fn rollout_line(event: &rollout::Event, palette: Palette) -> Option<String> {
    Some(match event {
        rollout::Event::Stage { instance, stage, .. } => match stage {
            Stage::InService => format!("{instance} {}", palette.good("in service")),
            Stage::Launching | Stage::Draining | Stage::Gone => format!("{instance} {}", stage_text(*stage)),
            _ => return None,
        },
        rollout::Event::Failed { instance, failure, .. } => {
            format!("{instance} {}", palette.bad(clean(&failure.to_string())))
        }
        rollout::Event::Shifted { shares } => format!("traffic: {shares}"),
        rollout::Event::Passed { step, of } => format!("step {step} of {of} passed"),
        rollout::Event::Baking { .. } => "all instances in service; watching them".to_owned(),
        rollout::Event::RollingBack { why } => {
            format!("{} {}", palette.bad("rolling back:"), clean(&why.to_string()))
        }
        rollout::Event::StepFailed { message, again, .. } => {
            let again = if *again { "; trying again" } else { "" };
            format!("{}{again}", clean(message))
        }
        rollout::Event::Paused => palette.warn("paused"),
        rollout::Event::Resumed => "going on".to_owned(),
        rollout::Event::Ending { .. } => return None,
    })
}

/// A stage for people.
pub(crate) fn stage_text(stage: Stage) -> &'static str {
    match stage {
        Stage::Found => "found",
        Stage::Launching => "launching",
        Stage::Booting => "booting",
        Stage::AfterBoot => "runs its after-boot hook",
        Stage::Attaching => "attaching",
        Stage::Joining => "joining the load balancer",
        Stage::InService => "in service",
        Stage::BeforeDrain => "runs its before-drain hook",
        Stage::Detaching => "detaching",
        Stage::Draining => "draining",
        Stage::AfterDrain => "runs its upgrade hook",
        Stage::Terminating => "terminating",
        Stage::Gone => "gone",
    }
}

/// What a rollout waits for, for people.
pub(crate) fn waiting_text(waiting: &Waiting) -> Option<String> {
    Some(match waiting {
        Waiting::Step { .. } | Waiting::Sight { .. } => return None,
        Waiting::Health { instance, lacks, .. } => {
            let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
            format!("{instance} lacks {}", lacks.join(", "))
        }
        Waiting::Settling { instance, .. } => format!("{instance} to stay healthy"),
        Waiting::Drain { instance, .. } => format!("connections of {instance} to end"),
        Waiting::Capacity { available, least } => {
            format!("capacity: {available} in service, {least} must stay")
        }
        Waiting::Room { alive, most } => format!("room: {alive} instances, {most} at most"),
        Waiting::Members => "all members to be well".to_owned(),
        Waiting::Bake { .. } => "watching the new release".to_owned(),
        Waiting::Paused => "paused".to_owned(),
    })
}

/// A rollout's report: how it ended, and a row for each instance.
pub(crate) fn report_text(report: &Report, palette: Palette) -> String {
    let outcome = outcome_text(report, palette);
    let took = report.ended.map(|ended| format!(" in {}", ended.since(report.began))).unwrap_or_default();
    let mut text = format!("rollout of {} {outcome}{took}\n", palette.bold(&report.group));
    let mut table = Table::new(["INSTANCE", "IMAGE", "LAUNCHED", "HEALTHY", "IN SERVICE", "LEFT", "RESULT"]);
    for instance in &report.instances {
        let at = |time: Option<rollout::Time>| {
            time.map_or_else(|| "-".to_owned(), |time| format!("+{}", time.since(report.began)))
        };
        let times = &instance.times;
        let result = result_text(instance, palette);
        table.row([
            instance.id.to_string(),
            instance.release.image.short(),
            at(times.launched),
            at(times.healthy),
            at(times.in_service),
            at(times.gone),
            result,
        ]);
    }
    text.push_str(&table.render(palette));
    text
}

/// What is new since a report before, a line each.
pub(crate) fn progress_text(before: Option<&Report>, report: &Report, palette: Palette) -> String {
    let mut lines = Vec::new();
    if before.is_none_or(|before| before.began != report.began) {
        lines.push(format!("rollout of {} under way", palette.bold(&report.group)));
    }
    for instance in &report.instances {
        let then = before.and_then(|before| before.instances.iter().find(|other| other.id == instance.id));
        let result = result_text(instance, palette);
        if then.is_none_or(|then| result_text(then, palette) != result) {
            lines.push(format!(
                "{}: {} ({}) {result}",
                report.group,
                instance.id,
                instance.release.image.short()
            ));
        }
    }
    if report.outcome.is_some() {
        lines.push(format!("rollout of {} {}", palette.bold(&report.group), outcome_text(report, palette)));
    }
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

fn outcome_text(report: &Report, palette: Palette) -> String {
    match &report.outcome {
        Some(rollout::Outcome::Succeeded) => palette.good("succeeded"),
        Some(outcome) => palette.bad(clean(&outcome.to_string())),
        None => "under way".to_owned(),
    }
}

fn result_text(instance: &rollout::InstanceReport, palette: Palette) -> String {
    match &instance.result {
        InstanceResult::InService => palette.good("in service"),
        InstanceResult::Under => stage_text(instance.stage).to_owned(),
        InstanceResult::Removed => "removed".to_owned(),
        InstanceResult::Failed { failure } => palette.bad(clean(&failure.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use olbake_core::Digest;
    use olbake_core::stack::plan::STACK_PLAN_SCHEMA;
    use olbake_core::stack::record::OperationKey;
    use serde_json::json;

    use super::*;

    fn action(act: Act, name: &str, risky: bool) -> Action {
        Action {
            key: OperationKey(format!("{} {name} {name}-1", act.verb())),
            act,
            name: name.parse().unwrap(),
            ty: "local.volume".parse().unwrap(),
            id: format!("{name}-1").parse().unwrap(),
            generation: 1,
            inputs: serde_json::Map::new(),
            secrets: BTreeMap::new(),
            changes: Vec::new(),
            reasons: vec![Reason::New],
            after: BTreeSet::new(),
            dependencies: BTreeSet::new(),
            protect: false,
            retain: false,
            holds_data: risky,
        }
    }

    #[test]
    fn what_can_be_lost_comes_first() {
        let mut change = action(Act::Update, "b", false);
        change.changes.push(PropertyChange {
            path: "size".to_owned(),
            old: Some(json!(1)),
            new: Some(json!(2)),
            effect: Effect::InPlace,
        });
        let removal = Action { reasons: vec![Reason::Removed], ..action(Act::Delete, "c", true) };
        let shown = plan(
            &StackPlan {
                schema: STACK_PLAN_SCHEMA,
                stack: "applications.hello.QA".parse().unwrap(),
                base: Digest::of(b""),
                images: BTreeMap::new(),
                actions: vec![action(Act::Create, "a", false), change, removal],
                unchanged: 4,
                outputs: BTreeMap::from([("url".to_owned(), json!("http://10.0.0.1"))]),
                references: BTreeSet::new(),
            },
            Palette { enabled: false },
        );
        assert_eq!(
            shown,
            "applications.hello.QA: 1 to remove, 1 to change, 1 to create, 4 unchanged\n\
             \x20 - remove c local.volume  its data are lost\n\
             \x20     no longer declared\n\
             \x20 ~ update b local.volume\n\
             \x20     size: 1 → 2\n\
             \x20 + create a local.volume\n\
             \x20 outputs\n\
             \x20     url: \"http://10.0.0.1\"\n"
        );
    }
}
