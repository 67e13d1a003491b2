//! `os.*` and `cron.*`: the machine's name, time, kernel parameters, limits and the like.

use camino::Utf8PathBuf;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, Ownership, Run};

use crate::builtin::{Call, Row, Step, operation};

pub(super) const TABLE: &[Row] = &[
    operation("os.hostname", "name", hostname),
    operation("os.timezone", "zone", timezone),
    operation("os.locale", "locale * generate?", locale),
    operation("os.sysctl", "key value * file?", sysctl),
    operation("os.modprobe", "name * load? options? blacklist?", modprobe),
    operation("os.limits", "domain item value * kind? file?", limits),
    operation("os.hosts", "address names?", hosts),
    operation("os.reboot", "required?", reboot),
    operation("os.ca_certificate", "name src", ca_certificate),
];

pub(super) const CRON: &[Row] = &[operation("cron.job", "name schedule command * user? env?", cron)];

fn hostname(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let name = call.text("name");
    let fine = !name.is_empty()
        && name.len() <= 64
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        });
    if !fine {
        call.refuse("name", format!("`{name}` is not a host name"));
    }
    Ok(vec![Step::new(format!("os.hostname {name}"), Action::Hostname { name })])
}

fn timezone(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let zone = call.text("zone");
    let fine = !zone.is_empty()
        && zone.split('/').all(|part| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_+-".contains(c))
        });
    if !fine {
        call.refuse("zone", format!("`{zone}` is not a time zone such as `Europe/Berlin`"));
    }
    Ok(vec![Step::new(format!("os.timezone {zone}"), Action::Timezone { zone })])
}

fn text_file(call: &Call<'_, '_>, path: String, text: String) -> Result<Step, Diagnostic> {
    let title = format!("{} {path}", call.name);
    let path = Utf8PathBuf::from(path);
    call.no_longer_than_linux_takes("name", &path)?;
    let action = Action::FilePut {
        path,
        content: call.recording()?.keep_text(text),
        ownership: Ownership { owner: None, group: None, mode: Some(0o644) },
        validate: None,
        only_if_absent: false,
    };
    Ok(Step::new(title, action))
}

/// The system's locale. One that is not built in is generated, which needs the package `locales`.
fn locale(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let locale = call.text("locale");
    let built_in = matches!(locale.as_str(), "C" | "POSIX" | "C.UTF-8");
    let mut steps = Vec::new();
    if call.flag("generate", !built_in) {
        let (language, charset) = locale.split_once('.').unwrap_or((&locale, "UTF-8"));
        // glibc names the folder of a locale by its character set in lower case without signs.
        let folder: String =
            charset.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        let run = Run {
            argv: ["localedef", "--no-archive", "-i", language, "-f", charset, &locale]
                .map(str::to_owned)
                .to_vec(),
            creates: Some(format!("/usr/lib/locale/{language}.{folder}").into()),
            ..Run::default()
        };
        steps.push(Step::new(format!("os.locale {locale}"), Action::Run(Box::new(run))));
    }
    steps.push(text_file(call, "/etc/default/locale".to_owned(), format!("LANG={locale}\n"))?);
    Ok(steps)
}

fn sysctl(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let key = call.text("key");
    let value = match call.get("value") {
        Some(value) if value.unpack_str().is_some() => call.text("value"),
        Some(_) => call.opt_number::<i64>("value").unwrap_or_default().to_string(),
        None => {
            call.refuse("value", "expected a number or text");
            String::new()
        }
    };
    let fine = key.contains('.') && key.chars().all(|c| c.is_ascii_alphanumeric() || "._-/*".contains(c));
    if !fine {
        call.refuse("key", format!("`{key}` is not a kernel parameter such as `net.core.somaxconn`"));
    }
    let name = key.replace(['.', '/', '*'], "-");
    let path = call.opt_path("file").unwrap_or_else(|| format!("/etc/sysctl.d/60-{name}.conf").into());
    Ok(vec![Step::new(format!("os.sysctl {key}"), Action::Sysctl { key, value, path })])
}

