//! Why an image must be baked again: the differences between two plans that its key depends on, as data.
//!
//! [`why`] compares the plan of the last version with the plan of now. Operations are matched by what they do, not
//! by their number, so that one inserted line reads as one inserted operation. What does not go into a key (lines,
//! titles, files a payload comes from) is no reason; a setting is told only where its component changed, as the
//! cause behind the operations. Nothing is read and nothing is drawn here: the terminal puts [`Reason`]s into
//! words. Main types: [`Reason`], [`Difference`].

mod fields;
mod operations;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::key;
use crate::names::{ComponentName, OperationId};
use crate::operation::Phase;
use crate::plan::{Architecture, Base, Checks, Layer, PLAN_SCHEMA, Plan, Setting};
use crate::secret::SecretId;
use crate::span::Span;

pub use fields::FieldChange;

/// Why an image must be baked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// There is no version yet.
    NeverBaked,
    /// The form of plans or the generation of builders changed: the same recipe now has another key.
    EpochChanged,
    /// Another architecture.
    ArchitectureChanged {
        /// Of the last version.
        old: Architecture,
        /// Of now.
        new: Architecture,
    },
    /// It starts from something else, or from another bake of the same image.
    BaseChanged {
        /// Of the last version.
        old: Box<Base>,
        /// Of now.
        new: Box<Base>,
    },
    /// A component is new.
    ComponentAdded {
        /// Which.
        component: ComponentName,
    },
    /// A component is gone.
    ComponentRemoved {
        /// Which.
        component: ComponentName,
    },
    /// A component's place among the others changed.
    ComponentMoved {
        /// Which.
        component: ComponentName,
        /// Its place in the last version, from 1.
        old: usize,
        /// Its place now, from 1.
        new: usize,
    },
    /// A component does something else.
    ComponentChanged {
        /// Which.
        component: ComponentName,
        /// The layer's key in the last version.
        old: Digest,
        /// The layer's key now.
        new: Digest,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// What is removed at the end changed.
    SealChanged {
        /// What differs.
        differences: Vec<Difference>,
    },
    /// The checks of a component changed: the disk stays, it is verified again.
    ChecksChanged {
        /// Which.
        component: ComponentName,
        /// What differs.
        differences: Vec<Difference>,
    },
}

/// One difference within a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
pub enum Difference {
    /// A setting's value; absent: there was, or is, no such setting.
    SettingChanged {
        /// Which.
        setting: String,
        /// In the last version.
        old: Option<Value>,
        /// Now.
        new: Option<Value>,
        /// The layer that gives the value now: `environment`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layer: Option<String>,
    },
    /// A secret has another value, or another source.
    SecretChanged {
        /// Which.
        secret: String,
    },
    /// It needs a booted machine, or no longer.
    BootedChanged {
        /// The recipe's reason in the last version.
        old: Option<String>,
        /// The recipe's reason now.
        new: Option<String>,
    },
    /// An operation is new.
    OperationAdded {
        /// Its identity now.
        id: OperationId,
        /// What people read.
        title: String,
        /// The recipe's line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        span: Option<Span>,
    },
    /// An operation is gone.
    OperationRemoved {
        /// Its identity in the last version.
        id: OperationId,
        /// What people read.
        title: String,
    },
    /// An operation does something else.
    OperationChanged {
        /// Its identity now.
        id: OperationId,
        /// What people read.
        title: String,
        /// The recipe's line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        span: Option<Span>,
        /// What differs.
        fields: Vec<FieldChange>,
    },
    /// The operations of a phase are the same in another order.
    OrderChanged {
        /// The phase.
        phase: Phase,
    },
}

