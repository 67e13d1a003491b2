//! Changing a stack, from taking hold of it to its history. Main type: [`Stacks`].
//!
//! Whoever changes a stack holds it. First it is found out what became of calls that an earlier process did not see
//! the end of, then what is there is looked at, then a plan is made, then it is carried out. So after a crash the
//! next change goes on by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use olbake_core::stack::planner::{self, Facts, Inventory, Wishes};
use olbake_core::stack::{Declaration, Record, StackName, StackPlan, StackState, value};
use olbake_core::{Digest, ImageRef, stack};
use serde_json::Value;

use super::carry_out::{Ends, carry_out};
use super::error::StackError;
use super::event::StackEvent;
use super::look::{foresee, inventory, resolve};
use super::site::Site;
use crate::state::{Held, HoldOptions, StateStore, Viewed};

/// The states of stacks, and the place that they describe.
#[derive(Clone)]
pub struct Stacks {
    /// The states.
    pub store: StateStore,
    /// Everything around them.
    pub site: Site,
}

/// Whether what is there is looked at before a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Every object is looked at.
    Look,
    /// What was applied is taken to be there.
    Trust,
}

/// A plan and what it was made from.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The plan.
    pub plan: StackPlan,
    /// What was applied.
    pub state: StackState,
    /// What is there, as far as it was looked at.
    pub inventory: Inventory,
    /// Who holds the stack now.
    pub holder: Option<crate::state::Holder>,
}

/// What a change is to be.
pub struct Change<'a> {
    /// What is to be.
    pub declaration: &'a Declaration,
    /// What is asked for besides.
    pub wishes: &'a Wishes,
    /// Whether to look first.
    pub refresh: Refresh,
    /// A plan that was made before: nothing else is done.
    pub expected: Option<&'a StackPlan>,
    /// Sees the plan before anything is done, and may decline it, saying why.
    pub approve: &'a (dyn Fn(&Preview) -> Result<(), String> + Send + Sync),
}

/// How a change ended.
#[derive(Clone, Debug)]
pub struct Changed {
    /// What was done.
    pub plan: StackPlan,
    /// What other stacks may read now.
    pub outputs: BTreeMap<String, Value>,
    /// Seconds it took.
    pub seconds: f64,
}

impl Stacks {
    /// What was applied to a stack; none where nothing ever was.
    pub async fn read(&self, stack: &StackName) -> Result<Option<Viewed<StackState>>, StackError> {
        Ok(self.store.read::<StackState>(stack, &*self.site.clock).await?)
    }

    /// Plans a change without holding the stack.
    pub async fn preview(
        &self,
        declaration: &Declaration,
        wishes: &Wishes,
        refresh: Refresh,
    ) -> Result<Preview, StackError> {
        let viewed = self.read(&declaration.stack).await?;
        let (mut state, base, holder) = match viewed {
            Some(Viewed { state, version, holder, .. }) => (state, version, holder),
            None => (StackState::default(), nothing(), None),
        };
        foresee(&self.site, &declaration.stack, &mut state).await?;
        let inventory = self.look(&declaration.stack, &state, refresh).await?;
        let plan = self.plan(declaration, &state, base, &inventory, wishes)?;
        Ok(Preview { plan, state, inventory, holder })
    }

    async fn look(
        &self,
        stack: &StackName,
        state: &StackState,
        refresh: Refresh,
    ) -> Result<Inventory, StackError> {
        match refresh {
            Refresh::Look => inventory(&self.site, stack, state).await,
            Refresh::Trust => Ok(Inventory::new()),
        }
    }

    fn plan(
        &self,
        declaration: &Declaration,
        applied: &StackState,
        base: Digest,
        inventory: &Inventory,
        wishes: &Wishes,
    ) -> Result<StackPlan, StackError> {
        let facts = Facts { declaration, applied, base, inventory, catalog: &self.site.catalog, wishes };
        planner::plan(&facts).map_err(StackError::Plan)
    }

