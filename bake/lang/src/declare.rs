//! What files of recipes declare: settings, components and images.
//!
//! A declaration is checked where it stands. Its functions stay in the interpreter's module; the rest becomes data.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use allocative::Allocative;
use camino::Utf8PathBuf;
use indexmap::IndexMap;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::settings::{Constraints, Field, RecordField, Schema, Type, is_secret_source, octal_help};
use olbake_core::span::Span;
use olbake_core::{ComponentName, Digest, ImageRef, VariantName};
use regex_lite::Regex;
use serde_json::Value as Json;
use starlark::any::ProvidesStaticType;
use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_simple_value;
use starlark::values::dict::{AllocDict, DictRef};
use starlark::values::list::AllocList;
use starlark::values::structs::{AllocStruct, StructRef};
use starlark::values::tuple::TupleRef;
use starlark::values::{NoSerialize, StarlarkValue, Value, ValueLike, starlark_value};

use crate::builtin::{Builtin, Call, Row, declaration};
use crate::fault;
use crate::session::find_argument;
use crate::stack::{PolicyDeclaration, ProjectDeclaration};
use crate::types::{TypeExpr, type_of};
use crate::values::{stands_in, to_json};

const TABLE: &[Row] = &[
    declaration(
        "setting",
        "type * default? doc? check? source? ge? le? len? regex? one_of? computed?",
        setting,
    ),
    declaration("field", "type default? * doc?", setting),
    declaration("settings", "name fields? * validate?", settings),
    declaration("record", "**", record),
    declaration("enum", "...", words),
    declaration(
        "component",
        "name * settings? values? install? configure? units? upgrade? maintenance? verify? booted? doc?",
        component,
    ),
    declaration("image", "name base * components? variants? disk_size? packages? leak_allow? doc?", image),
    declaration("use", "component **", use_component),
    declaration("debian", "suite * packages? disk_size? mirror?", debian),
    declaration("disk", "file sha256", disk),
    declaration("ami", "owner name", ami),
];

/// Puts the declarations among the globals.
pub(crate) fn register(builder: &mut GlobalsBuilder) {
    for row in TABLE {
        builder.set(row.0, Builtin::from(*row));
    }
}

/// What a file declared.
pub(crate) enum Declared {
    /// A component.
    Component(ComponentDeclaration),
    /// An image.
    Image(ImageDeclaration),
    /// A project.
    Project(ProjectDeclaration),
    /// Policies, in the order of the file.
    Policies(Vec<PolicyDeclaration>),
}

/// The phases of a component, in the order in which their functions are kept.
pub(crate) const PHASES: [&str; 6] = ["install", "configure", "units", "maintenance", "verify", "upgrade"];

/// A component, without its functions.
#[derive(Clone)]
pub(crate) struct ComponentDeclaration {
    pub(crate) schema: Arc<Schema>,
    pub(crate) booted: Option<String>,
    /// Which of [`PHASES`] it has.
    pub(crate) phases: [bool; 6],
    pub(crate) span: Option<Span>,
    /// Where its settings are declared.
    pub(crate) settings_span: Option<Span>,
    /// What it says itself of settings that are declared elsewhere.
    pub(crate) values: Vec<GivenInRecipe>,
}

/// A setting's name, its value, and where the value is given.
pub(crate) type GivenInRecipe = (String, Json, Option<Span>);

impl ComponentDeclaration {
    /// Its settings as an image finds them: with its own values for defaults. A value that does not fit is left
    /// out; planning says so.
    pub(crate) fn own_schema(&self) -> Schema {
        let mut schema = Schema::clone(&self.schema);
        for (name, value, _) in &self.values {
            let Some(field) = schema.fields.get_mut(name) else { continue };
            if field.ty.is_secret() {
                field.source = value.as_str().map(str::to_owned);
            } else if let Ok(value) = field.ty.coerce(value) {
                field.default = Some(value);
            }
        }
        schema
    }
}

