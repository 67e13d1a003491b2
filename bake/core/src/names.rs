//! The nouns that travel: names are checked once, when they are parsed, and do not mix afterwards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a valid {kind}: {rule}")]
pub struct NameError {
    /// What the text was to name: `image name`, `component name`, …
    pub kind: &'static str,
    /// The offending text.
    pub text: String,
    /// What a valid name looks like.
    pub rule: &'static str,
}

const RULE: &str = "names start with a lower-case letter and go on with lower-case letters, digits, `_` or `-`, \
                    64 characters at most";

fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    let starts = characters.next().is_some_and(|first| first.is_ascii_lowercase());
    let goes_on = characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    starts && goes_on && text.len() <= 64
}

/// A name that a function checks once, when it is parsed; text in serialised forms.
macro_rules! text_name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $rule:expr, $holds:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::names::NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $type {
            type Error = $crate::names::NameError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let holds: fn(&str) -> bool = $holds;
                if holds(&text) {
                    Ok(Self(text))
                } else {
                    Err($crate::names::NameError { kind: $kind, text, rule: $rule })
                }
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

pub(crate) use text_name;

text_name!(
    /// The name of a component: `caddy`.
    ComponentName,
    "component name",
    RULE,
    is_name
);
text_name!(
    /// The name of an image: `web`.
    ImageName,
    "image name",
    RULE,
    is_name
);
text_name!(
    /// The name of a variant of an image: `large`.
    VariantName,
    "variant name",
    RULE,
    is_name
);

/// An image, or one of its variants: `web`, `web/large`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    /// The image.
    pub image: ImageName,
    /// The variant; an image's plain form has none.
    pub variant: Option<VariantName>,
}

impl FromStr for ImageRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (image, variant) = match text.split_once('/') {
            Some((image, variant)) => (image, Some(variant.parse()?)),
            None => (text, None),
        };
        Ok(Self { image: image.parse()?, variant })
    }
}

impl TryFrom<String> for ImageRef {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> String {
        image.to_string()
    }
}

impl From<ImageName> for ImageRef {
    fn from(image: ImageName) -> Self {
        Self { image, variant: None }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.variant {
            Some(variant) => write!(f, "{}/{variant}", self.image),
            None => write!(f, "{}", self.image),
        }
    }
}

/// One operation of a layer: `caddy.configure.3`, the third of its phase.
///
/// The number counts the operations of one phase in the order of the recipe, from 1, so that an identity does
/// not depend on the lines a recipe happens to have.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct OperationId(String);

impl OperationId {
    /// The identity of the `number`th operation of a phase.
    pub fn new(component: &ComponentName, phase: crate::operation::Phase, number: usize) -> Self {
        Self(format!("{component}.{phase}.{number}"))
    }

    /// The identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("caddy".parse::<ComponentName>().is_ok());
        assert!("node_exporter".parse::<ComponentName>().is_ok());
        for bad in ["", "Caddy", "9p", "a b", "a/b", "é", &"a".repeat(65)] {
            assert!(bad.parse::<ComponentName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_image_reference_has_at_most_one_variant() {
        let large: ImageRef = "web/large".parse().unwrap();
        assert_eq!(large.to_string(), "web/large");
        assert!("web/large/huge".parse::<ImageRef>().is_err());
        assert!("web/".parse::<ImageRef>().is_err());
    }
}
