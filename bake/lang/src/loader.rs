//! Files of recipes, each evaluated once and frozen.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use camino::Utf8Path;
use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::secret;
use olbake_core::span::Span;
use olbake_core::stack::Catalog;
use olbake_core::stack::value::{REFERENCE_END, REFERENCE_START};
use starlark::environment::{FrozenModule, Globals, GlobalsBuilder, LibraryExtension, Module};
use starlark::eval::{Evaluator, FileLoader};
use starlark::syntax::{AstModule, Dialect, DialectTypes};
use starlark::values::OwnedFrozenValue;

use crate::declare::Declared;
use crate::fault::{self, STEP_LIMIT};
use crate::session::Session;
use crate::sources::Sources;
use crate::{declare, ops, rewrite, stack, types};

/// The most memory that a recipe's values may take.
const HEAP_LIMIT: usize = 256 << 20;

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

/// Loads files, each once.
pub(crate) struct Loader {
    sources: Arc<Sources>,
    globals: Globals,
    loaded: Mutex<HashMap<String, Outcome>>,
}

/// Sets the limits of an evaluation: a recipe ends, whatever it says.
pub(crate) fn limit(eval: &mut Evaluator<'_, '_, '_>) {
    // Each can fail only when it was set before, and the evaluator is new.
    let set = eval.set_max_callstack_size(100).is_ok()
        & eval.set_max_heap_size(HEAP_LIMIT).is_ok()
        & eval.set_max_tick_count(STEP_LIMIT).is_ok();
    debug_assert!(set, "limits are set once");
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

    fn load_below(&self, file: &str, above: &mut Vec<String>) -> Outcome {
        let known = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned();
        if let Some(known) = known {
            return known;
        }
        above.push(file.to_owned());
        let outcome = self.evaluate(file, above).map(Arc::new);
        above.pop();
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned(), outcome.clone());
        outcome
    }

    fn evaluate(&self, file: &str, above: &mut Vec<String>) -> Result<Loaded, Diagnostics> {
        let text = self.sources.read(file).map_err(|reason| Diagnostic::error("missing-file", reason))?;
        if let Some(problem) = forged_marker(file, &text) {
            return Err(problem.into());
        }
        let ast = AstModule::parse(file, rewrite::map_types(&text), &DIALECT).map_err(fault::diagnose)?;
        let mut modules = HashMap::new();
        for load in ast.loads() {
            let at = fault::span(&load.span);
            let target = resolve_load(file, load.module_id).ok_or_else(|| {
                Diagnostic::error("load", format!("`{}` is not a file of the workspace", load.module_id))
                    .at(at.clone())
            })?;
            if let Some(start) = above.iter().position(|other| *other == target) {
                let circle: Vec<&str> =
                    above[start..].iter().map(String::as_str).chain([target.as_str()]).collect();
                let text = format!("files load each other in a circle: {}", circle.join(" → "));
                return Err(Diagnostic::error("load", text).at(at).into());
            }
            let loaded = self.load_below(&target, above).map_err(|mut problems| {
                problems
                    .0
                    .iter_mut()
                    .filter(|problem| problem.span.is_none())
                    .for_each(|problem| problem.span = Some(at.clone()));
                problems
            })?;
            modules.insert(load.module_id.to_owned(), loaded.module.clone());
        }
        self.run(file, ast, Modules(modules)).map_err(Diagnostics::from)
    }

    fn run(&self, file: &str, ast: AstModule, modules: Modules) -> Result<Loaded, Diagnostic> {
        let session = Session {
            sources: Arc::clone(&self.sources),
            file: file.to_owned(),
            declared: RefCell::new(None),
            recording: None,
            stack: None,
            judging: None,
        };
        let evaluate = |module: Module<'_>| -> Result<FrozenModule, Diagnostic> {
            {
                let mut eval = Evaluator::new(&module);
                limit(&mut eval);
                eval.set_loader(&modules);
                eval.extra = Some(&session);
                let start = Span { file: file.to_owned(), line: 1, column: 1, end_line: 1, end_column: 1 };
                eval.eval_module(ast, &self.globals)
                    .map_err(|error| fault::diagnose_at(error, Some(start)))?;
            }
            module.freeze().map_err(|error| Diagnostic::error("recipe", error.err_msg))
        };
        let module = fault::guarded(file, || Module::with_temp_heap(evaluate))??;
        let functions = module.owned_extra_value();
        Ok(Loaded { module, declared: session.declared.into_inner(), functions })
    }
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
