//! The projects and stacks of a workspace. Main type: [`Projects`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::settings::{Schema, did_you_mean};
use olbake_core::span::Span;
use olbake_core::stack::{Catalog, EnvironmentName, StackName};

use super::document::RESERVED;
use super::evaluate::{self, project};
use super::{Evaluated, StackInputs, order};
use crate::workspace::Workspace;

/// The folder of projects.
const FOLDER: &str = "stacks";
/// The folder of component resources in it.
const COMPONENTS: &str = "components";
/// The file that makes a folder a project.
const FILE: &str = "stack.star";

/// The projects of a workspace with the environments that they have a configuration for.
pub(crate) struct Projects {
    /// The types of resources.
    pub(crate) catalog: Arc<Catalog>,
    /// Every stack.
    pub(crate) stacks: Arc<BTreeSet<StackName>>,
    /// The environments of `olbake.toml`; empty: any.
    environments: Vec<String>,
    /// The file names without `.toml` beside each project's `stack.star`.
    configurations: BTreeMap<String, BTreeSet<String>>,
    /// Folders that cannot be projects.
    misnamed: Vec<Diagnostic>,
}

impl Projects {
    /// Finds the projects below a workspace's folder.
    pub(crate) fn find(root: &Utf8Path) -> Result<Self, Diagnostics> {
        let mut projects = Self {
            catalog: Arc::default(),
            stacks: Arc::default(),
            environments: Vec::new(),
            configurations: BTreeMap::new(),
            misnamed: Vec::new(),
        };
        projects.walk(root, Utf8Path::new(FOLDER)).map_err(|error| {
            Diagnostic::error("no-workspace", format!("`{FOLDER}` cannot be read: {error}"))
        })?;
        projects.count();
        Ok(projects)
    }

    /// With what the workspace's configuration and the providers say.
    pub(crate) fn with(mut self, catalog: Arc<Catalog>, environments: &[String]) -> Self {
        (self.catalog, self.environments) = (catalog, environments.to_vec());
        self.count();
        self
    }

    fn walk(&mut self, root: &Utf8Path, folder: &Utf8Path) -> std::io::Result<()> {
        let entries = match root.join(folder).read_dir_utf8() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let (mut folders, mut configurations, mut is_project) = (Vec::new(), BTreeSet::new(), false);
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                folders.push(name.to_owned());
            } else if let Some(environment) = name.strip_suffix(".toml") {
                configurations.insert(environment.to_owned());
            } else {
                is_project |= name == FILE;
            }
        }
        if is_project {
            let inner = folder.strip_prefix(FOLDER).unwrap_or(folder).as_str();
            let example: Option<EnvironmentName> = "QA".parse().ok();
            match example.map(|environment| StackName::new(inner, &environment)) {
                Some(Err(error)) => {
                    let text = format!("the folder `{folder}` cannot be a project: {}", error.rule);
                    self.misnamed.push(Diagnostic::error("name", text));
                }
                _ => drop(self.configurations.insert(inner.replace('/', "."), configurations)),
            }
        }
        let is_components = |name: &str| folder == FOLDER && name == COMPONENTS;
        folders.retain(|name| !name.starts_with('.') && !is_components(name));
        folders.sort();
        folders.into_iter().try_for_each(|name| self.walk(root, &folder.join(name)))
    }

    fn count(&mut self) {
        let all = self.configurations.iter().flat_map(|(project, environments)| {
            let stack = |environment: &String| StackName::new(project, &environment.parse().ok()?).ok();
            environments.iter().filter(|name| self.is_environment(name)).filter_map(stack)
        });
        self.stacks = Arc::new(all.collect());
    }

    fn is_environment(&self, name: &str) -> bool {
        self.environments.is_empty() || self.environments.iter().any(|known| known == name)
    }

    /// The configuration's file of a stack that is there.
    pub(crate) fn configuration(&self, stack: &StackName) -> Result<Utf8PathBuf, Diagnostic> {
        let environment = stack.environment();
        let Some(configurations) = self.configurations.get(stack.project()) else {
            let text = format!("there is no stack `{stack}`: there is no project `{}`", stack.project());
            let mut problem = Diagnostic::error("unknown-stack", text);
            problem.help = did_you_mean(stack.as_str(), self.stacks.iter().map(StackName::as_str));
            return Err(problem);
        };
        if !self.is_environment(environment.as_str()) {
            return Err(self.unknown_environment(environment.as_str()));
        }
        let file = configuration_file(stack);
        if !configurations.contains(environment.as_str()) {
            let text = format!("the project `{}` has no configuration for `{environment}`", stack.project());
            return Err(Diagnostic::error("missing-configuration", text)
                .help(format!("make `{file}`; it may be empty where every setting has a default")));
        }
        Ok(file)
    }

    fn unknown_environment(&self, name: &str) -> Diagnostic {
        let text = format!("`{name}` is no environment of `olbake.toml`");
        let mut problem = Diagnostic::error("unknown-environment", text);
        problem.help = did_you_mean(name, self.environments.iter().map(String::as_str));
        problem
    }

    /// What is wrong with the names of folders and files.
    pub(crate) fn misnamed(&self) -> Vec<Diagnostic> {
        let mut found = self.misnamed.clone();
        for (project, environments) in &self.configurations {
            let folder = format!("{FOLDER}/{}", project.replace('.', "/"));
            for environment in environments.iter().filter(|name| !self.is_environment(name)) {
                found.push(
                    self.unknown_environment(environment).at(start(format!("{folder}/{environment}.toml"))),
                );
            }
            if environments.is_empty() {
                let text = format!("the project `{project}` has no stack");
                found.push(
                    Diagnostic::warning("no-stack", text)
                        .at(start(format!("{folder}/{FILE}")))
                        .help(format!("write a configuration: `{folder}/QA.toml`")),
                );
            }
        }
        found
    }
}

