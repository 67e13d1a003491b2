//! Files, directories, links, removals, and files that a command makes.
//!
//! [`Wanted`] is the part that other operations share: a file with a content and an owner, whatever asks for it.

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::operation::{Argv, Content, Ownership};
use olbake_core::report::Change;

use super::{Decision, Effect, NONE, Work, change};
use crate::context::{Bytes, Context};
use crate::diff;
use crate::edit::{self, Edit};
use crate::error::{At, OpError, Result};
use crate::process::{Input, LONGEST_CAPTURE};
use crate::world::{Meta, Node, Source};

/// A file as it should be.
pub(crate) struct Wanted<'a> {
    pub(crate) path: &'a Utf8Path,
    pub(crate) bytes: Bytes,
    pub(crate) ownership: &'a Ownership,
    /// The mode of a new file that has none given.
    pub(crate) default_mode: u32,
    pub(crate) validate: Option<&'a Argv>,
}

/// An [`Ownership`] that leaves everything as it is.
pub(crate) static AS_IT_IS: Ownership = Ownership { owner: None, group: None, mode: None };

impl<'a> Wanted<'a> {
    /// A text at a path, 0644 and root's when new.
    pub(crate) fn text(path: &'a Utf8Path, text: impl Into<String>) -> Self {
        let bytes = Bytes { source: Source::text(text), label: None };
        Self { path, bytes, ownership: &AS_IT_IS, default_mode: 0o644, validate: None }
    }

    /// What has to change for it, added to `work`.
    pub(crate) fn plan(self, context: &Context<'_>, work: &mut Work<'_>) -> Result<()> {
        let Self { path, bytes: Bytes { source, label }, ownership, default_mode, validate } = self;
        let found = context.world().look(path)?;
        let (old_meta, old) = match &found {
            Node::Absent => (None, None),
            Node::File { meta, content } => (Some(*meta), Some(content)),
            Node::Link { target, .. } => {
                work.changes.push(change("type", Some(format!("link to {target}")), Some("file")));
                (None, None)
            }
            Node::Directory { .. } | Node::Other { .. } => {
                return Err(OpError::wrong(format!(
                    "`{path}` is to be a file, and is a {}: remove it first",
                    found.kind()
                )));
            }
        };
        let base = old_meta.unwrap_or(Meta::root(default_mode));
        let (meta, mut changes) = apply_ownership(context, ownership, base, old_meta.is_some())?;
        let same = match old {
            Some(old) => diff::same(old, &source)?,
            None => false,
        };
        if same {
            if !changes.is_empty() {
                work.edits.push(Edit::Meta { path: path.to_owned(), meta });
            }
        } else {
            work.changes.push(diff::change(old, &source, label.as_deref())?);
            let validate = validate.cloned();
            work.edits.push(Edit::Write { path: path.to_owned(), content: source, meta, validate });
        }
        work.changes.append(&mut changes);
        Ok(())
    }

    /// The decision where this file is all there is to it.
    pub(crate) fn decide<'b>(self, context: &Context<'_>) -> Result<Decision<'b>> {
        let mut work = Work::default();
        self.plan(context, &mut work)?;
        Ok(work.decide())
    }
}

/// What an ownership makes of mode and owner, and how that differs from `base`, which exists or is a default.
pub(crate) fn apply_ownership(
    context: &Context<'_>,
    wanted: &Ownership,
    base: Meta,
    exists: bool,
) -> Result<(Meta, Vec<Change>)> {
    let accounts = context.world().accounts();
    let Ownership { owner, group, mode } = wanted;
    let mut meta = base;
    if let Some(owner) = owner {
        meta.uid = accounts.uid(owner)?;
    }
    if let Some(group) = group {
        meta.gid = accounts.gid(group)?;
    }
    if let Some(mode) = mode {
        meta.mode = mode & 0o7777;
    }
    let mut changes = Vec::new();
    let mut compare = |what: &str, given: bool, from: String, to: String| {
        if exists && from != to {
            changes.push(change(what, Some(from), Some(to)));
        } else if !exists && given {
            changes.push(change(what, NONE, Some(to)));
        }
    };
    compare("owner", owner.is_some(), accounts.user_name(base.uid), accounts.user_name(meta.uid));
    compare("group", group.is_some(), accounts.group_name(base.gid), accounts.group_name(meta.gid));
    compare("mode", mode.is_some(), octal(base.mode), octal(meta.mode));
    Ok((meta, changes))
}

