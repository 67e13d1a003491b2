//! Policies: functions in `policies/*.star` over the plan of a stack.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use olbake_core::diagnostic::{Diagnostic, Diagnostics, Severity};
use olbake_core::span::Span;
use olbake_core::stack::plan::Action;
use olbake_core::stack::{Declaration, ResourceName, StackPlan, value};
use serde::Serialize;
use serde_json::Value as Json;
use starlark::environment::Module;
use starlark::eval::Evaluator;
use starlark::values::list::{AllocList, ListRef};
use starlark::values::structs::{AllocStruct, StructRef};
use starlark::values::{Heap, Value};

use crate::builtin::Call;
use crate::declare::{Declared, is_function, note_parameters, takes};
use crate::loader::Loaded;
use crate::session::Session;
use crate::values::from_json;
use crate::watch::{self, Watch};
use crate::workspace::{Workspace, nothing_declared};

/// The folder of policies.
const FOLDER: &str = "policies";

/// A policy, without its function.
#[derive(Clone)]
pub(crate) struct PolicyDeclaration {
    name: String,
    span: Option<Span>,
}

/// What a policy has against a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The policy.
    pub policy: String,
    /// The resource that it is about.
    pub resource: Option<ResourceName>,
    /// What it says.
    pub message: String,
    /// An error stops a deploy.
    pub severity: Severity,
    /// Where the resource is declared, else where the policy is.
    pub span: Option<Span>,
    /// Where the policy says so.
    pub said: Option<Span>,
}

impl Violation {
    /// As it is drawn.
    pub fn diagnostic(&self) -> Diagnostic {
        let Self { policy, resource, message, severity, span, said } = self;
        let about = resource.as_ref().map_or_else(String::new, |name| format!("`{name}`: "));
        let code = format!("policy-{policy}");
        let mut found = Diagnostic::error(&code, format!("{about}{message}")).at(span.clone());
        found.severity = *severity;
        let said = said.clone().filter(|said| Some(said) != span.as_ref());
        found.related.extend(said.map(|said| (said, format!("the policy `{policy}`"))));
        found
    }
}

/// What the policies say while they run.
pub(crate) struct Judging {
    policy: RefCell<PolicyDeclaration>,
    places: HashMap<ResourceName, Option<Span>>,
    violations: RefCell<Vec<Violation>>,
}

type Made<'v> = Result<Value<'v>, Diagnostic>;

/// `policy(name, check = …)`.
pub(super) fn policy<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let name = call.try_text("name")?;
    let check = call.given("check").unwrap_or(Value::new_none());
    if !is_function(check) {
        return Err(call.wrong("check", "expected a function of the plan: `def check(plan): …`"));
    }
    if !takes(check, 1) {
        note_parameters(call, "check", check, "the plan", "(plan)");
    }
    let file = &call.session.file;
    let own = call.at.as_ref().is_none_or(|at| at.file == *file);
    if !own || !file.starts_with("policies/") {
        let text = "`policy` is called outside of a file such as `policies/tags.star`";
        return Err(Diagnostic::error("misplaced", text));
    }
    let mut slot = call.session.declared.borrow_mut();
    let Declared::Policies(all) = slot.get_or_insert_with(|| Declared::Policies(Vec::new())) else {
        return Err(Diagnostic::error("misplaced", "this file declares something else already"));
    };
    if let Some(first) = all.iter().find(|other| other.name == name) {
        let mut problem = call.wrong("name", format!("there are two policies `{name}` in this file"));
        problem.related.extend(first.span.clone().map(|first| (first, "the first one".to_owned())));
        return Err(problem);
    }
    all.push(PolicyDeclaration { name, span: call.at.clone() });
    let before = eval.module().extra_value().and_then(ListRef::from_value);
    let mut functions: Vec<Value<'v>> = before.map(|list| list.iter().collect()).unwrap_or_default();
    functions.push(check);
    eval.module().set_extra_value(eval.heap().alloc(AllocList(functions)));
    Ok(Value::new_none())
}

