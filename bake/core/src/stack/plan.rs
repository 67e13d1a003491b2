//! The plan of a stack: every action with its object, its values and its reasons. `olbake preview` shows it,
//! `olbake deploy` carries it out, and whoever carries it out makes no choice. Main type: [`StackPlan`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::catalog::{Change, TypeSchema};
use super::compare::PropertyChange;
use super::declare::PinnedImage;
use super::name::{ObjectId, ResourceName, ResourceType, StackName};
use super::record::{Intent, IntentAct, OperationKey};
use crate::digest::FieldDigest;
use crate::secret::SecretId;
use crate::{Digest, ImageRef, canonical};

/// The version of the plan's form.
pub const STACK_PLAN_SCHEMA: u32 = 1;

/// What will happen to a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StackPlan {
    /// [`STACK_PLAN_SCHEMA`].
    pub schema: u32,
    /// The stack.
    pub stack: StackName,
    /// The digest of the state that it starts from: on another it is refused.
    pub base: Digest,
    /// The images that it uses.
    pub images: BTreeMap<ImageRef, PinnedImage>,
    /// What is done, each action after those that it names.
    pub actions: Vec<Action>,
    /// How many resources stay as they are.
    pub unchanged: usize,
    /// What other stacks may read afterwards; placeholders stand for what is known after apply.
    pub outputs: BTreeMap<String, Value>,
    /// The stacks that it read.
    pub references: BTreeSet<StackName>,
}

/// One action on one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// Names it in this plan and in the journal.
    pub key: OperationKey,
    /// What is done.
    pub act: Act,
    /// To which resource.
    pub name: ResourceName,
    /// Of which type.
    #[serde(rename = "type")]
    pub ty: ResourceType,
    /// To which object.
    pub id: ObjectId,
    /// The object's generation.
    pub generation: u64,
    /// The properties that it is to have; for a removal, those that it has. What is known after apply and what is
    /// secret has placeholders.
    pub inputs: Map<String, Value>,
    /// The secrets in them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretId, Digest>,
    /// The properties that change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<PropertyChange>,
    /// Why.
    pub reasons: Vec<Reason>,
    /// The actions that come before it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub after: BTreeSet<OperationKey>,
    /// The resources that it depends on, for the state.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub dependencies: BTreeSet<ResourceName>,
    /// See [`super::declare::Declared`].
    pub protect: bool,
    /// See [`super::declare::Declared`].
    pub retain: bool,
    /// Removing it loses data.
    pub holds_data: bool,
}

/// What an action does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Act {
    /// Makes an object.
    Create,
    /// Takes an object that is there already into the stack.
    Import {
        /// What the provider calls it.
        object: String,
    },
    /// Changes one where it stands.
    Update,
    /// Brings the instances of a group to what the properties say, by a rollout.
    Roll,
    /// Writes down what no provider knows of: protection, order.
    Mark,
    /// Removes an object.
    Delete,
    /// Lets go of an object without removing it.
    Forget,
}

impl Act {
    /// The verb, as plans and journals have it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Import { .. } => "import",
            Self::Update => "update",
            Self::Roll => "roll",
            Self::Mark => "mark",
            Self::Delete => "delete",
            Self::Forget => "forget",
        }
    }
}

/// Why an action is in the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// It is declared and not there.
    New,
    /// It is there and no longer declared.
    Removed,
    /// The stack is destroyed.
    Destroyed,
    /// Properties changed.
    Changed {
        /// Which.
        paths: Vec<String>,
    },
    /// It was replaced, and this is the object that it had.
    Replaced {
        /// By which.
        by: ObjectId,
    },
    /// Something that it depends on is removed and made anew.
    DependencyReplaced {
        /// What.
        name: ResourceName,
    },
    /// The provider says that the object is gone.
    Gone,
    /// The provider says that the object is there and does not run.
    Stopped,
    /// The provider says that it is not as it was applied.
    Drifted {
        /// In what.
        changes: Vec<PropertyChange>,
    },
    /// An earlier change was cut short.
    Interrupted,
    /// A group runs another release than it is to.
    Release {
        /// The one that runs.
        from: Option<Digest>,
        /// The one that is to run; none while a property is known only after apply.
        to: Option<Digest>,
    },
    /// A group has other instances than it is to have.
    Instances {
        /// Instances that run.
        running: u64,
        /// Instances that there are to be.
        size: u64,
    },
    /// A rollout is under way.
    RolloutUnderWay,
    /// Someone asked for it.
    Requested,
}

