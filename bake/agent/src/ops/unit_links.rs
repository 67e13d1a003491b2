//! What it means that a unit starts at boot, read from and written as the links that systemd itself makes.
//!
//! `systemctl enable` is a set of links named by the unit's `[Install]` section (`systemd.unit(5)`); making them
//! here is the same, needs no process, and can be predicted. Units that are only scripts in `/etc/init.d` are left
//! to `systemctl`.

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{OpError, Result};
use crate::world::{Node, World};

/// Where units are, the strongest first.
pub(crate) const PLACES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Where links are made.
const OWN: &str = PLACES[0];

/// Where a unit comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This file.
    File(Utf8PathBuf),
    /// A script of System V init.
    Script,
    /// It is masked, and this file is behind the mask.
    Masked(Option<Utf8PathBuf>),
    /// There is none.
    Nowhere,
}

/// A link that makes a unit start: where it is and what it holds.
pub(crate) type Link = (Utf8PathBuf, Utf8PathBuf);

/// The file of a unit; an instance without a file of its own has its template's.
pub(crate) fn origin(world: &World, unit: &str) -> Result<Origin> {
    if masked(world, unit)? {
        return Ok(Origin::Masked(file(world, unit)?));
    }
    if let Some(path) = file(world, unit)? {
        return Ok(Origin::File(path));
    }
    let script = unit.strip_suffix(".service").map(|name| Utf8Path::new("/etc/init.d").join(name));
    match script {
        Some(script) if world.exists(&script)? => Ok(Origin::Script),
        _ => Ok(Origin::Nowhere),
    }
}

/// Whether a unit is masked.
pub(crate) fn masked(world: &World, unit: &str) -> Result<bool> {
    let node = world.look(&Utf8Path::new(OWN).join(unit))?;
    Ok(matches!(node, Node::Link { target, .. } if target == "/dev/null"))
}

