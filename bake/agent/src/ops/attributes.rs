//! Owner, mode, access control lists, capabilities and the immutable flag of what is already there.

use std::fs::File;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::operation::Action;
use rustix::fs::IFlags;

use super::file::{apply_ownership, plan_below};
use super::{Decision, Effect, NONE, Work, change};
use crate::accounts::Accounts;
use crate::context::Context;
use crate::edit::{self, Edit};
use crate::error::{At, OpError, Result};
use crate::world::Node;

/// [`Action::FileAttributes`].
pub(crate) fn attributes<'a>(context: &Context<'_>, action: &'a Action) -> Result<Decision<'a>> {
    let Action::FileAttributes { path, ownership, acl, capabilities, immutable, recursive } = action else {
        return Ok(Decision::Fine);
    };
    let (real, node) = context.world().follow(path)?;
    let Some(base) = node.meta() else {
        return Err(OpError::Missing(format!("`{path}` does not exist")));
    };
    let on_disk = std::fs::symlink_metadata(&real).is_ok();
    let entries =
        acl.iter().map(|text| Entry::parse(text, &context.world().accounts())).collect::<Result<Vec<_>>>()?;
    let access = if on_disk { read_acl(&real, false)? } else { Vec::new() };
    let mut work = Work::default();
    // With an access control list, the mode's group bits are its mask; the group's own are in the list.
    let mut shown = base;
    if let Some(own) = access.iter().find(|entry| entry.tag == Tag::OwnGroup)
        && access.len() > 3
    {
        shown.mode = (shown.mode & !0o070) | (own.permissions << 3);
    }
    let (meta, mut changes) = apply_ownership(context, ownership, shown, true)?;
    if !changes.is_empty() {
        work.edits.push(Edit::Meta { path: real.clone(), meta });
        work.changes.append(&mut changes);
    }
    let is_directory = matches!(node, Node::Directory { .. });
    if *recursive && is_directory {
        plan_below(context, &real, ownership, &mut work)?;
    }
    let mut commands: Vec<Vec<String>> = Vec::new();
    plan_acl(
        context,
        &real,
        acl,
        &entries,
        ownership.mode,
        *recursive && is_directory,
        on_disk,
        &mut work,
        &mut commands,
    )?;
    if let Some(wanted) = capabilities {
        plan_capabilities(context, &real, wanted, &mut work, &mut commands)?;
    }
    let flagged = on_disk && is_immutable(&real)?;
    if let Some(wanted) = immutable.filter(|wanted| *wanted != flagged) {
        let word = |on: bool| Some(if on { "yes" } else { "no" });
        work.changes.push(change("immutable", word(flagged), word(wanted)));
    }
    if work.changes.is_empty() {
        return Ok(Decision::Fine);
    }
    // An immutable file cannot be changed at all, so the flag goes first and comes back last.
    let edits = std::mem::take(&mut work.edits);
    let predicted = edits.clone();
    let end = immutable.unwrap_or(flagged);
    work.act = Some(Box::new(move |context| {
        if flagged {
            set_immutable(&real, false)?;
        }
        edit::apply(&edits, context)?;
        for argv in commands {
            context.command(argv).sink(context.sink()).run()?.ok()?;
        }
        if end {
            set_immutable(&real, true)?;
        }
        Ok(Effect::Changed)
    }));
    work.prediction = Some(Box::new(move |world| predicted.iter().try_for_each(|edit| edit.predict(world))));
    Ok(work.decide())
}

