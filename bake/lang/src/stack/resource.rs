//! `local.network("name", cidr = …)`: a function for each type of the catalog.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use allocative::Allocative;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::settings::{did_you_mean, nearest};
use olbake_core::span::Span;
use olbake_core::stack::catalog::InputProblem;
use olbake_core::stack::declare::Declared;
use olbake_core::stack::{Catalog, ResourceName, ResourceType, TypeSchema};
use serde_json::Map;
use starlark::any::ProvidesStaticType;
use starlark::environment::GlobalsBuilder;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_simple_value;
use starlark::values::list::ListRef;
use starlark::values::tuple::TupleRef;
use starlark::values::{NoSerialize, StarlarkValue, Value, ValueLike, starlark_value};

use super::recording::StackRecording;
use super::values::{Resource, ResourceValue};
use crate::fault;
use crate::session::Session;
use crate::values::to_json;

/// What every resource takes besides its properties.
const COMMON: [&str; 5] = ["depends_on", "protect", "retain", "ignore_changes", "import_id"];

/// Puts a namespace for each provider among the globals.
pub(crate) fn register(builder: &mut GlobalsBuilder, catalog: &Arc<Catalog>) {
    let mut providers: BTreeMap<&str, Vec<&ResourceType>> = BTreeMap::new();
    for (ty, _) in catalog.iter() {
        providers.entry(ty.provider()).or_default().push(ty);
    }
    for (provider, types) in providers {
        builder.namespace(provider, |builder| {
            for ty in types {
                builder.set(ty.kind(), ResourceFunction { ty: ty.clone(), catalog: Arc::clone(catalog) });
            }
        });
    }
}

/// A function that declares a resource of a type.
#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative)]
struct ResourceFunction {
    #[allocative(skip)]
    ty: ResourceType,
    #[allocative(skip)]
    catalog: Arc<Catalog>,
}
starlark_simple_value!(ResourceFunction);

impl fmt::Display for ResourceFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.ty, f)
    }
}

#[starlark_value(type = "function")]
impl<'v> StarlarkValue<'v> for ResourceFunction {
    fn invoke(
        &self,
        _me: Value<'v>,
        args: &Arguments<'v, '_>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let session = eval.extra.and_then(|extra| extra.downcast_ref::<Session>());
        let at = eval.call_stack_top_location().map(|at| fault::span(&at));
        let Some((session, recording)) = session.and_then(|session| Some((session, session.stack.as_ref()?)))
        else {
            let text = format!("`{}` is called outside of a stack's function", self.ty);
            let problem = Diagnostic::error("outside-stack", text)
                .at(at)
                .help("call it in `def stack(c, ctx): …`, or in a function that is called from there");
            return Err(fault::raise(problem));
        };
        let schema = self.catalog.get(&self.ty).ok_or_else(|| fault::raise_text("the type is gone"))?;
        let call = ResourceCall { function: self, schema, session, recording, at };
        call.declare(args, eval)
    }
}

struct ResourceCall<'c> {
    function: &'c ResourceFunction,
    schema: &'c TypeSchema,
    session: &'c Session,
    recording: &'c StackRecording,
    at: Option<Span>,
}

