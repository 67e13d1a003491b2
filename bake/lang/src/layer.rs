//! One use of a component: its functions run with its settings, and what they recorded becomes a layer's operations.
//!
//! The result depends on the settings, the facts that were asked for, and files: it is kept and used again for
//! every image that uses the component in the same way.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use camino::Utf8PathBuf;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Operation, Phase};
use olbake_core::secret::SecretId;
use olbake_core::span::Span;
use olbake_core::{ComponentName, Digest};
use serde_json::Value as Json;
use starlark::environment::Module;
use starlark::eval::Evaluator;
use starlark::values::list::ListRef;
use starlark::values::{OwnedFrozenValue, Value};

use crate::declare::ComponentDeclaration;
use crate::rules::{Computed, RuleFunctions, Rules};
use crate::session::{Recording, Session, Stored};
use crate::sources::Sources;
use crate::template::Templates;
use crate::values::{Facts, MachineView, SettingsData, SettingsView};
use crate::watch::{self, Watch};
use crate::{fault, finish};

/// A component of the workspace.
pub(crate) struct Component {
    pub(crate) name: ComponentName,
    pub(crate) folder: Utf8PathBuf,
    pub(crate) declaration: ComponentDeclaration,
    /// A list of its phases and of the functions of its settings.
    pub(crate) functions: OwnedFrozenValue,
    pub(crate) templates: Arc<Templates>,
}

/// What one use of a component comes to.
pub(crate) struct LayerDraft {
    /// The operations of the layer.
    pub(crate) operations: Vec<Operation>,
    /// Which of them may claim a path that another has claimed.
    pub(crate) overriding: Vec<bool>,
    /// Paths that a unit follows and no operation of the layer writes.
    pub(crate) foreign: Vec<(Utf8PathBuf, Option<Span>)>,
    /// The checks.
    pub(crate) checks: Vec<Operation>,
    /// What an instance does before another takes its place.
    pub(crate) upgrade: Vec<Operation>,
    /// The bytes that the operations need.
    pub(crate) payloads: BTreeMap<Digest, Stored>,
    /// Which settings were read.
    pub(crate) read: u64,
    /// The values of computed settings.
    pub(crate) computed: Vec<(String, Json)>,
    /// Whether the recipe asked for the image's name.
    pub(crate) asked_for_image: bool,
}

/// What one use of a component is evaluated with.
pub(crate) struct Use<'a> {
    pub(crate) component: &'a Component,
    /// Values in the order of the declaration; computed ones are null.
    pub(crate) values: Vec<Json>,
    pub(crate) secrets: Vec<SecretId>,
    pub(crate) facts: Arc<Facts>,
    pub(crate) sources: &'a Arc<Sources>,
    /// Where the component is used.
    pub(crate) span: Option<Span>,
}

/// The functions of a component, in the interpreter.
struct Functions<'v> {
    phases: &'v [Value<'v>],
    rules: RuleFunctions<'v>,
}

impl<'v> Functions<'v> {
    fn of(kept: Value<'v>) -> Option<Self> {
        let [phases, settings] = ListRef::from_value(kept)?.content() else { return None };
        Some(Self { phases: ListRef::from_value(*phases)?.content(), rules: RuleFunctions::of(*settings)? })
    }
}

/// What is wrong with a use of a component, and what it comes to besides.
pub(crate) struct Failed {
    pub(crate) problems: Vec<Diagnostic>,
    /// The operations with which nothing is wrong, where there are any: others may be at odds with them.
    pub(crate) rest: Option<LayerDraft>,
}

impl From<Vec<Diagnostic>> for Failed {
    fn from(problems: Vec<Diagnostic>) -> Self {
        Self { problems, rest: None }
    }
}

/// Runs a component's functions.
pub(crate) fn evaluate(used: Use<'_>) -> Result<LayerDraft, Failed> {
    let Use { component, values, secrets, facts, sources, span } = used;
    let recording = Recording {
        folder: component.folder.clone(),
        templates: Arc::clone(&component.templates),
        secrets: secrets.into_iter().collect(),
        phase: Cell::new(Phase::Install),
        drafts: RefCell::default(),
        payloads: RefCell::default(),
        problems: RefCell::default(),
    };
    let session = Session {
        sources: Arc::clone(sources),
        file: component.folder.join("component.star").into_string(),
        declared: RefCell::new(None),
        recording: Some(recording),
        stack: None,
        judging: None,
        problems: RefCell::default(),
    };
    let run = |module: Module<'_>, watch: &Watch| {
        let mut eval = Evaluator::new(&module);
        watch.limit(&mut eval);
        eval.extra = Some(&session);
        let run = Runner { component, span: span.as_ref(), facts: &facts, watch };
        run.all(&mut eval, values, &session)
    };
    let outcome = watch::guarded(&session.file, |watch| Module::with_temp_heap(|module| run(module, watch)))
        .map_err(|problem| vec![problem])?;
    let (settings, computed) = outcome?;
    let Some(recording) = session.recording else { return Err(Vec::new().into()) };
    let (finished, conflicts) = finish::finish(&component.name, recording.drafts.into_inner());
    let mut problems = recording.problems.into_inner();
    problems.extend(conflicts);
    let draft = LayerDraft {
        operations: finished.operations,
        overriding: finished.overriding,
        foreign: finished.foreign,
        checks: finished.checks,
        upgrade: finished.upgrade,
        payloads: recording.payloads.into_inner(),
        read: settings.read(),
        computed,
        asked_for_image: facts.asked_for_image.load(Ordering::Relaxed),
    };
    if problems.is_empty() { Ok(draft) } else { Err(Failed { problems, rest: Some(draft) }) }
}

struct Runner<'a> {
    component: &'a Component,
    span: Option<&'a Span>,
    facts: &'a Arc<Facts>,
    watch: &'a Watch,
}

impl Runner<'_> {
    fn all<'v>(
        &self,
        eval: &mut Evaluator<'v, '_, '_>,
        values: Vec<Json>,
        session: &Session,
    ) -> Result<(Arc<SettingsData>, Computed), Vec<Diagnostic>> {
        let heap = eval.heap();
        let kept = heap.access_owned_frozen_value(&self.component.functions);
        let Some(functions) = Functions::of(kept) else { return Err(Vec::new()) };
        let declaration = &self.component.declaration;
        let rules = Rules {
            schema: &declaration.schema,
            declared: declaration.settings_span.as_ref(),
            used: self.span,
        };
        let (settings, computed) = rules.apply(eval, &functions.rules, values)?;
        let s = heap.alloc(SettingsView(Arc::clone(&settings)));
        let m = heap.alloc(MachineView(Arc::clone(self.facts)));
        let phases = [
            Phase::Install,
            Phase::Configure,
            Phase::Units,
            Phase::Maintenance,
            Phase::Verify,
            Phase::Upgrade,
        ];
        for (phase, function) in phases.into_iter().zip(functions.phases) {
            if function.is_none() {
                continue;
            }
            let Some(recording) = &session.recording else { continue };
            recording.phase.set(phase);
            if let Err(error) = eval.eval_function(*function, &[s, m], &[]) {
                let place = session.sources.text(&session.file).and_then(|text| {
                    fault::definition(&session.file, &text, function.function_name().unwrap_or_default())
                });
                let place = place.or_else(|| self.component.declaration.span.clone());
                let problem = self.watch.diagnose(&session.sources, error, place);
                recording
                    .problems
                    .borrow_mut()
                    .extend(Some(problem).filter(|problem| !fault::follows(problem)));
                if watch::is_spent(eval) {
                    break;
                }
            }
        }
        Ok((settings, computed))
    }
}
