//! `files`, `apt` and so on: the operations by name. An operation that there is not is a fault when it is called, and
//! the recipe goes on: the interpreter's own namespaces end it.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::fmt;
use std::sync::Arc;

use allocative::Allocative;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::settings::did_you_mean;
use starlark::any::ProvidesStaticType;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_simple_value;
use starlark::values::{Heap, NoSerialize, StarlarkValue, Value, starlark_value};

use crate::builtin::{Builtin, Row};
use crate::fault;
use crate::session::Session;
use crate::values::Handle;

/// Operations by name.
#[derive(Clone, Debug, ProvidesStaticType, NoSerialize, Allocative)]
pub(super) struct Namespace {
    name: &'static str,
    #[allocative(skip)]
    operations: Arc<[(&'static str, Builtin)]>,
}
starlark_simple_value!(Namespace);

impl Namespace {
    /// The operations of a table.
    pub(super) fn of(name: &'static str, rows: &[Row]) -> Self {
        let operation = |row: &Row| (row.0.rsplit('.').next().unwrap_or(row.0), Builtin::from(*row));
        Self { name, operations: rows.iter().map(operation).collect() }
    }

    fn find(&self, name: &str) -> Option<&Builtin> {
        self.operations.iter().find(|(known, _)| *known == name).map(|(_, operation)| operation)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[starlark_value(type = "namespace")]
impl<'v> StarlarkValue<'v> for Namespace {
    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        Some(match self.find(name) {
            Some(operation) => heap.alloc(operation.clone()),
            None => heap.alloc(Unknown { namespace: self.clone(), name: name.to_owned() }),
        })
    }

    fn has_attr(&self, name: &str, _: Heap<'v>) -> bool {
        self.find(name).is_some()
    }

    fn dir_attr(&self) -> Vec<String> {
        self.operations.iter().map(|(name, _)| (*name).to_owned()).collect()
    }
}

/// An operation that there is not.
#[derive(Clone, Debug, ProvidesStaticType, NoSerialize, Allocative)]
struct Unknown {
    namespace: Namespace,
    name: String,
}
starlark_simple_value!(Unknown);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

#[starlark_value(type = "function")]
impl<'v> StarlarkValue<'v> for Unknown {
    fn invoke(
        &self,
        _me: Value<'v>,
        _args: &Arguments<'v, '_>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let Self { namespace, name } = self;
        let text = format!("`{namespace}` has no operation `{name}`");
        let at = eval.call_stack_top_location().map(|at| fault::span(&at));
        let mut problem = Diagnostic::error("unknown-name", text).at(at);
        problem.help = did_you_mean(name, namespace.operations.iter().map(|(known, _)| *known));
        match eval.extra.and_then(|extra| extra.downcast_ref::<Session>()) {
            Some(session) => session.report(vec![problem])?,
            None => return Err(fault::raise(problem)),
        }
        Ok(eval.heap().alloc(Handle::NONE))
    }
}