/// `deny(message, resource = …)`.
pub(super) fn deny<'v>(call: &Call<'v, '_>, _: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    object(call, Severity::Error)
}

/// `warn(message, resource = …)`.
pub(super) fn warn<'v>(call: &Call<'v, '_>, _: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    object(call, Severity::Warning)
}

fn object<'v>(call: &Call<'v, '_>, severity: Severity) -> Made<'v> {
    let judging = call.session.judging.as_ref().ok_or_else(|| {
        Diagnostic::error("outside-policy", format!("`{}` is called outside of a policy", call.name))
            .help("call it in the function given as `policy(…, check = …)`")
    })?;
    let message = call.given("message").map(|message| message.to_str()).unwrap_or_default();
    let resource = call.get("resource").map(|value| resource_of(call, judging, value)).transpose()?;
    let PolicyDeclaration { name: policy, span: declared } = judging.policy.borrow().clone();
    let place = resource.as_ref().and_then(|name| judging.places.get(name).cloned().flatten());
    let span = place.or(declared);
    let said = call.at.clone();
    let message = readable(&message);
    judging.violations.borrow_mut().push(Violation { policy, resource, message, severity, span, said });
    Ok(Value::new_none())
}

/// A resource by its name, or anything with a `name`: a resource or an action of the plan.
fn resource_of(call: &Call<'_, '_>, judging: &Judging, value: Value<'_>) -> Result<ResourceName, Diagnostic> {
    let fields = StructRef::from_value(value);
    let named = fields
        .and_then(|fields| fields.iter().find(|(key, _)| key.as_str() == "name").map(|(_, value)| value));
    let text = named.unwrap_or(value).unpack_str();
    let name = text.and_then(|text| text.parse::<ResourceName>().ok());
    name.filter(|name| judging.places.contains_key(name)).ok_or_else(|| {
        let found: String = value.to_repr().chars().take(60).collect();
        call.wrong(
            "resource",
            format!("expected a resource or action of the plan or its name, found `{found}`"),
        )
    })
}

/// A message with placeholders as people read them.
fn readable(message: &str) -> String {
    let shown = value::shown(&Json::from(message));
    shown.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(&shown).to_owned()
}

impl Workspace {
    /// Runs every policy over a plan. An error means that a policy itself is wrong, not that it is violated.
    pub fn judge(&self, plan: &StackPlan, declaration: &Declaration) -> Result<Vec<Violation>, Diagnostics> {
        let files = load_all(self)?;
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let declared = declaration.resources.iter().map(|one| (one.name.clone(), one.span.clone()));
        let removed = plan.actions.iter().map(|action| (action.name.clone(), None));
        let judging = Judging {
            policy: RefCell::new(PolicyDeclaration { name: String::new(), span: None }),
            places: removed.chain(declared).collect(),
            violations: RefCell::default(),
        };
        let session = Session {
            sources: Arc::clone(&self.sources),
            file: FOLDER.to_owned(),
            declared: RefCell::new(None),
            recording: None,
            stack: None,
            judging: Some(judging),
            problems: RefCell::default(),
        };
        let act =
            |watch: &Watch, module: Module<'_>| run_all(watch, &module, &session, &files, plan, declaration);
        watch::guarded(FOLDER, |watch| Module::with_temp_heap(|module| act(watch, module)))??;
        Ok(session.judging.map(|judging| judging.violations.into_inner()).unwrap_or_default())
    }
}

fn run_all(
    watch: &Watch,
    module: &Module<'_>,
    session: &Session,
    files: &[Arc<Loaded>],
    plan: &StackPlan,
    declaration: &Declaration,
) -> Result<(), Diagnostics> {
    let plan = view(module.heap(), plan, declaration);
    let mut problems = Diagnostics::default();
    for file in files {
        let (Some(Declared::Policies(policies)), Some(functions)) = (&file.declared, &file.functions) else {
            continue;
        };
        let functions = ListRef::from_value(module.heap().access_owned_frozen_value(functions));
        for (policy, function) in policies.iter().zip(functions.into_iter().flat_map(|list| list.iter())) {
            if let Some(judging) = &session.judging {
                judging.policy.replace(policy.clone());
            }
            let mut eval = Evaluator::new(module);
            watch.limit(&mut eval);
            eval.extra = Some(session);
            if let Err(error) = eval.eval_function(function, &[plan], &[]) {
                problems.push(watch.diagnose(&session.sources, error, policy.span.clone()));
            }
        }
    }
    if problems.0.is_empty() { Ok(()) } else { Err(problems) }
}

