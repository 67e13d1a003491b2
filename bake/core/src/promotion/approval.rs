//! What is signed when someone approves, and how many people did. Main types: [`Statement`] and [`Approvals`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use crate::{Digest, ImageName, ImageRef, VariantName, canonical};

/// The namespace of approvals' signatures: a signature for anything else is none for this.
pub const APPROVAL_NAMESPACE: &str = "olbake-approval";

/// What a person signs: that this version may enter this channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The image.
    pub image: ImageName,
    /// Its variant; null is the plain image.
    pub variant: Option<VariantName>,
    /// The version.
    pub digest: Digest,
    /// The channel.
    pub channel: Channel,
}

impl Statement {
    /// The statement about a version and a channel.
    pub fn new(image: &ImageRef, digest: Digest, channel: &Channel) -> Self {
        let ImageRef { image, variant } = image.clone();
        Self { image, variant, digest, channel: channel.clone() }
    }

    /// The text that is signed: canonical JSON without a line end.
    pub fn text(&self) -> String {
        canonical::to_string(self)
    }
}

/// An approval whose signature is right and whose signer is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The signer's public key: `ssh-ed25519 AAAA…`.
    pub key: String,
    /// Its fingerprint: `SHA256:…`.
    pub fingerprint: String,
    /// Whose key it is.
    pub principals: Vec<String>,
}

/// The approvals of a version for a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approvals {
    /// Those that count.
    pub accepted: Vec<Approval>,
    /// Why others do not count, each: `a signature by SHA256:…, which is not in allowed_signers`.
    pub refused: Vec<String>,
}

/// A person who approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signer {
    /// Their names.
    pub principals: Vec<String>,
    /// The fingerprints of the keys they signed with.
    pub fingerprints: Vec<String>,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.principals.first().or(self.fingerprints.first()).map_or("?", String::as_str))
    }
}

impl Approvals {
    /// The people who approved, each once and by name: approvals by one key, or by keys that share a name, are one
    /// person's.
    pub fn signers(&self) -> Vec<Signer> {
        let mut signers: Vec<Signer> = Vec::new();
        for Approval { key: _, fingerprint, principals } in &self.accepted {
            let mut new = Signer { principals: principals.clone(), fingerprints: vec![fingerprint.clone()] };
            let mut place = signers.len();
            // What links the new approval to several known people makes them one.
            for at in (0..signers.len()).rev() {
                if shares(&signers[at], &new) {
                    let known = signers.remove(at);
                    new = joined(known, new);
                    place = at;
                }
            }
            signers.insert(place, new);
        }
        signers.sort_by(|a, b| a.principals.cmp(&b.principals));
        signers
    }
}

fn shares(a: &Signer, b: &Signer) -> bool {
    a.principals.iter().any(|name| b.principals.contains(name))
        || a.fingerprints.iter().any(|print| b.fingerprints.contains(print))
}

fn joined(mut a: Signer, b: Signer) -> Signer {
    for (all, more) in [(&mut a.principals, b.principals), (&mut a.fingerprints, b.fingerprints)] {
        for text in more {
            if !all.contains(&text) {
                all.push(text);
            }
        }
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_text_is_canonical() {
        let statement = |image: &str| {
            Statement::new(&image.parse().unwrap(), Digest::of(b"v"), &"Production".parse().unwrap()).text()
        };
        let digest = Digest::of(b"v");
        let expect = |variant: &str| {
            format!(
                "{{\"channel\":\"Production\",\"digest\":\"{digest}\",\"image\":\"web\",\"variant\":{variant}}}"
            )
        };
        assert_eq!(statement("web"), expect("null"));
        assert_eq!(statement("web/large"), expect("\"large\""));
    }

    #[test]
    fn people_are_told_apart_by_keys_and_names() {
        let check = |approvals: &[(&str, &[&str])], expect: &[&[&str]]| {
            let accepted = approvals
                .iter()
                .map(|(key, principals)| Approval {
                    key: (*key).to_owned(),
                    fingerprint: (*key).to_owned(),
                    principals: principals.iter().map(|name| (*name).to_owned()).collect(),
                })
                .collect();
            let signers = Approvals { accepted, refused: Vec::new() }.signers();
            let names: Vec<Vec<String>> = signers.into_iter().map(|signer| signer.principals).collect();
            assert_eq!(names, expect.iter().map(|names| names.to_vec()).collect::<Vec<_>>());
        };
        check(&[("1", &["ann"]), ("2", &["bob"])], &[&["ann"], &["bob"]]);
        check(&[("1", &["ann"]), ("1", &["bob"])], &[&["ann", "bob"]]);
        check(&[("1", &["ann"]), ("2", &["bob"]), ("3", &["ann", "bob"])], &[&["ann", "bob"]]);
        check(&[("1", &["ann", "a@x"]), ("2", &["a@x"]), ("3", &["bob"])], &[&["ann", "a@x"], &["bob"]]);
    }
}
