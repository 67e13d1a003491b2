//! Archives, unpacked inside a directory.
//!
//! Names in an archive are somebody else's words. They are judged before anything is written: a member that is
//! absolute, climbs with `..`, lies behind a link, or is a link that points out of the directory fails the
//! operation. Writing then goes through handles of directories, never following a link, so that even a directory
//! that changes meanwhile cannot lead a member elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use olbake_core::operation::{Action, ArchiveFormat};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use super::tar_zip::{Kind, Member, visit};
use super::{Decision, Effect, NONE, Work, change};
use crate::context::Context;
use crate::diff::same_as_stream;
use crate::edit::{TEMPORARY, make_parents, sync_file_system};
use crate::error::{At, OpError, Result};
use crate::world::{Meta, Node, Source};

/// [`Action::FileArchive`].
pub(crate) fn unpack<'a>(context: &Context<'_>, action: &'a Action) -> Result<Decision<'a>> {
    let Action::FileArchive { path, content, format, strip, members, owner, group } = action else {
        return Ok(Decision::Fine);
    };
    if !content.secrets.is_empty() {
        return Err(OpError::wrong("an archive cannot have secrets put into it"));
    }
    let accounts = context.world().accounts();
    let uid = owner.as_deref().map_or(Ok(0), |owner| accounts.uid(owner))?;
    let gid = group.as_deref().map_or(Ok(0), |group| accounts.gid(group))?;
    let job = Job {
        archive: context.blob(content),
        format: *format,
        root: path.clone(),
        strip: *strip as usize,
        only: members,
        uid,
        gid,
    };
    let Survey { wanted, fresh_root, mut made } = job.survey(context)?;
    if wanted.is_empty() && !fresh_root {
        return Ok(Decision::Fine);
    }
    let mut changes = Vec::new();
    if fresh_root {
        changes.push(change("directory", NONE, Some(path.as_str())));
    }
    if let Some((first, _)) = wanted.values().next() {
        let to = match wanted.len() {
            1 => first.to_string(),
            count => format!("{count} members, such as {first}"),
        };
        changes.push(change("unpacked", NONE, Some(to)));
    }
    let predicted: Vec<(Utf8PathBuf, Node)> =
        wanted.values().map(|(relative, member)| (job.root.join(relative), job.node(member))).collect();
    let root = job.root.clone();
    let act = move |context: &Context<'_>| {
        job.write(context, &wanted)?;
        Ok(Effect::Changed)
    };
    let prediction = move |world: &crate::world::World| {
        if fresh_root {
            made.insert(root);
        }
        for directory in made {
            world.predict_fresh(&directory, Meta::root(0o755));
        }
        for (path, node) in predicted {
            world.predict(&path, node);
        }
        Ok(())
    };
    Ok(Work::act(changes, act, prediction).finally().decide())
}

struct Job<'a> {
    archive: Utf8PathBuf,
    format: ArchiveFormat,
    root: Utf8PathBuf,
    strip: usize,
    only: &'a [Utf8PathBuf],
    uid: u32,
    gid: u32,
}

/// What is to be written.
struct Survey {
    /// Members that differ from what is there, by their place in the archive.
    wanted: BTreeMap<usize, (Utf8PathBuf, Member)>,
    fresh_root: bool,
    /// Directories that are missing.
    made: BTreeSet<Utf8PathBuf>,
}

/// The parts of a member's name; an error where it could lead out of the directory.
fn parts(name: &str) -> Result<Vec<&str>> {
    let mut parts = Vec::new();
    for component in Utf8Path::new(name).components() {
        match component {
            Utf8Component::Normal(part) => parts.push(part),
            Utf8Component::CurDir => {}
            Utf8Component::ParentDir => {
                return Err(OpError::wrong(format!(
                    "the archive's member `{name}` would leave the directory through `..`"
                )));
            }
            Utf8Component::RootDir | Utf8Component::Prefix(_) => {
                return Err(OpError::wrong(format!("the archive's member `{name}` has an absolute name")));
            }
        }
    }
    Ok(parts)
}

