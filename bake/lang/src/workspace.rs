//! The workspace: a folder with components and images, and what can be asked of it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::plan::{Architecture, Plan, Setting};
use olbake_core::settings::{did_you_mean, json_schema, markdown};
use olbake_core::span::Span;
use olbake_core::stack::Catalog;
use olbake_core::{ComponentName, Digest, ImageName, ImageRef};

use crate::declare::{BaseDeclaration, Declared, ImageDeclaration};
use crate::layer::Component;
use crate::loader::Loader;
use crate::plan::Planner;
use crate::sources::Sources;
use crate::stack::Projects;
use crate::template::Templates;

/// The file that marks a workspace.
const MARKER: &str = "olbake.toml";

/// A folder with `olbake.toml`, `components/` and `images/`.
pub struct Workspace {
    pub(crate) sources: Arc<Sources>,
    pub(crate) loader: Loader,
    projects: Projects,
    components: BTreeMap<ComponentName, OnceLock<Result<Arc<Component>, Diagnostics>>>,
    images: BTreeMap<ImageName, OnceLock<Result<Arc<ImageDeclaration>, Diagnostics>>>,
    /// Folders whose names cannot be names.
    misnamed: Diagnostics,
}

/// Reads the version of a secret from where it comes; `None`: nobody reads it, as in `olbake check`.
pub type SecretVersion = Arc<dyn Fn(&str) -> Result<Option<Digest>, String> + Send + Sync>;

/// What a plan depends on besides the workspace.
#[derive(Clone)]
pub struct Inputs {
    /// The architecture of the image.
    pub architecture: Architecture,
    /// The environment's variables.
    pub environment: BTreeMap<String, String>,
    /// The name and text of a `.env` file.
    pub dotenv: Option<(String, String)>,
    /// Arguments of `--set`: `caddy.version=2.7`, or `web:caddy.version=2.7` for one image.
    pub sets: Vec<String>,
    /// Reads the version of a secret.
    pub secret_version: SecretVersion,
}

impl Inputs {
    /// Inputs without an environment, where secrets are not read.
    pub fn offline(architecture: Architecture) -> Self {
        Self {
            architecture,
            environment: BTreeMap::new(),
            dotenv: None,
            sets: Vec::new(),
            secret_version: Arc::new(|_| Ok(None)),
        }
    }
}

/// A plan and what travels beside it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The bytes made while planning, by digest.
    pub inline: BTreeMap<Digest, Arc<[u8]>>,
    /// What is worth mending.
    pub warnings: Diagnostics,
}

/// Settings with where their values come from, for people who ask why.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The settings of each component, those of the image before those of what it starts from. A setting whose value
    /// does not fit, and one that is computed, is absent.
    pub layers: Vec<(ComponentName, BTreeMap<String, Setting>)>,
    /// What is wrong with values.
    pub problems: Diagnostics,
}

impl Workspace {
    /// The folder of the workspace that a path lies in: the nearest one above with `olbake.toml`.
    pub fn find(start: &Utf8Path) -> Result<Utf8PathBuf, Diagnostics> {
        let found = start.ancestors().find(|folder| folder.join(MARKER).is_file());
        found.map(Utf8Path::to_owned).ok_or_else(|| {
            Diagnostic::error("no-workspace", format!("there is no `{MARKER}` in `{start}` or above"))
                .help(format!("make an empty `{MARKER}` in the folder that has `components` and `images`"))
                .into()
        })
    }

    /// Finds the components and images of a workspace. They are evaluated when they are needed.
    pub fn load(root: &Utf8Path) -> Result<Self, Diagnostics> {
        if !root.join(MARKER).is_file() {
            return Err(
                Diagnostic::error("no-workspace", format!("there is no `{MARKER}` in `{root}`")).into()
            );
        }
        let sources = Arc::new(Sources::new(root));
        let mut misnamed = Diagnostics::default();
        let components = list(root, "components", "component.star", &mut misnamed)?;
        let images = list(root, "images", "image.star", &mut misnamed)?;
        Ok(Self {
            loader: Loader::new(Arc::clone(&sources)),
            projects: Projects::find(root)?,
            sources,
            components: components.into_iter().map(|name| (name, OnceLock::new())).collect(),
            images: images.into_iter().map(|name| (name, OnceLock::new())).collect(),
            misnamed,
        })
    }

