//! `files.*`: files, directories, links, and lines in files of others.

use camino::{Utf8Path, Utf8PathBuf};
use minijinja::value::Value as TemplateValue;
use olbake_core::Digest;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, ArchiveFormat, Content, LinePlace, TreeEntry, TreeEntryKind};
use olbake_core::plan::Payload;
use olbake_core::secret;
use olbake_core::settings::did_you_mean;
use starlark::values::dict::DictRef;
use starlark::values::{Value, ValueLike};

use super::written;
use crate::builtin::{Call, Row, Step, operation};
use crate::sources::Entry;
use crate::template;
use crate::values::{SettingsView, to_json};

pub(super) const TABLE: &[Row] = &[
    operation("files.put", "path src * owner? group? mode? validate? only_if_absent?", put),
    operation("files.template", "path src * vars? owner? group? mode? validate? only_if_absent?", template),
    operation("files.content", "path text * owner? group? mode? validate? only_if_absent?", content),
    operation("files.directory", "path * owner? group? mode? recursive?", directory),
    operation("files.link", "path target * force?", link),
    operation("files.absent", "path", absent),
    operation(
        "files.line",
        "path line * matching? present? after_line? before_line? at_start? validate? create?",
        line,
    ),
    operation(
        "files.block",
        "path text? * name? marker? present? after_line? before_line? at_start? validate? create?",
        block,
    ),
    operation("files.ini", "path section key value? * validate?", ini),
    operation(
        "files.download",
        "path url? sha256? * owner? group? mode? validate? only_if_absent?",
        download,
    ),
    operation("files.archive", "path src? * url? sha256? format? strip? members? owner? group?", archive),
    operation("files.tree", "path src * delete? owner? group?", tree),
    operation("files.generated", "path command * from_stdout? owner? group? mode?", generated),
    operation(
        "files.attributes",
        "path * owner? group? mode? acl? capabilities? immutable? recursive?",
        attributes,
    ),
];

fn put(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let (content, _) = call.file_content("src", &call.text("src"))?;
    file(call, content)
}

fn content(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let text = required(call, "text");
    file(call, call.recording()?.keep_text(text))
}

/// Text that must be given and may have secrets in it.
fn required(call: &Call<'_, '_>, name: &str) -> String {
    call.secret_text(name).unwrap_or_else(|| {
        call.refuse(name, "expected text, found `None`");
        String::new()
    })
}

fn template(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let recording = call.recording()?;
    let name = call.text("src");
    let path = call.session.resolve(recording, &name).map_err(|message| call.wrong("src", message))?;
    let variables = match call.get("vars") {
        Some(value) => variables(call, value)?,
        None => TemplateValue::from_pairs(Vec::<(String, TemplateValue)>::new()),
    };
    let rendered = recording.templates.render(&name, &path, variables).unwrap_or_else(|problems| {
        for (index, problem) in problems.into_iter().enumerate() {
            // A fault inside a template shows the line of the template, and the call that renders it.
            let problem = match (&problem.span, &call.at) {
                (Some(_), Some(at)) => problem.related(at.clone(), "rendered here"),
                _ => problem,
            };
            call.note_part("src", index, problem);
        }
        String::new()
    });
    call.session.known_secrets(&rendered).map_err(|message| call.wrong("vars", message))?;
    file(call, recording.keep_text(rendered))
}

/// The variables of a template: data, and settings as they are.
fn variables(call: &Call<'_, '_>, value: Value<'_>) -> Result<TemplateValue, Diagnostic> {
    let Some(dict) = DictRef::from_value(value) else {
        return Err(call.wrong("vars", format!("expected a dictionary, found `{}`", value.get_type())));
    };
    let mut variables = Vec::with_capacity(dict.len());
    for (key, value) in dict.iter() {
        let key = key.unpack_str().ok_or_else(|| call.wrong("vars", "names of variables are texts"))?;
        let value = match value.downcast_ref::<SettingsView>() {
            Some(view) => TemplateValue::from_object(template::SettingsObject(view.0.clone())),
            None => {
                let data =
                    to_json(value).map_err(|found| call.wrong("vars", format!("`{key}` is {found}")))?;
                template::from_json(&data)
            }
        };
        variables.push((key.to_owned(), value));
    }
    Ok(TemplateValue::from_pairs(variables))
}

fn file(call: &Call<'_, '_>, content: Content) -> Result<Vec<Step>, Diagnostic> {
    let path = call.path("path");
    let action = Action::FilePut {
        content,
        ownership: call.ownership(),
        validate: validate(call),
        only_if_absent: call.flag("only_if_absent", false),
        path,
    };
    Ok(vec![titled(call, action)])
}

