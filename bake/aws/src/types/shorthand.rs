//! Shorthand for schemas of types.

use olbake_core::settings::{RecordField, Type};
use olbake_core::stack::catalog::{Change, TypeSchema};
use serde_json::{Value, json};

/// A field of a record.
pub(super) fn field(name: &str, ty: Type, default: Option<Value>) -> RecordField {
    RecordField { name: name.to_owned(), ty, default }
}

/// A field that may be absent.
pub(super) fn optional(name: &str, ty: Type) -> RecordField {
    field(name, ty.or_none(), Some(Value::Null))
}

/// One of some words.
pub(super) fn words(words: &[&str]) -> Type {
    Type::Enum(words.iter().map(|word| (*word).to_owned()).collect())
}

/// A list without order.
pub(super) fn set_of(ty: Type) -> Type {
    Type::Set(Box::new(ty))
}

/// What all types share.
pub(super) trait Common {
    /// Takes a property that may be left out.
    fn may_take(self, name: &'static str, ty: Type, change: Change, doc: &'static str) -> Self;

    /// Gives the id by which AWS knows it.
    fn gives_id(self, doc: &'static str) -> Self;

    /// Takes tags.
    fn tagged(self) -> Self;
}

impl Common for TypeSchema {
    fn may_take(self, name: &'static str, ty: Type, change: Change, doc: &'static str) -> Self {
        self.takes_or(name, ty.or_none(), Value::Null, change, doc)
    }

    fn gives_id(self, doc: &'static str) -> Self {
        self.gives("id", Type::Str, doc)
    }

    fn tagged(self) -> Self {
        let tags = Type::Map(Box::new(Type::Str), Box::new(Type::Str));
        self.takes_or("tags", tags, json!({}), Change::InPlace, "tags besides olbake's own")
    }
}
