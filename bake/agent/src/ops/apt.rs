//! Packages: one transaction of apt for all that is to be installed, upgraded and removed.
//!
//! What is installed is read from dpkg's status file, so a run with nothing to do starts no process. Package lists
//! are fetched only when something must be installed and the lists are old, missing, older than a source, or do
//! not know what is asked for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::operation::{PackageRequest, PackageState};
use olbake_core::report::Change;

use super::{Decision, Effect, NONE, Work, change};
use crate::context::{Context, Stale};
use crate::dpkg::Status;
use crate::error::{At, OpError, Result};
use crate::process::Ended;

const LISTS: &str = "/var/lib/apt/lists";
/// Lists younger than this are new enough.
const FRESH: Duration = Duration::from_secs(3600);
/// How often a fetch is tried again, a little later each time.
const RETRIES: u32 = 3;
const OPTIONS: [&str; 14] = [
    "-y",
    "-q",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "DPkg::Lock::Timeout=120",
    "-o",
    "Dpkg::Use-Pty=0",
    "-o",
    "Acquire::Retries=2",
    "-o",
    "APT::Update::Error-Mode=any",
];

/// Looking leaves nothing behind: no caches, no notes of what was simulated.
const OUTSIDE_CACHES: [&str; 6] =
    ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "Dir::Log::Planner=/dev/null"];

/// [`olbake_core::operation::Action::AptPackages`].
pub(crate) fn packages<'a>(
    context: &Context<'_>,
    packages: &'a [PackageRequest],
    recommends: bool,
    start_services: bool,
) -> Result<Decision<'a>> {
    let status = Status::read()?;
    let installed = |name: &str| match context.world().predicted_package(name) {
        Some(version) => version,
        None => status.version(name).map(str::to_owned),
    };
    let latest: Vec<&str> = packages
        .iter()
        .filter(|package| package.state == PackageState::Latest)
        .map(|package| package.name.as_str())
        .collect();
    let candidates = if latest.is_empty() { Vec::new() } else { candidates(context, &latest)? };
    let (mut changes, mut arguments, mut predicted) = (Vec::new(), Vec::new(), Vec::new());
    for PackageRequest { name, state } in packages {
        let found = installed(name);
        let newest =
            candidates.iter().find(|(other, _)| other == name).and_then(|(_, version)| version.clone());
        let (argument, to) = match state {
            PackageState::Absent if found.is_some() => (format!("{name}-"), None),
            PackageState::Present if found.is_none() => (name.clone(), Some("installed".to_owned())),
            PackageState::Version(wanted) if found.as_ref() != Some(wanted) => {
                (format!("{name}={wanted}"), Some(wanted.clone()))
            }
            PackageState::Latest if found.is_none() || (newest.is_some() && newest != found) => {
                (name.clone(), Some(newest.unwrap_or_else(|| "installed".to_owned())))
            }
            _ => continue,
        };
        arguments.push(argument);
        predicted.push((name.clone(), to.clone()));
        changes.push(change(format!("package {name}"), found, to));
    }
    if changes.is_empty() {
        return Ok(Decision::Fine);
    }
    if context.is_check() {
        known_in_lists(context, &arguments)?;
    }
    let act = move |context: &Context<'_>| {
        let _policy = Policy::keep_stopped(!start_services)?;
        transaction(context, &arguments, recommends)?;
        context.units_changed(Stale::Units);
        Ok(Effect::Changed)
    };
    let prediction = move |world: &crate::world::World| {
        world.predict_packages(predicted);
        Ok(())
    };
    Ok(Work::act(changes, act, prediction).decide())
}

fn apt<'a>(context: &Context<'a>, arguments: &[&str]) -> crate::process::Command<'a> {
    let words = std::iter::once("apt-get").chain(OPTIONS).chain(arguments.iter().copied());
    let shown =
        std::iter::once("apt-get").chain(arguments.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
    context.command(words).shown_as(crate::process::typed(&shown)).sink(context.sink())
}

