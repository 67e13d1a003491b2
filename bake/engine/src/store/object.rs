//! Named bytes under a URL: get, put on a condition, delete, list. Main type: the trait [`ObjectStore`].
//!
//! The trait blocks. What calls it computes on every byte (compression, digests) and so sits on threads of its
//! own anyway; an implementation on a network drives its requests from its own runtime and says by
//! [`ObjectStore::concurrency`] how many callers it wants at once.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use olbake_core::Digest;

use super::StoreError;

/// The name of an object: parts joined by `/`, none of which starts with a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed);
        if text.len() <= 512 && text.split('/').all(part) {
            Ok(Self(text.to_owned()))
        } else {
            Err(StoreError::BadKey(text.to_owned()))
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identifies an object's content; only good for [`Put::IfMatch`] on the same store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etag(pub String);

impl Etag {
    /// The etag of stores whose etag is the digest of the content.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Digest::of(bytes).hex())
    }
}

/// An object's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What [`Put::IfMatch`] compares.
    pub etag: Etag,
}

/// On what condition an object is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// On none: what is there is replaced.
    Always,
    /// Only where there is none.
    IfAbsent,
    /// Only over this content.
    IfMatch(Etag),
}

/// How a put ended. Either way the store is as one of the writers wanted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is written, durably.
    Stored(Etag),
    /// The condition did not hold; nothing was written.
    Refused,
}

impl PutOutcome {
    /// Whether it was written.
    pub fn stored(&self) -> bool {
        matches!(self, Self::Stored(_))
    }
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: ObjectKey,
    /// Its bytes.
    pub size: u64,
}

/// A large object on its way. Dropping it leaves nothing behind.
pub trait Upload: Write + Send {
    /// Gives the object its name and makes it durable, unless one of that name is there.
    fn commit(self: Box<Self>, key: &ObjectKey) -> Result<(), StoreError>;

    /// Where it is written to, for people.
    fn place(&self) -> String;
}

/// A place for objects. Objects appear whole or not at all, and are durable when a call that wrote them returns.
pub trait ObjectStore: fmt::Debug + Send + Sync {
    /// An object's content; none where there is no such object.
    fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError>;

    /// A part of an object; shorter where the object ends earlier, none where there is no such object.
    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize) -> Result<Option<Vec<u8>>, StoreError>;

    /// Writes a small object.
    fn put(&self, key: &ObjectKey, bytes: &[u8], condition: Put) -> Result<PutOutcome, StoreError>;

    /// Starts a large object whose name follows from its content.
    fn upload(&self) -> Result<Box<dyn Upload>, StoreError>;

    /// Removes an object; false where there was none.
    fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError>;

    /// The objects whose names start with `prefix`, in order of name.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;

    /// Where an object is, for people: a path or a URL.
    fn place(&self, key: &ObjectKey) -> String;

    /// How many calls at once serve it best.
    fn concurrency(&self) -> usize;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_inside_the_store() {
        assert!("v1/packs/ab-c_d.pack".parse::<ObjectKey>().is_ok());
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", ".tmp/x", "a/.b", "a b", "a\\b", "é", "a\0"] {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad:?}");
        }
    }
}
