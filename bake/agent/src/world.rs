//! What is on the machine, as operations see it: what is there, and in check mode what earlier operations would
//! have made of it.
//!
//! Main type: [`World`]. Operations inspect through it and nothing else, so that applying and predicting take the
//! same decisions. In apply mode nothing is ever predicted, and every look is a system call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard};

use camino::{Utf8Path, Utf8PathBuf};

use crate::accounts::Accounts;
use crate::error::{At, OpError, Result};

/// Mode and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Meta {
    /// Root's, with this mode.
    pub(crate) fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}

/// Bytes, wherever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In a file.
    File(Utf8PathBuf),
    /// In memory.
    Bytes(Arc<Vec<u8>>),
    /// Nobody knows before it is made.
    Unknown,
}

impl Source {
    /// Some text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Bytes(Arc::new(text.into().into_bytes()))
    }

    /// All bytes.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => fs::read(path).at("read", path),
            Self::Bytes(bytes) => Ok(bytes.to_vec()),
            Self::Unknown => {
                Err(OpError::Missing("the content is known only after an earlier operation".to_owned()))
            }
        }
    }

    /// How many bytes.
    pub(crate) fn size(&self) -> Result<u64> {
        match self {
            Self::File(path) => Ok(fs::metadata(path).at("look at", path)?.len()),
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::Unknown => Ok(u64::MAX),
        }
    }
}

/// What is at a path. Symbolic links are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Absent,
    File { meta: Meta, content: Source },
    Directory { meta: Meta },
    Link { target: String, meta: Meta },
    Other { meta: Meta },
}

impl Node {
    /// Mode and owner of what is there.
    pub(crate) fn meta(&self) -> Option<Meta> {
        match self {
            Self::Absent => None,
            Self::File { meta, .. }
            | Self::Directory { meta }
            | Self::Link { meta, .. }
            | Self::Other { meta } => Some(*meta),
        }
    }

    /// A word for it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "nothing",
            Self::File { .. } => "file",
            Self::Directory { .. } => "directory",
            Self::Link { .. } => "link",
            Self::Other { .. } => "special file",
        }
    }
}

/// What earlier operations would have done.
#[derive(Default)]
struct Predicted {
    nodes: BTreeMap<Utf8PathBuf, Node>,
    /// Directories that were made or emptied, so that nothing on the disk is below them.
    fresh: BTreeSet<Utf8PathBuf>,
    accounts: Option<Arc<Accounts>>,
    packages: BTreeMap<String, Option<String>>,
    held: BTreeMap<String, bool>,
    debconf: BTreeMap<String, String>,
    opaque: bool,
    anything: bool,
}

/// The machine, with predictions.
#[derive(Default)]
pub(crate) struct World {
    predicted: Mutex<Predicted>,
}

impl World {
    fn predicted(&self) -> MutexGuard<'_, Predicted> {
        self.predicted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is at a path.
    pub(crate) fn look(&self, path: &Utf8Path) -> Result<Node> {
        if let Some(node) = self.predicted().at(path) {
            return Ok(node);
        }
        match fs::symlink_metadata(path) {
            Ok(found) => node(path, &found),
            Err(error) if is_absence(&error) => Ok(Node::Absent),
            Err(error) => Err(error).at("look at", path),
        }
    }

    /// What is at a path, links followed, at the path where it really is.
    pub(crate) fn follow(&self, path: &Utf8Path) -> Result<(Utf8PathBuf, Node)> {
        let mut path = path.to_owned();
        for _ in 0..40 {
            let Node::Link { target, .. } = self.look(&path)? else { break };
            path = join(path.parent().unwrap_or(Utf8Path::new("/")), &target);
        }
        let node = self.look(&path)?;
        Ok((path, node))
    }

    /// Whether something is at a path, links followed.
    pub(crate) fn exists(&self, path: &Utf8Path) -> Result<bool> {
        Ok(!matches!(self.follow(path)?.1, Node::Absent | Node::Link { .. }))
    }