impl Job<'_> {
    /// Where a name goes below the directory; none: it is stripped away or not asked for.
    fn place(&self, name: &str) -> Result<Option<Utf8PathBuf>> {
        let parts = parts(name)?;
        let relative: Utf8PathBuf = parts.get(self.strip..).unwrap_or_default().iter().collect();
        let asked = self.only.is_empty() || self.only.iter().any(|only| relative.starts_with(only));
        Ok((!relative.as_str().is_empty() && asked).then_some(relative))
    }

    /// Reads the archive once: judges every name and compares every member with what is there.
    fn survey(&self, context: &Context<'_>) -> Result<Survey> {
        let mut last: HashMap<Utf8PathBuf, (usize, Kind)> = HashMap::new();
        let mut wanted = BTreeMap::new();
        visit(&self.archive, self.format, &mut |index, member, bytes| {
            context.go_on()?;
            let Some(relative) = self.place(&member.name)? else { return Ok(()) };
            self.judge_link(&relative, member)?;
            if let Some((previous, _)) = last.insert(relative.clone(), (index, member.kind.clone())) {
                wanted.remove(&previous);
            }
            if !self.is_there(context, &relative, member, bytes)? {
                wanted.insert(index, (relative, member.clone()));
            }
            Ok(())
        })?;
        if last.is_empty() {
            return Err(OpError::wrong(
                "no member of the archive is to be unpacked: look at `strip` and `members`",
            ));
        }
        let mut made = BTreeSet::new();
        for relative in last.keys() {
            self.judge_parents(context, relative, &last, &mut made)?;
        }
        let fresh_root = matches!(context.world().follow(&self.root)?.1, Node::Absent);
        Ok(Survey { wanted, fresh_root, made })
    }

    /// Links must stay within the directory.
    fn judge_link(&self, relative: &Utf8Path, member: &Member) -> Result<()> {
        let escapes = |target: &str| {
            OpError::wrong(format!(
                "the archive's member `{}` is a link to `{target}`, out of the directory `{}`",
                member.name, self.root
            ))
        };
        match &member.kind {
            Kind::File | Kind::Directory => Ok(()),
            Kind::HardLink(target) => match self.place(target) {
                Ok(Some(_)) => Ok(()),
                Ok(None) | Err(_) => Err(escapes(target)),
            },
            Kind::Link(target) if target.starts_with('/') => {
                let inside = crate::world::join(Utf8Path::new("/"), target).starts_with(&self.root);
                if inside { Ok(()) } else { Err(escapes(target)) }
            }
            Kind::Link(target) => {
                let mut depth = relative.components().count() - 1;
                for component in Utf8Path::new(target).components() {
                    match component {
                        Utf8Component::ParentDir => {
                            depth = depth.checked_sub(1).ok_or_else(|| escapes(target))?;
                        }
                        Utf8Component::Normal(_) => depth += 1,
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    }

    /// No member lies behind a link or a file, of the archive or of the disk.
    fn judge_parents(
        &self,
        context: &Context<'_>,
        relative: &Utf8Path,
        members: &HashMap<Utf8PathBuf, (usize, Kind)>,
        made: &mut BTreeSet<Utf8PathBuf>,
    ) -> Result<()> {
        for parent in relative.ancestors().skip(1).filter(|parent| !parent.as_str().is_empty()) {
            let behind = |what: &str| {
                OpError::wrong(format!(
                    "the archive's member `{relative}` lies behind `{parent}`, which is a {what}"
                ))
            };
            match members.get(parent) {
                Some((_, Kind::Directory)) | None => {}
                Some((_, Kind::File)) => return Err(behind("file")),
                Some((_, Kind::Link(_) | Kind::HardLink(_))) => return Err(behind("link")),
            }
            let path = self.root.join(parent);
            match context.world().look(&path)? {
                Node::Directory { .. } => {}
                Node::Absent => {
                    made.insert(path);
                }
                other => return Err(behind(other.kind())),
            }
        }
        Ok(())
    }

    fn node(&self, member: &Member) -> Node {
        let meta = Meta { mode: member.mode, uid: self.uid, gid: self.gid };
        match &member.kind {
            Kind::Directory => Node::Directory { meta },
            Kind::Link(target) => Node::Link { target: target.clone(), meta },
            Kind::File | Kind::HardLink(_) => Node::File { meta, content: Source::Unknown },
        }
    }

    /// Whether a member is there already, as the archive has it.
    fn is_there(
        &self,
        context: &Context<'_>,
        relative: &Utf8Path,
        member: &Member,
        bytes: &mut dyn Read,
    ) -> Result<bool> {
        let path = self.root.join(relative);
        let found = context.world().look(&path)?;
        let meta = Meta { mode: member.mode, uid: self.uid, gid: self.gid };
        let wrong = |found: &Node| {
            OpError::wrong(format!(
                "`{path}` is a {}, and the archive has something else there",
                found.kind()
            ))
        };
        match (&member.kind, &found) {
            (_, Node::Absent) => Ok(false),
            (Kind::Directory, Node::Directory { meta: old }) => Ok(*old == meta),
            (Kind::Directory, _) | (_, Node::Directory { .. } | Node::Other { .. }) => Err(wrong(&found)),
            (Kind::Link(target), Node::Link { target: old, meta: owner }) => {
                Ok(target == old && (owner.uid, owner.gid) == (self.uid, self.gid))
            }
            (Kind::File, Node::File { meta: old, content }) => {
                Ok(*old == meta && same_as_stream(content, bytes)?)
            }
            (Kind::HardLink(target), Node::File { .. }) => {
                let Some(target) = self.place(target)? else { return Ok(false) };
                let inode = |path: &Utf8Path| {
                    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
                };
                let (own, other) = (inode(&path), inode(&self.root.join(target)));
                Ok(own.is_some() && own == other)
            }
            _ => Ok(false),
        }
    }

    fn write(&self, context: &Context<'_>, wanted: &BTreeMap<usize, (Utf8PathBuf, Member)>) -> Result<()> {
        make_parents(&self.root.join("member"))?;
        let root = File::open(&self.root).at("open", &self.root)?;
        visit(&self.archive, self.format, &mut |index, _, bytes| {
            context.go_on()?;
            match wanted.get(&index) {
                Some((relative, member)) => self.write_member(&root, relative, member, bytes),
                None => Ok(()),
            }
        })?;
        sync_file_system(&self.root)
    }

    fn write_member(
        &self,
        root: &File,
        relative: &Utf8Path,
        member: &Member,
        bytes: &mut dyn Read,
    ) -> Result<()> {
        let path = self.root.join(relative);
        let directory = open_below(root, relative.parent().unwrap_or(Utf8Path::new("")), &path)?;
        let name = relative.file_name().ok_or_else(|| OpError::wrong("a member without a name"))?;
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        let mode = Mode::from_raw_mode(member.mode);
        let temporary = format!("{TEMPORARY}{}", olbake_core::Digest::of(name.as_bytes()).short());
        unlink(&directory, &temporary);
        match &member.kind {
            Kind::Directory => {
                let own = open_below(root, relative, &path)?;
                rustix::fs::fchown(&own, uid, gid).at("set the owner of", &path)?;
                return rustix::fs::fchmod(&own, mode).at("set the mode of", &path);
            }
            Kind::Link(target) => {
                rustix::fs::symlinkat(target.as_str(), &directory, &temporary).at("make the link", &path)?;
                rustix::fs::chownat(&directory, &temporary, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                    .at("set the owner of", &path)?;
            }
            Kind::HardLink(target) => {
                let target = self.place(target)?.ok_or_else(|| OpError::wrong("a link to nothing"))?;
                let other = open_below(root, target.parent().unwrap_or(Utf8Path::new("")), &path)?;
                let other_name = target.file_name().unwrap_or_default();
                rustix::fs::linkat(&other, other_name, &directory, &temporary, AtFlags::empty())
                    .at("make the hard link", &path)?;
            }
            Kind::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&directory, &temporary, flags, Mode::RUSR | Mode::WUSR)
                    .at("create", &path)?;
                let mut file = File::from(file);
                std::io::copy(bytes, &mut file)
                    .map_err(|error| OpError::wrong(format!("cannot unpack `{}`: {error}", member.name)))?;
                rustix::fs::fchown(&file, uid, gid).at("set the owner of", &path)?;
                rustix::fs::fchmod(&file, mode).at("set the mode of", &path)?;
            }
        }
        rustix::fs::renameat(&directory, &temporary, &directory, name).at("rename to", &path)?;
        // Renaming one name of a file onto another does nothing, and leaves both.
        unlink(&directory, &temporary);
        Ok(())
    }
}

/// Removes a name that may be there.
fn unlink(directory: &OwnedFd, name: &str) {
    // Where it cannot be removed, making the file of that name says why.
    let _absent = rustix::fs::unlinkat(directory, name, AtFlags::empty());
}

/// Opens a directory below another, making what is missing, without following a link.
fn open_below(root: &File, relative: &Utf8Path, path: &Utf8Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory: OwnedFd = root.try_clone().at("open", path)?.into();
    for part in relative.components() {
        let open = |directory: &OwnedFd| rustix::fs::openat(directory, part.as_str(), flags, Mode::empty());
        directory = match open(&directory) {
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&directory, part.as_str(), Mode::from_raw_mode(0o755))
                    .at("make", path)?;
                let made = open(&directory).at("open the directory of", path)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).at("set the mode of", path)?;
                made
            }
            other => other.at("open the directory of", path)?,
        };
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(strip: usize) -> Job<'static> {
        let (archive, root) = (Utf8PathBuf::from("/a"), Utf8PathBuf::from("/opt/x"));
        Job { archive, format: ArchiveFormat::Tar, root, strip, only: &[], uid: 0, gid: 0 }
    }

    #[test]
    fn names_are_judged() {
        assert_eq!(job(1).place("./top/a/b").unwrap().unwrap(), "a/b");
        assert_eq!(job(1).place("top/").unwrap(), None);
        assert!(job(1).place("top/../../etc/passwd").is_err());
        assert!(job(0).place("/etc/passwd").is_err());
    }

    fn link(name: &str, kind: Kind) -> Result<()> {
        job(0).judge_link(Utf8Path::new(name), &Member { name: name.into(), kind, mode: 0o777 })
    }

    #[test]
    fn links_are_judged() {
        assert!(link("a/l", Kind::Link("../b".into())).is_ok());
        assert!(link("l", Kind::Link("/opt/x/b".into())).is_ok());
        assert!(link("a/l", Kind::Link("../../etc".into())).is_err());
        assert!(link("l", Kind::Link("b/../../etc".into())).is_err());
        assert!(link("l", Kind::Link("/opt/x/../../etc".into())).is_err());
        assert!(link("l", Kind::HardLink("../etc/passwd".into())).is_err());
        assert!(link("l", Kind::HardLink("a/b".into())).is_ok());
    }
}
