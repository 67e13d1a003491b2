//! `olbake refresh`, `drift`, `outputs` and `graph`.

use std::collections::{BTreeMap, BTreeSet};

use olbake_core::stack::compare::PropertyChange;
use olbake_core::stack::graph::Graph;
use olbake_core::stack::planner::{self, Inventory, Sight, Wishes};
use olbake_core::stack::{ResourceName, StackName, StackState};
use olbake_engine::stack::{Refresh, inventory};
use olbake_engine::state::Takeover;
use serde::Serialize;

use super::super::Context;
use super::super::machines::block_on;
use super::{Desk, wait};
use crate::args::{GraphArgs, GraphFormat, LookArgs, OutputsArgs};
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::ui::graph::{Notes, svg};
use crate::ui::stack as ui;

pub(super) fn refresh(args: &LookArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let stack = desk.choose(&args.stack, context)?;
    let evaluated = desk.evaluate(context, &stack, &args.settings)?;
    let stacks = desk.stacks(desk.site_with_secrets(context, &stack, &evaluated)?);
    let hold = desk.hold(context, "refresh", Takeover::Refuse)?;
    let changed = block_on(async { Ok(stacks.refresh(&stack, hold).await?) })?;
    if context.ui.json {
        context.ui.document(&changed);
    } else if changed.is_empty() {
        context.ui.print("everything is as it was written down\n");
    } else {
        context.ui.print(&(changed.join("\n") + "\n"));
    }
    Ok(())
}

/// What of a resource is not as it should be.
#[derive(Serialize)]
struct Drift {
    name: ResourceName,
    /// It is not there.
    gone: bool,
    /// It is there and does not run.
    stopped: bool,
    /// In what it differs from what was applied.
    live: Vec<PropertyChange>,
    /// In what it differs from what is declared.
    desired: Vec<PropertyChange>,
}

impl Drift {
    /// Whether it is not as it was applied.
    fn drifted(&self) -> bool {
        self.gone || self.stopped || !self.live.is_empty()
    }

    fn state(&self) -> Option<&'static str> {
        match (self.gone, self.stopped) {
            (true, _) => Some("is gone"),
            (_, true) => Some("does not run"),
            _ => None,
        }
    }
}

pub(super) fn drift(args: &LookArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let stack = desk.choose(&args.stack, context)?;
    let evaluated = desk.evaluate(context, &stack, &args.settings)?;
    let stacks = desk.stacks(desk.site_with_secrets(context, &stack, &evaluated)?);
    let preview = block_on(async {
        Ok(stacks.preview(&evaluated.declaration, &Wishes::default(), Refresh::Look).await?)
    })?;
    let desired: BTreeMap<&ResourceName, &Vec<PropertyChange>> =
        preview.plan.actions.iter().map(|action| (&action.name, &action.changes)).collect();
    let found: Vec<Drift> = preview
        .state
        .resources
        .iter()
        .map(|(name, applied)| {
            let sight = preview.inventory.get(&applied.id);
            let live = match (sight, stacks.site.catalog.get(&applied.ty)) {
                (
                    Some(Sight::There(seen) | Sight::Stopped(seen) | Sight::Group { properties: seen, .. }),
                    Some(schema),
                ) => planner::drift(schema, &applied.inputs, seen, &BTreeSet::new()),
                _ => Vec::new(),
            };
            let desired = desired.get(name).map(|changes| (*changes).clone()).unwrap_or_default();
            let (gone, stopped) = (sight == Some(&Sight::Gone), matches!(sight, Some(Sight::Stopped(_))));
            Drift { name: name.clone(), gone, stopped, live, desired }
        })
        .filter(|drift| drift.drifted() || !drift.desired.is_empty())
        .collect();
    if context.ui.json {
        context.ui.document(&found);
    } else {
        let rows = found.iter().map(|drift| (&drift.name, drift.state(), &drift.live, &drift.desired));
        context.ui.print(&ui::drift(&stack, rows, context.ui.out));
    }
    let drifted = found.iter().any(Drift::drifted);
    match drifted {
        true => Err(CliError::new(Kind::Failed, anyhow::anyhow!("`{stack}` is not as it was applied"))
            .help("`olbake deploy` mends it")),
        false => Ok(()),
    }
}

