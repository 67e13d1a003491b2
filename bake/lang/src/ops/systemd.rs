//! `systemd.*`: units as typed sections or as text, and their state.

use camino::Utf8PathBuf;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, Ownership};
use serde_json::{Map, Value as Json};

use super::apt::starts_without_why;
use super::written;
use crate::builtin::{Call, Row, Step, operation};

pub(super) const TABLE: &[Row] = &[
    operation("systemd.service", "unit * enabled? running? masked? restart_on? reload_on? why?", service),
    operation("systemd.unit", "unit content * enabled? restart_on? reload_on? mode?", unit),
    operation("systemd.dropin", "unit name content * mode?", dropin),
    operation(
        "systemd.timer",
        "name * command? unit? on_calendar? on_boot? on_active? on_unit_active? persistent? delay? accuracy? user? \
         description? service? enabled?",
        timer,
    ),
    operation("systemd.path_watch", "unit paths * action? name? enabled? trigger_limit?", path_watch),
    operation("systemd.mask", "unit * masked?", mask),
];

const DIRECTORY: &str = "/etc/systemd/system";

/// A unit's name; without a suffix it is a service.
pub(super) fn unit_name(call: &Call<'_, '_>, parameter: &str) -> String {
    let text = call.text(parameter);
    written::unit(&text).unwrap_or_else(|fault| {
        call.note(parameter, call.fault(parameter, fault));
        format!("{text}.service")
    })
}

/// The name of a unit of a type, without the type.
fn unit_stem(call: &Call<'_, '_>, parameter: &str, suffix: &str) -> String {
    let text = call.text(parameter);
    let stem = text.strip_suffix(suffix).unwrap_or(&text);
    if let Err(fault) = written::unit(&format!("{stem}{suffix}")) {
        call.note(parameter, call.fault(parameter, fault));
    }
    stem.to_owned()
}

fn service_step(call: &Call<'_, '_>, unit: String, enabled: Option<bool>) -> Step {
    let title = format!("systemd.service {unit}");
    let action = Action::Service {
        unit,
        enabled,
        masked: None,
        running: None,
        restart_on: Vec::new(),
        reload_on: Vec::new(),
    };
    Step {
        restart_on: call.targets("restart_on"),
        reload_on: call.targets("reload_on"),
        ..Step::new(title, action)
    }
}

fn service(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let unit = unit_name(call, "unit");
    let running = call.opt_flag("running");
    if running == Some(true) && call.opt_text("why").is_none() {
        return Err(starts_without_why(call));
    }
    let mut step = service_step(call, unit, call.opt_flag("enabled"));
    if let Action::Service { running: field, masked, .. } = &mut step.action {
        *field = running;
        *masked = call.opt_flag("masked");
    }
    Ok(vec![step])
}

fn mask(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let unit = unit_name(call, "unit");
    let masked = call.flag("masked", true);
    let title = format!("{} {unit}", call.name);
    let action = Action::Service {
        unit,
        enabled: None,
        masked: Some(masked),
        running: None,
        restart_on: Vec::new(),
        reload_on: Vec::new(),
    };
    Ok(vec![Step::new(title, action)])
}

/// A file below `/etc/systemd/system`.
fn unit_file(call: &Call<'_, '_>, path: &str, text: String, mode: Option<u32>) -> Result<Step, Diagnostic> {
    let path = Utf8PathBuf::from(format!("{DIRECTORY}/{path}"));
    call.no_longer_than_linux_takes("name", &path)?;
    let title = format!("{} {path}", call.name);
    let action = Action::FilePut {
        path,
        content: call.recording()?.keep_text(text),
        ownership: Ownership { owner: None, group: None, mode: Some(mode.unwrap_or(0o644)) },
        validate: None,
        only_if_absent: false,
    };
    Ok(Step::new(title, action))
}

/// The text of a unit, from text or from sections.
fn unit_text(call: &Call<'_, '_>, parameter: &str) -> Result<String, Diagnostic> {
    let Some(value) = call.get(parameter) else {
        return Err(call.wrong(parameter, "expected sections or text"));
    };
    if value.unpack_str().is_some() {
        let text = call.secret_text(parameter).unwrap_or_default();
        return Ok(if text.ends_with('\n') { text } else { text + "\n" });
    }
    let sections = call.json(parameter).unwrap_or_default();
    let text = sections_text(&sections).map_err(|message| call.wrong(parameter, message))?;
    call.session.known_secrets(&text).map_err(|message| call.wrong(parameter, message))?;
    Ok(text)
}

