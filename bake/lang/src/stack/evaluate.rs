//! The run of one stack: configuration first, then the project's function.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use camino::Utf8PathBuf;
use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::plan::{Provenance, Setting};
use olbake_core::span::Span;
use olbake_core::stack::StackName;
use serde_json::Value as Json;
use starlark::environment::Module;
use starlark::eval::Evaluator;
use starlark::values::Value;
use starlark::values::list::ListRef;

use super::builtins::ProjectDeclaration;
use super::config::{Configuration, Reading};
use super::context::ContextView;
use super::document::Document;
use super::finish::finish;
use super::recording::{Missed, StackRecording};
use super::{Evaluated, StackInputs};
use crate::declare::Declared;
use crate::fault;
use crate::loader::Loaded;
use crate::plan::unique;
use crate::rules::{Computed, RuleFunctions, Rules};
use crate::session::Session;
use crate::values::SettingsView;
use crate::watch::{self, Watch};
use crate::workspace::{Workspace, nothing_declared};

/// A stack, evaluated, and where it reads others.
pub(crate) struct Run {
    pub(crate) evaluated: Evaluated,
    pub(crate) references: BTreeMap<StackName, Option<Span>>,
}

/// Runs a stack's function.
pub(crate) fn run(
    workspace: &Workspace,
    stack: &StackName,
    inputs: &StackInputs,
) -> Result<Run, Diagnostics> {
    let projects = workspace.known_projects();
    let file = projects.configuration(stack)?;
    let (loaded, declaration) = project(workspace, stack.project())?;
    let text = workspace
        .sources
        .read(file.as_str())
        .map_err(|reason| Diagnostic::error("missing-configuration", reason))?;
    let document = Document::parse(file.as_str(), &text);
    if !document.problems.is_empty() {
        return Err(Diagnostics(document.problems));
    }
    let reading = Reading {
        stack,
        schema: &declaration.schema,
        file: file.as_str(),
        document: &document,
        inputs,
        names: &|| workspace.configuration_names(),
    };
    let configuration = reading.read();
    if !configuration.problems.is_empty() {
        return Err(unique(configuration.problems));
    }
    let running = Running { workspace, stack, inputs, declaration: &declaration, loaded: &loaded };
    running.run(document, configuration)
}

/// A project, loaded.
pub(crate) fn project(
    workspace: &Workspace,
    project: &str,
) -> Result<(Arc<Loaded>, ProjectDeclaration), Diagnostics> {
    let file = format!("stacks/{}/stack.star", project.replace('.', "/"));
    let loaded = workspace.loader.load(&file)?;
    let Some(Declared::Project(declaration)) = &loaded.declared else {
        let problem = nothing_declared(&file, "project");
        return Err(problem.help("call `project(config = …, stack = …)` in it").into());
    };
    let declaration = declaration.clone();
    Ok((loaded, declaration))
}

struct Running<'a> {
    workspace: &'a Workspace,
    stack: &'a StackName,
    inputs: &'a StackInputs,
    declaration: &'a ProjectDeclaration,
    loaded: &'a Loaded,
}

impl Running<'_> {
    fn run(&self, document: Document, configuration: Configuration) -> Result<Run, Diagnostics> {
        let projects = self.workspace.known_projects();
        let folder = Utf8PathBuf::from("stacks").join(self.stack.project_folder());
        let recording = StackRecording {
            stack: self.stack.clone(),
            document,
            secrets: configuration.digests(),
            catalog: Arc::clone(&projects.catalog),
            stacks: Arc::clone(&projects.stacks),
            outputs_of: Arc::clone(&self.inputs.outputs),
            image_of: Arc::clone(&self.inputs.images),
            missed: Arc::new(Missed::default()),
            scope: RefCell::default(),
            resources: RefCell::default(),
            names: RefCell::default(),
            waits: RefCell::default(),
            outputs: RefCell::default(),
            images: RefCell::default(),
            references: RefCell::default(),
            problems: RefCell::default(),
            folder: folder.clone(),
        };
        let session = Session {
            sources: Arc::clone(&self.workspace.sources),
            file: folder.join("stack.star").into_string(),
            declared: RefCell::new(None),
            recording: None,
            stack: Some(recording),
            judging: None,
            problems: RefCell::default(),
        };
        let values = configuration.values(&self.declaration.schema);
        let act = |module: Module<'_>, watch: &Watch| {
            let mut eval = Evaluator::new(&module);
            watch.limit(&mut eval);
            eval.extra = Some(&session);
            self.call(&mut eval, values, &session, watch)
        };
        let computed =
            watch::guarded(&session.file, |watch| Module::with_temp_heap(|module| act(module, watch)))??;
        let Some(recording) = session.stack else { return Err(Diagnostics::default()) };
        let (declaration, references) = finish(self.workspace, recording)?;
        let Configuration { settings, sealed, warnings, problems: _ } = configuration;
        let config = self.with_computed(settings, computed);
        let evaluated = Evaluated { declaration, config, sealed, warnings: Diagnostics(warnings) };
        Ok(Run { evaluated, references })
    }

    fn call<'v>(
        &self,
        eval: &mut Evaluator<'v, '_, '_>,
        values: Vec<Json>,
        session: &Session,
        watch: &Watch,
    ) -> Result<Computed, Diagnostics> {
        let (Some(functions), Some(recording)) = (&self.loaded.functions, &session.stack) else {
            return Err(Diagnostics::default());
        };
        let kept: Value<'v> = eval.heap().access_owned_frozen_value(functions);
        let parts = ListRef::from_value(kept).map(|list| list.content());
        let Some(([stack, _], Some(rules))) = parts
            .and_then(|parts| <&[Value<'v>; 2]>::try_from(parts).ok())
            .map(|parts| (parts, RuleFunctions::of(parts[1])))
        else {
            return Err(Diagnostics::default());
        };
        let settings = Rules {
            schema: &self.declaration.schema,
            declared: self.declaration.settings_span.as_ref(),
            used: None,
        };
        let (settings, computed) = settings.apply(eval, &rules, values).map_err(Diagnostics)?;
        let c = eval.heap().alloc(SettingsView(settings));
        let context = (self.stack.clone(), Arc::clone(&recording.missed));
        let ctx = eval.heap().alloc(ContextView(Arc::new(context)));
        if let Err(error) = eval.eval_function(*stack, &[c, ctx], &[]) {
            let place = session.sources.text(&session.file).and_then(|text| {
                fault::definition(&session.file, &text, stack.function_name().unwrap_or_default())
            });
            let place = place.or_else(|| self.declaration.span.clone());
            let problem = recording.missed.explain(watch.diagnose(&session.sources, error, place));
            if !fault::follows(&problem) {
                recording.report(problem);
            }
        }
        Ok(computed)
    }

    fn with_computed(
        &self,
        mut settings: BTreeMap<String, Setting>,
        computed: Computed,
    ) -> BTreeMap<String, Setting> {
        for (name, value) in computed {
            let span = self.declaration.schema.fields.get(&name).and_then(|field| field.span.clone());
            let layer = "computed".to_owned();
            let provenance = vec![Provenance { layer, name: None, span, value: value.clone() }];
            settings.insert(name, Setting { value, provenance });
        }
        settings
    }
}
