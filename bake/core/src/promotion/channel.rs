//! The names of channels. Main type: [`Channel`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::NameError;

/// The name of a channel, and of an environment: `CI`, `QA`, `Production`, capitalised as written.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Channel(String);

const RULE: &str =
    "names start with a letter and go on with letters, digits, `_` or `-`, 64 characters at most";

impl Channel {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Channel {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
        let goes_on = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if starts && goes_on && text.len() <= 64 {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError { kind: "channel name", text: text.to_owned(), rule: RULE })
        }
    }
}

impl TryFrom<String> for Channel {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Channel> for String {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The channel that comes before another in the order of promotion; none before the first.
pub fn channel_before<'a>(order: &'a [Channel], channel: &Channel) -> Option<&'a Channel> {
    let place = order.iter().position(|other| other == channel)?;
    order.get(place.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_as_they_are_written() {
        for name in ["CI", "QA", "Production", "blue-2", "q_a"] {
            assert_eq!(name.parse::<Channel>().unwrap().to_string(), name);
        }
        for bad in ["", "-", "2nd", "a b", "a/b", "..", "Ü", &"a".repeat(65)] {
            assert!(bad.parse::<Channel>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_first_channel_has_none_before_it() {
        let order: Vec<Channel> = ["CI", "QA", "Production"].map(|name| name.parse().unwrap()).into();
        assert_eq!(channel_before(&order, &order[2]), Some(&order[1]));
        assert_eq!(channel_before(&order, &order[0]), None);
        assert_eq!(channel_before(&order, &"Other".parse().unwrap()), None);
    }
}