/// Sections as a unit file: `{"Service": {"ExecStart": "…", "Environment": ["A=1", "B=2"]}}`.
fn sections_text(sections: &Json) -> Result<String, String> {
    let sections = sections.as_object().ok_or("expected a dictionary of sections, or text")?;
    let mut text = String::new();
    // `[Unit]` and `[Install]` stand where people look for them; the rest keeps its order by name.
    let rank = |name: &str| match name {
        "Unit" => 0,
        "Install" => 2,
        _ => 1,
    };
    let mut names: Vec<&String> = sections.keys().collect();
    names.sort_by_key(|name| rank(name));
    for name in names {
        let keys =
            sections[name].as_object().ok_or_else(|| format!("the section `{name}` is not a dictionary"))?;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("[{name}]\n"));
        // In one order, whatever the recipe's: what is written the same means the same key.
        let keys: std::collections::BTreeMap<&String, &Json> = keys.iter().collect();
        for (key, value) in keys {
            push_key(&mut text, key, value).map_err(|message| format!("`{name}.{key}`: {message}"))?;
        }
    }
    Ok(text)
}

fn push_key(text: &mut String, key: &str, value: &Json) -> Result<(), String> {
    let line = |value: &Json| match value {
        Json::String(value) if value.contains('\n') => Err("a value has one line".to_owned()),
        Json::String(value) => Ok(value.clone()),
        Json::Bool(value) => Ok(if *value { "yes" } else { "no" }.to_owned()),
        Json::Number(value) => Ok(value.to_string()),
        other => Err(format!("expected text, a number or a list of them, found `{other}`")),
    };
    match value {
        Json::Null => {}
        // A command as a list is one line; every other list is a line each.
        Json::Array(items) if key.starts_with("Exec") && items.iter().all(Json::is_string) => {
            let words: Vec<String> = items.iter().filter_map(Json::as_str).map(quote).collect();
            text.push_str(&format!("{key}={}\n", words.join(" ")));
        }
        Json::Array(items) => {
            for item in items {
                match item.as_array() {
                    Some(words) => {
                        let words: Vec<String> = words.iter().filter_map(Json::as_str).map(quote).collect();
                        text.push_str(&format!("{key}={}\n", words.join(" ")));
                    }
                    None => text.push_str(&format!("{key}={}\n", line(item)?)),
                }
            }
        }
        value => text.push_str(&format!("{key}={}\n", line(value)?)),
    }
    Ok(())
}

