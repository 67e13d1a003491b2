//! `olbake.lock`: what the outside decided once, so that the next bake starts from the same. Main type: [`LockFile`].
//!
//! ```json
//! {
//!   "schema": 1,
//!   "amis": [
//!     { "owner": "136693071363", "filter": "debian-12-amd64-*", "name": "debian-12-amd64-20260102-0304" }
//!   ]
//! }
//! ```
//!
//! It belongs under version control. Who wants a newer image removes its entry, or the file.

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use crate::store::file::{read_whole, write_whole};

/// The file's name.
pub const FILE: &str = "olbake.lock";
/// The form of the file.
const SCHEMA: u32 = 1;

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not understood.
    #[error("`{path}` is not understood: {problem}")]
    Torn {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        problem: String,
    },
}

/// An image of EC2 that was chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedAmi {
    /// The account that owns it.
    pub owner: String,
    /// The name that was looked for, with `*` and `?`.
    pub filter: String,
    /// Its name.
    pub name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    #[serde(default)]
    amis: Vec<LockedAmi>,
}

/// The file of a workspace.
#[derive(Clone, Debug)]
pub struct LockFile {
    path: Utf8PathBuf,
}

impl LockFile {
    /// That of a workspace.
    pub fn new(workspace: &Utf8Path) -> Self {
        Self { path: workspace.join(FILE) }
    }

    /// The name of the image that was chosen for a filter; none where none was yet.
    pub fn ami(&self, owner: &str, filter: &str) -> Result<Option<String>, LockError> {
        let found = self.read()?.into_iter().find(|ami| ami.owner == owner && ami.filter == filter);
        Ok(found.map(|ami| ami.name))
    }

    /// Writes down which image was chosen.
    pub fn put_ami(&self, chosen: LockedAmi) -> Result<(), LockError> {
        let mut amis = self.read()?;
        amis.retain(|ami| (&ami.owner, &ami.filter) != (&chosen.owner, &chosen.filter));
        amis.push(chosen);
        amis.sort();
        let document = Document { schema: SCHEMA, amis };
        let text = serde_json::to_string_pretty(&document).expect("the lock is expressible in JSON") + "\n";
        Ok(write_whole(&self.path, text.as_bytes(), 0o644)?)
    }

    fn read(&self) -> Result<Vec<LockedAmi>, LockError> {
        let Some(bytes) = read_whole(&self.path)? else { return Ok(Vec::new()) };
        let torn = |problem: String| LockError::Torn { path: self.path.clone(), problem };
        let document: Document = serde_json::from_slice(&bytes).map_err(|error| torn(error.to_string()))?;
        match document.schema {
            SCHEMA => Ok(document.amis),
            other => Err(torn(format!("it has form {other}, this olbake knows form {SCHEMA}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use super::*;

    #[test]
    fn what_was_chosen_stays_until_it_is_chosen_anew() {
        let folder = tempfile::tempdir().unwrap();
        let lock = LockFile::new(Utf8Path::from_path(folder.path()).unwrap());
        assert_eq!(lock.ami("1", "debian-*").unwrap(), None);
        let chosen = |filter: &str, name: &str| LockedAmi {
            owner: "1".to_owned(),
            filter: filter.to_owned(),
            name: name.to_owned(),
        };
        for (filter, name) in [("debian-*", "debian-1"), ("other", "other"), ("debian-*", "debian-2")] {
            lock.put_ami(chosen(filter, name)).unwrap();
        }
        assert_eq!(lock.ami("1", "debian-*").unwrap().unwrap(), "debian-2");
        assert_eq!(lock.ami("1", "other").unwrap().unwrap(), "other");
        std::fs::write(folder.path().join(FILE), "{\"schema\": 2}").unwrap();
        assert!(lock.ami("1", "other").unwrap_err().to_string().contains("form 2"));
    }
}