/// A command that checks the temporary file; it must say where the file goes.
fn validate(call: &Call<'_, '_>) -> Option<Vec<String>> {
    let argv = call.opt_argv("validate")?;
    if !argv.iter().any(|word| word.contains("%s")) {
        let problem = call.wrong("validate", "the command does not name the file to check");
        call.note("validate", problem.help("write `%s` where the file's path goes"));
    }
    Some(argv)
}

fn titled(call: &Call<'_, '_>, action: Action) -> Step {
    let path = match &action {
        Action::FileLine { path, .. }
        | Action::FileBlock { path, .. }
        | Action::FileIni { path, .. }
        | Action::FileArchive { path, .. }
        | Action::FileTree { path, .. }
        | Action::FileAttributes { path, .. } => Some(path.as_path()),
        other => other.claimed_path(),
    };
    Step::new(format!("{} {}", call.name, path.unwrap_or(Utf8Path::new(""))), action)
}

fn directory(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let recursive = call.flag("recursive", false);
    let action = Action::FileDirectory { path: call.path("path"), ownership: call.ownership(), recursive };
    Ok(vec![titled(call, action)])
}

fn link(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let target = Utf8PathBuf::from(call.text("target"));
    let action = Action::FileLink { path: call.path("path"), target, force: call.flag("force", false) };
    Ok(vec![titled(call, action)])
}

fn absent(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let path = call.path("path");
    if path == "/" {
        call.refuse("path", "the whole machine cannot be absent");
    }
    Ok(vec![titled(call, Action::FileAbsent { path })])
}

fn place(call: &Call<'_, '_>) -> Result<LinePlace, Diagnostic> {
    let (after, before) = (call.opt_text("after_line"), call.opt_text("before_line"));
    match (after, before, call.flag("at_start", false)) {
        (Some(after), None, false) => Ok(LinePlace::After(after)),
        (None, Some(before), false) => Ok(LinePlace::Before(before)),
        (None, None, true) => Ok(LinePlace::Start),
        (None, None, false) => Ok(LinePlace::End),
        _ => Err(Diagnostic::error("argument", "give one of `after_line`, `before_line` and `at_start`")),
    }
}

fn line(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let line = required(call, "line");
    if line.contains('\n') {
        call.note("line", call.wrong("line", "expected one line").help("several lines are a `files.block`"));
    }
    let mut secrets = secret::references(&line);
    secrets.sort();
    secrets.dedup();
    let action = Action::FileLine {
        path: call.path("path"),
        line,
        matching: call.opt_regex("matching"),
        present: call.flag("present", true),
        place: place(call)?,
        validate: validate(call),
        create: call.flag("create", false),
        secrets,
    };
    Ok(vec![titled(call, action)])
}

fn block(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let present = call.flag("present", true);
    let content = match (call.secret_text("text"), present) {
        (Some(text), true) => {
            let text = if text.is_empty() || text.ends_with('\n') { text } else { text + "\n" };
            Some(call.recording()?.keep_text(text))
        }
        (None, true) => {
            call.refuse("text", "expected the lines of the block");
            None
        }
        (_, false) => None,
    };
    let name = call.opt_text("name").unwrap_or_else(|| {
        call.recording().map_or_else(|_| String::new(), |recording| recording.component())
    });
    let marker = call.opt_text("marker").unwrap_or_else(|| "# {mark} olbake: {name}".to_owned());
    if !marker.contains("{mark}") {
        call.refuse("marker", "expected `{mark}` where BEGIN and END go");
    }
    let marker = marker.replace("{name}", &name);
    let action = Action::FileBlock {
        path: call.path("path"),
        begin: marker.replace("{mark}", "BEGIN"),
        end: marker.replace("{mark}", "END"),
        content,
        place: place(call)?,
        validate: validate(call),
        create: call.flag("create", false),
    };
    Ok(vec![titled(call, action)])
}

fn ini(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let action = Action::FileIni {
        path: call.path("path"),
        section: call.text("section"),
        key: call.text("key"),
        value: call.opt_text("value"),
        validate: validate(call),
    };
    Ok(vec![titled(call, action)])
}

/// The content of a URL, by its required checksum.
fn remote(call: &Call<'_, '_>, url: &str) -> Result<Content, Diagnostic> {
    let fine = url.starts_with("https://") || url.starts_with("http://");
    if !fine || url.contains(char::is_whitespace) {
        call.refuse("url", format!("expected an `https://` URL, found `{url}`"));
    }
    let help = "download it once, run `sha256sum`, and write the 64 digits as `sha256 = \"…\"`";
    let Some(sum) = call.opt_text("sha256") else {
        let text = format!("`{}` has no checksum: what it downloads could change under it", call.name);
        return Err(Diagnostic::error("missing-checksum", text).help(help));
    };
    let digest = Digest::from_hex(sum.strip_prefix("sha256:").unwrap_or(&sum)).map_err(|_| {
        let found = format!("expected 64 hexadecimal digits, found {} characters", sum.chars().count());
        Diagnostic { code: "missing-checksum".to_owned(), ..call.wrong("sha256", found) }.help(help)
    })?;
    Ok(call.recording()?.keep(digest, Payload::Url { url: url.to_owned() }))
}

