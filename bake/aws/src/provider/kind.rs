//! What every type of AWS's objects can do: [`Kind`]. The rest of the provider is the same for all of them.

use async_trait::async_trait;
use olbake_core::stack::ObjectId;
use olbake_engine::stack::provider::{Object, ProviderError};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::clients::Aws;
use super::owner::Owner;
use super::problem::Problem;

/// An object that is asked for or about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) object: &'a Object,
    /// Its properties, complete. Of one that nobody declares any more there may be none.
    pub(super) inputs: &'a Map<String, Value>,
}

impl Wanted<'_> {
    pub(super) fn id(&self) -> &ObjectId {
        &self.object.id
    }

    /// A property that is a text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.inputs.get(name).and_then(Value::as_str)
    }

    /// A property that is true or false.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.inputs.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// A property that is a list of texts.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let items = self.inputs.get(name).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The properties as a type.
    pub(super) fn read<T: DeserializeOwned>(&self, action: &'static str) -> Result<T, Problem> {
        read(self.inputs).map_err(|error| Problem::refused(action, error.to_string()))
    }
}

/// Reads complete properties; the schema has checked them already, so this fails for what no schema can say.
pub(super) fn read<T: DeserializeOwned>(inputs: &Map<String, Value>) -> Result<T, ProviderError> {
    serde_json::from_value(Value::Object(inputs.clone()))
        .map_err(|error| ProviderError::refused(format!("the properties do not fit: {error}")))
}

/// Which objects of a type are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which<'a> {
    /// These; if there are several, they are of one stack.
    These(&'a [Wanted<'a>]),
    /// All that carry our tags.
    All,
}

impl<'a> Which<'a> {
    /// Those that are asked for by name; none where all are.
    pub(super) fn wanted(&self) -> &'a [Wanted<'a>] {
        match self {
            Self::These(wanted) => wanted,
            Self::All => &[],
        }
    }

    /// The only one that is asked for.
    pub(super) fn only(&self) -> Option<&'a Wanted<'a>> {
        match self {
            Self::These([only]) => Some(only),
            _ => None,
        }
    }
}

/// Where an object is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It can be used.
    Ready,
    /// It comes up.
    Coming,
    /// It is on its way out.
    Going,
    /// It came to nothing.
    Broken(String),
}

/// An object as it is seen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sighting {
    pub(super) owner: Owner,
    /// What AWS knows it by: an id, a name or an ARN.
    pub(super) native: String,
    pub(super) stage: Stage,
    /// Properties, as far as they are seen.
    pub(super) inputs: Map<String, Value>,
    pub(super) outputs: Map<String, Value>,
}

impl Sighting {
    /// An object that is ready, and gives its id.
    pub(super) fn new(owner: Owner, native: impl Into<String>, inputs: Value) -> Self {
        let native = native.into();
        let outputs = map(serde_json::json!({"id": native}));
        Self { owner, native, stage: Stage::Ready, inputs: map(inputs), outputs }
    }

    #[must_use]
    pub(super) fn at(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    #[must_use]
    pub(super) fn gives(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.outputs.insert(name.to_owned(), value.into());
        self
    }

    /// A property that is seen as a text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.inputs.get(name).and_then(Value::as_str)
    }
}

/// The fields of a record; of anything else none.
pub(super) fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A set in its canonical form.
pub(super) fn set(items: impl IntoIterator<Item = Value>) -> Value {
    let mut items: Vec<Value> = items.into_iter().collect();
    items.sort_by_cached_key(Value::to_string);
    items.dedup();
    Value::Array(items)
}

/// Whether an object that stands was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Already,
    Now,
}

/// A type of objects: how they are seen, made, brought in line and removed. Calls can be repeated.
#[async_trait]
pub(super) trait Kind: Send + Sync {
    /// Whether nothing on an object says whose it is: one that is there already and is not as it is to be is then
    /// somebody else's.
    fn is_anonymous(&self) -> bool {
        false
    }

    /// Whether it is nothing of its own: there is nothing to remove.
    fn is_only_seen(&self) -> bool {
        false
    }

    /// Looks at objects: many with one paginated call where AWS has such a call. Objects that are gone are absent.
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem>;

    /// Makes an object that was not seen, with its identity in the call that makes it. What can be said only of an
    /// object that is there is left to [`Kind::settle`].
    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem>;

    /// Brings an object that is ready in line with its properties.
    async fn settle(&self, _aws: &Aws, _there: &Sighting, _wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        Ok(Settled::Already)
    }

    /// Removes an object, or begins to.
    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem>;

    /// Marks an object that somebody else made as ours; gives what AWS knows it by.
    async fn claim(&self, _aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        let ty = &wanted.object.ty;
        Err(Problem::refused("import", format!("`{foreign}`: objects of type `{ty}` cannot be imported")))
    }
}
