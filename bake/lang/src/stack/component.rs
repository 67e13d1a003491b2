//! `component_resource(function)`: a function whose resources have its first argument before their names.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::fmt;

use allocative::Allocative;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::stack::ResourceName;
use starlark::any::ProvidesStaticType;
use starlark::coerce::Coerce;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_complex_value;
use starlark::values::{
    Freeze, NoSerialize, StarlarkValue, Trace, Value, ValueLifetimeless, ValueLike, starlark_value,
};

use crate::builtin::Call;
use crate::fault;
use crate::session::Session;

/// A function that runs in a scope of names.
#[derive(Debug, Clone, Copy, Trace, Freeze, Coerce, ProvidesStaticType, NoSerialize, Allocative)]
#[repr(C)]
pub(crate) struct ComponentResourceGen<V: ValueLifetimeless> {
    function: V,
}
starlark_complex_value!(pub(crate) ComponentResource);

impl<V: ValueLifetimeless> fmt::Display for ComponentResourceGen<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "component_resource({})", self.function)
    }
}

#[starlark_value(type = "function")]
impl<'v, V: ValueLike<'v>> StarlarkValue<'v> for ComponentResourceGen<V>
where
    Self: ProvidesStaticType<'v>,
{
    fn invoke(
        &self,
        _me: Value<'v>,
        args: &Arguments<'v, '_>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let extra = eval.extra;
        let session = extra.and_then(|extra| extra.downcast_ref::<Session>());
        let at = eval.call_stack_top_location().map(|at| fault::span(&at));
        let wrong = |text: String| fault::raise(Diagnostic::error("argument", text).at(at.clone()));
        let Some(recording) = session.and_then(|session| session.stack.as_ref()) else {
            return Err(fault::raise(
                Diagnostic::error(
                    "outside-stack",
                    "a component resource is made outside of a stack's function",
                )
                .at(at),
            ));
        };
        let first = args.positions(eval.heap())?.next();
        let named = || {
            args.names_map().map(|names| {
                names.into_iter().find(|(name, _)| name.as_str() == "name").map(|(_, value)| value)
            })
        };
        let name = match first {
            Some(first) => Some(first),
            None => named()?,
        };
        let Some(name) = name.and_then(|name| name.unpack_str()) else {
            return Err(wrong("the first argument of a component resource is its name".to_owned()));
        };
        let scope = recording.scoped(name);
        scope.parse::<ResourceName>().map_err(|error| wrong(format!("a component resource: {error}")))?;
        let outer = recording.scope.replace(scope);
        let made = self.function.to_value().invoke(args, eval);
        recording.scope.replace(outer);
        made
    }
}

/// The builtin.
pub(super) fn component_resource<'v>(
    call: &Call<'v, '_>,
    eval: &mut Evaluator<'v, '_, '_>,
) -> Result<Value<'v>, Diagnostic> {
    let function = call.given("function").unwrap_or(Value::new_none());
    if function.get_type() != "function" {
        return Err(call.wrong("function", "expected a function: `def NAME(name, …): …`"));
    }
    Ok(eval.heap().alloc(ComponentResource { function }))
}
