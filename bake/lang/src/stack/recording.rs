//! What the run of a stack's function declares. Main type: [`StackRecording`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use camino::Utf8PathBuf;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::secret::{self, MARKER_END, MARKER_START, SecretId};
use olbake_core::settings::did_you_mean;
use olbake_core::span::Span;
use olbake_core::stack::declare::{Declared, PinnedImage};
use olbake_core::stack::value::{self, REFERENCE_END, REFERENCE_START};
use olbake_core::stack::{Catalog, ResourceName, StackName};
use olbake_core::{Digest, ImageRef};
use serde_json::Value as Json;
use starlark::eval::Evaluator;

use super::document::Document;
use super::{ImageOf, OutputsOf};
use crate::fault;

/// Stands for the resources of other stacks while nobody looks at their state.
pub(crate) const ELSEWHERE: &str = "another-stack";

/// A version, absent where nobody looked it up, and where it was asked for.
type AskedImage = (Option<PinnedImage>, Option<Span>);

/// What a stack's function declares while it runs.
pub(crate) struct StackRecording {
    /// The stack.
    pub(crate) stack: StackName,
    /// The project's folder, relative to the workspace.
    pub(crate) folder: Utf8PathBuf,
    /// Pinned images and channels.
    pub(crate) document: Document,
    /// The secrets of the configuration.
    pub(crate) secrets: BTreeMap<SecretId, Digest>,
    /// The types of resources.
    pub(crate) catalog: Arc<Catalog>,
    /// The stacks of the workspace.
    pub(crate) stacks: Arc<BTreeSet<StackName>>,
    /// Answers with the outputs of other stacks.
    pub(crate) outputs_of: OutputsOf,
    /// Answers with the versions of images.
    pub(crate) image_of: ImageOf,
    /// What attributes were asked for in vain.
    pub(crate) missed: Arc<Missed>,
    /// The names of the components that run, joined.
    pub(crate) scope: RefCell<String>,
    pub(crate) resources: RefCell<Vec<Declared>>,
    /// Where each name is declared, and the call of the component that it is in.
    pub(crate) names: RefCell<HashMap<ResourceName, [Option<Span>; 2]>>,
    /// Resources named in `depends_on` by text, with who names them.
    pub(crate) waits: RefCell<Vec<(ResourceName, Option<Span>)>>,
    pub(crate) outputs: RefCell<BTreeMap<String, (Json, Option<Span>)>>,
    /// Images that were asked for; a version that nobody looked up is absent.
    pub(crate) images: RefCell<BTreeMap<ImageRef, AskedImage>>,
    pub(crate) references: RefCell<BTreeMap<StackName, Option<Span>>>,
    pub(crate) problems: RefCell<Vec<Diagnostic>>,
}

impl StackRecording {
    /// Notes a problem; the run goes on, the next call may have one too.
    pub(crate) fn report(&self, problem: Diagnostic) {
        self.problems.borrow_mut().push(problem);
    }

    /// A resource's name with the names of the components around it.
    pub(crate) fn scoped(&self, name: &str) -> String {
        let scope = self.scope.borrow();
        if scope.is_empty() { name.to_owned() } else { format!("{scope}/{name}") }
    }

    /// Takes a name; the error names both places.
    pub(crate) fn take_name(
        &self,
        name: &ResourceName,
        at: Option<&Span>,
        eval: &Evaluator<'_, '_, '_>,
    ) -> Result<(), Diagnostic> {
        let caller = (!self.scope.borrow().is_empty()).then(|| self.caller(eval, at)).flatten();
        let mut names = self.names.borrow_mut();
        let Some([first, first_caller]) = names.get(name) else {
            names.insert(name.clone(), [at.cloned(), caller]);
            return Ok(());
        };
        let text = format!("there are two resources `{name}`");
        let mut problem = Diagnostic::error("duplicate-resource", text).at(at.cloned());
        problem.related.extend(first.clone().map(|first| (first, "first declared here".to_owned())));
        problem.related.extend(first_caller.clone().map(|at| (at, "first called from here".to_owned())));
        problem.related.extend(caller.map(|at| (at, "and called again from here".to_owned())));
        Err(problem.help("names are unique within a stack; give a component another name for each use"))
    }

    /// The innermost call in the project's own file that led to `at`.
    fn caller(&self, eval: &Evaluator<'_, '_, '_>, at: Option<&Span>) -> Option<Span> {
        let file = self.folder.join("stack.star");
        let frames = eval.call_stack().into_frames();
        let locations = frames.into_iter().rev().filter_map(|frame| frame.location);
        let own = locations.map(|location| fault::span(&location)).find(|span| span.file == file);
        own.filter(|span| Some(span) != at)
    }

    /// Refuses markers of secrets and resources that this stack does not have.
    pub(crate) fn known_markers(&self, data: &Json) -> Result<(), String> {
        match data {
            Json::String(text) => self.known_in_text(text),
            Json::Array(items) => items.iter().try_for_each(|item| self.known_markers(item)),
            Json::Object(map) => map.values().try_for_each(|item| self.known_markers(item)),
            _ => Ok(()),
        }
    }

    fn known_in_text(&self, text: &str) -> Result<(), String> {
        // All four markers share their first byte, which little else has.
        if !text.as_bytes().contains(&0xee) {
            return Ok(());
        }
        let mut rest = text.to_owned();
        for id in secret::references(text) {
            if !self.secrets.contains_key(&id) {
                return Err(format!("`{}` is no secret of this stack", id.0));
            }
            rest = rest.replace(&id.marker(), "");
        }
        for reference in value::references(&Json::from(text)) {
            let known = reference.resource.as_str() == ELSEWHERE
                || self.names.borrow().contains_key(&reference.resource);
            if !known {
                return Err(format!("`{}` is no resource of this stack", reference.resource));
            }
            rest = rest.replace(&reference.marker(), "");
        }
        if rest.contains([MARKER_START, MARKER_END, REFERENCE_START, REFERENCE_END]) {
            return Err("a value that is known only after apply, or a secret, was cut into pieces".to_owned());
        }
        Ok(())
    }
}

/// Attributes that a value did not have: the interpreter says only that there is none, and this says why.
#[derive(Debug, Default)]
pub(crate) struct Missed(Mutex<Option<(String, Diagnostic)>>);

impl Missed {
    /// Notes what is wrong with asking for `name`.
    pub(crate) fn note<'a>(
        &self,
        name: &str,
        code: &str,
        message: String,
        known: impl IntoIterator<Item = &'a str> + Clone,
    ) {
        let mut problem = Diagnostic::error(code, message);
        problem.help = did_you_mean(name, known);
        self.keep(name, problem);
    }

    /// Notes a problem with asking for `name`.
    pub(crate) fn keep(&self, name: &str, problem: Diagnostic) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.to_owned(), problem));
    }

    /// The interpreter's error, in the words of what was missed.
    pub(crate) fn explain(&self, error: Diagnostic) -> Diagnostic {
        let missed = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match missed {
            Some((name, problem)) if error.message.contains(&format!("has no attribute `{name}`")) => {
                Diagnostic { span: error.span, related: error.related, ..problem }
            }
            _ => error,
        }
    }
}
