//! Properties of resources as types. Main function: [`parse`].

use std::fmt;

use olbake_engine::stack::provider::ProviderError;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A name as the server's catalog has it: any text of at most 63 bytes, for it would be cut there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Identifier(String);

impl TryFrom<String> for Identifier {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = (1..=63).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits {
            Ok(Self(text))
        } else {
            Err(format!("a name has 1 to 63 bytes and no control characters: {text:?}"))
        }
    }
}

impl Identifier {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in SQL.
    pub(crate) fn quoted(&self) -> String {
        escape_identifier(&self.0)
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that the catalog has, as it stands in SQL.
pub(crate) fn quoted(name: &str) -> String {
    escape_identifier(name)
}

/// A text as it stands in SQL.
pub(crate) fn literal(text: &str) -> String {
    escape_literal(text)
}

/// The properties of a resource.
pub(crate) fn parse<T: DeserializeOwned>(inputs: &Map<String, Value>) -> Result<T, ProviderError> {
    serde_json::from_value(Value::Object(inputs.clone()))
        .map_err(|error| ProviderError::refused(format!("the properties do not fit: {error}")))
}

/// Outputs or properties, from pairs.
pub(crate) fn map<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A set in its canonical form.
pub(crate) fn set(items: impl IntoIterator<Item = String>) -> Value {
    let mut items: Vec<Value> = items.into_iter().map(Value::from).collect();
    items.sort_by_cached_key(Value::to_string);
    Value::Array(items)
}

/// Somebody else's object has the name.
pub(crate) fn taken(noun: &str, name: &str) -> ProviderError {
    ProviderError::Refused {
        message: format!("the {noun} `{name}` exists, and is not this resource's"),
        help: Some(format!("take it with `import_id = \"{name}\"`, or choose another name")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(name: &str, expect: Option<&str>) {
        let found: Result<Identifier, _> = serde_json::from_value(json!(name));
        assert_eq!(found.ok().map(|name| name.quoted()).as_deref(), expect, "{name:?}");
    }

    #[test]
    fn names_cannot_leave_their_quotes() {
        check("shop", Some("\"shop\""));
        check("Shop; drop", Some("\"Shop; drop\""));
        check("a\"; DROP ROLE b; --", Some("\"a\"\"; DROP ROLE b; --\""));
        check("ünïcode\\", Some("\"ünïcode\\\""));
        for bad in ["", "a\0b", "a\nb", "x".repeat(64).as_str(), "ü".repeat(32).as_str()] {
            check(bad, None);
        }
    }

    #[test]
    fn texts_cannot_leave_theirs() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("\\'; --"), " E'\\\\''; --'");
    }

    #[test]
    fn sets_are_as_the_core_has_them() {
        let ty = olbake_core::settings::Type::Set(Box::new(olbake_core::settings::Type::Str));
        let items = ["b", "a\"", "a", "ä"].map(str::to_owned);
        assert_eq!(Ok(set(items.clone())), ty.coerce(&json!(items)));
    }
}
