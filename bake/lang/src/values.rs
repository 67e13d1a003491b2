//! Between the interpreter's values and data: JSON values both ways, and the values that only recipes have.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use allocative::Allocative;
use olbake_core::plan::Architecture;
use olbake_core::settings::{Schema, Type};
use serde_json::{Map, Value as Json};
use starlark::any::ProvidesStaticType;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_simple_value;
use starlark::values::dict::{AllocDict, DictRef};
use starlark::values::float::UnpackFloat;
use starlark::values::list::{AllocList, ListRef};
use starlark::values::structs::{AllocStruct, StructRef};
use starlark::values::tuple::TupleRef;
use starlark::values::{Heap, NoSerialize, StarlarkValue, UnpackValue, Value, ValueLike, starlark_value};

use crate::stack;

/// A value of the interpreter as data; what is not data is named in the error.
pub(crate) fn to_json(value: Value<'_>) -> Result<Json, String> {
    if value.is_none() {
        return Ok(Json::Null);
    }
    if let Some(text) = value.unpack_str() {
        return Ok(Json::String(text.to_owned()));
    }
    if let Some(truth) = value.unpack_bool() {
        return Ok(Json::Bool(truth));
    }
    if let Some(number) = value.unpack_i32() {
        return Ok(Json::from(number));
    }
    if let Ok(Some(number)) = i64::unpack_value(value) {
        return Ok(Json::from(number));
    }
    if let Ok(Some(UnpackFloat(number))) = UnpackFloat::unpack_value(value) {
        return if number.is_finite() { Ok(Json::from(number)) } else { Err(format!("the number {number}")) };
    }
    if let Some(list) = ListRef::from_value(value) {
        return list.iter().map(to_json).collect::<Result<_, _>>().map(Json::Array);
    }
    if let Some(tuple) = TupleRef::from_value(value) {
        return tuple.iter().map(to_json).collect::<Result<_, _>>().map(Json::Array);
    }
    if let Some(dict) = DictRef::from_value(value) {
        let entry = |(key, value): (Value<'_>, Value<'_>)| {
            let key = key.unpack_str().ok_or_else(|| format!("a key that is no text: {key}"))?;
            Ok((key.to_owned(), to_json(value)?))
        };
        return dict.iter().map(entry).collect::<Result<Map<_, _>, String>>().map(Json::Object);
    }
    if let Some(fields) = StructRef::from_value(value) {
        let entry = |(key, value): (starlark::values::StringValue<'_>, Value<'_>)| {
            Ok((key.as_str().to_owned(), to_json(value)?))
        };
        return fields.iter().map(entry).collect::<Result<Map<_, _>, String>>().map(Json::Object);
    }
    if value.get_type() == "set" {
        return value.to_json_value().map_err(|_| "a set of what is not data".to_owned());
    }
    if let Some(view) = value.downcast_ref::<SettingsView>() {
        return Ok(view.0.all());
    }
    if let Some(outcome) = stack::as_json(value) {
        return outcome;
    }
    Err(format!("a value of the type `{}`", value.get_type()))
}

/// A setting's value as a value of the interpreter: records become structs, maps dictionaries.
pub(crate) fn from_setting<'v>(heap: Heap<'v>, value: &Json, ty: &Type) -> Value<'v> {
    match (ty, value) {
        (Type::Optional(inner), value) => from_setting(heap, value, inner),
        (Type::List(inner) | Type::Set(inner), Json::Array(items)) => {
            heap.alloc(AllocList(items.iter().map(|item| from_setting(heap, item, inner))))
        }
        (Type::Map(_, inner), Json::Object(entries)) => heap.alloc(AllocDict(
            entries.iter().map(|(key, value)| (key.as_str(), from_setting(heap, value, inner))),
        )),
        (Type::Record(fields), Json::Object(entries)) => {
            let values = fields.iter().map(|field| {
                let value = entries.get(&field.name).unwrap_or(&Json::Null);
                (field.name.as_str(), from_setting(heap, value, &field.ty))
            });
            heap.alloc(AllocStruct(values))
        }
        (_, value) => from_json(heap, value),
    }
}

/// Data as a value of the interpreter.
pub(crate) fn from_json<'v>(heap: Heap<'v>, value: &Json) -> Value<'v> {
    match value {
        Json::Null => Value::new_none(),
        Json::Bool(truth) => Value::new_bool(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => heap.alloc(number),
            (None, Some(number)) => heap.alloc(number),
            (None, None) => heap.alloc(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => heap.alloc(text.as_str()),
        Json::Array(items) => heap.alloc(AllocList(items.iter().map(|item| from_json(heap, item)))),
        Json::Object(entries) => {
            heap.alloc(AllocDict(entries.iter().map(|(key, value)| (key.as_str(), from_json(heap, value)))))
        }
    }
}

/// The settings of one use of a component, and which of them were read.
#[derive(Debug)]
pub(crate) struct SettingsData {
    /// The declaration.
    pub(crate) schema: Arc<Schema>,
    /// The values, in the order of the declaration.
    pub(crate) values: Vec<Json>,
    /// A bit for each value that was read; components with more than 64 settings share bits.
    read: AtomicU64,
}

impl SettingsData {
    /// Settings that nothing has read yet.
    pub(crate) fn new(schema: Arc<Schema>, values: Vec<Json>) -> Self {
        Self { schema, values, read: AtomicU64::new(0) }
    }

    /// The value of a setting and its type; it counts as read.
    pub(crate) fn get(&self, name: &str) -> Option<(&Json, &Type)> {
        let (index, _, field) = self.schema.fields.get_full(name)?;
        self.read.fetch_or(1 << (index % 64), Ordering::Relaxed);
        Some((self.values.get(index)?, &field.ty))
    }

    /// Every value; all count as read.
    pub(crate) fn all(&self) -> Json {
        self.read.store(u64::MAX, Ordering::Relaxed);
        let entries = self.schema.fields.keys().zip(&self.values);
        Json::Object(entries.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// Bits of the settings that were read, see [`Self::is_read`].
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Whether the bits say that the setting at this place of the declaration was read.
    pub(crate) fn is_read(bits: u64, index: usize) -> bool {
        bits & (1 << (index % 64)) != 0
    }
}

/// `s`: the settings, as attributes.
#[derive(Debug, Clone, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct SettingsView(#[allocative(skip)] pub(crate) Arc<SettingsData>);
starlark_simple_value!(SettingsView);

impl fmt::Display for SettingsView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "settings of {}", self.0.schema.name)
    }
}