impl ResourceCall<'_> {
    fn declare<'v>(
        &self,
        args: &Arguments<'v, '_>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let mut positions = args.positions(heap)?;
        let (name, further) = (positions.next(), positions.next());
        let mut named: Vec<(String, Value<'v>)> =
            args.names_map()?.into_iter().map(|(name, value)| (name.as_str().to_owned(), value)).collect();
        if further.is_some() {
            self.recording.report(
                self.problem("argument", "takes one argument without a name: its own name".to_owned()),
            );
        }
        let name = match name {
            Some(name) => Some(name),
            None => {
                let index = named.iter().position(|(name, _)| name == "name");
                index.map(|index| named.swap_remove(index).1)
            }
        };
        // Without a name there is nothing that the recipe could go on with.
        let name = self.name(name).map_err(fault::raise)?;
        if let Err(problem) = self.recording.take_name(&name, self.at.as_ref(), eval) {
            self.recording.report(problem);
        }
        let declared = self.declared(name.clone(), named);
        self.recording.resources.borrow_mut().push(declared);
        let resource = Resource {
            name,
            ty: self.function.ty.clone(),
            catalog: Arc::clone(&self.function.catalog),
            missed: Arc::clone(&self.recording.missed),
        };
        Ok(heap.alloc(ResourceValue(Arc::new(resource))))
    }

    fn name(&self, value: Option<Value<'_>>) -> Result<ResourceName, Diagnostic> {
        let Some(value) = value else {
            return Err(self
                .problem("argument", "needs a name".to_owned())
                .help(format!("write `{}(\"NAME\", …)`", self.function.ty)));
        };
        let Some(text) = value.unpack_str() else {
            return Err(self.problem("argument", format!("its name is text, found `{}`", value.to_repr())));
        };
        self.recording
            .scoped(text)
            .parse()
            .map_err(|error: olbake_core::names::NameError| self.problem("name", error.to_string()))
    }

    fn declared(&self, name: ResourceName, named: Vec<(String, Value<'_>)>) -> Declared {
        let mut declared = Declared::new(name, self.function.ty.clone(), Map::new());
        declared.span = self.at.clone();
        let (mut given, mut fine) = (Map::new(), true);
        for (key, value) in named {
            let outcome = match COMMON.contains(&key.as_str()) {
                true => self.common(&mut declared, &key, value),
                false => self.property(&key, value).map(|data| drop(given.insert(key, data))),
            };
            if let Err(problem) = outcome {
                self.recording.report(problem);
                fine = false;
            }
        }
        match self.schema.coerce(&given) {
            Ok(inputs) => declared.inputs = inputs,
            // A property that was refused above is missing here; that would be said twice.
            Err(problems) => problems
                .into_iter()
                .filter(|problem| fine || problem.code != "missing-property")
                .for_each(|problem| self.recording.report(self.unfit(problem))),
        }
        declared
    }

    fn property(&self, key: &str, value: Value<'_>) -> Result<serde_json::Value, Diagnostic> {
        let data =
            to_json(value).map_err(|found| self.wrong(key, format!("expected data, found {found}")))?;
        self.recording
            .known_markers(&data)
            .map_err(|message| Diagnostic { code: "bad-reference".to_owned(), ..self.wrong(key, message) })?;
        Ok(data)
    }

    fn common(&self, declared: &mut Declared, key: &str, value: Value<'_>) -> Result<(), Diagnostic> {
        if value.is_none() {
            return Ok(());
        }
        match key {
            "protect" => declared.protect = self.flag(key, value)?,
            "retain" => declared.retain = self.flag(key, value)?,
            "import_id" => match value.unpack_str() {
                Some(text) if !text.is_empty() => declared.import = Some(text.to_owned()),
                _ => return Err(self.wrong(key, "expected text: what the provider calls the object")),
            },
            "ignore_changes" => {
                for element in elements(value) {
                    declared.ignore_changes.insert(self.ignored(key, element)?);
                }
            }
            _ => {
                let names: Result<BTreeSet<ResourceName>, Diagnostic> =
                    elements(value).into_iter().map(|element| self.dependency(key, element)).collect();
                declared.depends_on = names?;
            }
        }
        Ok(())
    }

    fn flag(&self, key: &str, value: Value<'_>) -> Result<bool, Diagnostic> {
        value.unpack_bool().ok_or_else(|| {
            self.wrong(key, format!("expected `True` or `False`, found `{}`", value.to_repr()))
        })
    }

    fn ignored(&self, key: &str, value: Value<'_>) -> Result<String, Diagnostic> {
        let Some(name) = value.unpack_str() else {
            return Err(self.wrong(key, "expected a list of names of properties"));
        };
        if self.schema.inputs.contains_key(name) {
            return Ok(name.to_owned());
        }
        let mut problem = self.wrong(key, format!("there is no property `{name}`"));
        problem.help = did_you_mean(name, self.schema.inputs.keys().copied());
        Err(Diagnostic { code: "unknown-property".to_owned(), ..problem })
    }

    fn dependency(&self, key: &str, value: Value<'_>) -> Result<ResourceName, Diagnostic> {
        if let Some(resource) = value.downcast_ref::<ResourceValue>() {
            return Ok(resource.0.name.clone());
        }
        let name = value.unpack_str().and_then(|text| text.parse::<ResourceName>().ok());
        let Some(name) = name else {
            let text = format!("expected resources or their names, found `{}`", value.to_repr());
            return Err(self.wrong(key, text));
        };
        let place = self.place(key);
        self.recording.waits.borrow_mut().push((name.clone(), place));
        Ok(name)
    }

    fn unfit(&self, problem: InputProblem) -> Diagnostic {
        let InputProblem { input, code, message, help } = problem;
        let mut found = Diagnostic { code: code.to_owned(), ..self.wrong_as_is(&input, message) };
        found.help = match nearest(&input, COMMON) {
            Some(common) if code == "unknown-property" => Some(format!("did you mean `{common}`?")),
            _ => help,
        };
        found
    }

    fn wrong(&self, key: &str, message: impl AsRef<str>) -> Diagnostic {
        self.wrong_as_is(key, format!("`{key}`: {}", message.as_ref()))
    }

    fn wrong_as_is(&self, key: &str, message: String) -> Diagnostic {
        Diagnostic { span: self.place(key), ..self.problem("argument", message) }
    }

    fn problem(&self, code: &str, message: String) -> Diagnostic {
        Diagnostic::error(code, format!("`{}`: {message}", self.function.ty)).at(self.at.clone())
    }

    /// Where an argument is written, or the call.
    fn place(&self, key: &str) -> Option<Span> {
        let at = self.at.as_ref()?;
        Some(self.session.argument_place(at, key).unwrap_or_else(|| at.clone()))
    }
}

/// The elements of a list; a single value that is no list is the only element.
fn elements<'v>(value: Value<'v>) -> Vec<Value<'v>> {
    if let Some(list) = ListRef::from_value(value) {
        return list.iter().collect();
    }
    match TupleRef::from_value(value) {
        Some(tuple) => tuple.iter().collect(),
        None => vec![value],
    }
}
