//! Values of resources: JSON in which text may carry placeholders.
//!
//! A *reference* stands for an output that another resource has: U+E002, the resource, a dot, the output, U+E003.
//! Recipes join and format text that has references in it as they do any other text. A text that is one reference
//! and nothing else becomes the output's value with its type; in the middle of a text the output is written as
//! text. Secrets have the markers of [`crate::secret`] and stay markers in plans and states.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::name::ResourceName;
use crate::secret::{MARKER_START, SecretId, references as secrets_of};

/// Starts a reference.
pub const REFERENCE_START: char = '\u{e002}';
/// Ends a reference.
pub const REFERENCE_END: char = '\u{e003}';

/// An output of a resource, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// The resource.
    pub resource: ResourceName,
    /// The output; fields of records and elements of lists follow, joined by dots: `addresses.0`.
    pub output: String,
}

impl Reference {
    /// The text that stands for it.
    pub fn marker(&self) -> String {
        format!("{REFERENCE_START}{}.{}{REFERENCE_END}", self.resource, self.output)
    }

    fn parse(text: &str) -> Option<Self> {
        let (resource, output) = text.split_once('.')?;
        Some(Self { resource: resource.parse().ok()?, output: output.to_owned() })
    }

    /// The value among a resource's outputs.
    pub fn in_map<'a>(&self, outputs: &'a Map<String, Value>) -> Option<&'a Value> {
        let mut parts = self.output.split('.');
        let first = outputs.get(parts.next()?)?;
        parts.try_fold(first, |value, part| match value {
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            value => value.get(part),
        })
    }
}

enum Part<'a> {
    Text(&'a str),
    Reference(Reference),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(REFERENCE_START) {
        let inner = start + REFERENCE_START.len_utf8();
        let Some(length) = rest[inner..].find(REFERENCE_END) else { break };
        let Some(reference) = Reference::parse(&rest[inner..inner + length]) else { break };
        if start > 0 {
            found.push(Part::Text(&rest[..start]));
        }
        found.push(Part::Reference(reference));
        rest = &rest[inner + length + REFERENCE_END.len_utf8()..];
    }
    if !rest.is_empty() {
        found.push(Part::Text(rest));
    }
    found
}

/// What a value refers to.
pub fn references(value: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    texts(value, &mut |text| {
        if text.contains(REFERENCE_START) {
            found.extend(parts(text).into_iter().filter_map(|part| match part {
                Part::Reference(reference) => Some(reference),
                Part::Text(_) => None,
            }));
        }
    });
    found
}

/// The secrets whose markers are in a value.
pub fn secrets(value: &Value) -> BTreeSet<SecretId> {
    let mut found = BTreeSet::new();
    texts(value, &mut |text| {
        if text.contains(MARKER_START) {
            found.extend(secrets_of(text));
        }
    });
    found
}

/// Whether a value has something in it that is known only after apply.
pub fn has_references(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(REFERENCE_START),
        Value::Array(items) => items.iter().any(has_references),
        Value::Object(map) => map.values().any(has_references),
        _ => false,
    }
}

fn texts(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, see)),
        Value::Object(map) => map.values().for_each(|item| texts(item, see)),
        _ => {}
    }
}

/// A value with the references put in that `known` has a value for; the others stay.
pub fn resolve<'a>(value: &Value, known: &dyn Fn(&Reference) -> Option<&'a Value>) -> Value {
    match value {
        Value::String(text) if text.contains(REFERENCE_START) => resolve_text(text, known),
        Value::Array(items) => Value::Array(items.iter().map(|item| resolve(item, known)).collect()),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, item)| (key.clone(), resolve(item, known))).collect())
        }
        other => other.clone(),
    }
}

