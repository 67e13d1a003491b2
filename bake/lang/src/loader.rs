//! Files of recipes, each evaluated once and frozen.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use camino::Utf8Path;
use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::secret;
use olbake_core::span::Span;
use olbake_core::stack::Catalog;
use olbake_core::stack::value::{REFERENCE_END, REFERENCE_START};
use starlark::analysis::AstModuleLint as _;
use starlark::environment::{FrozenModule, Globals, GlobalsBuilder, LibraryExtension, Module};
use starlark::eval::{Evaluator, FileLoader};
use starlark::syntax::{AstModule, Dialect, DialectTypes};
use starlark::values::OwnedFrozenValue;

use crate::declare::Declared;
use crate::fault;
use crate::plan::unique;
use crate::session::Session;
use crate::sources::Sources;
use crate::watch::{self, Watch};
use crate::{declare, ops, rewrite, stack, types};

/// What recipes can name where no provider is known.
static GLOBALS: LazyLock<Globals> = LazyLock::new(|| globals().build());

fn globals() -> GlobalsBuilder {
    let extensions = [
        LibraryExtension::StructType,
        LibraryExtension::Map,
        LibraryExtension::Filter,
        LibraryExtension::Partial,
        LibraryExtension::Json,
        LibraryExtension::SetType,
    ];
    let mut builder = GlobalsBuilder::extended_by(&extensions);
    types::register(&mut builder);
    declare::register(&mut builder);
    ops::register(&mut builder);
    stack::register(&mut builder);
    builder
}

static DIALECT: LazyLock<Dialect> = LazyLock::new(|| Dialect {
    enable_keyword_only_arguments: true,
    enable_types: DialectTypes::ParseOnly,
    enable_load_reexport: false,
    enable_top_level_stmt: true,
    enable_f_strings: true,
    ..Dialect::Standard
});

/// A file of recipes.
pub(crate) struct Loaded {
    module: FrozenModule,
    /// What it declared.
    pub(crate) declared: Option<Declared>,
    /// The functions of what it declared.
    pub(crate) functions: Option<OwnedFrozenValue>,
}

type Outcome = Result<Arc<Loaded>, Diagnostics>;
/// Files that are being evaluated, outermost first, each with the `load` that leads on from it.
type Above = Vec<(String, Option<Span>)>;

/// Loads files, each once.
pub(crate) struct Loader {
    sources: Arc<Sources>,
    globals: Globals,
    loaded: Mutex<HashMap<String, Outcome>>,
}

impl Loader {
    /// A loader for the files of a workspace.
    pub(crate) fn new(sources: Arc<Sources>) -> Self {
        Self { sources, globals: GLOBALS.clone(), loaded: Mutex::default() }
    }

    /// A loader that knows the types of providers besides.
    pub(crate) fn with_types(sources: Arc<Sources>, catalog: &Arc<Catalog>) -> Self {
        let mut builder = globals();
        stack::register_resources(&mut builder, catalog);
        Self { sources, globals: builder.build(), loaded: Mutex::default() }
    }

    /// A file, evaluated.
    pub(crate) fn load(&self, file: &str) -> Outcome {
        self.load_below(file, &mut Vec::new())
    }