fn start(file: String) -> Span {
    Span { file, line: 1, column: 1, end_line: 1, end_column: 1 }
}

fn configuration_file(stack: &StackName) -> Utf8PathBuf {
    format!("{FOLDER}/{}/{}.toml", stack.project_folder(), stack.environment()).into()
}

/// Projects and stacks.
impl Workspace {
    /// Every project, by its folders joined with dots, sorted.
    pub fn projects(&self) -> Vec<String> {
        self.known_projects().configurations.keys().cloned().collect()
    }

    /// Every stack, sorted: the projects with each environment that they have a configuration for.
    pub fn stacks(&self) -> Vec<StackName> {
        self.known_projects().stacks.iter().cloned().collect()
    }

    /// The project that a folder belongs to; the folder is absolute or relative to the workspace.
    pub fn project_at(&self, folder: &Utf8Path) -> Option<String> {
        let inner = folder.strip_prefix(self.root()).unwrap_or(folder).strip_prefix(FOLDER).ok()?;
        let names = inner.ancestors().map(|folder| folder.as_str().replace('/', "."));
        names.into_iter().find(|name| self.known_projects().configurations.contains_key(name))
    }

    /// A stack by its name, or why there is none of it.
    pub fn stack(&self, name: &str) -> Result<StackName, Diagnostics> {
        let parsed = name.parse::<StackName>();
        let stack = parsed.map_err(|error| {
            let mut problem = Diagnostic::error("unknown-stack", error.to_string());
            problem.help = did_you_mean(name, self.known_projects().stacks.iter().map(StackName::as_str));
            problem
        })?;
        self.known_projects().configuration(&stack)?;
        Ok(stack)
    }

    /// The file of a stack's configuration, relative to the workspace, whether it is there or not.
    pub fn configuration_file(&self, stack: &StackName) -> Utf8PathBuf {
        configuration_file(stack)
    }

    /// Whether a key of a stack's configuration is no setting of its project but olbake's own.
    pub fn is_own_configuration(key: &str) -> bool {
        RESERVED.contains(&key)
    }

    /// The settings that a project's configuration has.
    pub fn configuration_schema(&self, name: &str) -> Result<Arc<Schema>, Diagnostics> {
        Ok(project(self, name)?.1.schema)
    }

    /// Evaluates a stack. What it needs from states and registries comes from the inputs.
    pub fn evaluate(&self, stack: &StackName, inputs: &StackInputs) -> Result<Evaluated, Diagnostics> {
        let run = evaluate::run(self, stack, inputs)?;
        order::refuse_circle(self, stack, &run, inputs)?;
        Ok(run.evaluated)
    }

    /// Every stack, each after those whose outputs it reads. Nothing but recipes is looked at.
    pub fn stack_order(&self, inputs: &StackInputs) -> Result<Vec<StackName>, Diagnostics> {
        order::order(self, inputs)
    }

    /// The names of all configurations that can be read.
    pub(crate) fn configuration_names(&self) -> Vec<String> {
        let projects = self.projects();
        let schemas = projects.iter().filter_map(|name| project(self, name).ok());
        schemas.map(|(_, declaration)| declaration.schema.name.to_string()).collect()
    }
}
