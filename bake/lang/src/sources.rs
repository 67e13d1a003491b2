//! The files of a workspace: read once, digested once, and never outside of it.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;

/// Files by their path relative to the workspace.
pub(crate) struct Sources {
    root: Utf8PathBuf,
    /// Where the root is, without links.
    real_root: OnceLock<Utf8PathBuf>,
    texts: Mutex<HashMap<String, Arc<str>>>,
    digests: Mutex<HashMap<Utf8PathBuf, (Digest, u64)>>,
}

/// A file's kind, as a tree has them.
pub(crate) enum Entry {
    Directory { mode: u32 },
    File { mode: u32 },
    Link { target: Utf8PathBuf },
}

impl Sources {
    /// The files below a folder.
    pub(crate) fn new(root: &Utf8Path) -> Self {
        Self {
            root: root.to_owned(),
            real_root: OnceLock::new(),
            texts: Mutex::default(),
            digests: Mutex::default(),
        }
    }

    /// The workspace's folder.
    pub(crate) fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// The text of a file.
    pub(crate) fn text(&self, file: &str) -> Option<Arc<str>> {
        self.read(file).ok()
    }

    /// The text of a file, or why it cannot be read.
    pub(crate) fn read(&self, file: &str) -> Result<Arc<str>, String> {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = texts.get(file) {
            return Ok(text.clone());
        }
        let text = fs::read_to_string(self.within(file)?).map_err(|error| reason(file, &error))?;
        let text: Arc<str> = text.into();
        texts.insert(file.to_owned(), text.clone());
        Ok(text)
    }

    /// The digest and size of a file.
    pub(crate) fn digest(&self, file: &Utf8Path) -> Result<(Digest, u64), String> {
        let known = self.digests.lock().unwrap_or_else(PoisonError::into_inner).get(file).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let bytes = fs::read(self.within(file.as_str())?).map_err(|error| reason(file.as_str(), &error))?;
        let found = (Digest::of(&bytes), bytes.len() as u64);
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned(), found);
        Ok(found)
    }

    /// Where a file is. A link may lead to it, but not out of the workspace: whoever bakes may read more than whoever
    /// wrote the recipe.
    fn within(&self, file: &str) -> Result<Utf8PathBuf, String> {
        let real = |path: &Utf8Path| path.canonicalize_utf8().map_err(|error| reason(file, &error));
        let found = real(&self.root.join(file))?;
        let root = match self.real_root.get() {
            Some(root) => root,
            None => {
                let root = real(&self.root)?;
                self.real_root.get_or_init(|| root)
            }
        };
        if found.starts_with(root) {
            Ok(found)
        } else {
            Err(format!("`{file}` is a link that leads out of the workspace"))
        }
    }

    /// Whether there is nothing of this name.
    pub(crate) fn is_missing(&self, file: &str) -> bool {
        !self.root.join(file).exists()
    }

    /// What is below a folder, sorted by path, parents before children.
    pub(crate) fn tree(&self, folder: &Utf8Path) -> Result<Vec<(Utf8PathBuf, Entry)>, String> {
        let mut found = Vec::new();
        self.walk(folder, Utf8Path::new(""), &mut found)?;
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }

    fn walk(
        &self,
        folder: &Utf8Path,
        below: &Utf8Path,
        found: &mut Vec<(Utf8PathBuf, Entry)>,
    ) -> Result<(), String> {
        use std::os::unix::fs::PermissionsExt as _;
        let here = self.root.join(folder).join(below);
        for entry in here.read_dir_utf8().map_err(|error| reason(folder.as_str(), &error))? {
            let entry = entry.map_err(|error| reason(folder.as_str(), &error))?;
            let path = below.join(entry.file_name());
            let meta = fs::symlink_metadata(entry.path()).map_err(|error| reason(path.as_str(), &error))?;
            // The bits that git keeps: a checkout with another umask is the same workspace.
            let executable = meta.permissions().mode() & 0o100 != 0;
            if meta.is_dir() {
                found.push((path.clone(), Entry::Directory { mode: 0o755 }));
                self.walk(folder, &path, found)?;
            } else if meta.is_symlink() {
                let target = entry.path().read_link_utf8().map_err(|error| reason(path.as_str(), &error))?;
                found.push((path, Entry::Link { target }));
            } else {
                found.push((path, Entry::File { mode: if executable { 0o755 } else { 0o644 } }));
            }
        }
        Ok(())
    }
}

fn reason(file: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no file `{file}`"),
        std::io::ErrorKind::InvalidData => format!("`{file}` is not UTF-8 text"),
        _ => format!("`{file}` cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use super::*;

    #[test]
    fn links_do_not_lead_out_of_the_workspace() {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let root = path.join("workspace");
        fs::create_dir(&root).unwrap();
        fs::write(path.join("outside"), "not for recipes").unwrap();
        fs::write(root.join("inside"), "for recipes").unwrap();
        std::os::unix::fs::symlink("../outside", root.join("out")).unwrap();
        std::os::unix::fs::symlink("inside", root.join("in")).unwrap();
        let sources = Sources::new(&root);
        assert_eq!(&*sources.read("in").unwrap(), "for recipes");
        assert_eq!(sources.digest("in".into()).unwrap().1, 11);
        assert_eq!(sources.read("out").unwrap_err(), "`out` is a link that leads out of the workspace");
        assert!(sources.digest("out".into()).is_err());
        // A workspace that is itself found through a link is the same one.
        std::os::unix::fs::symlink("workspace", path.join("by-link")).unwrap();
        let linked = Sources::new(&path.join("by-link"));
        assert_eq!(&*linked.read("in").unwrap(), "for recipes");
        assert!(linked.read("out").is_err());
        // Where the root is, is found out once.
        fs::write(root.join("later"), "x").unwrap();
        assert_eq!(linked.real_root.get(), Some(&root.canonicalize_utf8().unwrap()));
    }
}
