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
use olbake_core::settings::{Constraints, Field, RecordField, Schema, Type, is_secret_source};
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
use crate::session::find_argument;
use crate::stack::{PolicyDeclaration, ProjectDeclaration};
use crate::types::{TypeExpr, type_of};
use crate::values::to_json;

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

fn setting<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let heap = eval.heap();
    let given = call.given("type").unwrap_or(Value::new_none());
    let ty = type_of(given).map_err(|message| call.wrong("type", message))?;
    let only_settings = call.name == "setting";
    let mut field = Field { span: call.at.clone(), doc: call.opt_text("doc")?, ..Field::new(ty) };
    let (mut check, mut computed) = (Value::new_none(), Value::new_none());
    if only_settings {
        field.constraints = constraints(call, &field.ty)?;
        field.source = source(call, &field.ty)?;
        match call.get("check") {
            Some(value) if is_function(value) => check = value,
            Some(value) => {
                field.check = Some(type_of(value).map_err(|message| call.wrong("check", message))?);
            }
            None => {}
        }
        if let Some(function) = call.get("computed") {
            if !is_function(function) {
                return Err(call.wrong("computed", "expected a function of the settings: `lambda s: …`"));
            }
            (field.computed, computed) = (true, function);
        }
    }
    field.default = default(call, &field)?;
    Ok(heap.alloc(AllocStruct([
        ("field", heap.alloc(FieldValue(Arc::new(field)))),
        ("check", check),
        ("computed", computed),
    ])))
}

fn default(call: &Call<'_, '_>, field: &Field) -> Result<Option<Json>, Diagnostic> {
    let Some(value) = call.given("default") else { return Ok(None) };
    if field.ty.is_secret() {
        return Err(call
            .wrong("default", "a secret has no default")
            .help("say where it comes from: `source = \"env:NAME\"`"));
    }
    if field.computed {
        return Err(call.wrong("default", "a computed setting has no default"));
    }
    let data =
        to_json(value).map_err(|found| call.wrong("default", format!("expected data, found {found}")))?;
    let data = field.ty.coerce(&data).and_then(|data| match field.broken_rules(&data) {
        broken if broken.is_empty() => Ok(data),
        broken => Err(broken),
    });
    data.map(Some).map_err(|problems| {
        let all: Vec<String> =
            problems.into_iter().map(|found| format!("{}{}", found.path, found.message)).collect();
        let mut problem = call.wrong("default", all.join("; "));
        if value.is_none() {
            problem.help = Some(format!("write `{} | None` if it may be left out", field.ty));
        }
        problem
    })
}

fn source(call: &Call<'_, '_>, ty: &Type) -> Result<Option<String>, Diagnostic> {
    let Some(source) = call.opt_text("source")? else { return Ok(None) };
    if !ty.is_secret() {
        return Err(call.wrong("source", "only secrets have a source"));
    }
    if !is_secret_source(&source) {
        return Err(call.wrong("source", format!("expected `env:NAME` or `file:PATH`, found `{source}`")));
    }
    Ok(Some(source))
}

fn constraints(call: &Call<'_, '_>, ty: &Type) -> Result<Constraints, Diagnostic> {
    let number = |name: &str| match call.json(name)? {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| call.wrong(name, "expected a number")),
    };
    let regex = match call.opt_text("regex")? {
        Some(text) => Some(
            Regex::new(&text).map_err(|error| call.wrong("regex", format!("not an expression: {error}")))?,
        ),
        None => None,
    };
    let mut one_of = Vec::new();
    if let Some(values) = call.json("one_of")? {
        let values =
            values.as_array().cloned().ok_or_else(|| call.wrong("one_of", "expected a list of values"))?;
        one_of = values;
    }
    if ty.contains_secret() && !ty.is_secret() {
        return Err(call
            .wrong("type", "a secret stands alone")
            .help("write `secret` or `secret | None`, a setting each"));
    }
    Ok(Constraints { ge: number("ge")?, le: number("le")?, len: length(call)?, regex, one_of })
}

