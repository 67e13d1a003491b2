//! Edits: the few ways in which files change, each of which can be carried out or predicted.
//!
//! An operation compares what is with what should be and returns edits; that it is the same list that check mode
//! predicts and that apply mode carries out is what makes the prediction exact. A file is written whole, under
//! another name in the same directory, gets owner and mode, is validated, written through, and renamed; so at no
//! moment does a path hold half a file, whatever ends the agent.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, lchown};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::operation::Argv;

use crate::context::Context;
use crate::error::{At, OpError, Result};
use crate::world::{Meta, Node, Source, World};

/// What temporary names start with; the rest is a digest of the name, so that the next run finds what a killed
/// one left.
pub(crate) const TEMPORARY: &str = ".olbake-tmp-";
/// From so many edits on, the file system is written through once instead of file by file.
const MANY: usize = 16;

/// One change of the file system.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// A file, whole. What is there, a link too, is replaced.
    Write { path: Utf8PathBuf, content: Source, meta: Meta, validate: Option<Argv> },
    /// A new directory.
    Directory { path: Utf8PathBuf, meta: Meta },
    /// A symbolic link. What is there is replaced.
    Link { path: Utf8PathBuf, target: String },
    /// Nothing: a directory goes with what is in it.
    Remove { path: Utf8PathBuf },
    /// Mode and owner of what is there.
    Meta { path: Utf8PathBuf, meta: Meta },
    /// A file that a program keeps open loses its content, not itself.
    Truncate { path: Utf8PathBuf },
}

impl Edit {
    /// The path it changes.
    pub(crate) fn path(&self) -> &Utf8Path {
        match self {
            Self::Write { path, .. }
            | Self::Directory { path, .. }
            | Self::Link { path, .. }
            | Self::Remove { path }
            | Self::Meta { path, .. }
            | Self::Truncate { path } => path,
        }
    }

    /// Predicts it.
    pub(crate) fn predict(&self, world: &World) -> Result<()> {
        match self {
            Self::Write { path, content, meta, .. } => {
                predict_parents(world, path)?;
                world.predict(path, Node::File { meta: *meta, content: content.clone() });
            }
            Self::Directory { path, meta } => {
                predict_parents(world, path)?;
                world.predict_fresh(path, *meta);
            }
            Self::Link { path, target } => {
                predict_parents(world, path)?;
                world.predict(path, Node::Link { target: target.clone(), meta: Meta::root(0o777) });
            }
            Self::Remove { path } => world.predict(path, Node::Absent),
            Self::Meta { path, meta: new } => {
                let mut node = world.look(path)?;
                match &mut node {
                    Node::Absent => {}
                    Node::File { meta, .. }
                    | Node::Directory { meta }
                    | Node::Link { meta, .. }
                    | Node::Other { meta } => *meta = *new,
                }
                world.predict(path, node);
            }
            Self::Truncate { path } => {
                let meta = world.look(path)?.meta().unwrap_or(Meta::root(0o644));
                world.predict(path, Node::File { meta, content: Source::text("") });
            }
        }
        Ok(())
    }
}

fn predict_parents(world: &World, path: &Utf8Path) -> Result<()> {
    let mut missing = Vec::new();
    for parent in path.ancestors().skip(1) {
        match world.follow(parent)?.1 {
            Node::Absent => missing.push(parent),
            Node::Directory { .. } => break,
            other => return Err(not_a_directory(parent, &other)),
        }
    }
    for parent in missing.into_iter().rev() {
        world.predict_fresh(parent, Meta::root(0o755));
    }
    Ok(())
}

fn not_a_directory(path: &Utf8Path, found: &Node) -> OpError {
    OpError::wrong(format!("`{path}` must be a directory, and is a {}", found.kind()))
}

/// Carries edits out, in order.
pub(crate) fn apply(edits: &[Edit], context: &Context<'_>) -> Result<()> {
    let many = edits.len() >= MANY;
    for edit in edits {
        context.go_on()?;
        apply_one(edit, context, !many)?;
    }
    if many && let Some(edit) = edits.first() {
        sync_file_system(edit.path())?;
    }
    Ok(())
}