fn modprobe(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let name = call.text("name");
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
        call.refuse("name", format!("`{name}` is not a kernel module"));
    }
    let blacklist = call.flag("blacklist", false);
    let mut steps = Vec::new();
    if call.flag("load", !blacklist) {
        steps.push(text_file(call, format!("/etc/modules-load.d/{name}.conf"), format!("{name}\n"))?);
    }
    let mut rules = String::new();
    if blacklist {
        rules.push_str(&format!("blacklist {name}\ninstall {name} /bin/false\n"));
    }
    if let Some(options) = call.opt_text("options") {
        rules.push_str(&format!("options {name} {options}\n"));
    }
    if !rules.is_empty() {
        steps.push(text_file(call, format!("/etc/modprobe.d/{name}.conf"), rules)?);
    }
    Ok(steps)
}

fn limits(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let (domain, item) = (call.text("domain"), call.text("item"));
    let value = match call.get("value") {
        Some(value) if value.unpack_str().is_some() => call.text("value"),
        _ => call.opt_number::<i64>("value").unwrap_or_default().to_string(),
    };
    let kind = call.opt_text("kind").unwrap_or_else(|| "-".to_owned());
    if !matches!(kind.as_str(), "-" | "soft" | "hard") {
        call.refuse("kind", format!("expected `soft`, `hard` or `-`, found `{kind}`"));
    }
    let stem: String =
        format!("{domain}-{item}").replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
    let path = match call.opt_path("file") {
        Some(path) => path.into_string(),
        None => format!("/etc/security/limits.d/60-{stem}.conf"),
    };
    Ok(vec![text_file(call, path, format!("{domain} {kind} {item} {value}\n"))?])
}

fn hosts(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let address = call.text("address");
    if address.parse::<std::net::IpAddr>().is_err() {
        call.refuse("address", format!("`{address}` is not an IP address"));
    }
    let names = call.texts("names");
    Ok(vec![Step::new(format!("os.hosts {address}"), Action::Hosts { address, names })])
}

/// A reboot. Without `when_changed` it is only meant where the machine itself says that it waits for one: a recipe that
/// is applied again must not boot it again.
fn reboot(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let conditional = !call.elements("when_changed").is_empty();
    let required = call.flag("required", !conditional);
    if !required && !conditional {
        return Err(call.wrong("required", "expected `when_changed`, or else it would boot again every time"));
    }
    Ok(vec![Step::new("os.reboot".to_owned(), Action::Reboot { required })])
}

/// A certificate that the machine trusts, and the bundle made again when it changed.
fn ca_certificate(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let name = call.text("name");
    if name.is_empty() || name.contains('/') {
        call.refuse("name", format!("`{name}` cannot name a file"));
    }
    let (content, _) = call.file_content("src", &call.text("src"))?;
    let stem = name.strip_suffix(".crt").unwrap_or(&name);
    let put = Action::FilePut {
        path: format!("/usr/local/share/ca-certificates/{stem}.crt").into(),
        content,
        ownership: Ownership { owner: None, group: None, mode: Some(0o644) },
        validate: None,
        only_if_absent: false,
    };
    let run = Run { argv: vec!["update-ca-certificates".to_owned()], ..Run::default() };
    let mut update = Step::new("update-ca-certificates".to_owned(), Action::Run(Box::new(run)));
    update.follows = true;
    Ok(vec![Step::new(format!("os.ca_certificate {stem}"), put), update])
}

fn cron(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let (name, schedule) = (call.text("name"), call.text("schedule"));
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
        call.refuse(
            "name",
            format!("`{name}`: cron reads only files named with letters, digits, `-` and `_`"),
        );
    }
    let fields = schedule.split_whitespace().count();
    if fields != 5 && !(fields == 1 && schedule.starts_with('@')) {
        call.refuse("schedule", format!("expected five fields or `@daily`, found `{schedule}`"));
    }
    let user = call.opt_account("user").unwrap_or_else(|| "root".to_owned());
    let command = call.text("command");
    if command.contains('\n') {
        call.refuse("command", "expected one line");
    }
    let mut text = String::new();
    if let Some(env) = call.json("env") {
        for (key, value) in env.as_object().into_iter().flatten() {
            text.push_str(&format!("{key}={}\n", value.as_str().unwrap_or_default()));
        }
    }
    text.push_str(&format!("{schedule} {user} {command}\n"));
    call.session.known_secrets(&text).map_err(|message| call.wrong("env", message))?;
    Ok(vec![text_file(call, format!("/etc/cron.d/{name}"), text)?])
}
