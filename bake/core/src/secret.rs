//! Secrets in plans: a reference and a keyed digest, never a value.
//!
//! Text that will contain a secret carries a *marker* in its place: U+E000, the secret's identity, U+E001. Both
//! characters are of Unicode's private use area and are refused in recipes and settings, so a marker can only
//! come from a secret. The agent puts the values in, in memory, when it runs the operation.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Starts a marker.
pub const MARKER_START: char = '\u{e000}';
/// Ends a marker.
pub const MARKER_END: char = '\u{e001}';

/// A secret setting: `caddy.acme`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct SecretId(pub String);

impl SecretId {
    /// The text that stands for this secret's value.
    pub fn marker(&self) -> String {
        format!("{MARKER_START}{}{MARKER_END}", self.0)
    }
}

/// What a plan knows of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Secret {
    /// Where the value comes from: `env:ACME_TOKEN` or `file:secrets/acme`.
    pub source: String,
    /// HMAC-SHA-256 of the value under the workspace's own key: it tells versions apart and tells nothing else.
    /// Absent while nobody has read the value, as in `olbake check`.
    pub version: Option<Digest>,
}

/// One piece of a text that may carry markers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Plain text.
    Text(&'a str),
    /// The place of a secret.
    Secret(SecretId),
}

/// Splits a text at its markers. A start without an end is plain text.
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(MARKER_START) {
        let inner = start + MARKER_START.len_utf8();
        let Some(length) = rest[inner..].find(MARKER_END) else { break };
        if start > 0 {
            found.push(Piece::Text(&rest[..start]));
        }
        found.push(Piece::Secret(SecretId(rest[inner..inner + length].to_owned())));
        rest = &rest[inner + length + MARKER_END.len_utf8()..];
    }
    if !rest.is_empty() {
        found.push(Piece::Text(rest));
    }
    found
}

/// The secrets that a text refers to, in the order they appear.
pub fn references(text: &str) -> Vec<SecretId> {
    pieces(text)
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::Secret(id) => Some(id),
            Piece::Text(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_again() {
        let id = SecretId("caddy.acme".into());
        let text = format!("token={}\n", id.marker());
        assert_eq!(pieces(&text), [Piece::Text("token="), Piece::Secret(id.clone()), Piece::Text("\n")]);
        assert_eq!(references(&text), [id]);
        assert_eq!(references("none"), []);
    }
}
