//! `apt.*`: packages, where they come from, and what is asked while they are installed.

use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, PackageRequest, PackageState};

use super::written;
use crate::builtin::{Call, Row, Step, operation};

pub(super) const TABLE: &[Row] = &[
    operation("apt.packages", "packages * present? latest? recommends? start_services? why?", packages),
    operation("apt.repo", "name uris? suites? components? * key? architectures? sources? options?", repo),
    operation("apt.upgrade", "full?", upgrade),
    operation("apt.hold", "packages * held?", hold),
    operation("apt.debconf", "package question kind value", debconf),
];

fn packages(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let present = call.flag("present", true);
    let latest = call.flag("latest", false);
    let start_services = call.flag("start_services", false);
    let why = call.opt_text("why");
    if start_services && why.is_none() {
        return Err(starts_without_why(call));
    }
    let mut requests = Vec::new();
    for text in call.texts("packages") {
        match request(&text, present, latest) {
            Ok(request) => requests.push(request),
            Err(message) => call.note_part("packages", &text, call.wrong("packages", message)),
        }
    }
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    requests.sort();
    requests.dedup();
    let names: Vec<&str> = requests.iter().map(|request| request.name.as_str()).collect();
    let title = format!("apt.packages {}", names.join(" "));
    let recommends = call.flag("recommends", false);
    Ok(vec![Step::new(title, Action::AptPackages { packages: requests, recommends, start_services })])
}

pub(super) fn starts_without_why(call: &Call<'_, '_>) -> Diagnostic {
    Diagnostic::error(
        "service-start",
        format!("`{}` starts a service during the bake and does not say why", call.name),
    )
    .help("services are enabled in images and start at boot; if one must run now, add `why = \"…\"`")
}

fn request(text: &str, present: bool, latest: bool) -> Result<PackageRequest, String> {
    let (name, version) = match text.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    };
    let (bare, architecture) = name.split_once(':').unwrap_or((name, "any"));
    let word =
        |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c));
    if bare.len() < 2
        || !word(bare)
        || !word(architecture)
        || !bare.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(format!("`{text}` is not a package's name, or `name=version`"));
    }
    let state = match (version, present, latest) {
        (Some(""), ..) => return Err(format!("`{text}` has no version after the `=`")),
        (Some(_), false, _) => {
            return Err(format!("`{text}` names a version of a package that is to be absent"));
        }
        (Some(_), _, true) => return Err(format!("`{text}` names a version, and `latest` another")),
        (Some(version), ..) => PackageState::Version(version.to_owned()),
        (None, false, _) => PackageState::Absent,
        (None, true, true) => PackageState::Latest,
        (None, true, false) => PackageState::Present,
    };
    Ok(PackageRequest { name: name.to_owned(), state })
}

fn repo(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let recording = call.recording()?;
    let name = call.text("name");
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        || name.is_empty()
        || name.len() > 240
    {
        call.refuse("name", format!("`{name}` cannot name a file: use letters, digits, `-`, `_` and `.`"));
    }
    let keyring = match call.opt_text("key") {
        Some(key) => {
            let (content, file) = call.file_content("key", &key)?;
            let armoured = file.ends_with(".asc") || key.ends_with(".asc");
            let suffix = if armoured { "asc" } else { "gpg" };
            Some((format!("/etc/apt/keyrings/{name}.{suffix}").into(), content))
        }
        None => None,
    };
    let text = match call.opt_text("sources") {
        Some(text) => text,
        None => deb822(call, keyring.as_ref().map(|(path, _): &(camino::Utf8PathBuf, _)| path.as_str()))?,
    };
    let sources = recording.keep_text(text);
    Ok(vec![Step::new(format!("apt.repo {name}"), Action::AptRepo { name, sources, keyring })])
}

fn deb822(call: &Call<'_, '_>, keyring: Option<&str>) -> Result<String, Diagnostic> {
    let uris = call.all_written("uris", written::source);
    let suites = call.all_written("suites", written::suite);
    if uris.is_empty() || suites.is_empty() {
        return Err(Diagnostic::error("argument", "`apt.repo` needs `uris` and `suites`, or `sources`"));
    }
    let flat = suites.iter().all(|suite| suite.ends_with('/'));
    let components = call.all_written("components", written::word);
    let components = if components.is_empty() && !flat { vec!["main".to_owned()] } else { components };
    let mut lines = vec![
        ("Types", "deb".to_owned()),
        ("URIs", uris.join(" ")),
        ("Suites", suites.join(" ")),
        ("Components", components.join(" ")),
        ("Architectures", call.all_written("architectures", written::word).join(" ")),
        ("Signed-By", keyring.unwrap_or_default().to_owned()),
    ];
    lines.retain(|(_, value)| !value.is_empty());
    let mut text: String = lines.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    if let Some(options) = call.json("options") {
        let options =
            options.as_object().ok_or_else(|| call.wrong("options", "expected a dictionary of texts"))?;
        for (key, value) in options {
            let value =
                value.as_str().ok_or_else(|| call.wrong("options", format!("`{key}` is not text")))?;
            text.push_str(&format!("{key}: {value}\n"));
        }
    }
    Ok(text)
}

fn upgrade(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let full = call.flag("full", false);
    let title = if full { "apt.upgrade full" } else { "apt.upgrade" };
    Ok(vec![Step::new(title.to_owned(), Action::AptUpgrade { full })])
}

fn hold(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let mut packages = call.texts("packages");
    packages.sort();
    packages.dedup();
    let held = call.flag("held", true);
    let verb = if held { "apt.hold" } else { "apt.unhold" };
    Ok(vec![Step::new(format!("{verb} {}", packages.join(" ")), Action::AptHold { packages, held })])
}

fn debconf(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let (package, question) = (call.text("package"), call.text("question"));
    let (kind, value) = (call.text("kind"), call.text("value"));
    let title = format!("apt.debconf {question}");
    Ok(vec![Step::new(title, Action::AptDebconf { package, question, kind, value })])
}