/// An image.
#[derive(Clone)]
pub(crate) struct ImageDeclaration {
    pub(crate) base: BaseDeclaration,
    pub(crate) base_span: Option<Span>,
    pub(crate) uses: Vec<UseDeclaration>,
    pub(crate) variants: BTreeMap<VariantName, Vec<Override>>,
    pub(crate) leak_allow: Vec<Utf8PathBuf>,
    pub(crate) span: Option<Span>,
}

/// What a variant changes in a component.
#[derive(Clone)]
pub(crate) struct Override {
    pub(crate) component: String,
    pub(crate) span: Option<Span>,
    pub(crate) values: Vec<GivenInRecipe>,
}

/// What an image starts from.
#[derive(Clone)]
pub(crate) enum BaseDeclaration {
    Image(ImageRef),
    Debian { suite: String, packages: Vec<String>, mirror: Option<String>, disk_size: u64 },
    Disk { file: Utf8PathBuf, sha256: Digest },
    Ami { owner: String, name: String },
}

/// A component in an image.
#[derive(Clone, Debug)]
pub(crate) struct UseDeclaration {
    pub(crate) component: String,
    pub(crate) values: Vec<GivenInRecipe>,
    pub(crate) span: Option<Span>,
}

macro_rules! carrier {
    ($(#[$doc:meta])* $name:ident, $data:ty, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, ProvidesStaticType, NoSerialize, Allocative)]
        pub(crate) struct $name(#[allocative(skip)] pub(crate) Arc<$data>);
        starlark_simple_value!($name);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($word)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($word)
            }
        }

        #[starlark_value(type = $word)]
        impl<'v> StarlarkValue<'v> for $name {}
    };
}

carrier!(
    /// A setting, without its functions.
    FieldValue,
    Field,
    "setting"
);
carrier!(
    /// The settings of a component, without their functions.
    SchemaValue,
    (Schema, Option<Span>),
    "settings"
);
carrier!(
    /// A component in an image.
    UseValue,
    UseDeclaration,
    "use"
);
carrier!(
    /// What an image starts from.
    BaseValue,
    BaseDeclaration,
    "base"
);

type Made<'v> = Result<Value<'v>, Diagnostic>;

fn problem(code: &str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(code, message)
}

/// Whether a value can be called as a function.
pub(crate) fn is_function(value: Value<'_>) -> bool {
    value.get_type() == "function"
}

/// Whether a function can be called with so many values.
pub(crate) fn takes(function: Value<'_>, values: usize) -> bool {
    function.parameters_spec().is_none_or(|spec| spec.can_fill_with_args(values, &[]))
}

/// A function of the settings or of a value, where one is given.
fn function_of_one<'v>(call: &Call<'v, '_>, name: &str, example: &str) -> Option<Value<'v>> {
    let function = call.get(name)?;
    if is_function(function) && takes(function, 1) {
        return Some(function);
    }
    call.refuse(name, format!("expected a function of one value: `{example}`"));
    None
}

fn setting<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let heap = eval.heap();
    let given = call.given("type").unwrap_or(Value::new_none());
    let ty = type_of(given).map_err(|message| call.refuse("type", message)).ok();
    let only_settings = call.name == "setting";
    let mut field = Field {
        span: call.at.clone(),
        doc: call.opt_text("doc"),
        ..Field::new(ty.clone().unwrap_or(Type::Str))
    };
    let (mut check, mut computed) = (Value::new_none(), Value::new_none());
    if only_settings {
        field.constraints = constraints(call, ty.as_ref());
        field.source = source(call, ty.as_ref());
        match call.get("check") {
            Some(value) if is_function(value) => {
                check = function_of_one(call, "check", "lambda value: …").unwrap_or(check);
            }
            Some(value) => {
                field.check = type_of(value).map_err(|message| call.refuse("check", message)).ok();
            }
            None => {}
        }
        if let Some(function) = function_of_one(call, "computed", "lambda s: …") {
            (field.computed, computed) = (true, function);
        }
    }
    // What does not fit a type that nobody knows cannot be said.
    if ty.is_some() {
        field.default = default(call, &field);
    }
    Ok(heap.alloc(AllocStruct([
        ("field", heap.alloc(FieldValue(Arc::new(field)))),
        ("check", check),
        ("computed", computed),
    ])))
}

