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
    /// The directories that something lies below, with where the first of it is declared.
    above: HashMap<&'a Utf8Path, (&'a Utf8Path, Option<&'a Span>)>,
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
            if !matches!(operation.action, Action::FileAbsent { .. }) {
                for ancestor in path.ancestors().skip(1) {
                    self.above.entry(ancestor).or_insert((path, operation.spans.first()));
                }
            }
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
        let problem = problem.or_else(|| self.below_a_file(operation).filter(|_| !overriding));
        self.note(operation);
        problem
    }

    /// A file is no directory: nothing lies below it.
    fn below_a_file(&self, operation: &Operation) -> Option<Diagnostic> {
        let (path, _) = written_path(&operation.action)?;
        let is_file =
            |action: &Action| matches!(action, Action::FilePut { .. } | Action::FileGenerated { .. });
        let gone = matches!(operation.action, Action::FileAbsent { .. });
        let file = path.ancestors().skip(1).filter(|_| !gone).find_map(|ancestor| {
            let (action, place) = self.claimed.get(ancestor)?;
            is_file(action).then_some((path, ancestor, *place, "the file is declared here"))
        });
        let inside = self.above.get(path).filter(|_| is_file(&operation.action));
        let inside =
            inside.map(|(below, place)| (*below, path, *place, "what lies below it is declared here"));
        let (below, file, place, label) = file.or(inside)?;
        let text = format!("`{below}` lies below `{file}`, which is a file");
        let problem = Diagnostic::error("path-conflict", text)
            .at(operation.spans.first().cloned())
            .help("a path is a file or a directory: move one of them");
        Some(match place {
            Some(place) => problem.related(place.clone(), label),
            None => problem,
        })
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
