//! The types of resources that providers have: what they take, what they give, and what a change of each property
//! means. Main type: [`Catalog`].

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::name::ResourceType;
use super::value;
use crate::settings::{Problem, Type, did_you_mean};

/// What a change of a property means for what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is changed where it stands.
    InPlace,
    /// A group is changed where it stands, and a rollout brings its instances in line, replacing none for it.
    Settle,
    /// The object is replaced by another.
    Replace,
    /// The instances of a group are replaced by a rollout.
    Rollout,
}

/// Which of the two comes first when an object is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// The new one, so that there always is one.
    CreateFirst,
    /// The old one goes first: the two cannot stand beside each other.
    DeleteFirst,
}

/// What kind of thing a type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An object with create, update and delete.
    Object,
    /// A group of instances, changed by rollouts.
    Group,
}

/// A property that a resource takes.
#[derive(Clone, Debug)]
pub struct Property {
    /// Its type.
    pub ty: Type,
    /// Its value where none is given; a property without one must be given unless its type is optional.
    pub default: Option<Value>,
    /// What a change means.
    pub change: Change,
    /// What it is.
    pub doc: &'static str,
}

/// A value that a resource has once it is there.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its type.
    pub ty: Type,
    /// It is secret.
    pub secret: bool,
    /// An update may change it: it is known only after one.
    pub renewed: bool,
    /// What it is.
    pub doc: &'static str,
}

/// A type of resources.
#[derive(Clone, Debug)]
pub struct TypeSchema {
    /// What it is.
    pub doc: &'static str,
    /// What kind of thing.
    pub kind: Kind,
    /// What it takes.
    pub inputs: BTreeMap<&'static str, Property>,
    /// What it gives.
    pub outputs: BTreeMap<&'static str, Output>,
    /// How it is replaced.
    pub replacement: Replacement,
    /// It holds data: removing it loses them.
    pub holds_data: bool,
}

impl TypeSchema {
    /// A type of objects without properties yet.
    pub fn object(doc: &'static str) -> Self {
        Self {
            doc,
            kind: Kind::Object,
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            replacement: Replacement::CreateFirst,
            holds_data: false,
        }
    }

    /// A type of groups.
    pub fn group(doc: &'static str) -> Self {
        Self { kind: Kind::Group, ..Self::object(doc) }
    }

    /// The old object goes first when one is replaced.
    #[must_use]
    pub fn delete_first(self) -> Self {
        Self { replacement: Replacement::DeleteFirst, ..self }
    }

    /// Removing one loses data.
    #[must_use]
    pub fn holding_data(self) -> Self {
        Self { holds_data: true, ..self }
    }

    /// Takes a property that must be given.
    #[must_use]
    pub fn takes(mut self, name: &'static str, ty: Type, change: Change, doc: &'static str) -> Self {
        self.inputs.insert(name, Property { ty, default: None, change, doc });
        self
    }

    /// Takes a property that has a default.
    #[must_use]
    pub fn takes_or(
        mut self,
        name: &'static str,
        ty: Type,
        default: Value,
        change: Change,
        doc: &'static str,
    ) -> Self {
        self.inputs.insert(name, Property { ty, default: Some(default), change, doc });
        self
    }

    /// Gives an output.
    #[must_use]
    pub fn gives(mut self, name: &'static str, ty: Type, doc: &'static str) -> Self {
        self.outputs.insert(name, Output { ty, secret: false, renewed: false, doc });
        self
    }

    /// Gives an output that updates may change.
    #[must_use]
    pub fn gives_anew(mut self, name: &'static str, ty: Type, doc: &'static str) -> Self {
        self.outputs.insert(name, Output { ty, secret: false, renewed: true, doc });
        self
    }

    /// The inputs in canonical form with defaults filled in. Values with placeholders in them are checked when they
    /// are known.
    pub fn coerce(&self, given: &Map<String, Value>) -> Result<Map<String, Value>, Vec<InputProblem>> {
        let mut problems: Vec<InputProblem> = given
            .keys()
            .filter(|name| !self.inputs.contains_key(name.as_str()))
            .map(|name| InputProblem {
                input: name.clone(),
                code: "unknown-property",
                message: format!("there is no property `{name}`"),
                help: did_you_mean(name, self.inputs.keys().copied()),
            })
            .collect();
        let mut coerced = Map::new();
        for (name, property) in &self.inputs {
            match property.coerce(given.get(*name)) {
                Ok(value) => drop(coerced.insert((*name).to_owned(), value)),
                Err(found) => problems.extend(found.into_iter().map(|problem| problem.into_input(name))),
            }
        }
        if problems.is_empty() { Ok(coerced) } else { Err(problems) }
    }
}

impl TypeSchema {
    /// What it takes and gives, in Markdown.
    pub fn markdown(&self, name: &ResourceType) -> String {
        let mut text = format!("### `{name}`\n\n{}", sentence(self.doc));
        if self.holds_data {
            text.push_str(" It holds data: removing it loses them.");
        }
        if self.replacement == Replacement::DeleteFirst {
            text.push_str(" Replaced, the old one goes first.");
        }
        text.push_str("\n\n| takes | type | default | a change | what it is |\n|---|---|---|---|---|\n");
        for (name, Property { ty, default, change, doc }) in &self.inputs {
            let default = match default {
                Some(Value::Null) => "none".to_owned(),
                Some(value) => format!("`{value}`"),
                None if ty.is_optional() => "none".to_owned(),
                None => "required".to_owned(),
            };
            let change = match change {
                Change::InPlace => "in place",
                Change::Settle => "in place, instances follow",
                Change::Replace => "replaces",
                Change::Rollout => "rolls out",
            };
            row(&mut text, [&format!("`{name}`"), &format!("`{ty}`"), &default, change, doc]);
        }
        if !self.outputs.is_empty() {
            text.push_str("\n| gives | type | what it is |\n|---|---|---|\n");
        }
        for (name, Output { ty, secret, renewed, doc }) in &self.outputs {
            let secret = if *secret { "; secret" } else { "" };
            let renewed = if *renewed { "; known after an update" } else { "" };
            row(&mut text, [&format!("`{name}`"), &format!("`{ty}`"), &format!("{doc}{secret}{renewed}")]);
        }
        text
    }
}

