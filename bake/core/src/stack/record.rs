//! What is written down while a stack is changed: an intent before each call of a provider, its result after.
//! [`super::StackState`] is the fold of all records. Main type: [`Record`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::declare::PinnedImage;
use super::name::{ObjectId, ResourceName, ResourceType, StackName};
use crate::rollout::Existing;
use crate::secret::SecretId;
use crate::{Digest, ImageRef};

/// Names one action of one plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationKey(pub String);

impl std::fmt::Display for OperationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One thing that happened, or is about to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A change of the stack begins.
    Begun {
        /// The digest of the plan that is carried out.
        plan: Digest,
        /// The images that it uses.
        images: BTreeMap<ImageRef, PinnedImage>,
        /// When, in milliseconds since the Unix epoch.
        at: u64,
    },
    /// A provider is about to be called.
    Intent(Box<Intent>),
    /// The call is over and did what was asked.
    Done {
        /// Which.
        key: OperationKey,
        /// What the object gives; empty for one that was removed.
        outputs: Map<String, Value>,
        /// Whether the call's end was seen. Where the process ended before, the provider was asked whether the object
        /// is there, and the next change makes sure of the rest.
        seen: bool,
    },
    /// The call is over and nothing was done.
    NotDone {
        /// Which.
        key: OperationKey,
    },
    /// What a provider says of an object differs from what was written down.
    Refreshed {
        /// The resource.
        name: ResourceName,
        /// The object; another one is not meant.
        id: ObjectId,
        /// What it gives now; none: it is gone.
        outputs: Option<Map<String, Value>>,
    },
    /// A group's rollout is where it says. The last such record of a rollout has its end.
    Rollout {
        /// The group.
        name: ResourceName,
        /// The whole state of the rollout: what was begun and what was done.
        state: Value,
    },
    /// A group's rollout is over.
    RolledOut {
        /// The group.
        name: ResourceName,
        /// What the group runs now.
        group: GroupState,
    },
    /// Settings of a resource that no provider knows of.
    Marked {
        /// The resource.
        name: ResourceName,
        /// See [`super::declare::Declared`].
        protect: bool,
        /// See [`super::declare::Declared`].
        retain: bool,
        /// What comes before it.
        dependencies: BTreeSet<ResourceName>,
    },
    /// A resource is no longer the stack's; its object stays where it is.
    Forgotten {
        /// The object.
        id: ObjectId,
    },
    /// The stack is as planned.
    Finished {
        /// What other stacks may read.
        outputs: BTreeMap<String, Value>,
        /// The stacks that it read.
        references: BTreeSet<StackName>,
        /// When, in milliseconds since the Unix epoch.
        at: u64,
    },
}

/// What a provider is about to be asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Which action.
    pub key: OperationKey,
    /// What it does.
    pub act: IntentAct,
    /// The resource.
    pub name: ResourceName,
    /// Its type.
    #[serde(rename = "type")]
    pub ty: ResourceType,
    /// Its object, as the provider knows it.
    pub id: ObjectId,
    /// How often it was replaced, from 1.
    pub generation: u64,
    /// Its properties; secrets are markers.
    pub inputs: Map<String, Value>,
    /// The secrets in them, by digest.
    pub secrets: BTreeMap<SecretId, Digest>,
    /// What comes before it.
    pub dependencies: BTreeSet<ResourceName>,
    /// See [`super::declare::Declared`].
    pub protect: bool,
    /// See [`super::declare::Declared`].
    pub retain: bool,
}

/// What an intent is to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentAct {
    /// Make an object.
    Create,
    /// Take an object that is there, by the provider's name for it.
    Import(String),
    /// Change one where it stands.
    Update,
    /// Remove one.
    Delete,
}

/// What a group of instances runs, once no rollout is under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupState {
    /// The release that the last rollout that succeeded brought; see [`super::plan::release`].
    pub release: Option<Digest>,
    /// The properties of that release: with them, an instance of it can be launched again. Secrets are markers.
    pub properties: Map<String, Value>,
    /// How many instances of it that rollout was to bring.
    #[serde(default)]
    pub size: u32,
    /// Its instances.
    pub instances: Vec<Existing>,
    /// A release that was rolled back, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// A release that a rollout took back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its digest.
    pub release: Digest,
    /// Why.
    pub why: String,
}