    fn load_below(&self, file: &str, above: &mut Above) -> Outcome {
        let known = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned();
        if let Some(known) = known {
            return known;
        }
        above.push((file.to_owned(), None));
        let outcome = self.evaluate(file, above).map(Arc::new);
        above.pop();
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned(), outcome.clone());
        outcome
    }

    fn evaluate(&self, file: &str, above: &mut Above) -> Result<Loaded, Diagnostics> {
        let text = self.sources.read(file).map_err(|reason| Diagnostic::error("missing-file", reason))?;
        if let Some(problem) = forged_marker(file, &text) {
            return Err(problem.into());
        }
        let ast = self.parse(file, &text)?;
        let mut modules = HashMap::new();
        let mut problems = Vec::new();
        for load in ast.loads() {
            match self.module(file, load.module_id, &fault::span(&load.span), above) {
                Ok(module) => drop(modules.insert(load.module_id.to_owned(), module)),
                Err(found) => problems.extend(found.0),
            }
        }
        if problems.is_empty() { self.run(file, ast, Modules(modules)) } else { Err(unique(problems)) }
    }

    fn parse(&self, file: &str, text: &str) -> Result<AstModule, Diagnostic> {
        AstModule::parse(file, rewrite::map_types(text), &DIALECT).map_err(fault::diagnose)
    }

    /// The module that a file loads at `at`.
    fn module(
        &self,
        file: &str,
        id: &str,
        at: &Span,
        above: &mut Above,
    ) -> Result<FrozenModule, Diagnostics> {
        let target = resolve_load(file, id).ok_or_else(|| {
            Diagnostic::error("load", format!("`{id}` is not a file of the workspace")).at(at.clone())
        })?;
        if let Some((_, place)) = above.last_mut() {
            *place = Some(at.clone());
        }
        if let Some(start) = above.iter().position(|(other, _)| *other == target) {
            return Err(circle(&above[start..]).into());
        }
        let loaded = self.load_below(&target, above).map_err(|mut problems| {
            problems
                .0
                .iter_mut()
                .filter(|problem| problem.span.is_none())
                .for_each(|problem| problem.span = Some(at.clone()));
            problems
        })?;
        Ok(loaded.module.clone())
    }

    fn run(&self, file: &str, ast: AstModule, modules: Modules) -> Result<Loaded, Diagnostics> {
        let session = Session {
            sources: Arc::clone(&self.sources),
            file: file.to_owned(),
            declared: RefCell::new(None),
            recording: None,
            stack: None,
            judging: None,
            problems: RefCell::default(),
        };
        let evaluate = |module: Module<'_>, watch: &Watch| -> Result<FrozenModule, Diagnostic> {
            {
                let mut eval = Evaluator::new(&module);
                watch.limit(&mut eval);
                eval.set_loader(&modules);
                eval.extra = Some(&session);
                let start = Span { file: file.to_owned(), line: 1, column: 1, end_line: 1, end_column: 1 };
                eval.eval_module(ast, &self.globals)
                    .map_err(|error| watch.diagnose(&self.sources, error, Some(start)))?;
            }
            module.freeze().map_err(|error| Diagnostic::error("recipe", error.err_msg))
        };
        let outcome = watch::guarded(file, |watch| Module::with_temp_heap(|module| evaluate(module, watch)))
            .and_then(|outcome| outcome);
        let mut problems = session.problems.take();
        match outcome {
            Ok(module) if problems.is_empty() => {
                let functions = module.owned_extra_value();
                return Ok(Loaded { module, declared: session.declared.into_inner(), functions });
            }
            Ok(_) => {}
            Err(last) if last.code == "unknown-name" => problems.extend(self.undefined(file, last)),
            Err(last) => problems.extend(Some(last).filter(|last| !fault::follows(last))),
        }
        Err(Diagnostics(problems))
    }

    /// Every name of a file that nothing defines: the interpreter says only the first.
    fn undefined(&self, file: &str, first: Diagnostic) -> Vec<Diagnostic> {
        let Some(ast) = self.sources.text(file).and_then(|text| self.parse(file, &text).ok()) else {
            return vec![first];
        };
        let known: HashSet<String> = self.globals.names().map(|name| name.as_str().to_owned()).collect();
        let mut seen = HashSet::new();
        let mut problems = vec![first];
        for lint in ast.lint(Some(&known)).into_iter().filter(|lint| lint.short_name == "using-undefined") {
            let (name, place) = (lint.original, fault::span(&lint.location));
            let is_first = problems[0].span.as_ref() == Some(&place);
            if seen.insert(name.clone()) && !is_first && !problems[0].message.contains(&format!("`{name}`")) {
                problems.push(fault::not_found(&name, known.iter().map(String::as_str)).at(place));
            }
        }
        problems
    }
}

/// Files that load each other in a circle. From whichever of them one comes to it, it is the same circle.
fn circle(chain: &[(String, Option<Span>)]) -> Diagnostic {
    let start = chain.iter().enumerate().min_by_key(|(_, (file, _))| file).map_or(0, |(index, _)| index);
    let (before, after) = chain.split_at(start);
    let files: Vec<&str> =
        after.iter().chain(before).chain(&after[..1]).map(|(file, _)| file.as_str()).collect();
    let text = format!("files load each other in a circle: {}", files.join(" → "));
    Diagnostic::error("load", text).at(chain[start].1.clone())
}

/// The file that a `load` names: `//lib/x.star`, or `x.star` beside the file.
fn resolve_load(file: &str, id: &str) -> Option<String> {
    let (folder, inner) = match id.strip_prefix("//") {
        Some(inner) => (Utf8Path::new(""), inner),
        None => (Utf8Path::new(file).parent()?, id),
    };
    let inside =
        Utf8Path::new(inner).components().all(|part| matches!(part, camino::Utf8Component::Normal(_)));
    (inside && inner.ends_with(".star")).then(|| folder.join(inner).into_string())
}

const MARKERS: [char; 4] = [secret::MARKER_START, secret::MARKER_END, REFERENCE_START, REFERENCE_END];

fn forged_marker(file: &str, text: &str) -> Option<Diagnostic> {
    let (index, line) = text.lines().enumerate().find(|(_, line)| line.contains(MARKERS))?;
    let line_number = u32::try_from(index + 1).ok()?;
    let end = u32::try_from(line.chars().count() + 1).ok()?;
    let span =
        Span { file: file.to_owned(), line: line_number, column: 1, end_line: line_number, end_column: end };
    let text = "the private-use characters U+E000 to U+E003 stand for secrets and outputs and are refused in recipes";
    Some(Diagnostic::error("forged-marker", text).at(span))
}

/// The modules that a file loads.
struct Modules(HashMap<String, FrozenModule>);

impl FileLoader for Modules {
    fn load(&self, path: &str) -> starlark::Result<FrozenModule> {
        self.0.get(path).cloned().ok_or_else(|| fault::raise_text(format!("`{path}` was not loaded")))
    }
}
