//! `check.*`: what must hold on a fresh boot.

use std::collections::BTreeMap;

use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, Check};

use crate::builtin::{Call, Row, Step, operation};

pub(super) const TABLE: &[Row] = &[
    operation("check.command", "command * user? exit_code? stdout_contains? within?", command),
    operation("check.file", "path * present? kind? owner? group? mode? contains?", file),
    operation("check.package", "name * version?", package),
    operation("check.unit", "unit * active? enabled? within?", unit),
    operation("check.port", "port * address? open? within?", port),
    operation("check.http", "url * status? contains? headers? within?", http),
    operation("check.user", "name * groups? shell? home?", user),
];

fn step(subject: impl std::fmt::Display, call: &Call<'_, '_>, check: Check) -> Vec<Step> {
    vec![Step::new(format!("{} {subject}", call.name), Action::Check(check))]
}

/// Seconds to go on trying: services need a moment after boot, commands and files do not.
fn within(call: &Call<'_, '_>, default: u32) -> u32 {
    call.opt_seconds("within").unwrap_or(default)
}

fn command(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let argv = call.argv("command");
    let title = argv.join(" ");
    let check = Check::Command {
        argv,
        user: call.opt_account("user"),
        exit_code: call.opt_number("exit_code").unwrap_or(0),
        stdout_contains: call.opt_text("stdout_contains"),
        within_seconds: within(call, 0),
    };
    Ok(step(title, call, check))
}

fn file(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let path = call.path("path");
    let kind = call.opt_text("kind");
    if kind.as_deref().is_some_and(|kind| !matches!(kind, "file" | "directory" | "link")) {
        call.refuse("kind", "expected `file`, `directory` or `link`");
    }
    let check = Check::File {
        path: path.clone(),
        present: call.flag("present", true),
        kind,
        ownership: call.ownership(),
        contains: call.opt_text("contains"),
    };
    Ok(step(path, call, check))
}

fn package(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let name = call.text("name");
    Ok(step(name.clone(), call, Check::Package { name, version: call.opt_text("version") }))
}

fn unit(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let unit = super::systemd::unit_name(call, "unit");
    let enabled = call.opt_flag("enabled");
    let active = match call.given("active") {
        // A check of a unit without more asks whether it runs.
        None => enabled.is_none().then_some(true),
        Some(_) => call.opt_flag("active"),
    };
    Ok(step(unit.clone(), call, Check::Unit { unit, active, enabled, within_seconds: within(call, 30) }))
}

fn port(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let port: u16 = call.opt_number("port").unwrap_or_default();
    if port == 0 {
        call.refuse("port", "expected a port from 1 to 65535");
    }
    let address = call.opt_text("address").unwrap_or_else(|| "127.0.0.1".to_owned());
    let open = call.flag("open", true);
    Ok(step(port, call, Check::Port { port, address, open, within_seconds: within(call, 30) }))
}

fn http(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let url = call.text("url");
    if !url.starts_with("http://") {
        call.refuse("url", format!("expected `http://…` on the machine itself, found `{url}`"));
    }
    let mut headers = BTreeMap::new();
    if let Some(given) = call.json("headers") {
        for (name, value) in given.as_object().into_iter().flatten() {
            let value =
                value.as_str().ok_or_else(|| call.wrong("headers", format!("`{name}` is not text")))?;
            call.plain("headers", value)?;
            headers.insert(name.clone(), value.to_owned());
        }
    }
    let check = Check::Http {
        url: url.clone(),
        status: call.opt_number("status").unwrap_or(200),
        contains: call.opt_text("contains"),
        headers,
        within_seconds: within(call, 30),
    };
    Ok(step(url, call, check))
}

fn user(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let name = call.opt_account("name").unwrap_or_default();
    let check = Check::User {
        name: name.clone(),
        groups: call.all_written("groups", super::written::account),
        shell: call.opt_path("shell"),
        home: call.opt_path("home"),
    };
    Ok(step(name, call, check))
}
