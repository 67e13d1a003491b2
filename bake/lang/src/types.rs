//! Types in recipes: `str`, `list[hostname]`, `map[str, int]`, `record(…)`, `T | None`.
//!
//! The names of the interpreter's own types keep their other use: `str(5)` still makes text.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::fmt;
use std::sync::LazyLock;

use allocative::Allocative;
use olbake_core::settings::Type;
use starlark::any::ProvidesStaticType;
use starlark::environment::{Globals, GlobalsBuilder, LibraryExtension};
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_simple_value;
use starlark::values::{FrozenValue, Heap, NoSerialize, StarlarkValue, Value, ValueLike, starlark_value};

use crate::fault;
use crate::values::{StandIn, stands_in};

/// A type, or a type that still lacks what it is a list, set or map of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Form {
    Whole(Type),
    List,
    Set,
    Map,
}

/// A type as a value.
#[derive(Debug, Clone, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct TypeExpr {
    #[allocative(skip)]
    pub(crate) form: Form,
    /// The function of the same name, where the interpreter has one.
    name: &'static str,
}
starlark_simple_value!(TypeExpr);

impl TypeExpr {
    /// A type without a function of its name.
    pub(crate) fn of(ty: Type) -> Self {
        Self { form: Form::Whole(ty), name: "" }
    }

    /// The type, or what it lacks.
    pub(crate) fn whole(&self) -> Result<Type, String> {
        match &self.form {
            Form::Whole(ty) => Ok(ty.clone()),
            Form::List | Form::Set => Err(format!("say what it is a {self} of: `{self}[str]`")),
            Form::Map => Err("say what it maps: `map[str, int]`".to_owned()),
        }
    }
}

/// The type that a value of a recipe stands for.
pub(crate) fn type_of(value: Value<'_>) -> Result<Type, String> {
    match value.downcast_ref::<TypeExpr>() {
        Some(expression) => expression.whole(),
        None => Err(format!("expected a type such as `str` or `list[int]`, found `{}`", value.to_repr())),
    }
}

impl fmt::Display for TypeExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Whole(ty) => fmt::Display::fmt(ty, f),
            Form::List => f.write_str("list"),
            Form::Set => f.write_str("set"),
            Form::Map => f.write_str("map"),
        }
    }
}

#[starlark_value(type = "type")]
impl<'v> StarlarkValue<'v> for TypeExpr {
    fn invoke(
        &self,
        _me: Value<'v>,
        args: &Arguments<'v, '_>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        match ORIGINALS.1.iter().find(|(name, _)| *name == self.name) {
            Some((_, function)) => function.to_value().invoke(args, eval),
            None => Err(fault::raise_text(format!("`{self}` is a type: it is not called"))),
        }
    }

    fn at(&self, index: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        if stands_in(index) {
            return Ok(heap.alloc(StandIn));
        }
        let inner = Box::new(type_of(index).map_err(fault::raise_text)?);
        let ty = match self.form {
            Form::List => Type::List(inner),
            Form::Set => Type::Set(inner),
            Form::Map => return Err(fault::raise_text("say what it maps: `map[str, int]`")),
            Form::Whole(_) => return Err(fault::raise_text(format!("`{self}` takes no type in brackets"))),
        };
        Ok(heap.alloc(Self::of(ty)))
    }

    fn slice(
        &self,
        start: Option<Value<'v>>,
        stop: Option<Value<'v>>,
        _stride: Option<Value<'v>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let (Form::Map, Some(keys), Some(values)) = (&self.form, start, stop) else {
            return Err(fault::raise_text(format!("`{self}` takes no two types in brackets")));
        };
        if stands_in(keys) || stands_in(values) {
            return Ok(heap.alloc(StandIn));
        }
        let keys = type_of(keys).map_err(fault::raise_text)?;
        let values = type_of(values).map_err(fault::raise_text)?;
        Ok(heap.alloc(Self::of(Type::Map(Box::new(keys), Box::new(values)))))
    }

    fn bit_or(&self, other: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        if stands_in(other) {
            return Ok(heap.alloc(StandIn));
        }
        let one = self.whole().map_err(fault::raise_text)?;
        let ty =
            if other.is_none() { one.or_none() } else { one.or(type_of(other).map_err(fault::raise_text)?) };
        Ok(heap.alloc(Self::of(ty)))
    }
}

/// The interpreter's own functions of these names. The globals keep their heap alive for as long as the program.
static ORIGINALS: LazyLock<(Globals, Vec<(String, FrozenValue)>)> = LazyLock::new(|| {
    let globals = GlobalsBuilder::extended_by(&[LibraryExtension::SetType, LibraryExtension::Map]).build();
    let functions = globals.iter().map(|(name, value)| (name.to_owned(), value)).collect();
    (globals, functions)
});

/// Puts the types among the globals.
pub(crate) fn register(builder: &mut GlobalsBuilder) {
    let whole = [
        ("str", Type::Str),
        ("int", Type::Int),
        ("bool", Type::Bool),
        ("float", Type::Float),
        ("path", Type::Path),
        ("url", Type::Url),
        ("duration", Type::Duration),
        ("bytesize", Type::Bytes),
        ("version", Type::Version),
        ("hostname", Type::Hostname),
        ("ip", Type::Ip),
        ("cidr", Type::Cidr),
        ("port", Type::Port),
        ("mode", Type::Mode),
        ("secret", Type::Secret),
        ("deferred", Type::Deferred),
    ];
    for (name, ty) in whole {
        builder.set(name, TypeExpr { form: Form::Whole(ty), name });
    }
    for (name, form) in [("list", Form::List), ("set", Form::Set), ("map", Form::Map), ("dict", Form::Map)] {
        builder.set(name, TypeExpr { form, name });
    }
}
