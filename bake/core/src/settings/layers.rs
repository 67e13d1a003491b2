//! Layers of values over each other: which one is in force, and where every one came from.
//!
//! Lowest first: default, component, image, variant, environment file, `.env`, environment, `--set`. A layer can
//! give a whole value or one entry inside a record or map. What no layer can give (an unknown name, a computed
//! field) is refused; everything wrong is reported at once, with the place and the value, secrets masked.

use std::collections::BTreeMap;

use serde_json::Value;

use super::coerce::Problem;
use super::schema::{Field, Schema};
use super::suggest::{did_you_mean, nearest};
use super::types::Type;
use crate::diagnostic::Diagnostic;
use crate::plan::{Provenance, Setting};
use crate::secret::SecretId;
use crate::span::Span;

/// A layer, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerKind {
    /// The declaration's own default.
    Default,
    /// `values` of a component, over the defaults of settings that it shares with others.
    Component,
    /// `use(…)` in an image.
    Image,
    /// A variant of an image.
    Variant,
    /// The file of an environment; stacks have one.
    EnvironmentFile,
    /// `.env`.
    Dotenv,
    /// An environment variable.
    Environment,
    /// `--set` on the command line.
    Set,
}

impl LayerKind {
    /// The name in a plan's provenance.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Component => "component",
            Self::Image => "image",
            Self::Variant => "variant",
            Self::EnvironmentFile => "environment file",
            Self::Dotenv => ".env",
            Self::Environment => "environment",
            Self::Set => "--set",
        }
    }
}

/// A value as a layer gives it.
#[derive(Clone, Debug, PartialEq)]
pub enum GivenValue {
    /// Written as a value, in a recipe.
    Value(Value),
    /// Written as text, to be read as the setting's type.
    Text(String),
}

/// A value for a setting, or for an entry inside it.
#[derive(Clone, Debug)]
pub struct Given {
    /// The layer.
    pub layer: LayerKind,
    /// What said it, where that is not a place in a recipe: `CADDY_VERSION`.
    pub name: Option<String>,
    /// Where in a file.
    pub span: Option<Span>,
    /// The setting, then the keys down to the entry.
    pub path: Vec<String>,
    /// The value.
    pub value: GivenValue,
}

/// The settings of one component in one image.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// Each setting with its value and provenance. Computed ones are absent until the recipe computes them.
    pub settings: BTreeMap<String, Setting>,
    /// The sources of secrets, and where each was given.
    pub secrets: BTreeMap<SecretId, (String, Option<Span>)>,
    /// What is wrong.
    pub problems: Vec<Diagnostic>,
}

/// Lays the given values over the defaults. `given` must be ordered from the lowest layer to the highest.
pub fn resolve(schema: &Schema, given: &[Given]) -> Resolved {
    let mut resolved = Resolved::default();
    let mut known: Vec<Vec<&Given>> = vec![Vec::new(); schema.fields.len()];
    for one in given {
        match schema.fields.get_index_of(one.path[0].as_str()) {
            Some(index) if schema.fields[index].computed => resolved.problems.push(
                Diagnostic::error(
                    "computed-setting",
                    format!("`{}.{}` is computed", schema.name, one.path[0]),
                )
                .at(one.span.clone())
                .help("change the settings that it is computed from"),
            ),
            Some(index) => known[index].push(one),
            None => resolved.problems.push(unknown(schema, one)),
        }
    }
    for ((name, field), given) in schema.fields.iter().zip(known).filter(|((_, field), _)| !field.computed) {
        if field.ty.is_secret() {
            resolve_secret(schema, name, field, &given, &mut resolved);
        } else {
            resolve_field(schema, name, field, &given, &mut resolved);
        }
    }
    resolved
}

fn unknown(schema: &Schema, given: &Given) -> Diagnostic {
    let name = &given.path[0];
    let mut diagnostic = Diagnostic::error(
        "unknown-setting",
        format!("`{}` has no setting `{name}`{}", schema.name, said_by(given)),
    )
    .at(given.span.clone());
    diagnostic.help = did_you_mean(name, schema.fields.keys().map(String::as_str))
        .or_else(|| Some(format!("`{}` has no settings", schema.name)));
    diagnostic
}

