//! Checks: they change nothing, and hold or fail. Those about things that take a moment to come up are tried again
//! until their deadline.

use std::time::{Duration, Instant};

use olbake_core::operation::{Check, Ownership};

use super::file::octal;
use super::service::active_state;
use super::unit_links;
use super::{Decision, run::identity};
use crate::context::Context;
use crate::dpkg::Status;
use crate::error::{OpError, Result};
use crate::http;
use crate::world::Node;

/// How long to wait between tries.
const PAUSE: Duration = Duration::from_millis(250);

/// [`olbake_core::operation::Action::Check`].
pub(crate) fn check<'a>(context: &Context<'_>, check: &Check) -> Result<Decision<'a>> {
    if context.is_check() && context.world().is_predicted() {
        return Ok(Decision::Skip("earlier operations would change the machine first".to_owned()));
    }
    let deadline = Instant::now() + Duration::from_secs(u64::from(within(check)));
    loop {
        match once(context, check, deadline) {
            Ok(()) => return Ok(Decision::Fine),
            Err(OpError::Cancelled) => return Err(OpError::Cancelled),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
        context.go_on()?;
    }
}

fn within(check: &Check) -> u32 {
    match check {
        Check::Command { within_seconds, .. }
        | Check::Unit { within_seconds, .. }
        | Check::Port { within_seconds, .. }
        | Check::Http { within_seconds, .. } => *within_seconds,
        Check::File { .. } | Check::Package { .. } | Check::User { .. } => 0,
    }
}

fn once(context: &Context<'_>, check: &Check, deadline: Instant) -> Result<()> {
    match check {
        Check::Command { argv, user, exit_code, stdout_contains, within_seconds: _ } => {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(60));
            let identity = identity(context, user.as_deref())?;
            let ended =
                context.command(argv.iter().cloned()).identity(identity).timeout(left).capture().run()?;
            if ended.code() != Some(*exit_code) {
                return Err(ended.error(format!("the command was to exit with {exit_code}")));
            }
            match stdout_contains {
                Some(text) if !ended.stdout().contains(text.as_str()) => {
                    Err(ended.error(format!("the command's output does not contain `{text}`")))
                }
                _ => Ok(()),
            }
        }
        Check::File { path, present, kind, ownership, contains } => {
            file(context, path, *present, kind.as_deref(), ownership, contains.as_deref())
        }
        Check::Package { name, version } => package(name, version.as_deref()),
        Check::Unit { unit, active, enabled, within_seconds: _ } => {
            self::unit(context, unit, *active, *enabled)
        }
        Check::Port { port, address, open, within_seconds: _ } => {
            match (http::connect(address, *port, Duration::from_secs(2)), open) {
                (Ok(_), true) | (Err(_), false) => Ok(()),
                (Ok(_), false) => Err(OpError::wrong(format!("something listens on {address}:{port}"))),
                (Err(error), true) => Err(OpError::wrong(error)),
            }
        }
        Check::Http { url, status, contains, headers, within_seconds: _ } => {
            let answer = http::get(url, headers).map_err(OpError::Wrong)?;
            if answer.status != *status {
                let start: String = answer.body.chars().take(400).collect();
                let found = answer.status;
                return Err(OpError::wrong(format!("{url} answers {found} and not {status}: {start}")));
            }
            match contains {
                Some(text) if !answer.body.contains(text.as_str()) => {
                    Err(OpError::wrong(format!("the answer of {url} does not contain `{text}`")))
                }
                _ => Ok(()),
            }
        }
        Check::User { name, groups, shell, home } => {
            let accounts = context.world().accounts();
            let missing = || OpError::wrong(format!("there is no user `{name}`"));
            let user = accounts.user(name).ok_or_else(missing)?;
            let own = accounts.groups_of(name);
            let primary = accounts.group_name(user.gid);
            for group in groups {
                expect(own.contains(group) || primary == *group, || {
                    format!("`{name}` is not in the group `{group}`")
                })?;
            }
            let is = |wanted: &Option<camino::Utf8PathBuf>, found: &str, what: &str| {
                let fits = wanted.as_ref().is_none_or(|wanted| wanted.as_str() == found);
                expect(fits, || format!("the {what} of `{name}` is `{found}`"))
            };
            is(shell, &user.shell, "shell")?;
            is(home, &user.home, "home")
        }
    }
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(OpError::Wrong(otherwise())) }
}

