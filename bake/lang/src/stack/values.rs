//! Values that only stacks have: resources, their outputs, and the outputs of other stacks.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::fmt;
use std::sync::Arc;

use allocative::Allocative;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::settings::Type;
use olbake_core::stack::value::Reference;
use olbake_core::stack::{Catalog, ResourceName, ResourceType};
use serde_json::Value as Json;
use starlark::any::ProvidesStaticType;
use starlark::starlark_simple_value;
use starlark::values::{Heap, NoSerialize, StarlarkValue, Value, ValueLike, starlark_value};

use super::OtherStack;
use super::recording::{ELSEWHERE, Missed, StackRecording};
use crate::fault;
use crate::values::from_json;

/// A resource that a stack declared.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) name: ResourceName,
    pub(crate) ty: ResourceType,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) missed: Arc<Missed>,
}

/// What `local.network(…)` returns: its outputs are attributes.
#[derive(Clone, Debug, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct ResourceValue(#[allocative(skip)] pub(crate) Arc<Resource>);
starlark_simple_value!(ResourceValue);

impl fmt::Display for ResourceValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.ty, self.0.name)
    }
}

impl ResourceValue {
    fn outputs(&self) -> impl Iterator<Item = (&'static str, &Type)> + Clone {
        let schema = self.0.catalog.get(&self.0.ty);
        schema.into_iter().flat_map(|schema| schema.outputs.iter()).map(|(name, output)| (*name, &output.ty))
    }

    fn output<'v>(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let found = self.outputs().find(|(known, _)| *known == name);
        let reference = || Reference { resource: self.0.name.clone(), output: name.to_owned() };
        match (found, name) {
            (Some((_, ty)), _) => Some(pending(reference(), ty, &self.0.missed, heap)),
            (None, "name") => Some(heap.alloc(self.0.name.as_str())),
            (None, _) => None,
        }
    }
}

#[starlark_value(type = "resource")]
impl<'v> StarlarkValue<'v> for ResourceValue {
    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let found = self.output(name, heap);
        if found.is_none() {
            let text = format!("`{}` of the type `{}` has no output `{name}`", self.0.name, self.0.ty);
            let known = self.outputs().map(|(name, _)| name).chain(["name"]);
            self.0.missed.note(name, "unknown-output", text, known);
        }
        found
    }

    fn has_attr(&self, name: &str, heap: Heap<'v>) -> bool {
        self.output(name, heap).is_some()
    }

    fn dir_attr(&self) -> Vec<String> {
        self.outputs().map(|(name, _)| name).chain(["name"]).map(str::to_owned).collect()
    }
}

/// An output as recipes have it: text with a marker, or, where it has parts, a value that gives them.
fn pending<'v>(reference: Reference, ty: &Type, missed: &Arc<Missed>, heap: Heap<'v>) -> Value<'v> {
    match parts_of(ty) {
        Some(ty) => heap.alloc(Pending(Arc::new((reference, ty.clone(), Arc::clone(missed))))),
        None => heap.alloc(reference.marker()),
    }
}

/// The type without `None`, if its values have parts.
fn parts_of(ty: &Type) -> Option<&Type> {
    match ty {
        Type::Optional(inner) => parts_of(inner),
        Type::List(_) | Type::Set(_) | Type::Map(..) | Type::Record(_) => Some(ty),
        _ => None,
    }
}

/// A list, map or record that is known only after apply.
#[derive(Clone, Debug, ProvidesStaticType, NoSerialize, Allocative)]
struct Pending(#[allocative(skip)] Arc<(Reference, Type, Arc<Missed>)>);
starlark_simple_value!(Pending);

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.0.marker())
    }
}

impl Pending {
    fn part<'v>(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let (Reference { resource, output }, ty, missed) = &*self.0;
        let inner = match ty {
            Type::List(inner) | Type::Set(inner) | Type::Map(_, inner) => inner,
            Type::Record(fields) => &fields.iter().find(|field| field.name == name)?.ty,
            _ => return None,
        };
        let reference = Reference { resource: resource.clone(), output: format!("{output}.{name}") };
        Some(pending(reference, inner, missed, heap))
    }

    fn fields(&self) -> impl Iterator<Item = &str> + Clone {
        let fields = match &self.0.1 {
            Type::Record(fields) => fields.as_slice(),
            _ => &[],
        };
        fields.iter().map(|field| field.name.as_str())
    }
}

