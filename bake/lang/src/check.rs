//! `olbake check`: every file parsed, every component and image evaluated, everything found reported once.

use std::sync::PoisonError;

use camino::Utf8PathBuf;
use olbake_core::diagnostic::{Diagnostic, Diagnostics, Severity};
use olbake_core::settings::Schema;

use crate::layer::Component;
use crate::plan::{Planner, unique};
use crate::stack::{self, StackInputs};
use crate::values::SettingsData;
use crate::workspace::{Inputs, Workspace};

/// Checks a workspace.
pub(crate) fn check(workspace: &Workspace, inputs: &Inputs, misnamed: &Diagnostics) -> Diagnostics {
    let mut found = misnamed.0.clone();
    found.extend(stack::check(workspace, &StackInputs::offline(inputs)));
    for image in workspace.images() {
        found.extend(workspace.image(&image.image).err().into_iter().flat_map(|problems| problems.0));
    }
    let planner = Planner::new(workspace, inputs);
    found.extend(planner.problems.iter().cloned());
    for (_, planned) in planner.plan_all(&workspace.images()) {
        match planned {
            Ok(planned) => found.extend(planned.warnings.0),
            Err(problems) => found.extend(problems.0),
        }
    }
    let read = planner.read.lock().unwrap_or_else(PoisonError::into_inner);
    for name in workspace.components() {
        match workspace.component(name.as_str(), None) {
            Ok(component) => lint_component(workspace, &component, read.get(&name).copied(), &mut found),
            Err(problems) => found.extend(problems.0),
        }
    }
    found.sort_by(|one, other| {
        let place = |problem: &Diagnostic| {
            problem.span.as_ref().map(|span| (span.file.clone(), span.line, span.column))
        };
        (one.severity, place(one)).cmp(&(other.severity, place(other)))
    });
    unique(found)
}

/// What can be said of a component without an image.
fn lint_component(
    workspace: &Workspace,
    component: &Component,
    read: Option<u64>,
    found: &mut Vec<Diagnostic>,
) {
    let declaration = &component.declaration;
    let schema: &Schema = &declaration.schema;
    let file = component.folder.join("component.star");
    let texts: Vec<_> = std::iter::once(file)
        .chain(templates(workspace, component))
        .filter_map(|file| workspace.sources.text(file.as_str()))
        .collect();
    found.extend(without_doc(schema));
    for (index, (name, field)) in schema.fields.iter().enumerate() {
        // Only a component that some image uses has been seen running; a branch not taken may still name the setting.
        let seen = read.is_none_or(|bits| SettingsData::is_read(bits, index));
        if !seen && !texts.iter().any(|text| text.contains(&format!(".{name}"))) {
            let text = format!("the setting `{}.{name}` is never read", schema.name);
            found.push(
                Diagnostic::warning("setting-never-read", text)
                    .at(field.span.clone())
                    .help("use it, or remove it"),
            );
        }
    }
    let [.., verify, _upgrade] = declaration.phases;
    if !verify && declaration.phases.iter().any(|phase| *phase) {
        let text = format!("the component `{}` has no checks", component.name);
        found.push(
            Diagnostic { severity: Severity::Warning, ..Diagnostic::error("no-checks", text) }
                .at(declaration.span.clone())
                .help("add `verify`: its checks run on a fresh boot before a version exists"),
        );
    }
}

/// Settings that say nothing of what they are for.
pub(crate) fn without_doc(schema: &Schema) -> Vec<Diagnostic> {
    let silent = schema
        .fields
        .iter()
        .filter(|(_, field)| field.doc.as_deref().is_none_or(|doc| doc.trim().is_empty()));
    silent
        .map(|(name, field)| {
            let text = format!("the setting `{}.{name}` says nothing of what it is for", schema.name);
            Diagnostic::warning("setting-without-doc", text).at(field.span.clone()).help("add `doc = \"…\"`")
        })
        .collect()
}

/// The templates of a component, as paths in the workspace.
fn templates(workspace: &Workspace, component: &Component) -> Vec<Utf8PathBuf> {
    let folder = component.folder.join("templates");
    let found = workspace.sources.tree(&folder).unwrap_or_default();
    found.into_iter().map(|(path, _)| folder.join(path)).collect()
}