pub(super) fn outputs(args: &OutputsArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let stack = desk.choose(&args.stack, context)?;
    let state = applied(&desk, &stack)?;
    let outputs = state.outputs;
    match &args.name {
        Some(name) => {
            let Some(value) = outputs.get(name) else {
                let error = CliError::user(format!("`{stack}` has no output `{name}`"));
                let help = olbake_core::settings::did_you_mean(
                    name,
                    outputs.keys().map(String::as_str).collect::<Vec<_>>(),
                );
                return Err(help.map_or(CliError::user(error.message()), |help| error.help(help)));
            };
            match value.as_str().filter(|_| !context.ui.json) {
                Some(text) => context.ui.print(&format!("{text}\n")),
                None => context.ui.document(value),
            }
        }
        None if context.ui.json => context.ui.document(&outputs),
        None => context.ui.print(&ui::outputs(&outputs)),
    }
    Ok(())
}

/// What was applied to a stack that was deployed at least once.
pub(super) fn applied(desk: &Desk, stack: &StackName) -> Result<StackState> {
    let read = wait(desk.store.read::<StackState>(stack, &olbake_engine::state::SystemClock))?;
    read.map(|viewed| viewed.state).ok_or_else(|| {
        CliError::user(format!("`{stack}` was never deployed"))
            .help(format!("`olbake deploy --stack {stack}`"))
    })
}

pub(super) fn graph(args: &GraphArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let stack = desk.choose(&args.stack, context)?;
    let evaluated = desk.evaluate_offline(context, &stack, &args.settings)?;
    let resources = &evaluated.declaration.resources;
    let nodes = resources.iter().map(|declared| {
        let dependencies = direct(declared.dependencies(), resources);
        (declared.name.clone(), (declared.ty.clone(), dependencies))
    });
    let graph = Graph { nodes: nodes.collect() };
    if let Err(cycle) = graph.levels() {
        let names: Vec<String> = cycle.iter().map(ToString::to_string).collect();
        return Err(CliError::new(
            Kind::Recipe,
            anyhow::anyhow!("resources depend on themselves: {}", names.join(" → ")),
        ));
    }
    let text = match args.format {
        GraphFormat::Svg => svg(stack.as_str(), &graph, &notes(&desk, &stack, resources)?),
        GraphFormat::Mermaid => graph.mermaid(),
        GraphFormat::Dot => graph.dot(),
    };
    match &args.output {
        Some(file) => {
            let file = context.startup.cwd.join(file);
            std::fs::write(&file, text).map_err(|error| {
                CliError::environment(anyhow::Error::new(error).context(format!("cannot write `{file}`")))
            })?;
            context.ui.say(&format!("the picture is in `{file}`"));
        }
        None => context.ui.print(&text),
    }
    Ok(())
}

/// Dependencies without those that others bring along: the picture has no arrow twice.
fn direct(
    all: BTreeSet<ResourceName>,
    resources: &[olbake_core::stack::declare::Declared],
) -> BTreeSet<ResourceName> {
    let of = |name: &ResourceName| {
        let found = resources.iter().find(|declared| declared.name == *name);
        found.map(olbake_core::stack::declare::Declared::dependencies).unwrap_or_default()
    };
    let mut reached: BTreeSet<ResourceName> = BTreeSet::new();
    let mut next: Vec<ResourceName> = all.iter().flat_map(&of).collect();
    while let Some(name) = next.pop() {
        if reached.insert(name.clone()) {
            next.extend(of(&name));
        }
    }
    all.into_iter().filter(|name| !reached.contains(name)).collect()
}

/// What stands in the boxes: images and sizes of groups, as they are declared.
fn notes(
    desk: &Desk,
    stack: &StackName,
    resources: &[olbake_core::stack::declare::Declared],
) -> Result<Notes> {
    let mut notes = Notes::new();
    for declared in resources {
        let text = |name: &str| declared.inputs.get(name).filter(|value| !value.is_null());
        if let Some(image) = text("image").and_then(|image| image.get("image")?.as_str()) {
            let size = text("size").and_then(serde_json::Value::as_u64).unwrap_or(1);
            notes.insert(declared.name.clone(), format!("{size} × {image}"));
        } else if let Some(cidr) = text("cidr").and_then(serde_json::Value::as_str) {
            notes.insert(declared.name.clone(), cidr.to_owned());
        }
    }
    let read = wait(desk.store.read::<StackState>(stack, &olbake_engine::state::SystemClock))?;
    for (name, applied) in read.map(|viewed| viewed.state.resources).unwrap_or_default() {
        if let Some(running) = applied.group.map(|group| group.instances.len())
            && let Some(note) = notes.get_mut(&name)
        {
            note.push_str(&format!(", {running} run"));
        }
    }
    Ok(notes)
}

/// What is there of a stack, for `status`.
pub(super) fn look(desk: &Desk, stack: &StackName, state: &StackState) -> Result<Inventory> {
    let site = desk.site(stack, None)?;
    block_on(async { Ok(inventory(&site, stack, state).await?) })
}