    /// With the types of resources that stacks can have, and the environments that they are for; none: any. What was
    /// evaluated before counts no more.
    #[must_use]
    pub fn with_stacks(self, catalog: Catalog, environments: &[String]) -> Self {
        let catalog = Arc::new(catalog);
        let loader = Loader::with_types(Arc::clone(&self.sources), &catalog);
        Self { loader, projects: self.projects.with(catalog, environments), ..self }
    }

    pub(crate) fn known_projects(&self) -> &Projects {
        &self.projects
    }

    /// The workspace's folder.
    pub fn root(&self) -> &Utf8Path {
        self.sources.root()
    }

    /// Every image and every variant, sorted. The variants of an image that cannot be read are unknown.
    pub fn images(&self) -> Vec<ImageRef> {
        let mut all = Vec::new();
        for name in self.images.keys() {
            all.push(ImageRef::from(name.clone()));
            if let Ok(declaration) = self.image(name) {
                let variants = declaration.variants.keys().cloned();
                all.extend(variants.map(|variant| ImageRef { image: name.clone(), variant: Some(variant) }));
            }
        }
        all.sort();
        all
    }

    /// Every component, sorted.
    pub fn components(&self) -> Vec<ComponentName> {
        self.components.keys().cloned().collect()
    }

    /// The image that an image starts from, if it starts from one.
    pub fn base_of(&self, image: &ImageRef) -> Result<Option<ImageRef>, Diagnostics> {
        Ok(match &self.image(&image.image)?.base {
            BaseDeclaration::Image(base) => Some(base.clone()),
            _ => None,
        })
    }

    /// Plans an image. The images below it are planned too, for their keys and checks.
    pub fn plan(&self, image: &ImageRef, inputs: &Inputs) -> Result<Planned, Diagnostics> {
        let planned = Planner::new(self, inputs).plan(image)?;
        Ok(Planned::clone(&planned))
    }

    /// The settings of an image's components, though it may not be possible to plan it: a rule that they break is a
    /// reason to ask where they come from.
    pub fn settings(&self, image: &ImageRef, inputs: &Inputs) -> Result<Explained, Diagnostics> {
        Planner::new(self, inputs).settings(image)
    }

    /// Plans images in parallel; what they share is worked out once.
    pub fn plan_all(
        &self,
        images: &[ImageRef],
        inputs: &Inputs,
    ) -> Vec<(ImageRef, Result<Planned, Diagnostics>)> {
        Planner::new(self, inputs).plan_all(images)
    }

    /// Evaluates everything and reports all that is wrong or worth mending.
    pub fn check(&self, inputs: &Inputs) -> Diagnostics {
        crate::check::check(self, inputs, &self.misnamed)
    }

    /// A Markdown table of a component's settings.
    pub fn settings_reference(&self, component: &ComponentName) -> Result<String, Diagnostics> {
        Ok(markdown(&self.component(component.as_str(), None)?.declaration.own_schema()))
    }

    /// The JSON Schema of a component's settings.
    pub fn settings_schema(&self, component: &ComponentName) -> Result<serde_json::Value, Diagnostics> {
        Ok(json_schema(&self.component(component.as_str(), None)?.declaration.own_schema()))
    }

    /// The text of a file of the workspace, for drawing a diagnostic.
    pub fn source(&self, file: &str) -> Option<String> {
        self.sources.text(file).map(|text| text.to_string())
    }

