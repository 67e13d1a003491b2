//! What was recorded becomes a declaration, once everything in it is known to fit together.

use std::collections::{BTreeMap, BTreeSet};

use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::settings::did_you_mean;
use olbake_core::span::Span;
use olbake_core::stack::declare::PinnedImage;
use olbake_core::stack::graph::Graph;
use olbake_core::stack::{Declaration, ResourceName, StackName};
use olbake_core::{Digest, ImageRef};

use super::recording::StackRecording;
use crate::plan::unique;
use crate::workspace::Workspace;

type Finished = (Declaration, BTreeMap<StackName, Option<Span>>);

/// The declaration, and where other stacks are read.
pub(crate) fn finish(workspace: &Workspace, recording: StackRecording) -> Result<Finished, Diagnostics> {
    let mut problems = recording.problems.take();
    problems.extend(lost_dependencies(&recording));
    problems.extend(circle(&recording));
    problems.extend(unknown_images(workspace, &recording));
    if !problems.is_empty() {
        problems.sort_by_key(|problem| {
            problem.span.as_ref().map(|span| (span.file.clone(), span.line, span.column))
        });
        return Err(unique(problems));
    }
    let references = recording.references.into_inner();
    let declaration = Declaration {
        stack: recording.stack,
        resources: recording.resources.into_inner(),
        outputs: recording.outputs.into_inner().into_iter().map(|(name, (value, _))| (name, value)).collect(),
        images: recording
            .images
            .into_inner()
            .into_iter()
            .map(|(image, (pinned, _))| pin(image, pinned))
            .collect(),
        references: references.keys().cloned().collect(),
        secrets: recording.secrets,
    };
    Ok((declaration, references))
}

/// A version that nobody looked up has a placeholder.
fn pin(image: ImageRef, pinned: Option<PinnedImage>) -> (ImageRef, PinnedImage) {
    let placeholder = || PinnedImage { digest: placeholder(&image), channel: None };
    let pinned = pinned.unwrap_or_else(placeholder);
    (image, pinned)
}

/// Stands for the version of an image while nobody looks.
pub(crate) fn placeholder(image: &ImageRef) -> Digest {
    Digest::of(format!("unresolved {image}").as_bytes())
}

/// Names in `depends_on` that no resource has.
fn lost_dependencies(recording: &StackRecording) -> Vec<Diagnostic> {
    let names = recording.names.borrow();
    let waits = recording.waits.borrow();
    let lost = waits.iter().filter(|(name, _)| !names.contains_key(name));
    let problem = |(name, place): &(ResourceName, Option<Span>)| {
        let text = format!("`depends_on`: there is no resource `{name}`");
        let mut problem = Diagnostic::error("bad-reference", text).at(place.clone());
        let known: BTreeSet<&str> = names.keys().map(ResourceName::as_str).collect();
        problem.help = did_you_mean(name.as_str(), known.iter().copied());
        problem
    };
    lost.map(problem).collect()
}

/// Resources that wait for each other. Outputs are only had of what is declared, so a circle needs a name as text.
fn circle(recording: &StackRecording) -> Option<Diagnostic> {
    if recording.waits.borrow().is_empty() {
        return None;
    }
    let resources = recording.resources.borrow();
    let nodes =
        resources.iter().map(|one| (one.name.clone(), (one.ty.clone(), one.dependencies()))).collect();
    let found = Graph { nodes }.levels().err()?;
    let place = |name: &ResourceName| recording.names.borrow().get(name).and_then(|places| places[0].clone());
    let names: Vec<&str> = found.iter().chain(found.first()).map(ResourceName::as_str).collect();
    let text = format!("resources depend on each other in a circle: {}", names.join(" → "));
    let mut problem = Diagnostic::error("resource-cycle", text).at(found.first().and_then(place));
    for name in found.iter().skip(1) {
        problem.related.extend(place(name).map(|at| (at, format!("`{name}`"))));
    }
    Some(problem)
}

/// Images whose version nobody looked up must at least be images of the workspace.
fn unknown_images(workspace: &Workspace, recording: &StackRecording) -> Vec<Diagnostic> {
    let images = recording.images.borrow();
    let unresolved = images.iter().filter(|(_, (pinned, _))| pinned.is_none());
    unresolved.filter_map(|(image, (_, at))| unknown_image(workspace, image, at.as_ref())).flatten().collect()
}

fn unknown_image(workspace: &Workspace, image: &ImageRef, at: Option<&Span>) -> Option<Vec<Diagnostic>> {
    let declaration = match workspace.image_named(&image.image, at) {
        Ok(declaration) => declaration,
        Err(problems) => return Some(problems.0),
    };
    let variant = image.variant.as_ref().filter(|variant| !declaration.variants.contains_key(*variant))?;
    let text = format!("the image `{}` has no variant `{variant}`", image.image);
    let mut problem = Diagnostic::error("unknown-variant", text).at(at.cloned());
    problem.help = did_you_mean(variant.as_str(), declaration.variants.keys().map(|name| name.as_str()));
    Some(vec![problem])
}
