//! Secrets on the agent's side: putting values in for markers, and taking values out of what is sent.
//!
//! Main type: [`Secrets`]. A value is recognised as it is, in base64, URL-encoded, and escaped for JSON and for a
//! shell; of a value of several lines, each longer line is recognised too, because output travels line by line.

use std::collections::BTreeMap;

use olbake_core::protocol::FromAgent;
use olbake_core::report::OperationReport;
use olbake_core::secret::{Piece, SecretId, pieces};

use crate::error::{OpError, Result};

/// Stands in for a secret in everything that leaves the machine.
const MASK: &str = "***";
/// Shorter values would mask ordinary text.
const SHORTEST_MASKED: usize = 4;

/// The secret values of a run, and the texts that give them away.
#[derive(Default)]
pub(crate) struct Secrets {
    values: BTreeMap<SecretId, String>,
    /// Longest first, so that no form hides a longer one.
    masked: Vec<String>,
}

/// How a value is written somewhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// What to call it: `plain`, `base64`, …
    pub(crate) name: &'static str,
    /// The text.
    pub(crate) text: String,
}

impl Secrets {
    /// Takes the values of a run.
    pub(crate) fn new(values: BTreeMap<SecretId, String>) -> Self {
        let mut masked: Vec<String> = Vec::new();
        for value in values.values() {
            masked.extend(forms(value).into_iter().map(|form| form.text));
            if value.contains('\n') {
                masked
                    .extend(value.lines().map(|line| line.trim().to_owned()).filter(|line| line.len() >= 8));
            }
        }
        masked.retain(|text| text.len() >= SHORTEST_MASKED);
        masked.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        masked.dedup();
        Self { values, masked }
    }

    /// The value of a secret.
    pub(crate) fn value(&self, id: &SecretId) -> Result<&str> {
        let missing = || OpError::wrong(format!("the secret `{}` was not sent to the machine", id.0));
        self.values.get(id).map(String::as_str).ok_or_else(missing)
    }

    /// All values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&SecretId, &str)> {
        self.values.iter().map(|(id, value)| (id, value.as_str()))
    }

    /// Puts values in for markers.
    pub(crate) fn reveal(&self, text: &str) -> Result<String> {
        let mut revealed = String::with_capacity(text.len());
        for piece in pieces(text) {
            revealed.push_str(match &piece {
                Piece::Text(text) => text,
                Piece::Secret(id) => self.value(id)?,
            });
        }
        Ok(revealed)
    }

    /// Takes values out of a text.
    pub(crate) fn mask(&self, text: &mut String) {
        for secret in &self.masked {
            if text.contains(secret.as_str()) {
                *text = text.replace(secret.as_str(), MASK);
            }
        }
    }

    /// Takes values out of a message.
    pub(crate) fn mask_message(&self, message: &mut FromAgent) {
        match message {
            FromAgent::Output { line, .. } => self.mask(line),
            FromAgent::Fault { message } => self.mask(message),
            FromAgent::Finished(report) => self.mask_report(report),
            FromAgent::Hello(_)
            | FromAgent::Need { .. }
            | FromAgent::Started { .. }
            | FromAgent::Done { .. } => {}
        }
    }

    /// Takes values out of a report.
    pub(crate) fn mask_report(&self, report: &mut OperationReport) {
        let OperationReport { id: _, outcome: _, changes, reason, failure, micros: _, resumed: _ } = report;
        for change in changes {
            self.mask(&mut change.what);
            change.from.iter_mut().chain(&mut change.to).for_each(|text| self.mask(text));
        }
        reason.iter_mut().for_each(|text| self.mask(text));
        if let Some(failure) = failure {
            self.mask(&mut failure.message);
            let details = failure.command.iter_mut().chain(&mut failure.status).chain(&mut failure.output);
            details.for_each(|text| self.mask(text));
        }
    }
}