/// Why the plan `new` needs a bake when the last version was made from `old`. Empty: it needs none.
pub fn why(old: Option<&Plan>, new: &Plan) -> Vec<Reason> {
    let Some(old) = old else { return vec![Reason::NeverBaked] };
    if old.key == new.key {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    reasons.extend(epoch(old));
    reasons.extend(architecture(old, new));
    reasons.extend(base(old, new));
    reasons.extend(components(old, new));
    reasons.extend(seal(old, new));
    reasons.extend(checks(old, new));
    reasons
}

/// Whether keys are now computed otherwise than when `old` was made.
fn epoch(old: &Plan) -> Option<Reason> {
    let changed = old.schema != PLAN_SCHEMA || recomputed_key(old) != old.key;
    changed.then_some(Reason::EpochChanged)
}

/// The key that `plan` would have today.
fn recomputed_key(plan: &Plan) -> Digest {
    let mut parent = plan.base_key();
    for layer in &plan.layers {
        parent = key::layer(parent, plan.architecture, layer, |id| plan.secrets.get(id));
    }
    key::image(
        plan.architecture,
        &plan.image,
        key::sealed(plan.architecture, parent, &plan.seal),
        &plan.checks,
        &plan.upgrade,
    )
}

fn architecture(old: &Plan, new: &Plan) -> Option<Reason> {
    let (old, new) = (old.architecture, new.architecture);
    (old != new).then_some(Reason::ArchitectureChanged { old, new })
}

fn base(old: &Plan, new: &Plan) -> Option<Reason> {
    // Compared by key: the name of a base disk's file, for one, is no reason.
    let changed = key::base(new.architecture, &old.base) != key::base(new.architecture, &new.base);
    changed.then(|| Reason::BaseChanged { old: Box::new(old.base.clone()), new: Box::new(new.base.clone()) })
}

fn components(old: &Plan, new: &Plan) -> Vec<Reason> {
    let names = |plan: &Plan| plan.layers.iter().map(|layer| layer.component.clone()).collect::<Vec<_>>();
    let (old_names, new_names) = (names(old), names(new));
    let in_place = operations::common_subsequence(&old_names, &new_names);
    let mut reasons = Vec::new();
    for layer in old.layers.iter().filter(|layer| !new_names.contains(&layer.component)) {
        reasons.push(Reason::ComponentRemoved { component: layer.component.clone() });
    }
    for (place, layer) in new.layers.iter().enumerate() {
        let component = layer.component.clone();
        let Some(old_place) = old_names.iter().position(|name| *name == component) else {
            reasons.push(Reason::ComponentAdded { component });
            continue;
        };
        if !in_place.contains(&(old_place, place)) {
            let (old, new) = (old_place + 1, place + 1);
            reasons.push(Reason::ComponentMoved { component: component.clone(), old, new });
        }
        let before = &old.layers[old_place];
        let differences = component_differences((old, before), (new, layer));
        if !differences.is_empty() {
            reasons.push(Reason::ComponentChanged {
                component,
                old: before.key,
                new: layer.key,
                differences,
            });
        }
    }
    reasons
}

/// What differs in a layer, its parent aside.
fn component_differences(
    (old_plan, old): (&Plan, &Layer),
    (new_plan, new): (&Plan, &Layer),
) -> Vec<Difference> {
    let mut effects = secrets((old_plan, old), (new_plan, new));
    if old.booted.is_some() != new.booted.is_some() {
        effects.push(Difference::BootedChanged { old: old.booted.clone(), new: new.booted.clone() });
    }
    effects.extend(operations::differences(&old.operations, &new.operations));
    if effects.is_empty() {
        return effects;
    }
    let mut differences = settings(old, new);
    differences.append(&mut effects);
    differences
}

fn settings(old: &Layer, new: &Layer) -> Vec<Difference> {
    let mut names: Vec<&String> = old.settings.keys().chain(new.settings.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter_map(|name| {
            let (before, now) = (old.settings.get(name), new.settings.get(name));
            let value = |setting: Option<&Setting>| setting.map(|setting| setting.value.clone());
            (value(before) != value(now)).then(|| Difference::SettingChanged {
                setting: name.clone(),
                old: value(before),
                new: value(now),
                layer: now.and_then(|setting| setting.provenance.last()).map(|last| last.layer.clone()),
            })
        })
        .collect()
}

/// Secrets that both layers use and whose values differ; one that only one of them uses shows in its operation.
fn secrets((old_plan, old): (&Plan, &Layer), (new_plan, new): (&Plan, &Layer)) -> Vec<Difference> {
    let used = |layer: &Layer| -> std::collections::BTreeSet<_> {
        layer.operations.iter().flat_map(|operation| operation.action.secrets()).cloned().collect()
    };
    let version = |plan: &Plan, id: &SecretId| plan.secrets.get(id).and_then(|secret| secret.version);
    let before = used(old);
    used(new)
        .into_iter()
        .filter(|id| before.contains(id) && version(old_plan, id) != version(new_plan, id))
        .map(|id| Difference::SecretChanged { secret: id.0 })
        .collect()
}

fn seal(old: &Plan, new: &Plan) -> Option<Reason> {
    let differences = operations::differences(&old.seal, &new.seal);
    (!differences.is_empty()).then_some(Reason::SealChanged { differences })
}

fn checks(old: &Plan, new: &Plan) -> Vec<Reason> {
    let all = |plan: &Plan| plan.checks.iter().chain(&plan.upgrade).cloned().collect::<Vec<Checks>>();
    let names = |plan: &Plan| all(plan).into_iter().map(|checks| checks.component).collect::<Vec<_>>();
    let mut components = names(old);
    components.extend(names(new));
    components.sort_unstable();
    components.dedup();
    let of = |plan: &Plan, component: &ComponentName| -> Vec<_> {
        let own = all(plan).into_iter().filter(|checks| checks.component == *component);
        own.flat_map(|checks| checks.operations).collect()
    };
    components
        .into_iter()
        .filter_map(|component| {
            let differences = operations::differences(&of(old, &component), &of(new, &component));
            (!differences.is_empty()).then_some(Reason::ChecksChanged { component, differences })
        })
        .collect()
}

#[cfg(test)]
mod tests;