/// Loads every file of policies.
pub(crate) fn load_all(workspace: &Workspace) -> Result<Vec<Arc<Loaded>>, Diagnostics> {
    let (mut loaded, mut problems) = (Vec::new(), Diagnostics::default());
    for file in recipes_below(workspace, FOLDER) {
        match workspace.loader.load(&file) {
            Ok(one) if matches!(one.declared, Some(Declared::Policies(_))) => loaded.push(one),
            Ok(_) => problems
                .push(nothing_declared(&file, "policy").help("call `policy(name = …, check = …)` in it")),
            Err(found) => problems.0.extend(found.0),
        }
    }
    if problems.0.is_empty() { Ok(loaded) } else { Err(problems) }
}

/// The recipes in a folder and below, sorted; none where the folder is not there.
pub(crate) fn recipes_below(workspace: &Workspace, folder: &str) -> Vec<String> {
    let found = workspace.sources.tree(folder.into()).unwrap_or_default();
    let recipes = found.into_iter().filter(|(path, _)| path.extension() == Some("star"));
    recipes.map(|(path, _)| format!("{folder}/{path}")).collect()
}

fn data(value: &impl Serialize) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}

/// The plan, as policies see it.
fn view<'v>(heap: Heap<'v>, plan: &StackPlan, declaration: &Declaration) -> Value<'v> {
    let text = |text: &str| heap.alloc(text);
    let resources = declaration.resources.iter().map(|one| {
        heap.alloc(AllocStruct([
            ("name", text(one.name.as_str())),
            ("type", text(&one.ty.to_string())),
            ("inputs", from_json(heap, &Json::Object(one.inputs.clone()))),
            ("protect", Value::new_bool(one.protect)),
            ("retain", Value::new_bool(one.retain)),
        ]))
    });
    let images = declaration.images.iter().map(|(image, pinned)| {
        heap.alloc(AllocStruct([
            ("image", text(&image.to_string())),
            ("digest", text(&pinned.digest.to_string())),
            ("channel", pinned.channel.as_deref().map_or(Value::new_none(), text)),
        ]))
    });
    let outputs: serde_json::Map<String, Json> = plan.outputs.clone().into_iter().collect();
    heap.alloc(AllocStruct([
        ("stack", text(plan.stack.as_str())),
        ("project", text(plan.stack.project())),
        ("environment", text(plan.stack.environment().as_str())),
        ("resources", heap.alloc(AllocList(resources))),
        ("actions", heap.alloc(AllocList(plan.actions.iter().map(|action| action_view(heap, action))))),
        ("images", heap.alloc(AllocList(images))),
        ("outputs", from_json(heap, &Json::Object(outputs))),
    ]))
}

fn action_view<'v>(heap: Heap<'v>, action: &Action) -> Value<'v> {
    let text = |text: &str| heap.alloc(text);
    heap.alloc(AllocStruct([
        ("do", text(action.act.verb())),
        ("name", text(action.name.as_str())),
        ("type", text(&action.ty.to_string())),
        ("id", text(action.id.as_str())),
        ("inputs", from_json(heap, &Json::Object(action.inputs.clone()))),
        ("changes", from_json(heap, &data(&action.changes))),
        ("reasons", from_json(heap, &data(&action.reasons))),
        ("risk", from_json(heap, &data(&action.risk()))),
        ("protect", Value::new_bool(action.protect)),
        ("retain", Value::new_bool(action.retain)),
        ("holds_data", Value::new_bool(action.holds_data)),
    ]))
}
