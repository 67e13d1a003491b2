//! The plan: the complete, serialised list of what a bake will do. It is the contract between recipes and
//! everything that carries them out; `olbake plan` prints it.
//!
//! Main type: [`Plan`]. Where the bytes behind a digest are is said by [`Payload`]; inline bytes are not in the
//! plan but travel beside it.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::names::{ComponentName, ImageRef};
use crate::operation::Operation;
use crate::secret::{Secret, SecretId};
use crate::span::Span;

/// The version of the plan's form. It is part of every key: a plan of another form is another image.
pub const PLAN_SCHEMA: u32 = 1;

/// A processor architecture, as Debian names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Architecture {
    /// Debian's name.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The kernel's name, as `uname -m` prints it.
    pub fn kernel(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// What an image starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Base {
    /// A new Debian, made by mmdebstrap.
    Debian {
        /// The suite: `bookworm`.
        suite: String,
        /// Packages besides those that make it boot.
        packages: Vec<String>,
        /// A mirror instead of mmdebstrap's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mirror: Option<String>,
        /// Bytes of the disk.
        disk_size: u64,
    },
    /// Another image of the workspace.
    Image {
        /// Which.
        image: ImageRef,
        /// The key of its plan.
        key: Digest,
    },
    /// A raw or qcow2 disk in a file, with a GPT and an ext4 root partition.
    Disk {
        /// The file, relative to the workspace.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        file: Utf8PathBuf,
        /// Its digest.
        sha256: Digest,
    },
    /// An image of EC2, for bakes on an instance there.
    Ami {
        /// The account that owns it.
        owner: String,
        /// Its name, the same in every region; with `*` and `?` where it is still to be chosen.
        name: String,
    },
}

/// Where a setting's value came from; the last layer that says something wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Provenance {
    /// The layer: `default`, `component`, `image`, `variant`, `environment file`, `.env`, `environment`, `--set`.
    pub layer: String,
    /// What said it, for layers that are not a place in a recipe: `CADDY_VERSION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// The value that this layer gave; a secret's is its source.
    pub value: Value,
}

/// A setting's value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Setting {
    /// The value; a secret's is its marker.
    pub value: Value,
    /// Every layer that gave one, lowest first: the last is in force.
    pub provenance: Vec<Provenance>,
}

/// The effect of one component on its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Layer {
    /// The component.
    pub component: ComponentName,
    /// Its folder in the workspace: `components/caddy`.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub source: Utf8PathBuf,
    /// Its settings.
    pub settings: BTreeMap<String, Setting>,
    /// Its operations, in the order of phases and of the recipe.
    pub operations: Vec<Operation>,
    /// It needs a booted machine, with systemd running; the recipe says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted: Option<String>,
    /// Its key, see [`crate::key`].
    pub key: Digest,
}

/// Operations of a component beside its layer: its checks on a fresh boot, its upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Checks {
    /// The component.
    pub component: ComponentName,
    /// The operations.
    pub operations: Vec<Operation>,
}

/// Where the bytes of a digest are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum Payload {
    /// Made while planning; it travels beside the plan.
    Inline {
        /// Bytes.
        size: u64,
    },
    /// A file of the workspace.
    File {
        /// The file, relative to the workspace.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// Bytes.
        size: u64,
    },
    /// To be downloaded when it is first needed.
    Url {
        /// Where from.
        url: String,
    },
}

/// What a bake will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Plan {
    /// [`PLAN_SCHEMA`].
    pub schema: u32,
    /// The image, or its variant.
    pub image: ImageRef,
    /// The architecture.
    pub architecture: Architecture,
    /// What it starts from.
    pub base: Base,
    /// Its layers, in order.
    pub layers: Vec<Layer>,
    /// What is removed at the end; ends with the leak scan.
    pub seal: Vec<Operation>,
    /// What is checked on a fresh boot, those of the base images first.
    pub checks: Vec<Checks>,
    /// The commands that an instance runs before another takes its place, in order of components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upgrade: Vec<Checks>,
    /// Where the bytes of each digest in the operations are.
    pub payloads: BTreeMap<Digest, Payload>,
    /// The secrets that operations refer to.
    pub secrets: BTreeMap<SecretId, Secret>,
    /// The image's key, see [`crate::key`].
    pub key: Digest,
}

impl Plan {
    /// The key of the disk before it is sealed: that of the last layer, or of the base where there is none.
    pub fn last_layer_key(&self) -> Digest {
        self.layers.last().map_or_else(|| self.base_key(), |layer| layer.key)
    }

    /// The key of the disk that the first layer changes.
    pub fn base_key(&self) -> Digest {
        crate::key::base(self.architecture, &self.base)
    }

    /// The operation of this identity, among layers, seal and checks.
    pub fn operation(&self, id: &crate::names::OperationId) -> Option<&Operation> {
        self.layers
            .iter()
            .flat_map(|layer| &layer.operations)
            .chain(&self.seal)
            .chain(self.checks.iter().flat_map(|checks| &checks.operations))
            .find(|operation| operation.id == *id)
    }

    /// The same layers on another base: the keys are those that follow from it.
    #[must_use]
    pub fn rebased(mut self, base: Base) -> Self {
        self.base = base;
        let mut parent = self.base_key();
        for layer in &mut self.layers {
            layer.key = crate::key::layer(parent, self.architecture, layer, |id| self.secrets.get(id));
            parent = layer.key;
        }
        let sealed = crate::key::sealed(self.architecture, parent, &self.seal);
        self.key = crate::key::image(self.architecture, &self.image, sealed, &self.checks, &self.upgrade);
        self
    }

    /// The plan as canonical JSON.
    pub fn to_json(&self) -> String {
        crate::canonical::to_string(self)
    }
}

#[cfg(feature = "schema")]
/// The JSON Schema of the plan.
pub fn schema() -> Value {
    schemars::schema_for!(Plan).to_value()
}
