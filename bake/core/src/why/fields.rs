//! What differs between two values, field by field.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A field of an operation that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field, with dots: `mode`, `packages.caddy.state`; `content` where bytes differ.
    pub field: String,
    /// As it was; null: it was not there.
    pub old: Value,
    /// As it is; null: it is not there.
    pub new: Value,
}

/// The keys by which members of a list are recognised again.
const NAMES: [&str; 2] = ["name", "path"];

/// The differences between two values, in the order of fields.
pub(super) fn differences(old: &Value, new: &Value) -> Vec<FieldChange> {
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found
}

fn compare(field: &str, old: &Value, new: &Value, found: &mut Vec<FieldChange>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => compare_objects(field, old, new, found),
        (Value::Array(old_items), Value::Array(new_items)) => {
            match (by_name(old_items), by_name(new_items)) {
                (Some(old), Some(new)) => compare_objects(field, &old, &new, found),
                _ => found.push(change(field, old, new)),
            }
        }
        _ => found.push(change(field, old, new)),
    }
}

fn change(field: &str, old: &Value, new: &Value) -> FieldChange {
    // Content is told by its digest: the field is the content.
    let field = field.strip_suffix(".digest").unwrap_or(field);
    FieldChange { field: field.to_owned(), old: old.clone(), new: new.clone() }
}

fn compare_objects(
    field: &str,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    found: &mut Vec<FieldChange>,
) {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let below = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
        let side = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
        compare(&below, &side(old), &side(new), found);
    }
}

/// A list of named objects as an object; none where members have no names, or share one.
fn by_name(items: &[Value]) -> Option<Map<String, Value>> {
    let mut map = Map::new();
    for item in items {
        let name = NAMES.iter().find_map(|key| item.get(key)?.as_str())?;
        let mut rest = item.as_object()?.clone();
        rest.retain(|key, _| !NAMES.contains(&key.as_str()));
        if map.insert(name.to_owned(), Value::Object(rest)).is_some() {
            return None;
        }
    }
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(old: &Value, new: &Value, expect: &[(&str, Value, Value)]) {
        let found: Vec<_> = differences(old, new).into_iter().map(|c| (c.field, c.old, c.new)).collect();
        let expect: Vec<_> = expect.iter().map(|(f, o, n)| ((*f).to_owned(), o.clone(), n.clone())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn fields_are_told_apart_and_content_by_name() {
        check(
            &json!({"mode": 420, "content": {"digest": "a", "secrets": []}, "gone": 1}),
            &json!({"mode": 384, "content": {"digest": "b", "secrets": []}}),
            &[
                ("content", json!("a"), json!("b")),
                ("gone", json!(1), Value::Null),
                ("mode", json!(420), json!(384)),
            ],
        );
    }

    #[test]
    fn members_of_lists_are_recognised_by_name() {
        check(
            &json!({"packages": [{"name": "a", "state": "present"}, {"name": "b", "state": {"version": "1"}}]}),
            &json!({"packages": [{"name": "b", "state": {"version": "2"}}]}),
            &[
                ("packages.a", json!({"state": "present"}), Value::Null),
                ("packages.b.state.version", json!("1"), json!("2")),
            ],
        );
    }

    #[test]
    fn plain_lists_are_told_whole() {
        check(
            &json!({"argv": ["a", "b"]}),
            &json!({"argv": ["a", "c"]}),
            &[("argv", json!(["a", "b"]), json!(["a", "c"]))],
        );
    }
}