fn resolve_text<'a>(text: &str, known: &dyn Fn(&Reference) -> Option<&'a Value>) -> Value {
    let parts = parts(text);
    if let [Part::Reference(reference)] = parts.as_slice() {
        return known(reference).cloned().unwrap_or_else(|| Value::String(text.to_owned()));
    }
    let written = parts.iter().map(|part| match part {
        Part::Text(text) => (*text).to_owned(),
        Part::Reference(reference) => known(reference).map_or_else(|| reference.marker(), written),
    });
    Value::String(written.collect())
}

/// How an output reads in the middle of a text.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value with the secrets put in. Only what is about to be handed to a provider goes through here.
pub fn reveal(value: &Value, secret: &dyn Fn(&SecretId) -> Option<String>) -> Result<Value, SecretId> {
    Ok(match value {
        Value::String(text) if text.contains(MARKER_START) => {
            let pieces = crate::secret::pieces(text).into_iter().map(|piece| match piece {
                crate::secret::Piece::Text(text) => Ok(text.to_owned()),
                crate::secret::Piece::Secret(id) => secret(&id).ok_or(id),
            });
            Value::String(pieces.collect::<Result<String, SecretId>>()?)
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| reveal(item, secret)).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, item)| Ok((key.clone(), reveal(item, secret)?)))
                .collect::<Result<_, SecretId>>()?,
        ),
        other => other.clone(),
    })
}

/// A value for people: what is known after apply and what is secret is named in angle brackets.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains([REFERENCE_START, MARKER_START]) => shown_text(text),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let fields = map.iter().map(|(key, item)| format!("{key}: {}", shown(item)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn shown_text(text: &str) -> String {
    let readable: String = parts(text)
        .into_iter()
        .map(|part| match part {
            Part::Text(text) => crate::secret::pieces(text)
                .into_iter()
                .map(|piece| match piece {
                    crate::secret::Piece::Text(text) => text.to_owned(),
                    crate::secret::Piece::Secret(id) => format!("<secret {}>", id.0),
                })
                .collect(),
            Part::Reference(reference) => format!("<{}.{}>", reference.resource, reference.output),
        })
        .collect();
    format!("\"{readable}\"")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reference(output: &str) -> Reference {
        Reference { resource: "web/lb".parse().unwrap(), output: output.to_owned() }
    }

    #[test]
    fn a_reference_alone_keeps_its_type() {
        let value = json!({"port": reference("port").marker(), "url": format!("http://{}/", reference("address").marker())});
        assert_eq!(references(&value).len(), 2);
        assert!(has_references(&value));
        let outputs = json!({"port": 8080, "address": "10.0.0.1"});
        let resolved = resolve(&value, &|reference| reference.in_map(outputs.as_object().unwrap()));
        assert_eq!(resolved, json!({"port": 8080, "url": "http://10.0.0.1/"}));
        assert!(!has_references(&resolved));
    }

    #[test]
    fn what_is_not_known_stays_and_can_be_read() {
        let value = json!([format!("http://{}/", reference("address").marker())]);
        assert_eq!(resolve(&value, &|_| None), value);
        assert_eq!(shown(&value), "[\"http://<web/lb.address>/\"]");
    }

    #[test]
    fn parts_of_outputs_are_reached() {
        let outputs = json!({"addresses": [{"ip": "10.0.0.1"}]});
        assert_eq!(
            reference("addresses.0.ip").in_map(outputs.as_object().unwrap()),
            Some(&json!("10.0.0.1"))
        );
        assert_eq!(reference("addresses.1.ip").in_map(outputs.as_object().unwrap()), None);
    }

    #[test]
    fn secrets_are_revealed_only_on_demand() {
        let id = SecretId("config.password".into());
        let value = json!({"dsn": format!("pw={}", id.marker())});
        assert_eq!(secrets(&value).len(), 1);
        assert_eq!(shown(&value), "{dsn: \"pw=<secret config.password>\"}");
        assert_eq!(reveal(&value, &|_| Some("x".into())), Ok(json!({"dsn": "pw=x"})));
        assert_eq!(reveal(&value, &|_| None), Err(id));
    }
}