/// How much can be lost by an action, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// Nothing that is there is touched.
    None,
    /// Something is changed where it stands.
    Change,
    /// Instances are replaced, with checks and a way back.
    Rollout,
    /// Something goes away.
    Removal,
    /// Data go away.
    DataLoss,
}

impl Action {
    /// What is written down before a provider is asked, with the properties complete but for secrets. None for
    /// actions that ask no provider for an object.
    pub fn intent(&self, inputs: Map<String, Value>) -> Option<Intent> {
        let act = match &self.act {
            Act::Create => IntentAct::Create,
            Act::Import { object } => IntentAct::Import(object.clone()),
            Act::Update => IntentAct::Update,
            Act::Delete => IntentAct::Delete,
            Act::Roll | Act::Mark | Act::Forget => return None,
        };
        Some(Intent {
            key: self.key.clone(),
            act,
            name: self.name.clone(),
            ty: self.ty.clone(),
            id: self.id.clone(),
            generation: self.generation,
            inputs,
            secrets: self.secrets.clone(),
            dependencies: self.dependencies.clone(),
            protect: self.protect,
            retain: self.retain,
        })
    }

    /// How much can be lost by it.
    pub fn risk(&self) -> Risk {
        match self.act {
            Act::Create | Act::Import { .. } | Act::Mark | Act::Forget => Risk::None,
            Act::Update => Risk::Change,
            Act::Roll => Risk::Rollout,
            Act::Delete if self.holds_data => Risk::DataLoss,
            Act::Delete => Risk::Removal,
        }
    }
}

impl StackPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// The plan's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(canonical::to_string(self).as_bytes())
    }

    /// The most that can be lost.
    pub fn risk(&self) -> Risk {
        self.actions.iter().map(Action::risk).max().unwrap_or(Risk::None)
    }

    /// The actions, the most dangerous first.
    pub fn by_risk(&self) -> Vec<&Action> {
        let mut all: Vec<&Action> = self.actions.iter().collect();
        all.sort_by(|a, b| b.risk().cmp(&a.risk()).then_with(|| a.name.cmp(&b.name)));
        all
    }
}

/// The release that properties of a group mean: a digest of those whose change is a rollout, so that an instance
/// is of the release or is not. None while one of them is known only after apply.
pub fn release(
    schema: &TypeSchema,
    inputs: &Map<String, Value>,
    secrets: &BTreeMap<SecretId, Digest>,
) -> Option<Digest> {
    let properties = release_properties(schema, inputs);
    let value = Value::Object(properties);
    if super::value::has_references(&value) {
        return None;
    }
    let used = super::value::secrets(&value);
    let versions: BTreeMap<&SecretId, &Digest> =
        secrets.iter().filter(|(id, _)| used.contains(*id)).collect();
    let digest = FieldDigest::new("olbake release 1")
        .field("properties", canonical::to_string(&value).as_bytes())
        .field("secrets", canonical::to_string(&versions).as_bytes());
    Some(digest.finish())
}

/// The properties that make a release.
pub fn release_properties(schema: &TypeSchema, inputs: &Map<String, Value>) -> Map<String, Value> {
    let rolled = |name: &str| {
        schema
            .inputs
            .get(name)
            .is_some_and(|property| matches!(property.change, Change::Rollout | Change::Replace))
    };
    inputs
        .iter()
        .filter(|(name, _)| rolled(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