/// `, given by CADDY_VERSION`: for layers that are not a place in a recipe.
fn said_by(given: &Given) -> String {
    given.name.as_ref().map_or_else(String::new, |name| format!(", given by `{name}`"))
}

fn resolve_field(schema: &Schema, name: &str, field: &Field, given: &[&Given], resolved: &mut Resolved) {
    let mut provenance = Vec::with_capacity(given.len() + 1);
    let mut value = field.default.clone();
    if let Some(default) = &field.default {
        provenance.push(Provenance {
            layer: LayerKind::Default.as_str().to_owned(),
            name: None,
            span: field.span.clone(),
            value: default.clone(),
        });
    }
    let mut wrong = false;
    for one in given {
        match lay(&field.ty, value.as_ref(), one) {
            Ok((whole, own)) => {
                provenance.push(origin(one, own));
                value = Some(whole);
            }
            Err(problems) => {
                wrong = true;
                let diagnostics = problems.into_iter().map(|problem| misfit(schema, name, one, problem));
                resolved.problems.extend(diagnostics);
            }
        }
    }
    if wrong {
        return;
    }
    let value = match value {
        Some(value) => value,
        None if field.ty.is_optional() => Value::Null,
        None => {
            resolved.problems.push(missing(schema, name, field));
            return;
        }
    };
    if let Some(last) = given.last() {
        let broken =
            field.broken_rules(&value).into_iter().map(|problem| misfit(schema, name, last, problem));
        resolved.problems.extend(broken);
    }
    resolved.settings.insert(name.to_owned(), Setting { value, provenance });
}

fn missing(schema: &Schema, name: &str, field: &Field) -> Diagnostic {
    Diagnostic::error("missing-setting", format!("`{}.{name}` has no value", schema.name))
        .at(field.span.clone())
        .help(format!(
            "give one in `use(…, {name} = …)`, as {}_{} in the environment, or a default here",
            prefix(schema.name.as_str()),
            name.to_uppercase()
        ))
}

fn misfit(schema: &Schema, name: &str, given: &Given, problem: Problem) -> Diagnostic {
    let Problem { path, message, help } = problem;
    let inner: String = given.path[1..].iter().map(|key| format!(".{key}")).collect();
    let text = format!("`{}.{name}{inner}{path}`: {message}{}", schema.name, said_by(given));
    let mut diagnostic = Diagnostic::error("setting-value", text).at(given.span.clone());
    diagnostic.help = help;
    diagnostic
}

fn origin(given: &Given, value: Value) -> Provenance {
    let Given { layer, name, span, path: _, value: _ } = given;
    Provenance { layer: layer.as_str().to_owned(), name: name.clone(), span: span.clone(), value }
}

/// The setting's whole value with one layer laid over it, and the value that the layer itself gave.
fn lay(ty: &Type, below: Option<&Value>, given: &Given) -> Result<(Value, Value), Vec<Problem>> {
    let keys = &given.path[1..];
    let inner = type_at(ty, keys).map_err(|problem| vec![problem])?;
    let own = match &given.value {
        GivenValue::Value(value) => inner.coerce(value),
        GivenValue::Text(text) => inner.coerce_text(text),
    }?;
    if keys.is_empty() {
        return Ok((own.clone(), own));
    }
    let mut whole =
        below.filter(|value| value.is_object()).cloned().unwrap_or_else(|| Value::Object(Default::default()));
    let mut place = &mut whole;
    for key in keys {
        if !place.is_object() {
            *place = Value::Object(Default::default());
        }
        place = &mut place[key.as_str()];
    }
    *place = own.clone();
    ty.coerce(&whole).map(|whole| (whole, own))
}

