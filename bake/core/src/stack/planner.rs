//! The planner: what is declared, what was applied and what is there, to a plan. Main function: [`plan`].
//!
//! It is pure, and the same facts give the same plan. It reads as a list of steps: each declared resource is
//! compared with what was applied ([`Planner::decide`]), then what is no longer declared is removed, then every
//! action is told which ones come before it.
//!
//! - What a resource depends on is made and changed before it, and removed after it.
//! - A replacement makes the new object first; where the type says that the two cannot stand beside each other, the
//!   old one goes first, and so does the old one of everything that is replaced because of it.
//! - Outputs of objects that are to be made are known only after apply; so are texts with them, and a property
//!   that becomes such a text counts as changed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::catalog::{Catalog, Change, Kind, Replacement, TypeSchema};
use super::compare::{Effect, PropertyChange, changes};
use super::declare::{Declaration, Declared};
use super::graph::Graph;
use super::name::{ObjectId, ResourceName, ResourceType, StackName};
use super::plan::{Act, Action, Reason, STACK_PLAN_SCHEMA, StackPlan, release};
use super::queue::Queue;
use super::record::OperationKey;
use super::state::{Applied, StackState};
use super::value;
use crate::Digest;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::secret::SecretId;
use crate::settings::did_you_mean;

/// What is seen of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// It is not there.
    Gone,
    /// It is there; these of its properties can be seen.
    There(Map<String, Value>),
    /// It is there, and does not do what it is there for until it is updated: its process, or the host, was ended.
    Stopped(Map<String, Value>),
    /// A group, of which so many instances run.
    Group {
        /// What can be seen of its properties.
        properties: Map<String, Value>,
        /// Instances that are up and of the group's release.
        running: u64,
    },
}

/// What the providers say of the objects of a stack. An object that is not in it was not looked at.
pub type Inventory = BTreeMap<ObjectId, Sight>;

/// What a plan is asked to be.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Only these resources, and what they need that is not there.
    pub targets: BTreeSet<ResourceName>,
    /// Resources to replace, changed or not.
    pub replace: BTreeSet<ResourceName>,
    /// Everything is removed.
    pub destroy: bool,
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What is to be.
    pub declaration: &'a Declaration,
    /// What was applied.
    pub applied: &'a StackState,
    /// The digest of what was applied: the plan holds for no other state.
    pub base: Digest,
    /// What is there.
    pub inventory: &'a Inventory,
    /// The types.
    pub catalog: &'a Catalog,
    /// What is asked for.
    pub wishes: &'a Wishes,
}

/// Plans the way from what was applied to what is declared, or says all that is wrong with it.
pub fn plan(facts: &Facts<'_>) -> Result<StackPlan, Diagnostics> {
    let mut planner = Planner::new(facts);
    let order = planner.order()?;
    planner.check_wishes();
    if !facts.wishes.destroy {
        for index in order {
            planner.decide(&facts.declaration.resources[index]);
        }
    }
    planner.remove_the_rest();
    planner.remove_deposed();
    planner.put_in_order();
    planner.finish()
}

/// What becomes of a resource's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It stands, changed or not.
    Stays,
    /// It is made anew; what it gives is not known yet.
    Made,
    /// It is made anew after the old one went.
    MadeAfterRemoval,
}

struct Planner<'a> {
    facts: &'a Facts<'a>,
    declared: BTreeMap<&'a ResourceName, &'a Declared>,
    /// What comes before each declared resource.
    dependencies: BTreeMap<&'a ResourceName, BTreeSet<ResourceName>>,
    fates: BTreeMap<&'a ResourceName, Fate>,
    /// What each resource will give, as far as it is known.
    outputs: BTreeMap<&'a ResourceName, &'a Map<String, Value>>,
    /// Resources that are changed where they stand, and which properties of theirs: some outputs are known only
    /// afterwards.
    updated: BTreeMap<&'a ResourceName, BTreeSet<String>>,
    actions: Vec<Action>,
    unchanged: usize,
    problems: Diagnostics,
    /// The wanted resources and all they need; none: everything.
    wanted: Option<BTreeSet<ResourceName>>,
}