#[allow(clippy::too_many_arguments, reason = "the parts of one action, each used once")]
fn plan_acl(
    context: &Context<'_>,
    path: &Utf8Path,
    texts: &[String],
    entries: &[Entry],
    mode: Option<u32>,
    recursive: bool,
    on_disk: bool,
    work: &mut Work<'_>,
    commands: &mut Vec<Vec<String>>,
) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut missing = Vec::new();
    let mut paths: Vec<Utf8PathBuf> = vec![path.to_owned()];
    if recursive {
        paths.extend(below(context, path)?);
    }
    for (text, entry) in texts.iter().zip(entries) {
        let mut all = on_disk;
        for path in paths.iter().filter(|_| on_disk) {
            // Only directories have defaults, and `X` is `x` where it makes sense.
            let found = std::fs::symlink_metadata(path).at("look at", path)?;
            let executable = found.is_dir() || std::os::unix::fs::MetadataExt::mode(&found) & 0o111 != 0;
            if found.is_symlink() || (entry.default && !found.is_dir()) {
                continue;
            }
            let wanted = entry.permissions | if entry.conditional && executable { 1 } else { 0 };
            let list = read_acl(path, entry.default)?;
            let held = list.iter().find(|other| other.tag == entry.tag).map(|other| other.permissions);
            // Without a list the mode is the list.
            let held = held.or_else(|| entry.in_mode(std::os::unix::fs::MetadataExt::mode(&found)));
            all &= held == Some(wanted);
        }
        if !all {
            missing.push(text.clone());
        }
    }
    // A new mode sets the list's mask where there is a list: the entries must be set again.
    if missing.is_empty() && work.edits.is_empty() {
        return Ok(());
    }
    need(context, "setfacl", "acl")?;
    work.changes.extend(missing.iter().map(|text| change("access control list", NONE, Some(text.as_str()))));
    let mut argv = vec!["setfacl".to_owned()];
    if recursive {
        argv.push("-RP".to_owned());
    }
    let own_group = mode.map(|mode| format!("g::{}", (mode >> 3) & 7));
    let texts: Vec<&str> = texts.iter().chain(&own_group).map(String::as_str).collect();
    argv.extend(["-m".to_owned(), texts.join(","), "--".to_owned(), path.to_string()]);
    commands.push(argv);
    Ok(())
}

fn below(context: &Context<'_>, root: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for name in context.world().list(&directory)? {
            let path = directory.join(name);
            if matches!(context.world().look(&path)?, Node::Directory { .. }) {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    Ok(found)
}

fn need(context: &Context<'_>, program: &str, package: &str) -> Result<()> {
    for directory in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        if context.world().exists(&Utf8Path::new(directory).join(program))? {
            return Ok(());
        }
    }
    Err(OpError::Missing(format!(
        "there is no program `{program}` on the machine: install the package `{package}` before"
    )))
}

/// What an entry of an access control list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Owner,
    User(u32),
    OwnGroup,
    Group(u32),
    Mask,
    Other,
}

/// An entry of an access control list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    permissions: u32,
    /// `X` was given.
    conditional: bool,
    default: bool,
}

impl Entry {
    /// An entry as `setfacl -m` takes it.
    fn parse(text: &str, accounts: &Accounts) -> Result<Self> {
        let wrong = || {
            OpError::wrong(format!(
                "`{text}` is not an entry of an access control list, such as `u:www-data:rX`"
            ))
        };
        let mut words: Vec<&str> = text.split(':').map(str::trim).collect();
        let default = matches!(words.first(), Some(&"d" | &"default"));
        if default {
            words.remove(0);
        }
        let (kind, name, permissions) = match words[..] {
            [kind, name, permissions] => (kind, name, permissions),
            [kind @ ("o" | "other" | "m" | "mask"), permissions] => (kind, "", permissions),
            _ => return Err(wrong()),
        };
        let tag = match (kind, name) {
            ("u" | "user", "") => Tag::Owner,
            ("u" | "user", name) => Tag::User(accounts.uid(name)?),
            ("g" | "group", "") => Tag::OwnGroup,
            ("g" | "group", name) => Tag::Group(accounts.gid(name)?),
            ("m" | "mask", "") => Tag::Mask,
            ("o" | "other", "") => Tag::Other,
            _ => return Err(wrong()),
        };
        let mut entry = Self { tag, permissions: 0, conditional: false, default };
        for letter in permissions.chars() {
            match letter {
                'r' => entry.permissions |= 4,
                'w' => entry.permissions |= 2,
                'x' => entry.permissions |= 1,
                'X' => entry.conditional = true,
                '0'..='7' => entry.permissions |= letter.to_digit(8).unwrap_or(0),
                '-' => {}
                _ => return Err(wrong()),
            }
        }
        Ok(entry)
    }

    /// What a mode alone says of it.
    fn in_mode(self, mode: u32) -> Option<u32> {
        match self.tag {
            _ if self.default => None,
            Tag::Owner => Some((mode >> 6) & 7),
            Tag::OwnGroup | Tag::Mask => Some((mode >> 3) & 7),
            Tag::Other => Some(mode & 7),
            Tag::User(_) | Tag::Group(_) => None,
        }
    }
}

