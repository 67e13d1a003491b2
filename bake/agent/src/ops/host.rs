//! The machine's own settings: name, time zone, kernel parameters, names of addresses.

use camino::{Utf8Path, Utf8PathBuf};

use super::file::Wanted;
use super::{Decision, Effect, NONE, Work, change};
use crate::context::Context;
use crate::edit::Edit;
use crate::error::{At, OpError, Result};
use crate::world::Node;

/// The machine's name.
pub(crate) fn hostname<'a>(context: &Context<'_>, name: &'a str) -> Result<Decision<'a>> {
    let mut work = Work::default();
    Wanted::text(Utf8Path::new("/etc/hostname"), format!("{name}\n")).plan(context, &mut work)?;
    if context.run.booted {
        let path = Utf8Path::new("/proc/sys/kernel/hostname");
        let running = std::fs::read_to_string(path).at("read", path)?;
        if running.trim() != name {
            work.changes.push(change("running name", Some(running.trim()), Some(name)));
            work.act = Some(Box::new(move |_| {
                rustix::system::sethostname(name.as_bytes())
                    .map_err(|error| OpError::wrong(format!("cannot set the running name: {error}")))?;
                Ok(Effect::Changed)
            }));
        }
    }
    Ok(work.decide())
}

/// The time zone.
pub(crate) fn timezone<'a>(context: &Context<'_>, zone: &str) -> Result<Decision<'a>> {
    let target = Utf8PathBuf::from(format!("/usr/share/zoneinfo/{zone}"));
    let plain = target.components().all(|part| !matches!(part, camino::Utf8Component::ParentDir));
    if !plain || !matches!(context.world().follow(&target)?.1, Node::File { .. }) {
        let known = context.world().exists(Utf8Path::new("/usr/share/zoneinfo/UTC"))?
            || context.world().exists(Utf8Path::new("/usr/share/zoneinfo/Etc/UTC"))?;
        return Err(OpError::Missing(if known {
            format!("there is no time zone `{zone}`")
        } else {
            format!("there is no time zone `{zone}`: the package `tzdata` is not installed")
        }));
    }
    let mut work = Work::default();
    let link = Utf8Path::new("/etc/localtime");
    let from = match context.world().look(link)? {
        Node::Absent => None,
        Node::Link { target, .. } => Some(target),
        other => Some(other.kind().to_owned()),
    };
    if from.as_deref() != Some(target.as_str()) {
        work.changes.push(change("/etc/localtime", from, Some(target.as_str())));
        work.edits.push(Edit::Link { path: link.to_owned(), target: target.to_string() });
    }
    Wanted::text(Utf8Path::new("/etc/timezone"), format!("{zone}\n")).plan(context, &mut work)?;
    Ok(work.decide())
}

/// A kernel parameter.
pub(crate) fn sysctl<'a>(
    context: &Context<'_>,
    key: &str,
    value: &str,
    path: &Utf8Path,
) -> Result<Decision<'a>> {
    let mut work = Work::default();
    let old = context.world().text(path)?.unwrap_or_default();
    Wanted::text(path, set_parameter(&old, key, value)).plan(context, &mut work)?;
    let kernel = Utf8PathBuf::from(format!("/proc/sys/{}", key.replace('.', "/")));
    let writable = || rustix::fs::access(kernel.as_std_path(), rustix::fs::Access::WRITE_OK).is_ok();
    if context.run.booted && writable() {
        let running = std::fs::read_to_string(&kernel).at("read", &kernel)?;
        if !running.split_whitespace().eq(value.split_whitespace()) {
            work.changes.push(change("running value", Some(running.trim()), Some(value)));
            let value = value.to_owned();
            work.act = Some(Box::new(move |_| {
                std::fs::write(&kernel, value).at("write", &kernel)?;
                Ok(Effect::Changed)
            }));
        }
    }
    Ok(work.decide())
}

/// A text of `sysctl.d(5)` in which a parameter has a value, once.
fn set_parameter(text: &str, key: &str, value: &str) -> String {
    let names = |line: &str| {
        let name = line.split_once('=').map(|(name, _)| name.trim().trim_start_matches('-'));
        name.is_some_and(|name| name.replace('/', ".") == key.replace('/', "."))
    };
    let wanted = format!("{key} = {value}");
    let mut found = false;
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        if !names(line) {
            lines.push(line);
        } else if !found {
            found = true;
            lines.push(&wanted);
        }
    }
    if !found {
        lines.push(&wanted);
    }
    lines.join("\n") + "\n"
}

/// Names of an address.
pub(crate) fn hosts<'a>(context: &Context<'_>, address: &str, names: &[String]) -> Result<Decision<'a>> {
    let path = Utf8Path::new("/etc/hosts");
    let old = context.world().text(path)?;
    let new = set_names(old.as_deref().unwrap_or_default(), address, names);
    if old.is_none() && new.is_empty() {
        return Ok(Decision::Fine);
    }
    let mut work = Work::default();
    let entry = |text: &str| {
        let lines = text.lines().filter(|line| line.split_whitespace().next() == Some(address));
        let names: Vec<&str> = lines.flat_map(|line| line.split_whitespace().skip(1)).collect();
        (!names.is_empty()).then(|| names.join(" "))
    };
    let (from, to) = (old.as_deref().and_then(entry), entry(&new));
    Wanted::text(path, new).plan(context, &mut work)?;
    if !work.changes.is_empty() {
        work.changes = vec![change(format!("names of {address}"), from, to.or(NONE))];
    }
    Ok(work.decide())
}

/// A text of `hosts(5)` in which an address has these names and no others.
fn set_names(text: &str, address: &str, names: &[String]) -> String {
    let is_entry = |line: &str| line.split_whitespace().next() == Some(address);
    let wanted = (!names.is_empty()).then(|| format!("{address}\t{}", names.join(" ")));
    let matching: Vec<&str> = text.lines().filter(|line| is_entry(line)).collect();
    let same = |line: &str| line.split_whitespace().skip(1).eq(names.iter().map(String::as_str));
    match (matching.as_slice(), &wanted) {
        ([], None) => return text.to_owned(),
        ([line], Some(_)) if same(line) => return text.to_owned(),
        _ => {}
    }
    let mut wanted = wanted;
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if is_entry(line) {
            lines.extend(wanted.take());
        } else {
            lines.push(line.to_owned());
        }
    }
    lines.extend(wanted);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_set_once() {
        assert_eq!(set_parameter("", "a.b", "1"), "a.b = 1\n");
        assert_eq!(set_parameter("# c\na/b=0\nx = 2\na.b = 3\n", "a.b", "1"), "# c\na.b = 1\nx = 2\n");
    }

    #[test]
    fn names_of_an_address() {
        let names = ["one".to_owned(), "two".to_owned()];
        let text = "127.0.0.1 localhost\n::1 localhost\n";
        let set = set_names(text, "10.0.0.1", &names);
        assert_eq!(set, "127.0.0.1 localhost\n::1 localhost\n10.0.0.1\tone two\n");
        assert_eq!(set_names(&set, "10.0.0.1", &names), set);
        assert_eq!(set_names(&set, "10.0.0.1", &[]), text);
        assert_eq!(set_names(text, "::1", &names), "127.0.0.1 localhost\n::1\tone two\n");
    }
}