fn default(call: &Call<'_, '_>, field: &Field) -> Option<Json> {
    let value = call.given("default")?;
    if field.ty.is_secret() {
        let problem = call.wrong("default", "a secret has no default");
        call.note("default", problem.help("say where it comes from: `source = \"env:NAME\"`"));
        return None;
    }
    if field.computed {
        call.refuse("default", "a computed setting has no default");
        return None;
    }
    let data = match to_json(value) {
        Ok(data) => data,
        Err(found) => {
            call.refuse("default", format!("expected data, found {found}"));
            return None;
        }
    };
    if let (Type::Mode, Some(meant)) =
        (&field.ty, data.as_u64().and_then(|bits| call.decimal("default", bits.try_into().ok()?)))
    {
        let problem =
            call.wrong("default", format!("expected permission bits such as `0o644`, found `{data}`"));
        call.note("default", problem.help(octal_help(meant)));
        return None;
    }
    let data = field.ty.coerce(&data).and_then(|data| match field.broken_rules(&data) {
        broken if broken.is_empty() => Ok(data),
        broken => Err(broken),
    });
    let wrong = |problems: Vec<olbake_core::settings::Problem>| {
        let all: Vec<String> =
            problems.into_iter().map(|found| format!("{}{}", found.path, found.message)).collect();
        let mut problem = call.wrong("default", all.join("; "));
        if value.is_none() {
            problem.help = Some(format!("write `{} | None` if it may be left out", field.ty));
        }
        call.note("default", problem);
    };
    data.map_err(wrong).ok()
}

/// The source of a secret; of a type that nobody knows, whatever it says.
fn source(call: &Call<'_, '_>, ty: Option<&Type>) -> Option<String> {
    let source = call.opt_text("source")?;
    if ty.is_some_and(|ty| !ty.is_secret()) {
        call.refuse("source", "only secrets have a source");
    } else if !is_secret_source(&source) {
        call.refuse("source", format!("expected `env:NAME` or `file:PATH`, found `{source}`"));
    }
    Some(source)
}

fn constraints(call: &Call<'_, '_>, ty: Option<&Type>) -> Constraints {
    let number = |name: &str| {
        let number = call.json(name)?.as_f64();
        if number.is_none() {
            call.refuse(name, "expected a number");
        }
        number
    };
    let regex = call.opt_text("regex").and_then(|text| {
        Regex::new(&text).map_err(|error| call.refuse("regex", format!("not an expression: {error}"))).ok()
    });
    let one_of = call.json("one_of").map(|values| {
        let values = values.as_array().cloned();
        values.unwrap_or_else(|| {
            call.refuse("one_of", "expected a list of values");
            Vec::new()
        })
    });
    if ty.is_some_and(|ty| ty.contains_secret() && !ty.is_secret()) {
        let problem = call.wrong("type", "a secret stands alone");
        call.note("type", problem.help("write `secret` or `secret | None`, a setting each"));
    }
    Constraints {
        ge: number("ge"),
        le: number("le"),
        len: length(call),
        regex,
        one_of: one_of.unwrap_or_default(),
    }
}

/// `len = 3`, or `len = (1, 5)` with `None` for no limit.
fn length(call: &Call<'_, '_>) -> Option<(u64, u64)> {
    let length = match call.json("len")? {
        Json::Array(ends) => match ends.as_slice() {
            [fewest, most] => {
                let fewest = if fewest.is_null() { Some(0) } else { fewest.as_u64() };
                let most = if most.is_null() { Some(u64::MAX) } else { most.as_u64() };
                fewest.zip(most)
            }
            _ => None,
        },
        number => number.as_u64().map(|number| (number, number)),
    };
    if length.is_none() {
        call.refuse("len", "expected a number, or the fewest and the most: `len = (1, 5)`");
    }
    length
}