/// A text of the catalog with a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).chain(['.']).collect()).unwrap_or_default()
}

fn row<const N: usize>(text: &mut String, cells: [&str; N]) {
    text.push_str(&format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")));
}

/// What is wrong with an input of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputProblem {
    /// The property.
    pub input: String,
    /// A stable name for the problem.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

struct Unfit {
    code: &'static str,
    message: String,
    help: Option<String>,
}

impl Unfit {
    fn into_input(self, name: &str) -> InputProblem {
        let Self { code, message, help } = self;
        InputProblem { input: name.to_owned(), code, message: format!("`{name}` {message}"), help }
    }
}

impl Property {
    fn coerce(&self, given: Option<&Value>) -> Result<Value, Vec<Unfit>> {
        let value = match given {
            None | Some(Value::Null) => match &self.default {
                Some(default) => return Ok(default.clone()),
                None if self.ty.is_optional() => return Ok(Value::Null),
                None => {
                    let message = "must be given".to_owned();
                    return Err(vec![Unfit { code: "missing-property", message, help: None }]);
                }
            },
            Some(value) => value,
        };
        if value::has_references(value) || !value::secrets(value).is_empty() {
            return Ok(value.clone());
        }
        if self.ty.contains_secret() {
            let message = "holds a secret, and this one is written in the open".to_owned();
            let help = "put it into the stack's configuration: `olbake config set --secret`".to_owned();
            return Err(vec![Unfit { code: "open-secret", message, help: Some(help) }]);
        }
        self.ty.coerce(value).map_err(|problems| problems.into_iter().map(unfit).collect())
    }
}

fn unfit(Problem { path, message, help }: Problem) -> Unfit {
    let message = if path.is_empty() { message } else { format!("at `{path}`: {message}") };
    Unfit { code: "wrong-type", message, help }
}

/// The types of all providers.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    types: BTreeMap<ResourceType, TypeSchema>,
}

impl Catalog {
    /// Adds a type.
    ///
    /// # Panics
    /// When the name is no type's name: they are written in the program.
    #[must_use]
    pub fn with(mut self, name: &str, schema: TypeSchema) -> Self {
        let name = name.parse().expect("types are named in the program");
        self.types.insert(name, schema);
        self
    }

    /// The types of two catalogs.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.types.extend(other.types);
        self
    }

    /// A type.
    pub fn get(&self, name: &ResourceType) -> Option<&TypeSchema> {
        self.types.get(name)
    }

    /// What each type of a provider takes and gives, in Markdown; empty where there is none.
    pub fn markdown(&self, provider: &str) -> String {
        let of = self.types.iter().filter(|(name, _)| name.provider() == provider);
        of.map(|(name, schema)| schema.markdown(name)).collect::<Vec<_>>().join("\n")
    }

    /// All types, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceType, &TypeSchema)> {
        self.types.iter()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> TypeSchema {
        TypeSchema::object("a balancer")
            .takes("network", Type::Str, Change::Replace, "where")
            .takes_or("port", Type::Port, json!(80), Change::InPlace, "listens on")
            .gives("address", Type::Ip, "its address")
    }

    #[test]
    fn defaults_are_filled_in() {
        let given = json!({"network": "n"});
        let coerced = schema().coerce(given.as_object().unwrap()).unwrap();
        assert_eq!(Value::Object(coerced), json!({"network": "n", "port": 80}));
    }

    #[test]
    fn all_problems_come_together() {
        let given = json!({"prot": 1, "port": 70_000});
        let problems = schema().coerce(given.as_object().unwrap()).unwrap_err();
        let codes: Vec<_> = problems.iter().map(|p| (p.input.as_str(), p.code)).collect();
        assert_eq!(
            codes,
            [("prot", "unknown-property"), ("network", "missing-property"), ("port", "wrong-type")]
        );
        assert_eq!(problems[0].help.as_deref(), Some("did you mean `port`?"));
    }

    #[test]
    fn secrets_are_not_written_in_the_open() {
        let schema = TypeSchema::object("an account")
            .takes("password", Type::Secret, Change::InPlace, "its password")
            .takes("other", Type::Secret.or_none(), Change::InPlace, "another");
        let marker = crate::secret::SecretId("config.password".into()).marker();
        let given = |value: &str| json!({"password": value}).as_object().unwrap().clone();
        assert!(schema.coerce(&given(&marker)).is_ok());
        let problems = schema.coerce(&given("hunter2")).unwrap_err();
        assert_eq!((problems.len(), problems[0].code), (1, "open-secret"));
        assert!(!format!("{problems:?}").contains("hunter2"));
    }

    #[test]
    fn placeholders_are_checked_when_they_are_known() {
        let marker = value::Reference { resource: "x".parse().unwrap(), output: "port".into() }.marker();
        let given = json!({"network": "n", "port": marker});
        assert!(schema().coerce(given.as_object().unwrap()).is_ok());
    }
}