/// A word of a command line in a unit file, quoted where systemd needs it (systemd.service(5), "Command lines").
fn quote(word: &str) -> String {
    let doubled = word.replace('%', "%%").replace('$', "$$");
    let plain = !doubled.is_empty() && doubled.chars().all(|c| !c.is_whitespace() && !"\"'\\;".contains(c));
    if plain {
        doubled
    } else {
        format!("\"{}\"", doubled.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    }
}

fn unit(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let unit = unit_name(call, "unit");
    let text = unit_text(call, "content")?;
    let mut steps = vec![unit_file(call, &unit, text, call.opt_mode("mode"))?];
    let enabled = call.opt_flag("enabled");
    let service = service_step(call, unit, enabled);
    if enabled.is_some() || !service.restart_on.is_empty() || !service.reload_on.is_empty() {
        steps.push(service);
    }
    Ok(steps)
}

fn dropin(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let unit = unit_name(call, "unit");
    let name = call.text("name");
    let stem = name.strip_suffix(".conf").unwrap_or(&name);
    if stem.is_empty() || stem.contains('/') {
        return Err(call.wrong("name", format!("`{name}` cannot name a file")));
    }
    let text = unit_text(call, "content")?;
    Ok(vec![unit_file(call, &format!("{unit}.d/{stem}.conf"), text, call.opt_mode("mode"))?])
}

fn section(keys: Vec<(&str, Option<Json>)>) -> Json {
    let keys = keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Json::Object(keys.collect::<Map<_, _>>())
}

fn sections(all: Vec<(&str, Json)>) -> Json {
    Json::Object(all.into_iter().map(|(name, keys)| (name.to_owned(), keys)).collect())
}

fn timer(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let stem = unit_stem(call, "name", ".timer");
    let command = call.opt_argv("command");
    let target = call.get("unit").map(|_| unit_name(call, "unit"));
    let schedule = ["on_calendar", "on_boot", "on_active", "on_unit_active"];
    if schedule.iter().all(|parameter| call.get(parameter).is_none()) {
        return Err(Diagnostic::error("argument", format!("the timer `{stem}` has no schedule"))
            .help("give `on_calendar`, `on_boot`, `on_active` or `on_unit_active`"));
    }
    let description = call.opt_text("description").unwrap_or_else(|| stem.clone());
    let mut steps = Vec::new();
    let activated = match (command, target) {
        (Some(command), None) => {
            let unit = format!("{stem}.service");
            let mut service = section(vec![
                ("Type", Some("oneshot".into())),
                ("ExecStart", Some(command.into())),
                ("User", call.opt_account("user").map(Json::from)),
            ]);
            merge(call, &mut service)?;
            let body = sections(vec![
                ("Unit", section(vec![("Description", Some(description.clone().into()))])),
                ("Service", service),
            ]);
            let text = sections_text(&body).map_err(|message| call.wrong("service", message))?;
            steps.push(unit_file(call, &unit, text, None)?);
            unit
        }
        (None, Some(unit)) => unit,
        _ => {
            return Err(Diagnostic::error(
                "argument",
                format!("the timer `{stem}` takes `command` or `unit`"),
            ));
        }
    };
    let calendars = call.all_written("on_calendar", written::calendar);
    let span = |parameter: &str| call.opt_written(parameter, written::time_span).map(Json::from);
    let body = sections(vec![
        ("Unit", section(vec![("Description", Some(description.into()))])),
        (
            "Timer",
            section(vec![
                ("OnCalendar", Some(calendars).filter(|all| !all.is_empty()).map(Json::from)),
                ("OnBootSec", span("on_boot")),
                ("OnActiveSec", span("on_active")),
                ("OnUnitActiveSec", span("on_unit_active")),
                ("RandomizedDelaySec", span("delay")),
                ("AccuracySec", span("accuracy")),
                ("Persistent", call.opt_flag("persistent").map(Json::from)),
                ("Unit", Some(activated.into())),
            ]),
        ),
        ("Install", section(vec![("WantedBy", Some("timers.target".into()))])),
    ]);
    let text = sections_text(&body).map_err(|message| call.wrong("name", message))?;
    steps.push(unit_file(call, &format!("{stem}.timer"), text, None)?);
    steps.push(enable(format!("{stem}.timer"), call.flag("enabled", true)));
    Ok(steps)
}

/// Lays the recipe's own keys for the service of a timer over those that it needs.
fn merge(call: &Call<'_, '_>, service: &mut Json) -> Result<(), Diagnostic> {
    let Some(own) = call.json("service") else { return Ok(()) };
    let (Some(own), Some(keys)) = (own.as_object(), service.as_object_mut()) else {
        return Err(call.wrong("service", "expected a dictionary of keys for `[Service]`"));
    };
    keys.extend(own.clone());
    Ok(())
}

fn enable(unit: String, enabled: bool) -> Step {
    let title = format!("systemd.service {unit}");
    let action = Action::Service {
        unit,
        enabled: Some(enabled),
        masked: None,
        running: None,
        restart_on: Vec::new(),
        reload_on: Vec::new(),
    };
    Step::new(title, action)
}

/// Units that act on a service when files change: a path unit and the service that it starts.
fn path_watch(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let watched = unit_name(call, "unit");
    let verb = call.opt_text("action").unwrap_or_else(|| "reload".to_owned());
    let argument = match verb.as_str() {
        "reload" => "reload-or-restart",
        "restart" => "try-restart",
        "start" => "start",
        _ => {
            return Err(
                call.wrong("action", format!("expected `reload`, `restart` or `start`, found `{verb}`"))
            );
        }
    };
    let base = watched.strip_suffix(".service").unwrap_or(&watched);
    let named = call.get("name").map(|_| unit_stem(call, "name", ".path"));
    let stem = named.unwrap_or_else(|| format!("{base}-watch"));
    let paths: Vec<Json> =
        call.paths("paths").into_iter().map(|path| Json::from(path.into_string())).collect();
    if paths.is_empty() {
        return Err(call.wrong("paths", "expected the paths to watch"));
    }
    let watcher = sections(vec![
        ("Unit", section(vec![("Description", Some(format!("watch the files of {watched}").into()))])),
        (
            "Path",
            section(vec![
                ("PathChanged", Some(paths.into())),
                ("Unit", Some(format!("{stem}.service").into())),
                ("TriggerLimitBurst", call.opt_number::<u32>("trigger_limit").map(Json::from)),
            ]),
        ),
        ("Install", section(vec![("WantedBy", Some("multi-user.target".into()))])),
    ]);
    let command: Vec<Json> = ["/usr/bin/systemctl", argument, &watched].map(Json::from).to_vec();
    let actor = sections(vec![
        (
            "Unit",
            section(vec![(
                "Description",
                Some(format!("{verb} {watched} after a change of its files").into()),
            )]),
        ),
        ("Service", section(vec![("Type", Some("oneshot".into())), ("ExecStart", Some(command.into()))])),
    ]);
    let text = |body: &Json| sections_text(body).map_err(|message| call.wrong("unit", message));
    Ok(vec![
        unit_file(call, &format!("{stem}.service"), text(&actor)?, None)?,
        unit_file(call, &format!("{stem}.path"), text(&watcher)?, None)?,
        enable(format!("{stem}.path"), call.flag("enabled", true)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sections_become_a_unit_file() {
        let body = json!({
            "Install": { "WantedBy": "multi-user.target" },
            "Service": { "ExecStart": ["/bin/sh", "-c", "echo \"$HOME\" 100%"], "Environment": ["A=1", "B=2"], "PrivateTmp": true },
            "Unit": { "Description": "x", "After": null },
        });
        assert_eq!(
            sections_text(&body).unwrap(),
            "[Unit]\nDescription=x\n\n[Service]\nEnvironment=A=1\nEnvironment=B=2\n\
             ExecStart=/bin/sh -c \"echo \\\"$$HOME\\\" 100%%\"\nPrivateTmp=yes\n\n[Install]\nWantedBy=multi-user.target\n"
        );
        assert!(sections_text(&json!({"Service": {"ExecStart": "a\nb"}})).is_err());
        assert!(sections_text(&json!(["x"])).is_err());
    }
}