/// Installs and removes, after fetching lists where that is due.
fn transaction(context: &Context<'_>, arguments: &[String], recommends: bool) -> Result<()> {
    repair(context)?;
    let installs = arguments.iter().any(|argument| !argument.ends_with('-'));
    let mut updated = false;
    if installs && lists_are_stale() {
        update(context)?;
        updated = true;
    }
    let mut words =
        vec!["install", if recommends { "--install-recommends" } else { "--no-install-recommends" }];
    words.extend(["--allow-downgrades", "--allow-change-held-packages"]);
    words.extend(arguments.iter().map(String::as_str));
    loop {
        let ended = fetching(context, || apt(context, &words).run())?;
        match refusal(&ended) {
            None => return ended.ok().map(drop),
            Some(_) if !updated => {
                update(context)?;
                updated = true;
            }
            Some(refusal) => return Err(ended.error(refusal.message(context))),
        }
    }
}

/// Ends what an interrupted transaction left half done.
fn repair(context: &Context<'_>) -> Result<()> {
    if !Status::read()?.is_interrupted() {
        return Ok(());
    }
    context.say("an earlier transaction was interrupted: dpkg ends it first");
    let words = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"];
    context.command(words).sink(context.sink()).run()?;
    // What cannot be configured for want of packages is mended by apt; if not, the transaction itself says why.
    apt(context, &["--fix-broken", "install"]).run()?;
    Ok(())
}

/// Fetches the package lists.
fn update(context: &Context<'_>) -> Result<()> {
    fetching(context, || apt(context, &["update"]).run())?.ok()?;
    // apt leaves lists alone that did not change: their age is that of the archive, so the fetch is noted here.
    let stamp = Utf8PathBuf::from(LISTS).join("partial");
    let now = SystemTime::now();
    fs::File::open(&stamp).and_then(|handle| handle.set_modified(now)).at("set the time of", &stamp)
}

/// Tries again what failed for a reason that passes.
fn fetching(context: &Context<'_>, attempt: impl Fn() -> Result<Ended>) -> Result<Ended> {
    for round in 1.. {
        let ended = attempt()?;
        if ended.success() || round > RETRIES || !passes(ended.tail()) {
            return Ok(ended);
        }
        context.say(format!("a fetch failed, again in {} s", 2 * round));
        for _ in 0..20 * round {
            context.go_on()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    unreachable!("the loop returns after the last round")
}

/// Whether a failure is one of the network.
fn passes(output: &str) -> bool {
    let signs = [
        "Temporary failure resolving",
        "Could not connect",
        "Connection timed out",
        "Connection failed",
        "Connection reset",
        "Unable to connect",
        "Hash Sum mismatch",
        "File has unexpected size",
        "502  Bad Gateway",
        "503  Service Unavailable",
        "504  Gateway",
        "429  Too Many",
    ];
    signs.iter().any(|sign| output.contains(sign))
}

/// Why apt refuses a package.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    NotFound(String),
    NoVersion { package: String, version: String },
}

fn refusal(ended: &Ended) -> Option<Refusal> {
    if ended.success() { None } else { parse_refusal(ended.tail()) }
}

fn parse_refusal(output: &str) -> Option<Refusal> {
    output.lines().find_map(|line| {
        let line = line.strip_prefix("E: ")?;
        if let Some(name) = line.strip_prefix("Unable to locate package ") {
            return Some(Refusal::NotFound(name.trim().to_owned()));
        }
        if let Some(rest) = line.strip_prefix("Package '") {
            return rest
                .strip_suffix("' has no installation candidate")
                .map(|name| Refusal::NotFound(name.to_owned()));
        }
        let (version, package) = line.strip_prefix("Version '")?.split_once("' for '")?;
        let package = package.strip_suffix("' was not found")?;
        Some(Refusal::NoVersion { package: package.to_owned(), version: version.to_owned() })
    })
}

impl Refusal {
    fn message(&self, context: &Context<'_>) -> String {
        match self {
            Self::NotFound(name) => {
                let near = near_names(context, name);
                let hint = if near.is_empty() {
                    String::new()
                } else {
                    format!("; did you mean {}?", near.join(", "))
                };
                format!("there is no package `{name}` in the machine's package sources{hint}")
            }
            Self::NoVersion { package, version } => {
                let found = policy(context, &[package]).unwrap_or_default();
                let found = found.into_iter().find_map(|(_, version)| version);
                let hint = found.map_or_else(String::new, |found| format!("; they offer {found}"));
                format!(
                    "the package `{package}` is not in the machine's package sources in version {version}{hint}"
                )
            }
        }
    }
}

/// Names of packages that look like this one.
fn near_names(context: &Context<'_>, name: &str) -> Vec<String> {
    let words = ["apt-cache"].into_iter().chain(OUTSIDE_CACHES).chain(["pkgnames"]);
    let Ok(ended) = context.command(words).capture().run() else { return Vec::new() };
    let names = ended.stdout();
    let limit = (name.len() / 4).clamp(1, 3);
    let mut near: Vec<(usize, &str)> =
        names.lines().map(|other| (distance(name, other), other)).filter(|(far, _)| *far <= limit).collect();
    near.sort_unstable();
    near.into_iter().take(3).map(|(_, name)| format!("`{name}`")).collect()
}

/// Insertions, removals and replacements between two names.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 3 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

/// Whether package lists must be fetched before something is installed.
fn lists_are_stale() -> bool {
    let modified = |path: &Utf8Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    let has_lists = fs::read_dir(LISTS).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    });
    let Some(fetched) = modified(&Utf8Path::new(LISTS).join("partial")).filter(|_| has_lists) else {
        return true;
    };
    let old = SystemTime::now().duration_since(fetched).is_ok_and(|age| age > FRESH);
    let sources =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let sources = sources.chain(["/etc/apt/sources.list".into(), "/etc/apt/sources.list.d".into()]);
    old || sources
        .filter_map(|path| fs::metadata(path).and_then(|found| found.modified()).ok())
        .any(|time| time > fetched)
}