fn download(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let content = remote(call, &call.text("url"))?;
    file(call, content)
}

fn archive(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let (content, name) = match (call.opt_text("src"), call.opt_text("url")) {
        (Some(src), None) => (call.file_content("src", &src)?.0, src),
        (None, Some(url)) => (remote(call, &url)?, url),
        _ => return Err(Diagnostic::error("argument", "`files.archive` takes `src`, or `url` and `sha256`")),
    };
    let members = call.texts("members").into_iter().map(Utf8PathBuf::from).collect();
    let action = Action::FileArchive {
        path: call.path("path"),
        content,
        format: format(call, &name)?,
        strip: call.opt_number("strip").unwrap_or(0),
        members,
        owner: call.opt_account("owner"),
        group: call.opt_account("group"),
    };
    Ok(vec![titled(call, action)])
}

const FORMATS: [(&str, ArchiveFormat); 9] = [
    ("tar.gz", ArchiveFormat::TarGz),
    ("tgz", ArchiveFormat::TarGz),
    ("tar.zst", ArchiveFormat::TarZst),
    ("tar.zstd", ArchiveFormat::TarZst),
    ("tzst", ArchiveFormat::TarZst),
    ("tar.xz", ArchiveFormat::TarXz),
    ("txz", ArchiveFormat::TarXz),
    ("tar", ArchiveFormat::Tar),
    ("zip", ArchiveFormat::Zip),
];

fn format(call: &Call<'_, '_>, name: &str) -> Result<ArchiveFormat, Diagnostic> {
    if let Some(given) = call.opt_text("format") {
        return FORMATS.iter().find(|(known, _)| *known == given).map(|(_, format)| *format).ok_or_else(
            || {
                let mut problem = call.wrong("format", format!("there is no format `{given}`"));
                problem.help = did_you_mean(&given, FORMATS.iter().map(|(known, _)| *known));
                problem
            },
        );
    }
    let name = name.split(['?', '#']).next().unwrap_or(name).to_lowercase();
    FORMATS
        .iter()
        .find(|(suffix, _)| name.ends_with(&format!(".{suffix}")))
        .map(|(_, format)| *format)
        .ok_or_else(|| {
            call.wrong("format", format!("the name `{name}` does not say the archive's format"))
                .help("add `format = \"tar.gz\"`, `\"tar.zst\"`, `\"tar.xz\"`, `\"tar\"` or `\"zip\"`")
        })
}

fn tree(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let recording = call.recording()?;
    let src = call.text("src");
    let folder = call.session.resolve(recording, &src).map_err(|message| call.wrong("src", message))?;
    let found = call.session.sources.tree(&folder).map_err(|message| call.missing_file("src", message))?;
    let mut entries = Vec::with_capacity(found.len());
    for (path, entry) in found {
        let kind = match entry {
            Entry::Directory { mode } => TreeEntryKind::Directory { mode },
            Entry::Link { target } => TreeEntryKind::Link { target },
            Entry::File { mode } => {
                let file = folder.join(&path);
                let (digest, size) = call
                    .session
                    .sources
                    .digest(&file)
                    .map_err(|message| call.missing_file("src", message))?;
                TreeEntryKind::File {
                    content: recording.keep(digest, Payload::File { path: file, size }),
                    mode,
                }
            }
        };
        entries.push(TreeEntry { path, kind });
    }
    let action = Action::FileTree {
        path: call.path("path"),
        entries,
        delete: call.flag("delete", false),
        owner: call.opt_account("owner"),
        group: call.opt_account("group"),
    };
    Ok(vec![titled(call, action)])
}

fn generated(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let from_stdout = call.flag("from_stdout", false);
    let argv = call.argv("command");
    if !from_stdout && !argv.iter().any(|word| word.contains("%s")) {
        let problem = call.wrong("command", "the command does not name the file to make");
        call.note("command", problem.help("write `%s` where the file's path goes, or `from_stdout = True`"));
    }
    let action =
        Action::FileGenerated { path: call.path("path"), argv, from_stdout, ownership: call.ownership() };
    Ok(vec![titled(call, action)])
}

fn attributes(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let action = Action::FileAttributes {
        path: call.path("path"),
        ownership: call.ownership(),
        acl: call.all_written("acl", written::acl),
        capabilities: call.opt_written("capabilities", written::capabilities),
        immutable: call.opt_flag("immutable"),
        recursive: call.flag("recursive", false),
    };
    Ok(vec![titled(call, action)])
}
