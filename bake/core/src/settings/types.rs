//! The types of settings, as recipes write them.

use std::fmt;

use serde_json::Value;

/// The type of a setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Text.
    Str,
    /// A whole number of 64 bits.
    Int,
    /// `True` or `False`.
    Bool,
    /// A number.
    Float,
    /// An absolute path.
    Path,
    /// An absolute URL.
    Url,
    /// A length of time: `90s`, `1h30m`; its canonical form is in seconds or milliseconds.
    Duration,
    /// A number of bytes: `4GiB`; its canonical form is a whole number.
    Bytes,
    /// A version: `2.6.2-5`.
    Version,
    /// A host name.
    Hostname,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A network in CIDR form.
    Cidr,
    /// A TCP or UDP port.
    Port,
    /// Permission bits: `0o644` or `"0644"`; its canonical form is a whole number.
    Mode,
    /// One of some words.
    Enum(Vec<String>),
    /// A list.
    List(Box<Type>),
    /// A list without order or repetition; its canonical form is sorted.
    Set(Box<Type>),
    /// Values by text keys of a type.
    Map(Box<Type>, Box<Type>),
    /// Named fields.
    Record(Vec<RecordField>),
    /// Nothing, or a value.
    Optional(Box<Type>),
    /// One of some types; the first that fits.
    Union(Vec<Type>),
    /// A secret: a source such as `env:ACME_TOKEN`, never a value.
    Secret,
    /// A value that is known only when the machine boots: an expression, taken as it is.
    Deferred,
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordField {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Its value where none is given; a field without one must be given unless it is optional.
    pub default: Option<Value>,
}

impl Type {
    /// The type, or nothing.
    #[must_use]
    pub fn or_none(self) -> Self {
        match self {
            Self::Optional(_) => self,
            other => Self::Optional(Box::new(other)),
        }
    }

    /// This type or another, flattened.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Optional(inner), other) => inner.or(other).or_none(),
            (one, Self::Optional(inner)) => one.or(*inner).or_none(),
            (Self::Union(mut all), Self::Union(more)) => {
                all.extend(more);
                Self::Union(all)
            }
            (Self::Union(mut all), other) => {
                all.push(other);
                Self::Union(all)
            }
            (one, Self::Union(mut all)) => {
                all.insert(0, one);
                Self::Union(all)
            }
            (one, other) => Self::Union(vec![one, other]),
        }
    }

    /// Whether nothing is a value of the type.
    pub fn is_optional(&self) -> bool {
        matches!(self, Self::Optional(_))
    }

    /// Whether it is a secret, or an optional one.
    pub fn is_secret(&self) -> bool {
        match self {
            Self::Secret => true,
            Self::Optional(inner) => inner.is_secret(),
            _ => false,
        }
    }

    /// Whether a secret is inside, at any depth.
    pub fn contains_secret(&self) -> bool {
        match self {
            Self::Secret => true,
            Self::List(inner) | Self::Set(inner) | Self::Optional(inner) => inner.contains_secret(),
            Self::Map(key, value) => key.contains_secret() || value.contains_secret(),
            Self::Record(fields) => fields.iter().any(|field| field.ty.contains_secret()),
            Self::Union(all) => all.iter().any(Self::contains_secret),
            _ => false,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Float => "float",
            Self::Path => "path",
            Self::Url => "url",
            Self::Duration => "duration",
            Self::Bytes => "bytesize",
            Self::Version => "version",
            Self::Hostname => "hostname",
            Self::Ip => "ip",
            Self::Cidr => "cidr",
            Self::Port => "port",
            Self::Mode => "mode",
            Self::Secret => "secret",
            Self::Deferred => "deferred",
            Self::Enum(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                return write!(f, "enum({})", quoted.join(", "));
            }
            Self::List(inner) => return write!(f, "list[{inner}]"),
            Self::Set(inner) => return write!(f, "set[{inner}]"),
            Self::Map(key, value) => return write!(f, "map[{key}, {value}]"),
            Self::Record(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|field| format!("{} = {}", field.name, field.ty)).collect();
                return write!(f, "record({})", fields.join(", "));
            }
            Self::Optional(inner) => return write!(f, "{inner} | None"),
            Self::Union(all) => {
                let all: Vec<String> = all.iter().map(Self::to_string).collect();
                return f.write_str(&all.join(" | "));
            }
        };
        f.write_str(word)
    }
}