/// In check mode: fails for packages that the lists do not know, where there are lists to ask.
fn known_in_lists(context: &Context<'_>, arguments: &[String]) -> Result<()> {
    if lists_are_stale() || context.world().is_opaque() {
        return Ok(());
    }
    let names: Vec<&str> = arguments
        .iter()
        .filter(|argument| !argument.ends_with('-'))
        .map(|argument| argument.split('=').next().unwrap_or(argument))
        .collect();
    let found = policy(context, &names)?;
    match names.iter().find(|name| !found.iter().any(|(other, version)| other == *name && version.is_some()))
    {
        Some(name) => Err(OpError::wrong(Refusal::NotFound((*name).to_owned()).message(context))),
        None => Ok(()),
    }
}

/// The newest versions that the sources offer, with lists that are new enough. Checking changes nothing, so it
/// fetches into a directory of its own.
fn candidates(context: &Context<'_>, names: &[&str]) -> Result<Vec<(String, Option<String>)>> {
    let stale = lists_are_stale();
    if !stale || context.verifying {
        return policy(context, names);
    }
    if !context.is_check() {
        update(context)?;
        return policy(context, names);
    }
    let lists = own_lists(context)?;
    let words = ["apt-cache", "-o", &lists]
        .into_iter()
        .chain(OUTSIDE_CACHES)
        .chain(["policy"])
        .chain(names.iter().copied());
    Ok(parse_policy(&context.command(words).capture().run()?.ok()?.stdout()))
}

/// Fetches lists beside the machine's own, and returns the option that makes apt read them.
fn own_lists(context: &Context<'_>) -> Result<String> {
    let lists = context.run.work_dir.join("lists");
    fs::create_dir_all(lists.join("partial")).at("make the directory", &lists)?;
    // apt fetches as a user of its own, who cannot enter this directory: here root does.
    let option = format!("Dir::State::lists={lists}");
    let mut words = vec!["-o", option.as_str(), "-o", "APT::Sandbox::User=root"];
    words.extend(OUTSIDE_CACHES);
    words.push("update");
    fetching(context, || apt(context, &words).run())?.ok()?;
    Ok(option)
}