/// `len = 3`, or `len = (1, 5)` with `None` for no limit.
fn length(call: &Call<'_, '_>) -> Result<Option<(u64, u64)>, Diagnostic> {
    let wrong = || call.wrong("len", "expected a number, or the fewest and the most: `len = (1, 5)`");
    match call.json("len")? {
        None => Ok(None),
        Some(Json::Array(ends)) => match ends.as_slice() {
            [fewest, most] => {
                let fewest = if fewest.is_null() { Some(0) } else { fewest.as_u64() };
                let most = if most.is_null() { Some(u64::MAX) } else { most.as_u64() };
                fewest.zip(most).map(Some).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        },
        Some(number) => number.as_u64().map(|number| Some((number, number))).ok_or_else(wrong),
    }
}

/// The parts of what `setting(…)` returned.
fn parts_of_setting<'v>(value: Value<'v>) -> Option<(&'v Arc<Field>, Value<'v>, Value<'v>)> {
    let parts = StructRef::from_value(value)?;
    let part = |name: &str| parts.iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| value);
    let field = part("field")?.downcast_ref::<FieldValue>()?;
    Some((&field.0, part("check")?, part("computed")?))
}

fn settings<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let heap = eval.heap();
    let text = call.text("name")?;
    let name: ComponentName =
        text.parse().map_err(|error: olbake_core::names::NameError| call.wrong("name", error.to_string()))?;
    let mut fields = IndexMap::new();
    let (mut checks, mut computed) = (Vec::new(), Vec::new());
    if let Some(value) = call.get("fields") {
        let dict = DictRef::from_value(value)
            .ok_or_else(|| call.wrong("fields", "expected a dictionary of settings"))?;
        for (key, value) in dict.iter() {
            let key = key.unpack_str().ok_or_else(|| call.wrong("fields", "names of settings are texts"))?;
            check_setting_name(call, key)?;
            let (field, check, compute) = parts_of_setting(value).ok_or_else(|| {
                call.wrong("fields", format!("`{key}` is no setting"))
                    .help(format!("write `\"{key}\": setting(str, …)`"))
            })?;
            fields.insert(key.to_owned(), Field::clone(field));
            if !check.is_none() {
                checks.push((key, check));
            }
            if !compute.is_none() {
                computed.push((key, compute));
            }
        }
    }
    let validate = call.elements("validate");
    for validator in &validate {
        let parts = TupleRef::from_value(*validator).map(|tuple| tuple.content());
        if !matches!(parts, Some([message, function]) if message.unpack_str().is_some() && is_function(*function))
        {
            return Err(
                call.wrong("validate", "expected pairs of a message and a function: `(\"…\", lambda s: …)`")
            );
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

fn check_setting_name(call: &Call<'_, '_>, name: &str) -> Result<(), Diagnostic> {
    let fine = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.contains("__")
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if fine {
        return Ok(());
    }
    Err(call.wrong("fields", format!("`{name}` cannot name a setting")).help(
        "use lower-case letters, digits and single `_`: the name is also that of an environment variable",
    ))
}

fn record<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let mut fields = Vec::new();
    for (name, value) in &call.further {
        let (ty, default) = match parts_of_setting(*value) {
            Some((field, _, _)) => (field.ty.clone(), field.default.clone()),
            None => (type_of(*value).map_err(|message| call.wrong(name, message))?, None),
        };
        fields.push(RecordField { name: name.clone(), ty, default });
    }
    if fields.is_empty() {
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
    let text = call.text("name")?;
    let name: ComponentName =
        text.parse().map_err(|error: olbake_core::names::NameError| call.wrong("name", error.to_string()))?;
    let (schema, settings_span, functions) = match call.get("settings") {
        Some(value) => {
            schema_of(value).ok_or_else(|| call.wrong("settings", "expected what `settings(…)` returned"))?
        }
        None => {
            let empty =
                [heap.alloc(AllocDict::EMPTY), heap.alloc(AllocDict::EMPTY), heap.alloc(AllocList::EMPTY)];
            (
                Arc::new(Schema { name: name.clone(), fields: IndexMap::new() }),
                None,
                heap.alloc(AllocList(empty)),
            )
        }
    };
    if schema.name != name {
        let text = format!("the settings are named `{}`, the component `{name}`", schema.name);
        return Err(call
            .wrong("settings", text)
            .help("give both one name: it is the prefix of environment variables"));
    }
    let mut phases = Vec::with_capacity(PHASES.len());
    for phase in PHASES {
        let function = call.get(phase);
        if function.is_some_and(|function| !is_function(function)) {
            return Err(call.wrong(phase, "expected a function: `def NAME(s, m): …`"));
        }
        phases.push(function.unwrap_or(Value::new_none()));
    }
    let present: Vec<bool> = phases.iter().map(|phase| !phase.is_none()).collect();
    let declared = ComponentDeclaration {
        schema,
        booted: call.opt_text("booted")?,
        phases: std::array::from_fn(|index| present[index]),
        span: call.at.clone(),
        settings_span,
        values: values(call)?,
    };
    declare(call, "components", name.as_str(), Declared::Component(declared))?;
    let kept = heap.alloc(AllocList([heap.alloc(AllocList(phases)), functions]));
    eval.module().set_extra_value(kept);
    Ok(Value::new_none())
}

/// What a component gives settings itself. Whether they fit is found out with all other layers.
fn values(call: &Call<'_, '_>) -> Result<Vec<GivenInRecipe>, Diagnostic> {
    let Some(given) = call.json("values")? else { return Ok(Vec::new()) };
    let given = given.as_object().ok_or_else(|| call.wrong("values", "expected `{\"SETTING\": VALUE}`"))?;
    let whole = call.argument_place("values");
    let place = |name: &str| call.place_after(whole.as_ref()?, &[name]);
    Ok(given
        .iter()
        .map(|(name, value)| (name.clone(), value.clone(), place(name).or_else(|| whole.clone())))
        .collect())
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
    let path = call.text("component")?;
    let Some(component) = name_in(&path, "components").filter(|name| !name.contains('/')) else {
        return Err(call.wrong("component", format!("expected `//components/NAME`, found `{path}`")));
    };
    let mut values = Vec::new();
    for (name, value) in &call.further {
        let data =
            to_json(*value).map_err(|found| call.wrong(name, format!("expected data, found {found}")))?;
        values.push((name.clone(), data, call.argument_place(name)));
    }
    let declared = UseDeclaration { component: component.to_owned(), values, span: call.at.clone() };
    Ok(eval.heap().alloc(UseValue(Arc::new(declared))))
}

fn size(call: &Call<'_, '_>, name: &str) -> Result<Option<u64>, Diagnostic> {
    let Some(value) = call.json(name)? else { return Ok(None) };
    match Type::Bytes.coerce(&value) {
        Ok(bytes) => Ok(bytes.as_u64()),
        Err(problems) => Err(call.wrong(name, problems[0].message.clone())),
    }
}

/// The disk of an image that does not say its size.
const DISK_SIZE: u64 = 4 << 30;

fn debian<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let suite = call.text("suite")?;
    if suite.is_empty() || !suite.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(call.wrong("suite", format!("`{suite}` is not a suite such as `bookworm`")));
    }
    let mut packages = call.texts("packages")?;
    packages.sort();
    packages.dedup();
    let mirror = call.opt_text("mirror")?;
    let disk_size = debian_size(call)?.unwrap_or(DISK_SIZE);
    Ok(eval.heap().alloc(BaseValue(Arc::new(BaseDeclaration::Debian { suite, packages, mirror, disk_size }))))
}