/// The texts that a value may appear as. Base64 comes in three alignments, without the characters that depend on
/// what stands around the value, in both alphabets.
pub(crate) fn forms(value: &str) -> Vec<Form> {
    let mut found: Vec<Form> = Vec::new();
    let mut add = |name: &'static str, text: String| {
        if !text.is_empty() && found.iter().all(|form| form.text != text) {
            found.push(Form { name, text });
        }
    };
    add("plain", value.to_owned());
    for alignment in 0..3 {
        let standard = base64_core(value.as_bytes(), alignment);
        // Few characters of base64 occur anywhere; a short value is found in its other forms.
        if standard.len() >= 8 {
            add("base64", standard.replace('+', "-").replace('/', "_"));
            add("base64", standard);
        }
    }
    add("URL-encoded", url_encode(value));
    let json = serde_json::to_string(value).expect("texts are expressible in JSON");
    add("JSON-escaped", json[1..json.len() - 1].to_owned());
    add("shell-escaped", value.replace('\'', "'\\''"));
    add("shell-escaped", shell_backslashes(value));
    found
}

/// The base64 of a value that starts `alignment` bytes into a group of three, without the characters that
/// neighbouring bytes take part in.
fn base64_core(value: &[u8], alignment: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = vec![0; alignment];
    bytes.extend_from_slice(value);
    let mut text = String::new();
    let first = (alignment * 8).div_ceil(6);
    let last = bytes.len() * 8 / 6;
    for character in first..last {
        let bit = character * 6;
        let pair = u16::from_be_bytes([bytes[bit / 8], bytes.get(bit / 8 + 1).copied().unwrap_or(0)]);
        let index = (pair >> (10 - bit % 8)) & 63;
        text.push(char::from(ALPHABET[usize::from(index)]));
    }
    text
}

fn url_encode(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// As `printf %q` writes it.
fn shell_backslashes(value: &str) -> String {
    let mut text = String::new();
    for character in value.chars() {
        if !character.is_alphanumeric() && !"-_./:=@%+,".contains(character) {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(value: &str) -> Secrets {
        Secrets::new(BTreeMap::from([(SecretId("a.b".into()), value.to_owned())]))
    }

    #[test]
    fn base64_is_found_at_every_alignment() {
        // From RFC 4648: base64("foobar") is Zm9vYmFy.
        assert_eq!(base64_core(b"foobar", 0), "Zm9vYmFy");
        // base64("xfoobar") is eGZvb2Jhcg==, base64("xyfoobar") is eHlmb29iYXI=.
        assert!("eGZvb2Jhcg==".contains(&base64_core(b"foobar", 1)));
        assert!("eHlmb29iYXI=".contains(&base64_core(b"foobar", 2)));
    }

    #[test]
    fn every_form_is_masked() {
        let secrets = secrets("p\"a'ss w&rd");
        for text in
            ["x p\"a'ss w&rd y", "x p\\\"a'ss w&rd y", "x p%22a%27ss%20w%26rd y", "x cCJhJ3NzIHcmcmQ= y"]
        {
            let mut masked = text.to_owned();
            secrets.mask(&mut masked);
            assert!(masked.contains(MASK), "{text} → {masked}");
            assert!(!masked.contains("w&rd"));
        }
    }

    #[test]
    fn lines_of_a_long_value_are_masked() {
        let secrets = secrets("-----BEGIN X-----\nabcdefghijkl\n-----END X-----\n");
        let mut line = "got abcdefghijkl".to_owned();
        secrets.mask(&mut line);
        assert_eq!(line, "got ***");
    }

    #[test]
    fn markers_become_values() {
        let secrets = secrets("hunter2");
        let text = format!("k={}\n", SecretId("a.b".into()).marker());
        assert_eq!(secrets.reveal(&text).unwrap(), "k=hunter2\n");
        assert!(secrets.reveal(&SecretId("c".into()).marker()).is_err());
    }
}
