//! A directory with everything below it.

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::operation::{Ownership, TreeEntry, TreeEntryKind};

use super::file::{Wanted, apply_ownership, below};
use super::{Decision, NONE, Work, change};
use crate::context::Context;
use crate::edit::Edit;
use crate::error::{OpError, Result};
use crate::world::{Meta, Node};

/// [`olbake_core::operation::Action::FileTree`].
pub(crate) fn tree<'a>(
    context: &Context<'_>,
    root: &Utf8Path,
    entries: &[TreeEntry],
    delete: bool,
    owner: Option<&str>,
    group: Option<&str>,
) -> Result<Decision<'a>> {
    let owned = |mode: Option<u32>| Ownership {
        owner: owner.map(str::to_owned),
        group: group.map(str::to_owned),
        mode,
    };
    let mut all = Work::default();
    let mut made = BTreeSet::new();
    plan_directory(context, root, &owned(None), &mut made, &mut all)?;
    let mut expected: BTreeSet<Utf8PathBuf> = BTreeSet::new();
    for entry in entries {
        context.go_on()?;
        let path = below(root, &entry.path)?;
        expected.extend(path.ancestors().take_while(|above| *above != root).map(Utf8Path::to_owned));
        let mut work = Work::default();
        match &entry.kind {
            TreeEntryKind::Directory { mode } => {
                plan_directory(context, &path, &owned(Some(*mode)), &mut made, &mut work)?;
            }
            TreeEntryKind::File { content, mode } => {
                let (bytes, ownership) = (context.bytes(content)?, owned(Some(*mode)));
                let wanted =
                    Wanted { path: &path, bytes, ownership: &ownership, default_mode: *mode, validate: None };
                wanted.plan(context, &mut work)?;
            }
            TreeEntryKind::Link { target } => {
                plan_link(context, &path, target.as_str(), &owned(None), &mut work)?;
            }
        }
        all.edits.append(&mut work.edits);
        let named = work.changes.into_iter().map(|mut change| {
            change.what = format!("{}: {}", entry.path, change.what);
            change
        });
        all.changes.extend(named);
    }
    if delete {
        plan_removals(context, root, &expected, &mut all)?;
    }
    Ok(all.finally().decide())
}

fn plan_directory(
    context: &Context<'_>,
    path: &Utf8Path,
    ownership: &Ownership,
    made: &mut BTreeSet<Utf8PathBuf>,
    work: &mut Work<'_>,
) -> Result<()> {
    let found = context.world().look(path)?;
    let exists = match &found {
        Node::Absent => false,
        Node::Directory { .. } => true,
        other => {
            let kind = other.kind();
            return Err(OpError::wrong(format!(
                "`{path}` is to be a directory, and is a {kind}: remove it first"
            )));
        }
    };
    let base = found.meta().unwrap_or(Meta::root(0o755));
    let (meta, mut changes) = apply_ownership(context, ownership, base, exists)?;
    if !exists && made.insert(path.to_owned()) {
        work.changes.push(change("directory", NONE, Some(path.as_str())));
        work.edits.push(Edit::Directory { path: path.to_owned(), meta });
    } else if exists && !changes.is_empty() {
        work.edits.push(Edit::Meta { path: path.to_owned(), meta });
    }
    work.changes.append(&mut changes);
    Ok(())
}

fn plan_link(
    context: &Context<'_>,
    path: &Utf8Path,
    target: &str,
    ownership: &Ownership,
    work: &mut Work<'_>,
) -> Result<()> {
    let from = match context.world().look(path)? {
        Node::Link { target: old, .. } if old == target => return Ok(()),
        Node::Absent => None,
        Node::Link { target, .. } => Some(target),
        Node::File { .. } => Some("file".to_owned()),
        other => {
            let kind = other.kind();
            return Err(OpError::wrong(format!(
                "`{path}` is to be a link, and is a {kind}: remove it first"
            )));
        }
    };
    work.changes.push(change("link", from, Some(target)));
    work.edits.push(Edit::Link { path: path.to_owned(), target: target.to_owned() });
    let (meta, _) = apply_ownership(context, ownership, Meta::root(0o777), false)?;
    if meta != Meta::root(0o777) {
        work.edits.push(Edit::Meta { path: path.to_owned(), meta });
    }
    Ok(())
}

/// Removes what is below the directory and not expected there.
fn plan_removals(
    context: &Context<'_>,
    root: &Utf8Path,
    expected: &BTreeSet<Utf8PathBuf>,
    work: &mut Work<'_>,
) -> Result<()> {
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for name in context.world().list(&directory)? {
            let path = directory.join(name);
            if !expected.contains(&path) {
                let node = context.world().look(&path)?;
                work.changes.push(change(node.kind(), Some(path.as_str()), NONE));
                work.edits.push(Edit::Remove { path });
            } else if matches!(context.world().look(&path)?, Node::Directory { .. }) {
                open.push(path);
            }
        }
    }
    Ok(())
}