impl<'a> Planner<'a> {
    fn new(facts: &'a Facts<'a>) -> Self {
        let resources = &facts.declaration.resources;
        let declared = resources.iter().map(|resource| (&resource.name, resource)).collect();
        let dependencies =
            resources.iter().map(|resource| (&resource.name, resource.dependencies())).collect();
        Self {
            facts,
            declared,
            dependencies,
            fates: BTreeMap::new(),
            outputs: BTreeMap::new(),
            updated: BTreeMap::new(),
            actions: Vec::new(),
            unchanged: 0,
            problems: Diagnostics::default(),
            wanted: None,
        }
    }

    /// The declared resources, each after what it depends on.
    fn order(&mut self) -> Result<Vec<usize>, Diagnostics> {
        let resources = &self.facts.declaration.resources;
        let index: BTreeMap<&ResourceName, usize> =
            resources.iter().enumerate().map(|(index, resource)| (&resource.name, index)).collect();
        let mut graph = Graph::default();
        for resource in resources {
            for dependency in &self.dependencies[&resource.name] {
                if !index.contains_key(dependency) {
                    self.problems.push(unknown_dependency(resource, dependency, index.keys().copied()));
                }
            }
            let node = (resource.ty.clone(), self.dependencies[&resource.name].clone());
            graph.nodes.insert(resource.name.clone(), node);
        }
        let levels = match graph.levels() {
            Ok(levels) => levels,
            Err(cycle) => {
                let span = index.get(&cycle[0]).and_then(|index| resources[*index].span.clone());
                let names: Vec<String> = cycle.iter().map(|name| format!("`{name}`")).collect();
                let text = format!("resources depend on themselves: {} → {}", names.join(" → "), names[0]);
                self.problems.push(Diagnostic::error("cycle", text).at(span));
                Vec::new()
            }
        };
        let order = levels.into_iter().flatten().map(|name| index[name]).collect();
        if self.problems.0.is_empty() { Ok(order) } else { Err(std::mem::take(&mut self.problems)) }
    }

    fn check_wishes(&mut self) {
        let Wishes { targets, replace, .. } = self.facts.wishes;
        let known = |name: &ResourceName| {
            self.declared.contains_key(name) || self.facts.applied.resources.contains_key(name)
        };
        for name in targets.iter().chain(replace).filter(|name| !known(name)) {
            let mut problem =
                Diagnostic::error("unknown-resource", format!("the stack has no resource `{name}`"));
            let names = self.declared.keys().map(|name| name.as_str());
            problem.help = did_you_mean(name.as_str(), names.collect::<Vec<_>>());
            self.problems.push(problem);
        }
        if !targets.is_empty() {
            let follow = if self.facts.wishes.destroy { Follow::Dependents } else { Follow::Dependencies };
            self.wanted = Some(self.closure(targets, follow));
        }
    }

    /// Resources with all that they need, or with all that needs them.
    fn closure(&self, from: &BTreeSet<ResourceName>, follow: Follow) -> BTreeSet<ResourceName> {
        let dependents = self.dependents();
        let mut found = from.clone();
        let mut next: Vec<ResourceName> = from.iter().cloned().collect();
        while let Some(name) = next.pop() {
            let more: Vec<ResourceName> = match follow {
                Follow::Dependencies => self.dependencies.get(&name).into_iter().flatten().cloned().collect(),
                Follow::Dependents => dependents.get(&name).into_iter().flatten().copied().cloned().collect(),
            };
            next.extend(more.into_iter().filter(|more| found.insert(more.clone())));
        }
        found
    }