    /// The names in a directory, sorted; none when there is no directory.
    pub(crate) fn list(&self, directory: &Utf8Path) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        let hidden = {
            let predicted = self.predicted();
            predicted.is_fresh(directory) || matches!(predicted.nodes.get(directory), Some(Node::Absent))
        };
        if !hidden {
            match fs::read_dir(directory) {
                Ok(entries) => {
                    for entry in entries {
                        let name = entry.at("list", directory)?.file_name();
                        names.insert(name.into_string().map_err(|name| {
                            OpError::wrong(format!("`{directory}/{}` is not UTF-8", name.display()))
                        })?);
                    }
                }
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(error).at("list", directory),
            }
        }
        for (path, node) in &self.predicted().nodes {
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
                && parent == directory
            {
                if *node == Node::Absent {
                    names.remove(name)
                } else {
                    names.insert(name.to_owned())
                };
            }
        }
        Ok(names.into_iter().collect())
    }

    /// The text of a file, links followed; none when there is no file.
    pub(crate) fn text(&self, path: &Utf8Path) -> Result<Option<String>> {
        match self.follow(path)?.1 {
            Node::File { content, .. } => Ok(Some(String::from_utf8_lossy(&content.read()?).into_owned())),
            _ => Ok(None),
        }
    }

    /// The user database.
    pub(crate) fn accounts(&self) -> Arc<Accounts> {
        self.predicted().accounts.clone().unwrap_or_else(|| Arc::new(Accounts::read()))
    }

    /// The predicted state of a package: its version, or that it is not installed.
    pub(crate) fn predicted_package(&self, name: &str) -> Option<Option<String>> {
        self.predicted().packages.get(name).cloned()
    }

    /// Whether a package is predicted to be held.
    pub(crate) fn predicted_hold(&self, name: &str) -> Option<bool> {
        self.predicted().held.get(name).copied()
    }

    /// The predicted answer to a question of debconf.
    pub(crate) fn predicted_answer(&self, question: &str) -> Option<String> {
        self.predicted().debconf.get(question).cloned()
    }

    /// Whether an operation would have run whose result cannot be predicted: a command, a package.
    pub(crate) fn is_opaque(&self) -> bool {
        self.predicted().opaque
    }

    /// Whether anything would have changed.
    pub(crate) fn is_predicted(&self) -> bool {
        self.predicted().anything
    }

    /// Predicts what is at a path; what was below a path that goes or becomes a file goes too.
    pub(crate) fn predict(&self, path: &Utf8Path, node: Node) {
        let mut predicted = self.predicted();
        predicted.anything = true;
        if !matches!(node, Node::Directory { .. }) {
            predicted.nodes.retain(|other, _| !other.starts_with(path));
            predicted.fresh.retain(|other| !other.starts_with(path));
        }
        predicted.nodes.insert(path.to_owned(), node);
    }

    /// Predicts a directory that has nothing in it.
    pub(crate) fn predict_fresh(&self, path: &Utf8Path, meta: Meta) {
        self.predict(path, Node::Directory { meta });
        self.predicted().fresh.insert(path.to_owned());
    }

    /// Predicts the user database.
    pub(crate) fn predict_accounts(&self, accounts: Accounts) {
        let mut predicted = self.predicted();
        predicted.anything = true;
        predicted.accounts = Some(Arc::new(accounts));
    }

    /// Predicts packages, by version; none: not installed.
    pub(crate) fn predict_packages(&self, packages: impl IntoIterator<Item = (String, Option<String>)>) {
        let mut predicted = self.predicted();
        predicted.packages.extend(packages);
        predicted.opaque = true;
        predicted.anything = true;
    }

    /// Predicts packages to be held, or not.
    pub(crate) fn predict_holds(&self, packages: &[String], held: bool) {
        let mut predicted = self.predicted();
        predicted.anything = true;
        predicted.held.extend(packages.iter().map(|name| (name.clone(), held)));
    }

    /// Predicts an answer of debconf.
    pub(crate) fn predict_answer(&self, question: &str, value: &str) {
        let mut predicted = self.predicted();
        predicted.anything = true;
        predicted.debconf.insert(question.to_owned(), value.to_owned());
    }

    /// Something would have run whose result cannot be predicted.
    pub(crate) fn predict_opaque(&self) {
        let mut predicted = self.predicted();
        predicted.opaque = true;
        predicted.anything = true;
    }
}