fn file(
    context: &Context<'_>,
    path: &camino::Utf8Path,
    present: bool,
    kind: Option<&str>,
    ownership: &Ownership,
    contains: Option<&str>,
) -> Result<()> {
    let node = context.world().look(path)?;
    let Some(mut meta) = node.meta() else {
        return expect(!present, || format!("there is no `{path}`"));
    };
    expect(present, || format!("`{path}` exists"))?;
    if let Some(kind) = kind {
        expect(node.kind() == kind, || format!("`{path}` is a {}, not a {kind}", node.kind()))?;
    }
    if let Node::Link { .. } = node
        && kind != Some("link")
    {
        meta = context.world().follow(path)?.1.meta().unwrap_or(meta);
    }
    let accounts = context.world().accounts();
    let (owner, group) = (accounts.user_name(meta.uid), accounts.group_name(meta.gid));
    let fits = |wanted: &Option<String>, name: &str, number: u32| {
        wanted.as_ref().is_none_or(|wanted| wanted == name || wanted.parse() == Ok(number))
    };
    expect(fits(&ownership.owner, &owner, meta.uid), || format!("`{path}` belongs to the user `{owner}`"))?;
    expect(fits(&ownership.group, &group, meta.gid), || format!("`{path}` belongs to the group `{group}`"))?;
    let mode = octal(meta.mode);
    expect(ownership.mode.is_none_or(|wanted| wanted == meta.mode), || {
        format!("`{path}` has the mode {mode}")
    })?;
    if let Some(text) = contains {
        let found = context.world().text(path)?.unwrap_or_default();
        expect(found.contains(text), || format!("`{path}` does not contain `{text}`"))?;
    }
    Ok(())
}

fn package(name: &str, version: Option<&str>) -> Result<()> {
    let status = Status::read()?;
    let found = status.version(name);
    match (found, version) {
        (None, _) => Err(OpError::wrong(format!("the package `{name}` is not installed"))),
        (Some(found), Some(wanted)) if found != wanted => {
            Err(OpError::wrong(format!("the package `{name}` is installed in version {found}, not {wanted}")))
        }
        _ => Ok(()),
    }
}

fn unit(context: &Context<'_>, unit: &str, active: Option<bool>, enabled: Option<bool>) -> Result<()> {
    if let Some(wanted) = enabled {
        let found = is_enabled(context, unit)?;
        let word = if found { "enabled" } else { "not enabled" };
        expect(found == wanted, || format!("`{unit}` is {word}"))?;
    }
    if let Some(wanted) = active {
        expect(context.run.booted, || format!("systemd does not run here, so `{unit}` is not active"))?;
        let state = active_state(context, unit)?;
        if (state == "active") != wanted {
            let status = context.command(["systemctl", "status", "--no-pager", "--lines=20", unit]).run()?;
            return Err(status.error(format!("`{unit}` is {state}")));
        }
    }
    Ok(())
}

fn is_enabled(context: &Context<'_>, unit: &str) -> Result<bool> {
    if context.run.booted {
        let ended = context.command(["systemctl", "is-enabled", unit]).capture().run()?;
        return Ok(matches!(ended.stdout().trim(), "enabled" | "enabled-runtime" | "alias" | "generated"));
    }
    let wanted = unit_links::wanted(context.world(), unit)?;
    for (path, _) in &wanted {
        if !unit_links::is_made(context.world(), path)? {
            return Ok(false);
        }
    }
    Ok(!wanted.is_empty())
}