fn policy(context: &Context<'_>, names: &[&str]) -> Result<Vec<(String, Option<String>)>> {
    let words =
        ["apt-cache"].into_iter().chain(OUTSIDE_CACHES).chain(["policy"]).chain(names.iter().copied());
    Ok(parse_policy(&context.command(words).capture().run()?.ok()?.stdout()))
}

/// The candidates in the output of `apt-cache policy`.
fn parse_policy(text: &str) -> Vec<(String, Option<String>)> {
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            found.push((name.to_owned(), None));
        } else if let (Some(version), Some(last)) =
            (line.trim().strip_prefix("Candidate: "), found.last_mut())
        {
            last.1 = (version != "(none)").then(|| version.to_owned());
        }
    }
    found
}

/// [`olbake_core::operation::Action::AptUpgrade`].
pub(crate) fn upgrade<'a>(context: &Context<'_>, full: bool) -> Result<Decision<'a>> {
    let verb = if full { "dist-upgrade" } else { "upgrade" };
    let mut option = None;
    if lists_are_stale() && !context.verifying {
        if context.is_check() {
            option = Some(own_lists(context)?);
        } else {
            update(context)?;
        }
    }
    let mut words = vec!["apt-get", "-s", "-q"];
    words.extend(OUTSIDE_CACHES);
    words.extend(option.iter().flat_map(|option| ["-o", option.as_str()]));
    words.push(verb);
    let mut changes = parse_simulation(&context.command(words).capture().run()?.ok()?.stdout());
    // What an earlier operation would have brought to its newest version is not to be upgraded again.
    changes.retain(|change| {
        let name = change.what.trim_start_matches("package ");
        context
            .world()
            .predicted_package(name)
            .is_none_or(|predicted| predicted.is_none() || predicted != change.to)
    });
    let act = move |context: &Context<'_>| {
        let _policy = Policy::keep_stopped(true)?;
        repair(context)?;
        fetching(context, || apt(context, &[verb]).run())?.ok()?;
        context.units_changed(Stale::Units);
        Ok(Effect::Changed)
    };
    let prediction = move |world: &crate::world::World| {
        world.predict_opaque();
        Ok(())
    };
    Ok(Work::act(changes, act, prediction).decide())
}

/// What `apt-get -s` says that it would do: `Inst name [old] (new source [arch])`, `Remv name [old]`.
fn parse_simulation(text: &str) -> Vec<Change> {
    let parse = |line: &str| {
        let (verb, rest) = line.split_once(' ')?;
        let name = rest.split_whitespace().next()?;
        let between = |open: char, close: char| {
            let (_, after) = rest.split_once(open)?;
            after.split([close, ' ']).next().map(str::to_owned)
        };
        let what = format!("package {name}");
        match verb {
            "Inst" => {
                let old = between('[', ']').filter(|_| rest.find('[') < rest.find('('));
                Some(change(what, old, between('(', ')')))
            }
            "Remv" => Some(change(what, between('[', ']'), NONE)),
            _ => None,
        }
    };
    let mut changes: Vec<Change> = text.lines().filter_map(parse).collect();
    changes.sort_unstable_by(|a, b| a.what.cmp(&b.what));
    changes
}

/// [`olbake_core::operation::Action::AptHold`].
pub(crate) fn hold<'a>(context: &Context<'_>, packages: &'a [String], held: bool) -> Result<Decision<'a>> {
    let status = Status::read()?;
    let word = |held: bool| if held { "held" } else { "free" };
    let mut changes = Vec::new();
    let mut names = Vec::new();
    for name in packages {
        let predicted = context.world().predicted_package(name);
        if predicted.as_ref().map_or(status.version(name).is_none(), Option::is_none) {
            return Err(OpError::Missing(format!(
                "the package `{name}` is not installed, so it cannot be held"
            )));
        }
        let found = context.world().predicted_hold(name).unwrap_or_else(|| status.held(name));
        if found != held {
            changes.push(change(format!("package {name}"), Some(word(found)), Some(word(held))));
            names.push(name.clone());
        }
    }
    let predicted = names.clone();
    let act = move |context: &Context<'_>| {
        let words =
            ["apt-mark".to_owned(), if held { "hold" } else { "unhold" }.to_owned()].into_iter().chain(names);
        context.command(words).sink(context.sink()).run()?.ok()?;
        Ok(Effect::Changed)
    };
    let prediction = move |world: &crate::world::World| {
        world.predict_holds(&predicted, held);
        Ok(())
    };
    Ok(Work::act(changes, act, prediction).decide())
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_SAVED: &str = "/usr/sbin/policy-rc.d.before-olbake";
const POLICY_MARK: &str = "# olbake keeps services stopped while packages are installed\n";