fn apply_one(edit: &Edit, context: &Context<'_>, durable: bool) -> Result<()> {
    match edit {
        Edit::Write { path, content, meta, validate } => {
            make_parents(path)?;
            write(path, content, *meta, validate.as_ref(), context, durable)
        }
        Edit::Directory { path, meta } => {
            make_parents(path)?;
            fs::create_dir(path).at("make the directory", path)?;
            set_meta(path, *meta)
        }
        Edit::Link { path, target } => {
            make_parents(path)?;
            let temporary = temporary(path);
            remove(&temporary)?;
            std::os::unix::fs::symlink(target, &temporary).at("make the link", &temporary)?;
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                remove(path)?;
            }
            fs::rename(&temporary, path).at("rename to", path)
        }
        Edit::Remove { path } => remove(path),
        Edit::Meta { path, meta } => set_meta(path, *meta),
        Edit::Truncate { path } => {
            let file = File::options().write(true).open(path).at("open", path)?;
            file.set_len(0).at("empty", path)
        }
    }
}

/// Makes the directories above a path that are missing, 0755 and root's.
pub(crate) fn make_parents(path: &Utf8Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match fs::metadata(parent) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(OpError::wrong(format!("`{parent}` must be a directory, and is none"))),
        Err(_) => {}
    }
    make_parents(parent)?;
    match fs::DirBuilder::new().mode(0o755).create(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).at("make the directory", parent),
        // The mask of the agent's own parent must not decide modes.
        Ok(()) => {
            fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).at("set the mode of", parent)
        }
    }
}

fn write(
    path: &Utf8Path,
    content: &Source,
    meta: Meta,
    validate: Option<&Argv>,
    context: &Context<'_>,
    durable: bool,
) -> Result<()> {
    let temporary = temporary(path);
    let done = write_temporary(&temporary, content, meta, durable)
        .and_then(|()| validate.map_or(Ok(()), |argv| run_validation(argv, &temporary, path, context)))
        .and_then(|()| fs::rename(&temporary, path).at("rename to", path));
    if done.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&temporary));
        return done;
    }
    if durable && let Some(directory) = path.parent() {
        File::open(directory).and_then(|handle| handle.sync_all()).at("write through", directory)?;
    }
    Ok(())
}

fn write_temporary(temporary: &Utf8Path, content: &Source, meta: Meta, durable: bool) -> Result<()> {
    remove(temporary)?;
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(temporary).at("create", temporary)?;
    match content {
        Source::File(from) => {
            let mut from_file = File::open(from).at("open", from)?;
            std::io::copy(&mut from_file, &mut file).at("write", temporary)?;
        }
        other => file.write_all(&other.read()?).at("write", temporary)?,
    }
    chown(temporary, Some(meta.uid), Some(meta.gid)).at("set the owner of", temporary)?;
    file.set_permissions(fs::Permissions::from_mode(meta.mode)).at("set the mode of", temporary)?;
    if durable { file.sync_all().at("write through", temporary) } else { Ok(()) }
}

fn run_validation(argv: &Argv, temporary: &Utf8Path, path: &Utf8Path, context: &Context<'_>) -> Result<()> {
    let words = argv.iter().map(|word| word.replace("%s", temporary.as_str()));
    let ended = context.command(words).sink(context.sink()).run()?;
    if ended.success() {
        return Ok(());
    }
    Err(ended.error(format!("the validation refused the new `{path}`, which stays as it was")))
}

/// The temporary name beside a path.
fn temporary(path: &Utf8Path) -> Utf8PathBuf {
    let digest = Digest::of(path.file_name().unwrap_or_default().as_bytes());
    path.with_file_name(format!("{TEMPORARY}{}", digest.short()))
}

/// Removes whatever is at a path.
pub(crate) fn remove(path: &Utf8Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if crate::world::is_absence(&error) => Ok(()),
        Err(error) => Err(error).at("look at", path),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).at("remove", path),
        Ok(_) => fs::remove_file(path).at("remove", path),
    }
}

/// Sets owner, then mode, because a change of owner clears set-user-ID bits. Links have no mode.
pub(crate) fn set_meta(path: &Utf8Path, meta: Meta) -> Result<()> {
    lchown(path, Some(meta.uid), Some(meta.gid)).at("set the owner of", path)?;
    let is_link = fs::symlink_metadata(path).at("look at", path)?.is_symlink();
    if is_link {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode)).at("set the mode of", path)
}

/// Writes the file system of a path, or of what is left above it, through to the disk.
pub(crate) fn sync_file_system(path: &Utf8Path) -> Result<()> {
    let there = path.ancestors().find(|path| path.is_dir()).unwrap_or(Utf8Path::new("/"));
    let handle = File::open(there).at("open", there)?;
    rustix::fs::syncfs(&handle).at("write through", there)
}
