//! Workspaces from texts, and diagnostics as texts.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

pub(crate) mod stacks;

use std::fs;

use camino::Utf8Path;
use olbake_core::diagnostic::{Diagnostics, Severity};
use olbake_core::plan::Architecture;
use olbake_lang::{Inputs, Planned, Workspace};
use tempfile::TempDir;

/// A workspace in a folder that goes with it.
pub(crate) struct Made {
    _folder: TempDir,
    pub(crate) workspace: Workspace,
}

/// Writes files and loads them as a workspace.
pub(crate) fn make(files: &[(&str, &str)]) -> Made {
    let folder = tempfile::Builder::new().prefix("lang-").tempdir_in("/var/tmp").unwrap();
    let root = Utf8Path::from_path(folder.path()).unwrap();
    fs::write(root.join("olbake.toml"), "").unwrap();
    for (file, text) in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let workspace = Workspace::load(root).unwrap_or_else(|problems| panic!("{problems}"));
    Made { _folder: folder, workspace }
}

/// A component with these lines, and an image `web` that uses it with these arguments.
#[allow(dead_code, reason = "not every test file needs it")]
pub(crate) fn one(component: &str, arguments: &str) -> Made {
    let image = format!(
        "image(\n    name = \"web\",\n    base = debian(\"bookworm\"),\n    components = [use(\"//components/c\"{arguments})],\n)\n"
    );
    make(&[("components/c/component.star", component), ("images/web/image.star", &image)])
}

pub(crate) fn inputs() -> Inputs {
    Inputs::offline(Architecture::Amd64)
}

/// The plan of `web`.
#[allow(dead_code, reason = "not every test file needs it")]
pub(crate) fn plan(made: &Made, inputs: &Inputs) -> Planned {
    made.workspace.plan(&"web".parse().unwrap(), inputs).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Diagnostics as text: place, message, the line with what is underlined, help.
pub(crate) fn draw(workspace: &Workspace, found: &Diagnostics) -> String {
    let mut text = String::new();
    for one in &found.0 {
        let severity = if one.severity == Severity::Error { "error" } else { "warning" };
        text.push_str(&format!("{severity}[{}]: {}\n", one.code, one.message));
        if let Some(span) = &one.span {
            let source = workspace.source(&span.file).unwrap_or_default();
            let line = source.lines().nth(span.line as usize - 1).unwrap_or_default();
            let end =
                if span.end_line == span.line { span.end_column as usize } else { line.chars().count() + 1 };
            let width = end.saturating_sub(span.column as usize).max(1);
            let indent = line.chars().take_while(|c| c.is_whitespace()).count();
            text.push_str(&format!("  at {}\n  | {}\n", span.location(), line.trim()));
            text.push_str(&format!(
                "  | {}{}\n",
                " ".repeat(span.column as usize - 1 - indent),
                "^".repeat(width)
            ));
        }
        for (span, label) in &one.related {
            text.push_str(&format!("  note: {} {label}\n", span.location()));
        }
        if let Some(help) = &one.help {
            text.push_str(&format!("  help: {help}\n"));
        }
    }
    text
}

/// What planning `web` finds wrong.
#[allow(dead_code, reason = "not every test file needs it")]
pub(crate) fn problems(made: &Made, inputs: &Inputs) -> String {
    match made.workspace.plan(&"web".parse().unwrap(), inputs) {
        Ok(planned) => draw(&made.workspace, &planned.warnings),
        Err(found) => draw(&made.workspace, &found),
    }
}