/// The access control list of a path; empty where it has none but its mode.
fn read_acl(path: &Utf8Path, default: bool) -> Result<Vec<Entry>> {
    let name = if default { "system.posix_acl_default" } else { "system.posix_acl_access" };
    let mut buffer = vec![0; 64 * 1024];
    match rustix::fs::lgetxattr(path.as_std_path(), name, &mut buffer) {
        Ok(length) => Ok(decode_acl(&buffer[..length], default)),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error).at("read the access control list of", path),
    }
}

/// The kernel's form (`include/uapi/linux/posix_acl_xattr.h`): a version, then tag, permissions and number each.
fn decode_acl(bytes: &[u8], default: bool) -> Vec<Entry> {
    let entries = bytes.get(4..).unwrap_or_default().chunks_exact(8);
    entries
        .filter_map(|entry| {
            let number = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            let id = u32::from(number(4)) | (u32::from(number(6)) << 16);
            let tag = match number(0) {
                0x01 => Tag::Owner,
                0x02 => Tag::User(id),
                0x04 => Tag::OwnGroup,
                0x08 => Tag::Group(id),
                0x10 => Tag::Mask,
                0x20 => Tag::Other,
                _ => return None,
            };
            Some(Entry { tag, permissions: u32::from(number(2)), conditional: false, default })
        })
        .collect()
}

fn plan_capabilities(
    context: &Context<'_>,
    path: &Utf8Path,
    wanted: &str,
    work: &mut Work<'_>,
    commands: &mut Vec<Vec<String>>,
) -> Result<()> {
    need(context, "setcap", "libcap2-bin")?;
    let held = context.command(["setcap", "-q", "-v", wanted, path.as_str()]).run()?;
    if held.success() {
        return Ok(());
    }
    let found = context.command(["getcap", path.as_str()]).capture().run()?;
    let from = found.stdout().trim().strip_prefix(path.as_str()).map(|text| text.trim().to_owned());
    work.changes.push(change("capabilities", from.filter(|text| !text.is_empty()), Some(wanted)));
    commands.push(["setcap", wanted, path.as_str()].map(str::to_owned).into());
    Ok(())
}

fn flags(path: &Utf8Path) -> Result<Option<(File, IFlags)>> {
    // Opening anything else than a file or a directory may have effects, or wait for somebody.
    let found = std::fs::symlink_metadata(path).at("look at", path)?;
    if !found.is_file() && !found.is_dir() {
        return Ok(None);
    }
    let file = File::open(path).at("open", path)?;
    match rustix::fs::ioctl_getflags(&file) {
        Ok(flags) => Ok(Some((file, flags))),
        Err(rustix::io::Errno::NOTTY | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(None),
        Err(error) => Err(error).at("read the flags of", path),
    }
}

fn is_immutable(path: &Utf8Path) -> Result<bool> {
    Ok(flags(path)?.is_some_and(|(_, flags)| flags.contains(IFlags::IMMUTABLE)))
}

fn set_immutable(path: &Utf8Path, on: bool) -> Result<()> {
    let Some((file, mut flags)) = flags(path)? else {
        return Err(OpError::wrong(format!("the file system of `{path}` knows no immutable files")));
    };
    flags.set(IFlags::IMMUTABLE, on);
    rustix::fs::ioctl_setflags(&file, flags).at("set the flags of", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse("web:x:33:33::/:/bin/sh\n", "web:x:33:\n", "")
    }

    #[test]
    fn entries_are_read_as_setfacl_reads_them() {
        let entry = Entry::parse("d:u:web:rX", &accounts()).unwrap();
        let expected = Entry { tag: Tag::User(33), permissions: 4, conditional: true, default: true };
        assert_eq!(entry, expected);
        assert_eq!(Entry::parse("o::r--", &accounts()).unwrap().permissions, 4);
        assert_eq!(Entry::parse("group:web:5", &accounts()).unwrap().permissions, 5);
        assert!(Entry::parse("web:rx", &accounts()).is_err());
        assert!(matches!(Entry::parse("u:nobody:r", &accounts()), Err(OpError::Missing(_))));
    }

    #[test]
    fn the_kernels_form_is_read() {
        let bytes = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 33, 0, 0, 0];
        let tags: Vec<_> =
            decode_acl(&bytes, false).iter().map(|entry| (entry.tag, entry.permissions)).collect();
        assert_eq!(tags, [(Tag::Owner, 6), (Tag::User(33), 4)]);
    }
}