/// Keeps packages from starting their services, and puts back what was there before.
struct Policy {
    active: bool,
}

impl Policy {
    fn keep_stopped(wanted: bool) -> Result<Self> {
        remove_leftovers();
        if wanted {
            let (path, saved) = (Utf8Path::new(POLICY), Utf8Path::new(POLICY_SAVED));
            if path.symlink_metadata().is_ok() {
                fs::rename(path, saved).at("rename", path)?;
            }
            fs::write(path, format!("#!/bin/sh\n{POLICY_MARK}exit 101\n")).at("write", path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).at("set the mode of", path)?;
        }
        Ok(Self { active: wanted })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.active {
            remove_leftovers();
        }
    }
}

/// Puts back the policy that a transaction replaced, its own or one that was killed.
pub(crate) fn remove_leftovers() {
    let is_ours = fs::read_to_string(POLICY).is_ok_and(|text| text.contains(POLICY_MARK));
    if is_ours {
        // The leak scan reports one that is still there.
        drop(fs::remove_file(POLICY));
    }
    if Utf8Path::new(POLICY_SAVED).symlink_metadata().is_ok()
        && Utf8Path::new(POLICY).symlink_metadata().is_err()
    {
        drop(fs::rename(POLICY_SAVED, POLICY));
    }
}

/// Whether a file is the policy of a transaction that was killed.
pub(crate) fn is_leftover(path: &Utf8Path) -> bool {
    path == POLICY_SAVED
        || (path == POLICY && fs::read_to_string(path).is_ok_and(|text| text.contains(POLICY_MARK)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_package() {
        let text = "Reading package lists...\nE: Unable to locate package nginz\n";
        assert_eq!(parse_refusal(text), Some(Refusal::NotFound("nginz".into())));
        let text = "E: Version '9' for 'nginx' was not found\n";
        assert_eq!(
            parse_refusal(text),
            Some(Refusal::NoVersion { package: "nginx".into(), version: "9".into() })
        );
        let text = "E: Package 'x' has no installation candidate\n";
        assert_eq!(parse_refusal(text), Some(Refusal::NotFound("x".into())));
        assert_eq!(parse_refusal("E: Sub-process /usr/bin/dpkg returned an error code (1)\n"), None);
    }

    #[test]
    fn candidates_are_read() {
        let text = "nginx:\n  Installed: (none)\n  Candidate: 1.22\n  Version table:\n     1.22 500\nx:\n  Candidate: (none)\n";
        assert_eq!(parse_policy(text), [("nginx".into(), Some("1.22".into())), ("x".into(), None)]);
    }

    #[test]
    fn simulations_are_read() {
        let text = "Inst b [1] (2 Debian:12/stable [amd64])\nInst a (3 Debian:12/stable [amd64])\nConf a (3 x)\nRemv c [4]\n";
        let changes = parse_simulation(text);
        let shown: Vec<_> =
            changes.iter().map(|c| (c.what.as_str(), c.from.as_deref(), c.to.as_deref())).collect();
        assert_eq!(
            shown,
            [
                ("package a", None, Some("3")),
                ("package b", Some("1"), Some("2")),
                ("package c", Some("4"), None)
            ]
        );
    }

    #[test]
    fn near_names_are_few_steps_away() {
        assert_eq!(distance("nginz", "nginx"), 1);
        assert_eq!(distance("caddy", "cady"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
