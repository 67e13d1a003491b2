//! What files of projects call: `project`, `output`, `component_resource`.

use std::sync::Arc;

use indexmap::IndexMap;
use olbake_core::ComponentName;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::settings::Schema;
use olbake_core::span::Span;
use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::values::Value;
use starlark::values::dict::AllocDict;
use starlark::values::list::AllocList;

use super::component::component_resource;
use super::document::RESERVED;
use super::recording::StackRecording;
use super::{policy, values};
use crate::builtin::{Builtin, Call, Row, declaration};
use crate::declare::{Declared, is_function, note_parameters, schema_of, takes};
use crate::values::to_json;

const TABLE: &[Row] = &[
    declaration("project", "* stack config? doc?", project),
    declaration("component_resource", "function", component_resource),
    declaration("output", "name value *", output),
    declaration("policy", "name * check doc?", policy::policy),
    declaration("deny", "message * resource?", policy::deny),
    declaration("warn", "message * resource?", policy::warn),
];

/// Puts them among the globals.
pub(crate) fn register(builder: &mut GlobalsBuilder) {
    for row in TABLE {
        builder.set(row.0, Builtin::from(*row));
    }
}

/// A project, without its functions.
#[derive(Clone)]
pub(crate) struct ProjectDeclaration {
    pub(crate) schema: Arc<Schema>,
    pub(crate) span: Option<Span>,
    /// Where its settings are declared.
    pub(crate) settings_span: Option<Span>,
}

type Made<'v> = Result<Value<'v>, Diagnostic>;

fn project<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let heap = eval.heap();
    let stack = call.given("stack").unwrap_or(Value::new_none());
    if !is_function(stack) {
        return Err(call.wrong("stack", "expected a function: `def stack(c, ctx): …`"));
    }
    if !takes(stack, 2) {
        note_parameters(call, "stack", stack, "the configuration and the context", "(c, ctx)");
    }
    let (schema, settings_span, functions) = match call.get("config") {
        Some(value) => {
            schema_of(value).ok_or_else(|| call.wrong("config", "expected what `settings(…)` returned"))?
        }
        None => {
            let name = call.session.file.split('/').rev().nth(1).unwrap_or_default();
            let name: ComponentName = name.parse().map_err(|error: olbake_core::names::NameError| {
                Diagnostic::error("name", error.to_string())
            })?;
            let empty =
                [heap.alloc(AllocDict::EMPTY), heap.alloc(AllocDict::EMPTY), heap.alloc(AllocList::EMPTY)];
            (Arc::new(Schema { name, fields: IndexMap::new() }), None, heap.alloc(AllocList(empty)))
        }
    };
    check_fields(&schema)?;
    let declared = ProjectDeclaration { schema, span: call.at.clone(), settings_span };
    let file = &call.session.file;
    let own = call.at.as_ref().is_none_or(|at| at.file == *file);
    if !own || !file.starts_with("stacks/") || !file.ends_with("/stack.star") {
        let text = "`project` is called outside of a file such as `stacks/applications/hello/stack.star`";
        return Err(Diagnostic::error("misplaced", text));
    }
    let mut slot = call.session.declared.borrow_mut();
    if slot.is_some() {
        return Err(Diagnostic::error("misplaced", "`project` is called twice in this file"));
    }
    *slot = Some(Declared::Project(declared));
    eval.module().set_extra_value(heap.alloc(AllocList([stack, functions])));
    Ok(Value::new_none())
}

/// Refuses settings that a stack's configuration cannot have.
fn check_fields(schema: &Schema) -> Result<(), Diagnostic> {
    for (name, field) in &schema.fields {
        if RESERVED.contains(&name.as_str()) {
            let text = format!("`[{name}]` of a stack's configuration has another meaning");
            return Err(Diagnostic::error("setting-name", text)
                .at(field.span.clone())
                .help("give the setting another name"));
        }
        if field.source.is_some() {
            let text = format!("`{name}`: the secrets of a stack have no source");
            return Err(Diagnostic::error("argument", text)
                .at(field.span.clone())
                .help("they stand encrypted in its configuration: `olbake config set --secret`"));
        }
    }
    Ok(())
}

/// The stack that runs.
pub(super) fn recording<'c>(call: &'c Call<'_, '_>) -> Result<&'c StackRecording, Diagnostic> {
    call.session.stack.as_ref().ok_or_else(|| {
        Diagnostic::error("outside-stack", format!("`{}` is called outside of a stack's function", call.name))
            .help("call it in `def stack(c, ctx): …`, or in a function that is called from there")
    })
}

fn output<'v>(call: &Call<'v, '_>, _: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let recording = recording(call)?;
    if let Err(problem) = record_output(call, recording) {
        recording.report(call.placed(problem));
    }
    Ok(Value::new_none())
}

fn record_output(call: &Call<'_, '_>, recording: &StackRecording) -> Result<(), Diagnostic> {
    let name = call.try_text("name")?;
    let fine = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !fine {
        let text = format!("`{name}` cannot name an output");
        return Err(call.wrong("name", text).help("use letters, digits and `_`: it is read as an attribute"));
    }
    let value = call.given("value").unwrap_or(Value::new_none());
    let data =
        to_json(value).map_err(|found| call.wrong("value", format!("expected data, found {found}")))?;
    let wrong =
        |code: &str, message: String| Diagnostic { code: code.to_owned(), ..call.wrong("value", message) };
    recording.known_markers(&data).map_err(|message| wrong("bad-reference", message))?;
    if let Some(id) = olbake_core::stack::value::secrets(&data).into_iter().next() {
        let text = format!("the secret `{}` would show: outputs stand in the open", id.0);
        return Err(wrong("secret-exposed", text));
    }
    if let Some(secret) = values::secret_output(recording, &data) {
        let text = format!("`{secret}` is secret and would show: outputs stand in the open");
        return Err(wrong("secret-exposed", text));
    }
    let mut outputs = recording.outputs.borrow_mut();
    if let Some((_, first)) = outputs.get(&name) {
        let mut problem = Diagnostic::error("duplicate-output", format!("there are two outputs `{name}`"));
        problem.related.extend(first.clone().map(|first| (first, "the first one".to_owned())));
        return Err(problem);
    }
    outputs.insert(name, (data, call.at.clone()));
    Ok(())
}