    /// Changes a stack to what is declared.
    pub async fn change(&self, change: &Change<'_>, options: HoldOptions) -> Result<Changed, StackError> {
        let started = self.site.clock.steady();
        let stack = &change.declaration.stack;
        let held = Arc::new(self.store.hold::<StackState>(stack, options).await?);
        let result = self.change_held(change, &held, started).await;
        let summary = match &result {
            Ok(changed) => summary(&changed.plan),
            Err(error) => format!("failed: {error}"),
        };
        // What was appended stays; a lease that cannot be given back runs out.
        let closed = held.close(summary).await;
        let changed = result?;
        closed?;
        Ok(changed)
    }

    async fn change_held(
        &self,
        change: &Change<'_>,
        held: &Arc<Held<StackState>>,
        started: Duration,
    ) -> Result<Changed, StackError> {
        let Change { declaration, wishes, refresh, expected, approve } = change;
        let stack = &declaration.stack;
        let base = held.version();
        resolve(&self.site, stack, held).await?;
        let state = held.state().await?;
        let inventory = self.look(stack, &state, *refresh).await?;
        let plan = self.plan(declaration, &state, base, &inventory, wishes)?;
        if let Some(expected) = expected {
            same(expected, &plan)?;
        }
        let preview = Preview { plan, state, inventory, holder: None };
        approve(&preview).map_err(StackError::Declined)?;
        let Preview { plan, .. } = preview;
        let ends = self.begin(&plan, held).await?;
        let outputs = self.end(&plan, held, ends, started).await?;
        Ok(Changed { plan, outputs, seconds: self.site.seconds_since(started) })
    }

    async fn begin(&self, plan: &StackPlan, held: &Arc<Held<StackState>>) -> Result<Ends, StackError> {
        if plan.is_empty() {
            return Ok(Ends::default());
        }
        let images = plan.images.clone();
        held.append(Record::Begun { plan: plan.digest(), images, at: self.site.now().0 }).await?;
        let event = StackEvent::DeployStarted { stack: plan.stack.clone(), actions: plan.actions.len() };
        self.site.say(event);
        carry_out(&self.site, plan, held).await
    }

    async fn end(
        &self,
        plan: &StackPlan,
        held: &Held<StackState>,
        ends: Ends,
        started: Duration,
    ) -> Result<BTreeMap<String, Value>, StackError> {
        let Ends { done, failures, skipped, cancelled } = ends;
        if !plan.is_empty() {
            self.site.say(StackEvent::DeployFinished {
                stack: plan.stack.clone(),
                done,
                failed: failures.len(),
                skipped,
                seconds: self.site.seconds_since(started),
            });
        }
        if held.is_lost() {
            return Err(held.lost().await.into());
        }
        if cancelled {
            return Err(StackError::Cancelled);
        }
        if !failures.is_empty() {
            return Err(StackError::Failed { failures, skipped });
        }
        let outputs = held.with(|state| outputs(plan, state)).await?;
        let written = held
            .with(|state| {
                state.finished.is_some() && state.outputs == outputs && state.references == plan.references
            })
            .await?;
        if !(plan.is_empty() && written) {
            let references = plan.references.clone();
            held.append(Record::Finished { outputs: outputs.clone(), references, at: self.site.now().0 })
                .await?;
        }
        Ok(outputs)
    }

    /// Writes down what the providers say of a stack's objects. Returns the resources that are gone or give other
    /// outputs than before.
    pub async fn refresh(&self, stack: &StackName, options: HoldOptions) -> Result<Vec<String>, StackError> {
        let held = self.store.hold::<StackState>(stack, options).await?;
        let result = self.refresh_held(stack, &held).await;
        let closed = held.close("refreshed").await;
        let changed = result?;
        closed?;
        Ok(changed)
    }