#[starlark_value(type = "output")]
impl<'v> StarlarkValue<'v> for Pending {
    fn at(&self, index: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let is_list = matches!(self.0.1, Type::List(_) | Type::Set(_));
        let name = match (index.unpack_i32(), index.unpack_str()) {
            (Some(number), _) if is_list && number >= 0 => Some(number.to_string()),
            (_, Some(name)) if !is_list && !name.is_empty() && !name.contains('.') => Some(name.to_owned()),
            _ => None,
        };
        name.and_then(|name| self.part(&name, heap)).ok_or_else(|| {
            let (reference, ty, _) = &*self.0;
            let text =
                format!("`{}.{}` is `{ty}`: it has no part `{index}`", reference.resource, reference.output);
            fault::raise(Diagnostic::error("unknown-output", text))
        })
    }

    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let found = self.fields().any(|field| field == name).then(|| self.part(name, heap)).flatten();
        if found.is_none() {
            let (Reference { resource, output }, ty, missed) = &*self.0;
            let text = format!("`{resource}.{output}` is `{ty}`: it has no field `{name}`");
            missed.note(name, "unknown-output", text, self.fields());
        }
        found
    }

    fn has_attr(&self, name: &str, _heap: Heap<'v>) -> bool {
        self.fields().any(|field| field == name)
    }

    fn dir_attr(&self) -> Vec<String> {
        self.fields().map(str::to_owned).collect()
    }
}

/// Values of stacks as data.
pub(crate) fn as_json(value: Value<'_>) -> Option<Result<Json, String>> {
    if let Some(pending) = value.downcast_ref::<Pending>() {
        return Some(Ok(Json::from(pending.0.0.marker())));
    }
    let resource = value.downcast_ref::<ResourceValue>()?;
    let first = resource.outputs().map(|(name, _)| name).next().unwrap_or("name");
    let (name, ty) = (&resource.0.name, &resource.0.ty);
    Some(Err(format!("the resource `{name}` (`{ty}`) itself: pass one of its outputs, such as `.{first}`")))
}

/// What another stack, or another tool's, gives.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    /// How people call it: ``the stack `infrastructure.local.network.QA` ``.
    pub(crate) label: String,
    pub(crate) known: OtherStack,
    /// Names of outputs that are secret there.
    pub(crate) secret: Vec<String>,
    pub(crate) missed: Arc<Missed>,
}

/// What `ctx.stack(…)` and `ctx.foreign(…)` return: outputs as attributes.
#[derive(Clone, Debug, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct OutputsView(#[allocative(skip)] pub(crate) Arc<Elsewhere>);
starlark_simple_value!(OutputsView);

impl fmt::Display for OutputsView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outputs of {}", self.0.label)
    }
}

impl OutputsView {
    fn output<'v>(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let placeholder = || {
            let resource = ELSEWHERE.parse().ok()?;
            Some(heap.alloc(Reference { resource, output: name.to_owned() }.marker()))
        };
        match &self.0.known {
            OtherStack::Deployed(outputs) => outputs.get(name).map(|value| from_json(heap, value)),
            OtherStack::Declared(names) if !names.contains(name) => None,
            _ => placeholder(),
        }
    }

    fn names(&self) -> Vec<String> {
        match &self.0.known {
            OtherStack::Deployed(outputs) => outputs.keys().cloned().collect(),
            OtherStack::Declared(names) => names.iter().cloned().collect(),
            OtherStack::Unknown | OtherStack::NeverDeployed => Vec::new(),
        }
    }

    fn missing(&self, name: &str) -> Diagnostic {
        let Elsewhere { label, secret, .. } = &*self.0;
        if secret.iter().any(|secret| secret == name) {
            return Diagnostic::error("secret-output", format!("the output `{name}` of {label} is secret"))
                .help("give it to this stack with `olbake config set --secret`");
        }
        let mut problem = Diagnostic::error("unknown-output", format!("{label} has no output `{name}`"));
        let names = self.names();
        problem.help = olbake_core::settings::did_you_mean(name, names.iter().map(String::as_str));
        problem
    }
}

#[starlark_value(type = "outputs")]
impl<'v> StarlarkValue<'v> for OutputsView {
    fn at(&self, index: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let name = index.unpack_str().unwrap_or_default();
        self.output(name, heap).ok_or_else(|| fault::raise(self.missing(name)))
    }

    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let found = self.output(name, heap);
        if found.is_none() {
            self.0.missed.keep(name, self.missing(name));
        }
        found
    }

    fn has_attr(&self, name: &str, heap: Heap<'v>) -> bool {
        self.output(name, heap).is_some()
    }

    fn dir_attr(&self) -> Vec<String> {
        self.names()
    }
}

/// An output of a resource in a value that its provider keeps secret.
pub(super) fn secret_output(recording: &StackRecording, data: &Json) -> Option<String> {
    let references = olbake_core::stack::value::references(data);
    let resources = recording.resources.borrow();
    let secret = |reference: &Reference| {
        let resource = resources.iter().find(|resource| resource.name == reference.resource)?;
        let output = reference.output.split('.').next()?;
        recording.catalog.get(&resource.ty)?.outputs.get(output).filter(|output| output.secret)
    };
    let found = references.into_iter().find(|reference| secret(reference).is_some())?;
    Some(format!("{}.{}", found.resource, found.output))
}