/// The parts of what `setting(…)` returned.
fn parts_of_setting<'v>(value: Value<'v>) -> Option<(&'v Arc<Field>, Value<'v>, Value<'v>)> {
    let parts = StructRef::from_value(value)?;
    let part = |name: &str| parts.iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| value);
    let field = part("field")?.downcast_ref::<FieldValue>()?;
    Some((&field.0, part("check")?, part("computed")?))
}

/// What names a declaration; another stands in for one that is refused.
fn name_of(call: &Call<'_, '_>) -> ComponentName {
    let named = call.text("name").parse();
    named.unwrap_or_else(|error: olbake_core::names::NameError| {
        call.refuse("name", error.to_string());
        "stand-in".parse().expect("a valid name")
    })
}

fn settings<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let heap = eval.heap();
    let name = name_of(call);
    let mut fields = IndexMap::new();
    let (mut checks, mut computed) = (Vec::new(), Vec::new());
    if let Some(value) = call.get("fields") {
        let dict = DictRef::from_value(value)
            .ok_or_else(|| call.wrong("fields", "expected a dictionary of settings"))?;
        for (key, value) in dict.iter() {
            let Some(key) = key.unpack_str() else {
                call.refuse("fields", "names of settings are texts");
                continue;
            };
            check_setting_name(call, key);
            match parts_of_setting(value) {
                Some((field, check, compute)) => {
                    fields.insert(key.to_owned(), Field::clone(field));
                    checks.extend((!check.is_none()).then_some((key, check)));
                    computed.extend((!compute.is_none()).then_some((key, compute)));
                }
                None if stands_in(value) => {}
                None => {
                    let problem = call.wrong("fields", format!("`{key}` is no setting"));
                    let help = format!("write `\"{key}\": setting(str, …)`");
                    note_field(call, key, problem.help(help));
                }
            }
        }
    }
    let validate = call.elements("validate");
    for validator in &validate {
        let parts = TupleRef::from_value(*validator).map(|tuple| tuple.content());
        if !matches!(parts, Some([message, function]) if message.unpack_str().is_some() && is_function(*function) && takes(*function, 1))
        {
            call.refuse("validate", "expected pairs of a message and a function: `(\"…\", lambda s: …)`");
        }
    }
    let schema = SchemaValue(Arc::new((Schema { name, fields }, call.at.clone())));
    let functions = heap.alloc(AllocList([
        heap.alloc(AllocDict(checks)),
        heap.alloc(AllocDict(computed)),
        heap.alloc(AllocList(validate)),
    ]));
    Ok(heap.alloc(AllocStruct([("schema", heap.alloc(schema)), ("functions", functions)])))
}

/// Notes a problem with one of the fields, at its name.
fn note_field(call: &Call<'_, '_>, name: &str, problem: Diagnostic) {
    let place = call.argument_place("fields").and_then(|fields| call.place_after(&fields, &[name]));
    let span = place.or(problem.span.clone());
    call.note_part("fields", name, Diagnostic { span, ..problem });
}

fn check_setting_name(call: &Call<'_, '_>, name: &str) {
    let fine = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.contains("__")
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !fine {
        let problem = call.wrong("fields", format!("`{name}` cannot name a setting"));
        let help =
            "use lower-case letters, digits and single `_`: the name is also that of an environment variable";
        note_field(call, name, problem.help(help));
    }
}

fn record<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let mut fields = Vec::new();
    for (name, value) in &call.further {
        let (ty, default) = match parts_of_setting(*value) {
            Some((field, _, _)) => (field.ty.clone(), field.default.clone()),
            None => match type_of(*value) {
                Ok(ty) => (ty, None),
                Err(message) => {
                    call.refuse(name, message);
                    continue;
                }
            },
        };
        fields.push(RecordField { name: name.clone(), ty, default });
    }
    if call.further.is_empty() {
        return Err(problem("argument", "a record has fields: `record(name = str, port = port)`"));
    }
    Ok(eval.heap().alloc(TypeExpr::of(Type::Record(fields))))
}