    /// What was applied, replaced or not, and depended on each resource.
    fn dependents(&self) -> BTreeMap<&'a ResourceName, Vec<&'a ResourceName>> {
        let StackState { resources, deposed, .. } = self.facts.applied;
        let deposed = deposed.values().map(|deposed| (&deposed.name, &deposed.was));
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, applied) in resources.iter().chain(deposed) {
            applied.dependencies.iter().for_each(|before| found.entry(before).or_default().push(name));
        }
        found
    }

    fn is_wanted(&self, name: &ResourceName) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(name))
    }

    /// Decides what becomes of one declared resource.
    fn decide(&mut self, declared: &'a Declared) {
        let Some(schema) = self.facts.catalog.get(&declared.ty) else {
            let text = format!("no provider has resources of type `{}`", declared.ty);
            self.problems.push(Diagnostic::error("unknown-type", text).at(declared.span.clone()));
            return;
        };
        let applied = self.facts.applied.resources.get(&declared.name);
        let only_needed =
            !self.facts.wishes.targets.is_empty() && !self.facts.wishes.targets.contains(&declared.name);
        if let Some(applied) = applied.filter(|applied| {
            !self.is_wanted(&declared.name) || (only_needed && !applied.gone && !self.is_gone(applied))
        }) {
            return self.leave(declared, applied);
        }
        if !self.is_wanted(&declared.name) {
            self.fates.insert(&declared.name, Fate::Made);
            return;
        }
        let inputs = self.resolved(declared);
        match applied {
            None => self.create(declared, inputs, 1, vec![Reason::New]),
            Some(applied) if applied.gone || self.is_gone(applied) => {
                let first_new = self.actions.len();
                self.create(declared, inputs, applied.generation + 1, vec![Reason::Gone]);
                let mut old = forgotten(&declared.name, applied, Reason::Gone);
                // As long as the old one is known, the new one is not given its id.
                old.after.insert(self.actions[first_new].key.clone());
                self.actions.push(old);
            }
            Some(applied) => self.change(declared, schema, applied, inputs),
        }
    }

    fn is_gone(&self, applied: &Applied) -> bool {
        self.facts.inventory.get(&applied.id) == Some(&Sight::Gone)
    }

    /// Its properties, with the outputs put in that are known.
    fn resolved(&self, declared: &Declared) -> Map<String, Value> {
        let known = |reference: &value::Reference| self.known(reference);
        let resolve = |input: &Value| match value::has_references(input) {
            true => value::resolve(input, &known),
            false => input.clone(),
        };
        let inputs: Map<String, Value> =
            declared.inputs.iter().map(|(name, input)| (name.clone(), resolve(input))).collect();
        // A set is in order only once all that is in it is known.
        match self.facts.catalog.get(&declared.ty) {
            Some(schema) if declared.inputs.values().any(value::has_references) => {
                schema.coerce(&inputs).unwrap_or(inputs)
            }
            _ => inputs,
        }
    }

    /// The value of an output that is known already.
    fn known(&self, reference: &value::Reference) -> Option<&'a Value> {
        let outputs: &'a Map<String, Value> = self.outputs.get(&reference.resource)?;
        if self.is_renewed(reference) {
            return None;
        }
        reference.in_map(outputs)
    }

    /// Whether an update that is planned may change an output: it says so, or has the name of a property that changes.
    fn is_renewed(&self, reference: &value::Reference) -> bool {
        let Some(changed) = self.updated.get(&reference.resource) else { return false };
        let schema =
            self.declared.get(&reference.resource).and_then(|declared| self.facts.catalog.get(&declared.ty));
        let name = reference.output.split('.').next().unwrap_or_default();
        let renewed = schema.and_then(|schema| schema.outputs.get(name)).is_some_and(|output| output.renewed);
        renewed || changed.contains(name)
    }

    fn leave(&mut self, declared: &'a Declared, applied: &'a Applied) {
        self.unchanged += 1;
        self.fates.insert(&declared.name, Fate::Stays);
        self.outputs.insert(&declared.name, &applied.outputs);
    }

    fn create(
        &mut self,
        declared: &'a Declared,
        inputs: Map<String, Value>,
        generation: u64,
        reasons: Vec<Reason>,
    ) {
        // What an earlier change replaced and did not remove has its id still.
        let deposed = self.facts.applied.deposed.values().filter(|deposed| deposed.name == declared.name);
        let generation = deposed.fold(generation, |next, deposed| next.max(deposed.was.generation + 1));
        let act = match &declared.import {
            Some(object) if generation == 1 => Act::Import { object: object.clone() },
            _ => Act::Create,
        };
        let id = ObjectId::of(&self.facts.declaration.stack, &declared.name, generation);
        self.fates.insert(&declared.name, Fate::Made);
        let action = self.action(declared, act, id.clone(), generation, inputs.clone(), reasons);
        self.actions.push(action);
        if self.kind(&declared.ty) == Kind::Group {
            let reason = Reason::Release { from: None, to: self.release_of(declared, &inputs) };
            let roll = self.action(declared, Act::Roll, id, generation, inputs, vec![reason]);
            self.actions.push(roll);
        }
    }

    fn change(
        &mut self,
        declared: &'a Declared,
        schema: &TypeSchema,
        applied: &'a Applied,
        inputs: Map<String, Value>,
    ) {
        let found = self.differences(declared, schema, applied, &inputs);
        let reasons = self.reasons(declared, applied, &found);
        let asked = self.facts.wishes.replace.contains(&declared.name) || applied.ty != declared.ty;
        if asked || found.iter().any(|change| change.effect == Effect::Replace) {
            return self.replace(declared, schema, applied, inputs, found, reasons);
        }
        self.fates.insert(&declared.name, Fate::Stays);
        self.outputs.insert(&declared.name, &applied.outputs);
        let before = self.actions.len();
        let settles = settling(schema, &found);
        if !reasons.is_empty() {
            let first = |path: &str| path.split('.').next().map(str::to_owned);
            let changed = match applied.uncertain {
                true => inputs.keys().cloned().collect(),
                false => found.iter().filter_map(|change| first(&change.path)).collect(),
            };
            self.updated.insert(&declared.name, changed);
            let mut action = self.action(
                declared,
                Act::Update,
                applied.id.clone(),
                applied.generation,
                inputs.clone(),
                reasons,
            );
            action.changes = found;
            self.actions.push(action);
        } else if applied.protect != declared.protect
            || applied.retain != declared.retain
            || applied.dependencies != self.dependencies[&declared.name]
        {
            let reasons = vec![Reason::Changed { paths: vec!["options".to_owned()] }];
            let action = self.action(
                declared,
                Act::Mark,
                applied.id.clone(),
                applied.generation,
                inputs.clone(),
                reasons,
            );
            self.actions.push(action);
        }
        if schema.kind == Kind::Group {
            self.roll(declared, applied, inputs, settles);
        }
        if self.actions.len() == before {
            self.unchanged += 1;
        }
    }

    /// What differs between what was applied and what is to be.
    fn differences(
        &self,
        declared: &Declared,
        schema: &TypeSchema,
        applied: &Applied,
        inputs: &Map<String, Value>,
    ) -> Vec<PropertyChange> {
        let mut found = changes(schema, &applied.inputs, inputs, &declared.ignore_changes);
        for (name, input) in inputs.iter().filter(|(name, _)| !declared.ignore_changes.contains(*name)) {
            let listed = |change: &PropertyChange| change.path.split('.').next() == Some(name.as_str());
            if found.iter().any(listed) {
                continue;
            }
            let changed = |id: &SecretId| applied.secrets.get(id) != self.facts.declaration.secrets.get(id);
            if value::secrets(input).iter().any(changed) {
                let effect = schema.inputs.get(name.as_str()).map_or(Effect::InPlace, |p| p.change.into());
                let shown = Some(input.clone());
                found.push(PropertyChange { path: name.clone(), old: shown.clone(), new: shown, effect });
            }
        }
        found
    }

    /// Why an object is changed; nothing: it is not.
    fn reasons(&self, declared: &Declared, applied: &Applied, found: &[PropertyChange]) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.facts.wishes.replace.contains(&declared.name) {
            reasons.push(Reason::Requested);
        }
        let replaced = self.dependencies[&declared.name]
            .iter()
            .filter(|name| self.fates.get(name).is_some_and(|fate| *fate != Fate::Stays));
        if !found.is_empty() {
            let paths = found.iter().map(|change| change.path.clone()).collect();
            reasons.push(Reason::Changed { paths });
            reasons.extend(replaced.map(|name| Reason::DependencyReplaced { name: name.clone() }));
        }
        if applied.uncertain {
            reasons.push(Reason::Interrupted);
        }
        if matches!(self.facts.inventory.get(&applied.id), Some(Sight::Stopped(_))) {
            reasons.push(Reason::Stopped);
        }
        let drift = self.drift(declared, applied);
        if !drift.is_empty() {
            reasons.push(Reason::Drifted { changes: drift });
        }
        reasons
    }

    /// In what an object differs from what was applied.
    fn drift(&self, declared: &Declared, applied: &Applied) -> Vec<PropertyChange> {
        let Some(Sight::There(seen) | Sight::Stopped(seen) | Sight::Group { properties: seen, .. }) =
            self.facts.inventory.get(&applied.id)
        else {
            return Vec::new();
        };
        let Some(schema) = self.facts.catalog.get(&applied.ty) else { return Vec::new() };
        drift(schema, &applied.inputs, seen, &declared.ignore_changes)
    }

    fn replace(
        &mut self,
        declared: &'a Declared,
        schema: &TypeSchema,
        applied: &'a Applied,
        inputs: Map<String, Value>,
        found: Vec<PropertyChange>,
        reasons: Vec<Reason>,
    ) {
        if applied.protect && declared.protect {
            self.protected(declared, "replaced");
        }
        let forced = self.dependencies[&declared.name]
            .iter()
            .any(|name| self.fates.get(name) == Some(&Fate::MadeAfterRemoval));
        let removal_first = forced || schema.replacement == Replacement::DeleteFirst;
        let first_new = self.actions.len();
        self.create(declared, inputs, applied.generation + 1, reasons);
        self.actions[first_new].changes = found;
        let by = self.actions[first_new].id.clone();
        let mut old = removal(&declared.name, applied, schema, vec![Reason::Replaced { by }]);
        if removal_first {
            self.fates.insert(&declared.name, Fate::MadeAfterRemoval);
            self.actions[first_new].after.insert(old.key.clone());
        } else {
            let last_new = self.actions.last().expect("it was just made");
            old.after.insert(last_new.key.clone());
        }
        self.actions.push(old);
    }

    fn protected(&mut self, declared: &Declared, what: &str) {
        let text = format!("resource `{}` is protected, and would be {what}", declared.name);
        let help = "take `protect` away, deploy, and try again";
        self.problems.push(Diagnostic::error("protected", text).at(declared.span.clone()).help(help));
    }

    fn kind(&self, ty: &ResourceType) -> Kind {
        self.facts.catalog.get(ty).map_or(Kind::Object, |schema| schema.kind)
    }

    fn release_of(&self, declared: &Declared, inputs: &Map<String, Value>) -> Option<Digest> {
        let schema = self.facts.catalog.get(&declared.ty)?;
        release(schema, inputs, &self.secrets_of(declared))
    }

    fn secrets_of(&self, declared: &Declared) -> BTreeMap<SecretId, Digest> {
        let versions = &self.facts.declaration.secrets;
        let used = declared.secrets().into_iter();
        used.filter_map(|id| versions.get(&id).map(|digest| (id, *digest))).collect()
    }

    /// Brings a group's instances to where they are to be, if they are not there.
    fn roll(
        &mut self,
        declared: &'a Declared,
        applied: &'a Applied,
        inputs: Map<String, Value>,
        settles: Vec<String>,
    ) {
        let mut reasons = Vec::new();
        if !settles.is_empty() {
            reasons.push(Reason::Changed { paths: settles });
        }
        if applied.rollout.is_some() {
            reasons.push(Reason::RolloutUnderWay);
        }
        let runs = applied.group.as_ref().and_then(|group| group.release);
        let to = self.release_of(declared, &inputs);
        if runs.is_none() || runs != to {
            reasons.push(Reason::Release { from: runs, to });
        }
        let size = inputs.get("size").and_then(Value::as_u64).unwrap_or(1);
        let running = match self.facts.inventory.get(&applied.id) {
            Some(Sight::Group { running, .. }) => *running,
            _ => applied.group.as_ref().map_or(0, |group| group.instances.len() as u64),
        };
        if running != size && runs.is_some() {
            reasons.push(Reason::Instances { running, size });
        }
        if !reasons.is_empty() {
            let action =
                self.action(declared, Act::Roll, applied.id.clone(), applied.generation, inputs, reasons);
            self.actions.push(action);
        }
    }

    fn action(
        &self,
        declared: &Declared,
        act: Act,
        id: ObjectId,
        generation: u64,
        inputs: Map<String, Value>,
        reasons: Vec<Reason>,
    ) -> Action {
        Action {
            key: key(&act, &declared.name, &id),
            act,
            name: declared.name.clone(),
            ty: declared.ty.clone(),
            id,
            generation,
            inputs,
            secrets: self.secrets_of(declared),
            changes: Vec::new(),
            reasons,
            after: BTreeSet::new(),
            dependencies: self.dependencies[&declared.name].clone(),
            protect: declared.protect,
            retain: declared.retain,
            holds_data: false,
        }
    }

    /// Removes what was applied and is not declared; with a destroy, everything.
    fn remove_the_rest(&mut self) {
        for (name, applied) in &self.facts.applied.resources {
            let stays = !self.facts.wishes.destroy && self.declared.contains_key(name);
            if stays || !self.is_wanted(name) {
                continue;
            }
            if applied.protect {
                let text = format!("resource `{name}` is protected, and would be removed");
                let help = "declare it with `protect = False`, deploy, and try again";
                self.problems.push(Diagnostic::error("protected", text).help(help));
                continue;
            }
            let reason = if self.facts.wishes.destroy { Reason::Destroyed } else { Reason::Removed };
            if applied.retain {
                self.actions.push(forgotten(name, applied, reason));
                continue;
            }
            let Some(schema) = self.facts.catalog.get(&applied.ty) else {
                let text = format!("no provider has resources of type `{}`, which `{name}` is", applied.ty);
                self.problems.push(Diagnostic::error("unknown-type", text));
                continue;
            };
            self.actions.push(removal(name, applied, schema, vec![reason]));
        }
    }

    /// Removes objects whose replacement an earlier change did not finish.
    fn remove_deposed(&mut self) {
        for deposed in self.facts.applied.deposed.values() {
            if let Some(schema) = self.facts.catalog.get(&deposed.was.ty) {
                let by = self.facts.applied.resources.get(&deposed.name).map(|applied| applied.id.clone());
                let reason = by.map_or(Reason::Removed, |by| Reason::Replaced { by });
                self.actions.push(removal(&deposed.name, &deposed.was, schema, vec![reason]));
            }
        }
    }

    /// Tells every action which ones come before it.
    fn put_in_order(&mut self) {
        let mut makers: BTreeMap<ResourceName, Vec<OperationKey>> = BTreeMap::new();
        let mut removers: BTreeMap<ResourceName, Vec<OperationKey>> = BTreeMap::new();
        for action in &self.actions {
            let list = if action.act == Act::Delete { &mut removers } else { &mut makers };
            list.entry(action.name.clone()).or_default().push(action.key.clone());
        }
        // What depended on an object, by what was applied: it lets go of it before it goes.
        let mut leaving: BTreeMap<&ResourceName, BTreeSet<OperationKey>> = BTreeMap::new();
        let deposed = self.facts.applied.deposed.values().map(|deposed| (&deposed.name, &deposed.was));
        for (name, applied) in self.facts.applied.resources.iter().chain(deposed) {
            for dependency in &applied.dependencies {
                let keys = removers.get(name).into_iter().chain(makers.get(name)).flatten().cloned();
                leaving.entry(dependency).or_default().extend(keys);
            }
        }
        let hurried = self.hurried(&removers);
        for action in &mut self.actions {
            match action.act {
                Act::Delete if hurried.contains(&action.name) => {
                    // It goes before its successor is made: only removals come before it.
                    let before = leaving.get(&action.name).into_iter().flatten();
                    let removals = before.filter(|key| is_removal(key) && **key != action.key);
                    action.after = removals.cloned().collect();
                }
                Act::Delete => {
                    let before = leaving.get(&action.name).into_iter().flatten();
                    action.after.extend(before.filter(|key| **key != action.key).cloned());
                }
                _ => {
                    let needs = action.dependencies.iter().filter_map(|name| makers.get(name)).flatten();
                    action.after.extend(needs.cloned());
                    if hurried.contains(&action.name) {
                        action.after.extend(removers.get(&action.name).into_iter().flatten().cloned());
                    }
                    if action.act == Act::Roll {
                        let own = makers.get(&action.name).into_iter().flatten();
                        action.after.extend(own.filter(|key| **key != action.key).cloned());
                    }
                }
            }
        }
    }

    /// The resources whose old object goes before anything is made in its place: those whose type says so, and
    /// everything that goes away and depended on one of them.
    fn hurried(&self, removers: &BTreeMap<ResourceName, Vec<OperationKey>>) -> BTreeSet<ResourceName> {
        let first = self.fates.iter().filter(|(_, fate)| **fate == Fate::MadeAfterRemoval);
        let mut next: Vec<ResourceName> = first.map(|(name, _)| (*name).clone()).collect();
        let mut found: BTreeSet<ResourceName> = next.iter().cloned().collect();
        let dependents = self.dependents();
        while let Some(name) = next.pop() {
            for dependent in dependents.get(&name).into_iter().flatten() {
                if removers.contains_key(*dependent) && found.insert((*dependent).clone()) {
                    next.push((*dependent).clone());
                }
            }
        }
        found
    }

    fn finish(mut self) -> Result<StackPlan, Diagnostics> {
        if !self.problems.0.is_empty() {
            return Err(self.problems);
        }
        self.actions.sort_by(|a, b| a.key.cmp(&b.key));
        let outputs = match self.facts.wishes.destroy {
            true => BTreeMap::new(),
            false => self.resolved_outputs(),
        };
        let Declaration { stack, images, references, .. } = self.facts.declaration;
        Ok(StackPlan {
            schema: STACK_PLAN_SCHEMA,
            stack: StackName::clone(stack),
            base: self.facts.base,
            images: images.clone(),
            actions: in_order(self.actions),
            unchanged: self.unchanged,
            outputs,
            references: references.clone(),
        })
    }

    fn resolved_outputs(&self) -> BTreeMap<String, Value> {
        let known = |reference: &value::Reference| self.known(reference);
        let outputs = self.facts.declaration.outputs.iter();
        outputs.map(|(name, output)| (name.clone(), value::resolve(output, &known))).collect()
    }
}

