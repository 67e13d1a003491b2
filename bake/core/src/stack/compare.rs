//! Two sets of properties beside each other: what differs, and what that means. Main function: [`changes`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::catalog::{Change, TypeSchema};

/// What a changed property means for the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It is changed where it stands.
    InPlace,
    /// Its instances are replaced by a rollout.
    Rollout,
    /// It is replaced.
    Replace,
}

impl From<Change> for Effect {
    fn from(change: Change) -> Self {
        match change {
            Change::InPlace | Change::Settle => Self::InPlace,
            Change::Rollout => Self::Rollout,
            Change::Replace => Self::Replace,
        }
    }
}

/// A property that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PropertyChange {
    /// Where: `health.path`; fields of records are joined by dots.
    pub path: String,
    /// What it was; none: nothing.
    pub old: Option<Value>,
    /// What it is to be; none: nothing.
    pub new: Option<Value>,
    /// What that means.
    pub effect: Effect,
}

/// The properties in which `new` differs from `old`, as the type's schema has it. Properties in `ignored` do not
/// count. A property that the schema no longer has counts as changed in place.
pub fn changes(
    schema: &TypeSchema,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    ignored: &BTreeSet<String>,
) -> Vec<PropertyChange> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| !ignored.contains(name.as_str())) {
        let effect =
            schema.inputs.get(name.as_str()).map_or(Effect::InPlace, |property| property.change.into());
        differ(name, old.get(name), new.get(name), effect, &mut found);
    }
    found
}

fn differ(
    path: &str,
    old: Option<&Value>,
    new: Option<&Value>,
    effect: Effect,
    found: &mut Vec<PropertyChange>,
) {
    let nothing = |value: Option<&Value>| value.is_none_or(Value::is_null);
    match (old, new) {
        (old, new) if old == new || (nothing(old) && nothing(new)) => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                differ(&format!("{path}.{name}"), old.get(name), new.get(name), effect, found);
            }
        }
        (old, new) => found.push(PropertyChange {
            path: path.to_owned(),
            old: old.filter(|value| !value.is_null()).cloned(),
            new: new.filter(|value| !value.is_null()).cloned(),
            effect,
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::settings::Type;

    #[test]
    fn nested_changes_are_named_where_they_are() {
        let schema = TypeSchema::object("x").takes("health", Type::Str, Change::InPlace, "").takes(
            "network",
            Type::Str,
            Change::Replace,
            "",
        );
        let old = json!({"health": {"path": "/", "port": 80}, "network": "a", "note": null});
        let new = json!({"health": {"path": "/health", "port": 80}, "network": "b"});
        let found = changes(&schema, old.as_object().unwrap(), new.as_object().unwrap(), &BTreeSet::new());
        let paths: Vec<_> = found.iter().map(|change| (change.path.as_str(), change.effect)).collect();
        assert_eq!(paths, [("health.path", Effect::InPlace), ("network", Effect::Replace)]);
        let ignored = BTreeSet::from(["network".to_owned()]);
        assert_eq!(changes(&schema, old.as_object().unwrap(), new.as_object().unwrap(), &ignored).len(), 1);
    }
}