fn words<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let word = |value: &Value<'v>| value.unpack_str().map(str::to_owned);
    let words: Option<Vec<String>> = call.rest.iter().map(word).collect();
    let words = words.ok_or_else(|| problem("argument", "`enum` takes texts"))?;
    if words.is_empty() {
        return Err(problem("argument", "`enum` takes the words to choose from"));
    }
    Ok(eval.heap().alloc(TypeExpr::of(Type::Enum(words))))
}

fn declare(call: &Call<'_, '_>, folder: &str, name: &str, declared: Declared) -> Result<(), Diagnostic> {
    let file = &call.session.file;
    let own = call.at.as_ref().is_none_or(|at| at.file == *file);
    let expected = format!("{folder}/{name}/{}.star", call.name);
    let inside = file.starts_with(&format!("{folder}/")) && file.ends_with(&format!("/{}.star", call.name));
    if !own || !inside {
        let text = format!("`{}` is called outside of a file such as `{expected}`", call.name);
        return Err(problem("misplaced", text));
    }
    if *file != expected {
        let text = format!("the {} `{name}` stands in `{file}`", call.name);
        return Err(Diagnostic { code: "misplaced".to_owned(), ..call.wrong("name", text) }
            .help(format!("its file is `{expected}`")));
    }
    let mut slot = call.session.declared.borrow_mut();
    if slot.is_some() {
        return Err(problem("misplaced", format!("`{}` is called twice in this file", call.name)));
    }
    *slot = Some(declared);
    Ok(())
}

fn component<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let heap = eval.heap();
    let name = name_of(call);
    let given = call.get("settings").and_then(|value| {
        let parts = schema_of(value);
        if parts.is_none() {
            call.refuse("settings", "expected what `settings(…)` returned");
        }
        parts
    });
    let (schema, settings_span, functions) = given.unwrap_or_else(|| {
        let empty =
            [heap.alloc(AllocDict::EMPTY), heap.alloc(AllocDict::EMPTY), heap.alloc(AllocList::EMPTY)];
        let schema = Arc::new(Schema { name: name.clone(), fields: IndexMap::new() });
        (schema, None, heap.alloc(AllocList(empty)))
    });
    if schema.name != name && !call.refused("name") {
        let text = format!("the settings are named `{}`, the component `{name}`", schema.name);
        let problem = call.wrong("settings", text);
        call.note("settings", problem.help("give both one name: it is the prefix of environment variables"));
    }
    let phases: Vec<Value<'v>> = PHASES.iter().map(|phase| phase_of(call, phase)).collect();
    let present: Vec<bool> = phases.iter().map(|phase| !phase.is_none()).collect();
    let declared = ComponentDeclaration {
        schema,
        booted: call.opt_text("booted"),
        phases: std::array::from_fn(|index| present[index]),
        span: call.at.clone(),
        settings_span,
        values: values(call),
    };
    declare(call, "components", name.as_str(), Declared::Component(declared))?;
    let kept = heap.alloc(AllocList([heap.alloc(AllocList(phases)), functions]));
    eval.module().set_extra_value(kept);
    Ok(Value::new_none())
}

/// The function of a phase, or nothing.
fn phase_of<'v>(call: &Call<'v, '_>, phase: &str) -> Value<'v> {
    let Some(function) = call.get(phase) else { return Value::new_none() };
    if !is_function(function) {
        call.refuse(phase, "expected a function: `def NAME(s, m): …`");
    } else if !takes(function, 2) {
        note_parameters(call, phase, function, "the settings and the machine", "(s, m)");
    }
    function
}

