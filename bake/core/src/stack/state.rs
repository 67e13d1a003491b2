//! What was applied to a stack: the fold of its [`Record`]s. Main type: [`StackState`].
//!
//! An intent without a result is *pending*: the call may have happened or not. Before anything is planned, each is
//! resolved by asking the provider, and a `Done` or `NotDone` is written for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::declare::PinnedImage;
use super::name::{ObjectId, ResourceName, ResourceType, StackName};
use super::record::{GroupState, Intent, IntentAct, OperationKey, Record};
use crate::secret::SecretId;
use crate::{Digest, ImageRef, canonical};

/// The version of the state's form.
pub const STATE_SCHEMA: u32 = 1;

/// A stack as it was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StackState {
    /// [`STATE_SCHEMA`].
    pub schema: u32,
    /// Its resources.
    pub resources: BTreeMap<ResourceName, Applied>,
    /// Objects that others have replaced and that are still to be removed.
    pub deposed: BTreeMap<ObjectId, Deposed>,
    /// Calls whose end is not known.
    pub pending: BTreeMap<OperationKey, Intent>,
    /// What other stacks may read: as of the last change that came to its end.
    pub outputs: BTreeMap<String, Value>,
    /// The images of the last change that was begun.
    pub images: BTreeMap<ImageRef, PinnedImage>,
    /// The stacks that were read.
    pub references: BTreeSet<StackName>,
    /// The plan of the last change.
    pub plan: Option<Digest>,
    /// When the last change began, in milliseconds since the Unix epoch.
    pub begun: Option<u64>,
    /// When the last change came to its end; none while it has not.
    pub finished: Option<u64>,
}

/// A resource as it was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Its type.
    #[serde(rename = "type")]
    pub ty: ResourceType,
    /// Its object.
    pub id: ObjectId,
    /// How often it was replaced, from 1.
    pub generation: u64,
    /// Its properties; secrets are markers.
    pub inputs: Map<String, Value>,
    /// The secrets in them, by digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretId, Digest>,
    /// What it gives.
    pub outputs: Map<String, Value>,
    /// What comes before it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub dependencies: BTreeSet<ResourceName>,
    /// See [`super::declare::Declared`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub protect: bool,
    /// See [`super::declare::Declared`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub retain: bool,
    /// The provider says that the object is gone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gone: bool,
    /// An update was begun and its end is not known: what stands there may be either.
    #[serde(default, skip_serializing_if = "is_false")]
    pub uncertain: bool,
    /// For groups: what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupState>,
    /// For groups: a rollout that is under way, as it wrote itself down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Value>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// An object that was replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deposed {
    /// The resource that it was.
    pub name: ResourceName,
    /// As it was applied.
    pub was: Applied,
}

/// Why a record cannot follow what is there.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FoldError {
    /// A result without an intent.
    #[error("`{0}` has a result, but no intent")]
    NoIntent(OperationKey),
    /// Something happened to a resource that is not there.
    #[error("resource `{0}` is not in the state")]
    NoResource(ResourceName),
}

impl Default for StackState {
    fn default() -> Self {
        Self {
            schema: STATE_SCHEMA,
            resources: BTreeMap::new(),
            deposed: BTreeMap::new(),
            pending: BTreeMap::new(),
            outputs: BTreeMap::new(),
            images: BTreeMap::new(),
            references: BTreeSet::new(),
            plan: None,
            begun: None,
            finished: None,
        }
    }
}

impl StackState {
    /// The digest of the state: plans name it, and are refused when it is another.
    pub fn digest(&self) -> Digest {
        Digest::of(canonical::to_string(self).as_bytes())
    }

