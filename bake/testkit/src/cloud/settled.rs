//! Whether a stack is what was declared, and nothing else is there. Main function: [`Cloud::check_settled`].

use std::collections::BTreeSet;
use std::sync::Arc;

use olbake_core::stack::planner::Wishes;
use olbake_core::stack::{Declaration, ObjectId, StackState};
use olbake_engine::stack::group::Group;
use olbake_engine::stack::{Change, Changed, Preview, Refresh, StackError};
use olbake_engine::state::Takeover;

use super::{Cloud, World};

/// What is to be: a declaration, or nothing.
fn wishes(destroy: bool) -> Wishes {
    Wishes { destroy, ..Wishes::default() }
}

impl Cloud {
    /// One process changes a stack. None: it was cut short.
    pub fn deploy(
        self: &Arc<Self>,
        declaration: &Declaration,
        wishes: &Wishes,
        takeover: Takeover,
    ) -> Option<Result<Changed, StackError>> {
        let (stacks, mut options) = self.process();
        options.takeover = takeover;
        let change = Change {
            declaration,
            wishes,
            refresh: Refresh::Look,
            expected: None,
            approve: &|_: &Preview| Ok(()),
        };
        self.run(async move { stacks.change(&change, options).await })
    }

    /// One process changes a stack, and nothing goes wrong.
    ///
    /// # Panics
    /// Where something does.
    pub fn bring(self: &Arc<Self>, declaration: &Declaration) -> Changed {
        self.faults.choose(None);
        let changed = self.deploy(declaration, &Wishes::default(), Takeover::Refuse);
        changed.expect("nothing hangs").expect("nothing goes wrong")
    }

    /// What is known of a stack; as good as new where it never was.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub fn state(self: &Arc<Self>, declaration: &Declaration) -> StackState {
        let (stacks, _) = self.process();
        let viewed = self.run(async { stacks.read(&declaration.stack).await });
        let viewed = viewed.expect("nothing hangs").expect("the state can be read");
        viewed.map(|viewed| viewed.state).unwrap_or_default()
    }

    /// Plans a change.
    pub fn preview(
        self: &Arc<Self>,
        declaration: &Declaration,
        wishes: &Wishes,
    ) -> Result<Preview, StackError> {
        let (stacks, _) = self.process();
        let preview = self.run(async { stacks.preview(declaration, wishes, Refresh::Look).await });
        preview.expect("nothing hangs")
    }

    /// All that is not as it should be once a stack was changed, a line each: there is more to do, something is
    /// there that no state knows, something is missing, doubled, of another release or not in service.
    pub fn check_settled(self: &Arc<Self>, declaration: &Declaration, destroyed: bool) -> Vec<String> {
        self.faults.choose(None);
        let mut found: Vec<String> =
            self.with(|world| world.liens.iter().map(|lien| format!("a lien is left: {lien:?}")).collect());
        match self.preview(declaration, &wishes(destroyed)) {
            Ok(preview) => {
                let actions = preview.plan.actions.iter();
                found.extend(
                    actions.map(|action| format!("still to do: {} {:?}", action.key, action.reasons)),
                );
                found.extend(preview.holder.map(|holder| format!("it is held by {holder}")));
            }
            Err(error) => found.push(format!("it cannot be planned: {error:?}")),
        }
        let state = self.state(declaration);
        found.extend(state.lint());
        found.extend(state.pending.keys().map(|key| format!("its end is not known: {key}")));
        found.extend(state.deposed.keys().map(|id| format!("it was replaced and not removed: {id}")));
        found.extend(rollouts(&state));
        let (stacks, _) = self.process();
        let orphans = self.run(async { stacks.orphans(&declaration.stack).await });
        match orphans.expect("nothing hangs") {
            Ok(orphans) => {
                found.extend(orphans.iter().map(|object| format!("no state knows of {}", object.id)))
            }
            Err(error) => found.push(format!("orphans cannot be found: {error:?}")),
        }
        let declared =
            if destroyed { Declaration::new(declaration.stack.clone()) } else { declaration.clone() };
        found.extend(self.with(|world| differences(world, &declared, &state)));
        found
    }
}

fn rollouts(state: &StackState) -> impl Iterator<Item = String> {
    let open = state.resources.iter().filter(|(_, applied)| applied.rollout.is_some());
    open.map(|(name, _)| format!("a rollout of {name} is under way"))
}

/// In what the world differs from what is declared.
fn differences(world: &World, declared: &Declaration, state: &StackState) -> Vec<String> {
    let mut found: Vec<String> = world.strays().iter().map(|id| format!("its group is gone: {id}")).collect();
    let known: BTreeSet<&ObjectId> = state.resources.values().map(|applied| &applied.id).collect();
    let there: BTreeSet<&ObjectId> = world.things.keys().collect();
    found.extend(there.symmetric_difference(&known).map(|id| format!("state and cloud differ in {id}")));
    found.extend(
        world.things.values().filter(|thing| !thing.whole).map(|t| format!("in parts: {}", t.object.id)),
    );
    if known.len() != declared.resources.len() {
        found.push(format!("{} objects for {} resources", known.len(), declared.resources.len()));
    }
    for resource in &declared.resources {
        let Some(applied) = state.resources.get(&resource.name) else {
            found.push(format!("there is no {}", resource.name));
            continue;
        };
        let Ok(group) = Group::read(&applied.inputs) else { continue };
        let images = world.images(&resource.name);
        if images != vec![group.image.digest; group.size as usize] {
            found.push(format!("{} runs {images:?}", resource.name));
        }
        if world.serving(&applied.id) != group.size as usize {
            found.push(format!(
                "{} of {} serve in {}",
                world.serving(&applied.id),
                group.size,
                resource.name
            ));
        }
    }
    found
}