/// Notes that a function has other parameters than it is called with, where it is defined.
pub(crate) fn note_parameters(
    call: &Call<'_, '_>,
    argument: &str,
    function: Value<'_>,
    values: &str,
    parameters: &str,
) {
    let name = function.function_name().unwrap_or_default();
    let file = &call.session.file;
    let place = call.session.sources.text(file).and_then(|text| fault::definition(file, &text, name));
    let own = function.parameters_spec().map(|spec| spec.parameters_str()).unwrap_or_default();
    let problem = call.wrong(argument, format!("the function is called with {values}, and takes `({own})`"));
    let shown = if place.is_some() { name } else { argument };
    let problem = problem.help(format!("write `def {shown}{parameters}: …`"));
    let span = place.or(problem.span.clone());
    call.note(argument, Diagnostic { span, ..problem });
}

/// What a component gives settings itself. Whether they fit is found out with all other layers.
fn values(call: &Call<'_, '_>) -> Vec<GivenInRecipe> {
    let Some(given) = call.json("values") else { return Vec::new() };
    let Some(given) = given.as_object() else {
        call.refuse("values", "expected `{\"SETTING\": VALUE}`");
        return Vec::new();
    };
    let whole = call.argument_place("values");
    let place = |name: &str| call.place_after(whole.as_ref()?, &[name]);
    given
        .iter()
        .map(|(name, value)| (name.clone(), value.clone(), place(name).or_else(|| whole.clone())))
        .collect()
}

/// Settings, where they are declared, and their functions.
pub(crate) type SchemaParts<'v> = (Arc<Schema>, Option<Span>, Value<'v>);

/// The parts of what `settings(…)` returned.
pub(crate) fn schema_of<'v>(value: Value<'v>) -> Option<SchemaParts<'v>> {
    let parts = StructRef::from_value(value)?;
    let part = |name: &str| parts.iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| value);
    let schema = part("schema")?.downcast_ref::<SchemaValue>()?;
    Some((Arc::new(schema.0.0.clone()), schema.0.1.clone(), part("functions")?))
}

/// A component's or image's name from its path in the workspace.
fn name_in<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    path.strip_prefix("//")?.strip_prefix(folder)?.strip_prefix('/').map(|name| name.trim_end_matches('/'))
}

fn use_component<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let path = call.text("component");
    let Some(component) = name_in(&path, "components").filter(|name| !name.contains('/')) else {
        return Err(call.wrong("component", format!("expected `//components/NAME`, found `{path}`")));
    };
    let mut values = Vec::new();
    for (name, value) in &call.further {
        match to_json(*value) {
            Ok(data) => values.push((name.clone(), data, call.argument_place(name))),
            Err(found) => call.refuse(name, format!("expected data, found {found}")),
        }
    }
    let declared = UseDeclaration { component: component.to_owned(), values, span: call.at.clone() };
    Ok(eval.heap().alloc(UseValue(Arc::new(declared))))
}

fn size(call: &Call<'_, '_>, name: &str) -> Option<u64> {
    match Type::Bytes.coerce(&call.json(name)?) {
        Ok(bytes) => bytes.as_u64(),
        Err(problems) => {
            call.refuse(name, problems[0].message.clone());
            None
        }
    }
}

/// The disk of an image that does not say its size.
const DISK_SIZE: u64 = 4 << 30;

fn debian<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let suite = call.text("suite");
    if suite.is_empty() || !suite.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        call.refuse("suite", format!("`{suite}` is not a suite such as `bookworm`"));
    }
    let mut packages = call.texts("packages");
    packages.sort();
    packages.dedup();
    let mirror = call.opt_text("mirror");
    let disk_size = debian_size(call).unwrap_or(DISK_SIZE);
    Ok(eval.heap().alloc(BaseValue(Arc::new(BaseDeclaration::Debian { suite, packages, mirror, disk_size }))))
}