/// The type of an entry inside a record or map.
fn type_at<'a>(ty: &'a Type, keys: &[String]) -> Result<&'a Type, Problem> {
    let Some((key, rest)) = keys.split_first() else { return Ok(ty) };
    match ty {
        Type::Optional(inner) => type_at(inner, keys),
        Type::Map(_, values) => type_at(values, rest),
        Type::Record(fields) => match fields.iter().find(|field| field.name == *key) {
            Some(field) => type_at(&field.ty, rest),
            None => Err(Problem {
                path: String::new(),
                message: format!("there is no field `{key}`"),
                help: did_you_mean(key, fields.iter().map(|field| field.name.as_str())),
            }),
        },
        _ => {
            Err(Problem { path: String::new(), message: format!("`{ty}` has no entry `{key}`"), help: None })
        }
    }
}

fn resolve_secret(schema: &Schema, name: &str, field: &Field, given: &[&Given], resolved: &mut Resolved) {
    let id = SecretId(format!("{}.{name}", schema.name));
    let mut provenance = Vec::new();
    let mut source = field.source.clone().map(|source| (source, field.span.clone()));
    if let Some((source, span)) = &source {
        let layer = LayerKind::Default.as_str().to_owned();
        provenance.push(Provenance {
            layer,
            name: None,
            span: span.clone(),
            value: Value::from(source.clone()),
        });
    }
    for one in given {
        match secret_source(one) {
            Ok(found) => {
                provenance.push(origin(one, found.clone().map_or(Value::Null, Value::from)));
                source = found.map(|source| (source, one.span.clone()));
            }
            Err(problem) => resolved.problems.push(misfit(schema, name, one, problem)),
        }
    }
    let value = match source {
        Some(source) => {
            let marker = Value::from(id.marker());
            resolved.secrets.insert(id, source);
            marker
        }
        None if field.ty.is_optional() => Value::Null,
        None => {
            let help = format!("give `source = \"env:NAME\"` or `source = \"file:PATH\"` to `{name}`");
            resolved.problems.push(missing(schema, name, field).help(help));
            return;
        }
    };
    resolved.settings.insert(name.to_owned(), Setting { value, provenance });
}

/// The source that a layer gives a secret. A variable of the environment holds the value itself, so it *is* the source.
fn secret_source(given: &Given) -> Result<Option<String>, Problem> {
    let text = match (&given.value, given.layer) {
        (GivenValue::Text(_), LayerKind::Environment | LayerKind::Dotenv) => {
            return Ok(given.name.as_ref().map(|name| format!("env:{name}")));
        }
        (GivenValue::Value(Value::Null), _) => return Ok(None),
        (GivenValue::Value(Value::String(text)) | GivenValue::Text(text), _) => text,
        _ => return Err(not_a_source()),
    };
    if is_secret_source(text) { Ok(Some(text.clone())) } else { Err(not_a_source()) }
}

/// Whether a text names a place to read a secret from.
pub fn is_secret_source(text: &str) -> bool {
    ["env:", "file:"].iter().any(|kind| text.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()))
}

fn not_a_source() -> Problem {
    Problem {
        path: String::new(),
        message: "expected the source of a secret, found `********`".to_owned(),
        help: Some(
            "write `env:NAME` or `file:PATH`; a secret's value is never written in a recipe or argument"
                .to_owned(),
        ),
    }
}

/// Variables of an environment or a `.env` file, found by name in any case.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, Variable>);

#[derive(Clone, Debug)]
struct Variable {
    name: String,
    value: String,
    span: Option<Span>,
}

impl Variables {
    /// Collects variables; of two names that differ in case only, the later counts.
    pub fn new(all: impl IntoIterator<Item = (String, String, Option<Span>)>) -> Self {
        let entry = |(name, value, span): (String, String, Option<Span>)| {
            (name.to_uppercase(), Variable { name, value, span })
        };
        Self(all.into_iter().map(entry).collect())
    }

