//! Two operations of one image that give one path different content.

use std::collections::HashMap;

use camino::Utf8Path;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, Operation, Ownership};
use olbake_core::plan::Plan;
use olbake_core::span::Span;

use crate::finish::{touches, written_path};

/// Who claimed which path so far, and who writes where.
#[derive(Default)]
pub(crate) struct Claims<'a> {
    claimed: HashMap<&'a Utf8Path, (&'a Action, Option<&'a Span>)>,
    written: Vec<(&'a Utf8Path, bool)>,
}

impl<'a> Claims<'a> {
    /// The claims of a base image; they are known to agree.
    pub(crate) fn below(&mut self, plan: &'a Plan) {
        for operation in plan.layers.iter().flat_map(|layer| &layer.operations) {
            self.note(operation);
        }
    }

    fn note(&mut self, operation: &'a Operation) {
        if let Some(path) = operation.action.claimed_path() {
            let claim = (&operation.action, operation.spans.first());
            self.claimed.insert(path, claim);
        }
        if let Some((path, whole)) = written_path(&operation.action) {
            self.written.push((path, whole));
        }
    }

    /// Adds an operation, or says with which earlier one it is at odds.
    pub(crate) fn add(&mut self, operation: &'a Operation, overriding: bool) -> Option<Diagnostic> {
        let earlier = operation.action.claimed_path().and_then(|path| Some((path, self.claimed.get(path)?)));
        let problem = earlier
            .filter(|(_, (action, _))| !overriding && !agree(action, &operation.action))
            .map(|(path, (_, place))| {
                let text = format!("two operations claim `{path}` and differ");
                let problem = Diagnostic::error("path-conflict", text)
                    .at(operation.spans.first().cloned())
                    .help("keep one of them, or add `override = True` to the later");
                match place {
                    Some(place) => problem.related((*place).clone(), "first claimed here"),
                    None => problem,
                }
            });
        self.note(operation);
        problem
    }

    /// A path that a unit follows must be written by some operation.
    pub(crate) fn unknown_path(&self, path: &Utf8Path, span: Option<&Span>) -> Option<Diagnostic> {
        if self.written.iter().any(|(written, whole)| touches(written, *whole, path)) {
            return None;
        }
        let text = format!("no operation of this image writes `{path}`");
        Some(
            Diagnostic::error("unknown-path", text)
                .at(span.cloned())
                .help("name a path that an operation before this one writes"),
        )
    }
}

/// Whether two claims on one path can both hold.
fn agree(one: &Action, other: &Action) -> bool {
    match (one, other) {
        (Action::FileDirectory { ownership: one, .. }, Action::FileDirectory { ownership: other, .. }) => {
            agree_on_ownership(one, other)
        }
        _ => one == other,
    }
}

/// A directory that says nothing of its owner is content with any.
fn agree_on_ownership(one: &Ownership, other: &Ownership) -> bool {
    let Ownership { owner, group, mode } = one;
    let same =
        |one: &Option<String>, other: &Option<String>| one.is_none() || other.is_none() || one == other;
    same(owner, &other.owner)
        && same(group, &other.group)
        && (mode.is_none() || other.mode.is_none() || *mode == other.mode)
}