fn file(world: &World, unit: &str) -> Result<Option<Utf8PathBuf>> {
    let template = template(unit);
    for name in std::iter::once(unit).chain(template.as_deref()) {
        for place in PLACES {
            let path = Utf8Path::new(place).join(name);
            match world.look(&path)? {
                Node::File { .. } => return Ok(Some(path)),
                Node::Link { target, .. } if target != "/dev/null" => {
                    let (real, node) = world.follow(&path)?;
                    if matches!(node, Node::File { .. }) {
                        return Ok(Some(real));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(None)
}

/// `getty@.service` of `getty@tty1.service`.
fn template(unit: &str) -> Option<String> {
    let (stem, suffix) = unit.rsplit_once('.')?;
    let (prefix, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{suffix}"))
}

/// The links that enabling a unit makes, those of units that it names in `Also=` too; none: it cannot be enabled.
pub(crate) fn wanted(world: &World, unit: &str) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![unit.to_owned()];
    while let Some(unit) = open.pop() {
        if !seen.insert(unit.clone()) {
            continue;
        }
        let Origin::File(path) = origin(world, &unit)? else { continue };
        let text = world.text(&path)?.unwrap_or_default();
        let install = Install::parse(&text);
        links.extend(install.links(&unit, &path)?);
        open.extend(install.also);
    }
    links.sort_unstable();
    links.dedup();
    Ok(links)
}

/// Whether a link is there, made here or by the unit's package.
pub(crate) fn is_made(world: &World, link: &Utf8Path) -> Result<bool> {
    let below = link.strip_prefix(OWN).unwrap_or(link);
    for place in PLACES {
        if world.look(&Utf8Path::new(place).join(below))? != Node::Absent {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The links in `/etc` that make a unit start.
pub(crate) fn existing(world: &World, unit: &str) -> Result<Vec<Utf8PathBuf>> {
    let mut found = Vec::new();
    for name in world.list(Utf8Path::new(OWN))? {
        let path = Utf8Path::new(OWN).join(&name);
        match world.look(&path)? {
            Node::Directory { .. }
                if [".wants", ".requires", ".upholds"].iter().any(|end| name.ends_with(end)) =>
            {
                let link = path.join(unit);
                if world.look(&link)? != Node::Absent {
                    found.push(link);
                }
            }
            Node::Link { target, .. } if name != unit && Utf8Path::new(&target).file_name() == Some(unit) => {
                found.push(path);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The section `[Install]` of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Install {
    wanted_by: Vec<String>,
    required_by: Vec<String>,
    upheld_by: Vec<String>,
    alias: Vec<String>,
    also: Vec<String>,
    default_instance: Option<String>,
}

impl Install {
    fn parse(text: &str) -> Self {
        let mut install = Self::default();
        let joined = text.replace("\\\n", " ");
        let mut inside = false;
        for line in joined.lines().map(str::trim) {
            if line.starts_with('[') {
                inside = line == "[Install]";
            }
            let Some((key, value)) = line.split_once('=').filter(|_| inside && !line.starts_with(['#', ';']))
            else {
                continue;
            };
            let words = value.split_whitespace().map(str::to_owned);
            match key.trim() {
                "WantedBy" => install.wanted_by.extend(words),
                "RequiredBy" => install.required_by.extend(words),
                "UpheldBy" => install.upheld_by.extend(words),
                "Alias" => install.alias.extend(words),
                "Also" => install.also.extend(words),
                "DefaultInstance" => install.default_instance = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        install
    }

    fn links(&self, unit: &str, path: &Utf8Path) -> Result<Vec<Link>> {
        let name = self.instance(unit)?;
        let mut links = Vec::new();
        let lists =
            [("wants", &self.wanted_by), ("requires", &self.required_by), ("upholds", &self.upheld_by)];
        for (kind, list) in lists {
            for other in list {
                let other = specifiers(other, &name);
                links.push((format!("{OWN}/{other}.{kind}/{name}").into(), path.to_owned()));
            }
        }
        let aliases = self.alias.iter().map(|alias| specifiers(alias, &name)).filter(|alias| *alias != name);
        links.extend(aliases.map(|alias| (format!("{OWN}/{alias}").into(), path.to_owned())));
        Ok(links)
    }

    /// The unit that is started: of a template, its default instance.
    fn instance(&self, unit: &str) -> Result<String> {
        let Some((prefix, suffix)) = unit.split_once("@.") else { return Ok(unit.to_owned()) };
        let instance = self.default_instance.as_ref().ok_or_else(|| {
            OpError::wrong(format!(
                "`{unit}` is a template: name an instance, such as `{prefix}@NAME.{suffix}`"
            ))
        })?;
        Ok(format!("{prefix}@{instance}.{suffix}"))
    }
}

/// Puts in what `%i` and its like stand for in an `[Install]` section.
fn specifiers(text: &str, unit: &str) -> String {
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let last = prefix.rsplit('-').next().unwrap_or(prefix);
    [("%i", instance), ("%I", instance), ("%j", last), ("%p", prefix), ("%n", unit), ("%N", stem)]
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "[Unit]\nWantedBy=not.this\n[Install]\n# WantedBy=x\nWantedBy=multi-user.target \\\n  a.target\n\
                        Alias=sshd.service\nAlso=b.socket\n";

    #[test]
    fn an_install_section_becomes_links() {
        let install = Install::parse(UNIT);
        assert_eq!(install.also, ["b.socket"]);
        let links = install.links("ssh.service", Utf8Path::new("/lib/systemd/system/ssh.service")).unwrap();
        let links: Vec<&str> = links.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            links,
            [
                "/etc/systemd/system/multi-user.target.wants/ssh.service",
                "/etc/systemd/system/a.target.wants/ssh.service",
                "/etc/systemd/system/sshd.service",
            ]
        );
    }

    #[test]
    fn templates_need_an_instance() {
        assert_eq!(template("getty@tty1.service").as_deref(), Some("getty@.service"));
        assert_eq!(template("ssh.service"), None);
        let install = Install::parse("[Install]\nWantedBy=%i.target\n");
        assert!(install.links("x@.service", Utf8Path::new("/x")).is_err());
        let links = install.links("x@y.service", Utf8Path::new("/x")).unwrap();
        assert_eq!(links[0].0, "/etc/systemd/system/y.target.wants/x@y.service");
    }
}