    async fn refresh_held(
        &self,
        stack: &StackName,
        held: &Held<StackState>,
    ) -> Result<Vec<String>, StackError> {
        resolve(&self.site, stack, held).await?;
        let state = held.state().await?;
        let mut changed = Vec::new();
        for (name, applied) in &state.resources {
            let object = super::look::object(stack, name, &applied.ty, &applied.id);
            let inputs = super::secrets::reveal_known(&self.site, &applied.inputs);
            let live = self.site.provider(&applied.ty)?.read(&object, &inputs).await;
            let live = live.map_err(|source| StackError::Provider { name: name.clone(), source })?;
            let outputs = live.map(|live| live.outputs);
            if outputs.as_ref() != Some(&applied.outputs) || applied.gone {
                changed.push(match outputs {
                    Some(_) => format!("{name}: other outputs"),
                    None => format!("{name}: gone"),
                });
                held.append(Record::Refreshed { name: name.clone(), id: applied.id.clone(), outputs })
                    .await?;
            }
        }
        Ok(changed)
    }

    /// Objects that carry a stack's name and that its state does not know of.
    pub async fn orphans(&self, stack: &StackName) -> Result<Vec<super::provider::Object>, StackError> {
        let state = self.read(stack).await?.map(|viewed| viewed.state).unwrap_or_default();
        let known: std::collections::BTreeSet<_> = state.objects().map(|(id, ..)| id.clone()).collect();
        let mut found = Vec::new();
        for provider in self.site.providers.values() {
            let name = provider.name().to_owned();
            let listed =
                provider.list().await.map_err(|source| StackError::Listing { provider: name, source })?;
            found.extend(
                listed.into_iter().filter(|object| object.stack == *stack && !known.contains(&object.id)),
            );
        }
        Ok(found)
    }

    /// Removes an object that no state knows of.
    pub async fn remove_orphan(&self, object: &super::provider::Object) -> Result<(), StackError> {
        let provider = self.site.provider(&object.ty)?;
        let removed = provider.delete(object, &serde_json::Map::new()).await;
        removed.map_err(|source| StackError::Provider { name: object.name.clone(), source })
    }
}

/// Refuses a plan other than the one that was made before. The same actions from another state are the same plan.
fn same(expected: &StackPlan, plan: &StackPlan) -> Result<(), StackError> {
    let lines = |plan: &StackPlan| -> BTreeMap<String, String> {
        let text = |action| olbake_core::canonical::to_string(action);
        plan.actions.iter().map(|action| (action.key.to_string(), text(action))).collect()
    };
    let (before, after) = (lines(expected), lines(plan));
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differ = keys.into_iter().filter_map(|key| match (before.get(key), after.get(key)) {
        (Some(_), None) => Some(format!("{key}: no longer to be done")),
        (None, Some(_)) => Some(format!("{key}: now to be done too")),
        (before, after) if before != after => Some(format!("{key}: with other values or for other reasons")),
        _ => None,
    });
    let differences: Vec<String> = differ.collect();
    match differences.is_empty() && expected.outputs == plan.outputs {
        true => Ok(()),
        false => Err(StackError::Moved { stack: plan.stack.clone(), differences }),
    }
}

fn outputs(plan: &StackPlan, state: &StackState) -> BTreeMap<String, Value> {
    let known =
        |reference: &value::Reference| reference.in_map(&state.resources.get(&reference.resource)?.outputs);
    plan.outputs.iter().map(|(name, output)| (name.clone(), value::resolve(output, &known))).collect()
}

/// What the history says of a plan that was carried out.
fn summary(plan: &StackPlan) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for action in &plan.actions {
        *counts.entry(action.act.verb()).or_default() += 1;
    }
    let images = plan.images.iter().map(|(image, pinned): (&ImageRef, &stack::declare::PinnedImage)| {
        format!("{image} {}", pinned.digest.short())
    });
    let counts = counts.into_iter().map(|(verb, count)| format!("{count} {verb}"));
    let all: Vec<String> = counts.chain(images).collect();
    if plan.is_empty() { "nothing to do".to_owned() } else { all.join(", ") }
}

/// The version of the state of a stack that never was.
fn nothing() -> Digest {
    Digest::of(b"")
}