/// A mode as people write it.
pub(crate) fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

/// A file with a content.
pub(crate) fn put<'a>(
    context: &Context<'_>,
    path: &Utf8Path,
    content: &Content,
    ownership: &Ownership,
    validate: Option<&Argv>,
    only_if_absent: bool,
) -> Result<Decision<'a>> {
    if only_if_absent && !matches!(context.world().look(path)?, Node::Absent) {
        let mut work = Work::default();
        plan_meta(context, path, ownership, &mut work)?;
        return Ok(work.decide());
    }
    let bytes = context.bytes(content)?;
    Wanted { path, bytes, ownership, default_mode: 0o644, validate }.decide(context)
}

/// Mode and owner of what is there.
fn plan_meta(
    context: &Context<'_>,
    path: &Utf8Path,
    ownership: &Ownership,
    work: &mut Work<'_>,
) -> Result<()> {
    let Some(base) = context.world().look(path)?.meta() else {
        return Err(OpError::Missing(format!("`{path}` does not exist")));
    };
    let (meta, mut changes) = apply_ownership(context, ownership, base, true)?;
    if !changes.is_empty() {
        work.edits.push(Edit::Meta { path: path.to_owned(), meta });
        work.changes.append(&mut changes);
    }
    Ok(())
}

/// A directory.
pub(crate) fn directory<'a>(
    context: &Context<'_>,
    path: &Utf8Path,
    ownership: &Ownership,
    recursive: bool,
) -> Result<Decision<'a>> {
    let mut work = Work::default();
    match context.world().look(path)? {
        Node::Absent => {
            let (meta, mut changes) = apply_ownership(context, ownership, Meta::root(0o755), false)?;
            work.changes.push(change("directory", NONE, Some(path.as_str())));
            work.changes.append(&mut changes);
            work.edits.push(Edit::Directory { path: path.to_owned(), meta });
            return Ok(work.decide());
        }
        Node::Link { .. } if matches!(context.world().follow(path)?.1, Node::Directory { .. }) => {
            let (target, _) = context.world().follow(path)?;
            plan_meta(context, &target, ownership, &mut work)?;
        }
        Node::Directory { .. } => plan_meta(context, path, ownership, &mut work)?,
        other => {
            let kind = other.kind();
            return Err(OpError::wrong(format!(
                "`{path}` is to be a directory, and is a {kind}: remove it first"
            )));
        }
    }
    if recursive {
        plan_below(context, &context.world().follow(path)?.0, ownership, &mut work)?;
    }
    Ok(work.decide())
}

/// Mode and owner of everything below a directory. A file gets the mode's `x` bits only where it has one already.
pub(crate) fn plan_below(
    context: &Context<'_>,
    directory: &Utf8Path,
    ownership: &Ownership,
    work: &mut Work<'_>,
) -> Result<()> {
    let (mut count, mut first) = (0_usize, None);
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for name in context.world().list(&directory)? {
            let path = directory.join(name);
            let node = context.world().look(&path)?;
            let Some(base) = node.meta() else { continue };
            let mut wanted = ownership.clone();
            match &node {
                Node::Directory { .. } => open.push(path.clone()),
                Node::Link { .. } => wanted.mode = None,
                _ if base.mode & 0o111 == 0 => wanted.mode = wanted.mode.map(|mode| mode & !0o111),
                _ => {}
            }
            let (meta, changes) = apply_ownership(context, &wanted, base, true)?;
            if !changes.is_empty() {
                count += 1;
                first.get_or_insert_with(|| path.clone());
                work.edits.push(Edit::Meta { path, meta });
            }
        }
    }
    if let Some(first) = first {
        let to = if count == 1 { first.to_string() } else { format!("{count} paths below, such as {first}") };
        work.changes.push(change("owner or mode below", NONE, Some(to)));
    }
    Ok(())
}