impl Predicted {
    fn is_fresh(&self, directory: &Utf8Path) -> bool {
        self.fresh.contains(directory)
    }

    /// What is predicted at a path: itself, or nothing because of what is above it.
    fn at(&self, path: &Utf8Path) -> Option<Node> {
        if self.nodes.is_empty() {
            return None;
        }
        if let Some(node) = self.nodes.get(path) {
            return Some(node.clone());
        }
        for ancestor in path.ancestors().skip(1) {
            match self.nodes.get(ancestor) {
                Some(Node::Directory { .. }) if self.is_fresh(ancestor) => return Some(Node::Absent),
                Some(Node::Directory { .. } | Node::Link { .. }) | None => {}
                Some(_) => return Some(Node::Absent),
            }
        }
        None
    }
}

/// Whether an error says that nothing is at a path.
pub(crate) fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn node(path: &Utf8Path, found: &fs::Metadata) -> Result<Node> {
    let meta = Meta { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() };
    let kind = found.file_type();
    Ok(if kind.is_file() {
        Node::File { meta, content: Source::File(path.to_owned()) }
    } else if kind.is_dir() {
        Node::Directory { meta }
    } else if kind.is_symlink() {
        let target = fs::read_link(path).at("read the link", path)?;
        Node::Link { target: target.to_string_lossy().into_owned(), meta }
    } else {
        Node::Other { meta }
    })
}

/// A link's target as a path, `.` and `..` resolved by name.
pub(crate) fn join(directory: &Utf8Path, target: &str) -> Utf8PathBuf {
    let mut path = Utf8PathBuf::from("/");
    for component in directory.join(target).components() {
        match component {
            camino::Utf8Component::Normal(name) => path.push(name),
            camino::Utf8Component::ParentDir => {
                path.pop();
            }
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Node {
        Node::File { meta: Meta::root(0o644), content: Source::text("x") }
    }

    #[test]
    fn predictions_cover_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        fs::write(root.join("real"), "r").unwrap();
        let world = World::default();
        assert_eq!(world.list(root).unwrap(), ["real"]);
        world.predict(&root.join("new"), file());
        assert_eq!(world.list(root).unwrap(), ["new", "real"]);
        world.predict(&root.join("real"), Node::Absent);
        assert_eq!(world.list(root).unwrap(), ["new"]);
        assert_eq!(world.look(&root.join("real/below")).unwrap(), Node::Absent);
    }

    #[test]
    fn a_directory_made_again_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/old"), "").unwrap();
        let world = World::default();
        world.predict(&root.join("d"), Node::Absent);
        world.predict_fresh(&root.join("d"), Meta::root(0o755));
        assert_eq!(world.look(&root.join("d/old")).unwrap(), Node::Absent);
        assert!(world.list(&root.join("d")).unwrap().is_empty());
        world.predict(&root.join("d/new"), file());
        assert_eq!(world.list(&root.join("d")).unwrap(), ["new"]);
    }

    #[test]
    fn links_are_followed_through_predictions() {
        let world = World::default();
        world.predict(Utf8Path::new("/nowhere/a"), file());
        let link = Node::Link { target: "../nowhere/a".into(), meta: Meta::root(0o777) };
        world.predict(Utf8Path::new("/elsewhere/l"), link);
        assert!(world.exists(Utf8Path::new("/elsewhere/l")).unwrap());
        assert_eq!(world.text(Utf8Path::new("/elsewhere/l")).unwrap().as_deref(), Some("x"));
    }
}