/// The size that a Debian's disk is to have.
fn debian_size(call: &Call<'_, '_>) -> Result<Option<u64>, Diagnostic> {
    match size(call, "disk_size")? {
        Some(size) if size < 1 << 30 => {
            Err(call.wrong("disk_size", "a Debian that boots needs a disk of at least `1GiB`"))
        }
        size => Ok(size),
    }
}

fn disk<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let file = Utf8PathBuf::from(call.text("file")?.trim_start_matches("//"));
    let inside = file.components().all(|part| matches!(part, camino::Utf8Component::Normal(_)));
    if !inside || file.as_str().is_empty() {
        return Err(call.wrong("file", format!("`{file}` is not a path inside the workspace")));
    }
    let sum = call.text("sha256")?;
    let sha256 = Digest::from_hex(sum.strip_prefix("sha256:").unwrap_or(&sum)).map_err(|_| Diagnostic {
        code: "missing-checksum".to_owned(),
        ..call.wrong("sha256", "expected 64 hexadecimal digits")
    })?;
    Ok(eval.heap().alloc(BaseValue(Arc::new(BaseDeclaration::Disk { file, sha256 }))))
}

fn ami<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let (owner, name) = (call.text("owner")?, call.text("name")?);
    let is_account = owner.len() == 12 && owner.chars().all(|c| c.is_ascii_digit());
    if !is_account && !["self", "amazon", "aws-marketplace"].contains(&owner.as_str()) {
        let problem =
            format!("`{owner}` is neither the number of an account, `self`, `amazon` nor `aws-marketplace`");
        return Err(call.wrong("owner", problem));
    }
    if name.is_empty() {
        return Err(call.wrong("name", "expected a name, which may have `*` and `?` in it"));
    }
    Ok(eval.heap().alloc(BaseValue(Arc::new(BaseDeclaration::Ami { owner, name }))))
}

