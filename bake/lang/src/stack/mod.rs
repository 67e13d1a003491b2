//! Projects and stacks: `stacks/…/PROJECT/stack.star` with one `ENVIRONMENT.toml` becomes a
//! [`Declaration`](olbake_core::stack::Declaration).
//!
//! | file | what it has |
//! |---|---|
//! | `projects` | the projects and stacks of a workspace, and what can be asked of them |
//! | `document` | `ENVIRONMENT.toml`: values, sealed secrets, pinned images, channels |
//! | `config` | the layers of a stack's configuration over each other |
//! | `evaluate` | the run of a stack's function |
//! | `recording` | what that run declares |
//! | `resource` | `local.network(…)` and what it returns |
//! | `context` | `ctx` |
//! | `builtins` | `project`, `output`, `component_resource` |
//! | `order` | which stack reads which |
//! | `policy` | functions over plans |
//!
//! Nothing here reads a state, a registry or a secret: what comes from there comes through [`StackInputs`].

mod builtins;
mod component;
mod config;
mod context;
mod document;
mod evaluate;
mod finish;
mod order;
mod policy;
mod projects;
mod recording;
mod resource;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::plan::Setting;
use olbake_core::secret::SecretId;
use olbake_core::stack::declare::PinnedImage;
use olbake_core::stack::{Declaration, StackName};
use olbake_core::{Digest, ImageRef};
use serde_json::Value as Json;

pub use policy::Violation;

pub(crate) use builtins::{ProjectDeclaration, register};
pub(crate) use policy::{Judging, PolicyDeclaration};
pub(crate) use projects::Projects;
pub(crate) use recording::StackRecording;
pub(crate) use resource::register as register_resources;
pub(crate) use values::as_json;

use crate::{Inputs, Workspace};

/// What is known of a stack whose outputs another one reads.
#[derive(Clone, Debug, PartialEq)]
pub enum OtherStack {
    /// It is deployed and has these outputs.
    Deployed(BTreeMap<String, Json>),
    /// Nobody looked at its state; it declares outputs of these names.
    Declared(BTreeSet<String>),
    /// Nobody looked, at its recipe neither: every output is taken to be there.
    Unknown,
    /// It was never deployed.
    NeverDeployed,
}

/// An image that a stack asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedImage {
    /// The image.
    pub image: ImageRef,
    /// The channel to look in: the environment's name, unless `[channels]` says another.
    pub channel: String,
    /// The digest that `[images]` gives; the channel is not asked then.
    pub pinned: Option<Digest>,
}

/// Answers with the outputs of a stack, or with why they cannot be had. A diagnostic without a place gets that of the
/// call.
pub type OutputsOf = Arc<dyn Fn(&StackName) -> Result<OtherStack, Box<Diagnostic>> + Send + Sync>;
/// Answers with the version of an image; `None`: nobody looks, a placeholder stands for it. A diagnostic without a
/// place gets that of the call.
pub type ImageOf = Arc<dyn Fn(&WantedImage) -> Result<Option<PinnedImage>, Box<Diagnostic>> + Send + Sync>;

/// What a stack's declaration depends on besides the workspace.
#[derive(Clone)]
pub struct StackInputs {
    /// The environment's variables.
    pub environment: BTreeMap<String, String>,
    /// The name and text of a `.env` file.
    pub dotenv: Option<(String, String)>,
    /// Arguments of `--set`: `hello.instances=5`, or `applications.hello.QA:hello.instances=5` for one stack.
    pub sets: Vec<String>,
    /// The outputs of other stacks.
    pub outputs: OutputsOf,
    /// The versions of images.
    pub images: ImageOf,
}

impl StackInputs {
    /// Inputs where neither a state nor a registry is looked at.
    pub fn offline(inputs: &Inputs) -> Self {
        Self {
            environment: inputs.environment.clone(),
            dotenv: inputs.dotenv.clone(),
            sets: inputs.sets.clone(),
            outputs: Arc::new(|_| Ok(OtherStack::Unknown)),
            images: Arc::new(|_| Ok(None)),
        }
    }
}

/// What is wrong or worth mending in projects, component resources and policies.
pub(crate) fn check(workspace: &Workspace, inputs: &StackInputs) -> Vec<Diagnostic> {
    let projects = workspace.known_projects();
    let mut found = projects.misnamed();
    for project in workspace.projects() {
        match evaluate::project(workspace, &project) {
            Ok((_, declaration)) => found.extend(crate::check::without_doc(&declaration.schema)),
            Err(problems) => found.extend(problems.0),
        }
    }
    for file in policy::recipes_below(workspace, "stacks/components") {
        found.extend(workspace.loader.load(&file).err().into_iter().flat_map(|problems| problems.0));
    }
    found.extend(policy::load_all(workspace).err().into_iter().flat_map(|problems| problems.0));
    found.extend(order::check(workspace, inputs));
    found
}

/// A stack, evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// What it declares.
    pub declaration: Declaration,
    /// Its configuration, each value with where it came from. Secrets are markers.
    pub config: BTreeMap<String, Setting>,
    /// The ciphertexts of its secrets, as its configuration has them.
    pub sealed: BTreeMap<SecretId, String>,
    /// What is worth mending.
    pub warnings: Diagnostics,
}