/// The size that a Debian's disk is to have.
fn debian_size(call: &Call<'_, '_>) -> Option<u64> {
    let size = size(call, "disk_size")?;
    if size < 1 << 30 {
        call.refuse("disk_size", "a Debian that boots needs a disk of at least `1GiB`");
    }
    Some(size)
}

fn disk<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let file = Utf8PathBuf::from(call.text("file").trim_start_matches("//"));
    let inside = file.components().all(|part| matches!(part, camino::Utf8Component::Normal(_)));
    if !inside || file.as_str().is_empty() {
        call.refuse("file", format!("`{file}` is not a path inside the workspace"));
    }
    let sum = call.text("sha256");
    let sha256 = Digest::from_hex(sum.strip_prefix("sha256:").unwrap_or(&sum)).map_err(|_| Diagnostic {
        code: "missing-checksum".to_owned(),
        ..call.wrong("sha256", "expected 64 hexadecimal digits")
    })?;
    Ok(eval.heap().alloc(BaseValue(Arc::new(BaseDeclaration::Disk { file, sha256 }))))
}

fn ami<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let (owner, name) = (call.text("owner"), call.text("name"));
    let is_account = owner.len() == 12 && owner.chars().all(|c| c.is_ascii_digit());
    if !is_account && !["self", "amazon", "aws-marketplace"].contains(&owner.as_str()) {
        let problem =
            format!("`{owner}` is neither the number of an account, `self`, `amazon` nor `aws-marketplace`");
        call.refuse("owner", problem);
    }
    if name.is_empty() {
        call.refuse("name", "expected a name, which may have `*` and `?` in it");
    }
    Ok(eval.heap().alloc(BaseValue(Arc::new(BaseDeclaration::Ami { owner, name }))))
}

fn image<'v>(call: &Call<'v, '_>, _: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let name = call.text("name");
    if let Err(error) = name.parse::<olbake_core::ImageName>() {
        call.refuse("name", error.to_string());
    }
    let mut uses = Vec::new();
    for (index, value) in call.elements("components").into_iter().enumerate() {
        match value.downcast_ref::<UseValue>() {
            Some(used) => uses.push(UseDeclaration::clone(&used.0)),
            None => {
                let problem =
                    call.wrong("components", format!("expected `use(…)`, found `{}`", value.to_repr()));
                call.note_part("components", index, problem.help("write `use(\"//components/NAME\", …)`"));
            }
        }
    }
    check_twice(call, &uses);
    let base = base(call);
    let base_span = call.argument_place("base").or_else(|| call.at.clone());
    let (variants, leak_allow) = (variants(call), call.paths("leak_allow"));
    call.opt_text("doc");
    if let Some(base) = base {
        let declared =
            ImageDeclaration { base, base_span, uses, variants, leak_allow, span: call.at.clone() };
        declare(call, "images", &name, Declared::Image(declared))?;
    }
    Ok(Value::new_none())
}

fn check_twice(call: &Call<'_, '_>, uses: &[UseDeclaration]) {
    for (index, used) in uses.iter().enumerate() {
        if let Some(first) = uses[..index].iter().find(|other| other.component == used.component) {
            let text = format!("the component `{}` is used twice in one image", used.component);
            let problem = problem("component-twice", text).at(used.span.clone());
            let problem = match &first.span {
                Some(span) => problem.related(span.clone(), "first used here"),
                None => problem,
            };
            call.note_part("components", &used.component, problem);
        }
    }
}

/// What the image starts from; nothing where that is refused.
fn base(call: &Call<'_, '_>) -> Option<BaseDeclaration> {
    let mut base = base_itself(call)?;
    let (own_size, more) = (size(call, "disk_size"), call.texts("packages"));
    match &mut base {
        BaseDeclaration::Debian { packages, disk_size, .. } => {
            packages.extend(more);
            packages.sort();
            packages.dedup();
            *disk_size = debian_size(call).unwrap_or(*disk_size);
        }
        _ => {
            if own_size.is_some() {
                call.refuse("disk_size", "the disk's size is that of the base");
            }
            if !more.is_empty() {
                let problem = call.wrong("packages", "only a `debian(…)` takes packages");
                call.note("packages", problem.help("install them in a component"));
            }
        }
    }
    Some(base)
}