    /// A component, evaluated; `used` is where it is named.
    pub(crate) fn component(&self, name: &str, used: Option<&Span>) -> Result<Arc<Component>, Diagnostics> {
        let slot = name.parse::<ComponentName>().ok().and_then(|name| self.components.get_key_value(&name));
        let Some((name, slot)) = slot else {
            let text = format!("there is no component `{name}` in `components`");
            let mut problem = Diagnostic::error("unknown-component", text).at(used.cloned());
            problem.help = did_you_mean(name, self.components.keys().map(ComponentName::as_str));
            return Err(problem.into());
        };
        slot.get_or_init(|| self.load_component(name).map(Arc::new)).clone()
    }

    fn load_component(&self, name: &ComponentName) -> Result<Component, Diagnostics> {
        let folder = Utf8PathBuf::from(format!("components/{name}"));
        let file = folder.join("component.star").into_string();
        let loaded = self.loader.load(&file)?;
        let (Some(Declared::Component(declaration)), Some(functions)) = (&loaded.declared, &loaded.functions)
        else {
            return Err(nothing_declared(&file, "component").into());
        };
        Ok(Component {
            name: name.clone(),
            templates: Arc::new(Templates::new(&self.sources, &folder)),
            folder,
            declaration: declaration.clone(),
            functions: functions.clone(),
        })
    }

    /// An image, evaluated.
    pub(crate) fn image(&self, name: &ImageName) -> Result<Arc<ImageDeclaration>, Diagnostics> {
        self.image_named(name, None)
    }

    /// An image, evaluated; `used` is where it is named.
    pub(crate) fn image_named(
        &self,
        name: &ImageName,
        used: Option<&Span>,
    ) -> Result<Arc<ImageDeclaration>, Diagnostics> {
        let Some(slot) = self.images.get(name) else {
            let text = format!("there is no image `{name}` in `images`");
            let mut problem = Diagnostic::error("unknown-image", text).at(used.cloned());
            problem.help = did_you_mean(name.as_str(), self.images.keys().map(ImageName::as_str));
            return Err(problem.into());
        };
        let load = || {
            let file = format!("images/{name}/image.star");
            match &self.loader.load(&file)?.declared {
                Some(Declared::Image(declaration)) => Ok(Arc::new(declaration.clone())),
                _ => Err(nothing_declared(&file, "image").into()),
            }
        };
        slot.get_or_init(load).clone()
    }

    /// The names of the images, for suggestions.
    pub(crate) fn image_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.images.keys().map(ImageName::as_str)
    }
}

/// A file that lacks its call.
pub(crate) fn nothing_declared(file: &str, what: &str) -> Diagnostic {
    let span = Span { file: file.to_owned(), line: 1, column: 1, end_line: 1, end_column: 1 };
    Diagnostic::error("nothing-declared", format!("this file declares no {what}"))
        .at(span)
        .help(format!("call `{what}(name = …, …)` in it"))
}

/// The names of the folders below `folder` that have `file` in them, sorted.
fn list<N>(
    root: &Utf8Path,
    folder: &str,
    file: &str,
    misnamed: &mut Diagnostics,
) -> Result<Vec<N>, Diagnostics>
where
    N: std::str::FromStr<Err = olbake_core::names::NameError> + Ord,
{
    let path = root.join(folder);
    let entries = match path.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(
                Diagnostic::error("no-workspace", format!("`{folder}` cannot be read: {error}")).into()
            );
        }
    };
    let mut names: Vec<N> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| {
            Diagnostic::error("no-workspace", format!("`{folder}` cannot be read: {error}"))
        })?;
        if !entry.path().join(file).is_file() {
            continue;
        }
        match entry.file_name().parse::<N>() {
            Ok(name) => names.push(name),
            Err(error) => misnamed.push(Diagnostic::error(
                "name",
                format!("the folder `{folder}/{}`: {error}", entry.file_name()),
            )),
        }
    }
    names.sort();
    Ok(names)
}