#[starlark_value(type = "settings")]
impl<'v> StarlarkValue<'v> for SettingsView {
    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        self.0.get(name).map(|(value, ty)| from_setting(heap, value, ty))
    }

    fn has_attr(&self, name: &str, _heap: Heap<'v>) -> bool {
        self.0.schema.fields.contains_key(name)
    }

    fn dir_attr(&self) -> Vec<String> {
        self.0.schema.fields.keys().cloned().collect()
    }
}

/// What a recipe may know of the machine it is planned for.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The architecture.
    pub(crate) architecture: Architecture,
    /// The image's name.
    pub(crate) image: String,
    /// The variant's name.
    pub(crate) variant: Option<String>,
    /// The system's name, suite and version: `debian`, `bookworm`, `12`; empty where the base does not say.
    pub(crate) os: [String; 3],
    /// Whether the recipe asked for the image's or variant's name.
    pub(crate) asked_for_image: AtomicBool,
}

/// `m`: facts about the machine.
#[derive(Debug, Clone, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct MachineView(#[allocative(skip)] pub(crate) Arc<Facts>);
starlark_simple_value!(MachineView);

const MACHINE: [&str; 5] = ["arch", "kernel_arch", "os", "image", "variant"];

impl fmt::Display for MachineView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("machine")
    }
}

#[starlark_value(type = "machine")]
impl<'v> StarlarkValue<'v> for MachineView {
    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let facts = &self.0;
        if matches!(name, "image" | "variant") {
            facts.asked_for_image.store(true, Ordering::Relaxed);
        }
        Some(match name {
            "arch" => heap.alloc(facts.architecture.debian()),
            "kernel_arch" => heap.alloc(facts.architecture.kernel()),
            "image" => heap.alloc(facts.image.as_str()),
            "variant" => facts.variant.as_deref().map_or(Value::new_none(), |variant| heap.alloc(variant)),
            "os" => {
                let [id, codename, version] = &facts.os;
                heap.alloc(AllocStruct([
                    ("id", id.as_str()),
                    ("codename", codename.as_str()),
                    ("version", version.as_str()),
                ]))
            }
            _ => return None,
        })
    }

    fn dir_attr(&self) -> Vec<String> {
        MACHINE.map(str::to_owned).to_vec()
    }
}

/// What an operation returns: to be named in `after`, `when_changed`, `restart_on` and `reload_on`.
#[derive(Debug, Clone, Copy, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct Handle {
    /// The first of its drafts.
    pub(crate) first: usize,
    /// How many there are; none when it is not in the plan.
    pub(crate) count: usize,
}
starlark_simple_value!(Handle);

impl Handle {
    /// What is not in the plan.
    pub(crate) const NONE: Self = Self { first: 0, count: 0 };
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => f.write_str("operation that is not in the plan"),
            _ => write!(f, "operation {}", self.first + 1),
        }
    }
}

#[starlark_value(type = "operation")]
impl<'v> StarlarkValue<'v> for Handle {
    fn to_bool(&self) -> bool {
        self.count > 0
    }
}

/// What a call returns that was refused: whatever is done with it, nothing more is said.
#[derive(Debug, Clone, Copy, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct StandIn;
starlark_simple_value!(StandIn);

/// The name of its type, by which errors that follow from it are known.
pub(crate) const STAND_IN: &str = "stand-in";

impl fmt::Display for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STAND_IN)
    }
}

#[starlark_value(type = STAND_IN)]
impl<'v> StarlarkValue<'v> for StandIn {
    fn get_attr(&self, _: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        Some(heap.alloc(Self))
    }

    fn invoke(
        &self,
        _me: Value<'v>,
        _args: &Arguments<'v, '_>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        Ok(eval.heap().alloc(Self))
    }

    fn at(&self, _: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc(Self))
    }

    fn bit_or(&self, _: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc(Self))
    }

    fn add(&self, _: Value<'v>, heap: Heap<'v>) -> Option<starlark::Result<Value<'v>>> {
        Some(Ok(heap.alloc(Self)))
    }

    fn radd(&self, _: Value<'v>, heap: Heap<'v>) -> Option<starlark::Result<Value<'v>>> {
        Some(Ok(heap.alloc(Self)))
    }
}

/// Whether a value is, or has in it, what stands in for something that was refused.
pub(crate) fn stands_in(value: Value<'_>) -> bool {
    if let Some(list) = ListRef::from_value(value) {
        return list.iter().any(stands_in);
    }
    if let Some(tuple) = TupleRef::from_value(value) {
        return tuple.iter().any(stands_in);
    }
    if let Some(dict) = DictRef::from_value(value) {
        return dict.iter().any(|(key, value)| stands_in(key) || stands_in(value));
    }
    if let Some(fields) = StructRef::from_value(value) {
        return fields.iter().any(|(_, value)| stands_in(value));
    }
    value.downcast_ref::<StandIn>().is_some()
}