fn image<'v>(call: &Call<'v, '_>, _: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let name = call.text("name")?;
    name.parse::<olbake_core::ImageName>().map_err(|error| call.wrong("name", error.to_string()))?;
    let mut uses = Vec::new();
    for value in call.elements("components") {
        let used = value.downcast_ref::<UseValue>().ok_or_else(|| {
            call.wrong("components", format!("expected `use(…)`, found `{}`", value.to_repr()))
                .help("write `use(\"//components/NAME\", …)`")
        })?;
        uses.push(UseDeclaration::clone(&used.0));
    }
    check_twice(&uses)?;
    let declared = ImageDeclaration {
        base: base(call)?,
        base_span: call.argument_place("base").or_else(|| call.at.clone()),
        uses,
        variants: variants(call)?,
        leak_allow: call.paths("leak_allow")?,
        span: call.at.clone(),
    };
    declare(call, "images", &name, Declared::Image(declared))?;
    Ok(Value::new_none())
}

fn check_twice(uses: &[UseDeclaration]) -> Result<(), Diagnostic> {
    for (index, used) in uses.iter().enumerate() {
        if let Some(first) = uses[..index].iter().find(|other| other.component == used.component) {
            let text = format!("the component `{}` is used twice in one image", used.component);
            let problem = problem("component-twice", text).at(used.span.clone());
            return Err(match &first.span {
                Some(span) => problem.related(span.clone(), "first used here"),
                None => problem,
            });
        }
    }
    Ok(())
}

fn base(call: &Call<'_, '_>) -> Result<BaseDeclaration, Diagnostic> {
    let expected = "expected `//images/NAME`, `debian(…)`, `disk(…)` or `ami(…)`";
    let value = call.given("base").unwrap_or(Value::new_none());
    let mut base = match (value.unpack_str(), value.downcast_ref::<BaseValue>()) {
        (Some(path), _) => {
            let name = name_in(path, "images")
                .ok_or_else(|| call.wrong("base", format!("{expected}, found `{path}`")))?;
            BaseDeclaration::Image(
                name.parse().map_err(|_| call.wrong("base", format!("{expected}, found `{path}`")))?,
            )
        }
        (None, Some(base)) => BaseDeclaration::clone(&base.0),
        (None, None) => return Err(call.wrong("base", format!("{expected}, found `{}`", value.to_repr()))),
    };
    let (own_size, more) = (size(call, "disk_size")?, call.texts("packages")?);
    match &mut base {
        BaseDeclaration::Debian { packages, disk_size, .. } => {
            packages.extend(more);
            packages.sort();
            packages.dedup();
            *disk_size = debian_size(call)?.unwrap_or(*disk_size);
        }
        _ if own_size.is_some() => return Err(call.wrong("disk_size", "the disk's size is that of the base")),
        _ if !more.is_empty() => {
            return Err(call
                .wrong("packages", "only a `debian(…)` takes packages")
                .help("install them in a component"));
        }
        _ => {}
    }
    Ok(base)
}

fn variants(call: &Call<'_, '_>) -> Result<BTreeMap<VariantName, Vec<Override>>, Diagnostic> {
    let mut variants = BTreeMap::new();
    let Some(value) = call.json("variants")? else { return Ok(variants) };
    let shape = || call.wrong("variants", "expected `{\"VARIANT\": {\"COMPONENT\": {\"SETTING\": VALUE}}}`");
    for (name, components) in value.as_object().ok_or_else(shape)? {
        let variant: VariantName = name
            .parse()
            .map_err(|error: olbake_core::names::NameError| call.wrong("variants", error.to_string()))?;
        let mut overrides = Vec::new();
        for (component, settings) in components.as_object().ok_or_else(shape)? {
            let span = call.variant_place(name, &[component]);
            let settings = settings.as_object().ok_or_else(shape)?;
            let values = settings.iter().map(|(setting, value)| {
                (
                    setting.clone(),
                    value.clone(),
                    call.variant_place(name, &[component, setting]).or_else(|| span.clone()),
                )
            });
            overrides.push(Override {
                component: component.clone(),
                values: values.collect(),
                span: span.clone(),
            });
        }
        variants.insert(variant, overrides);
    }
    Ok(variants)
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