    /// The values for a component's settings, and warnings for variables that look like a slip. In a `.env` file,
    /// which the workspace owns, an unknown name with the component's prefix is an error.
    pub fn given(&self, schema: &Schema, layer: LayerKind) -> (Vec<Given>, Vec<Diagnostic>) {
        let (mut given, mut problems) = (Vec::new(), Vec::new());
        let prefix = prefix(schema.name.as_str()) + "_";
        let matching = self.0.range(prefix.clone()..).take_while(|(upper, _)| upper.starts_with(&prefix));
        for (upper, variable) in matching {
            let rest = &upper[prefix.len()..];
            let keys: Vec<String> = rest.trim_start_matches('_').split("__").map(str::to_lowercase).collect();
            let names = schema.fields.keys().map(String::as_str);
            match schema.fields.keys().find(|name| name.eq_ignore_ascii_case(&keys[0])) {
                Some(name) => {
                    let mut path = vec![name.clone()];
                    path.extend(exact_keys(&schema.fields[name].ty, &keys[1..]));
                    let Variable { name, value, span } = variable.clone();
                    given.push(Given { layer, name: Some(name), span, path, value: GivenValue::Text(value) });
                }
                None => {
                    let suggestion = nearest(&keys[0], names.clone());
                    if suggestion.is_none() && layer == LayerKind::Environment {
                        continue;
                    }
                    problems.push(unknown_variable(schema, layer, variable, names));
                }
            }
        }
        (given, problems)
    }
}

fn unknown_variable<'a>(
    schema: &Schema,
    layer: LayerKind,
    variable: &Variable,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Diagnostic {
    let text = format!("`{}` in {} names no setting of `{}`", variable.name, layer.as_str(), schema.name);
    let mut diagnostic = match layer {
        LayerKind::Environment => Diagnostic::warning("unknown-setting", text),
        _ => Diagnostic::error("unknown-setting", text),
    };
    diagnostic.span = variable.span.clone();
    let upper: Vec<String> =
        names.map(|name| format!("{}_{}", prefix(schema.name.as_str()), name.to_uppercase())).collect();
    diagnostic.help = did_you_mean(&variable.name.to_uppercase(), upper.iter().map(String::as_str));
    diagnostic
}

/// The keys of records in the case of their declaration; keys of maps stay in lower case.
fn exact_keys(ty: &Type, keys: &[String]) -> Vec<String> {
    let Some((key, rest)) = keys.split_first() else { return Vec::new() };
    let (exact, inner) = match ty {
        Type::Optional(inner) => return exact_keys(inner, keys),
        Type::Record(fields) => match fields.iter().find(|field| field.name.eq_ignore_ascii_case(key)) {
            Some(field) => (field.name.clone(), Some(&field.ty)),
            None => (key.clone(), None),
        },
        Type::Map(_, values) => (key.clone(), Some(&**values)),
        _ => (key.clone(), None),
    };
    let mut exact = vec![exact];
    match inner {
        Some(inner) => exact.extend(exact_keys(inner, rest)),
        None => exact.extend(rest.iter().cloned()),
    }
    exact
}

/// The prefix of a component's variables, without the last `_`.
fn prefix(component: &str) -> String {
    component.to_uppercase().replace('-', "_")
}

/// A value from the command line: `caddy.version=2.7` or `web:caddy.version=2.7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOption {
    /// The image it is for; absent: all.
    pub image: Option<String>,
    /// The component.
    pub component: String,
    /// The setting, then keys inside it.
    pub path: Vec<String>,
    /// The value.
    pub value: String,
    /// What it sets, as it was written; the value is left out, because it may be a secret's.
    pub written: String,
}

impl SetOption {
    /// Reads the argument of `--set`.
    #[allow(clippy::result_large_err, reason = "a diagnostic ends the command: it is on no hot path")]
    pub fn parse(written: &str) -> Result<Self, Diagnostic> {
        let wrong = || {
            let shown = written.split_once('=').map_or(written, |(place, _)| place);
            Diagnostic::error("set-option", format!("`--set {shown}` is not understood"))
                .help("write `--set COMPONENT.SETTING=VALUE` or `--set IMAGE:COMPONENT.SETTING=VALUE`")
        };
        let (shown, value) = written.split_once('=').ok_or_else(wrong)?;
        let (image, place) = match shown.split_once(':') {
            Some((image, place)) => (Some(image.to_owned()), place),
            None => (None, shown),
        };
        let mut parts = place.split('.').map(str::to_owned);
        let component = parts.next().filter(|part| !part.is_empty()).ok_or_else(wrong)?;
        let path: Vec<String> = parts.collect();
        if path.is_empty() || path.iter().any(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self { image, component, path, value: value.to_owned(), written: shown.to_owned() })
    }