fn base_itself(call: &Call<'_, '_>) -> Option<BaseDeclaration> {
    let value = call.given("base").unwrap_or(Value::new_none());
    let found = match (value.unpack_str(), value.downcast_ref::<BaseValue>()) {
        (_, Some(base)) => return Some(BaseDeclaration::clone(&base.0)),
        (Some(path), None) => match name_in(path, "images").and_then(|name| name.parse().ok()) {
            Some(image) => return Some(BaseDeclaration::Image(image)),
            None => path.to_owned(),
        },
        (None, None) => value.to_repr(),
    };
    let expected = "expected `//images/NAME`, `debian(…)`, `disk(…)` or `ami(…)`";
    call.refuse("base", format!("{expected}, found `{found}`"));
    None
}

fn variants(call: &Call<'_, '_>) -> BTreeMap<VariantName, Vec<Override>> {
    let mut variants = BTreeMap::new();
    let Some(value) = call.json("variants") else { return variants };
    let Some(value) = value.as_object() else {
        note_shape(call, "");
        return variants;
    };
    for (name, components) in value {
        match name.parse::<VariantName>() {
            Ok(variant) => drop(variants.insert(variant, overrides(call, name, components))),
            Err(error) => {
                let span = call.variant_place(name, &[]);
                let problem = call.wrong("variants", error.to_string());
                let span = span.or(problem.span.clone());
                call.note_part("variants", name, Diagnostic { span, ..problem });
            }
        }
    }
    variants
}

/// Notes that a variant, or what they are all in, is no dictionary of dictionaries.
fn note_shape(call: &Call<'_, '_>, variant: &str) {
    let problem = call.wrong("variants", "expected `{\"VARIANT\": {\"COMPONENT\": {\"SETTING\": VALUE}}}`");
    let span = call.variant_place(variant, &[]).filter(|_| !variant.is_empty());
    let span = span.or(problem.span.clone());
    call.note_part("variants", variant, Diagnostic { span, ..problem });
}

/// What a variant changes.
fn overrides(call: &Call<'_, '_>, name: &str, components: &Json) -> Vec<Override> {
    let Some(components) = components.as_object() else {
        note_shape(call, name);
        return Vec::new();
    };
    let mut overrides = Vec::new();
    for (component, settings) in components {
        let Some(settings) = settings.as_object() else {
            note_shape(call, name);
            continue;
        };
        let span = call.variant_place(name, &[component]);
        let values = settings.iter().map(|(setting, value)| {
            let place = call.variant_place(name, &[component, setting]);
            (setting.clone(), value.clone(), place.or_else(|| span.clone()))
        });
        let values = values.collect();
        overrides.push(Override { component: component.clone(), values, span });
    }
    overrides
}

impl Call<'_, '_> {
    /// Where an argument is written in the call.
    fn argument_place(&self, name: &str) -> Option<Span> {
        self.session.argument_place(self.at.as_ref()?, name)
    }

    /// Where keys inside a variant are written, each after the one before.
    fn variant_place(&self, variant: &str, keys: &[&String]) -> Option<Span> {
        let keys: Vec<&str> = std::iter::once(variant).chain(keys.iter().map(|key| key.as_str())).collect();
        self.place_after(&self.argument_place("variants")?, &keys)
    }

    /// Where keys are written after a place in the call, each after the one before.
    fn place_after(&self, place: &Span, keys: &[&str]) -> Option<Span> {
        let (mut at, end) = (place.clone(), self.at.as_ref()?);
        for key in keys {
            let rest = Span { end_line: end.end_line, end_column: end.end_column, ..at };
            at = find_argument(&self.session.sources.text(&rest.file)?, &rest, key)?;
        }
        Some(at)
    }
}