/// A symbolic link.
pub(crate) fn link<'a>(
    context: &Context<'_>,
    path: &Utf8Path,
    target: &Utf8Path,
    force: bool,
) -> Result<Decision<'a>> {
    let found = context.world().look(path)?;
    let from = match &found {
        Node::Absent => None,
        Node::Link { target: old, .. } if old == target.as_str() => return Ok(Decision::Fine),
        Node::Link { target, .. } => Some(target.clone()),
        Node::File { .. } | Node::Other { .. } if force => Some(found.kind().to_owned()),
        Node::Directory { .. } if force && context.world().list(path)?.is_empty() => {
            Some("directory".to_owned())
        }
        other => {
            let help = if force { "it is not empty" } else { "`force` replaces it" };
            let kind = other.kind();
            return Err(OpError::wrong(format!("`{path}` is to be a link, and is a {kind}: {help}")));
        }
    };
    let changes = vec![change("link", from, Some(target.as_str()))];
    Ok(Work::edits(changes, vec![Edit::Link { path: path.to_owned(), target: target.to_string() }]).decide())
}

/// Nothing at a path.
pub(crate) fn absent<'a>(context: &Context<'_>, path: &Utf8Path) -> Result<Decision<'a>> {
    if path.parent().is_none() {
        return Err(OpError::wrong("the root directory cannot be removed"));
    }
    let found = context.world().look(path)?;
    if found == Node::Absent {
        return Ok(Decision::Fine);
    }
    let changes = vec![change(found.kind(), Some(path.as_str()), NONE)];
    Ok(Work::edits(changes, vec![Edit::Remove { path: path.to_owned() }]).decide())
}

/// A file that a command makes, where there is none.
pub(crate) fn generated<'a>(
    context: &Context<'_>,
    path: &'a Utf8Path,
    argv: &'a Argv,
    from_stdout: bool,
    ownership: &'a Ownership,
) -> Result<Decision<'a>> {
    if context.world().exists(path)? {
        let mut work = Work::default();
        let (path, _) = context.world().follow(path)?;
        plan_meta(context, &path, ownership, &mut work)?;
        return Ok(work.decide());
    }
    let (meta, mut changes) = apply_ownership(context, ownership, Meta::root(0o644), false)?;
    changes.insert(0, change("content", NONE, Some("made on the machine")));
    let act = move |context: &Context<'_>| {
        let made = generate(context, path, argv, from_stdout, ownership);
        if made.is_err() {
            // Half of a file would count as made the next time.
            drop(edit::remove(path));
        }
        made.map(|()| Effect::Changed)
    };
    let prediction = move |world: &crate::world::World| {
        world.predict_opaque();
        Edit::Write { path: path.to_owned(), content: Source::Unknown, meta, validate: None }.predict(world)
    };
    Ok(Work::act(changes, act, prediction).decide())
}

fn generate(
    context: &Context<'_>,
    path: &Utf8Path,
    argv: &Argv,
    from_stdout: bool,
    ownership: &Ownership,
) -> Result<()> {
    edit::make_parents(path)?;
    let words: Vec<String> = argv.iter().map(|word| word.replace("%s", path.as_str())).collect();
    let command = context.command(words).input(Input::Nothing);
    if from_stdout {
        let bytes = command.capture().run()?.ok()?.into_stdout();
        if bytes.len() as u64 >= LONGEST_CAPTURE {
            return Err(OpError::wrong("the command writes more than can be taken as a content"));
        }
        let content = Source::Bytes(bytes.into());
        let (meta, _) = apply_ownership(context, ownership, Meta::root(0o644), false)?;
        let write = Edit::Write { path: path.to_owned(), content, meta, validate: None };
        return edit::apply(&[write], context);
    }
    command.sink(context.sink()).run()?.ok()?;
    let node = context.world().look(path)?;
    let Some(base) = node.meta() else {
        return Err(OpError::wrong(format!("the command succeeded, but there is no `{path}`")));
    };
    let (meta, _) = apply_ownership(context, ownership, base, true)?;
    edit::set_meta(path, meta)?;
    let handle = std::fs::File::open(path).at("open", path)?;
    handle.sync_all().at("write through", path)
}

/// A path below a directory, for contents that name relative paths.
pub(crate) fn below(directory: &Utf8Path, relative: &Utf8Path) -> Result<Utf8PathBuf> {
    let plain = relative.components().all(|part| matches!(part, camino::Utf8Component::Normal(_)));
    if !plain || relative.as_str().is_empty() {
        return Err(OpError::wrong(format!("`{relative}` would leave the directory `{directory}`")));
    }
    Ok(directory.join(relative))
}