    /// The value as the highest layer.
    pub fn given(&self) -> Given {
        Given {
            layer: LayerKind::Set,
            name: Some(format!("--set {}", self.written)),
            span: None,
            path: self.path.clone(),
            value: GivenValue::Text(self.value.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::RecordField;
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        let record = Type::Record(vec![
            RecordField { name: "host".into(), ty: Type::Str, default: Some(json!("localhost")) },
            RecordField { name: "port".into(), ty: Type::Port, default: Some(json!(80)) },
        ]);
        let server = Field { default: Some(json!({"host": "localhost", "port": 80})), ..Field::new(record) };
        let labels = Field {
            default: Some(json!({"a": 1})),
            ..Field::new(Type::Map(Box::new(Type::Str), Box::new(Type::Int)))
        };
        let token = Field::new(Type::Secret.or_none());
        let fields = [("server", server), ("labels", labels), ("token", token)];
        Schema {
            name: "c".parse().unwrap(),
            fields: fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect(),
        }
    }

    fn from_environment(variables: &[(&str, &str)]) -> (Vec<Given>, Vec<Diagnostic>) {
        let all = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned(), None));
        Variables::new(all).given(&schema(), LayerKind::Environment)
    }

    fn values(given: &[Given]) -> (Vec<Value>, Vec<String>) {
        let resolved = resolve(&schema(), given);
        let values = resolved.settings.into_values().map(|setting| setting.value).collect();
        (values, resolved.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_entry_inside_a_setting_changes_and_the_rest_stays() {
        let (given, problems) =
            from_environment(&[("C__SERVER__PORT", "8080"), ("c_labels__B", "2"), ("C_TOKEN", "hunter2")]);
        assert!(problems.is_empty());
        let (found, problems) = values(&given);
        assert_eq!(
            found,
            [
                json!({"a": 1, "b": 2}),
                json!({"host": "localhost", "port": 8080}),
                json!("\u{e000}c.token\u{e001}")
            ]
        );
        assert!(problems.is_empty());
        let resolved = resolve(&schema(), &given);
        assert_eq!(resolved.secrets[&SecretId("c.token".into())].0, "env:C_TOKEN");
    }

    #[test]
    fn entries_are_checked_like_whole_values() {
        let (given, _) = from_environment(&[("C_SERVER__PROT", "1"), ("C_SERVER__PORT", "0")]);
        let (_, problems) = values(&given);
        assert_eq!(
            problems,
            [
                "`c.server.port`: expected a port from 1 to 65535, found `0`, given by `C_SERVER__PORT`",
                "`c.server.prot`: there is no field `prot`, given by `C_SERVER__PROT` (did you mean `port`?)",
            ]
        );
    }

    #[test]
    fn the_argument_of_set_is_read() {
        let set = SetOption::parse("web:c.server.port=1=2").unwrap();
        assert_eq!(
            (set.image.as_deref(), set.component.as_str(), set.value.as_str()),
            (Some("web"), "c", "1=2")
        );
        assert_eq!(set.path, ["server", "port"]);
        for bad in ["", "c", "c=1", "c.=1", ".x=1", "c.x"] {
            assert!(SetOption::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_value_of_a_secret_never_shows() {
        let set = SetOption::parse("c.token=hunter2").unwrap();
        let (_, problems) = values(&[set.given()]);
        assert_eq!(problems.len(), 1);
        assert!(!problems[0].contains("hunter2"), "{problems:?}");
    }
}