#[derive(Clone, Copy)]
enum Follow {
    Dependencies,
    Dependents,
}

/// In what an object differs from what was applied, as far as it can be seen. Of secrets only null is seen: it is
/// not the one that was applied.
pub fn drift(
    schema: &TypeSchema,
    applied: &Map<String, Value>,
    seen: &Map<String, Value>,
    ignored: &BTreeSet<String>,
) -> Vec<PropertyChange> {
    let can_be_seen = |value: &Value, seen: &Value| value::secrets(value).is_empty() || seen.is_null();
    let visible: Map<String, Value> = applied
        .iter()
        .filter(|(name, value)| seen.get(*name).is_some_and(|seen| can_be_seen(value, seen)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let seen = seen.iter().filter(|(name, _)| visible.contains_key(*name));
    let seen: Map<String, Value> = seen.map(|(name, value)| (name.clone(), value.clone())).collect();
    changes(schema, &visible, &seen, ignored)
}

/// The changed properties that a group's instances are brought in line with.
fn settling(schema: &TypeSchema, found: &[PropertyChange]) -> Vec<String> {
    let settles = |change: &&PropertyChange| {
        let name = change.path.split('.').next().unwrap_or_default();
        schema.inputs.get(name).is_some_and(|property| property.change == Change::Settle)
    };
    found.iter().filter(settles).map(|change| change.path.clone()).collect()
}

fn is_removal(key: &OperationKey) -> bool {
    key.0.starts_with("delete ")
}

fn key(act: &Act, name: &ResourceName, id: &ObjectId) -> OperationKey {
    OperationKey(format!("{} {name} {id}", act.verb()))
}

fn removal(name: &ResourceName, applied: &Applied, schema: &TypeSchema, reasons: Vec<Reason>) -> Action {
    Action { holds_data: schema.holds_data, reasons, ..of_applied(Act::Delete, name, applied) }
}

/// An object that is gone, or that is to stay: nothing is asked of a provider.
fn forgotten(name: &ResourceName, applied: &Applied, reason: Reason) -> Action {
    Action { reasons: vec![reason], ..of_applied(Act::Forget, name, applied) }
}

fn of_applied(act: Act, name: &ResourceName, applied: &Applied) -> Action {
    Action {
        key: key(&act, name, &applied.id),
        act,
        name: name.clone(),
        ty: applied.ty.clone(),
        id: applied.id.clone(),
        generation: applied.generation,
        inputs: applied.inputs.clone(),
        secrets: applied.secrets.clone(),
        changes: Vec::new(),
        reasons: Vec::new(),
        after: BTreeSet::new(),
        dependencies: BTreeSet::new(),
        protect: applied.protect,
        retain: applied.retain,
        holds_data: false,
    }
}

fn unknown_dependency<'n>(
    resource: &Declared,
    dependency: &ResourceName,
    known: impl Iterator<Item = &'n ResourceName>,
) -> Diagnostic {
    let text = format!("`{}` depends on `{dependency}`, which the stack does not have", resource.name);
    let mut problem = Diagnostic::error("unknown-resource", text).at(resource.span.clone());
    problem.help = did_you_mean(dependency.as_str(), known.map(ResourceName::as_str).collect::<Vec<_>>());
    problem
}

/// The actions so that each comes after those that it names; where there is a choice, by key.
fn in_order(actions: Vec<Action>) -> Vec<Action> {
    let mut queue = Queue::new(actions.iter().map(|action| (&action.key, &action.after)));
    let mut order = Vec::with_capacity(actions.len());
    while let Some(key) = queue.take() {
        queue.done(&key);
        order.push(key.clone());
    }
    debug_assert!(
        queue.left().len() == 0,
        "actions wait for each other: {:?}",
        queue.left().collect::<Vec<_>>()
    );
    order.extend(queue.left().map(|key| (*key).clone()));
    let mut by_key: BTreeMap<OperationKey, Action> =
        actions.into_iter().map(|action| (action.key.clone(), action)).collect();
    order.iter().filter_map(|key| by_key.remove(key)).collect()
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
