//! What a project declares for one of its stacks. Main type: [`Declaration`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::name::{ResourceName, ResourceType, StackName};
use super::value;
use crate::secret::SecretId;
use crate::span::Span;
use crate::{Digest, ImageRef};

/// A stack as it is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Declaration {
    /// The stack.
    pub stack: StackName,
    /// Its resources, in the order of the recipe; the order means nothing.
    pub resources: Vec<Declared>,
    /// What other stacks may read.
    pub outputs: BTreeMap<String, Value>,
    /// The images that it uses, resolved through a channel to exact digests.
    pub images: BTreeMap<ImageRef, PinnedImage>,
    /// The stacks whose outputs it read.
    pub references: BTreeSet<StackName>,
    /// The secrets of its configuration, each with a digest that changes when it does.
    pub secrets: BTreeMap<SecretId, Digest>,
}

/// A version that a stack uses, and how it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// The version.
    pub digest: Digest,
    /// The channel that named it; none: the configuration gave the digest.
    pub channel: Option<String>,
}

/// A resource as it is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// Its name.
    pub name: ResourceName,
    /// Its type.
    #[serde(rename = "type")]
    pub ty: ResourceType,
    /// Its properties, with placeholders, in the canonical form of the type's schema.
    pub inputs: Map<String, Value>,
    /// Resources that come before it besides those whose outputs it uses.
    pub depends_on: BTreeSet<ResourceName>,
    /// It is neither removed nor replaced while this stands.
    pub protect: bool,
    /// When it leaves the stack, its object stays.
    pub retain: bool,
    /// Properties whose changes are left alone.
    pub ignore_changes: BTreeSet<String>,
    /// An object that is there already, by the provider's name for it, to be taken into the stack.
    pub import: Option<String>,
    /// Where it is declared.
    pub span: Option<Span>,
}

impl Declared {
    /// A resource without further wishes.
    pub fn new(name: ResourceName, ty: ResourceType, inputs: Map<String, Value>) -> Self {
        Self {
            name,
            ty,
            inputs,
            depends_on: BTreeSet::new(),
            protect: false,
            retain: false,
            ignore_changes: BTreeSet::new(),
            import: None,
            span: None,
        }
    }

    /// The resources that come before it.
    pub fn dependencies(&self) -> BTreeSet<ResourceName> {
        let mut all = self.depends_on.clone();
        for input in self.inputs.values() {
            all.extend(value::references(input).into_iter().map(|reference| reference.resource));
        }
        all
    }

    /// The secrets in its properties.
    pub fn secrets(&self) -> BTreeSet<SecretId> {
        self.inputs.values().flat_map(value::secrets).collect()
    }
}

impl Declaration {
    /// A stack without resources.
    pub fn new(stack: StackName) -> Self {
        Self {
            stack,
            resources: Vec::new(),
            outputs: BTreeMap::new(),
            images: BTreeMap::new(),
            references: BTreeSet::new(),
            secrets: BTreeMap::new(),
        }
    }
}