    /// Whether there is nothing of the stack: no object, no call whose end is not known.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.deposed.is_empty() && self.pending.is_empty()
    }

    /// Every object that may exist, with its resource and type.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectId, &ResourceName, &ResourceType)> {
        let standing = self.resources.iter().map(|(name, applied)| (&applied.id, name, &applied.ty));
        let deposed = self.deposed.iter().map(|(id, deposed)| (id, &deposed.name, &deposed.was.ty));
        let pending = self.pending.values().map(|intent| (&intent.id, &intent.name, &intent.ty));
        standing.chain(deposed).chain(pending)
    }

    /// Adds what happened.
    pub fn apply(&mut self, record: &Record) -> Result<(), FoldError> {
        match record {
            Record::Begun { plan, images, at } => {
                self.plan = Some(*plan);
                self.images.clone_from(images);
                self.begun = Some(*at);
                self.finished = None;
            }
            Record::Intent(intent) => self.intend(intent),
            Record::Done { key, outputs, seen } => {
                let intent = self.pending.remove(key).ok_or_else(|| FoldError::NoIntent(key.clone()))?;
                self.done(intent, outputs.clone(), *seen);
            }
            Record::NotDone { key } => {
                let intent = self.pending.remove(key).ok_or_else(|| FoldError::NoIntent(key.clone()))?;
                if intent.act == IntentAct::Update
                    && let Some(applied) = self.resources.get_mut(&intent.name)
                {
                    // What was there before is there still, as far as the provider can tell; the next plan looks.
                    applied.uncertain = true;
                }
            }
            Record::Refreshed { name, id, outputs } => self.refreshed(name, id, outputs.as_ref()),
            Record::Rollout { name, state } => self.resource(name)?.rollout = Some(state.clone()),
            Record::RolledOut { name, group } => {
                let applied = self.resource(name)?;
                applied.rollout = None;
                applied.group = Some(group.clone());
            }
            Record::Marked { name, protect, retain, dependencies } => {
                let applied = self.resource(name)?;
                applied.protect = *protect;
                applied.retain = *retain;
                applied.dependencies.clone_from(dependencies);
            }
            Record::Forgotten { id } => {
                self.deposed.remove(id);
                self.resources.retain(|_, applied| applied.id != *id);
            }
            Record::Finished { outputs, references, at } => {
                self.outputs.clone_from(outputs);
                self.references.clone_from(references);
                self.finished = Some(*at);
            }
        }
        Ok(())
    }

    fn resource(&mut self, name: &ResourceName) -> Result<&mut Applied, FoldError> {
        self.resources.get_mut(name).ok_or_else(|| FoldError::NoResource(name.clone()))
    }

    fn intend(&mut self, intent: &Intent) {
        self.pending.insert(intent.key.clone(), intent.clone());
    }

    fn done(&mut self, intent: Intent, outputs: Map<String, Value>, seen: bool) {
        let Intent { act, name, ty, id, generation, inputs, secrets, dependencies, protect, retain, .. } =
            intent;
        if act == IntentAct::Delete {
            self.deposed.remove(&id);
            if self.resources.get(&name).is_some_and(|applied| applied.id == id) {
                self.resources.remove(&name);
            }
            return;
        }
        let before = self.resources.remove(&name);
        let (group, rollout) = match before {
            Some(before) if before.id != id => {
                let id = before.id.clone();
                self.deposed.insert(id, Deposed { name: name.clone(), was: before });
                (None, None)
            }
            Some(before) => (before.group, before.rollout),
            None => (None, None),
        };
        let applied = Applied {
            ty,
            id,
            generation,
            inputs,
            secrets,
            outputs,
            dependencies,
            protect,
            retain,
            gone: false,
            uncertain: !seen,
            group,
            rollout,
        };
        self.resources.insert(name, applied);
    }

    fn refreshed(&mut self, name: &ResourceName, id: &ObjectId, outputs: Option<&Map<String, Value>>) {
        let Some(applied) = self.resources.get_mut(name).filter(|applied| applied.id == *id) else { return };
        applied.gone = outputs.is_none();
        if let Some(outputs) = outputs {
            applied.outputs.clone_from(outputs);
        }
    }

    /// What is wrong with a state that someone changed by hand, a line each.
    pub fn lint(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.schema != STATE_SCHEMA {
            found.push(format!("it has form {}, this olbake knows {STATE_SCHEMA}", self.schema));
        }
        let mut ids = BTreeMap::new();
        for (name, applied) in &self.resources {
            if let Some(other) = ids.insert(&applied.id, name) {
                found.push(format!("`{name}` and `{other}` both have the object `{}`", applied.id));
            }
        }
        for (id, deposed) in &self.deposed {
            if ids.contains_key(id) || deposed.was.id != *id {
                found.push(format!("the replaced object `{id}` of `{}` is listed wrongly", deposed.name));
            }
        }
        found
    }
}
